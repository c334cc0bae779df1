"""`hybridprompt evaluate`."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from hybridprompt.cli import main

QUICK = [
    "--rates",
    "60k",
    "--methods",
    "x264",
    "--metrics",
    "PSNR-Y,Flicker",
    "--seconds",
    "0.3",
    "--no-report",
]


def test_a_run_and_its_repetition(
    prompted_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "--clips", str(prompted_file), "--output", str(tmp_path / "out"), *QUICK]
    assert main([*command, "--json"]) == 0
    out, err = capsys.readouterr()
    (record,) = map(json.loads, out.splitlines())
    assert (record["method"], record["target_kbps"], record["error"]) == ("x264", 60, None)
    assert "0 were there" in err
    before = (tmp_path / "out" / "results.jsonl").read_bytes()
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert "x264" in out
    assert "1 were there, 0 encodes made, 0 errors" in err
    assert (tmp_path / "out" / "results.jsonl").read_bytes() == before


def test_a_bad_clip_is_in_the_exit_status(
    prompted_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    clips = ["--clips", str(broken), "--clips", str(prompted_file)]
    assert main(["evaluate", *clips, "--output", str(tmp_path / "out"), *QUICK]) == 1
    out, err = capsys.readouterr()
    assert "x264" in out
    assert "broken, x264 at 60 kbit/s: unreadable clip" in err
    assert "Traceback" not in err


def test_a_missing_metric_is_in_the_exit_status(
    prompted_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hybridprompt.evaluate.metrics.find_vmaf", lambda: (None, "not there"))
    command = ["evaluate", "--clips", str(prompted_file), "--output", str(tmp_path / "out"), *QUICK]
    assert main([*command, "--metrics", "PSNR-Y,VMAF"]) == 1
    assert "missing: VMAF: not there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.toml"], "none.toml: No such file"),
        (["--rates", "fast"], "bitrate is 'fast'"),
        (["--methods", "svt"], "method is 'svt'"),
        (["--scales", "2"], "scale is '2'"),
        ([], "clips is empty"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *arguments, "--output", str(tmp_path / "out")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1


def test_interrupting_says_how_to_go_on(
    prompted_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hybridprompt.evaluate.peers.encode_peer_file", interrupt)
    command = ["evaluate", "--clips", str(prompted_file), "--output", str(tmp_path / "out"), *QUICK]
    assert main(command) == 130
    assert "goes on from here" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(command) == 0
