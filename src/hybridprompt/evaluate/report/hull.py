"""The best that a family of methods reaches on a clip: which scale or variant is best depends on the rate."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hybridprompt.evaluate.report.load import OURS, PEER, RATE_TOLERANCE, Record, Run
from hybridprompt.evaluate.report.metrics import PRIMARY, ordered, quality


@dataclass(frozen=True)
class Point:
    """A record as a point of rate against one metric."""

    record: Record
    rate_kbps: float
    value: float


def points(records: Iterable[Record], metric: str) -> list[Point]:
    """The records that have the metric, by rising rate."""
    found = [Point(r, r.rate_kbps, r.metrics[metric]) for r in records if metric in r.metrics]
    return sorted(found, key=lambda p: (p.rate_kbps, p.record.method, p.record.target_kbps))


def hull(records: Iterable[Record], metric: str) -> list[Point]:
    """The hull of one clip's records: by rising rate, and getting better with every step.

    A point is left out where another one is at least as good at no higher rate, or where the curve of
    another method (straight between its points, over the logarithm of the rate) is better at its rate.  The
    second keeps points of inferior methods out that only lie between two target rates because no encode
    meets its target to the byte.  A method's own points are never left out for lying inside its own curve.
    """
    found = points(records, metric)
    curves: dict[str, list[Point]] = {}
    for point in found:
        curves.setdefault(point.record.method, []).append(point)
    front: list[Point] = []
    # At equal rates the best comes first.
    for point in sorted(found, key=lambda p: (p.rate_kbps, -quality(metric, p.value))):
        mine = quality(metric, point.value)
        if front and mine <= quality(metric, front[-1].value):
            continue
        others = (curve for method, curve in curves.items() if method != point.record.method)
        if any(_quality_at(curve, point.rate_kbps, metric) > mine for curve in others):
            continue
        front.append(point)
    return front


def best(records: Iterable[Record], metric: str = PRIMARY) -> Record | None:
    """The best of records for one clip and target rate; those that spent more than the target go last.

    One that missed the rate from below counts as it is: it is good in spite of fewer bytes, and to prefer one
    that met the rate would put a worse peer in its place.  Where none has the metric, another one decides, in
    the order of the report; None without any.
    """
    candidates = list(records)
    measured = {name for record in candidates for name in record.metrics}
    if metric not in measured:
        if not measured:
            return None
        metric = ordered(measured)[0]
    having = [record for record in candidates if metric in record.metrics]
    return min(
        having,
        key=lambda r: (_spent_more(r), -quality(metric, r.metrics[metric]), r.rate_kbps, r.method),
    )


def _spent_more(record: Record) -> bool:
    return record.rate_error > RATE_TOLERANCE


@dataclass(frozen=True)
class Pair:
    """One method of ours beside the peer: the best SVT-AV1 variant in LPIPS-Alex at the same target rate."""

    ours: Record
    peer: Record

    @property
    def clip(self) -> str:
        return self.ours.clip

    @property
    def target_kbps(self) -> float:
        return self.ours.target_kbps

    @property
    def matched(self) -> bool:
        return self.ours.matched and self.peer.matched


def pairs(run: Run, method: str | None = None) -> list[Pair]:
    """All pairs of the run, or those of one of our methods."""
    out = []
    for record in run.select(family=OURS, method=method):
        peer = best(run.select(clip=record.clip, family=PEER, target_kbps=record.target_kbps))
        if peer is not None:
            out.append(Pair(record, peer))
    return out


@dataclass(frozen=True)
class RateStep:
    """The n-th target rate of every clip: clips of different sizes are measured at rates of their own."""

    number: int
    targets: dict[str, float]

    @property
    def label(self) -> str:
        low, high = min(self.targets.values()), max(self.targets.values())
        return f"{low:g} kbit/s" if low == high else f"{low:g} to {high:g} kbit/s"


def rate_steps(run: Run) -> list[RateStep]:
    """The steps over which means are taken.

    The n-th target rates of all clips make a step.  Where some clips have fewer rates than others, rates that
    all clips share do; if there are none, the lowest ones, as many as every clip has.
    """
    by_clip = {clip: run.targets(clip) for clip in run.clips}
    counts = {len(targets) for targets in by_clip.values()}
    shared = sorted(set.intersection(*(set(targets) for targets in by_clip.values())))
    if len(counts) > 1 and shared:
        return [RateStep(number, dict.fromkeys(by_clip, target)) for number, target in enumerate(shared)]
    return [
        RateStep(number, {clip: targets[number] for clip, targets in by_clip.items()})
        for number in range(min(counts))
    ]


@dataclass(frozen=True)
class MeanPoint:
    """Means over all clips at one rate step."""

    step: RateStep
    rate_kbps: float
    value: float


def mean_curve(run: Run, family: str, metric: str) -> list[MeanPoint]:
    """The mean over all clips of a family's best at every step; steps that lack a clip are left out."""
    out = []
    for step in rate_steps(run):
        chosen = []
        for clip, target in step.targets.items():
            candidates = run.select(clip=clip, family=family, target_kbps=target)
            record = best((r for r in candidates if metric in r.metrics), metric)
            if record is not None:
                chosen.append(record)
        if len(chosen) == len(step.targets):
            rates, values = [r.rate_kbps for r in chosen], [r.metrics[metric] for r in chosen]
            out.append(MeanPoint(step, math.fsum(rates) / len(rates), math.fsum(values) / len(values)))
    return out


def _quality_at(curve: Sequence[Point], rate_kbps: float, metric: str) -> float:
    """Quality of a curve between its points; minus infinity outside of them."""
    for left, right in itertools.pairwise(curve):
        if left.rate_kbps <= rate_kbps <= right.rate_kbps:
            span = math.log(right.rate_kbps / left.rate_kbps)
            share = math.log(rate_kbps / left.rate_kbps) / span if span > 0 else 1.0
            low, high = quality(metric, left.value), quality(metric, right.value)
            return low + share * (high - low)
    return -math.inf
