"""The H.264 and H.265 decoders: order, overwriting, damage."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridprompt.bitstream.nal import NalCodec
from hybridprompt.errors import CodecError
from hybridprompt.video.h264_decoder import H264Decoder
from hybridprompt.video.hevc_decoder import DisplayOrder, HevcDecoder
from nal_media import TICK, encode, encode_mp4, moving, play, same

DECODERS = {NalCodec.H264: H264Decoder, NalCodec.H265: HevcDecoder}
each_codec = pytest.mark.parametrize("codec", list(NalCodec))


@each_codec
@pytest.mark.parametrize("is_mp4", [False, True])
@pytest.mark.parametrize("cropped", [False, True])
def test_pictures_are_ffmpegs(codec: NalCodec, is_mp4: bool, cropped: bool) -> None:
    stream = (encode_mp4 if is_mp4 else encode)(moving(20, 98, 70), codec)
    expected = play(stream, cropped=cropped)
    with DECODERS[codec](stream.extradata, time_base=TICK, cropped=cropped) as decoder:
        frames = [frame for data, pts in stream.packets for frame in decoder.decode(data, pts)]
        frames += decoder.flush()
        assert decoder.flush() == []
    # As the stream is, both hold pictures back until they are in display order.
    assert [frame.pts for frame in frames] == list(range(20))
    assert [frame.is_keyframe for frame in frames] == [pts in (0, 16) for pts in range(20)]
    assert all(same(frame.picture, expected[frame.pts or 0]) for frame in frames)
    assert frames[3].picture.pts_seconds == pytest.approx(3 / 30)


@pytest.mark.parametrize("is_mp4", [False, True])
def test_a_keyframe_alone(is_mp4: bool) -> None:
    stream = (encode_mp4 if is_mp4 else encode)(moving(20, 98, 70), NalCodec.H264)
    expected = play(stream)
    with H264Decoder(stream.extradata, time_base=TICK) as decoder:
        for index in (16, 0, 0):
            data, pts = stream.packets[index]
            frame = decoder.decode_alone(data, pts)
            assert frame.pts == pts
            assert same(frame.picture, expected[pts])
        with pytest.raises(CodecError):
            decoder.decode_alone(stream.packets[5][0][:40], 1)


@each_codec
def test_damage_raises_or_conceals_but_never_hangs(codec: NalCodec) -> None:
    stream = encode(moving(6, 96, 64), codec)
    rng = np.random.default_rng(5)
    failures = 0
    for _ in range(40):
        data = bytearray(stream.packets[0][0])
        for position in rng.integers(0, len(data), 8):
            data[position] ^= int(rng.integers(1, 256))
        with DECODERS[codec]() as decoder:
            try:
                decoder.decode(bytes(data), 7)
                decoder.decode(stream.packets[1][0], 8)
                decoder.flush()
            except CodecError:
                failures += 1
    assert failures > 0


@each_codec
def test_refusals(codec: NalCodec) -> None:
    kind = DECODERS[codec]
    with pytest.raises(CodecError, match="0 threads"):
        kind(threads=0)
    with kind() as decoder:
        with pytest.raises(CodecError, match="pts 1 is empty"):
            decoder.decode(b"", 1)
        with pytest.raises(CodecError, match=r"packet with pts 3 \(140 bytes\)"):
            decoder.decode(b"garbage" * 20, 3)
        data, pts = encode(moving(1, 96, 64), codec).packets[0]
        assert [frame.pts for frame in [*decoder.decode(data, pts), *decoder.flush()]] == [pts]
    with pytest.raises(CodecError, match="closed"):
        decoder.decode(data, 0)


def test_extradata_that_ffmpeg_refuses() -> None:
    # Of H.264's it only complains in its log.
    with pytest.raises(CodecError, match=r"H\.265 decoder refuses its extradata"):
        HevcDecoder(b"\1" + b"\xff" * 30)


@given(st.permutations(range(0, 24, 2)), st.sets(st.sampled_from(range(0, 24, 2))))
def test_display_order(order: list[int], missing: set[int]) -> None:
    display = DisplayOrder[str](order)
    shown: list[str] = []
    for index, pts in enumerate(order):
        shown += display.skip(pts) if pts in missing else display.push(pts, str(pts))
        # Nothing waits that could be shown.
        ready = itertools.takewhile(order[: index + 1].__contains__, range(0, 24, 2))
        assert shown == [str(pts) for pts in ready if pts not in missing]
    assert display.flush() == []


def test_display_order_with_surprises() -> None:
    display = DisplayOrder[str]([0, 1, 2])
    assert display.push(2, "c") == []
    assert display.push(7, "unknown") == ["unknown"]
    assert display.push(2, "again") == ["again"]
    assert display.push(1, "b") == []
    assert display.flush() == ["b", "c"]
    assert display.flush() == []
