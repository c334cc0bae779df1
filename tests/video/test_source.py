import logging
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from video_media import pictures, psnr, write_audio_only, write_clip

from hybridprompt.errors import MediaError
from hybridprompt.video.picture import BT601_525, BT709, ColorInfo, Picture
from hybridprompt.video.scaling import scaled
from hybridprompt.video.source import VideoSource


def close(a: Picture, b: Picture, limit: float = 33) -> bool:
    return all(psnr(p, q) > limit for p, q in zip(a.planes, b.planes, strict=True))


def test_reads_pictures_with_timestamps(tmp_path: Path) -> None:
    clip = pictures(10)
    source = VideoSource(write_clip(tmp_path / "plain.mp4", clip))
    shown = list(source)
    assert (source.width, source.height, source.average_rate) == (96, 64, 30)
    assert source.duration_seconds == pytest.approx(10 / 30, abs=0.01)
    assert not source.has_audio
    assert not source.interlaced
    assert source.hdr is None
    assert [picture.pts_seconds for picture in shown] == pytest.approx([i / 30 for i in range(10)])
    assert all(close(a, b) for a, b in zip(shown, clip, strict=True))


def test_variable_frame_rate_is_kept(tmp_path: Path) -> None:
    times = [0, 10, 15, 100, 101, 350]
    clip = pictures(6, pts=times, time_base=Fraction(1, 1000))
    source = VideoSource(write_clip(tmp_path / "vfr.mkv", clip))
    assert [round((p.pts_seconds or 0) * 1000) for p in source] == times


def test_missing_timestamps_follow_the_frame_rate(tmp_path: Path) -> None:
    # A bare H.264 stream has no container and hence no timestamps worth the name.
    path = tmp_path / "bare.h264"
    write_clip(path, pictures(8), options={"crf": "4", "preset": "ultrafast", "bf": "0"})
    shown = list(VideoSource(path))
    steps = {b.pts - a.pts for a, b in pairwise(shown)}  # type: ignore[operator]
    assert len(shown) == 8
    assert min(steps) > 0


