"""The tables of BD-rates, against the hull of SVT-AV1 and against its default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hybridprompt.evaluate.report.bd import (
    MIN_OVERLAP,
    MIN_POINTS,
    WEAK_OVERLAP,
    BdRate,
    bd_rate,
    mean_bd_rate,
)
from hybridprompt.evaluate.report.cells import Cell, Mood, Table
from hybridprompt.evaluate.report.hull import Point, hull
from hybridprompt.evaluate.report.load import OURS, PEER, Run
from hybridprompt.evaluate.report.metrics import ordered, signed, with_direction


@dataclass(frozen=True)
class Contender:
    """A row of the BD-rate tables: a family's hull, or one method."""

    name: str
    family: str
    method: str | None = None

    def curve(self, run: Run, clip: str, metric: str) -> list[Point]:
        return hull(run.select(clip=clip, family=self.family, method=self.method), metric)


def contenders(run: Run) -> list[Contender]:
    """Our methods one by one, then the families; a hull where a family has several methods."""
    out = [Contender(method, OURS, method) for method in run.methods(OURS)]
    for family in run.families:
        methods = run.methods(family)
        if len(methods) > 1:
            out.append(Contender(f"{family}, best of {len(methods)}", family))
        elif family != OURS:
            out.append(Contender(methods[0], family, methods[0]))
    return out


def bd_tables(run: Run) -> list[Table]:
    """BD-rates against the hull of SVT-AV1, and its default at full size: means, then clip by clip."""
    known = contenders(run)
    anchors = [one for one in known if one.family == PEER]
    if not anchors:
        return [Table("BD-rate", ["method"], [], ["No result of SVT-AV1 to compare with."])]
    plain = [r for r in run.select(family=PEER) if r.variant == "default" and r.scale == "1"]
    if plain and anchors[0].method is None:
        anchors.append(Contender(plain[0].method, PEER, plain[0].method))
    out = []
    for anchor in anchors:
        tests = [one for one in known if one != anchor and (one.family != PEER or anchor.method is not None)]
        if tests:
            out += _bd_of_anchor(run, anchor, tests)
    return out


def _bd_of_anchor(run: Run, anchor: Contender, tests: Sequence[Contender]) -> list[Table]:
    metrics = ordered(run.metrics)
    clips = run.clips
    found = {
        (test.name, clip, metric): bd_rate(
            anchor.curve(run, clip, metric), test.curve(run, clip, metric), metric
        )
        for test in tests
        for clip in clips
        for metric in metrics
    }
    mean_rows = [
        [
            Cell(test.name),
            *(_mean_bd_cell([found[test.name, clip, metric] for clip in clips]) for metric in metrics),
        ]
        for test in tests
    ]
    clip_rows = [
        [Cell(clip), Cell(test.name), *(_bd_cell(found[test.name, clip, metric]) for metric in metrics)]
        for clip in clips
        for test in tests
    ]
    notes = [
        "Negative: less rate for the same value of the metric.  Piecewise cubic interpolation (PCHIP) of the "
        f"logarithm of the rate, inside the measured range only: a number needs {MIN_POINTS} points of each, "
        f"and {100 * MIN_OVERLAP:g} % common range of the metric; below {100 * WEAK_OVERLAP:g} % it says how "
        "much."
    ]
    columns = [with_direction(metric) for metric in metrics]
    return [
        Table(f"BD-rate against {anchor.name}, mean over clips", ["method", *columns], mean_rows, notes, 1),
        Table(f"BD-rate against {anchor.name}, clip by clip", ["clip", "method", *columns], clip_rows, (), 2),
    ]


def _bd_mood(percent: float) -> Mood:
    return "gain" if percent <= -0.5 else "loss" if percent >= 0.5 else ""


def _bd_cell(found: BdRate) -> Cell:
    if found.percent is None:
        return Cell(found.reason or "", "note")
    weak = found.overlap is not None and found.overlap < WEAK_OVERLAP
    text = f"{signed(found.percent, 1)} %"
    if weak and found.overlap is not None:
        text += f" (over {100 * found.overlap:.0f} %)"
    return Cell(text, _bd_mood(found.percent))


def _mean_bd_cell(found: Sequence[BdRate]) -> Cell:
    mean = mean_bd_rate(found)
    if mean.percent is None:
        return Cell("no number", "note")
    few = "" if mean.clips == mean.of_clips else f" ({mean.clips} of {mean.of_clips} clips)"
    return Cell(f"{signed(mean.percent, 1)} %{few}", _bd_mood(mean.percent))
