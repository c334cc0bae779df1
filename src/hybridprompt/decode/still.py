"""Decoding the still of a prompt. It comes from strangers: its size is known before anything is decoded."""

from dataclasses import dataclass
from typing import Final

from hybridprompt.bitstream.obu import (
    FrameHeader,
    FrameType,
    HeaderTracker,
    ObuType,
    SequenceHeader,
    iterate_obus,
)
from hybridprompt.errors import BitstreamError, CodecError
from hybridprompt.generator.base import Planes
from hybridprompt.prompt.sections import Still
from hybridprompt.video.av1_decoder import Av1Decoder
from hybridprompt.video.picture import Picture
from hybridprompt.video.scaling import scaled

MAX_STILL_SCALE: Final = 4
"""A still has at least 1 / MAX_STILL_SCALE of the picture's width and of its height, rounded up."""


@dataclass(frozen=True, eq=False, slots=True)
class DecodedStill:
    """planes: y (H, W), u and v (ceil(H/2), ceil(W/2)) uint8, of the prompt's picture. base_q_idx: 0..255.

    coded_size: (width, height) before scaling.
    """

    planes: Planes
    base_q_idx: int
    coded_size: tuple[int, int]


def still_header(still: Still) -> FrameHeader:
    """Return the header of the still's frame; its size is that of the picture it decodes to.

    Raises BitstreamError unless the still is one temporal unit with one shown keyframe of 8-bit 4:2:0 without
    film grain, and without temporal delimiter.
    """
    if any(obu.type is ObuType.TEMPORAL_DELIMITER for obu in iterate_obus(still.data)):
        raise BitstreamError("the still has a temporal delimiter, expected none")
    tracker = HeaderTracker()
    headers = tracker.parse(still.data)
    if len(headers) != 1 or headers[0].frame_type is not FrameType.KEY or not headers[0].show_frame:
        raise BitstreamError(f"the still has {len(headers)} frames, expected one keyframe that is shown")
    assert tracker.sequence_header is not None
    _check_format(tracker.sequence_header)
    return headers[0]


def checked_header(still: Still, width: int, height: int) -> FrameHeader:
    """Return `still_header`. Raises BitstreamError also for a size that does not suit width x height."""
    header = still_header(still)
    for name, found, whole in (("wide", header.width, width), ("high", header.height, height)):
        least = -(-whole // MAX_STILL_SCALE)
        if not least <= found <= whole:
            raise BitstreamError(f"the still is {found} {name}, expected {least} to {whole}")
    return header


def decode_still(still: Still, width: int, height: int) -> DecodedStill:
    """Decode a still for a picture of width x height luma samples; a smaller one is scaled up by Lanczos.

    Raises BitstreamError and CodecError when it is damaged, of another kind than `still_header` lets through,
    larger than the picture, or has less than a quarter of its width or height.
    """
    header = checked_header(still, width, height)
    with Av1Decoder() as decoder:
        frames = [*decoder.decode(still.data, 0), *decoder.flush()]
    coded_size = header.width, header.height
    found_sizes = [(frame.picture.width, frame.picture.height) for frame in frames]
    if found_sizes != [coded_size] or not frames[0].can_overwrite or frames[0].has_film_grain:
        raise CodecError(f"the still decodes to pictures of {found_sizes}, expected one of {coded_size}")
    picture: Picture = frames[0].picture
    if coded_size != (width, height):
        picture = scaled(picture, width, height)
    return DecodedStill(picture.planes, header.base_q_idx, coded_size)


def _check_format(sequence: SequenceHeader) -> None:
    color = sequence.color
    subsampling = color.subsampling_x, color.subsampling_y
    if color.bit_depth != 8 or color.mono_chrome or subsampling != (1, 1):
        raise BitstreamError(
            f"the still has {color.bit_depth} bits, mono_chrome {int(color.mono_chrome)} and subsampling "
            f"{subsampling}, expected 8-bit 4:2:0"
        )
    if sequence.film_grain_params_present:
        raise BitstreamError("the still has film grain, expected none")
