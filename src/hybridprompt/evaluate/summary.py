"""Means over clips of an evaluation's results, and the best scale of every family."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hybridprompt.evaluate.compare import HIGHER_IS_BETTER
from hybridprompt.evaluate.records import Record

HULL_METRIC = "LPIPS-Alex"
BASELINE_FAMILY = "svt-av1"


def rate_indices(records: Iterable[Record]) -> dict[tuple[str, float], int]:
    """The place of a rate among those of its clip, from 0 for the lowest, by clip and target."""
    rates: dict[str, set[float]] = {}
    for record in records:
        rates.setdefault(record["clip"], set()).add(record["target_kbps"])
    return {(clip, rate): i for clip, all_ in rates.items() for i, rate in enumerate(sorted(all_))}


def hulls(records: Sequence[Record]) -> list[Record]:
    """Per family with several scales or variants, clip and rate: its best result by LPIPS-Alex.

    The copies are called ``FAMILY (hull)``; ``hull_of`` names the method that was best.
    """
    out: list[Record] = []
    families: dict[str, set[str]] = {}
    groups: dict[tuple[str, str, float], list[Record]] = {}
    for record in records:
        families.setdefault(record["family"], set()).add(record["scale"])
        if HULL_METRIC in record["metrics"]:
            groups.setdefault((record["family"], record["clip"], record["target_kbps"]), []).append(record)
    for (family, _, _), group in groups.items():
        if len(families[family]) > 1:
            best = min(group, key=lambda r: r["metrics"][HULL_METRIC])
            out.append({**best, "method": f"{family} (hull)", "hull_of": best["method"]})
    return out


@dataclass(frozen=True)
class Row:
    """Means of one method at one place among the rates, over the clips where it has results.

    relative: change against the best result of SVT-AV1 in percent, by metric.
    """

    rate_index: int
    method: str
    clips: int
    kbps: float
    unmatched: int
    values: dict[str, float]
    relative: dict[str, float]


def rows(records: Sequence[Record], metrics: Sequence[str]) -> list[Row]:
    """One row per place among the rates and method, hulls included, where there is any result."""
    indices = rate_indices(records)
    good = [r for r in records if r["error"] is None]
    good += hulls(good)
    groups: dict[tuple[int, str], list[Record]] = {}
    for record in good:
        place = indices[record["clip"], record["target_kbps"]]
        groups.setdefault((place, record["method"]), []).append(record)
    order = {method: i for i, method in enumerate(dict.fromkeys(r["method"] for r in good))}
    out = []
    for (place, method), group in sorted(groups.items(), key=lambda item: (item[0][0], order[item[0][1]])):
        values = {m: _mean([r["metrics"][m] for r in group if m in r["metrics"]]) for m in metrics}
        relative = {m: _relative(group, good, m) for m in metrics}
        out.append(
            Row(
                place,
                method,
                len(group),
                sum(r["actual_kbps"] for r in group) / len(group),
                sum(not r["matched"] for r in group),
                {m: v for m, v in values.items() if v is not None},
                {m: v for m, v in relative.items() if v is not None},
            )
        )
    return out


def best_baseline(records: Iterable[Record], clip: str, target_kbps: float, metric: str) -> float | None:
    """The best value that any variant and scale of SVT-AV1 has for a clip at a rate."""
    values: list[float] = [
        r["metrics"][metric]
        for r in records
        if r["family"] == BASELINE_FAMILY
        and (r["clip"], r["target_kbps"]) == (clip, target_kbps)
        and metric in r["metrics"]
    ]
    if not values:
        return None
    return max(values) if metric in HIGHER_IS_BETTER else min(values)


def _relative(group: Sequence[Record], records: Sequence[Record], metric: str) -> float | None:
    """Mean over clips of the change in percent."""
    changes = []
    for record in group:
        base = best_baseline(records, record["clip"], record["target_kbps"], metric)
        if base and metric in record["metrics"]:
            changes.append(100 * (record["metrics"][metric] / base - 1))
    return _mean(changes)


def _mean(values: Sequence[Any]) -> float | None:
    return sum(values) / len(values) if values else None
