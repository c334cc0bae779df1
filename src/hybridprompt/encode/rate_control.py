"""Chooses the CRF of every GOP so that the whole video track meets its rate.

An analysis pass tells how many bytes each GOP takes relative to the others: SVT-AV1 at its fastest useful
preset, at two CRFs, of pictures of half the width and height.  That costs a tenth of an encode and tells as
much as full size: bytes at preset 5 over bytes of the analysis differ by some 5 % between the GOPs of a
video, but by a factor of two between videos.  So a probe of the first GOP at full size fixes the scale, and
the real encodes calibrate the model further as they come.  Of a GOP that has been encoded more than once, its
own bytes tell the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

CRF_STEP = 1 / 32
STEERED_CRF_RANGE = (4.0, 73.0)
ANALYSIS_CRFS = (38.0, 55.0)

_SVT_CRF_STEP = 0.25
_SVT_MAX_CRF = 70.0

_SHAPE = (
    (55.0, 0.0),
    (58.0, -0.22),
    (60.0, -0.40),
    (61.0, -0.545),
    (62.0, -0.74),
    (62.75, -0.865),
    (63.0, -1.015),
    (64.0, -1.16),
    (66.0, -1.4),
    (70.0, -1.87),
    (STEERED_CRF_RANGE[1], -2.22),
)
"""Log of the bytes at a CRF over those at the coarse analysis point; clips and tunes are alike in it."""

_USUAL_SLOPE = -0.057
"""Of the analysis's log bytes, per CRF; clips that fall faster there do so beyond, but half as much."""

_FIRST_LOG_RATIO = math.log(3.0)
"""Real bytes over the analysis's, at equal CRF, until something real is known."""

_PROBE_LOG_RATIO = (
    (47.5, 0.0),
    (60.0, 0.23),
    (62.0, 0.3),
    (63.0, 0.35),
    (64.0, 0.3),
    (70.0, 0.16),
)
"""Log of real bytes over a probe's of full size, by CRF: means of clips, which differ by some 0.1."""

_LAMBDA_ELASTICITY = 0.24
"""By how much the log of the bytes falls as that of the Lagrange multipliers rises."""

_MAX_DRIFT = 1.5
"""How far, in CRF, one GOP may be from the video's common quality."""

_TRUSTED_SLOPES = (0.5, 1.6)
"""Measured log bytes over the model's, from one CRF to another, that are taken to hold beyond both."""


@dataclass(frozen=True)
class GopAnalysis:
    """Analysis bytes of one GOP at the two ANALYSIS_CRFS, and its duration."""

    fine_bytes: int
    coarse_bytes: int
    duration_seconds: float

    def log_bytes(self, crf: float) -> float:
        """Log of the bytes at ``crf``: by the line through both points, and the usual curve beyond them."""
        low, high = ANALYSIS_CRFS
        fine, coarse = math.log(max(self.fine_bytes, 1)), math.log(max(self.coarse_bytes, 1))
        slope = min((coarse - fine) / (high - low), -0.02)
        if crf <= high:
            return coarse + slope * (crf - high)
        tilt = min(max(math.sqrt(slope / _USUAL_SLOPE), 0.6), 1.5)
        return coarse + tilt * relative_log_bytes(crf)


def relative_log_bytes(crf: float) -> float:
    """Log of the bytes that a usual clip takes at a CRF over those at the coarse analysis point."""
    if crf <= _SHAPE[0][0]:
        return _USUAL_SLOPE * (crf - _SHAPE[0][0])
    return _along(_SHAPE, crf)


def _along(points: Sequence[tuple[float, float]], crf: float) -> float:
    """Value at a CRF of the line through points in order of their CRF; level beyond both ends."""
    for (low, start), (high, end) in pairwise(points):
        if crf <= high:
            return start + (end - start) * max(crf - low, 0.0) / (high - low)
    return points[-1][1]


def quantise_crf(crf: float) -> float:
    """Nearest CRF that is told apart; see ``svt_quality``."""
    return min(max(round(crf / CRF_STEP) * CRF_STEP, STEERED_CRF_RANGE[0]), STEERED_CRF_RANGE[1])


def coarser_crf(crf: float, share: float) -> float:
    """CRF above ``crf`` at which a usual clip takes a share of the bytes, below 1."""
    level = relative_log_bytes(crf) + math.log(share)
    return max(crf_at(level), quantise_crf(crf + CRF_STEP))


def crf_at(level: float) -> float:
    """CRF at which a usual clip has those relative log bytes."""
    return quantise_crf(_crf_where(relative_log_bytes, level))


def _crf_where(falling: Callable[[float], float], value: float) -> float:
    """CRF at which a function that falls with it has a value; the nearer end of the range where none has."""
    low, high = STEERED_CRF_RANGE
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > value else (low, middle)
    return (low + high) / 2


def svt_quality(crf: float) -> tuple[float, float]:
    """CRF that SVT-AV1 takes, and factor of its Lagrange multipliers, that together stand for any CRF.

    SVT-AV1's steps are a quarter, up to 70: up to 7 % of the bytes, too coarse for a short video.
    """
    nearest = min(round(crf / _SVT_CRF_STEP) * _SVT_CRF_STEP, _SVT_MAX_CRF)
    return nearest, math.exp((relative_log_bytes(nearest) - relative_log_bytes(crf)) / _LAMBDA_ELASTICITY)


