"""Keyframes of mode `replace`: a still in the prompt, and what the generator makes of it.

Note [Open and closed loop]: *closed loop*, the other pictures are coded against the generated keyframe, so
the encoder sees what it predicts from, and spends bits to take away detail that is wrong.  *Open loop*, they
are coded against the still as it is, and generation happens behind the encoder's back: its detail rides along
where nothing is coded.

Note [Stills at equal bytes]: with stills of several sizes a GOP takes unlike bytes at one CRF, and what those
would change elsewhere in it differs between GOPs, between stills of one GOP, and along its rate, by a factor
of three: enough to make the one still right or the other.  So with each still but the usual one the GOP is
encoded once more, at a CRF where it takes about as many bytes as with the usual one, at its target.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

from hybridprompt.decode.still import DecodedStill
from hybridprompt.encode.base import BaseEncoder, BaseGop, GivenKeyframe
from hybridprompt.encode.cached_generator import CachedGenerator
from hybridprompt.encode.rate_control import crf_at, quantise_crf, relative_log_bytes
from hybridprompt.encode.recent import LastTwo
from hybridprompt.encode.settings import SVT_TUNES, EncodeSettings
from hybridprompt.encode.still_encoder import encode_still
from hybridprompt.generator.base import Generator
from hybridprompt.prompt.gate import GateMap
from hybridprompt.prompt.sections import MAX_QUANTISER, Still, build_prompt
from hybridprompt.prompt.syntax import MAX_PROMPT_BYTES, encode_prompt
from hybridprompt.video.av1_encoder import CRF_RANGE
from hybridprompt.video.picture import Picture
from hybridprompt.video.scaling import scaled

_MAX_STILL_BYTES: Final = MAX_PROMPT_BYTES - (1 << 17) - (1 << 14)
"""What a prompt has room for beside the largest gate, an adapter and headers."""

_SMALLER: Final = 4.0
"""Step in CRF where a still is too large for its prompt."""

STILL_CRF_OFFSET = -16.0
"""Of a still's CRF from its GOP's.  All else is predicted from it: a third of the bytes is well spent."""


_LEAST_CHANGE: Final = 0.03
"""In log bytes; two encodes of a GOP that are nearer tell nothing."""

_MATCHES: Final = 3
"""How often a GOP is encoded to meet the bytes that it has with another still."""

_LEAST_SLOPE: Final = -0.025
"""Of log bytes per CRF; where they fall by less, a step would be a leap."""

_WORTHS: Final = (0.2, 3.0)

_NEARLY_COARSEST: Final = 68.0
_STEEPER: Final = 3.0
"""Beyond that CRF the other pictures' bytes hardly fall any more; a still's, by this many CRF for one, do."""

_LEGACY_CRFS: Final = tuple(float(crf) for crf in range(8, 71, 2))
_SHRINKS: Final = (1, 2, 4, 8, 16)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GivenKeyframes:
    """Makes them for the GOPs of one encode.  generator: remembering what it has made pays."""

    settings: EncodeSettings
    generator: Generator
    _last: LastTwo[tuple[int | None, float], tuple[Still, DecodedStill]] = field(
        default_factory=LastTwo, repr=False
    )

    def make(self, picture: Picture, crf: float, variant: GivenKeyframe) -> tuple[Still, Picture]:
        """The still of a source picture, and the picture that the others are coded against.

        crf: of the GOP, on SVT-AV1's scale.  Raises CodecError, GeneratorError.
        """
        coarser = _STEEPER * max(crf - _NEARLY_COARSEST, 0.0)
        still_crf = crf + STILL_CRF_OFFSET + variant.still_offset + coarser
        still, decoded = self._coded(picture, round(still_crf, 2))
        planes = decoded.planes
        if variant.gate is not None:
            generator = self.generator
            if variant.adapter is not None:
                generator = generator.adapted(variant.adapter.values)
            planes = generator.generate(
                planes,
                quantiser=min(max(decoded.base_q_idx + variant.quantiser_offset, 0), MAX_QUANTISER),
                strengths=variant.gate.strengths(),
                block_size=variant.gate.block_size,
            )
        return still, replace(picture, y=planes[0], u=planes[1], v=planes[2])

    def _coded(self, picture: Picture, crf: float) -> tuple[Still, DecodedStill]:
        """The still at a CRF of its own, or above it where it is too large for its prompt."""

        def code() -> tuple[Still, DecodedStill]:
            effort, tune = self.settings.effort, SVT_TUNES[self.settings.tune]
            tried = crf
            made = encode_still(picture, tried, preset=effort.svt_preset, tune=tune)
            while len(made[0].data) > _MAX_STILL_BYTES and tried < CRF_RANGE[1]:
                tried += _SMALLER
                made = encode_still(picture, tried, preset=effort.svt_preset, tune=tune)
            return made

        return self._last.get((picture.pts, crf), code)

    def showing(self, still: Still, picture: Picture) -> bytes:
        """The prompt that shows a still as it is, for a picture of that size.  Raises BitstreamError."""
        size = picture.width, picture.height
        gate = GateMap.uniform(*size, index=0)
        return encode_prompt(build_prompt(self.generator.identity, *size, None, gate, still))


@dataclass
class GivenKeyframeEncoder(BaseEncoder):
    """A BaseEncoder of mode `replace`.  generator: the one that prompts name."""

    generator: Generator | None = None
    _legacy: LastTwo[int | None, bytes | None] = field(default_factory=LastTwo, repr=False)
    _without_legacy: set[int | None] = field(default_factory=set, repr=False)
    """First pts of the GOPs for which none fits."""

    def best(self, pictures: list[Picture], crf: float) -> BaseGop:
        """Encode a GOP with a still of the usual size."""
        return self.encode(pictures, crf, GivenKeyframe(self.settings.effort.still_offsets[0]))

    def other_still(self, base: BaseGop) -> BaseGop | None:
        """See BaseEncoder.other_still and Note [Stills at equal bytes]."""
        others = self.settings.effort.still_offsets[1:]
        if not others or not isinstance(base.variant, GivenKeyframe):
            return None
        known = math.log(max(self.distance(base), 1e-9))
        for offset in others:
            other = self.encode(base.pictures, base.crf, GivenKeyframe(offset))
            change = self._log_distance_at(base.size_bytes, other) - known
            logger.debug("still %+g: %+.1f %% at equal bytes", offset, 100 * math.expm1(change))
            if change < 0:
                # Where smaller stills win, larger ones would lose.
                return other
        return None

    def _log_distance_at(self, size_bytes: int, base: BaseGop) -> float:
        """Log of the distance that a GOP would have with so many bytes: see Note [Stills at equal bytes]."""
        tried = [base]

        def missing(base: BaseGop) -> float:
            return math.log(size_bytes / base.size_bytes)

        for _ in range(_MATCHES):
            last = tried[-1]
            if abs(missing(last)) <= _LEAST_CHANGE:
                break
            wanted = crf_at(relative_log_bytes(last.crf) + missing(last))
            if len(tried) > 1 and last.crf != tried[-2].crf:
                slope = (missing(tried[-2]) - missing(last)) / (last.crf - tried[-2].crf)
                wanted = quantise_crf(last.crf + missing(last) / min(slope, _LEAST_SLOPE))
            if wanted == last.crf:
                break
            tried.append(self.encode(base.pictures, wanted, base.variant))
        nearest, *others = sorted(tried, key=lambda other: abs(missing(other)))
        known = math.log(max(self.distance(nearest), 1e-9))
        worth = self.worth_of_bytes
        for other in others:
            change = missing(nearest) - missing(other)
            if abs(change) > _LEAST_CHANGE:
                measured = (known - math.log(max(self.distance(other), 1e-9))) / change
                worth = min(max(measured, _WORTHS[0]), _WORTHS[1])
                break
        return known - worth * missing(nearest)

    @cached_property
    def keyframes(self) -> GivenKeyframes:
        assert self.generator is not None, "mode replace takes a generator"
        return GivenKeyframes(self.settings, CachedGenerator(self.generator))

    def legacy_keyframe(self, source: Picture, code: Callable[[Picture, float], bytes]) -> bytes | None:
        """A keyframe for clients that see no more of it, as good as its bytes allow; None for a grey one.

        code: makes a packet of a picture at a CRF, which depends on nothing else of the encode.
        """
        size_bytes = self.settings.legacy_keyframe_bytes
        if size_bytes is None:
            return None
        made = self._legacy.get(source.pts, lambda: small_keyframe(source, size_bytes, code))
        if made is None:
            self._without_legacy.add(source.pts)
        return made

    def note(self, gops: int) -> str | None:
        """See BaseEncoder.note."""
        if not self._without_legacy:
            return None
        return (
            f"no keyframe fits in {self.settings.legacy_keyframe_bytes} bytes: "
            f"{len(self._without_legacy)} of {gops} GOPs show grey to players without prompts"
        )


def small_keyframe(
    picture: Picture, size_bytes: int, code: Callable[[Picture, float], bytes]
) -> bytes | None:
    """A keyframe's packet of a picture, as good as size_bytes allow, for players without prompts.

    code: codes a picture at a CRF on SVT-AV1's scale.  Where the coarsest takes too much, the picture is
    blurred; None where nothing helps.  Raises CodecError.
    """
    for shrink in _SHRINKS:
        shown = blurred(picture, shrink)
        smallest = code(shown, _LEGACY_CRFS[-1])
        if len(smallest) <= size_bytes:
            low, high = 0, len(_LEGACY_CRFS) - 1
            while low < high:
                middle = (low + high) // 2
                data = code(shown, _LEGACY_CRFS[middle])
                if len(data) <= size_bytes:
                    high, smallest = middle, data
                else:
                    low = middle + 1
            return smallest
    return None


def blurred(picture: Picture, shrink: int) -> Picture:
    """A picture scaled down to 1 / shrink of its width and height, and up again."""
    if shrink == 1:
        return picture
    small = scaled(picture, *(max(2, side // shrink // 2 * 2) for side in (picture.width, picture.height)))
    y, u, v = scaled(small, picture.width, picture.height).planes
    return replace(picture, y=y, u=u, v=v)
