"""AV1 open bitstream units in a temporal unit: where each begins and ends.

A *temporal unit* comes in the low-overhead format (AV1 5.2), as an MP4 sample or an encoder's packet holds
it. Clauses are those of the AV1 Bitstream & Decoding Process Specification, version 1.0.0 with errata 1.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from hybridprompt.bitstream.bits import BitReader
from hybridprompt.errors import BitstreamError


class ObuType(IntEnum):
    """obu_type (AV1 6.2.2)."""

    RESERVED_0 = 0
    SEQUENCE_HEADER = 1
    TEMPORAL_DELIMITER = 2
    FRAME_HEADER = 3
    TILE_GROUP = 4
    METADATA = 5
    FRAME = 6
    REDUNDANT_FRAME_HEADER = 7
    TILE_LIST = 8
    RESERVED_9 = 9
    RESERVED_10 = 10
    RESERVED_11 = 11
    RESERVED_12 = 12
    RESERVED_13 = 13
    RESERVED_14 = 14
    PADDING = 15


@dataclass(frozen=True, slots=True)
class Obu:
    """One OBU in place: `unit[offset:stop]` is all of it, `unit[payload_offset:stop]` its payload.

    The payload includes the trailing bits. `temporal_id` and `spatial_id` are 0 without an extension header.
    """

    type: ObuType
    unit: bytes
    offset: int
    payload_offset: int
    stop: int
    temporal_id: int = 0
    spatial_id: int = 0
    has_extension: bool = False

    @property
    def raw(self) -> bytes:
        """The whole OBU with its header."""
        return self.unit[self.offset : self.stop]

    @property
    def payload(self) -> bytes:
        """The OBU without its header, with its trailing bits."""
        return self.unit[self.payload_offset : self.stop]

    def __repr__(self) -> str:
        return f"Obu({self.type.name}, offset={self.offset}, size_bytes={self.stop - self.offset})"


def iterate_obus(temporal_unit: bytes) -> Iterator[Obu]:
    """Yield the OBUs of a temporal unit in order (AV1 5.3.1-5.3.3).

    Only the last OBU may lack a size field; it then reaches to the end. Raises `BitstreamError` where an OBU
    is malformed or cut off.
    """
    offset = 0
    while offset < len(temporal_unit):
        obu = _parse_obu_header(temporal_unit, offset)
        yield obu
        offset = obu.stop


def _parse_obu_header(unit: bytes, offset: int) -> Obu:
    # Header, extension and the longest size field together fill at most 10 bytes.
    reader = BitReader(unit[offset : offset + 10])
    try:
        if reader.flag():
            raise BitstreamError("obu_forbidden_bit is set")
        obu_type = ObuType(reader.f(4))
        has_extension = reader.flag()
        has_size_field = reader.flag()
        reader.f(1)  # obu_reserved_1bit: decoders ignore it
        temporal_id = spatial_id = 0
        if has_extension:
            temporal_id, spatial_id = reader.f(3), reader.f(2)
            reader.f(3)
        size = reader.leb128() if has_size_field else None
    except BitstreamError as error:
        raise BitstreamError(f"OBU header at byte {offset} of {len(unit)}: {error}") from error
    payload_offset = offset + reader.position // 8
    stop = len(unit) if size is None else payload_offset + size
    if stop > len(unit):
        raise BitstreamError(
            f"OBU {obu_type.name} at byte {offset} claims {size} payload bytes, "
            f"found {len(unit) - payload_offset}"
        )
    return Obu(obu_type, unit, offset, payload_offset, stop, temporal_id, spatial_id, has_extension)
