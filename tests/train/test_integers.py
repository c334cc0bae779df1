"""Training with weights and activations rounded as the exported file has them."""

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from hybridprompt.evaluate.weights import have_metric_weights  # noqa: E402

if not have_metric_weights():
    pytest.skip("the weights of LPIPS and DISTS are not installed", allow_module_level=True)

from train_media import TINY, TINY_DEEP, TINY_SLIM, tiny_config  # noqa: E402

from hybridprompt.generator.network import GeneratorNetwork  # noqa: E402
from hybridprompt.generator.torch_weights import read_onnx  # noqa: E402
from hybridprompt.train.export import export_int8, load_weights  # noqa: E402
from hybridprompt.train.integers import InIntegers, rounded_activations, rounded_in_file  # noqa: E402
from hybridprompt.train.loop import Trainer  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=[TINY, TINY_DEEP, TINY_SLIM], ids=["two levels", "three levels", "slim"])
def network(request: pytest.FixtureRequest) -> GeneratorNetwork:
    torch.manual_seed(3)
    network = GeneratorNetwork(request.param)
    # A head that does something: a fresh one gives the base.
    torch.nn.init.normal_(network.head.weight, std=0.02)
    if request.param.deep_channels:
        # Likewise.
        torch.nn.init.normal_(network.deep.up.weight, std=0.1)
    return network


def picture() -> tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]:
    rng = torch.Generator().manual_seed(5)
    planes = torch.rand(2, 1, 64, 64, generator=rng), torch.rand(2, 2, 32, 32, generator=rng)
    return *planes, torch.full((2, 1, 1, 1), 0.6)


def test_weights_are_those_of_the_exported_file(network: GeneratorNetwork, folder: Path) -> None:
    state = {"network": network.state_dict(), "config": network.config.as_dict(), "step": 1}
    torch.save(state, folder / "ema.pt")
    export_int8(folder / "ema.pt", folder / "int8.onnx", folder / "corpus")
    exported = read_onnx(folder / "int8.onnx", integers=True)
    for name, weight in network.state_dict().items():
        if name.endswith(".weight"):
            assert not torch.equal(weight, exported[name])
            assert torch.allclose(
                rounded_in_file(name.removesuffix(".weight"), weight), exported[name], rtol=1e-5, atol=1e-7
            ), name


@pytest.mark.parametrize("shift", [-3.0, 0.0, 3.0])
def test_activations_are_in_255_steps_and_keep_zero(shift: float) -> None:
    x = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(1)) + shift
    x[0, 0, 0, 0] = 0
    x.requires_grad_()
    rounded = rounded_activations(x)
    assert rounded[0, 0, 0, 0] == 0
    step = (max(float(x.detach().max()), 0) - min(float(x.detach().min()), 0)) / 255
    assert 100 < len(rounded.unique()) <= 256
    error = (rounded - x).detach().abs()
    # Where zero must be met, the ends may be a step off.
    assert float(error.max()) <= 1.01 * step
    assert float(error.mean()) <= 0.26 * step
    rounded.sum().backward()
    assert float(x.grad.mean()) > 0.99


def test_activations_of_zero_stay_zero() -> None:
    assert not rounded_activations(torch.zeros(1, 2, 4, 4)).any()


def test_pictures_differ_by_rounding_only_and_the_network_stays(network: GeneratorNetwork) -> None:
    y, uv, quantiser = picture()
    before = network(y, uv, quantiser)
    rounded = InIntegers(network)(y, uv, quantiser)
    for plane, other, base in zip(before, rounded, (y, uv), strict=True):
        difference = float((plane - other).detach().abs().mean())
        assert 0 < difference < 0.1 * float((plane - base).detach().abs().mean())
    after = network(y, uv, quantiser)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_network_stays_after_a_failure(network: GeneratorNetwork) -> None:
    y, uv, quantiser = picture()
    before = network(y, uv, quantiser)
    with pytest.raises(RuntimeError):
        InIntegers(network)(y, uv[..., :8], quantiser)
    assert torch.equal(network(y, uv, quantiser)[0], before[0])


def test_all_weights_learn(network: GeneratorNetwork) -> None:
    y, uv, quantiser = picture()
    made = InIntegers(network)(y, uv, quantiser)
    (made[0].square().mean() + made[1].square().mean()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("captured", [False, True])
def test_a_run_in_integers_learns_other_weights_of_the_same_kind(folder: Path, captured: bool) -> None:
    logs = {}
    for in_integers in (False, True):
        name = f"run{in_integers}"
        config = tiny_config(folder, name, captured=captured, in_integers=in_integers, steps=20)
        Trainer(config).run(lambda line: None)
        load_weights(folder / name / "ema.pt")
        lines = (folder / name / "log.jsonl").read_text().splitlines()
        logs[in_integers] = [record["alex"] for line in lines if "alex" in (record := json.loads(line))]
    assert logs[True] != logs[False]
    assert logs[True] == pytest.approx(logs[False], rel=0.1)
