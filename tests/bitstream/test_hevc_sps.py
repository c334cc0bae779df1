"""SPS that let pictures out at once: real ones, handmade ones of every branch, and damage."""

import contextlib

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridprompt.bitstream.bits import BitWriter
from hybridprompt.bitstream.codec_config import map_parameter_sets, parameter_sets
from hybridprompt.bitstream.exp_golomb import write_trailing_bits, write_ue
from hybridprompt.bitstream.hevc_sps import (
    configuration_without_reordering,
    sps_without_reordering,
    unit_without_reordering,
)
from hybridprompt.bitstream.nal import NalCodec, add_emulation_prevention, split_nal_units
from hybridprompt.errors import BitstreamError
from nal_media import TICK, Stream, differing, encode, encode_mp4, moving, play


def sps(
    *,
    sub_layers: int = 1,
    all_sub_layers: bool = True,
    chroma: int = 1,
    window: bool = True,
    ordering: tuple[int, int, int] = (4, 2, 5),
    tail: str = "1011",
    layer: int = 0,
) -> bytes:
    """An SPS written straight from H.265 7.3.2.2.1; `tail` stands for all fields after the sub-layers'."""
    writer = BitWriter()
    writer.f(4, 0)
    writer.f(3, sub_layers - 1)
    writer.f(1, 1)
    writer.f(88, 0x1600000009000000000000)
    writer.f(8, 93)
    for i in range(sub_layers - 1):
        writer.f(2, i % 4)
    if sub_layers > 1:
        writer.f(2 * (9 - sub_layers), 0)
    for i in range(sub_layers - 1):
        if i % 4 >> 1:
            writer.f(88, (1 << 88) - 1 - i)
        if i % 4 & 1:
            writer.f(8, i)
    write_ue(writer, 0)
    write_ue(writer, chroma)
    if chroma == 3:
        writer.f(1, 0)
    write_ue(writer, 1920)
    write_ue(writer, 1088)
    writer.f(1, window)
    for offset in (0, 1, 2, 4) if window else ():
        write_ue(writer, offset)
    for value in (0, 0, 4):
        write_ue(writer, value)
    writer.f(1, all_sub_layers)
    for _ in range(sub_layers if all_sub_layers else 1):
        for value in ordering:
            write_ue(writer, value)
    for bit in tail:
        writer.f(1, int(bit))
    write_trailing_bits(writer)
    return bytes([33 << 1 | layer >> 5, (layer & 31) << 3 | 1]) + add_emulation_prevention(writer.to_bytes())


@settings(deadline=None, max_examples=150)
@given(
    st.integers(1, 7),
    st.booleans(),
    st.sampled_from([0, 1, 3]),
    st.booleans(),
    st.tuples(st.integers(0, 15), st.integers(0, 15), st.integers(0, 1000)),
    st.text("01", max_size=60),
)
def test_only_the_two_fields_change(
    sub_layers: int,
    all_sub_layers: bool,
    chroma: int,
    window: bool,
    ordering: tuple[int, int, int],
    tail: str,
) -> None:
    def make(ordering: tuple[int, int, int]) -> bytes:
        return sps(
            sub_layers=sub_layers,
            all_sub_layers=all_sub_layers,
            chroma=chroma,
            window=window,
            ordering=ordering,
            tail=tail,
        )

    expected = make((ordering[0], 0, 0))
    assert sps_without_reordering(make(ordering)) == expected
    assert sps_without_reordering(expected) == expected


def test_sps_of_other_layers_stay() -> None:
    other = sps(layer=1)
    assert sps_without_reordering(other) == other


@pytest.mark.parametrize("params", ["", "temporal-layers=3:b-pyramid=1"])
@pytest.mark.parametrize("is_mp4", [False, True])
def test_ffmpeg_gives_every_picture_at_once_and_the_same(is_mp4: bool, params: str) -> None:
    stream = (encode_mp4 if is_mp4 else encode)(moving(24, 98, 70), NalCodec.H265, params=params)
    assert [pts for _, pts in stream.packets] != sorted(pts for _, pts in stream.packets)
    extradata = configuration_without_reordering(stream.extradata) if stream.extradata else None
    packets = tuple(
        (unit_without_reordering(data, length_size=stream.length_size), pts) for data, pts in stream.packets
    )
    rewritten = Stream(NalCodec.H265, extradata, packets, stream.length_size)
    assert not differing(play(rewritten), play(stream))
    context = av.CodecContext.create("hevc", "r")
    context.thread_count, context.extradata = 1, extradata
    for data, pts in packets:
        packet = av.Packet(data)
        packet.pts, packet.time_base = pts, TICK
        assert [frame.pts for frame in context.decode(packet)] == [pts]


