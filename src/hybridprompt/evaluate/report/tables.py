"""The report's tables, as text in cells: HTML and Markdown both draw them from here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hybridprompt.evaluate.report.cells import Cell, Mood, Table
from hybridprompt.evaluate.report.hull import Pair, RateStep, pairs, rate_steps
from hybridprompt.evaluate.report.load import OURS, RATE_TOLERANCE, Record, Run
from hybridprompt.evaluate.report.metrics import (
    PRIMARY,
    ordered,
    show,
    show_change,
    signed,
    verdict,
    with_direction,
)

_MOODS: Mapping[int, Mood] = {1: "gain", 0: "", -1: "loss"}


def headline(run: Run) -> Table:
    """Means over the clips, per rate step and method of ours, against each clip's best SVT-AV1 variant."""
    metrics = ordered(run.metrics)
    rows = []
    notes: list[str] = []
    for step in rate_steps(run):
        for method in run.methods(OURS):
            found = _pairs_of_step(run, method, step)
            if not found:
                continue
            rows.append(
                [
                    Cell(step.label),
                    Cell(method),
                    Cell(f"{len(found)} of {len(run.clips)}"),
                    Cell(_arrow(_mean(p.peer.rate_kbps for p in found), _mean(_our_rates(found)))),
                    *(_mean_cell(found, metric) for metric in metrics),
                    _wins(found),
                ]
            )
    if not rows:
        notes.append("There is no result of ours with a peer beside it: no means.")
    columns = [
        "target", "method", "clips", "kbit/s: peer → ours", *map(with_direction, metrics),
        f"wins in {PRIMARY}",
    ]  # fmt: skip
    return Table("Means over the clips: best SVT-AV1 variant → ours", columns, rows, notes, 2)


def pair_table(run: Run) -> Table:
    """Every clip and rate: the peer and ours."""
    metrics = ordered(run.metrics)
    rows = [
        [
            Cell(pair.clip),
            Cell(f"{pair.target_kbps:g}"),
            Cell(pair.ours.method),
            Cell(pair.peer.method),
            Cell(_arrow(pair.peer.rate_kbps, pair.ours.rate_kbps), "" if pair.matched else "note"),
            *(_pair_cell(pair, metric) for metric in metrics),
        ]
        for pair in pairs(run)
    ]
    columns = ["clip", "target", "ours", "peer", "kbit/s", *map(with_direction, metrics)]
    notes = [
        f"The peer is the SVT-AV1 variant and scale with the best {PRIMARY} on that clip at that target "
        "rate, so which one it is may change from row to row."
    ]
    return Table("Every clip and rate: best SVT-AV1 variant → ours", columns, rows, notes if rows else (), 4)


def result_table(run: Run) -> Table:
    """Every record with all its metrics."""
    metrics = ordered(run.metrics)
    rows = [
        [
            Cell(record.clip),
            Cell(f"{record.target_kbps:g}"),
            Cell(record.method),
            _rate_cell(record),
            Cell("" if record.parameter is None else f"{record.parameter:g}"),
            *(
                Cell(show(metric, record.metrics[metric]) if metric in record.metrics else "")
                for metric in metrics
            ),
        ]
        for record in run.records
    ]
    columns = ["clip", "target", "method", "kbit/s", "parameter", *map(with_direction, metrics)]
    return Table("All results", columns, rows, (), 3)


def failure_table(run: Run) -> Table:
    """What could not be measured, and why."""
    rows = [
        [Cell(r.clip), Cell(f"{r.target_kbps:g}"), Cell(r.method), Cell(r.error or "", "loss")]
        for r in run.failures
    ]
    return Table("Failures", ["clip", "target", "method", "error"], rows, (), 4)


def missing_metrics_table(run: Run) -> Table:
    """Metrics that results lack, and why."""
    counts: dict[tuple[str, str, str], int] = {}
    for record in run.records:
        for metric, why in record.missing.items():
            counts[metric, record.method, why] = counts.get((metric, record.method, why), 0) + 1
    rows = [
        [Cell(metric), Cell(method), Cell(why, "note"), Cell(str(count))]
        for (metric, method, why), count in sorted(counts.items())
    ]
    return Table("Metrics that results lack", ["metric", "method", "because", "results"], rows, (), 3)


def rate_table(run: Run) -> Table:
    """Results whose rate is not the one that was asked for."""
    rows = [
        [
            Cell(r.clip),
            Cell(r.method),
            Cell(f"{r.target_kbps:g}"),
            Cell(f"{r.rate_kbps:.1f}"),
            Cell(f"{signed(100 * r.rate_error, 1)} %", "note"),
        ]
        for r in run.records
        if not r.matched
    ]
    met = len(run.records) - len(rows)
    note = f"{met} of {len(run.records)} results are within {100 * RATE_TOLERANCE:g} % of their target rate."
    return Table("Rates not met", ["clip", "method", "target", "kbit/s", "off by"], rows, [note], 2)


def settings_table(settings: Mapping[str, Any]) -> Table:
    """Nested settings, one row each."""
    rows = [[Cell(name), Cell(value)] for name, value in flatten(settings)]
    return Table("Settings of the run", ["setting", "value"], rows, (), 2)


