"""Codec configurations of MP4 (ISO/IEC 14496-15): avcC (5.3.3.1) and hvcC (8.3.3.1), read and rewritten.

Containers without them hand out parameter sets in the byte stream of Annex B, or none: both count as "Annex
B" here.
"""

from collections.abc import Callable
from typing import Final

from hybridprompt.bitstream.nal import LENGTH_SIZES, NalCodec, split_nal_units
from hybridprompt.errors import BitstreamError

MAX_CONFIGURATION_BYTES: Final = 1 << 20

_VERSION: Final = b"\1"
_AVCC_FIXED_BYTES: Final = 5
_HVCC_FIXED_BYTES: Final = 22


def length_size_of(configuration: bytes | None, *, codec: NalCodec) -> int | None:
    """Return the bytes of a NAL unit's length in the stream's access units, None where they are in Annex B.

    Raises `BitstreamError` for a configuration that is cut off or asks for lengths of 3 bytes.
    """
    if not _is_record(configuration):
        return None
    assert configuration is not None
    position = 4 if codec is NalCodec.H264 else _HVCC_FIXED_BYTES - 1
    if position >= len(configuration):
        raise BitstreamError(f"codec configuration of {len(configuration)} bytes is cut off")
    length_size = (configuration[position] & 3) + 1
    if length_size not in LENGTH_SIZES:
        raise BitstreamError(f"NAL unit lengths have {length_size} bytes, expected one of {LENGTH_SIZES}")
    return length_size


def parameter_sets(configuration: bytes | None, *, codec: NalCodec) -> list[bytes]:
    """Return the NAL units in a codec configuration, without framing. Raises `BitstreamError`.

    Zeros after them are left out: FFmpeg writes some where its parameter sets come from the byte stream.
    """
    if not configuration:
        return []
    if not _is_record(configuration):
        return [nal.data for nal in split_nal_units(configuration)]
    found: list[bytes] = []

    def keep(nal: bytes) -> bytes:
        found.append(nal.rstrip(b"\0"))
        return nal

    _rewrite(configuration, keep, codec)
    return found


def map_parameter_sets(configuration: bytes, change: Callable[[bytes], bytes], *, codec: NalCodec) -> bytes:
    """Return a configuration with each NAL unit changed; other fields stay. Raises `BitstreamError`."""
    if not _is_record(configuration):
        out, position = [], 0
        for nal in split_nal_units(configuration):
            out += [configuration[position : nal.payload_offset], change(nal.data)]
            position = nal.stop
        return b"".join(out) + configuration[position:]
    return _rewrite(configuration, change, codec)


def _is_record(configuration: bytes | None) -> bool:
    # Annex B begins with zeros.
    return configuration is not None and configuration[:1] == _VERSION


def _rewrite(configuration: bytes, change: Callable[[bytes], bytes], codec: NalCodec) -> bytes:
    if len(configuration) > MAX_CONFIGURATION_BYTES:
        raise BitstreamError(
            f"codec configuration has {len(configuration)} bytes, expected at most {MAX_CONFIGURATION_BYTES}"
        )
    copy = _Copy(configuration)
    if codec is NalCodec.H264:
        copy.fixed(_AVCC_FIXED_BYTES)
        for mask in (31, 255):  # sequence, then picture parameter sets
            for _ in range(copy.number(1) & mask):
                copy.nal(change)
    else:
        copy.fixed(_HVCC_FIXED_BYTES)
        for _ in range(copy.number(1)):
            copy.fixed(1)
            for _ in range(copy.number(2)):
                copy.nal(change)
    # What follows an avcC of the high profiles: chroma format, depths, SPS extensions.
    return copy.finish()


class _Copy:
    """Copies bytes and changes NAL units on the way."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self._out: list[bytes] = []

    def fixed(self, size: int) -> bytes:
        self._out.append(self._take(size))
        return self._out[-1]

    def number(self, size: int) -> int:
        return int.from_bytes(self.fixed(size), "big")

    def nal(self, change: Callable[[bytes], bytes]) -> None:
        start = self._position
        nal = self._take(int.from_bytes(self._take(2), "big"))
        if not nal:
            raise BitstreamError(f"codec configuration has an empty NAL unit at byte {start}")
        changed = change(nal)
        if len(changed) > 0xFFFF:
            raise BitstreamError(f"NAL unit of {len(changed)} bytes does not fit a codec configuration")
        self._out += [len(changed).to_bytes(2, "big"), changed]

    def finish(self) -> bytes:
        return b"".join(self._out) + self._data[self._position :]

    def _take(self, size: int) -> bytes:
        taken = self._data[self._position : self._position + size]
        if len(taken) < size:
            raise BitstreamError(
                f"codec configuration of {len(self._data)} bytes is cut off at byte {self._position}, "
                f"expected {size} more"
            )
        self._position += size
        return taken
