"""`hybridprompt inspect`, and the example."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hybridprompt.cli import main

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.usefixtures("fake_is_shipped")
def test_tables(prompted_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(prompted_file)]) == 0
    out = capsys.readouterr().out
    assert "GOPs" in out
    assert "Prompts" in out
    assert "fake" in out
    assert "80% of" in out


@pytest.mark.usefixtures("fake_is_shipped")
def test_json(prompted_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(prompted_file), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found = json.loads(out)
    assert found["totals"]["gop_count"] == 5
    assert found["gops"][4]["anchors"][1]["generator_name"] == "fake"


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path / "nowhere.mp4")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("hybridprompt: error: ")
    assert len(err.splitlines()) == 1


def test_the_example_runs(prompted_file: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "read_pictures.py")]
    done = subprocess.run([*command, str(prompted_file)], capture_output=True, text=True, check=True)
    first, *pictures = [line for line in done.stdout.splitlines() if not line.startswith("warning")]
    assert first.startswith("158x90, 30 pictures/s")
    assert len(pictures) == 10
    failed = subprocess.run(
        [*command, str(tmp_path / "nowhere.mp4")], capture_output=True, text=True, check=False
    )
    assert failed.returncode == 1
    assert "no such file" in failed.stderr
