"""Export to ONNX, in float32 and in 8-bit integers."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from train_media import TINY, tiny_config, write_samples  # noqa: E402

from hybridprompt.errors import ConfigError, GeneratorError  # noqa: E402
from hybridprompt.generator.network import GeneratorNetwork  # noqa: E402
from hybridprompt.generator.registry import load_file  # noqa: E402
from hybridprompt.generator.torch_weights import read_onnx  # noqa: E402
from hybridprompt.train import export as export_module  # noqa: E402
from hybridprompt.train.export import (  # noqa: E402
    compare_generators,
    export,
    export_float16,
    export_int8,
    load_weights,
)
from hybridprompt.train.graph import CHANGE  # noqa: E402
from hybridprompt.train.loop import Trainer  # noqa: E402
from hybridprompt.train.samples import coded_planes, even_samples  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    write_samples(folder / "corpus" / "train", 3)
    write_samples(folder / "corpus" / "validation", 2, seed=9)
    torch.manual_seed(3)
    network = GeneratorNetwork(TINY)
    # A head that does something: a fresh one gives the base.
    torch.nn.init.normal_(network.head.weight, std=0.02)
    state = {"network": network.state_dict(), "config": TINY.as_dict(), "step": 1}
    torch.save(state, folder / "ema.pt")
    return folder


def test_int8_computes_what_float32_does(folder: Path) -> None:
    equivalence, fidelity = export_int8(folder / "ema.pt", folder / "int8.onnx", folder / "corpus")
    export(folder / "ema.pt", folder / "float32.onnx")
    assert equivalence.largest <= 1
    assert fidelity.pictures == 2
    float32, int8 = load_file(folder / "float32.onnx"), load_file(folder / "int8.onnx")
    samples = even_samples(folder / "corpus" / "validation", 2)
    assert 0 < compare_generators(float32, int8, samples).rms <= 0.5
    # Both change the picture by far more than they differ.
    planes = coded_planes(samples[0])
    gate = np.ones((2, 2), np.float32)
    made = int8.generate(planes, quantiser=100, strengths=gate, block_size=64)[0]
    assert np.abs(made.astype(int) - planes[0]).mean() > 1


def test_int8_weights_keep_seven_bits(folder: Path) -> None:
    """With eight, processors without VNNI saturate, and make other pictures than the rest."""
    export_int8(folder / "ema.pt", folder / "seven.onnx", folder / "corpus")
    model = onnx.load(folder / "seven.onnx")
    kernels = [onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type == 3 and t.dims]
    kernels = [kernel for kernel in kernels if kernel.ndim == 4]
    assert len(kernels) == 8
    assert max(int(np.abs(kernel.astype(int)).max()) for kernel in kernels) <= 64


def test_what_is_added_becomes_bytes_before_the_gate_and_after(folder: Path) -> None:
    """In steps of which no number is half a level, so that no sample is between two levels."""
    export_int8(folder / "ema.pt", folder / "steps.onnx", folder / "corpus")
    model = onnx.load(folder / "steps.onnx")
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    (before,) = (node for node in model.graph.node if CHANGE in node.input)
    (bytes_,) = (node for node in model.graph.node if before.output[0] in node.input)
    (gated,) = (node for node in model.graph.node if bytes_.output[0] in node.input)
    assert gated.op_type == "Mul"
    (after,) = (node for node in model.graph.node if gated.output[0] in node.input)
    steps = []
    for node in (before, after):
        assert node.op_type == "QuantizeLinear"
        assert values[node.input[2]] == 128
        steps.append(255 * float(values[node.input[1]]))
    assert steps == pytest.approx([0.4, 0.4], rel=1e-6)
    assert all(abs(number * 0.4 % 1 - 0.5) > 0.05 for number in range(128))


def test_half_precision_makes_nearly_the_same_pictures(folder: Path) -> None:
    result = export_float16(folder / "ema.pt", folder / "half.onnx")
    assert result.largest <= 1
    assert 0 < result.differing < result.samples // 20
    export(folder / "ema.pt", folder / "whole.onnx")
    half, whole = ((folder / name).stat().st_size for name in ("half.onnx", "whole.onnx"))
    assert half < 0.75 * whole
    weights = load_weights(folder / "ema.pt").state_dict()
    for name, value in read_onnx(folder / "half.onnx").items():
        assert value.dtype == torch.float32
        assert torch.allclose(value, weights[name], rtol=1e-3, atol=1e-6)


def test_unfaithful_half_precision_is_refused(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(export_module, "_LARGEST_FLOAT16_LEVELS", 0)
    with pytest.raises(GeneratorError, match="16-bit floats differ from torch"):
        export_float16(folder / "ema.pt", folder / "bad.onnx")
    assert not (folder / "bad.onnx").exists()


def test_same_weights_and_corpus_give_the_same_file(folder: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        export_int8(folder / "ema.pt", folder / name, folder / "corpus")
    assert (folder / "a.onnx").read_bytes() == (folder / "b.onnx").read_bytes()


def test_unfaithful_integers_are_refused(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(export_module, "_LARGEST_RMS", 1e-6)
    with pytest.raises(GeneratorError, match="differ from float32 by"):
        export_int8(folder / "ema.pt", folder / "bad.onnx", folder / "corpus")
    assert not (folder / "bad.onnx").exists()


def test_a_corpus_is_needed(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no training samples"):
        export_int8(folder / "ema.pt", tmp_path / "x.onnx", tmp_path)


def test_training_goes_on_from_an_exported_file(folder: Path, tmp_path: Path) -> None:
    export(folder / "ema.pt", tmp_path / "start.onnx")
    trainer = Trainer(tiny_config(tmp_path, start_from=tmp_path / "start.onnx"))
    for name, value in load_weights(folder / "ema.pt").state_dict().items():
        assert torch.equal(trainer.network.state_dict()[name], value)


def test_an_exported_file_is_exported_again(folder: Path, tmp_path: Path) -> None:
    """Weights that are multiplied out become the same integers; ranges of activations are taken anew."""
    corpus = folder / "corpus"
    export_int8(folder / "ema.pt", tmp_path / "once.onnx", corpus)
    export_int8(tmp_path / "once.onnx", tmp_path / "twice.onnx", corpus)
    once, twice = (read_onnx(tmp_path / f"{name}.onnx", integers=True) for name in ("once", "twice"))
    for name, value in once.items():
        if name.endswith(".weight"):
            assert torch.allclose(twice[name], value, rtol=1e-5, atol=1e-7)
    generators = [load_file(tmp_path / f"{name}.onnx") for name in ("once", "twice")]
    assert compare_generators(*generators, even_samples(corpus / "validation", 2)).rms < 0.5


@pytest.mark.parametrize("kind", ["int8", "noise", "missing"])
def test_training_cannot_go_on_from_other_files(folder: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"{kind}.onnx"
    if kind == "int8":
        export_int8(folder / "ema.pt", path, folder / "corpus")
    elif kind == "noise":
        path.write_bytes(bytes(range(256)))
    with pytest.raises(ConfigError, match="cannot be continued from"):
        Trainer(tiny_config(tmp_path, start_from=path))


@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
def test_what_is_added_is_as_strong_as_asked(folder: Path, tmp_path: Path, kind: str) -> None:
    calls = {
        "float32": export,
        "float16": export_float16,
        "int8": lambda *args, **options: export_int8(*args, folder / "corpus", **options),
    }
    planes = coded_planes(even_samples(folder / "corpus" / "validation", 1)[0])
    added = []
    for strength in (1.0, 0.5):
        file = tmp_path / f"{strength}.onnx"
        calls[kind](folder / "ema.pt", file, strength=strength)
        gate = np.ones((2, 2), np.float32)
        made = load_file(file).generate(planes, quantiser=100, strengths=gate, block_size=64)
        added.append(made[0].astype(float) - planes[0])
    inside = (np.abs(planes[0].astype(int) - 128) < 90) & (np.abs(added[0]) < 35)
    assert inside.mean() > 0.3
    assert np.abs(added[0][inside]).mean() > 1
    assert np.abs(added[1][inside] - 0.5 * added[0][inside]).mean() < 0.8


@pytest.mark.parametrize("strength", [0.0, -1.0, 2.1, float("nan")])
def test_strengths_that_are_none_are_refused(folder: Path, tmp_path: Path, strength: float) -> None:
    with pytest.raises(GeneratorError, match="strength"):
        export(folder / "ema.pt", tmp_path / "out.onnx", strength=strength)
    assert not (tmp_path / "out.onnx").exists()
