"""What an encode aims at: a quantiser, a rate, or a distance from the source."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Protocol

from hybridprompt.encode.base import BaseEncoder, BaseGop, GivenKeyframe, Variant
from hybridprompt.encode.blocks import BLOCK_LOG2
from hybridprompt.encode.gate import GopDecision
from hybridprompt.encode.rate_control import (
    STEERED_CRF_RANGE,
    GopAnalysis,
    RateControl,
    crf_at,
    quantise_crf,
    relative_log_bytes,
)
from hybridprompt.encode.settings import RATE_TOLERANCE
from hybridprompt.encode.worth import WORTH_OF_BYTES
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.picture import Picture

_FIRST_REPEATS, _LAST_REPEATS = 2, 3
_QUICK_FIRST_REPEATS, _QUICK_LAST_REPEATS = 1, 2
_FAR_OFF = 1.0
"""Difference in CRF from which on the first GOP of several is worth another encode."""

_NEAR, _NEAR_OF_MANY = 0.004, 0.025
"""Relative error of a video's rate that its last GOP is left with; the same where quick ones precede it."""

_LEAP = 0.025
"""A still's bytes change in leaps of this much of its GOP's, and more."""

_USUAL_ANCHORS, _USUAL_ANCHOR_BYTES, _USUAL_BLOCK_BYTES = 3.3, 36, 0.12
"""Of the prompts of a GOP: their number, and the bytes of one without its gate, and of each block of that."""

_USUAL_ADAPTER_BYTES = 450

_FIRST_QUALITY_CRF = 60.0
_QUALITY_REPEATS = 3
_QUALITY_NEAR, _QUALITY_TOLERANCE = 0.02, 0.05
_FIRST_GAIN = -0.08
"""Change of the log of the distance by prompts, until some are known."""

_LEAST_DISTANCE = 1e-3
"""A base that is nearer to its source tells nothing of what prompts gain."""


@dataclass(frozen=True)
class GopResult:
    """A finished GOP: its packets with prompts, of which nothing is kept here once they are on disk.

    base_bytes: what was known before its prompts were decided; still_bytes of them are of the keyframe's
    prompt, for the still.
    """

    packets: Sequence[CodedPacket]
    base_bytes: int
    prompt_bytes: int
    decision: GopDecision
    crf: float
    variant: Variant
    still_bytes: int = 0


def usual_prompt_bytes(
    width: int, height: int, block_log2: int = BLOCK_LOG2, *, with_adapter: bool = False
) -> int:
    """Bytes of the prompts of a usual GOP of pictures of this size in luma samples.

    block_log2: of their gates; blocks of half the size take twice the bytes in all.
    """
    blocks = -(-width >> BLOCK_LOG2) * -(-height >> BLOCK_LOG2)
    gate_bytes = _USUAL_BLOCK_BYTES * blocks * 2.0 ** (BLOCK_LOG2 - block_log2)
    adapter_bytes = _USUAL_ADAPTER_BYTES if with_adapter else 0
    return round(_USUAL_ANCHORS * (_USUAL_ANCHOR_BYTES + gate_bytes)) + adapter_bytes


class Target(Protocol):
    """Steers the CRF of every GOP.  Calls for one GOP come in this order, never from two threads at once."""

    def crf_for(self, gop: int, pictures: list[Picture]) -> float:
        """Where to begin."""

    def settled(self, gop: int, base: BaseGop) -> BaseGop:
        """The base that suits the target best: this one, or a further encode."""

    def expect(self, gop: int, base: BaseGop) -> None:
        """Take note of the base that is kept, coarser than the settled one where the buffer wants it so; its
        prompts are still to be decided.
        """

    def limited(self, gop: int) -> None:
        """Take note that the buffer has no room for a GOP as fine as the target wants it."""

    def record(self, gop: int, result: GopResult) -> None:
        """Take note of a finished GOP."""

    def error(self) -> float:
        """How far the video is from its target, as it is recorded; 0 is on it."""

    def correction(self) -> tuple[int, float] | None:
        """A finished GOP that should be encoded again, and its new CRF."""

    def note(self) -> str | None:
        """What a user should know about a target that was missed."""


class CrfTarget:
    """The same CRF for all."""

    def __init__(self, crf: float) -> None:
        self._crf = crf

    def crf_for(self, gop: int, pictures: list[Picture]) -> float:
        return self._crf

    def settled(self, gop: int, base: BaseGop) -> BaseGop:
        return base

    def expect(self, gop: int, base: BaseGop) -> None:
        pass

    def limited(self, gop: int) -> None:
        pass

    def record(self, gop: int, result: GopResult) -> None:
        pass

    def error(self) -> float:
        return 0.0

    def correction(self) -> tuple[int, float] | None:
        return None

    def note(self) -> str | None:
        return None


