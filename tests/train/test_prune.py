"""Taking channels out of a network while the rest learns to do their work."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from train_media import TINY, lively, tiny_config, write_samples  # noqa: E402

from hybridprompt.errors import ConfigError, GeneratorError  # noqa: E402
from hybridprompt.evaluate.weights import have_metric_weights  # noqa: E402
from hybridprompt.generator.network import GeneratorNetwork, NetworkConfig  # noqa: E402
from hybridprompt.generator.registry import load_file  # noqa: E402
from hybridprompt.generator.torch_weights import config_of, read_onnx  # noqa: E402
from hybridprompt.train.export import compare_generators, export_int8  # noqa: E402
from hybridprompt.train.loop import Trainer  # noqa: E402
from hybridprompt.train.prune import pruned  # noqa: E402
from hybridprompt.train.sample_files import Sample  # noqa: E402
from hybridprompt.train.samples import even_samples, whole_picture  # noqa: E402

LARGE = NetworkConfig(
    stem_channels=8, body_channels=16, body_blocks=2, tail_blocks=1, deep_channels=12, deep_blocks=1
)
BLOCKS = {"body_hidden": (10, 16), "deep_hidden": (5,), "tail_hidden": (4,)}


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("prune")
    write_samples(folder, 4, width=192, height=160)
    return even_samples(folder, 4)


@pytest.fixture
def network() -> GeneratorNetwork:
    return lively(LARGE, spread=1.0, head=0.1)


def built(config: NetworkConfig, weights: "dict[str, torch.Tensor]") -> GeneratorNetwork:
    network = GeneratorNetwork(config)
    network.load_state_dict(weights)
    return network


def distance(one: GeneratorNetwork, other: GeneratorNetwork, samples: Sequence[Sample], border: int) -> float:
    """Of what both add to luma, on average, as a share of what the second one adds."""
    between = added = 0.0
    inside = slice(border, -border or None)
    for sample in samples:
        batch = whole_picture(sample)
        with torch.no_grad():
            mine, wanted = (n(*batch.coded, batch.quantiser)[0][..., inside, inside] for n in (one, other))
        between += float((mine - wanted).abs().mean())
        added += float((wanted - batch.coded[0][..., inside, inside]).abs().mean())
    return between / added


def imitate(network: GeneratorNetwork, block: str, channel: int, others: Sequence[int]) -> None:
    """Let a channel inside a block be the sum of some others, all of them above zero."""
    first = network.get_submodule(f"{block}.first")
    with torch.no_grad():
        first.bias[list(others)] = 3.0
        first.weight[channel] = first.weight[list(others)].sum(0)
        first.bias[channel] = 3.0 * len(others)


def test_what_others_can_do_is_done_by_them(network: GeneratorNetwork, samples: list[Sample]) -> None:
    imitate(network, "body.0", 5, (2, 9))
    imitate(network, "tail.0", 1, (3, 6))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    config = replace(LARGE, body_hidden=(15, 16), tail_hidden=(7,))
    weights = pruned(network.state_dict(), config, samples)
    assert config_of(weights) == config
    # Beyond the border there are zeros, of which no channel is the sum.
    found = distance(built(config, weights), network, samples, 56)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    # Left out alone, the channel is missed.
    silent = built(LARGE, before)
    with torch.no_grad():
        silent.get_submodule("body.0.second").weight[:, 5] = 0
    assert found < 0.05 * distance(silent, network, samples, 56)


def test_dead_channels_of_the_first_convolution_go(network: GeneratorNetwork, samples: list[Sample]) -> None:
    with torch.no_grad():
        network.stem.weight[[0, 3, 4]] = 0
        network.stem.bias[[0, 3, 4]] = -1
    config = replace(LARGE, seen_channels=5)
    weights = pruned(network.state_dict(), config, samples)
    assert distance(built(config, weights), network, samples, 0) < 1e-3
    assert torch.equal(weights["stem.weight"], network.stem.weight[[1, 2, 5, 6, 7]])
    again = pruned(weights, replace(config, seen_channels=4), samples)
    assert again["skip.weight"].shape == (8, 4, 1, 1)


def test_the_rest_is_fitted(network: GeneratorNetwork, samples: list[Sample]) -> None:
    """Nearer than the same channels with the weights that they had, on pictures that were not fitted on."""
    config = replace(LARGE, **BLOCKS)
    weights = pruned(network.state_dict(), config, samples[:3])
    as_they_were = dict(weights)
    for block, widths in (("body.0", 10), ("deep.blocks.0", 5), ("tail.0", 4)):
        old, new = (w[f"{block}.first.weight"] for w in (network.state_dict(), weights))
        kept = [i for i, row in enumerate(old) if any(torch.equal(row, mine) for mine in new)]
        assert len(kept) == widths
        as_they_were[f"{block}.second.weight"] = network.state_dict()[f"{block}.second.weight"][:, kept]
    fitted, plain = (distance(built(config, w), network, samples[3:], 0) for w in (weights, as_they_were))
    assert 0 < fitted < 0.8 * plain


def test_nothing_to_leave_out(network: GeneratorNetwork, samples: list[Sample]) -> None:
    weights = pruned(network.state_dict(), LARGE, samples)
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    "config",
    [
        replace(LARGE, body_channels=12),
        replace(LARGE, body_blocks=1),
        replace(LARGE, tail_hidden=(9,)),
        replace(LARGE, seen_channels=9),
        replace(LARGE, deep_channels=0, deep_blocks=0),
    ],
    ids=["outside blocks", "blocks", "more", "more at first", "no level at 1/16"],
)
def test_nothing_else_is_cut(network: GeneratorNetwork, samples: list[Sample], config: NetworkConfig) -> None:
    with pytest.raises(ValueError, match="fewer channels inside"):
        pruned(network.state_dict(), config, samples)


def test_export_leaves_out_what_the_first_convolution_can_do_without(folder: Path) -> None:
    whole = lively(TINY, spread=1.0, head=0.1)
    with torch.no_grad():
        whole.stem.weight[[1, 6]] = 0
        whole.stem.bias[[1, 6]] = -1
    state = {"network": whole.state_dict(), "config": TINY.as_dict(), "step": 1}
    torch.save(state, folder / "ema.pt")
    export_int8(folder / "ema.pt", folder / "slim.onnx", folder / "corpus", seen=6)
    export_int8(folder / "ema.pt", folder / "whole.onnx", folder / "corpus")
    assert config_of(read_onnx(folder / "slim.onnx", integers=True)) == replace(TINY, seen_channels=6)
    both = [load_file(folder / name) for name in ("slim.onnx", "whole.onnx")]
    assert compare_generators(*both, even_samples(folder / "corpus" / "validation", 2)).rms < 0.5
    for channels in (9, -1):
        with pytest.raises(GeneratorError, match="of 8 that see the picture"):
            export_int8(folder / "ema.pt", folder / "no.onnx", folder / "corpus", seen=channels)
    assert not (folder / "no.onnx").exists()


@pytest.mark.skipif(not have_metric_weights(), reason="the weights of LPIPS and DISTS are not installed")
def test_a_training_starts_from_it(network: GeneratorNetwork, folder: Path) -> None:
    torch.save({"network": network.state_dict(), "config": LARGE.as_dict(), "step": 1}, folder / "large.pt")
    config = tiny_config(folder, prune_from=folder / "large.pt", network=replace(LARGE, **BLOCKS))
    found = Trainer(config)
    wanted = pruned(network.state_dict(), config.network, even_samples(folder / "corpus" / "train", 20))
    for name, value in found.ema.network.state_dict().items():
        assert torch.equal(value, wanted[name]), name
    with pytest.raises(ConfigError, match=r"large\.pt.*fewer channels inside"):
        Trainer(replace(config, run_folder=folder / "other", network=replace(LARGE, body_channels=12)))
    with pytest.raises(ConfigError, match="no training samples"):
        Trainer(replace(config, run_folder=folder / "other", corpus=folder / "nothing"))
