"""IDR pictures made of samples: exact in FFmpeg's decoder, and so are the pictures after them."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridprompt.bitstream.bits import BitWriter
from hybridprompt.bitstream.codec_config import parameter_sets
from hybridprompt.bitstream.exp_golomb import write_se, write_trailing_bits, write_ue
from hybridprompt.bitstream.h264_headers import H264Pps, IdrSlice, parse_idr_slice, parse_pps, parse_sps
from hybridprompt.bitstream.h264_pcm import Planes, find_idr, replace_idr
from hybridprompt.bitstream.nal import NalCodec, add_emulation_prevention, join_nal_units, split_nal_units
from hybridprompt.errors import BitstreamError
from nal_media import Stream, differing, encode, encode_mp4, moving, play, same

SIZES = [(96, 64), (98, 70)]
# What changes the headers: no B-frames (picture order count type 2), CAVLC, several slices, Baseline.
VARIANTS = ["", "bframes=0", "cabac=0", "slices=3", "bframes=0:cabac=0:8x8dct=0:weightp=0"]
IDRS = (0, 16)


def spliced(stream: Stream, keyframes: dict[int, Planes]) -> Stream:
    sets = parameter_sets(stream.extradata, codec=NalCodec.H264)
    packets = tuple(
        (
            replace_idr(data, keyframes[pts], parameter_sets=sets, length_size=stream.length_size)
            if pts in keyframes
            else data,
            pts,
        )
        for data, pts in stream.packets
    )
    return Stream(stream.codec, stream.extradata, packets, stream.length_size)


def parameter_sets_of(stream: Stream) -> list[bytes]:
    return [nal.data for nal in split_nal_units(stream.packets[0][0]) if nal.data[0] & 31 in (7, 8)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("is_mp4", [False, True])
@pytest.mark.parametrize("params", VARIANTS)
def test_the_decoded_keyframe_changes_nothing(size: tuple[int, int], is_mp4: bool, params: str) -> None:
    stream = (encode_mp4 if is_mp4 else encode)(moving(24, *size), NalCodec.H264, params=params)
    grid = play(stream, cropped=False)
    for replaced in ((0,), (16,), IDRS):
        again = spliced(stream, {pts: grid[pts].planes for pts in replaced})
        assert not differing(play(again), play(stream))
        assert not differing(play(again, cropped=False), grid)


@pytest.mark.parametrize("size", SIZES)
def test_another_picture_is_shown_and_predicted_from(size: tuple[int, int]) -> None:
    stream = encode(moving(20, *size), NalCodec.H264)
    # Every sample value, long runs of zeros and what looks like start codes.
    rng = np.random.default_rng(3)
    others = moving(1, *size, seed=9)[0].copied()
    others.y[:20] = rng.integers(0, 4, others.y[:20].shape)
    others.y[20:30] = 0
    others.u[:] = rng.integers(0, 256, others.u.shape)
    shown = play(spliced(stream, {0: others.planes}))
    assert same(shown[0], others)
    plain = play(stream)
    assert [pts for pts in plain if same(shown[pts], plain[pts])] == list(range(16, 20))


def test_the_result_is_that_of_a_keyframe_which_x264_coded() -> None:
    # 96x64 has no hidden samples. Another picture's IDR slices under the same parameter sets conform, too.
    stream, other = (encode(moving(n, 96, 64, seed=n), NalCodec.H264) for n in (16, 1))
    assert parameter_sets_of(other) == parameter_sets_of(stream)
    exchanged = Stream(stream.codec, None, (other.packets[0], *stream.packets[1:]), None)
    ours = spliced(stream, {0: play(other)[0].planes})
    assert not differing(play(ours), play(exchanged))
    assert len(differing(play(ours), play(stream))) == 16


def test_hidden_samples_repeat_the_nearest_visible_one() -> None:
    stream = encode(moving(6, 98, 70), NalCodec.H264)
    other = moving(1, 98, 70, seed=5)[0]
    grid = play(spliced(stream, {0: other.planes}), cropped=False)[0]
    rows, columns = np.minimum(np.arange(80), 69), np.minimum(np.arange(112), 97)
    assert np.array_equal(grid.y, other.y[rows][:, columns])
    rows, columns = np.minimum(np.arange(40), 34), np.minimum(np.arange(56), 48)
    assert np.array_equal(grid.u, other.u[rows][:, columns])
    assert np.array_equal(grid.v, other.v[rows][:, columns])


def test_a_spliced_keyframe_can_be_replaced_again() -> None:
    stream = encode(moving(3, 98, 70), NalCodec.H264)
    first, second = (moving(1, 98, 70, seed=seed)[0].planes for seed in (5, 6))
    once = spliced(stream, {0: first})
    twice = spliced(once, {0: second})
    idr = find_idr(twice.packets[0][0])
    assert idr is not None
    assert (idr.header.pps_id, idr.free_pps_id) == (2, 3)
    assert not differing(play(twice), play(spliced(stream, {0: second})))


def test_all_other_nal_units_stay() -> None:
    stream = encode(moving(1, 98, 70), NalCodec.H264, params="slices=2:aud=1")
    before = split_nal_units(stream.packets[0][0])
    after = split_nal_units(spliced(stream, {0: play(stream)[0].planes}).packets[0][0])
    kinds = [nal.data[0] & 31 for nal in after]
    assert [nal.data[0] & 31 for nal in before].count(5) == 2
    assert kinds[-2:] == [8, 5]
    assert [nal.data for nal in after[:-2]] == [nal.data for nal in before if nal.data[0] & 31 != 5]


def test_headers_of_x264() -> None:
    stream = encode(moving(20, 98, 70), NalCodec.H264)
    first, second = (find_idr(stream.packets[index][0]) for index in (0, 16))
    assert first is not None
    assert second is not None
    assert (first.sps.size, first.sps.coded_size) == ((98, 70), (112, 80))
    assert first.header.idr_pic_id != second.header.idr_pic_id
    assert (first.header.frame_num, first.header.poc_lsb, first.free_pps_id) == (0, 0, 1)
    assert find_idr(stream.packets[1][0]) is None
    with pytest.raises(BitstreamError, match="no IDR slice"):
        replace_idr(stream.packets[1][0], play(stream)[1].planes)


@pytest.mark.parametrize("params", VARIANTS)
def test_the_new_slice_has_the_numbers_of_the_old_one(params: str) -> None:
    # FFmpeg does not mind wrong ones; the standard does (7.4.3: IDR pictures in a row differ in idr_pic_id).
    stream = encode(moving(20, 98, 70), NalCodec.H264, params=params)
    again = spliced(stream, {pts: play(stream)[pts].planes for pts in IDRS})
    for (before, pts), (after, _) in zip(stream.packets, again.packets, strict=True):
        if pts in IDRS:
            old, new = find_idr(before), find_idr(after)
            assert old is not None
            assert new is not None
            assert new.header == replace(old.header, pps_id=1)


def sps_nal(**changes: int) -> bytes:
    """A High profile SPS from H.264 7.3.2.1.1, fields by name."""
    field = {
        "profile": 100,
        "chroma": 1,
        "depth": 0,
        "matrix": 0,
        "poc_type": 0,
        "width": 5,
        "height": 3,
        "progressive": 1,
        "crop": 0,
    } | changes
    writer = BitWriter()
    writer.f(8, field["profile"])
    writer.f(16, 40)
    write_ue(writer, 0)
    for name in ("chroma", "depth", "depth"):
        write_ue(writer, field[name])
    writer.f(1, 0)
    writer.f(1, field["matrix"])
    write_ue(writer, 0)
    write_ue(writer, field["poc_type"])
    write_ue(writer, 2)
    write_ue(writer, 3)
    writer.f(1, 0)
    write_ue(writer, field["width"])
    write_ue(writer, field["height"])
    writer.f(1, field["progressive"])
    writer.f(1, 1)
    writer.f(1, 1)
    for _ in range(4):
        write_ue(writer, field["crop"])
    write_trailing_bits(writer)
    return b"\x67" + add_emulation_prevention(writer.to_bytes())


def pps_nal(*, groups: int = 0, bottom: int = 0, redundant: int = 0) -> bytes:
    writer = BitWriter()
    for value in (0, 0):
        write_ue(writer, value)
    writer.f(2, bottom)
    for value in (groups, 2, 0):
        write_ue(writer, value)
    writer.f(3, 0)
    for value in (-3, 0, -2):
        write_se(writer, value)
    writer.f(3, 0b100 | redundant)
    write_trailing_bits(writer)
    return b"\x68" + writer.to_bytes()


def test_handmade_headers() -> None:
    sps = parse_sps(sps_nal(crop=3))
    assert (sps.size, sps.coded_size, sps.crop) == ((84, 52), (96, 64), (6, 6, 6, 6))
    assert (sps.frame_num_bits, sps.poc_lsb_bits) == (4, 6)
    pps = parse_pps(pps_nal(bottom=1, redundant=1))
    assert pps == H264Pps(0, 0, True, True)
    writer = BitWriter()
    for value in (0, 7, 0):
        write_ue(writer, value)
    writer.f(4, 0)
    write_ue(writer, 77)
    writer.f(6, 33)
    write_se(writer, -4)
    write_ue(writer, 0)
    writer.f(2, 0b01)
    write_trailing_bits(writer)
    slice_nal = b"\x45" + writer.to_bytes() + bytes([255]) * 100
    assert parse_idr_slice(slice_nal, sps, pps) == IdrSlice(0, 2, 0, 77, 33, -4, False, True)


@pytest.mark.parametrize(
    ("nal", "message"),
    [
        (sps_nal(chroma=2), "chroma_format_idc is 2"),
        (sps_nal(depth=2), "bit_depth_luma_minus8 is 2"),
        (sps_nal(matrix=1), "seq_scaling_matrix_present_flag is 1"),
        (sps_nal(poc_type=1), "pic_order_cnt_type is 1"),
        (sps_nal(progressive=0), "frame_mbs_only_flag is 0"),
        (sps_nal(width=1055), "pic_width_in_mbs_minus1 .* is 1055"),
        (sps_nal(width=1000, height=1000), "1001x1001 macroblocks"),
        (sps_nal(crop=16), "leaves nothing"),
        (pps_nal(), "type 8, expected 7"),
        (b"\x67", "needed 8 bits"),
        (b"\x67" + b"\x64" * (1 << 16), "expected at most 65536"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(nal: bytes, message: str) -> None:
    with pytest.raises(BitstreamError, match=message):
        parse_sps(nal)


def test_slice_groups_are_refused() -> None:
    with pytest.raises(BitstreamError, match="num_slice_groups_minus1 is 1"):
        parse_pps(pps_nal(groups=1))


def test_missing_parameter_sets_and_wrong_planes_are_refused() -> None:
    stream = encode_mp4(moving(6, 98, 70), NalCodec.H264)
    data, planes = stream.packets[0][0], play(stream)[0].planes
    with pytest.raises(BitstreamError, match="refers to PPS 0, found PPS"):
        replace_idr(data, planes, length_size=4)
    sets = parameter_sets(stream.extradata, codec=NalCodec.H264)
    for wrong in (planes[0][1:], planes[0].astype(np.int16)):
        with pytest.raises(BitstreamError, match=r"plane y is .* expected \(70, 98\) or \(80, 112\) uint8"):
            replace_idr(data, (wrong, *planes[1:]), parameter_sets=sets, length_size=4)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 1 << 12), st.integers(1, 255)), max_size=6),
    st.one_of(st.none(), st.integers(0, 200)),
)
def test_damage_gives_a_splice_or_bitstream_errors(damage: list[tuple[int, int]], cut: int | None) -> None:
    unit = bytearray(_UNIT[:cut])
    for position, mask in damage:
        if unit:
            unit[position % min(len(unit), 80)] ^= mask
    with contextlib.suppress(BitstreamError):
        replace_idr(bytes(unit), _PLANES)


_STREAM = encode(moving(1, 96, 64), NalCodec.H264)
# Without x264's long message, so that damage hits headers.
_UNIT = join_nal_units(nal.data for nal in split_nal_units(_STREAM.packets[0][0]) if nal.data[0] != 6)
_PLANES = play(_STREAM)[0].planes


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_random_headers_give_values_or_bitstream_errors(data: bytes) -> None:
    sps, pps = parse_sps(sps_nal()), parse_pps(pps_nal())
    for call in (
        lambda: parse_sps(b"\x67" + data),
        lambda: parse_pps(b"\x68" + data),
        lambda: parse_idr_slice(b"\x65" + data, sps, pps),
    ):
        with contextlib.suppress(BitstreamError):
            call()
