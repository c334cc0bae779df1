"""Adapters of the generator's weights: what they compute, in floats and in 8-bit integers."""

import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from hybridprompt.errors import GeneratorError  # noqa: E402
from hybridprompt.generator.adapter import AdaptableModel  # noqa: E402
from hybridprompt.generator.network import GeneratorNetwork, NetworkConfig  # noqa: E402
from hybridprompt.generator.onnx_generator import OnnxGenerator  # noqa: E402
from hybridprompt.generator.registry import GENERATOR_SIZES, shipped_names  # noqa: E402
from hybridprompt.generator.torch_weights import network_of  # noqa: E402
from hybridprompt.train.export import export, export_float16  # noqa: E402

WEIGHTS = resources.files("hybridprompt.generator") / "weights"
CONFIG = NetworkConfig(stem_channels=8, body_channels=16)
SLIM = NetworkConfig(stem_channels=8, body_channels=16, tail_hidden=(4,), seen_channels=4)
DEEP = NetworkConfig(stem_channels=8, body_channels=16, deep_channels=12, deep_blocks=1)
WIDTH, HEIGHT = 160, 96


def shipped(size: str) -> bytes:
    return (WEIGHTS / f"{GENERATOR_SIZES[size]}.onnx").read_bytes()


@pytest.fixture(scope="module", params=[CONFIG, SLIM, DEEP], ids=["two levels", "slim", "three levels"])
def float_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network in floats whose output depends on all of it."""
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    config: NetworkConfig = request.param
    network = GeneratorNetwork(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("weight"):
                parameter.normal_(0, 0.7 / parameter[0].numel() ** 0.5)
            else:
                parameter.normal_(0, 0.05)
    torch.save({"network": network.state_dict(), "config": config.as_dict(), "step": 0}, folder / "ema.pt")
    export(folder / "ema.pt", folder / "float32.onnx")
    export_float16(folder / "ema.pt", folder / "float16.onnx")
    return folder / "float32.onnx"


def scene(seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(30, 220, (HEIGHT // 8, WIDTH // 8)).repeat(8, 0).repeat(8, 1)
    y = np.clip(coarse + rng.normal(0, 6, coarse.shape), 0, 255).astype(np.uint8)
    u = np.full((HEIGHT // 2, WIDTH // 2), 110, np.uint8)
    return y, u, u + 30


def an_adapter(weights: bytes, seed: int = 0, spread: float = 1.0) -> np.ndarray:
    count = 2 * sum(AdaptableModel(weights).layer_channels)
    return np.clip(np.rint(np.random.default_rng(seed).normal(0, spread, count)), -15, 15).astype(np.int8)


def generated(generator: OnnxGenerator, strength: float = 1.0) -> np.ndarray:
    gate = np.full((2, 3), strength, np.float32)
    planes = generator.generate(scene(), quantiser=150, strengths=gate, block_size=64)
    return np.concatenate([plane.ravel() for plane in planes]).astype(float)


def expected(weights: bytes, values: np.ndarray) -> np.ndarray:
    """The torch network with weights that are changed one by one, as docs/bitstream.md says it."""
    network, at = network_of(weights), 0
    for layer in (m for m in network.modules() if isinstance(m, torch.nn.Conv2d)):
        usual = float(layer.weight.square().mean().sqrt())
        channels = len(layer.weight)
        for channel in range(channels):
            gain, offset = int(values[at + channel]), int(values[at + channels + channel])
            layer.weight[channel] *= 2 ** (gain / 6)
            layer.bias[channel] += offset / 20 * usual
        at += 2 * channels
    assert at == len(values)
    y, u, v = (torch.from_numpy(plane.astype(np.float32)) / 255 for plane in scene())
    with torch.no_grad():
        made = network(y[None, None], torch.stack([u, v])[None], torch.full((1, 1, 1, 1), 150 / 255))
    levels = [(plane * 255).round().clamp(0, 255).numpy() for plane in (made[0][0, 0], *made[1][0])]
    return np.concatenate([plane.ravel() for plane in levels]).astype(float)


def test_floats_compute_what_torch_does(float_file: Path) -> None:
    weights = float_file.read_bytes()
    values = an_adapter(weights, spread=2.0)
    plain = OnnxGenerator(weights)
    found = generated(plain.adapted(values))
    assert np.abs(found - expected(weights, values)).max() <= 1
    assert np.abs(found - generated(plain)).mean() > 3


def test_half_floats_are_adapted_too(float_file: Path) -> None:
    values = an_adapter(float_file.read_bytes(), spread=2.0)
    halves = OnnxGenerator(float_file.with_name("float16.onnx").read_bytes()).adapted(values)
    assert np.abs(generated(halves) - expected(float_file.read_bytes(), values)).max() <= 2


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("size", GENERATOR_SIZES)
def test_integers_compute_nearly_what_torch_does(size: str, seed: int) -> None:
    """They are as far as rounding takes them, and every part of an adapter counts."""
    weights = shipped(size)
    plain = OnnxGenerator(weights)

    def error(adapter: np.ndarray, wanted: np.ndarray) -> float:
        return float(np.abs(generated(plain.adapted(adapter)) - wanted).mean())

    # Strong enough to stand out from rounding.
    values = an_adapter(weights, seed, spread=1.2 if size == "small" else 1.5)
    nothing = np.zeros_like(values)
    gains, offsets, last = nothing.copy(), nothing.copy(), nothing.copy()
    at = 0
    for channels in AdaptableModel(weights).layer_channels:
        middle, end = at + channels, at + 2 * channels
        gains[at:middle], offsets[middle:end] = values[at:middle], values[middle:end]
        at = end
    last[end - 2 * channels :] = values[end - 2 * channels :]
    for part in (gains, offsets, last, values):
        wanted = expected(weights, part)
        assert error(part, wanted) < 0.75 * error(nothing, wanted)
    # Not so strong that values leave the ranges of the file: as far from torch as without an adapter.
    mild = an_adapter(weights, seed)
    assert error(mild, expected(weights, mild)) < 2 * error(nothing, expected(weights, nothing))
    assert np.abs(wanted - expected(weights, nothing)).mean() > 0.5


@pytest.mark.parametrize("size", GENERATOR_SIZES)
def test_an_adapter_of_zeros_changes_nothing(size: str) -> None:
    plain = OnnxGenerator(shipped(size))
    nothing = np.zeros_like(an_adapter(plain.weights))
    assert np.array_equal(generated(plain.adapted(nothing)), generated(plain))


def test_adapters_are_applied_alike_everywhere() -> None:
    """A golden sum: what an adapter makes of the shipped integers must not change."""
    weights = (WEIGHTS / "generator_s2.onnx").read_bytes()
    adapted = onnx.load_model_from_string(AdaptableModel(weights).adapted(an_adapter(weights, spread=3.0)))
    digest = hashlib.sha256()
    for tensor in sorted(adapted.graph.initializer, key=lambda tensor: tensor.name):
        digest.update(tensor.name.encode() + onnx.numpy_helper.to_array(tensor).tobytes())
    assert digest.hexdigest()[:16] == "2be5b17c609a6c25"


def test_adapted_ones_keep_their_identity_and_the_gate() -> None:
    plain = OnnxGenerator(shipped("small"), name="small")
    adapted = plain.adapted(an_adapter(plain.weights))
    assert (adapted.identity, adapted.name) == (plain.identity, "small")
    assert np.array_equal(generated(adapted, 0.0), np.concatenate([p.ravel() for p in scene()]))
    assert not np.array_equal(generated(adapted), generated(plain))


@pytest.mark.parametrize("name", shipped_names())
@pytest.mark.parametrize("value", [-15, 15])
def test_extremes_are_pictures_too(name: str, value: int) -> None:
    """A prompt from a stranger may say anything; the network's layers are in the order that is counted on."""
    weights = (WEIGHTS / f"{name}.onnx").read_bytes()
    network_of(weights)
    plain = OnnxGenerator(weights, name=name)
    found = generated(plain.adapted(np.full_like(an_adapter(weights), value)))
    assert found.shape == generated(plain).shape


