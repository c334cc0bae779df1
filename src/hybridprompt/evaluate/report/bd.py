"""BD-rate: by how much less rate a method reaches the same quality, on average (ITU-T VCEG-M33).

Computed by the package `bjontegaard` with piecewise cubic interpolation (PCHIP), as the JVET does; it neither
overshoots nor is it used outside of the measured range.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from hybridprompt.errors import ConfigError
from hybridprompt.evaluate.report.hull import Point
from hybridprompt.evaluate.report.metrics import quality

MIN_POINTS = 3
"""Points that each curve needs; four are usual, and with three the number is a rough one."""

MIN_OVERLAP = 0.2
"""Least share of the whole span of quality that both curves must cover."""

WEAK_OVERLAP = 0.5
"""Below this share the number stands for a small part of the curves, and the report says so."""


@dataclass(frozen=True)
class BdRate:
    """percent: negative where the tested method needs less rate; None with the reason why there is no number.

    overlap: share of the span of quality of both curves that both cover.
    """

    percent: float | None
    reason: str | None = None
    overlap: float | None = None


def bd_rate(anchor: Sequence[Point], test: Sequence[Point], metric: str) -> BdRate:
    """BD-rate of ``test`` against ``anchor``, both hulls: rising in rate and in quality.

    Refuses to extrapolate: curves with fewer than MIN_POINTS points, or that cover too little quality in
    common, give a reason instead of a number.  Raises ConfigError when the package is not installed.
    """
    for name, curve in (("anchor", anchor), ("method", test)):
        if len(curve) < MIN_POINTS:
            return BdRate(None, f"{name} has {len(curve)} of {MIN_POINTS} points")
    # Lower-is-better metrics are negated: the package wants quality that rises with rate.
    anchor_quality = [quality(metric, point.value) for point in anchor]
    test_quality = [quality(metric, point.value) for point in test]
    common = min(anchor_quality[-1], test_quality[-1]) - max(anchor_quality[0], test_quality[0])
    span = max(anchor_quality[-1], test_quality[-1]) - min(anchor_quality[0], test_quality[0])
    if common <= 0:
        better = test_quality[0] >= anchor_quality[-1]
        return BdRate(None, f"no common quality (method always {'better' if better else 'worse'})", 0.0)
    overlap = common / span
    if overlap < MIN_OVERLAP:
        return BdRate(None, f"only {100 * overlap:.0f} % common quality", overlap)
    percent = _package()(
        [point.rate_kbps for point in anchor],
        anchor_quality,
        [point.rate_kbps for point in test],
        test_quality,
        method="pchip",
        require_matching_points=False,
        min_overlap=0,
    )
    return BdRate(float(percent), None, overlap)


@dataclass(frozen=True)
class MeanBdRate:
    """Mean over the clips that have a number; there may be none."""

    percent: float | None
    clips: int
    of_clips: int


def mean_bd_rate(found: Sequence[BdRate]) -> MeanBdRate:
    numbers = [one.percent for one in found if one.percent is not None]
    mean = sum(numbers) / len(numbers) if numbers else None
    return MeanBdRate(mean, len(numbers), len(found))


def _package() -> Callable[..., float]:
    try:
        from bjontegaard import bd_rate as package_bd_rate
    except ImportError as error:
        raise ConfigError(
            "BD-rates need the package bjontegaard; install it with: pip install 'hybridprompt[evaluate]'"
        ) from error
    return cast("Callable[..., float]", package_bd_rate)
