"""`hybridprompt encode`: what its options and messages say."""

from pathlib import Path
from typing import get_args

import pytest

from hybridprompt.cli import main
from hybridprompt.cli.encode import _STAGES
from hybridprompt.encode.progress import Stage


def test_a_buffer_wants_a_maximum_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.mp4"
    assert main(["encode", str(tmp_path / "in.mp4"), str(output), "--crf", "50", "--buffer", "2"]) == 1
    assert "a buffer goes with a maximum rate" in capsys.readouterr().err
    assert not output.exists()


def test_every_stage_has_a_text() -> None:
    assert set(_STAGES) == set(get_args(Stage))
    assert _STAGES["correct"] == "meeting the target"