def test_all_else_of_an_access_unit_stays() -> None:
    stream = encode(moving(6, 96, 64), NalCodec.H265)
    data, rest = stream.packets[0][0], stream.packets[1][0]
    before, after = split_nal_units(data), split_nal_units(unit_without_reordering(data))
    assert [nal.data for nal in before if nal.data[0] >> 1 != 33] == [
        nal.data for nal in after if nal.data[0] >> 1 != 33
    ]
    assert unit_without_reordering(rest) == rest


@pytest.mark.parametrize(
    ("nal", "message"),
    [
        (b"", "begins with nothing"),
        (b"\x40\1\x0c", "type 32, expected 33"),
        (b"\x42\1", "needed 4 bits"),
        (b"\x42\1\x0f" + b"\xff" * 30, "sps_max_sub_layers_minus1 is 7"),
        (sps(chroma=4), "chroma_format_idc .* is 4"),
        (sps(ordering=(16, 0, 0)), "sps_max_dec_pic_buffering_minus1 .* is 16"),
        (b"\x42\1" + bytes([1]) + b"\xff" * (1 << 16), "expected at most 65536"),
    ],
)
def test_malformed_sps_are_refused(nal: bytes, message: str) -> None:
    with pytest.raises(BitstreamError, match=message):
        sps_without_reordering(nal)


def test_huge_numbers_are_refused() -> None:
    writer = BitWriter()
    writer.f(8, 1)
    writer.f(96, 93)
    write_ue(writer, 0)
    write_ue(writer, 1)
    writer.f(40, 1)
    with pytest.raises(BitstreamError, match=r"pic_width_in_luma_samples at bit 108 has more than 31"):
        sps_without_reordering(b"\x42\1" + add_emulation_prevention(writer.to_bytes() + b"\x80"))


def test_every_cut_within_the_fields_is_found() -> None:
    whole = sps(tail="1" * 64)
    for size in range(2, len(whole) - 9):
        with pytest.raises(BitstreamError):
            sps_without_reordering(whole[:size])


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=60), st.sampled_from([None, 1, 4]))
def test_random_bytes_give_values_or_bitstream_errors(data: bytes, length_size: int | None) -> None:
    for call in (
        lambda: sps_without_reordering(b"\x42\1" + data),
        lambda: unit_without_reordering(data, length_size=length_size),
        lambda: configuration_without_reordering(data),
        lambda: configuration_without_reordering(b"\1" + data),
    ):
        with contextlib.suppress(BitstreamError):
            call()


def test_real_configuration_keeps_its_other_sets() -> None:
    extradata = encode_mp4(moving(6, 96, 64), NalCodec.H265).extradata or b""
    rewritten = configuration_without_reordering(extradata)
    pairs = zip(
        parameter_sets(extradata, codec=NalCodec.H265),
        parameter_sets(rewritten, codec=NalCodec.H265),
        strict=True,
    )
    assert [a[0] >> 1 for a, b in pairs if a != b] == [33]


@pytest.mark.parametrize("zeros", [1, 2, 3])
def test_zeros_after_the_sps_of_a_configuration_are_no_damage(zeros: int) -> None:
    """FFmpeg's MPEG-TS demuxer hands out such ones."""
    stream = encode_mp4(moving(6, 96, 64), NalCodec.H265)
    assert stream.extradata is not None

    def padded(nal: bytes) -> bytes:
        return nal + bytes(zeros) if nal[0] >> 1 == 33 else nal

    extradata = map_parameter_sets(stream.extradata, padded, codec=NalCodec.H265)
    assert len(extradata) == len(stream.extradata) + zeros
    rewritten = configuration_without_reordering(extradata)
    assert rewritten == configuration_without_reordering(stream.extradata)
    played = play(Stream(NalCodec.H265, rewritten, stream.packets, stream.length_size))
    assert not differing(played, play(stream))
