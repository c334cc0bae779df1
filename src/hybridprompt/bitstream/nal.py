"""NAL units of H.264 and H.265: framing, headers, emulation prevention.

An *access unit* holds the NAL units of one picture, in one of two framings: the byte stream of Annex B,
with start codes, or that of MP4 samples (ISO/IEC 14496-15), with a length before each. Functions take the
framing as `length_size`: the bytes of a length (1, 2 or 4), or None for Annex B. Both standards share all
of this but the header. Clauses are those of ITU-T H.264 (V14) and H.265 (V8).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from hybridprompt.errors import BitstreamError

START_CODE: Final = b"\0\0\0\1"
LENGTH_SIZES: Final = (1, 2, 4)
MAX_NAL_UNITS: Final = 1 << 14
"""Of one access unit. Real ones have a few dozen; this bounds what hostile bytes make of a parser."""

_START_CODE_PREFIX: Final = b"\0\0\1"
_EMULATION: Final = re.compile(rb"\x00\x00(?=[\x00-\x03]|\Z)")
_FORBIDDEN: Final = re.compile(rb"\x00\x00(?:[\x00-\x02]|\x03[^\x00-\x03])")


class NalCodec(Enum):
    """The standards that code in NAL units."""

    H264 = "h264"
    H265 = "h265"


class H264Nal:
    """nal_unit_type of H.264 (table 7-1), as far as it matters here."""

    SLICE_IDR: Final = 5
    SEI: Final = 6
    SPS: Final = 7
    PPS: Final = 8
    PREFIX: Final = 14
    VCL: Final = frozenset({1, 2, 3, 4, 5, PREFIX, 20, 21})  # with what stands right before a slice


class H265Nal:
    """nal_unit_type of H.265 (table 7-1), as far as it matters here."""

    IDR: Final = frozenset({19, 20})  # with leading pictures that can be decoded, and without
    VPS: Final = 32
    SPS: Final = 33
    PPS: Final = 34
    PREFIX_SEI: Final = 39
    SUFFIX_SEI: Final = 40
    VCL: Final = frozenset(range(32))


@dataclass(frozen=True, slots=True)
class NalUnit:
    """One NAL unit in place: `unit[offset:stop]` with its framing, `unit[payload_offset:stop]` without.

    In Annex B the framing includes all zero bytes before the start code.
    """

    unit: bytes
    offset: int
    payload_offset: int
    stop: int

    @property
    def raw(self) -> bytes:
        """The NAL unit with its start code or length."""
        return self.unit[self.offset : self.stop]

    @property
    def data(self) -> bytes:
        """The NAL unit, from its header on."""
        return self.unit[self.payload_offset : self.stop]

    def __repr__(self) -> str:
        return f"NalUnit(offset={self.offset}, size_bytes={self.stop - self.payload_offset})"


@dataclass(frozen=True, slots=True)
class H264Header:
    """nal_unit_header of H.264 (7.3.1): nal_ref_idc 0..3 (0: not a reference), nal_unit_type 0..31."""

    nal_ref_idc: int
    nal_unit_type: int


@dataclass(frozen=True, slots=True)
class H265Header:
    """nal_unit_header of H.265 (7.3.1.2): nal_unit_type 0..63, nuh_layer_id 0..63, temporal_id 0..6."""

    nal_unit_type: int
    nuh_layer_id: int
    temporal_id: int


def split_nal_units(unit: bytes, *, length_size: int | None = None) -> list[NalUnit]:
    """Return the NAL units of an access unit in order; an empty one has none.

    Raises `BitstreamError` where bytes are outside NAL units, a NAL unit is empty or cut off, or there are
    more than MAX_NAL_UNITS.
    """
    if length_size is None:
        return _split_annex_b(unit)
    return _split_length_prefixed(unit, _checked(length_size))


def frame_nal_unit(nal: bytes, *, length_size: int | None = None) -> bytes:
    """Return a NAL unit with its start code or length. Raises `BitstreamError` when it does not fit."""
    if not nal:
        raise BitstreamError("a NAL unit has 0 bytes, expected at least its header")
    if length_size is None:
        return START_CODE + nal
    if len(nal) >= 1 << (8 * _checked(length_size)):
        raise BitstreamError(f"a NAL unit has {len(nal)} bytes, too many for a length of {length_size} bytes")
    return len(nal).to_bytes(length_size, "big") + nal


def join_nal_units(nals: Iterable[bytes], *, length_size: int | None = None) -> bytes:
    """Return an access unit of NAL units. Raises `BitstreamError` as `frame_nal_unit` does."""
    return b"".join(frame_nal_unit(nal, length_size=length_size) for nal in nals)


def reframe(unit: bytes, *, source: int | None, target: int | None) -> bytes:
    """Return an access unit in another framing. Raises `BitstreamError` for a malformed one."""
    nals = split_nal_units(unit, length_size=source)
    return join_nal_units((nal.data for nal in nals), length_size=target)


def parse_h264_header(nal: bytes) -> H264Header:
    """Read the header byte of an H.264 NAL unit (7.3.1). Raises `BitstreamError`."""
    if not nal or nal[0] & 0x80:
        raise BitstreamError(f"H.264 NAL unit begins with {nal[:1].hex() or 'nothing'}, expected 00..7f")
    return H264Header(nal[0] >> 5, nal[0] & 31)


def parse_h265_header(nal: bytes) -> H265Header:
    """Read the two header bytes of an H.265 NAL unit (7.3.1.2). Raises `BitstreamError`."""
    if len(nal) < 2 or nal[0] & 0x80 or not nal[1] & 7:
        raise BitstreamError(
            f"H.265 NAL unit begins with {nal[:2].hex() or 'nothing'}, expected two bytes, "
            "forbidden_zero_bit 0 and nuh_temporal_id_plus1 above 0"
        )
    return H265Header(nal[0] >> 1, (nal[0] & 1) << 5 | nal[1] >> 3, (nal[1] & 7) - 1)


def nal_type(nal: NalUnit, codec: NalCodec) -> int:
    """Return nal_unit_type. Raises `BitstreamError` for a malformed header, with its byte offset."""
    # Four bytes are enough for both headers: slices may be large.
    head = nal.unit[nal.payload_offset : min(nal.stop, nal.payload_offset + 4)]
    try:
        if codec is NalCodec.H264:
            return parse_h264_header(head).nal_unit_type
        return parse_h265_header(head).nal_unit_type
    except BitstreamError as error:
        raise BitstreamError(f"at byte {nal.payload_offset} of {len(nal.unit)}: {error}") from error


def first_vcl(nals: Iterable[NalUnit], codec: NalCodec) -> NalUnit | None:
    """Return the first NAL unit that codes part of a picture, None where there is none (H.264 7.4.1.2.4).

    Raises `BitstreamError` for malformed headers before it.
    """
    vcl = H264Nal.VCL if codec is NalCodec.H264 else H265Nal.VCL
    return next((nal for nal in nals if nal_type(nal, codec) in vcl), None)


def has_idr(unit: bytes, codec: NalCodec, *, length_size: int | None = None) -> bool:
    """Say whether an access unit holds an IDR picture. Raises `BitstreamError` for a malformed one."""
    kinds = {H264Nal.SLICE_IDR} if codec is NalCodec.H264 else H265Nal.IDR
    return any(nal_type(nal, codec) in kinds for nal in split_nal_units(unit, length_size=length_size))


def add_emulation_prevention(rbsp: bytes) -> bytes:
    """Return the bytes with 03 put in wherever they would look like a start code (H.264 7.4.1, H.265 7.4.2).

    Raises `ValueError` for bytes that end in a single 00, as nothing that stands in a NAL unit does.
    """
    # A replacement that is scanned on from its last byte is exactly the rule: 03 resets the count of zeros.
    escaped = _EMULATION.sub(b"\0\0\3", rbsp) if b"\0\0" in rbsp else rbsp
    if escaped.endswith(b"\0"):
        raise ValueError("a NAL unit cannot end in 00")
    return escaped


def remove_emulation_prevention(data: bytes) -> bytes:
    """Return the bytes without emulation prevention: the inverse of `add_emulation_prevention`.

    Raises `BitstreamError` where three bytes stand that a NAL unit must not contain (H.264 7.4.1), or it
    ends in 00.
    """
    if b"\0\0" in data:
        found = _FORBIDDEN.search(data)
        if found is not None:
            raise BitstreamError(
                f"a NAL unit has the bytes {data[found.start() : found.start() + 4].hex()} "
                f"at byte {found.start()}"
            )
    if data.endswith(b"\0"):
        raise BitstreamError(f"a NAL unit ends in 00 at byte {len(data) - 1}")
    return data.replace(b"\0\0\3", b"\0\0")


def _split_annex_b(unit: bytes) -> list[NalUnit]:
    found = unit.find(_START_CODE_PREFIX)
    outside = unit[: found if found >= 0 else len(unit)]
    if outside.strip(b"\0"):
        raise BitstreamError(f"access unit of {len(unit)} bytes does not begin with a start code")
    nals: list[NalUnit] = []
    offset = 0
    while found >= 0:
        _check_count(len(nals), offset)
        payload_offset = found + len(_START_CODE_PREFIX)
        found = unit.find(_START_CODE_PREFIX, payload_offset)
        stop = found if found >= 0 else len(unit)
        # Zeros after a NAL unit are trailing_zero_8bits or belong to the next start code (B.1.1).
        stop = payload_offset + len(unit[payload_offset:stop].rstrip(b"\0"))
        if stop == payload_offset:
            raise BitstreamError(f"NAL unit at byte {payload_offset} of {len(unit)} is empty")
        nals.append(NalUnit(unit, offset, payload_offset, stop))
        offset = stop
    return nals


def _split_length_prefixed(unit: bytes, length_size: int) -> list[NalUnit]:
    nals: list[NalUnit] = []
    offset = 0
    while offset < len(unit):
        _check_count(len(nals), offset)
        payload_offset = offset + length_size
        if payload_offset > len(unit):
            raise BitstreamError(
                f"NAL unit length at byte {offset} needs {length_size} bytes, found {len(unit) - offset}"
            )
        size = int.from_bytes(unit[offset:payload_offset], "big")
        stop = payload_offset + size
        if size == 0 or stop > len(unit):
            raise BitstreamError(
                f"NAL unit at byte {payload_offset} claims {size} bytes, "
                f"expected 1 to {len(unit) - payload_offset}"
            )
        nals.append(NalUnit(unit, offset, payload_offset, stop))
        offset = stop
    return nals


def _check_count(count: int, offset: int) -> None:
    if count >= MAX_NAL_UNITS:
        raise BitstreamError(f"more than {MAX_NAL_UNITS} NAL units in an access unit, at byte {offset}")


def _checked(length_size: int) -> int:
    if length_size not in LENGTH_SIZES:
        raise ValueError(f"length_size is {length_size}, expected one of {LENGTH_SIZES} or None")
    return length_size
