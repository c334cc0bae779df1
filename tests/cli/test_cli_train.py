"""`hybridprompt pack-corpus`, `unpack-corpus` and what `export` refuses."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("PIL")

from hybridprompt.cli.app import main
from hybridprompt.train.sample_files import load_sample


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    (folder / "train").mkdir(parents=True)
    picture = np.full((96, 64), 90, np.uint8)
    for base_q_idx, is_key in ((120, True), (160, True), (160, False), (200, False)):
        np.savez(
            folder / "train" / f"{base_q_idx}-{int(is_key)}.npz",
            source=picture,
            coded=picture,
            base_q_idx=np.array(base_q_idx),
            is_key=np.array(is_key),
        )
    return folder


def test_a_corpus_is_packed_and_unpacked(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack, out = str(tmp_path / "pack.zip"), tmp_path / "out"
    limits = ["--finest-key", "150", "--finest-inter", "180"]
    arguments = ["pack-corpus", pack, str(corpus), "--crop", "32", "--workers", "1", *limits]
    assert main(arguments) == 0
    assert main(["unpack-corpus", pack, str(out), "--workers", "1"]) == 0
    told = capsys.readouterr().err
    assert "2 samples in" in told
    samples = [load_sample(path) for path in out.glob("train/*.npz")]
    assert {(s.base_q_idx, s.is_key) for s in samples} == {(160, True), (200, False)}
    assert all((s.width, s.height) == (32, 32) for s in samples)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--crop", "30"], "crop = 30"),
        (["--quality", "0"], "quality = 0"),
        (["--max-bytes", "50"], "no sample is small"),
    ],
)
def test_mistakes_are_told(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    pack = tmp_path / "pack.zip"
    assert main(["pack-corpus", str(pack), str(corpus), "--workers", "1", *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not pack.exists()
    pack.write_bytes(b"nothing")
    assert main(["unpack-corpus", str(pack), str(tmp_path / "out"), "--workers", "1"]) == 1
    assert "not a packed corpus" in capsys.readouterr().err


@pytest.mark.parametrize("precision", [[], ["--float16"]])
@pytest.mark.parametrize("option", ["--idle=0.1", "--seen=8"])
def test_channels_are_left_out_by_a_corpus(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], precision: list[str], option: str
) -> None:
    arguments = ["export", str(tmp_path / "ema.pt"), str(tmp_path / "out.onnx"), option, *precision]
    assert main(arguments) == 1
    assert f"{option.split('=')[0]}: only with --int8" in capsys.readouterr().err
