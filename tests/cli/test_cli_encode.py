"""`hybridprompt encode`: what its options and messages say."""

from fractions import Fraction
from pathlib import Path
from typing import get_args

import pytest

from hybridprompt.cli import main
from hybridprompt.cli.encode import _STAGES
from hybridprompt.encode import pipeline
from hybridprompt.encode.progress import EncodeSummary, Stage
from hybridprompt.encode.settings import EncodeSettings


def test_a_buffer_wants_a_maximum_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.mp4"
    assert main(["encode", str(tmp_path / "in.mp4"), str(output), "--crf", "50", "--buffer", "2"]) == 1
    assert "a buffer goes with a maximum rate" in capsys.readouterr().err
    assert not output.exists()


def test_every_stage_has_a_text() -> None:
    assert set(_STAGES) == set(get_args(Stage))
    assert _STAGES["correct"] == "meeting the target"


def test_mode_codec_and_legacy_keyframe_reach_the_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[EncodeSettings] = []

    def encode_file(source: Path, output: Path, settings: EncodeSettings, **options: object) -> EncodeSummary:
        asked.append(settings)
        return EncodeSummary(
            frames=1,
            duration_seconds=1.0,
            gops=1,
            anchors=1,
            base_bytes=100,
            prompt_bytes=10,
            target_kbps=None,
            crfs=(50.0,),
            distances=None,
            elapsed_seconds=1.0,
        )

    monkeypatch.setattr(pipeline, "encode_file", encode_file)
    names = [str(tmp_path / "in.mp4"), str(tmp_path / "out.mp4")]
    assert main(["encode", *names, "--crf", "50"]) == 0
    for codec in ("av1", "h265", "h264"):
        chosen = ["--mode", "replace", "--codec", codec, "--legacy-keyframe", "1500"]
        assert main(["encode", *names, "--crf", "50", *chosen]) == 0
    found = [(s.mode, s.codec, s.legacy_keyframe_bytes) for s in asked]
    assert found == [
        ("enhance", "av1", None),
        ("replace", "av1", 1500),
        ("replace", "h265", 1500),
        ("replace", "h264", 1500),
    ]
    assert {s.scale for s in asked} == {None}
    assert main(["encode", *names, "--crf", "50", "--scale", "2/3"]) == 0
    assert asked[-1].scale == Fraction(2, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode", "swap"], "mode is 'swap', expected one of enhance, replace"),
        (["--prompts", "some"], "prompts is 'some', expected one of gop, keyframe, blind, none"),
        (["--codec", "hevc"], "codec is 'hevc', expected one of av1, h265, h264"),
        (["--legacy-keyframe", "1500"], "mode replace only"),
        (["--mode", "replace", "--legacy-keyframe", "10"], "10 bytes, expected 200 to 1000000"),
        (["--scale", "3/2"], "scale is '3/2', expected a fraction from 1/8 to 1"),
        (["--scale", "small"], "scale is 'small', expected a fraction"),
        (["--codec", "h265", "--crf", "60"], "CRF of h265 is 60, expected 10 to 51"),
    ],
)
def test_unfit_choices_are_named(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.mp4"
    assert main(["encode", str(tmp_path / "in.mp4"), str(output), "--crf", "50", *arguments]) == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert not output.exists()


def test_a_size_in_bytes_is_a_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encode", "in.mp4", str(tmp_path / "out.mp4"), "--legacy-keyframe", "2k"]) == 2
    assert "--legacy-keyframe" in capsys.readouterr().err
