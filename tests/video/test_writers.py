import os
import sys
from fractions import Fraction
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import av
import numpy as np
import pytest
from video_media import RATE, pictures, psnr

from hybridprompt.errors import MediaError
from hybridprompt.video.files import PartialFile
from hybridprompt.video.picture import ColorInfo
from hybridprompt.video.source import VideoSource
from hybridprompt.video.writers import PictureWriter, PngDirWriter, VideoWriter, Y4mWriter


@pytest.mark.parametrize("width", [96, 97])
def test_y4m_is_exact(tmp_path: Path, width: int) -> None:
    clip = pictures(5, width, 65)
    path = tmp_path / "a.y4m"
    with Y4mWriter(path, frame_rate=Fraction(30000, 1001)) as writer:
        for picture in clip:
            writer.write(picture)
        writer.commit()
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == Fraction(30000, 1001)
        frames = list(container.decode(video=0))
    assert len(frames) == 5
    for frame, picture in zip(frames, clip, strict=True):
        plane = frame.planes[0]
        rows = np.frombuffer(bytes(plane), np.uint8).reshape(-1, plane.line_size)
        assert np.array_equal(rows[:65, :width], picture.y)
    assert list(tmp_path.iterdir()) == [path]


def test_video_writer_keeps_times_and_color(tmp_path: Path) -> None:
    times, color = [0, 10, 15, 100, 101, 350], ColorInfo(1, 1, 1, True)
    clip = pictures(6, pts=times, time_base=Fraction(1, 1000), color=color)
    for suffix in (".mp4", ".mkv"):
        path = tmp_path / f"b{suffix}"
        with VideoWriter(path, frame_rate=RATE) as writer:
            for picture in clip:
                writer.write(picture)
            writer.commit()
        source = VideoSource(path)
        shown = list(source)
        assert [round((p.pts_seconds or 0) * 1000) for p in shown] == times
        assert source.color == color
        assert all(psnr(a.y, b.y) > 40 for a, b in zip(shown, clip, strict=True))


def test_video_writer_grows_odd_sizes(tmp_path: Path) -> None:
    clip = pictures(2, 97, 65)
    with VideoWriter(tmp_path / "odd.mp4", frame_rate=RATE) as writer:
        for picture in clip:
            writer.write(picture)
        writer.commit()
    first = next(iter(VideoSource(tmp_path / "odd.mp4")))
    assert (first.width, first.height) == (98, 66)
    assert psnr(first.y[:65, :97], clip[0].y) > 40


def test_png_files_hold_the_rgb_picture(tmp_path: Path) -> None:
    clip = pictures(2, 97, 65, color=ColorInfo(6, 6, 6))
    with PngDirWriter(tmp_path / "frames") as writer:
        for picture in clip:
            writer.write(picture)
        writer.commit()
    files = sorted((tmp_path / "frames").iterdir())
    assert [file.name for file in files] == ["frame_000001.png", "frame_000002.png"]
    with av.open(str(files[1])) as container:
        rgb = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert np.array_equal(rgb, clip[1].to_rgb())
    with pytest.raises(MediaError, match="exists already"):
        PngDirWriter(tmp_path / "frames")


def make(kind: str, path: Path) -> PictureWriter:
    if kind == "png":
        return PngDirWriter(path)
    return Y4mWriter(path, frame_rate=RATE) if kind == "y4m" else VideoWriter(path, frame_rate=RATE)


@pytest.mark.parametrize("kind", ["y4m", "mp4", "png"])
@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
def test_interruption_leaves_no_file(tmp_path: Path, kind: str, failure: type[BaseException]) -> None:
    def interrupted() -> None:
        with make(kind, tmp_path / f"c.{kind}") as writer:
            writer.write(pictures(1)[0])
            raise failure

    with pytest.raises(failure):
        interrupted()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("kind", ["y4m", "mp4"])
def test_changing_size_and_existing_file_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"d.{kind}"
    with make(kind, path) as writer:
        writer.write(pictures(1)[0])
        with pytest.raises(MediaError, match="expected"):
            writer.write(pictures(1, 98, 64)[0])
    path.write_bytes(b"mine")
    with pytest.raises(MediaError, match="exists already"):
        make(kind, path)
    assert path.read_bytes() == b"mine"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_full_device() -> None:
    def fill() -> None:
        with Y4mWriter("/dev/full", frame_rate=RATE) as writer:
            for picture in pictures(4):
                writer.write(picture)
            writer.commit()

    with pytest.raises(MediaError, match="cannot be written"):
        fill()


def test_standard_output_and_broken_pipe() -> None:
    script = (
        "import sys; from fractions import Fraction; import numpy as np\n"
        "from hybridprompt.errors import MediaError\n"
        "from hybridprompt.video.picture import Picture\n"
        "from hybridprompt.video.writers import Y4mWriter\n"
        "y, c = np.zeros((64, 96), np.uint8), np.zeros((32, 48), np.uint8)\n"
        "try:\n"
        "    with Y4mWriter('-', frame_rate=Fraction(30)) as writer:\n"
        "        for _ in range(int(sys.argv[1])): writer.write(Picture(y, c, c))\n"
        "        writer.commit()\n"
        "except MediaError as error:\n"
        "    sys.stderr.write(str(error)); sys.exit(3)\n"
    )
    with Popen([sys.executable, "-c", script, "2"], stdout=PIPE) as process:
        assert process.stdout is not None
        data = process.stdout.read()
    assert process.returncode == 0
    assert data.startswith(b"YUV4MPEG2 W96 H64 F30:1 ")
    assert len(data) == data.index(b"\n") + 1 + 2 * (6 + 96 * 64 * 3 // 2)
    with Popen([sys.executable, "-c", script, "200"], stdout=PIPE, stderr=PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        message = process.stderr.read()
    assert process.returncode == 3
    assert message == b"standard output: the program that read it has ended"


@pytest.mark.parametrize("call", ["open", "replace"])
def test_a_signal_at_any_moment_leaves_no_png(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A signal's exception comes after the system call, before its result is kept."""
    real = getattr(os, call)

    def interrupted(*arguments: Any, **options: Any) -> None:
        result = real(*arguments, **options)
        monkeypatch.undo()
        if call == "open":
            os.close(result)
        raise SystemExit(143)

    writer = PngDirWriter(tmp_path / "png")
    picture = pictures(1)[0]
    writer.write(picture)
    monkeypatch.setattr(os, call, interrupted)
    with pytest.raises(SystemExit):
        writer.write(picture)
    writer.abort()
    assert list((tmp_path / "png").iterdir()) == []


def test_undoing_spares_the_file_that_was_there_before(tmp_path: Path) -> None:
    target = tmp_path / "mine"
    target.write_text("old")
    given_up = PartialFile(target, overwrite=True)
    given_up.discard()
    given_up.undo()
    assert target.read_text() == "old"
    file = PartialFile(target, overwrite=True)
    file.path.write_text("new")
    file.commit()
    assert target.read_text() == "new"
    file.undo()
    assert os.listdir(tmp_path) == []