def test_pictures_are_scaled_and_keep_their_times_and_their_shape(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "plain.mp4", pictures(10))
    full, small = VideoSource(path), VideoSource(path, size=(50, 32))
    shown = list(small)
    assert (small.width, small.height) == (50, 32)
    assert all((picture.width, picture.height) == (50, 32) for picture in shown)
    assert [picture.pts for picture in shown] == [picture.pts for picture in full]
    assert small.sample_aspect_ratio * 50 / 32 == full.sample_aspect_ratio * 96 / 64
    # 64 lines or 32, BT.601 is what a guess says; of 720 lines it is BT.709, and stays so.
    assert small.color.matrix == shown[0].color.matrix == BT601_525
    tall = write_clip(tmp_path / "tall.mp4", pictures(1, 96, 720))
    assert VideoSource(tall, size=(64, 480)).color.matrix == BT709
    assert next(VideoSource(tall, size=(64, 480)).frames()).color.matrix == BT709
    assert close(shown[3], scaled(list(full)[3], 50, 32), 90)


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize("hflip", [False, True])
def test_display_matrix_is_applied(tmp_path: Path, degrees: int, hflip: bool) -> None:
    clip = pictures(2)
    path = write_clip(tmp_path / f"turned{degrees}{hflip}.mp4", clip, rotation=degrees, hflip=hflip)
    source = VideoSource(path)
    first = next(iter(source))
    # PyAV's set_display_rotation: turned counterclockwise, then mirrored.
    expected = [np.rot90(plane, degrees // 90) for plane in clip[0].planes]
    expected = [plane[:, ::-1] if hflip else plane for plane in expected]
    assert (source.width, source.height) == (first.width, first.height)
    assert close(first, Picture(*expected))


def test_odd_size_is_kept(tmp_path: Path) -> None:
    clip = pictures(3, 97, 65)
    source = VideoSource(write_clip(tmp_path / "odd.mkv", clip, codec="ffv1", options={}))
    assert (source.width, source.height) == (97, 65)
    assert all(close(a, b, 90) for a, b in zip(source, clip, strict=True))


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuv422p", "yuv444p"])
def test_other_formats_become_eight_bit_420(tmp_path: Path, pix_fmt: str) -> None:
    clip = pictures(2)
    path = write_clip(tmp_path / f"{pix_fmt}.mkv", clip, codec="ffv1", options={}, pix_fmt=pix_fmt)
    assert psnr(next(iter(VideoSource(path))).y, clip[0].y) > 45


@pytest.mark.parametrize("full_range", [False, True])
def test_color_tags_are_kept(tmp_path: Path, full_range: bool) -> None:
    color = ColorInfo(5, 5, 6, full_range)
    clip = pictures(2, color=color)
    source = VideoSource(write_clip(tmp_path / f"bt601{full_range}.mp4", clip, color=color))
    assert source.color == color
    # Full range is a tag here, never a reason to touch samples.
    assert close(next(iter(source)), clip[0])


def test_hdr_is_tone_mapped_and_named(tmp_path: Path) -> None:
    color = ColorInfo(9, 9, 16)
    clip = [Picture(np.full((64, 96), 150, np.uint8), *(np.full((32, 48), 128, np.uint8),) * 2, 0)]
    path = write_clip(
        tmp_path / "pq.mkv", clip, codec="libx264", pix_fmt="yuv420p10le", color=color, rate=Fraction(25)
    )
    source = VideoSource(path)
    assert source.hdr == "HDR (PQ, SMPTE ST 2084)"
    mapped = next(iter(source))
    assert mapped.color == source.color == ColorInfo(1, 1, 1)
    untouched = next(iter(VideoSource(path, tone_map=False)))
    assert untouched.color == color
    assert abs(int(np.median(untouched.y)) - 150) <= 1
    # 150 is a PQ code of 61 %, about 250 cd/m²: brighter than that in SDR, but not clipped to white.
    assert 151 < np.median(mapped.y) < 230


def test_subrange(tmp_path: Path) -> None:
    clip = pictures(40)
    path = write_clip(
        tmp_path / "long.mp4", clip, options={"crf": "4", "preset": "ultrafast", "g": "8", "bf": "2"}
    )
    source = VideoSource(path)
    shown = list(source.frames(start_seconds=20 / 30, duration_seconds=5 / 30))
    assert [round((p.pts_seconds or 0) * 30) for p in shown] == [20, 21, 22, 23, 24]
    assert close(shown[0], clip[20])
    assert [round((p.pts_seconds or 0) * 30) for p in source.frames(duration_seconds=2 / 30)] == [0, 1]
    assert list(source.frames(start_seconds=99)) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.mp4", b"this is not a video\n" * 100, "not a media file"),
        ("empty.mp4", b"", "empty"),
        ("missing.mp4", None, "no such file"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MediaError, match=message) as caught:
        VideoSource(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_directory_audio_only_and_empty_track(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="is a directory"):
        VideoSource(tmp_path)
    with pytest.raises(MediaError, match="no video track, only audio"):
        VideoSource(write_audio_only(tmp_path / "sound.mp4"))
    path = tmp_path / "nopictures.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        output.start_encoding()
    with pytest.raises(MediaError, match="nopictures"):
        VideoSource(path)


def test_names_cannot_reach_protocols() -> None:
    with pytest.raises(MediaError, match="no such file"):
        VideoSource("concat:/etc/hostname|/etc/hosts")


def test_truncated_file_gives_what_is_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = write_clip(tmp_path / "whole.mp4", pictures(30), movflags="faststart").read_bytes()
    path = tmp_path / "truncated.mp4"
    path.write_bytes(whole[: len(whole) * 6 // 10])
    with caplog.at_level(logging.WARNING):
        shown = list(VideoSource(path))
    assert 5 < len(shown) < 30
    assert "truncated.mp4" in caplog.text


def test_index_at_the_end_cut_off(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole2.mp4", pictures(10)).read_bytes()
    path = tmp_path / "noindex.mp4"
    path.write_bytes(whole[: len(whole) - 300])
    with pytest.raises(MediaError, match=r"noindex\.mp4"):
        VideoSource(path)


def test_damage_in_the_middle_is_survived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "damaged.mkv"
    write_clip(path, pictures(30), codec="libsvtav1", options={"preset": "10", "g": "5"})
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 40] = b"\xa5" * 40
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        shown = list(VideoSource(path))
    assert 15 <= len(shown) <= 30


def test_absurd_size_is_refused(tmp_path: Path) -> None:
    # IVF and VP8 state the size in plain words, so a header is easily made: 16383x16383.
    ivf = b"DKIF\0\0\x20\0VP80" + (65000).to_bytes(2, "little") * 2
    ivf += (30).to_bytes(4, "little") + (1).to_bytes(4, "little") + bytes(8)
    ivf += (20).to_bytes(4, "little") + bytes(8) + b"\x10\x02\0\x9d\x01\x2a" + b"\xff\x3f\xff\x3f" + bytes(10)
    path = tmp_path / "absurd.ivf"
    path.write_bytes(ivf)
    with pytest.raises(MediaError, match=r"absurd\.ivf: pictures of 16383x16383 are too large"):
        VideoSource(path)
