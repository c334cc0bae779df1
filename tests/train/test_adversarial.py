"""The adversarial stage: off unless asked for, repeatable, resumed exactly."""

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from train_media import tiny_config  # noqa: E402

from hybridprompt.errors import ConfigError  # noqa: E402
from hybridprompt.evaluate.loss import LossWeights  # noqa: E402
from hybridprompt.evaluate.weights import have_metric_weights  # noqa: E402
from hybridprompt.train.adversarial import (  # noqa: E402
    AdversarialSettings,
    AdversarialStage,
    PatchDiscriminator,
)
from hybridprompt.train.loop import Trainer  # noqa: E402

CPU = torch.device("cpu")
# Without the networks of the perceptual terms, which are tested elsewhere.
LIGHT = LossWeights(alex=0, vgg=0)

pytestmark = pytest.mark.usefixtures("one_thread")
needs_metrics = pytest.mark.skipif(
    not have_metric_weights(), reason="the weights of LPIPS and DISTS are not installed"
)


def trained(folder: Path, name: str, **changes: object) -> Trainer:
    trainer = Trainer(tiny_config(folder, name, loss=LIGHT, **changes))
    trainer.run(lambda line: None)
    return trainer


def same(a: Trainer, b: Trainer) -> bool:
    mine, others = a.network.state_dict(), b.network.state_dict()
    return all(torch.equal(value, others[name]) for name, value in mine.items())


@needs_metrics
def test_weight_zero_and_a_stage_not_begun_change_no_bit(folder: Path) -> None:
    plain = trained(folder, "plain")
    assert plain.adversarial is None
    assert same(plain, trained(folder, "zero", adversarial=AdversarialSettings(weight=0.0)))
    late = trained(folder, "late", adversarial=AdversarialSettings(weight=0.1, start_step=6))
    assert same(plain, late)
    begun = trained(folder, "begun", adversarial=AdversarialSettings(weight=0.1, start_step=5))
    assert not same(plain, begun)


@needs_metrics
def test_stage_is_repeatable_and_resumes_exactly(folder: Path) -> None:
    settings = AdversarialSettings(weight=0.1, start_step=1)
    whole = trained(folder, "whole", adversarial=settings)
    assert same(whole, trained(folder, "again", adversarial=settings))
    assert '"discriminator"' in (folder / "whole" / "log.jsonl").read_text()

    class Interrupted(Exception):
        pass

    first = Trainer(tiny_config(folder, "parts", loss=LIGHT, adversarial=settings, save_seconds=0.0))

    def stop(line: str) -> None:
        if first.step == 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        first.run(stop)
    second = trained(folder, "parts", adversarial=settings)
    assert same(whole, second)
    assert whole.adversarial is not None
    assert second.adversarial is not None
    theirs = second.adversarial.discriminator.state_dict()
    for name, value in whole.adversarial.discriminator.state_dict().items():
        assert torch.equal(value, theirs[name]), name
    assert torch.equal(whole.adversarial.rng.get_state(), second.adversarial.rng.get_state())


@needs_metrics
def test_stage_joins_a_run_that_began_without_it(folder: Path) -> None:
    trained(folder, "run", steps=3)
    settings = AdversarialSettings(weight=0.1, start_step=3)
    joined = trained(folder, "run", steps=6, adversarial=settings)
    assert joined.step == 6
    assert torch.isfinite(joined.network.head.weight).all()


def test_discriminator_learns_and_its_term_falls_for_what_it_takes_for_real() -> None:
    stage = AdversarialStage(AdversarialSettings(weight=1.0), device=CPU, seed=0)
    torch.manual_seed(0)
    flat, rough = torch.full((4, 1, 64, 64), 0.5), 0.5 + 0.2 * torch.randn(4, 1, 64, 64)
    losses = [stage.learn(flat, rough) for _ in range(60)]
    assert losses[0] == pytest.approx(2.0, abs=0.2)
    assert losses[-1] < 0.5
    assert float(stage.term(rough)) < float(stage.term(flat))


def test_term_reaches_the_pictures_and_not_the_discriminator() -> None:
    stage = AdversarialStage(AdversarialSettings(weight=1.0), device=CPU, seed=0)
    picture = torch.rand(2, 1, 64, 64, requires_grad=True)
    stage.term(picture).backward()
    assert picture.grad is not None
    assert float(picture.grad.abs().sum()) > 0
    assert all(p.grad is None and p.requires_grad for p in stage.discriminator.parameters())
    before = picture.grad.clone()
    stage.learn(picture, torch.rand(2, 1, 64, 64))
    assert torch.equal(picture.grad, before)


def test_making_a_stage_moves_no_other_random_number() -> None:
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    stage = AdversarialStage(AdversarialSettings(weight=1.0), device=CPU, seed=1)
    stage.learn(
        torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)), torch.ones(1, 1, 64, 64)
    )
    assert torch.equal(torch.rand(3), expected)


def test_score_sees_what_its_docstring_says() -> None:
    discriminator = PatchDiscriminator()
    picture = torch.rand(1, 1, 96, 96, requires_grad=True)
    scores = discriminator(picture)
    scores[0, 0, scores.shape[2] // 2, scores.shape[3] // 2].backward()
    assert picture.grad is not None
    seen = picture.grad[0, 0].abs().sum(0).nonzero()
    assert int(seen.max() - seen.min()) + 1 == 38


@pytest.mark.parametrize(
    "change", [{"weight": -1.0}, {"weight": float("nan")}, {"start_step": -1}, {"learning_rate": 0.0}]
)
def test_mistakes_are_config_errors(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="adversarial"):
        replace(AdversarialSettings(), **change)


@needs_metrics
def test_dists_is_a_term_when_it_has_a_weight(folder: Path) -> None:
    weights = LossWeights(alex=0, vgg=0, dists=1.0, vgg_every=2, vgg_size=48)
    with_dists = Trainer(tiny_config(folder, "dists", loss=weights))
    with_dists.run(lambda line: None)
    assert '"dists"' in (folder / "dists" / "log.jsonl").read_text().split("validation")[0]
    assert not same(with_dists, trained(folder, "plain"))
