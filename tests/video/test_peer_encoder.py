"""The peers' encoders, and scaling."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from video_media import RATE, pictures, psnr

from hybridprompt.bitstream.nal import split_nal_units
from hybridprompt.errors import CodecError, ConfigError
from hybridprompt.video.peer_encoder import (
    PeerSettings,
    decoded_pictures,
    encode_peer_file,
    fitted,
    restored,
    track_bytes,
    write_lossless,
)
from hybridprompt.video.picture import ColorInfo
from hybridprompt.video.source import VideoSource

COLOR = ColorInfo(1, 1, 1)
PRESETS = {"svt-av1": "10", "x264": "veryfast", "x265": "ultrafast", "vp9": "5"}


def peer(codec: str, crf: float, **more: object) -> PeerSettings:
    return PeerSettings(**{**values(codec, crf), **more})


def values(codec: str, crf: float) -> dict[str, object]:
    return {
        "codec": codec,
        "width": 96,
        "height": 64,
        "frame_rate": RATE,
        "crf": crf,
        "preset": PRESETS[codec],
        "gop_length": 12,
        "color": COLOR,
    }


@pytest.mark.parametrize("codec", PRESETS)
def test_keyframes_bytes_and_pictures(codec: str, tmp_path: Path) -> None:
    clip = pictures(26, color=COLOR)
    path = tmp_path / "peer.mp4"
    encode_peer_file(clip, peer(codec, 20), path)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [(p.size, p.is_keyframe, bytes(p)) for p in container.demux(stream) if p.size]
        beside = len(stream.codec_context.extradata or b"") if codec in ("x264", "x265") else 0
    assert [i for i, (_, is_key, _) in enumerate(packets) if is_key] == [0, 12, 24]
    assert track_bytes(path) == sum(size for size, _, _ in packets) + beside
    assert all(b"x264 - core" not in data and b"x265 (build" not in data for _, _, data in packets)
    shown = list(decoded_pictures(path, 96, 64, COLOR))
    assert len(shown) == 26
    assert min(psnr(a.y, b.y) for a, b in zip(clip, shown, strict=True)) > 30
    assert shown[0].color == COLOR


@pytest.mark.parametrize("codec", PRESETS)
def test_a_coarser_crf_takes_fewer_bytes(codec: str, tmp_path: Path) -> None:
    sizes = []
    for crf in (25, 45):
        encode_peer_file(pictures(12), peer(codec, crf), tmp_path / "peer.mp4")
        sizes.append(track_bytes(tmp_path / "peer.mp4"))
    assert sizes[1] < 0.7 * sizes[0]


def test_fractions_of_crf_matter(tmp_path: Path) -> None:
    sizes = set()
    for crf in (30, 30.25, 30.5):
        encode_peer_file(pictures(12), peer("svt-av1", crf), tmp_path / "peer.mp4")
        sizes.add(track_bytes(tmp_path / "peer.mp4"))
    assert len(sizes) == 3


def test_a_bitrate_takes_bytes_from_vp9(tmp_path: Path) -> None:
    sizes = []
    for kbps in (None, 100):
        encode_peer_file(pictures(24), peer("vp9", 20, bitrate_kbps=kbps), tmp_path / "peer.mp4")
        sizes.append(track_bytes(tmp_path / "peer.mp4"))
    assert sizes[1] < 0.8 * sizes[0]


@pytest.mark.parametrize("size", [(64, 48), (33, 21)])
def test_scaling_and_back(size: tuple[int, int]) -> None:
    picture = pictures(1, 95, 63)[0]
    small = fitted(picture, *size)
    assert (small.width, small.height) == size
    large = restored(small, 95, 63)
    assert large.y.shape == (63, 95)
    assert psnr(picture.y, large.y) > 14
    assert abs(float(np.mean(large.y)) - float(np.mean(picture.y))) < 2


def test_odd_sizes_are_padded_and_cropped() -> None:
    picture = pictures(1, 95, 63)[0]
    padded = fitted(picture, 96, 64)
    assert np.array_equal(padded.y[:63, :95], picture.y)
    assert np.array_equal(padded.y[63, :95], picture.y[62])
    back = restored(padded, 95, 63)
    assert all(np.array_equal(a, b) for a, b in zip(back.planes, picture.planes, strict=True))


def test_lossless_keeps_samples_colors_and_times(tmp_path: Path) -> None:
    clip = pictures(5, 95, 63, color=COLOR, pts=[0, 3, 6, 12, 15], time_base=Fraction(1, 60))
    assert write_lossless(clip, tmp_path / "cut.mkv", Fraction(20)) == 5
    source = VideoSource(tmp_path / "cut.mkv")
    assert source.color == COLOR
    for a, b in zip(clip, source.frames(), strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a.planes, b.planes, strict=True))
        assert abs(a.pts_seconds - b.pts_seconds) < 0.001


def test_failures_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(CodecError, match="no picture"):
        write_lossless([], tmp_path / "cut.mkv", RATE)
    mixed = [*pictures(2), *pictures(1, 48, 32)]
    with pytest.raises(CodecError):
        encode_peer_file(mixed, peer("svt-av1", 30), tmp_path / "peer.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codec": "h266"}, "codec is 'h266'"),
        ({"crf": 80}, "CRF of x264 is 80"),
        ({"codec": "vp9", "crf": 30.5}, "whole number"),
        ({"width": 95}, "even sizes"),
        ({"bitrate_kbps": 100}, "only VP9"),
        ({"gop_length": 0}, "gop_length 0"),
    ],
)
def test_settings_are_checked(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PeerSettings(**{**values("x264", 30), **changes})


def test_x264_codes_every_picture_as_one_slice(tmp_path: Path) -> None:
    # As its command line does; threads on slices cost it bytes, and the comparison would be unfair.
    path = tmp_path / "x264.mp4"
    encode_peer_file(pictures(4, width=64, height=256), peer("x264", 30, width=64, height=256), path)
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            if packet.size:
                kinds = [nal.data[0] & 31 for nal in split_nal_units(bytes(packet), length_size=4)]
                assert len([kind for kind in kinds if kind in (1, 5)]) == 1
