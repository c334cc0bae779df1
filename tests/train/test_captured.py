"""Steps that wait for nothing: crops from the device's memory, the same loss, exact resuming."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hybridprompt.errors import ConfigError  # noqa: E402
from hybridprompt.evaluate.weights import have_metric_weights  # noqa: E402

if not have_metric_weights():
    pytest.skip("the weights of LPIPS and DISTS are not installed", allow_module_level=True)

from train_media import TINY, tiny_config  # noqa: E402

from hybridprompt.evaluate.colour import yuv420_to_rgb  # noqa: E402
from hybridprompt.evaluate.loss import LossWeights  # noqa: E402
from hybridprompt.evaluate.perceptual import Dists, Lpips  # noqa: E402
from hybridprompt.generator.network import GeneratorNetwork  # noqa: E402
from hybridprompt.train import captured as captured_module  # noqa: E402
from hybridprompt.train import loop as loop_module  # noqa: E402
from hybridprompt.train.adversarial import AdversarialSettings  # noqa: E402
from hybridprompt.train.captured import DeviceLoss, Kind, with_generated_inputs  # noqa: E402
from hybridprompt.train.config import Distillation  # noqa: E402
from hybridprompt.train.loop import Trainer  # noqa: E402
from hybridprompt.train.resident import ResidentSamples  # noqa: E402
from hybridprompt.train.sample_files import crop_planes  # noqa: E402
from hybridprompt.train.samples import Batch, SampleStore, seen_from  # noqa: E402

CPU = torch.device("cpu")
LATE = LossWeights(dists=1.0, vgg_every=2, vgg_crops=1, vgg_size=48)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("turned", [False, True])
def test_crops_are_those_of_the_samples(folder: Path, turned: bool) -> None:
    samples = SampleStore(folder / "corpus" / "train").samples
    resident = ResidentSamples(samples, 64, CPU, turned=turned)
    table, quantisers = resident.draw(np.random.default_rng(3), 48)
    batch = resident.batch(table, quantisers)
    starts = np.cumsum([0, *(s.source.size for s in samples)]).tolist()
    for index, (start, height, width, top, left, way) in enumerate(table.tolist()):
        sample = samples[starts.index(start)]
        assert (height, width) == (sample.height, sample.width)
        assert float(quantisers[index]) == pytest.approx(sample.base_q_idx / 255)
        for planes, array in ((batch.coded, sample.coded), (batch.source, sample.source)):
            luma, chroma = crop_planes(array, top, left, 64, 64)
            assert np.array_equal((planes[0][index, 0] * 255).round().numpy(), seen_from(luma, way))
            assert np.array_equal((planes[1][index] * 255).round().numpy(), seen_from(chroma, way))
    ways, tops = table[:, 5], table[:, 3]
    assert set(ways.tolist()) == set(range(8 if turned else 2))
    assert len(set((tops % 4).tolist())) == 2


def test_crop_larger_than_all_samples_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="as large as a crop of 128"):
        ResidentSamples(SampleStore(folder / "corpus" / "train").samples, 128, CPU)


@pytest.mark.parametrize("late_size", [48, 41])
def test_loss_is_that_of_the_metrics_where_it_looks(late_size: int) -> None:
    torch.manual_seed(0)
    generated, source = ((torch.rand(2, 1, 64, 64), torch.rand(2, 2, 32, 32)) for _ in range(2))
    weights = LossWeights(alex=1.0, vgg=2.0, dists=4.0, pixel=0.0, band=0.0, vgg_crops=1, vgg_size=late_size)
    loss = DeviceLoss(weights, 64, CPU, torch.float32)
    kind = Kind(scale=1, late=True)
    loss.look(np.random.default_rng(1), kind)
    total, terms = loss(generated, source, kind)
    rows, columns = (int(view[0].argmax()) for view in loss._views[1])
    top, left = (int(places[0]) for places in loss._places)
    assert (rows, columns) != (0, 0)
    a, b = yuv420_to_rgb(*generated), yuv420_to_rgb(*source)
    seen = [p[..., rows : rows + 56, columns : columns + 56] for p in (a, b)]
    late = [p[:1, :, top : top + late_size, left : left + late_size] for p in (a, b)]
    alex = float(Lpips("alex")(*seen).mean())
    vgg, dists = float(Lpips("vgg")(*late)), float(Dists()(*late))
    assert float(terms["alex"]) == pytest.approx(alex, rel=1e-4)
    # Some processors compute VGG16 in bfloat16.
    assert float(terms["vgg"]) == pytest.approx(vgg, rel=0.02)
    assert float(terms["dists"]) == pytest.approx(dists, rel=0.02)
    assert float(total) == pytest.approx(
        float(terms["alex"]) + 2 * float(terms["vgg"]) + 4 * float(terms["dists"])
    )


@pytest.mark.parametrize("scale", [0, 2])
def test_views_rescale_as_interpolation_does(scale: int) -> None:
    loss = DeviceLoss(LossWeights(vgg=0), 64, CPU, torch.float32)
    loss.look(np.random.default_rng(2), Kind(scale=scale, late=False))
    rows, columns = loss._views[scale]
    picture = torch.rand(1, 3, 64, 64)
    starts = [int(view.sum(0).nonzero()[0]) for view in (rows, columns)]
    seen = picture[..., starts[0] : starts[0] + 56, starts[1] : starts[1] + 56]
    size = round(56 * (0.8, 1.0, 1.25)[scale])
    wanted = torch.nn.functional.interpolate(seen, size=(size, size), mode="bilinear", antialias=True)
    assert torch.allclose(rows @ picture @ columns.T, wanted, atol=1e-5)


def test_captured_run_learns_and_resumes_exactly(folder: Path) -> None:
    changes = {
        "captured": True,
        "loss": LATE,
        "generated_inputs": 0.5,
        "adversarial": AdversarialSettings(weight=0.01, start_step=3, lead=2),
    }
    whole = Trainer(tiny_config(folder, "whole", **changes))
    start = {name: value.clone() for name, value in whole.network.state_dict().items()}
    whole.run(lambda line: None)
    log = (folder / "whole" / "log.jsonl").read_text().splitlines()
    assert all(f'"{name}"' in log[0] for name in ("alex", "vgg", "dists", "pixel", "band"))
    assert '"discriminator"' in log[0]
    first = Trainer(replace(tiny_config(folder, "parts", **changes), steps=3))
    first.run(lambda line: None)
    second = Trainer(replace(tiny_config(folder, "parts", **changes)))
    assert second.step == 3
    # The schedule of the first part was shorter; its weights do not count here, only that all goes on.
    before = {name: value.clone() for name, value in second.network.state_dict().items()}
    second.run(lambda line: None)
    assert second.step == 6
    again = Trainer(tiny_config(folder, "again", **changes))
    again.run(lambda line: None)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name]), name
        assert torch.isfinite(value).all()
    assert any(not torch.equal(start[n], v) for n, v in whole.network.state_dict().items())
    assert any(not torch.equal(before[n], v) for n, v in second.network.state_dict().items())


def test_interrupted_captured_run_ends_as_a_whole_one(folder: Path) -> None:
    class Interrupted(Exception):
        pass

    changes = {
        "captured": True,
        "loss": LossWeights(vgg=0),
        "generated_inputs": 0.5,
        "adversarial": AdversarialSettings(weight=0.01, start_step=4, lead=2),
    }
    whole = Trainer(tiny_config(folder, "whole", **changes))
    whole.run(lambda line: None)
    first = Trainer(tiny_config(folder, "parts", save_seconds=0.0, **changes))

    def stop(line: str) -> None:
        if first.step == 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        first.run(stop)
    second = Trainer(tiny_config(folder, "parts", **changes))
    assert second.step == 3
    second.run(lambda line: None)
    for name, value in whole.ema.network.state_dict().items():
        assert torch.equal(value, second.ema.network.state_dict()[name]), name
    assert whole.adversarial is not None
    assert second.adversarial is not None
    for name, value in whole.adversarial.discriminator.state_dict().items():
        assert torch.equal(value, second.adversarial.discriminator.state_dict()[name]), name


def test_run_that_was_captured_on_another_device_goes_on(folder: Path) -> None:
    config = tiny_config(folder, captured=True, loss=LossWeights(vgg=0), steps=2)
    Trainer(config).run(lambda line: None)
    checkpoint = config.run_folder / "checkpoint.pt"
    state = torch.load(checkpoint, weights_only=True)
    for group in state["optimiser"]["param_groups"]:
        group |= {"lr": torch.tensor(1.0), "capturable": True, "fused": True}
    torch.save(state, checkpoint)
    trainer = Trainer(replace(config, steps=4))
    assert trainer.optimiser.param_groups[0]["capturable"] is False
    trainer.run(lambda line: None)
    assert trainer.step == 4


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_share_of_generated_inputs_is_one(folder: Path, share: float) -> None:
    with pytest.raises(ConfigError, match="generated_inputs"):
        tiny_config(folder, generated_inputs=share)


def test_distillation_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="captured"):
        tiny_config(folder, captured=True, distillation=Distillation(teacher=folder / "ema.pt"))


@pytest.mark.parametrize("chosen", [[], [1], [2, 0]])
def test_only_the_chosen_crops_are_generated_again(chosen: list[int]) -> None:
    torch.manual_seed(4)
    network = GeneratorNetwork(TINY)
    torch.nn.init.normal_(network.head.weight, std=0.1)
    planes = torch.rand(3, 1, 64, 64), torch.rand(3, 2, 32, 32)
    batch = Batch(planes, planes, torch.full((3, 1, 1, 1), 0.6))
    strengths = torch.full((len(chosen), 1, 1, 1), 0.5)
    changed = with_generated_inputs(network, batch, torch.tensor(chosen, dtype=torch.long), strengths)
    made = network(*planes, batch.quantiser)
    for before, after, generated in zip(planes, changed.coded, made, strict=True):
        for index in range(3):
            wanted = (before[index] + generated[index]).div(2).clamp(0, 1).detach()
            if index in chosen:
                assert torch.allclose(after[index], wanted, atol=0.6 / 255)
                assert not torch.equal(after[index], before[index])
            else:
                assert torch.equal(after[index], before[index])
    assert changed.source is batch.source


@pytest.mark.parametrize("captured", [False, True])
def test_the_crops_of_vgg_are_generated_no_more_often_than_others(
    folder: Path, captured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(folder, "run", captured=captured, generated_inputs=0.5, batch=4, steps=40)
    chosen: list[int] = []
    module = captured_module if captured else loop_module

    def recorded(network: object, batch: Batch, places: "torch.Tensor", strengths: "torch.Tensor") -> Batch:
        chosen.extend(places.tolist())
        return batch

    monkeypatch.setattr(module, "with_generated_inputs", recorded)
    Trainer(replace(config, loss=LossWeights(vgg=0))).run(lambda line: None)
    counts = np.bincount(chosen, minlength=4)
    assert counts.sum() == 80
    assert counts.min() >= 10
