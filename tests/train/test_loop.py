"""Training runs: schedule, resuming, what they leave behind."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hybridprompt.errors import ConfigError  # noqa: E402
from hybridprompt.evaluate.weights import have_metric_weights  # noqa: E402

if not have_metric_weights():
    pytest.skip("the weights of LPIPS and DISTS are not installed", allow_module_level=True)

from train_media import TINY, TINY_DEEP, tiny_config  # noqa: E402

from hybridprompt.evaluate.loss import band_loss  # noqa: E402
from hybridprompt.generator.network import GeneratorNetwork, NetworkConfig  # noqa: E402
from hybridprompt.train.export import load_weights  # noqa: E402
from hybridprompt.train.loop import Ema, Trainer, learning_rate  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def weights(trainer: Trainer) -> dict[str, "torch.Tensor"]:
    network = {f"network.{k}": v.clone() for k, v in trainer.network.state_dict().items()}
    return network | {f"ema.{k}": v.clone() for k, v in trainer.ema.network.state_dict().items()}


def test_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(folder: Path) -> None:
    whole = Trainer(tiny_config(folder, "whole"))
    start = weights(whole)
    scores = whole.run(lambda line: None)
    assert scores.step == 6
    assert set(scores.base) == set(scores.generated) == {"alex", "vgg", "dists", "psnr"}

    class Interrupted(Exception):
        pass

    first = Trainer(tiny_config(folder, "parts", save_seconds=0.0))

    def stop(line: str) -> None:
        if first.step == 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        first.run(stop)
    second = Trainer(tiny_config(folder, "parts"))
    assert second.step == 3
    second.run(lambda line: None)
    expected = weights(whole)
    for name, value in weights(second).items():
        assert torch.equal(value, expected[name]), name
        assert torch.isfinite(value).all()
    assert any(not torch.equal(start[name], value) for name, value in expected.items())


def test_run_leaves_weights_and_a_log(folder: Path) -> None:
    lines: list[str] = []
    trainer = Trainer(tiny_config(folder, steps=4, validate_every=4))
    trainer.run(lines.append)
    records = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if "step" in r] == [2, 4]
    assert records[-1]["validation"]["step"] == 4
    assert "psnr" in lines[-1]
    assert sorted(p.name for p in (folder / "run").iterdir()) == ["checkpoint.pt", "ema.pt", "log.jsonl"]
    loaded = load_weights(folder / "run" / "ema.pt")
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, trainer.ema.network.state_dict()[name])
    # A finished run does nothing more.
    again = Trainer(tiny_config(folder, steps=4))
    before = weights(again)
    again.run(lambda line: None)
    assert all(torch.equal(before[name], value) for name, value in weights(again).items())


def test_training_lowers_the_loss(folder: Path) -> None:
    trainer = Trainer(tiny_config(folder, steps=24, learning_rate=2e-3, log_every=8))
    trainer.run(lambda line: None)
    records = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    totals = [r["alex"] + 2 * r["pixel"] + r["band"] for r in records if "alex" in r]
    assert "validation" in records[-1]
    assert totals[-1] < totals[0]


def test_arithmetic_of_half_precision_learns_about_the_same(folder: Path) -> None:
    """Weights stay in float32; what is logged of both runs is close, and not the same."""
    logs = []
    for precision in ("float32", "bfloat16"):
        config = tiny_config(folder, precision, precision=precision, steps=20, generated_inputs=0.5)
        trainer = Trainer(config)
        before = weights(trainer)
        trainer.run(lambda line: None)
        assert {p.dtype for p in trainer.network.parameters()} == {torch.float32}
        assert not [name for name, value in weights(trainer).items() if torch.equal(value, before[name])]
        lines = (folder / precision / "log.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        logs.append([record["alex"] for record in records if "alex" in record])
    assert logs[0] != logs[1]
    assert logs[0] == pytest.approx(logs[1], rel=0.1)


def test_start_from_takes_the_weights_but_not_the_step(folder: Path) -> None:
    done = Trainer(tiny_config(folder, steps=2))
    done.run(lambda line: None)
    fresh = Trainer(tiny_config(folder, "second", start_from=folder / "run" / "ema.pt"))
    assert fresh.step == 0
    for name, value in fresh.network.state_dict().items():
        assert torch.equal(value, done.ema.network.state_dict()[name])


def test_start_from_leaves_a_level_that_it_lacks_without_effect(folder: Path) -> None:
    done = Trainer(tiny_config(folder, steps=2))
    done.run(lambda line: None)
    start = folder / "run" / "ema.pt"
    deep = Trainer(tiny_config(folder, "deep", network=TINY_DEEP, start_from=start, steps=4))
    y, uv = torch.rand(1, 1, 72, 88), torch.rand(1, 2, 36, 44)
    told = torch.full((1, 1, 1, 1), 0.6)
    before = done.ema.network(y, uv, told)
    for mine, wanted in zip(deep.network(y, uv, told), before, strict=True):
        assert torch.allclose(mine, wanted, atol=1e-5)
    deep.run(lambda line: None)
    assert deep.network.deep.up.weight.abs().sum() > 0
    assert not torch.equal(deep.ema.network(y, uv, told)[0], before[0])


@pytest.mark.parametrize("data", [None, b"", b"garbage"])
def test_unusable_start_and_checkpoint_are_config_errors(folder: Path, data: bytes | None) -> None:
    if data is not None:
        (folder / "start.pt").write_bytes(data)
        (folder / "run").mkdir()
        (folder / "run" / "checkpoint.pt").write_bytes(data)
        with pytest.raises(ConfigError, match=r"checkpoint\.pt"):
            Trainer(tiny_config(folder))
        Trainer(tiny_config(folder), resume=False)
    with pytest.raises(ConfigError, match=r"start\.pt"):
        Trainer(tiny_config(folder, "other", start_from=folder / "start.pt"))


def test_checkpoint_of_another_network_is_a_config_error(folder: Path) -> None:
    Trainer(tiny_config(folder)).save()
    with pytest.raises(ConfigError, match=r"checkpoint\.pt"):
        Trainer(tiny_config(folder, network=replace(TINY, stem_channels=12)))


def test_learning_rate_schedule(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, steps=110, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate(config, step) for step in range(110)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert rates[10] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.01 + 0.99 / 2)
    assert rates[35] == pytest.approx(0.01 + 0.99 * (1 + math.cos(math.pi / 4)) / 2)
    assert learning_rate(config, 110) == learning_rate(config, 500) == pytest.approx(0.01)
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert learning_rate(replace(config, warmup_steps=0), 0) == pytest.approx(1.0)
    assert learning_rate(replace(config, warmup_steps=200), 150) <= 1.0


def test_learning_rate_follows_the_time_where_that_ends_first(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, steps=1010, warmup_steps=10, learning_rate=1.0, seconds=40.0)
    half = 0.01 + 0.99 / 2
    assert learning_rate(config, 10, 20.0) == pytest.approx(half)
    assert learning_rate(config, 510, 1.0) == pytest.approx(half)
    assert learning_rate(config, 10, 100.0) == pytest.approx(0.01)
    assert learning_rate(config, 4, 40.0) == pytest.approx(0.5)
    assert learning_rate(replace(config, seconds=0.0), 10, 100.0) == pytest.approx(1.0)


def test_a_run_ends_when_its_time_is_over_and_stays_ended(folder: Path) -> None:
    config = tiny_config(folder, "timed", steps=10_000, seconds=0.5)
    trainer = Trainer(config)
    trainer.run()
    assert 0 < trainer.step < 10_000
    again = Trainer(config)
    assert again.spent >= 0.5
    again.run()
    assert again.step == trainer.step


def test_ema_forgets_its_start() -> None:
    network = GeneratorNetwork(TINY)
    ema = Ema(network, 0.999)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1.0)
    ema.update(network, 1)
    # (1 + 1) / (10 + 1) of the old remains.
    head = ema.network.head.weight
    assert torch.allclose(head, torch.full_like(head, 1 - 2 / 11))
    assert not head.requires_grad


def test_network_starts_as_the_identity() -> None:
    y, uv = torch.rand(1, 1, 32, 48), torch.rand(1, 2, 16, 24)
    out = GeneratorNetwork(NetworkConfig(stem_channels=8, body_channels=8))(y, uv, torch.zeros(1, 1, 1, 1))
    assert torch.equal(out[0], y)
    assert torch.equal(out[1], uv)


def test_band_loss_wants_the_amount_of_texture_and_not_its_place() -> None:
    rng = np.random.default_rng(0)
    a, b = (torch.from_numpy(rng.normal(0.5, 0.1, (1, 1, 96, 96))).float() for _ in range(2))
    flat = torch.full_like(a, 0.5)
    assert float(band_loss(a, a)) == 0
    assert float(band_loss(a, b)) < 0.25 * float(band_loss(a, flat))
