"""Coding the still of a prompt: one AV1 keyframe, by SVT-AV1.

Note [Bytes of a still]: variance boost, which spends on what is faint, lowers all perceptual distances of a
still by 11 to 16 % at equal bytes, with SVT-AV1's curve for stills and more than its usual strength.  (On
whole GOPs it wins where little moves and loses elsewhere.)  And SVT-AV1 with tune 0 codes a picture that
stands alone in one of two ways, by its quantiser: where base_q_idx is 2 or 3 above a multiple of 4 it takes
some 20 % more bytes, and is better by more than that; so those are chosen.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import partial

from hybridprompt.decode.still import DecodedStill, decode_still, still_header
from hybridprompt.encode.base import without_delimiter
from hybridprompt.prompt.sections import Still, StillCodec
from hybridprompt.video.av1_encoder import CRF_RANGE, CRF_STEP, Av1Settings, encode_gop
from hybridprompt.video.picture import Picture

_TICK = Fraction(1, 30)
_MAX_CRF = CRF_RANGE[1] - 2 * CRF_STEP
_VARIANCE_BOOST = (
    ("enable-variance-boost", "1"),
    ("variance-boost-curve", "1"),
    ("variance-boost-strength", "3"),
)


def encode_still(
    picture: Picture, crf: float, *, preset: int, tune: int, threads: int = 2
) -> tuple[Still, DecodedStill]:
    """Code a picture as a still of its size; return it, and what it decodes to.

    crf: SVT-AV1's, brought to its steps and range, and to where Note [Bytes of a still] wants it.  tune:
    SVT-AV1's.  Raises CodecError.
    """
    quarter = round(min(max(crf, CRF_RANGE[0]), _MAX_CRF) / CRF_STEP) * CRF_STEP
    code = partial(code_still, picture, preset=preset, tune=tune, threads=threads, extra=_VARIANCE_BOOST)
    still = code(quarter)
    if tune == 0 and still_header(still).base_q_idx % 4 < 2:
        still = code(quarter + 2 * CRF_STEP)
    return still, decode_still(still, picture.width, picture.height)


def code_still(
    picture: Picture, crf: float, *, preset: int, tune: int, threads: int, extra: tuple[tuple[str, str], ...]
) -> Still:
    """Code a picture as a still with SVT-AV1's options as they are told.  Raises ConfigError, CodecError."""
    settings = Av1Settings(
        width=picture.width,
        height=picture.height,
        frame_rate=1 / _TICK,
        time_base=_TICK,
        crf=crf,
        preset=preset,
        threads=threads,
        color=picture.color,
        extra=(("tune", str(tune)), *extra),
    )
    (packet,) = encode_gop([replace(picture, pts=0, time_base=_TICK)], settings)
    return Still(StillCodec.AV1, without_delimiter(packet).data)
