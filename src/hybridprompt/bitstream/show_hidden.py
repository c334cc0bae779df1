"""Make a decoder hand out a hidden AV1 frame right after it is decoded.

Note [Showing a hidden frame]: encoders code the picture at the end of a group first, hidden, and show it when
its time comes with show_existing_frame. A decoder hands out shown frames only, too late to change what the
frames between predict from. With show_frame = 1 in the frame's header it comes out at once. Nothing else in
the decoding of an inter or intra-only frame depends on that bit (AV1 5.9.2, 7.20), but the header loses one:
showable_frame is then not coded but inferred to be 1, so that show_existing_frame stays legal. All bits after
it move up to the byte alignment that ends the header; hence its exact length.

The header would also gain temporal_point_info() in some streams with a decoder model; those are refused, as
are film grain, whose parameters end the header, and keyframes, whose meaning does change.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hybridprompt.bitstream.bits import BitReader, BitWriter, encode_leb128
from hybridprompt.bitstream.frame_header import (
    FrameHeader,
    FrameHeaderParser,
    FrameType,
    HeaderTracker,
    is_dropped,
)
from hybridprompt.bitstream.frame_header_end import read_header_end
from hybridprompt.bitstream.framing import Obu, ObuType, iterate_obus
from hybridprompt.bitstream.sequence_header import SequenceHeader, parse_sequence_header
from hybridprompt.errors import BitstreamError

_SHOW_FRAME: Final = 3  # bit position: after show_existing_frame and frame_type
_HAS_SIZE_FIELD: Final = 0b10


@dataclass(frozen=True, slots=True)
class SplitUnit:
    """A temporal unit cut after its first frame, which was hidden and is now shown.

    Decoded one after the other, each part gives one picture: `first` the hidden frame, `rest` what the unit
    shows. `header` is the frame's as coded, with `show_frame` False. `rest` has no temporal delimiter.
    """

    first: bytes
    rest: bytes
    header: FrameHeader


def split_at_first_frame(temporal_unit: bytes, tracker: HeaderTracker) -> SplitUnit | None:
    """Cut off the first frame of the unit and make it shown; None where it is shown anyway.

    `tracker` has parsed all units before this one, and not this one; it is left as it is. Frames outside
    operating point 0 do not count. See Note [Showing a hidden frame].

    Raises `BitstreamError` for a malformed unit, and where the first frame is hidden but cannot be shown:
    keyframes and S-frames, frames that no show_existing_frame may show, streams with film grain or with
    presentation times in frame headers, frames with the segmentation parameters of an earlier frame.
    """
    sequence = tracker.sequence_header
    obus = list(iterate_obus(temporal_unit))
    for number, obu in enumerate(obus):
        if obu.type is ObuType.SEQUENCE_HEADER:
            sequence = parse_sequence_header(obu.payload)
        if obu.type not in (ObuType.FRAME, ObuType.FRAME_HEADER):
            continue
        if sequence is None:
            raise BitstreamError(f"frame at byte {obu.offset} comes before any sequence header")
        if is_dropped(obu, sequence):
            continue
        try:
            return _split(obus, number, sequence, tracker.slots)
        except BitstreamError as error:
            raise BitstreamError(f"first frame, at byte {obu.offset}: {error}") from error
    return None


def _split(
    obus: Sequence[Obu], number: int, sequence: SequenceHeader, slots: Sequence[FrameHeader | None]
) -> SplitUnit | None:
    """Split at `obus[number]`, the first frame's header."""
    obu = obus[number]
    parser = FrameHeaderParser(obu, sequence, slots)
    header, _ = parser.parse()
    if header.shown:
        return None
    _check_rewritable(header, sequence, parser.showable_frame)
    end = read_header_end(parser, header)
    parts = [obu.unit[: obu.offset], _shown(obu, end)]
    # Up to the last tile group before the next frame; what stands in between belongs to that one.
    stop = last = number + 1
    while stop < len(obus) and obus[stop].type not in (ObuType.FRAME, ObuType.FRAME_HEADER):
        stop += 1
        if obus[stop - 1].type is ObuType.TILE_GROUP:
            last = stop
    # Copies of the header would differ from it now, and decoders need none.
    parts += [part.raw for part in obus[number + 1 : last] if part.type is not ObuType.REDUNDANT_FRAME_HEADER]
    return SplitUnit(b"".join(parts), obu.unit[obus[last - 1].stop :], header)


def _check_rewritable(header: FrameHeader, sequence: SequenceHeader, showable_frame: bool) -> None:
    reason = None
    if header.frame_type not in (FrameType.INTER, FrameType.INTRA_ONLY):
        reason = f"it is a {header.frame_type.name} frame"
    elif not showable_frame:
        reason = "it is not showable"
    elif sequence.film_grain_params_present:
        reason = "the stream has film grain parameters"
    elif sequence.temporal_point_info_bits:
        reason = "shown frames of the stream carry presentation times"
    if reason is not None:
        raise BitstreamError(f"the hidden frame cannot be shown: {reason}")


def _shown(obu: Obu, header_bits: int) -> bytes:
    """Return the OBU of a hidden frame with show_frame set and without showable_frame."""
    payload = obu.payload
    is_frame = obu.type is ObuType.FRAME
    # OBU_FRAME goes on with tiles after byte_alignment(), OBU_FRAME_HEADER ends with trailing_bits().
    header_bytes = (header_bits + 7) // 8 if is_frame else len(payload)
    reader, writer = BitReader(payload), BitWriter()
    writer.f(_SHOW_FRAME, reader.f(_SHOW_FRAME))
    reader.f(2)  # show_frame = 0, showable_frame
    writer.f(1, 1)
    following_bits = header_bits - reader.position
    writer.f(following_bits, reader.f(following_bits))
    _check_ending(reader.f(8 * header_bytes - header_bits), 8 * header_bytes - header_bits, is_frame)
    if not is_frame:
        writer.f(1, 1)
    shown = writer.to_bytes() + payload[header_bytes:]
    header = bytearray(obu.raw[: 2 if obu.has_extension else 1])
    header[0] |= _HAS_SIZE_FIELD
    return bytes(header) + encode_leb128(len(shown)) + shown


def _check_ending(ending: int, size_bits: int, is_frame: bool) -> None:
    """Check the bits after a header (AV1 5.3.4, 5.3.5): with others, it was not understood."""
    if is_frame:
        expected = 0
    elif size_bits:
        expected = 1 << (size_bits - 1)
    else:
        raise BitstreamError("the frame header lacks its trailing bits")
    if ending != expected:
        raise BitstreamError(f"the {size_bits} bits after the header are {ending:#x}, expected {expected:#x}")