@dataclass
class RateControl:
    """Plans and follows the bytes of a video.

    target_bytes: of the whole video track, prompts included.  first_prompt_bytes: what the prompts of a GOP
    are expected to take until some are known.
    """

    target_bytes: float
    analyses: Sequence[GopAnalysis]
    first_prompt_bytes: float = 150.0
    spent: dict[int, tuple[float, int, int]] = field(default_factory=dict)
    """GOP -> (CRF, base bytes, prompt bytes)."""
    probed: float | None = None
    """Log of real bytes over model bytes, as the probe lets expect."""
    _measured: dict[int, dict[float, float]] = field(default_factory=dict)
    """GOP -> CRF -> log of the base's bytes, of every encode so far."""

    def probe(self, gop: int, crf: float, size_bytes: int) -> None:
        """Tell what a GOP took at full size, at the analysis's preset."""
        real = math.log(max(size_bytes, 1)) + _along(_PROBE_LOG_RATIO, crf)
        self.probed = real - self.analyses[gop].log_bytes(crf)

    def _log_ratio(self) -> float:
        """Mean log of real bytes over model bytes so far, weighted by bytes."""
        if not self.spent:
            return _FIRST_LOG_RATIO if self.probed is None else self.probed
        weights = [base for _, base, _ in self.spent.values()]
        ratios = [
            math.log(max(base, 1)) - self.analyses[i].log_bytes(crf)
            for i, (crf, base, _) in self.spent.items()
        ]
        return sum(w * r for w, r in zip(weights, ratios, strict=True)) / max(sum(weights), 1)

    def _log_bytes(self, gop: int, crf: float, ratio: float) -> float:
        """Log of a GOP's base bytes at ``crf``: between its own encodes if there are any, else by the model.

        ratio: of other GOPs' real bytes to the model's, as a log.
        """
        model = self.analyses[gop].log_bytes
        known = sorted(self._measured.get(gop, {}).items())
        if not known:
            return model(crf) + ratio
        if len(known) == 1:
            return known[0][1] + model(crf) - model(known[0][0])
        after = min(max(sum(at <= crf for at, _ in known), 1), len(known) - 1)
        (start, first), (end, last) = known[after - 1], known[after]
        slope = (last - first) / (model(end) - model(start))
        if not start <= crf <= end:
            slope = min(max(slope, _TRUSTED_SLOPES[0]), _TRUSTED_SLOPES[1])
        origin, value = (start, first) if crf <= end else (end, last)
        return value + slope * (model(crf) - model(origin))

    def _prompt_bytes(self, gop: int) -> float:
        """Expected prompt bytes of a GOP that is not coded yet."""
        if not self.spent:
            return self.first_prompt_bytes
        return sum(p for _, _, p in self.spent.values()) / len(self.spent)

    def _crf_for(self, gops: Sequence[int], budget_bytes: float) -> float:
        """Common CRF at which the model gives ``gops`` the budget."""
        ratio = self._log_ratio()

        def total_bytes(crf: float) -> float:
            return sum(math.exp(self._log_bytes(gop, crf, ratio)) for gop in gops)

        return _crf_where(total_bytes, budget_bytes)

    def common_crf(self) -> float:
        """CRF at which, by all that is known, the whole video meets its target."""
        everything = list(range(len(self.analyses)))
        prompts = sum(self.spent[i][2] if i in self.spent else self._prompt_bytes(i) for i in everything)
        return self._crf_for(everything, max(self.target_bytes - prompts, 1.0))

    def crf_for_gop(self, gop: int) -> float:
        """CRF for a GOP: what the budget asks for that the others leave, near the common quality."""
        rest = [i for i in range(len(self.analyses)) if i not in self.spent or i == gop]
        used = sum(base + prompt for i, (_, base, prompt) in self.spent.items() if i != gop)
        budget = self.target_bytes - used - sum(self._prompt_bytes(i) for i in rest)
        wanted = self._crf_for(rest, max(budget, 1.0))
        common = self.common_crf()
        return quantise_crf(min(max(wanted, common - _MAX_DRIFT), common + _MAX_DRIFT))

    def record(self, gop: int, crf: float, base_bytes: int, prompt_bytes: int) -> None:
        """Tell what a GOP really took."""
        self._measured.setdefault(gop, {})[crf] = math.log(max(base_bytes, 1))
        self.spent[gop] = (crf, base_bytes, prompt_bytes)

    def forget(self, gop: int) -> None:
        """Forget what a GOP took: it is coded in another way from now on."""
        self._measured.pop(gop, None)
        self.spent.pop(gop, None)

    def expect(self, gop: int, crf: float, base_bytes: int) -> None:
        """Tell what a GOP's base took, its prompts still to be decided."""
        self.spent.pop(gop, None)
        self.record(gop, crf, base_bytes, round(self._prompt_bytes(gop)))

    @property
    def error(self) -> float:
        """Relative deviation of the coded video from its target; positive is too much."""
        return sum(b + p for _, b, p in self.spent.values()) / self.target_bytes - 1

    def correction(self, tolerance: float) -> tuple[int, float] | None:
        """GOP to encode again and its new CRF, or None when within ``tolerance`` or nothing helps."""
        if abs(self.error) <= tolerance:
            return None
        excess = self.error * self.target_bytes
        common = self.common_crf()
        best: tuple[float, int, float] | None = None
        for gop, (crf, base, _) in self.spent.items():
            wanted = base - excess
            for step in range(-32, 33):
                candidate = quantise_crf(crf + step / 8)
                predicted = math.exp(self._log_bytes(gop, candidate, 0.0))
                if candidate == crf or abs(candidate - common) > 2 * _MAX_DRIFT:
                    continue
                # Bytes missed, and a price on being unlike the others.
                cost = abs(predicted - wanted) + 0.01 * self.target_bytes * abs(candidate - common)
                if best is None or cost < best[0]:
                    best = (cost, gop, candidate)
        return None if best is None else (best[1], best[2])
