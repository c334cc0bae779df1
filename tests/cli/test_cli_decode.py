"""`hybridprompt decode`."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest

from hybridprompt.cli import main
from hybridprompt.generator.fake import FakeGenerator
from hybridprompt.video import writers
from hybridprompt.video.av1_encoder import CodedPacket
from prompted_media import HEIGHT, WIDTH, assert_same, ffmpeg_decode, reference_decode

PROGRAM = [sys.executable, "-m", "hybridprompt"]


def y4m_planes(data: bytes) -> list:
    """Read YUV4MPEG2 without FFmpeg."""
    header, rest = data.split(b"\n", 1)
    assert header.startswith(f"YUV4MPEG2 W{WIDTH} H{HEIGHT} F30:1 ".encode())
    shapes = ((HEIGHT, WIDTH), (HEIGHT // 2, WIDTH // 2), (HEIGHT // 2, WIDTH // 2))
    stream, pictures = io.BytesIO(rest), []
    while line := stream.readline():
        assert line == b"FRAME\n"
        pictures.append(tuple(np.frombuffer(stream.read(h * w), np.uint8).reshape(h, w) for h, w in shapes))
    return pictures


@pytest.mark.usefixtures("fake_is_shipped")
def test_y4m_holds_the_generated_pictures(
    prompted_file: Path,
    prompted_gops: list[list[CodedPacket]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = tmp_path / "out.y4m"
    assert main(["decode", str(prompted_file), str(target)]) == 0
    expected = [p for gop in prompted_gops for p in reference_decode(gop, FakeGenerator())]
    assert_same(y4m_planes(target.read_bytes()), expected)
    out, err = capsys.readouterr()
    assert out == ""
    assert "85 pictures, 10 generated" in err
    assert os.listdir(tmp_path) == ["out.y4m"]


@pytest.mark.usefixtures("fake_is_shipped")
def test_base_start_duration_workers(prompted_file: Path, base_file: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.y4m"
    arguments = ["--base", "--start", "1", "--duration", "0.5", "--workers", "1"]
    assert main(["decode", str(prompted_file), str(target), *arguments]) == 0
    assert_same(y4m_planes(target.read_bytes()), ffmpeg_decode(base_file)[30:45])


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv"])
def test_visually_lossless_video(base_file: Path, tmp_path: Path, name: str) -> None:
    assert main(["decode", str(base_file), str(tmp_path / name)]) == 0
    for found, expected in zip(ffmpeg_decode(tmp_path / name), ffmpeg_decode(base_file), strict=True):
        assert np.abs(found[0].astype(int) - expected[0]).mean() < 2


def test_png_folder(base_file: Path, tmp_path: Path) -> None:
    assert main(["decode", str(base_file), "--frames", str(tmp_path / "png"), "--duration", "0.1"]) == 0
    assert sorted(os.listdir(tmp_path / "png")) == [f"frame_{n:06d}.png" for n in (1, 2, 3)]
    with av.open(str(tmp_path / "png" / "frame_000001.png")) as container:
        assert next(container.decode(video=0)).to_ndarray(format="rgb24").shape == (HEIGHT, WIDTH, 3)


def test_standard_output_is_only_for_pictures(prompted_file: Path, base_file: Path) -> None:
    done = subprocess.run([*PROGRAM, "decode", str(prompted_file), "-"], capture_output=True, check=True)
    assert_same(y4m_planes(done.stdout), ffmpeg_decode(base_file))
    warning, summary = done.stderr.decode().splitlines()
    assert "warning" in warning
    assert b"fakefake".hex() in warning
    assert "85 pictures" in summary


def test_quiet(prompted_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quiet", "decode", str(prompted_file), str(tmp_path / "out.y4m")]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_reader_who_goes_is_no_news(prompted_file: Path) -> None:
    command = [*PROGRAM, "-q", "decode", str(prompted_file), "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(20) == 1


def one_error(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("hybridprompt: error: ")
    return line


def test_errors_are_one_line_and_leave_nothing(
    base_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text"
    text.write_text("no video")
    target = tmp_path / "out.y4m"
    taken = tmp_path / "taken.y4m"
    taken.write_text("mine")
    cases = [
        ([str(tmp_path / "nowhere.mp4"), str(target)], "no such file"),
        ([str(text), str(target)], "text"),
        ([str(base_file), str(tmp_path / "out.avi")], "unknown file type"),
        ([str(base_file), str(tmp_path / "no" / "out.y4m")], "no directory"),
        ([str(base_file), str(taken)], "exists already"),
        ([str(base_file), str(target), "--start", "100"], "no picture could be decoded from 100 s"),
        ([str(base_file), str(target), "--generator", str(text)], "generator"),
        ([str(base_file), str(base_file), "--overwrite"], "the input itself"),
        ([str(base_file)], "nothing to write"),
        ([str(base_file), "/dev/full"], "No space left"),
    ]
    for arguments, message in cases:
        assert main(["decode", *arguments]) == 1
        assert message in one_error(capsys)
        assert sorted(os.listdir(tmp_path)) == ["taken.y4m", "text"]
    assert taken.read_text() == "mine"
    assert main(["decode", str(base_file), str(taken), "--overwrite"]) == 0
    assert len(taken.read_bytes()) > 1000


def test_an_error_in_the_middle_leaves_nothing(
    base_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object, picture: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writers.PngDirWriter, "write", full)
    target = [str(tmp_path / "out.mp4"), "--frames", str(tmp_path / "png")]
    assert main(["decode", str(base_file), *target]) == 1
    assert "No space left on device" in one_error(capsys)
    assert os.listdir(tmp_path) == ["png"]
    assert os.listdir(tmp_path / "png") == []


def test_unexpected_errors_are_told_too(
    base_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(self: object, picture: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(writers.Y4mWriter, "write", bug)
    arguments = ["decode", str(base_file), str(tmp_path / "out.y4m")]
    assert main(arguments) == 1
    line = one_error(capsys)
    assert "ZeroDivisionError" in line
    assert "--debug" in line
    assert os.listdir(tmp_path) == []
    assert main(["--debug", *arguments]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_work_leaves_nothing(base_file: Path, tmp_path: Path, number: int, status: int) -> None:
    """A pipe that nobody empties holds the program in the middle of its work."""
    command = [*PROGRAM, "decode", str(base_file), "-", "--frames", str(tmp_path / "png")]
    # A shell's background job ignores SIGINT, and hands that down.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    finally:
        signal.signal(signal.SIGINT, inherited)
    with started as process:
        until = time.monotonic() + 20
        while not list((tmp_path / "png").glob("frame_*.png")) and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
    assert process.returncode == status
    assert err == b""
    assert list((tmp_path / "png").iterdir()) == []


def test_wrong_usage_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decode"]) == 2
    assert "Missing argument" in capsys.readouterr().err
    assert main(["nonsense"]) == 2
    assert main(["decode", "a", "b", "--workers", "0"]) == 2


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("hybridprompt ")
    assert main(["--help"]) == 0
    assert "decode" in capsys.readouterr().out
