"""Leaving out channels that do next to nothing."""

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from train_media import TINY, lively, write_samples  # noqa: E402

from hybridprompt.errors import GeneratorError  # noqa: E402
from hybridprompt.generator.network import GeneratorNetwork, NetworkConfig  # noqa: E402
from hybridprompt.generator.registry import load_file  # noqa: E402
from hybridprompt.generator.torch_weights import config_of, read_onnx  # noqa: E402
from hybridprompt.train.export import compare_generators, export, export_int8  # noqa: E402
from hybridprompt.train.idle import without_idle  # noqa: E402
from hybridprompt.train.sample_files import Sample  # noqa: E402
from hybridprompt.train.samples import even_samples, whole_picture  # noqa: E402

DEEP = NetworkConfig(
    stem_channels=8, body_channels=32, body_blocks=2, tail_blocks=1, deep_channels=24, deep_blocks=1
)
STRONG = {"spread": 1.0, "head": 0.1}
"""Layers whose channels all matter."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("idle")
    write_samples(folder / "corpus" / "train", 3, width=256, height=208)
    write_samples(folder / "corpus" / "validation", 2, seed=9)
    return folder


@pytest.fixture(scope="module")
def samples(folder: Path) -> list[Sample]:
    return even_samples(folder / "corpus" / "train", 3)


def silence(network: GeneratorNetwork, block: str, channels: slice, value: float = 0.0) -> None:
    """Let channels of a block give the same everywhere: 0 as dead ones do, or another value."""
    first = network.get_submodule(f"{block}.first")
    with torch.no_grad():
        first.weight[channels] = 0
        first.bias[channels] = value or -1.0


def made(network: GeneratorNetwork, sample: Sample) -> "torch.Tensor":
    batch = whole_picture(sample)
    with torch.no_grad():
        return network(*batch.coded, batch.quantiser)[0] - batch.coded[0]


@pytest.mark.parametrize("value", [0.0, 0.7], ids=["dead", "constant"])
def test_channels_that_never_change_are_left_out(samples: list[Sample], value: float) -> None:
    network = lively(DEEP, **STRONG)
    silence(network, "body.0", slice(3, 15), value)
    silence(network, "deep.blocks.0", slice(0, 16))
    before = network.state_dict()
    cut = without_idle(network, samples, 1e-6)
    # Of 12 idle ones 8 go: 24 is the next multiple of 8 above the 20 that are left.
    assert cut.config == replace(DEEP, body_hidden=(24, 32), deep_hidden=(8,))
    assert config_of(cut.state_dict()) == cut.config
    # Inside, where no zeros from beyond the border are read.
    difference = (made(cut, samples[0]) - made(network, samples[0]))[..., 88:-88, 88:-88].abs()
    assert float(difference.max()) < 1e-4
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())


def test_more_may_be_left_out_at_a_price(samples: list[Sample]) -> None:
    network = lively(DEEP, **STRONG)
    distances = []
    for share in (0.0, 0.2, 0.6):
        cut = without_idle(network, samples, share)
        distances.append(float((made(cut, samples[1]) - made(network, samples[1])).abs().mean()))
    assert distances[0] == 0
    assert distances[1] > 0
    assert distances[2] > distances[1]
    assert min(cut.config.body_widths) < 32


def test_what_a_block_adds_is_kept_to_the_share(samples: list[Sample]) -> None:
    """The weakest channels go, not just any."""
    network = lively(DEEP, **STRONG)
    second = network.get_submodule("body.1.second")
    with torch.no_grad():
        second.weight[:, 5:29] *= 0.01
    cut = without_idle(network, samples, 0.01)
    assert cut.config.body_widths[1] == 8
    kept = {tuple(row.flatten().tolist()) for row in cut.get_submodule("body.1.first").weight}
    strong = [*range(5), *range(29, 32)]
    assert kept == {
        tuple(row.flatten().tolist()) for row in network.get_submodule("body.1.first").weight[strong]
    }


def test_a_block_that_adds_nothing_yet_stays_a_block(samples: list[Sample]) -> None:
    network = lively(DEEP, **STRONG)
    torch.nn.init.zeros_(network.get_submodule("body.1.second").weight)
    cut = without_idle(network, samples, 0.001)
    assert cut.config.body_widths[1] == 8
    assert torch.allclose(made(cut, samples[0]), made(network, samples[0]), atol=1e-5)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_is_a_share(samples: list[Sample], share: float) -> None:
    with pytest.raises(GeneratorError, match="expected from 0 to below 1"):
        without_idle(lively(DEEP, **STRONG), samples, share)


def test_the_exported_file_is_smaller_and_makes_the_same(folder: Path) -> None:
    network = lively(replace(TINY, body_channels=32), **STRONG)
    silence(network, "body.0", slice(0, 16))
    state = {"network": network.state_dict(), "config": network.config.as_dict(), "step": 1}
    torch.save(state, folder / "ema.pt")
    export_int8(folder / "ema.pt", folder / "cut.onnx", folder / "corpus", idle=1e-4)
    cut = read_onnx(folder / "cut.onnx", integers=True)
    assert config_of(cut) == replace(network.config, body_hidden=(16,))
    export(folder / "ema.pt", folder / "whole.onnx")
    both = [load_file(folder / name) for name in ("cut.onnx", "whole.onnx")]
    assert compare_generators(*both, even_samples(folder / "corpus" / "validation", 2)).rms < 0.5
    assert both[0].adapter_length == both[1].adapter_length - 2 * 16
