"""Chooses the CRF of every GOP so that the whole video track meets its rate.

An analysis pass tells how many bytes each GOP takes relative to the others: SVT-AV1 at its fastest useful
preset, at two CRFs, of pictures of half the width and height.  That costs a tenth of an encode and tells as
much as full size: bytes at preset 5 over bytes of the analysis differ by some 5 % between the GOPs of a
video, but by a factor of two between videos.  So a probe of the first GOP at full size fixes the scale, and
the real encodes calibrate the model further as they come.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

CRF_STEP = 0.25
CRF_RANGE = (4.0, 70.0)
ANALYSIS_CRFS = (38.0, 55.0)

_STEEP = ((58.0, -0.12), (62.0, -0.14), (66.0, -0.175), (CRF_RANGE[1] + 1, -0.19))
"""Slope of the log of the bytes up to a CRF, from the coarse analysis point on; all clips are alike in it."""

_FIRST_LOG_RATIO = math.log(3.4)
"""Real bytes over the analysis's, at equal CRF, until something real is known."""

_PROBE_LOG_RATIO = 0.34
"""Real bytes over a probe's, which is of full size, at equal CRF: two CRF steps' worth."""

_MAX_DRIFT = 1.5
"""How far, in CRF, one GOP may be from the video's common quality."""


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
        value, start = coarse, high
        for end, steepness in _STEEP:
            value += steepness * (min(crf, end) - start)
            if crf <= end:
                break
            start = end
        return value


def quantise_crf(crf: float) -> float:
    """Nearest CRF that SVT-AV1 takes."""
    return min(max(round(crf / CRF_STEP) * CRF_STEP, CRF_RANGE[0]), CRF_RANGE[1])


@dataclass
class RateControl:
    """Plans and follows the bytes of a video.

    target_bytes: of the whole video track, prompts included.
    """

    target_bytes: float
    analyses: Sequence[GopAnalysis]
    spent: dict[int, tuple[float, int, int]] = field(default_factory=dict)
    """GOP -> (CRF, base bytes, prompt bytes)."""
    probed: float | None = None
    """Log of real bytes over model bytes, as the probe lets expect."""

    def probe(self, gop: int, crf: float, size_bytes: int) -> None:
        """Tell what a GOP took at full size, at the analysis's preset."""
        self.probed = math.log(max(size_bytes, 1)) + _PROBE_LOG_RATIO - self.analyses[gop].log_bytes(crf)

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

    def _prompt_bytes(self, gop: int) -> float:
        """Expected prompt bytes of a GOP that is not coded yet."""
        if not self.spent:
            return 150.0
        return sum(p for _, _, p in self.spent.values()) / len(self.spent)

    def _crf_for(self, gops: Sequence[int], budget_bytes: float) -> float:
        """Common CRF at which the model gives ``gops`` the budget."""
        ratio = self._log_ratio()
        low, high = CRF_RANGE
        for _ in range(40):
            middle = (low + high) / 2
            total = sum(math.exp(self.analyses[i].log_bytes(middle) + ratio) for i in gops)
            low, high = (middle, high) if total > budget_bytes else (low, middle)
        return (low + high) / 2

    def common_crf(self) -> float:
        """CRF at which, by all that is known, the whole video meets its target."""
        everything = list(range(len(self.analyses)))
        prompts = sum(self.spent[i][2] if i in self.spent else self._prompt_bytes(i) for i in everything)
        return self._crf_for(everything, max(self.target_bytes - prompts, 1.0))

    def crf_for_gop(self, gop: int) -> float:
        """CRF for the next GOP: what the remaining budget asks for, near the common quality."""
        rest = [i for i in range(len(self.analyses)) if i not in self.spent]
        used = sum(base + prompt for _, base, prompt in self.spent.values())
        budget = self.target_bytes - used - sum(self._prompt_bytes(i) for i in rest)
        wanted = self._crf_for(rest, max(budget, 1.0))
        common = self.common_crf()
        return quantise_crf(min(max(wanted, common - _MAX_DRIFT), common + _MAX_DRIFT))

    def record(self, gop: int, crf: float, base_bytes: int, prompt_bytes: int) -> None:
        """Tell what a GOP really took."""
        self.spent[gop] = (crf, base_bytes, prompt_bytes)

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
            analysis = self.analyses[gop]
            for step in range(-16, 17):
                candidate = quantise_crf(crf + step * CRF_STEP)
                predicted = base * math.exp(analysis.log_bytes(candidate) - analysis.log_bytes(crf))
                if candidate == crf or abs(candidate - common) > 2 * _MAX_DRIFT:
                    continue
                # Bytes missed, and a price on being unlike the others.
                cost = abs(predicted - wanted) + 0.01 * self.target_bytes * abs(candidate - common)
                if best is None or cost < best[0]:
                    best = (cost, gop, candidate)
        return None if best is None else (best[1], best[2])
