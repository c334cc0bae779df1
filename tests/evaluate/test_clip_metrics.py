"""The metrics of a clip."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from hybridprompt.errors import MediaError
from hybridprompt.evaluate import metrics as module
from hybridprompt.evaluate.metrics import MetricSet, flicker, sample_plan
from hybridprompt.evaluate.perceptual import Lpips
from hybridprompt.evaluate.settings import METRIC_NAMES
from hybridprompt.evaluate.vmaf import find_vmaf
from hybridprompt.evaluate.weights import have_metric_weights
from hybridprompt.video.picture import Picture

CHEAP = ("PSNR-Y", "Flicker")


def clip(count: int, width: int = 192, height: int = 176) -> list[Picture]:
    rng = np.random.default_rng(3)
    texture = (
        rng.integers(40, 200, (height // 4 + 9, width // 4 + 9)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
    )
    chroma = np.full((height // 2, width // 2), 120, np.uint8)
    return [
        Picture(texture[i : i + height, 2 * i : 2 * i + width].copy(), chroma, chroma, i, Fraction(1, 25))
        for i in range(count)
    ]


def brighter(picture: Picture, by: int) -> Picture:
    return replace(picture, y=(picture.y + np.uint8(by)))


def noisy(picture: Picture, seed: int) -> Picture:
    noise = np.random.default_rng(seed).integers(-20, 21, picture.y.shape)
    return replace(picture, y=np.clip(picture.y + noise, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def every_metric() -> MetricSet:
    if not have_metric_weights() or find_vmaf()[0] is None:
        pytest.skip("the metric packages are not installed")
    return MetricSet(METRIC_NAMES)


def test_equal_clips_are_perfect(every_metric: MetricSet) -> None:
    source = clip(6)
    found = every_metric.measure(source, source, sample_plan(6, 2, 1))
    assert found.missing == {}
    assert set(found.values) == set(METRIC_NAMES)
    for name in ("LPIPS-Alex", "LPIPS-VGG", "DISTS", "Flicker"):
        assert found.values[name] == pytest.approx(0, abs=1e-5)
    assert found.values["PSNR-Y"] == 100
    assert found.values["MS-SSIM"] == pytest.approx(1, abs=1e-5)
    assert found.values["VMAF"] > 95
    assert [frame for frame, _ in found.per_frame["LPIPS-Alex"]] == [1, 4]
    assert [frame for frame, _ in found.per_frame["DISTS"]] == [3]
    assert [frame for frame, _ in found.per_frame["VMAF"]] == list(range(6))


def test_damage_worsens_every_metric(every_metric: MetricSet) -> None:
    source = clip(6)
    shown = [noisy(p, i) for i, p in enumerate(source)]
    found = every_metric.measure(source, shown, sample_plan(6, 1, 1, vmaf_step=2))
    for name in ("LPIPS-Alex", "LPIPS-VGG", "DISTS", "Flicker"):
        assert found.values[name] > 0.01
    assert found.values["PSNR-Y"] < 30
    assert found.values["MS-SSIM"] < 0.999
    assert found.values["VMAF"] < 97
    assert [frame for frame, _ in found.per_frame["VMAF-NEG"]] == [0, 2, 4]


def test_flicker_is_the_change_that_the_source_has_not() -> None:
    a, b = clip(2)
    assert flicker((a, brighter(a, 7)), (b, brighter(b, 7))) == 0
    assert flicker((a, a), (b, brighter(b, 7))) == pytest.approx(7 / 255)
    assert flicker((a, brighter(a, 3)), (b, brighter(b, 7))) == pytest.approx(4 / 255)
    still = np.mean(np.abs(b.y.astype(int) - a.y)) / 255
    assert flicker((a, a), (b, a)) == pytest.approx(still)


def test_flicker_of_the_first_frame_is_that_of_the_second() -> None:
    source = clip(3)
    shown = [source[0], brighter(source[1], 5), source[2]]
    found = MetricSet(["Flicker"]).measure(source, shown, sample_plan(3, 3, 0))
    assert found.per_frame["Flicker"] == [(1, round(5 / 255, 6)), (2, round(5 / 255, 6))]


def test_a_single_picture_has_no_flicker_and_says_so() -> None:
    source = clip(1)
    found = MetricSet(CHEAP).measure(source, source, sample_plan(1, 5, 0))
    assert found.values == {"PSNR-Y": 100}
    assert "Flicker" in found.missing


def test_pictures_too_small_for_ms_ssim_are_told() -> None:
    pytest.importorskip("pytorch_msssim")
    source = clip(2, 96, 64)
    found = MetricSet(["MS-SSIM", "PSNR-Y"]).measure(source, source, sample_plan(2, 2, 0))
    assert "161" in found.missing["MS-SSIM"]
    assert found.values == {"PSNR-Y": 100}


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> None:
        raise ImportError("pytorch_msssim is not there")

    monkeypatch.setattr(module, "_ms_ssim", gone)
    monkeypatch.setattr(module, "find_vmaf", lambda: (None, "no libvmaf"))
    metrics = MetricSet(["MS-SSIM", "VMAF", "PSNR-Y"])
    source = clip(2)
    found = metrics.measure(source, source, sample_plan(2, 2, 0))
    assert found.values == {"PSNR-Y": 100}
    assert found.missing == {"MS-SSIM": "pytorch_msssim is not there", "VMAF": "no libvmaf"}


@pytest.mark.parametrize("count", [2, 4])
def test_clips_of_different_length_are_refused(count: int) -> None:
    with pytest.raises(MediaError, match="the decoded video"):
        MetricSet(CHEAP).measure(clip(3), clip(count), sample_plan(3, 1, 0))


def test_pictures_of_another_size_are_refused() -> None:
    with pytest.raises(MediaError, match="expected the size"):
        MetricSet(CHEAP).measure(clip(2), clip(2, 96, 64), sample_plan(2, 1, 0))


def test_samples_are_spread_or_drawn() -> None:
    assert sample_plan(100, 4, 1).light == (12, 37, 62, 87)
    assert sample_plan(100, 4, 1).heavy == (50,)
    drawn = sample_plan(100, 4, 1, seed=5)
    assert drawn == sample_plan(100, 4, 1, seed=5) != sample_plan(100, 4, 1, seed=6)
    assert [f // 25 for f in drawn.light] == [0, 1, 2, 3]
    assert sample_plan(3, 10, 0, seed=2).light == (0, 1, 2)


def test_features_of_a_source_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    if not have_metric_weights():
        pytest.skip("the metric packages are not installed")
    calls = []
    features = Lpips.features
    monkeypatch.setattr(Lpips, "features", lambda self, rgb: calls.append(1) or features(self, rgb))
    metrics = MetricSet(["LPIPS-Alex"])
    source = clip(2)
    other = [noisy(p, i) for i, p in enumerate(source)]
    plan = sample_plan(2, 2, 0)
    first = metrics.measure(source, other, plan)
    assert len(calls) == 4
    # Other objects with the same content, as another decode gives them.
    again = metrics.measure([p.copied() for p in source], other, plan)
    assert len(calls) == 6
    assert again.per_frame == first.per_frame
    # The same planes in other colours are another picture.
    full = [replace(p, color=replace(p.color, full_range=True)) for p in source]
    metrics.measure(full, full, plan)
    assert len(calls) == 10
    metrics.forget_sources()
    metrics.measure(source, other, plan)
    assert len(calls) == 14


def test_what_does_not_fit_is_not_kept() -> None:
    kept = module._KeptFeatures(100)
    first, second = clip(2)
    kept.put(None, first, [torch.zeros(20)])
    kept.put(None, second, [torch.zeros(20)])
    assert kept.get(None, first) is not None
    assert kept.get(None, second) is None
    kept.clear()
    kept.put(None, second, [torch.zeros(20)])
    assert kept.get(None, second) is not None


def test_bfloat16_agrees_with_float32() -> None:
    if not have_metric_weights():
        pytest.skip("the metric packages are not installed")
    source = clip(1)
    plan = sample_plan(1, 1, 1)
    for seed in (1, 2):
        shown = [noisy(p, seed) for p in source]
        exact, rounded = (
            MetricSet(["LPIPS-VGG", "DISTS"], precision=p).measure(source, shown, plan)
            for p in ("float32", "bfloat16")
        )
        assert exact.values != rounded.values
        for name, value in exact.values.items():
            assert rounded.values[name] == pytest.approx(value, rel=0.01)
