"""The SPS in force: by what decoders make of sizes, and whatever is damaged."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridprompt.bitstream.codec_config import parameter_sets
from hybridprompt.bitstream.hevc_active_sps import ActiveSps
from hybridprompt.bitstream.hevc_sps import H265Sps, parse_sps
from hybridprompt.bitstream.nal import H265Nal, NalCodec, has_idr, split_nal_units
from hybridprompt.errors import BitstreamError
from nal_media import encode, encode_mp4, moving, play


def nals_of(unit: bytes) -> list[bytes]:
    return [nal.data for nal in split_nal_units(unit)]


@pytest.mark.parametrize("size", [(96, 64), (98, 70), (130, 66)])
@pytest.mark.parametrize("is_mp4", [False, True])
def test_size_and_window_are_those_of_decoders(size: tuple[int, int], is_mp4: bool) -> None:
    stream = (encode_mp4 if is_mp4 else encode)(moving(6, *size), NalCodec.H265)
    active = ActiveSps()
    active.update(parameter_sets(stream.extradata, codec=NalCodec.H265))
    assert active.sps is None, "no slice yet"
    for data, _ in stream.packets:
        active.update(nal.data for nal in split_nal_units(data, length_size=stream.length_size))
        assert active.sps is not None
        whole = play(stream, cropped=False)[0]
        assert active.sps.coded_size == (whole.width, whole.height)
        left, right, top, bottom = active.sps.crop
        assert (left, top) == (0, 0)
        assert (whole.width - right, whole.height - bottom) == size
    times = [pts for _, pts in stream.packets]
    reorder = max(sum(t > later for t in times[:n]) for n, later in enumerate(times))
    assert reorder <= active.sps.max_num_reorder <= 3


def test_the_sps_is_the_one_that_the_slices_pps_names() -> None:
    streams = [encode(moving(2, *size), NalCodec.H265) for size in ((96, 64), (98, 70))]
    active = ActiveSps()
    for stream in streams:
        active.update(nals_of(stream.packets[0][0]))
        assert active.sps is not None
    assert active.sps.crop == (0, 6, 0, 2)
    # Parameter sets alone change nothing, nor does what follows the first slice.
    sets = [n for n in nals_of(streams[0].packets[0][0]) if n[0] >> 1 in (H265Nal.SPS, H265Nal.PPS)]
    slices = [n for n in nals_of(streams[1].packets[0][0]) if n[0] >> 1 in H265Nal.VCL]
    active.update(sets)
    assert active.sps.crop == (0, 6, 0, 2)
    active.update([slices[0], b"malformed"])
    assert active.sps.crop == (0, 0, 0, 0)
    fresh = ActiveSps()
    fresh.update(slices)
    assert fresh.sps is None


def ue(value: int) -> str:
    """Exp-Golomb (H.265 9.2), as a string of bits."""
    digits = f"{value + 1:b}"
    return "0" * (len(digits) - 1) + digits


def test_sps_by_hand() -> None:
    """H.265 7.3.2.2, field by field: 4:2:2, a window, and of two sub-layers the last counts."""
    bits = "0000" + "001" + "1"  # VPS 0, two sub-layers, temporal id nesting
    bits += "1" * 96 + "00" + "0" * 14  # profile, tier, level; none of the sub-layer; reserved
    bits += ue(5) + ue(2) + ue(64) + ue(32)  # id, chroma_format_idc, width, height
    bits += "1" + ue(1) + ue(2) + ue(3) + ue(4)  # conformance window
    bits += ue(0) + ue(0) + ue(0)  # bit depths, POC bits
    bits += "1" + ue(4) + ue(1) + ue(0) + ue(4) + ue(2) + ue(0)
    bits += "1" + "1"  # all that follows, and the stop bit
    bits += "0" * (-len(bits) % 8)
    payload = int(bits, 2).to_bytes(len(bits) // 8, "big")
    assert parse_sps(b"\x42\1" + payload) == H265Sps(5, (64, 32), (2, 4, 3, 4), 2)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6), st.integers(1, 400))
def test_any_bytes_give_a_set_or_a_bitstream_error(damage: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(_UNIT[:cut])
    for position, value in damage:
        data[position % len(data)] = value
    with contextlib.suppress(BitstreamError):
        active = ActiveSps()
        active.update(nals_of(bytes(data)))
        assert active.sps is None or active.sps.max_num_reorder <= 15


def test_idr_pictures_are_found() -> None:
    for codec in NalCodec:
        for is_mp4 in (False, True):
            stream = (encode_mp4 if is_mp4 else encode)(moving(20, 96, 64), codec)
            found = [
                pts for data, pts in stream.packets if has_idr(data, codec, length_size=stream.length_size)
            ]
            assert found == [0, 16]
        with pytest.raises(BitstreamError):
            has_idr(b"no start code", codec)


_UNIT = encode(moving(2, 98, 70), NalCodec.H265).packets[0][0]
