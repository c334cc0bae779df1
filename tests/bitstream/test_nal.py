"""NAL units against a plain reading of the standards, and against FFmpeg."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridprompt.bitstream.codec_config import parameter_sets
from hybridprompt.bitstream.nal import (
    MAX_NAL_UNITS,
    H264Header,
    H265Header,
    NalCodec,
    add_emulation_prevention,
    first_vcl,
    frame_nal_unit,
    join_nal_units,
    nal_type,
    parse_h264_header,
    parse_h265_header,
    reframe,
    remove_emulation_prevention,
    split_nal_units,
)
from hybridprompt.errors import BitstreamError
from nal_media import Stream, differing, encode, encode_mp4, moving, play

# Bytes of which start codes and escapes are made, far more often than by chance.
tricky = st.one_of(st.lists(st.sampled_from([0, 0, 0, 1, 2, 3, 4, 255]), max_size=60).map(bytes), st.binary())
rbsps = tricky.map(lambda data: data + b"\x80")
nals = rbsps.map(lambda rbsp: b"\x65" + add_emulation_prevention(rbsp))
length_sizes = st.sampled_from([None, 2, 4])


def escaped_by_the_book(rbsp: bytes) -> bytes:
    """H.264 7.3.1 read literally."""
    out, zeros = bytearray(), 0
    for byte in rbsp:
        if zeros == 2 and byte <= 3:
            out.append(3)
            zeros = 0
        out.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return bytes(out)


@settings(deadline=None, max_examples=300)
@given(rbsps)
def test_emulation_prevention(rbsp: bytes) -> None:
    escaped = add_emulation_prevention(rbsp)
    assert escaped == escaped_by_the_book(rbsp)
    assert remove_emulation_prevention(escaped) == rbsp
    assert not any(code in escaped for code in (b"\0\0\0", b"\0\0\1", b"\0\0\2"))


def test_cabac_zero_words_at_the_end_are_closed_by_03() -> None:
    assert add_emulation_prevention(b"\x80\0\0") == b"\x80\0\0\3"
    assert remove_emulation_prevention(b"\x80\0\0\3") == b"\x80\0\0"
    with pytest.raises(ValueError, match="end in 00"):
        add_emulation_prevention(b"\x80\0")


@pytest.mark.parametrize("data", ["65000001ff", "6500000080", "65000002", "6500000304", "6500"])
def test_bytes_that_no_nal_unit_contains_are_refused(data: str) -> None:
    with pytest.raises(BitstreamError, match=r"at byte 1|ends in 00"):
        remove_emulation_prevention(bytes.fromhex(data))


def test_large_payloads_are_escaped_in_bounded_time() -> None:
    zeros = bytes(3_000_000) + b"\x80"
    escaped = add_emulation_prevention(zeros)
    assert len(escaped) == len(zeros) + 1_499_999
    assert remove_emulation_prevention(escaped) == zeros


@settings(deadline=None)
@given(st.lists(nals, max_size=8), length_sizes, length_sizes)
def test_framing_round_trips(units: list[bytes], source: int | None, target: int | None) -> None:
    framed = join_nal_units(units, length_size=source)
    split = split_nal_units(framed, length_size=source)
    assert [nal.data for nal in split] == units
    assert b"".join(nal.raw for nal in split) == framed
    assert reframe(framed, source=source, target=target) == join_nal_units(units, length_size=target)


def test_annex_b_takes_both_start_codes_and_zeros_around() -> None:
    unit = bytes.fromhex("0000 000001 0910 00 000001 6588 0000")
    first, second = split_nal_units(unit)
    assert (first.data.hex(), second.data.hex()) == ("0910", "6588")
    assert (second.offset, second.payload_offset, second.stop) == (7, 11, 13)
    assert split_nal_units(b"") == split_nal_units(bytes(5)) == []


@pytest.mark.parametrize(
    ("unit", "length_size", "message"),
    [
        ("6588", None, "does not begin with a start code"),
        ("ff00000165", None, "does not begin with a start code"),
        ("000001000001 65", None, "at byte 3 of 7 is empty"),
        ("00000165 000001", None, "at byte 7 of 7 is empty"),
        ("00000000", 4, "at byte 4 claims 0 bytes"),
        ("00000003 6588", 4, "at byte 4 claims 3 bytes, expected 1 to 2"),
        ("ffffffff 6588", 4, "at byte 4 claims 4294967295 bytes"),
        ("0001 65 00", 2, "length at byte 3 needs 2 bytes, found 1"),
    ],
)
def test_malformed_framing_is_refused_with_its_place(
    unit: str, length_size: int | None, message: str
) -> None:
    with pytest.raises(BitstreamError, match=message):
        split_nal_units(bytes.fromhex(unit), length_size=length_size)


@pytest.mark.parametrize(("unit", "length_size"), [(b"\0\0\1e", None), (b"\1e", 1)])
def test_the_number_of_nal_units_is_bounded(unit: bytes, length_size: int | None) -> None:
    assert len(split_nal_units(unit * MAX_NAL_UNITS, length_size=length_size)) == MAX_NAL_UNITS
    with pytest.raises(BitstreamError, match=f"more than {MAX_NAL_UNITS} NAL units"):
        split_nal_units(unit * (MAX_NAL_UNITS + 1), length_size=length_size)


def test_what_does_not_fit_a_length_is_refused() -> None:
    with pytest.raises(BitstreamError, match="256 bytes, too many for a length of 1"):
        frame_nal_unit(bytes(256), length_size=1)
    with pytest.raises(BitstreamError, match="0 bytes"):
        frame_nal_unit(b"")
    with pytest.raises(ValueError, match="length_size is 3"):
        split_nal_units(b"", length_size=3)


def test_headers() -> None:
    assert parse_h264_header(b"\x65") == H264Header(nal_ref_idc=3, nal_unit_type=5)
    assert parse_h265_header(bytes.fromhex("42 01")) == H265Header(33, 0, 0)
    assert parse_h265_header(bytes.fromhex("27 fb")) == H265Header(19, 63, 2)
    for data in (b"", b"\x80"):
        with pytest.raises(BitstreamError, match=r"H\.264 NAL unit begins"):
            parse_h264_header(data)
    for data in (b"", b"\x42", b"\xc2\x01", b"\x42\x00"):
        with pytest.raises(BitstreamError, match=r"H\.265 NAL unit begins"):
            parse_h265_header(data)


@pytest.mark.parametrize("codec", list(NalCodec))
def test_real_streams_decode_alike_in_both_framings(codec: NalCodec) -> None:
    stream = encode_mp4(moving(8, 98, 70), codec)
    sets = join_nal_units(parameter_sets(stream.extradata, codec=codec))
    packets = [(reframe(data, source=4, target=None), pts) for data, pts in stream.packets]
    assert [reframe(data, source=None, target=4) for data, _ in packets] == [d for d, _ in stream.packets]
    packets[0] = (sets + packets[0][0], packets[0][1])
    assert not differing(play(Stream(codec, None, tuple(packets), None)), play(stream))


@pytest.mark.parametrize(("codec", "idr_type"), [(NalCodec.H264, 5), (NalCodec.H265, 20)])
def test_first_slice_of_real_streams(codec: NalCodec, idr_type: int) -> None:
    # IDR, and IDR_N_LP.
    data, _ = encode(moving(1, 98, 70), codec).packets[0]
    found = first_vcl(split_nal_units(data), codec)
    assert found is not None
    assert nal_type(found, codec) == idr_type
    assert found.offset > 0
    assert first_vcl(split_nal_units(data[: found.offset]), codec) is None


def test_what_counts_as_the_first_slice() -> None:
    h264 = [frame_nal_unit(bytes([kind, 0x80])) for kind in (9, 7, 8, 6, 14, 5)]
    assert first_vcl(split_nal_units(b"".join(h264)), NalCodec.H264).raw == h264[4]  # type: ignore[union-attr]
    for kind in (1, 2, 5, 20, 21):
        assert first_vcl(split_nal_units(frame_nal_unit(bytes([kind, 0x80]))), NalCodec.H264) is not None
    for kind, is_slice in (
        (0, True),
        (9, True),
        (21, True),
        (32, False),
        (35, False),
        (39, False),
        (40, False),
    ):
        unit = frame_nal_unit(bytes([kind << 1, 1, 0x80]))
        assert (first_vcl(split_nal_units(unit), NalCodec.H265) is not None) is is_slice


@settings(deadline=None)
@given(tricky, length_sizes, st.sampled_from(list(NalCodec)))
def test_random_bytes_give_nal_units_or_bitstream_errors(
    data: bytes, length_size: int | None, codec: NalCodec
) -> None:
    try:
        found = split_nal_units(data, length_size=length_size)
        first_vcl(found, codec)
        for nal in found:
            remove_emulation_prevention(nal.data)
    except BitstreamError:
        pass
