"""Round trips of the bit-level descriptors, and the examples the AV1 specification gives for them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridprompt.bitstream.bits import BitReader, BitWriter, encode_leb128
from hybridprompt.errors import BitstreamError

U32 = st.integers(0, 2**32 - 1)


@st.composite
def values(draw: st.DrawFn) -> tuple[str, int, int]:
    kind = draw(st.sampled_from(["f", "uvlc", "leb128", "ns"]))
    if kind == "f":
        n = draw(st.integers(0, 40))
        return kind, n, draw(st.integers(0, 2**n - 1))
    if kind == "ns":
        n = draw(st.integers(1, 5000))
        return kind, n, draw(st.integers(0, n - 1))
    return kind, 0, draw(U32)


@settings(deadline=None)
@given(st.lists(values(), max_size=30))
def test_reader_undoes_writer(written: list[tuple[str, int, int]]) -> None:
    writer = BitWriter()
    for kind, n, value in written:
        getattr(writer, kind)(*([n, value] if kind in ("f", "ns") else [value]))
    reader = BitReader(writer.to_bytes())
    for kind, n, value in written:
        assert getattr(reader, kind)(*([n] if kind in ("f", "ns") else [])) == value
    assert reader.position == writer.position
    assert reader.remaining < 8


@pytest.mark.parametrize(("value", "bits"), list(enumerate(["00", "01", "10", "110", "111"])))
def test_ns_codes_are_those_of_the_table_in_4_10_7(value: int, bits: str) -> None:
    writer = BitWriter()
    writer.ns(5, value)
    assert writer.position == len(bits)
    assert writer.to_bytes() == int(bits.ljust(8, "0"), 2).to_bytes(1, "big")
    assert BitReader(writer.to_bytes()).ns(5) == value


@pytest.mark.parametrize(
    ("value", "code"), [(0, "00"), (127, "7f"), (128, "8001"), (300, "ac02"), (2**32 - 1, "ffffffff0f")]
)
def test_leb128_examples(value: int, code: str) -> None:
    assert encode_leb128(value).hex() == code
    assert BitReader(bytes.fromhex(code)).leb128() == value


def test_leb128_may_be_padded() -> None:
    assert BitReader(bytes.fromhex("8580808000")).leb128() == 5


@pytest.mark.parametrize("code", ["80", "808080808080808001", "ffffffff1f"])
def test_leb128_refuses_what_is_cut_off_too_long_or_too_large(code: str) -> None:
    with pytest.raises(BitstreamError):
        BitReader(bytes.fromhex(code)).leb128()


def test_uvlc_of_32_zeros_reads_no_value() -> None:
    reader = BitReader(bytes.fromhex("00000000c0"))
    assert reader.uvlc() == 2**32 - 1
    assert reader.position == 33


@pytest.mark.parametrize(("n", "data"), [(1, b""), (9, b"\xff"), (10**9, b"abc")])
def test_reading_past_the_end_raises(n: int, data: bytes) -> None:
    reader = BitReader(data)
    with pytest.raises(BitstreamError, match=f"needed {n} bits at bit 0"):
        reader.f(n)
    assert reader.position == 0


@pytest.mark.parametrize(
    ("method", "arguments"), [("f", (3, 8)), ("ns", (5, 5)), ("uvlc", (2**32,)), ("leb128", (-1,))]
)
def test_writer_refuses_values_that_do_not_fit(method: str, arguments: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"fit|holds"):
        getattr(BitWriter(), method)(*arguments)
