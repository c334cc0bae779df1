"""Exp-Golomb numbers against the tables of H.264 9.1, and round trips."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridprompt.bitstream.bits import BitReader, BitWriter
from hybridprompt.bitstream.exp_golomb import (
    UE_MAX,
    read_se,
    read_ue,
    write_se,
    write_trailing_bits,
    write_ue,
)
from hybridprompt.errors import BitstreamError

SE_MAX = 2**31 - 1


def reader_of(bits: str) -> BitReader:
    padded = bits + "0" * (-len(bits) % 8)
    return BitReader(int("1" + padded, 2).to_bytes(len(padded) // 8 + 1, "big")[1:])


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, UE_MAX), st.integers(-SE_MAX, SE_MAX)), max_size=20))
def test_reader_undoes_writer(numbers: list[tuple[int, int]]) -> None:
    writer = BitWriter()
    for unsigned, signed in numbers:
        write_ue(writer, unsigned)
        write_se(writer, signed)
    write_trailing_bits(writer)
    reader = BitReader(writer.to_bytes())
    assert [(read_ue(reader), read_se(reader)) for _ in numbers] == numbers
    assert reader.flag()
    assert reader.f(reader.remaining) == 0


@pytest.mark.parametrize(
    ("bits", "unsigned", "signed"),
    [("1", 0, 0), ("010", 1, 1), ("011", 2, -1), ("00100", 3, 2), ("00111", 6, -3), ("0001010", 9, 5)],
)
def test_codes_are_those_of_tables_9_2_and_9_3(bits: str, unsigned: int, signed: int) -> None:
    assert read_ue(reader_of(bits)) == unsigned
    assert read_se(reader_of(bits)) == signed
    for write, value in ((write_ue, unsigned), (write_se, signed)):
        writer = BitWriter()
        write(writer, value)
        assert f"{int.from_bytes(writer.to_bytes(), 'big'):08b}"[: writer.position] == bits


def test_huge_and_cut_off_numbers_are_refused() -> None:
    with pytest.raises(BitstreamError, match="width at bit 0 has more than 31 leading zeros"):
        read_ue(reader_of("0" * 32 + "1" + "0" * 32), name="width")
    with pytest.raises(BitstreamError, match="width at bit 0 is 9, expected at most 8"):
        read_ue(reader_of("0001010"), name="width", maximum=8)
    for data in (b"", b"\0", b"\x01"):
        with pytest.raises(BitstreamError, match="needed"):
            read_ue(BitReader(data))


@pytest.mark.parametrize("value", [-1, UE_MAX + 1])
def test_writer_refuses_what_does_not_fit(value: int) -> None:
    with pytest.raises(ValueError, match="holds"):
        write_ue(BitWriter(), value)