class RateTarget:
    """The rate of the whole video track, by RateControl."""

    def __init__(
        self, encoder: BaseEncoder, kbps: float, analyses: Sequence[GopAnalysis], first_prompt_bytes: float
    ) -> None:
        """first_prompt_bytes: of the prompts of a GOP, until some are known."""
        seconds = sum(analysis.duration_seconds for analysis in analyses)
        self._encoder = encoder
        settings = encoder.settings
        # Stills leap in their bytes, and x264 and x265 are quick: there the rate is worth more encodes.
        usual = (settings.mode, settings.codec) == ("enhance", "av1")
        self._quick = settings.effort.quick and usual
        self._limited = False
        """Whether a GOP had to be coarser than the rate asked for."""
        self.control = RateControl(kbps * 125 * seconds, analyses, first_prompt_bytes)

    def crf_for(self, gop: int, pictures: list[Picture]) -> float:
        if gop == 0 and self.control.probed is None:
            probe_crf = quantise_crf(self.control.common_crf())
            size_bytes = self._encoder.analysis_bytes(pictures, probe_crf, threads=2)
            self.control.probe(gop, probe_crf, size_bytes)
        return self.control.crf_for_gop(gop)

    def settled(self, gop: int, base: BaseGop) -> BaseGop:
        """Encode a GOP again where that pays: the first if the model was off, which only it can show, and the
        last until the whole video meets its rate, which only it still can.
        """
        last = gop == len(self.control.analyses) - 1
        near = _NEAR_OF_MANY if self._quick and gop else _NEAR
        # Another still may have been tried before, whose bytes tell nothing of this one's.
        self.control.forget(gop)
        errors = {base.crf: self._error_with(gop, base)}
        nearest, nearest_error = base, abs(errors[base.crf])
        held, has_still = False, last and isinstance(base.variant, GivenKeyframe)
        for _ in range(self._repeats(gop)):
            # With a still on either side of the rate, or near it, only the other pictures can meet it.
            between = min(errors.values()) < 0 < max(errors.values())
            leap = _LEAP * nearest.size_bytes / self.control.target_bytes
            if has_still and not held and (between or nearest_error <= leap):
                held, base = True, nearest
                self.control.forget(gop)
                errors = {base.crf: self._error_with(gop, base)}
            wanted = self.control.crf_for_gop(gop)
            done = abs(errors[base.crf]) <= near if last else abs(wanted - base.crf) <= _FAR_OFF
            if done or wanted in errors:
                break
            base = self._encoder.again(base, wanted, hold_still=held)
            errors[wanted] = self._error_with(gop, base)
            # A GOP that others follow has the CRF that they begin with, whatever its own bytes.
            if not last or abs(errors[wanted]) < nearest_error:
                nearest, nearest_error = base, abs(errors[wanted])
        return nearest

    def _repeats(self, gop: int) -> int:
        """How often a GOP may be encoded again."""
        gops = len(self.control.analyses)
        # A quick encode shall not become a slow one.  Of a single GOP nothing else brings it to its rate.
        quick = self._quick and gops > 1
        if gop == gops - 1:
            return min(_QUICK_LAST_REPEATS, gops // 2) if quick else _LAST_REPEATS
        if gop == 0:
            return _QUICK_FIRST_REPEATS if quick else _FIRST_REPEATS
        return 0

    def _error_with(self, gop: int, base: BaseGop) -> float:
        self.control.expect(gop, base.crf, base.size_bytes)
        return self.control.error

    def expect(self, gop: int, base: BaseGop) -> None:
        self.control.expect(gop, base.crf, base.size_bytes)

    def limited(self, gop: int) -> None:
        self._limited = True

    def record(self, gop: int, result: GopResult) -> None:
        self.control.record(gop, result.crf, result.base_bytes, result.prompt_bytes)

    def error(self) -> float:
        return abs(self.control.error)

    def correction(self) -> tuple[int, float] | None:
        return self.control.correction(RATE_TOLERANCE)

    def note(self) -> str | None:
        error = self.control.error
        if abs(error) <= RATE_TOLERANCE:
            return None
        bound = STEERED_CRF_RANGE[1 if error > 0 else 0]
        if all(crf == bound for crf, _, _ in self.control.spent.values()):
            why = "out of the codec's reach here"
        elif self._limited and error < 0:
            why = "the maximum rate holds it down"
        else:
            why = "the video is too short to steer"
        return f"the rate is {100 * error:+.1f} % off its target: {why}"


@dataclass
class QualityTarget:
    """The same distance from the source in every GOP, as the judge sees it, with prompts."""

    encoder: BaseEncoder
    distance: float
    _known: dict[int, dict[float, float]] = field(default_factory=dict)
    """GOP -> CRF -> log of the base's distance."""
    _gains: dict[int, float] = field(default_factory=dict)
    """GOP -> change of the log of its distance by its prompts."""
    _results: dict[int, tuple[float, float]] = field(default_factory=dict)
    """GOP -> CRF, and log of the distance over the target."""
    _limited: set[int] = field(default_factory=set)
    _crf: float = _FIRST_QUALITY_CRF

    def crf_for(self, gop: int, pictures: list[Picture]) -> float:
        return self._crf

    def settled(self, gop: int, base: BaseGop) -> BaseGop:
        tried = {base.crf: base}
        # Another still may have been tried before.
        self._known.pop(gop, None)
        for repeat in range(_QUALITY_REPEATS + 1):
            measured = math.log(max(self.encoder.distance(base), 1e-9))
            self._known.setdefault(gop, {})[base.crf] = measured
            wanted = self._crf_wanted(gop)
            near = abs(measured - self._base_aim(gop)) <= _QUALITY_NEAR
            if near or wanted in tried or repeat == _QUALITY_REPEATS:
                break
            base = tried[wanted] = self.encoder.again(base, wanted)
        known, aim = self._known[gop], self._base_aim(gop)
        return tried[min(tried, key=lambda crf: abs(known[crf] - aim))]

    def _base_aim(self, gop: int) -> float:
        """Log of the distance that the base of a GOP may have."""
        # Not the mean: what one odd GOP gains says nothing about the others.
        usual = median(self._gains.values()) if self._gains else _FIRST_GAIN
        return math.log(self.distance) - self._gains.get(gop, usual)

    def _crf_wanted(self, gop: int) -> float:
        """CRF at which the base of a GOP is expected to have the distance it may have."""
        known, aim = sorted(self._known[gop].items()), self._base_aim(gop)
        finer = [pair for pair in known if pair[1] <= aim]
        coarser = [pair for pair in known if pair[1] > aim]
        if finer and coarser and finer[-1][0] < coarser[0][0]:
            (low, start), (high, end) = finer[-1], coarser[0]
            return quantise_crf(low + (high - low) * (aim - start) / (end - start))
        nearest, at = min(known, key=lambda pair: abs(pair[1] - aim))
        level = relative_log_bytes(nearest) - (aim - at) / WORTH_OF_BYTES
        return crf_at(level)

    def expect(self, gop: int, base: BaseGop) -> None:
        self._crf = base.crf

    def limited(self, gop: int) -> None:
        self._limited.add(gop)

    def record(self, gop: int, result: GopResult) -> None:
        decision = result.decision
        measured, before = max(decision.distance, 1e-9), max(decision.base_distance, 1e-9)
        self._known.setdefault(gop, {})[result.crf] = math.log(before)
        if before >= _LEAST_DISTANCE:
            self._gains[gop] = math.log(measured / before)
        self._results[gop] = result.crf, math.log(measured / self.distance)

    def error(self) -> float:
        return fmean(abs(error) for _, error in self._results.values()) if self._results else 0.0

    def correction(self) -> tuple[int, float] | None:
        for gop, (crf, error) in sorted(self._results.items(), key=lambda pair: -abs(pair[1][1])):
            wanted = self._crf_wanted(gop)
            # What is known and was not kept did not help.
            if abs(error) > _QUALITY_TOLERANCE and wanted != crf and wanted not in self._known[gop]:
                return gop, wanted
        return None

    def note(self) -> str | None:
        # Better than asked for, and no coarser CRF left, is no miss.
        coarsest = STEERED_CRF_RANGE[1]
        missed = [
            gop
            for gop, (crf, error) in self._results.items()
            if abs(error) > _QUALITY_TOLERANCE and not (error < 0 and crf == coarsest)
        ]
        if not missed:
            return None
        limited = sum(gop in self._limited and self._results[gop][1] > 0 for gop in missed)
        why = f": the maximum rate holds {limited} down" if limited else ""
        count, gops = len(missed), len(self._results)
        return f"{count} of {gops} GOPs miss the distance by more than {_QUALITY_TOLERANCE:.0%}{why}"
