"""Exp-Golomb numbers and trailing bits of H.264 (7.2, 9.1) and H.265 (7.2, 9.2)."""

from typing import Final

from hybridprompt.bitstream.bits import BitReader, BitWriter
from hybridprompt.errors import BitstreamError

UE_MAX: Final = (1 << 32) - 2
_MAX_LEADING_ZEROS: Final = 31


def read_ue(reader: BitReader, *, name: str = "ue(v)", maximum: int = UE_MAX) -> int:
    """Read an unsigned number (H.264 9.1), at most `maximum`.

    Raises `BitstreamError` when it is larger, cut off, or has more than 31 leading zeros.
    """
    start, leading_zeros = reader.position, 0
    while not reader.flag():
        leading_zeros += 1
        if leading_zeros > _MAX_LEADING_ZEROS:
            raise BitstreamError(f"{name} at bit {start} has more than {_MAX_LEADING_ZEROS} leading zeros")
    value = (1 << leading_zeros) - 1 + reader.f(leading_zeros)
    if value > maximum:
        raise BitstreamError(f"{name} at bit {start} is {value}, expected at most {maximum}")
    return value


def read_se(reader: BitReader, *, name: str = "se(v)") -> int:
    """Read a signed number (H.264 9.1.1). Raises `BitstreamError` as `read_ue` does."""
    code = read_ue(reader, name=name)
    return (code + 1) // 2 if code & 1 else -(code // 2)


def write_ue(writer: BitWriter, value: int) -> None:
    """Write 0 <= `value` <= 2^32 - 2 as ue(v); raise `ValueError` for others."""
    if not 0 <= value <= UE_MAX:
        raise ValueError(f"ue(v) holds 0..{UE_MAX}, not {value}")
    writer.f(2 * (value + 1).bit_length() - 1, value + 1)


def write_se(writer: BitWriter, value: int) -> None:
    """Write -(2^31 - 1) <= `value` <= 2^31 - 1 as se(v); raise `ValueError` for others."""
    write_ue(writer, 2 * value - 1 if value > 0 else -2 * value)


def write_trailing_bits(writer: BitWriter) -> None:
    """Write rbsp_trailing_bits(): a one, then zeros to the end of the byte (H.264 7.3.2.11)."""
    writer.f(1, 1)
    writer.f(-writer.position % 8, 0)
