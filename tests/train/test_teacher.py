"""Learning from a larger generator: its weights, narrowing, distillation."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from train_media import TINY, tiny_config, write_samples  # noqa: E402

from hybridprompt.errors import ConfigError  # noqa: E402
from hybridprompt.evaluate.loss import LossWeights  # noqa: E402
from hybridprompt.evaluate.weights import have_metric_weights  # noqa: E402
from hybridprompt.generator.network import GeneratorNetwork, NetworkConfig  # noqa: E402
from hybridprompt.generator.registry import load_shipped  # noqa: E402
from hybridprompt.generator.torch_weights import read_onnx  # noqa: E402
from hybridprompt.train.config import Distillation  # noqa: E402
from hybridprompt.train.loop import Trainer  # noqa: E402
from hybridprompt.train.samples import Batch, even_samples, whole_picture  # noqa: E402
from hybridprompt.train.teacher import Teacher, config_of, narrow, widen  # noqa: E402

WEIGHTS = Path(__file__).parents[2] / "src" / "hybridprompt" / "generator" / "weights"
CPU = torch.device("cpu")
LARGE = NetworkConfig(stem_channels=12, body_channels=24, body_blocks=2, tail_blocks=2)

needs_metrics = pytest.mark.skipif(
    not have_metric_weights(), reason="the weights of LPIPS and DISTS are not installed"
)


def random_network(config: NetworkConfig, seed: int = 0) -> GeneratorNetwork:
    torch.manual_seed(seed)
    network = GeneratorNetwork(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.1)
    return network


def random_batch(seed: int = 0) -> Batch:
    torch.manual_seed(seed)
    coded = torch.rand(2, 1, 32, 48), torch.rand(2, 2, 16, 24)
    return Batch(coded, coded, torch.rand(2, 1, 1, 1))


def silence(layers: Iterable["torch.nn.Module"], channels: Sequence[int] | np.ndarray) -> None:
    """Let output channels of convolutions give zero."""
    with torch.no_grad():
        for layer in layers:
            layer.weight[channels] = 0  # type: ignore[operator]
            layer.bias[channels] = 0  # type: ignore[operator]


def assert_same(one: GeneratorNetwork, other: GeneratorNetwork, *, atol: float) -> None:
    """That both make the same planes of a random batch."""
    batch = random_batch()
    for mine, wanted in zip(
        one(*batch.coded, batch.quantiser), other(*batch.coded, batch.quantiser), strict=True
    ):
        assert torch.allclose(mine, wanted, rtol=1e-5 if atol else 0, atol=atol)


def write_ema(path: Path, network: GeneratorNetwork) -> Path:
    torch.save({"network": network.state_dict(), "config": network.config.as_dict(), "step": 1}, path)
    return path


def test_shape_is_read_off_the_weights() -> None:
    hidden = replace(LARGE, body_hidden=(8, 24), deep_channels=8, deep_blocks=2, deep_hidden=(4, 8))
    slim = replace(LARGE, seen_channels=5, tail_hidden=(3, 12))
    for config in (TINY, LARGE, replace(LARGE, tail_blocks=0), hidden, slim):
        assert config_of(GeneratorNetwork(config).state_dict()) == config
    with pytest.raises(KeyError):
        config_of({"something": torch.zeros(1)})


def test_weights_of_the_shipped_integers_compute_what_its_file_does(tmp_path: Path) -> None:
    write_samples(tmp_path, 1, width=256, height=192)
    (sample,) = even_samples(tmp_path, 1)
    batch = whole_picture(sample)
    weights = read_onnx(WEIGHTS / "generator_v2.onnx", integers=True)
    made = Teacher(weights, CPU).network(*batch.coded, batch.quantiser)[0][0, 0]
    y, u, v = (
        (plane * 255).round().byte().numpy()
        for plane in (batch.coded[0][0, 0], batch.coded[1][0, 0], batch.coded[1][0, 1])
    )
    generator = load_shipped("generator_v2")
    full = np.ones((3, 4), np.float32)
    wanted = generator.generate((y, u, v), quantiser=sample.base_q_idx, strengths=full, block_size=64)[0]
    changed = np.abs(wanted.astype(float) - y).mean()
    difference = np.abs(made.numpy() * 255 - wanted).mean()
    assert changed > 1
    assert difference < 0.2 * changed


def test_narrowing_keeps_what_weak_channels_do_not_change() -> None:
    """A large network, some of whose channels do nothing, narrowed to the rest computes the same."""
    network = random_network(LARGE)
    rng = np.random.default_rng(1)
    idle_stem, idle_body = rng.permutation(12)[:4], rng.permutation(24)[:8]
    silence([network.stem, *(block.second for block in network.tail)], idle_stem)
    silence([network.down, *(block.second for block in network.body)], idle_body)
    for blocks, channels, count in ((network.body, 24, 8), (network.tail, 12, 4)):
        for block in blocks:
            silence([block.first], rng.permutation(channels)[:count])
    silence([network.up], (idle_stem[:, None] * 4 + np.arange(4)).ravel())
    config = replace(LARGE, stem_channels=8, body_channels=16)
    narrowed = GeneratorNetwork(config)
    narrowed.load_state_dict(narrow(network.state_dict(), config))
    assert_same(narrowed, network, atol=1e-5)


def test_narrowing_leaves_out_blocks_but_invents_no_channels() -> None:
    weights = random_network(LARGE).state_dict()
    fewer = narrow(weights, replace(LARGE, body_blocks=1, tail_blocks=0))
    assert config_of(fewer) == replace(LARGE, body_blocks=1, tail_blocks=0)
    assert torch.equal(fewer["body.0.first.weight"], weights["body.0.first.weight"])
    assert config_of(narrow(weights, replace(LARGE, body_blocks=3))) == LARGE
    for config in (replace(LARGE, stem_channels=13), replace(LARGE, body_channels=25)):
        with pytest.raises(ValueError, match="cannot be taken"):
            narrow(weights, config)


def test_a_widened_network_computes_the_same_and_its_new_channels_learn() -> None:
    small = random_network(TINY)
    large = GeneratorNetwork(replace(LARGE, body_blocks=1, tail_blocks=1))
    large.load_state_dict(widen(small.state_dict(), large.state_dict()))
    batch = random_batch()
    made = large(*batch.coded, batch.quantiser)
    for mine, wanted in zip(made, small(*batch.coded, batch.quantiser), strict=True):
        assert torch.allclose(mine, wanted, atol=1e-5)
    sum(planes.square().mean() for planes in made).backward()
    stem = TINY.stem_channels
    assert large.head.weight.grad is not None
    assert all(float(large.head.weight.grad[:, c].abs().max()) > 0 for c in range(stem, LARGE.stem_channels))


def test_more_blocks_add_nothing_yet_and_nothing_is_cut() -> None:
    small = random_network(TINY)
    deep = GeneratorNetwork(replace(TINY, body_blocks=2, deep_channels=8, deep_blocks=1))
    deep.load_state_dict(widen(small.state_dict(), deep.state_dict()))
    batch = random_batch()
    made = deep(*batch.coded, batch.quantiser)
    for mine, wanted in zip(made, small(*batch.coded, batch.quantiser), strict=True):
        assert torch.equal(mine, wanted)
    sum(planes.square().mean() for planes in made).backward()
    for learning in (deep.body[1].second, deep.deep.up):  # type: ignore[union-attr]
        assert float(learning.weight.grad.abs().max()) > 0  # type: ignore[union-attr]
    for smaller in (replace(TINY, stem_channels=4), replace(TINY, tail_blocks=0)):
        with pytest.raises(ValueError, match="does not fit"):
            widen(small.state_dict(), GeneratorNetwork(smaller).state_dict())
    weights = small.state_dict()
    del weights["up.bias"]
    with pytest.raises(RuntimeError, match=r"up\.bias"):
        widen(weights, deep.state_dict())


def test_narrowing_takes_the_level_at_a_sixteenth_and_what_is_inside_blocks() -> None:
    deep = replace(LARGE, deep_channels=8, deep_blocks=2)
    network = random_network(deep)
    blocks = network.deep.blocks
    silence([network.deep.down, *(block.second for block in blocks)], [1, 2, 6])
    silence([network.body[1].first, *(block.first for block in blocks)], [1, 2, 6])
    config = replace(deep, deep_channels=5, body_hidden=(24, 21), deep_hidden=(5, 5))
    narrowed = GeneratorNetwork(config)
    narrowed.load_state_dict(narrow(network.state_dict(), config))
    assert_same(narrowed, network, atol=1e-5)
    assert config_of(narrow(network.state_dict(), LARGE)) == LARGE
    with pytest.raises(ValueError, match="cannot be taken"):
        narrow(network.state_dict(), replace(deep, body_hidden=(25, 24)))


def test_blocks_widen_inside_too() -> None:
    small = random_network(replace(TINY, body_hidden=(8,)))
    large = GeneratorNetwork(replace(TINY, body_blocks=2, body_hidden=(12, 4)))
    large.load_state_dict(widen(small.state_dict(), large.state_dict()))
    assert_same(large, small, atol=0)
    narrower = GeneratorNetwork(replace(TINY, body_blocks=2, body_hidden=(8, 4)))
    with pytest.raises(ValueError, match="does not fit"):
        widen(large.state_dict(), narrower.state_dict())


@pytest.mark.parametrize("slim", [False, True], ids=["its own", "an identity"])
def test_narrowing_takes_the_first_convolution_apart_from_the_last_blocks(slim: bool) -> None:
    """Whether the larger network has a convolution of one pixel between them already or not."""
    network = random_network(replace(LARGE, seen_channels=10 if slim else 0))
    silence([network.stem], [1, 4, 5])
    config = replace(LARGE, seen_channels=9 if not slim else 7)
    narrowed = GeneratorNetwork(config)
    narrowed.load_state_dict(narrow(network.state_dict(), config))
    assert_same(narrowed, network, atol=1e-5)


def test_a_convolution_of_one_pixel_is_not_dropped() -> None:
    slim = random_network(replace(LARGE, seen_channels=10)).state_dict()
    with pytest.raises(ValueError, match="of one pixel"):
        narrow(slim, LARGE)
    with pytest.raises(ValueError, match="does not fit"):
        widen(slim, random_network(LARGE).state_dict())
    with pytest.raises(ValueError, match="does not fit"):
        widen(
            random_network(LARGE).state_dict(), random_network(replace(LARGE, seen_channels=12)).state_dict()
        )


def test_narrowing_inside_the_last_blocks() -> None:
    network = random_network(LARGE)
    silence([network.tail[0].first], [0, 2, 7])
    config = replace(LARGE, tail_hidden=(9, 12))
    narrowed = GeneratorNetwork(config)
    narrowed.load_state_dict(narrow(network.state_dict(), config))
    assert_same(narrowed, network, atol=1e-5)


def test_distance_is_that_of_the_planes() -> None:
    network = random_network(TINY)
    teacher = Teacher(network.state_dict(), CPU)
    batch = random_batch()
    y, uv = (planes.detach() for planes in network(*batch.coded, batch.quantiser))
    assert float(teacher.distance((y, uv), batch)) == pytest.approx(0, abs=1e-6)
    assert float(teacher.distance((y + 0.25, uv - 0.5), batch)) == pytest.approx(0.5, abs=1e-5)
    y.requires_grad_(True)
    teacher.distance((y + 0.1, uv), batch).backward()
    assert y.grad is not None
    assert all(parameter.grad is None for parameter in teacher.network.parameters())


@needs_metrics
def test_student_comes_nearer_to_its_teacher(folder: Path) -> None:
    network = random_network(replace(TINY, stem_channels=12))
    with torch.no_grad():
        network.head.weight *= 0.2
    teacher = write_ema(folder / "teacher.pt", network)
    nothing = LossWeights(alex=0, vgg=0, pixel=0, band=0)
    trainer = Trainer(
        tiny_config(
            folder,
            steps=40,
            learning_rate=3e-3,
            loss=nothing,
            distillation=Distillation(teacher=teacher),
        )
    )
    assert trainer.teacher is not None
    batch = random_batch()

    def distance() -> float:
        with torch.no_grad():
            return float(trainer.teacher.distance(trainer.network(*batch.coded, batch.quantiser), batch))

    before = distance()
    trainer.run(lambda line: None)
    assert distance() < 0.8 * before
    assert '"teacher"' in (folder / "run" / "log.jsonl").read_text()


@needs_metrics
def test_narrowed_start_and_unusable_teachers(tmp_path: Path) -> None:
    write_ema(tmp_path / "large.pt", random_network(LARGE))
    trainer = Trainer(tiny_config(tmp_path, narrow_from=tmp_path / "large.pt"))
    expected = narrow(random_network(LARGE).state_dict(), TINY)
    for name, value in trainer.network.state_dict().items():
        assert torch.equal(value, expected[name]), name
        assert torch.equal(trainer.ema.network.state_dict()[name], value), name
    with pytest.raises(ConfigError, match=r"large\.pt.*cannot be taken"):
        Trainer(
            tiny_config(
                tmp_path, "other", narrow_from=tmp_path / "large.pt", network=replace(TINY, stem_channels=16)
            )
        )
    widened = Trainer(
        tiny_config(
            tmp_path, "wide", widen_from=tmp_path / "large.pt", network=replace(LARGE, body_channels=32)
        )
    )
    large = random_network(LARGE).state_dict()
    assert torch.equal(widened.ema.network.state_dict()["down.weight"][:24], large["down.weight"])
    with pytest.raises(ConfigError, match=r"large\.pt.*does not fit"):
        Trainer(tiny_config(tmp_path, "other", widen_from=tmp_path / "large.pt"))
    with pytest.raises(ConfigError, match=r"nothing\.onnx"):
        Trainer(tiny_config(tmp_path, distillation=Distillation(teacher=tmp_path / "nothing.onnx")))
    for second in ("start_from", "narrow_from", "prune_from"):
        with pytest.raises(ConfigError, match="one of them"):
            tiny_config(tmp_path, widen_from=tmp_path / "large.pt", **{second: tmp_path / "large.pt"})
    with pytest.raises(ConfigError, match="one of them"):
        tiny_config(tmp_path, narrow_from=tmp_path / "large.pt", start_from=tmp_path / "large.pt")