def test_threads_may_adapt_at_once() -> None:
    plain = OnnxGenerator(shipped("small"))
    adapters = [an_adapter(plain.weights, seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda values: generated(plain.adapted(values)), adapters))
    for values, one in zip(adapters, found, strict=True):
        assert np.array_equal(one, generated(plain.adapted(values)))


def test_without_the_library_it_is_a_generator_error(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = OnnxGenerator(shipped("small"))
    monkeypatch.setitem(sys.modules, "hybridprompt.generator.adapter", None)
    with pytest.raises(GeneratorError, match="cannot be adapted"):
        plain.adapted(np.zeros(4, np.int8))


def test_layers_in_another_order_are_refused(float_file: Path) -> None:
    model = onnx.load_model_from_string(float_file.read_bytes())
    nodes = [node for node in model.graph.node if node.op_type == "Conv"]
    for index in (0, 1):
        nodes[2].input[index], nodes[3].input[index] = nodes[3].input[index], nodes[2].input[index]
    with pytest.raises(GeneratorError, match="in another order"):
        network_of(model.SerializeToString())


@pytest.mark.parametrize("change", [-1, 1])
def test_another_generators_adapter_is_refused(change: int) -> None:
    plain = OnnxGenerator(shipped("small"))
    count = len(an_adapter(plain.weights)) + change
    with pytest.raises(GeneratorError, match=f"adapter of {count} values, expected {count - change}"):
        plain.adapted(np.zeros(count, np.int8))


def test_other_files_are_a_generator_error() -> None:
    with pytest.raises(GeneratorError, match="not an ONNX file"):
        AdaptableModel(b"\xff" * 40)
    with pytest.raises(GeneratorError, match="not the weights"):
        network_of(b"")
