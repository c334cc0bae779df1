"""BD-rates: known values, signs, and refusals."""

import numpy as np
import pytest
from report_records import curve, record

from hybridprompt.evaluate.report.bd import BdRate, bd_rate, mean_bd_rate
from hybridprompt.evaluate.report.hull import Point, hull
from hybridprompt.evaluate.report.load import parse_record

METRICS = ("LPIPS-Alex", "PSNR-Y", "VMAF")


def points(records: list[dict], metric: str) -> list[Point]:
    return hull([parse_record(r, "test") for r in records], metric)


def at_rates(factor: float, rates: tuple[float, ...] = (60.0, 120.0, 240.0, 480.0)) -> list[dict]:
    """Fixed qualities, reached at ``factor`` times some rates."""
    quality = ((0.4, 28.0, 30.0), (0.3, 31.0, 50.0), (0.2, 34.0, 70.0), (0.15, 37.0, 80.0))
    return [
        record(target=rate, actual=rate * factor, LPIPS_Alex=lpips, PSNR_Y=psnr, VMAF=vmaf)
        for rate, (lpips, psnr, vmaf) in zip(rates, quality, strict=False)
    ]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("factor", "percent"), [(0.5, -50.0), (2.0, 100.0), (1.0, 0.0)])
def test_the_rate_for_the_same_quality(metric: str, factor: float, percent: float) -> None:
    found = bd_rate(points(at_rates(1.0), metric), points(at_rates(factor), metric), metric)
    assert found.percent == pytest.approx(percent, abs=1e-6)
    assert found.overlap == pytest.approx(1.0)


def test_four_points_give_what_the_original_formula_gives() -> None:
    """The x265 points of the package's README, against VCEG-M33's own cubic fit of the log rate."""
    anchor = [(9487.76, 40.037), (4593.60, 38.615), (2486.44, 36.845), (1358.24, 34.851)]
    test = [(9787.80, 40.121), (4469.00, 38.651), (2451.52, 36.970), (1356.24, 34.987)]
    curves = [
        points([record(target=r, actual=r, PSNR_Y=p) for r, p in side], "PSNR-Y") for side in (anchor, test)
    ]
    integrals = []
    for side in (anchor, test):
        rates, values = np.log10([r for r, _ in side]), [p for _, p in side]
        integral = np.polyint(np.polyfit(values, rates, 3))
        low, high = 34.987, 40.037
        integrals.append((np.polyval(integral, high) - np.polyval(integral, low)) / (high - low))
    expected = 100 * (10 ** (integrals[1] - integrals[0]) - 1)
    found = bd_rate(*curves, "PSNR-Y")
    assert found.percent == pytest.approx(expected, abs=0.02)
    assert found.percent == pytest.approx(-4.42, abs=0.01)


@pytest.mark.parametrize("metric", METRICS)
def test_too_few_points_are_refused(metric: str) -> None:
    whole = points(at_rates(1.0), metric)
    assert bd_rate(whole, whole[:2], metric) == BdRate(None, "method has 2 of 3 points")
    assert bd_rate(whole[:1], whole, metric) == BdRate(None, "anchor has 1 of 3 points")
    assert bd_rate(whole[:3], whole[:3], metric).percent == pytest.approx(0.0)


@pytest.mark.parametrize(("factor", "word"), [(100.0, "better"), (0.01, "worse")])
def test_nothing_is_extrapolated(factor: float, word: str) -> None:
    anchor = points(curve("dog", "a", 1.0), "LPIPS-Alex")
    test = points(curve("dog", "b", factor), "LPIPS-Alex")
    found = bd_rate(anchor, test, "LPIPS-Alex")
    assert found.percent is None
    assert found.reason == f"no common quality (method always {word})"


def test_a_small_overlap_is_refused() -> None:
    anchor, test = points(curve("dog", "a", 1.0), "PSNR-Y"), points(curve("dog", "b", 6.0), "PSNR-Y")
    found = bd_rate(anchor, test, "PSNR-Y")
    assert found.percent is None
    assert found.reason == "only 7 % common quality"


def test_the_mean_is_over_the_numbers_there_are() -> None:
    mean = mean_bd_rate([BdRate(-10.0), BdRate(None, "why"), BdRate(-20.0)])
    assert (mean.percent, mean.clips, mean.of_clips) == (-15.0, 2, 3)
    assert mean_bd_rate([BdRate(None, "why")]).percent is None
