"""Coding the still of a prompt: one AV1 keyframe, by SVT-AV1."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from hybridprompt.decode.still import DecodedStill, decode_still
from hybridprompt.encode.base import without_delimiter
from hybridprompt.prompt.sections import Still, StillCodec
from hybridprompt.video.av1_encoder import CRF_RANGE, CRF_STEP, Av1Settings, encode_gop
from hybridprompt.video.picture import Picture

_TICK = Fraction(1, 30)


def encode_still(
    picture: Picture, crf: float, *, preset: int, tune: int, threads: int = 2
) -> tuple[Still, DecodedStill]:
    """Code a picture as a still of its size; return it, and what it decodes to.

    crf: SVT-AV1's, brought to its steps and range.  Raises CodecError.
    """
    quarter = round(min(max(crf, CRF_RANGE[0]), CRF_RANGE[1]) / CRF_STEP) * CRF_STEP
    settings = Av1Settings(
        width=picture.width,
        height=picture.height,
        frame_rate=1 / _TICK,
        time_base=_TICK,
        crf=quarter,
        preset=preset,
        threads=threads,
        color=picture.color,
        extra=(("tune", str(tune)),),
    )
    packets = encode_gop([replace(picture, pts=0, time_base=_TICK)], settings)
    still = Still(StillCodec.AV1, without_delimiter(packets[0]).data)
    return still, decode_still(still, picture.width, picture.height)
