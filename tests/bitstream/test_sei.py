"""SEI messages with user data, read back here and by FFmpeg's decoders."""

import contextlib

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridprompt.bitstream.nal import NalCodec, join_nal_units, split_nal_units
from hybridprompt.bitstream.sei import (
    MAX_MESSAGES,
    SeiMessage,
    insert_user_data,
    parse_sei,
    strip_user_data,
    user_data_payloads,
    write_sei,
)
from hybridprompt.errors import BitstreamError
from nal_media import DECODERS, encode, encode_mp4, moving

UUID = bytes(range(0x10, 0x20))
OTHER = bytes(range(0x20, 0x30))
codecs = st.sampled_from(list(NalCodec))
each_codec = pytest.mark.parametrize("codec", list(NalCodec))
payloads = st.one_of(st.binary(max_size=600), st.lists(st.sampled_from([0, 0, 1, 3]), max_size=40).map(bytes))
messages = st.builds(SeiMessage, st.integers(0, 700), payloads)
# A parameter set and a slice: nothing here looks inside.
UNITS = {NalCodec.H264: ["6742", "6588aa"], NalCodec.H265: ["420107", "260188aa"]}


def unit_of(codec: NalCodec, length_size: int | None) -> bytes:
    return join_nal_units([bytes.fromhex(nal) for nal in UNITS[codec]], length_size=length_size)


@settings(deadline=None)
@given(st.lists(messages, min_size=1, max_size=5), codecs)
def test_messages_round_trip(written: list[SeiMessage], codec: NalCodec) -> None:
    assert parse_sei(write_sei(written, codec=codec), codec=codec) == written


@settings(deadline=None)
@given(payloads, codecs, st.sampled_from([None, 2, 4]))
def test_insert_find_strip(payload: bytes, codec: NalCodec, length_size: int | None) -> None:
    unit = unit_of(codec, length_size)
    carrying = insert_user_data(unit, UUID, payload, codec=codec, length_size=length_size)
    parameter_set, _, slice_nal = split_nal_units(carrying, length_size=length_size)
    assert [parameter_set.data.hex(), slice_nal.data.hex()] == UNITS[codec]
    assert user_data_payloads(carrying, UUID, codec=codec, length_size=length_size) == [payload]
    assert user_data_payloads(carrying, OTHER, codec=codec, length_size=length_size) == []
    assert strip_user_data(carrying, UUID, codec=codec, length_size=length_size) == unit
    assert strip_user_data(carrying, OTHER, codec=codec, length_size=length_size) == carrying


def test_worked_examples() -> None:
    message = SeiMessage(5, UUID + b"\0\0\1")
    body = "0513 101112131415161718191a1b1c1d1e1f 00000301 80"
    assert write_sei([message], codec=NalCodec.H264) == bytes.fromhex("06" + body)
    assert write_sei([message], codec=NalCodec.H265) == bytes.fromhex("4e01" + body)
    long = write_sei([SeiMessage(300, bytes([7]) * 510)], codec=NalCodec.H264)
    assert long[:6].hex() == "06ff2dffff00"


@each_codec
@pytest.mark.parametrize("is_mp4", [False, True])
def test_ffmpeg_finds_the_message(codec: NalCodec, is_mp4: bool) -> None:
    stream = (encode_mp4 if is_mp4 else encode)(moving(6, 96, 64), codec)
    payload = bytes(range(256)) * 3 + bytes(5)
    data = insert_user_data(stream.packets[0][0], UUID, payload, codec=codec, length_size=stream.length_size)
    context = av.CodecContext.create(DECODERS[codec], "r")
    context.thread_count = 1
    if stream.extradata:
        context.extradata = stream.extradata
    frames = [*context.decode(av.Packet(data)), *context.decode(None)]
    found = [bytes(side) for side in frames[0].side_data if side.type.name == "SEI_UNREGISTERED"]
    assert UUID + payload in found