def method_settings_table(run: Run) -> Table:
    """Per method, the settings that all its results share, and the names of those in which they differ."""
    rows = []
    for method in run.methods():
        flat = [dict(flatten(r.settings)) for r in run.select(method=method)]
        names = list(dict.fromkeys(name for one in flat for name in one))
        shared = [n for n in names if len({one.get(n) for one in flat}) == 1]
        differing = [n for n in names if n not in shared]
        text = "; ".join(f"{name} = {flat[0][name]}" for name in shared)
        if differing:
            text += f"; per result: {', '.join(differing)}"
        rows.append([Cell(method), Cell(text.removeprefix("; "))])
    return Table("Settings of the methods", ["method", "settings"], rows, (), 2)


def flatten(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, text)."""
    out: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            out += flatten(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
            out.append((prefix + name, text))
    return out


def sentences(run: Run) -> list[str]:
    """What the numbers say, the bad ones too."""
    out = []
    if run.failures:
        total = len(run.records) + len(run.failures)
        out.append(f"Failed: {len(run.failures)} of {total} results; the means are without them.")
    for clip, names in _sampled_otherwise(run).items():
        out.append(f"{clip}: {PRIMARY} of {', '.join(names)} is over other frames than that of the others.")
    missing = run.missing()
    if missing:
        out.append(f"Not measured: {len(missing)} combinations of clip, method and rate.")
    for method in run.methods(OURS):
        found = pairs(run, method)
        if not found:
            out.append(f"{method}: there is no SVT-AV1 beside it to compare with.")
            continue
        out += _sentences_of(method, found)
    return out


def _sampled_otherwise(run: Run) -> dict[str, list[str]]:
    """Per clip, methods measured on other frames than most are: their means do not compare exactly."""
    out = {}
    for clip in run.clips:
        by_frames: dict[tuple[int, ...], set[str]] = {}
        for record in run.select(clip=clip):
            frames = tuple(frame for frame, _ in record.per_frame.get(PRIMARY, ()))
            if frames:
                by_frames.setdefault(frames, set()).add(record.method)
        usual = max(by_frames, key=lambda frames: (len(by_frames[frames]), frames), default=())
        others = sorted({m for frames, methods in by_frames.items() if frames != usual for m in methods})
        if others:
            out[clip] = others
    return out


def _sentences_of(method: str, found: Sequence[Pair]) -> Iterable[str]:
    yield f"{method} against the best SVT-AV1 variant of every clip and rate (comparisons: {len(found)}):"
    for metric in ordered({m for p in found for m in p.ours.metrics if m in p.peer.metrics}):
        both = [p for p in found if metric in p.ours.metrics and metric in p.peer.metrics]
        verdicts = [verdict(metric, p.ours.metrics[metric], p.peer.metrics[metric]) for p in both]
        base, ours = (_mean(r.metrics[metric] for r in side) for side in _sides(both))
        yield (
            f"{metric}: better in {verdicts.count(1)}, level in {verdicts.count(0)}, worse in "
            f"{verdicts.count(-1)} of {len(both)}; mean {show(metric, base)} → {show(metric, ours)} "
            f"({show_change(metric, ours, base)})."
        )
    unmatched = sum(not pair.matched for pair in found)
    if unmatched:
        yield (
            f"In {unmatched} of them one of the two is more than {100 * RATE_TOLERANCE:g} % off the target "
            "rate."
        )


def _sides(found: Sequence[Pair]) -> tuple[list[Record], list[Record]]:
    return [p.peer for p in found], [p.ours for p in found]


def _pairs_of_step(run: Run, method: str, step: RateStep) -> list[Pair]:
    return [p for p in pairs(run, method) if step.targets.get(p.clip) == p.target_kbps]


def _our_rates(found: Iterable[Pair]) -> Iterable[float]:
    return (pair.ours.rate_kbps for pair in found)


def _mean_cell(found: Sequence[Pair], metric: str) -> Cell:
    both = [p for p in found if metric in p.ours.metrics and metric in p.peer.metrics]
    if not both:
        return Cell("")
    base, ours = (_mean(r.metrics[metric] for r in side) for side in _sides(both))
    fewer = f" [{len(both)} clips]" if len(both) < len(found) else ""
    cell = _change_cell(metric, base, ours)
    return Cell(cell.text + fewer, cell.mood)


def _pair_cell(pair: Pair, metric: str) -> Cell:
    base, ours = pair.peer.metrics.get(metric), pair.ours.metrics.get(metric)
    if base is None or ours is None:
        return Cell("")
    return _change_cell(metric, base, ours)


def _change_cell(metric: str, base: float, ours: float) -> Cell:
    text = f"{show(metric, base)} → {show(metric, ours)} ({show_change(metric, ours, base)})"
    return Cell(text, _MOODS[verdict(metric, ours, base)])


def _wins(found: Sequence[Pair]) -> Cell:
    both = [p for p in found if PRIMARY in p.ours.metrics and PRIMARY in p.peer.metrics]
    wins = sum(verdict(PRIMARY, p.ours.metrics[PRIMARY], p.peer.metrics[PRIMARY]) > 0 for p in both)
    return Cell(f"{wins} of {len(both)}" if both else "")


def _rate_cell(record: Record) -> Cell:
    text = f"{record.rate_kbps:.1f}"
    return Cell(text) if record.matched else Cell(f"{text} ({signed(100 * record.rate_error, 1)} %)", "note")


def _arrow(peer_kbps: float, our_kbps: float) -> str:
    return f"{peer_kbps:.1f} → {our_kbps:.1f}"


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return math.fsum(found) / len(found)