@each_codec
def test_messages_of_one_nal_unit_are_told_apart(codec: NalCodec) -> None:
    ours, theirs = SeiMessage(5, UUID + b"x"), SeiMessage(5, OTHER + UUID)
    foreign_type = SeiMessage(4, UUID)
    mixed = write_sei([theirs, ours, foreign_type], codec=codec)
    nals = [bytes.fromhex(nal) for nal in UNITS[codec]]
    unit = join_nal_units([nals[0], mixed, nals[1]])
    assert user_data_payloads(unit, UUID, codec=codec) == [b"x"]
    kept = write_sei([theirs, foreign_type], codec=codec)
    assert strip_user_data(unit, UUID, codec=codec) == join_nal_units([nals[0], kept, nals[1]])
    assert strip_user_data(unit, UUID, codec=codec, prefix=b"y") == unit


@each_codec
def test_damage_in_others_messages_is_not_looked_at(codec: NalCodec) -> None:
    header = write_sei([SeiMessage(1, b"")], codec=codec)[: 1 if codec is NalCodec.H264 else 2]
    foreign = join_nal_units([header + bytes.fromhex("05ff80")])
    carrying = insert_user_data(foreign + unit_of(codec, None), UUID, b"", codec=codec)
    assert user_data_payloads(carrying, UUID, codec=codec) == [b""]
    with pytest.raises(BitstreamError, match=r"at byte 4 of .*claims 47 bytes"):
        user_data_payloads(join_nal_units([header + b"\5\x2f" + UUID + b"\x80"]), UUID, codec=codec)


@pytest.mark.parametrize(
    ("rbsp", "message"),
    [
        ("", "trailing bits"),
        ("80", "no message"),
        ("0502aa80", "claims 2 bytes, found 1"),
        ("05ffff80", "claims 638 bytes, found 0|cut off"),
        ("0580", "claims|cut off"),
        ("05030102", "trailing bits"),
        ("ffff80", "claims|cut off"),
    ],
)
def test_malformed_messages_are_refused(rbsp: str, message: str) -> None:
    with pytest.raises(BitstreamError, match=message):
        parse_sei(b"\6" + bytes.fromhex(rbsp), codec=NalCodec.H264)


def test_what_parsing_makes_is_bounded() -> None:
    many = b"\6" + b"\1\0" * (MAX_MESSAGES + 1) + b"\x80"
    with pytest.raises(BitstreamError, match="more than 1024 messages"):
        parse_sei(many, codec=NalCodec.H264)
    with pytest.raises(BitstreamError, match="expected at most 4194304"):
        parse_sei(b"\6" + bytes([255]) * (4 << 20) + b"\x80", codec=NalCodec.H264)


def test_bad_calls_and_units_without_slices() -> None:
    with pytest.raises(ValueError, match="UUID"):
        insert_user_data(unit_of(NalCodec.H264, None), bytes(16), b"", codec=NalCodec.H264)
    with pytest.raises(BitstreamError, match="no slice"):
        insert_user_data(b"\0\0\1\x67\1", UUID, b"", codec=NalCodec.H264)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 255)), max_size=4),
    st.integers(0, 70),
    codecs,
    st.sampled_from([None, 4]),
)
def test_damaged_units_give_values_or_bitstream_errors(
    damage: list[tuple[int, int]], cut: int, codec: NalCodec, length_size: int | None
) -> None:
    unit = bytearray(
        insert_user_data(
            unit_of(codec, length_size), UUID, b"abc\0\0\0", codec=codec, length_size=length_size
        )
    )
    for position, mask in damage:
        unit[position % len(unit)] ^= mask
    data = bytes(unit[: len(unit) - cut] if cut < len(unit) else unit)
    for call in (user_data_payloads, strip_user_data):
        with contextlib.suppress(BitstreamError):
            call(data, UUID, codec=codec, length_size=length_size)
    with contextlib.suppress(BitstreamError):
        insert_user_data(data, UUID, b"", codec=codec, length_size=length_size)
