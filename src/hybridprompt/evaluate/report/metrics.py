"""How the report shows each metric: its order, direction, digits, and the way two values are compared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hybridprompt.evaluate.compare import HIGHER_IS_BETTER

PRIMARY = "LPIPS-Alex"
"""What variants and scales are chosen by."""

_ORDER = ("LPIPS-Alex", "LPIPS-VGG", "DISTS", "VMAF", "VMAF-NEG", "MS-SSIM", "PSNR-Y", "Flicker")
_DIGITS = {"PSNR-Y": 2, "VMAF": 1, "VMAF-NEG": 1}
_LEVEL = 0.005
"""Differences below half a per cent (or of what a metric calls nothing) count as level."""


@dataclass(frozen=True)
class _Difference:
    """Of a metric whose differences are said in its own unit."""

    unit: str
    digits: int
    level: float


_DIFFERENCES = {
    "PSNR-Y": _Difference(" dB", 2, 0.05),
    "VMAF": _Difference("", 1, 0.25),
    "VMAF-NEG": _Difference("", 1, 0.25),
    "MS-SSIM": _Difference("", 4, 0.0005),
}


def ordered(metrics: Iterable[str]) -> list[str]:
    """Metrics in the order of the report: LPIPS-Alex first, unknown ones last and by name."""
    found = set(metrics)
    known = [metric for metric in _ORDER if metric in found]
    return known + sorted(found - set(known))


def higher_is_better(metric: str) -> bool:
    return metric in HIGHER_IS_BETTER


def quality(metric: str, value: float) -> float:
    """The value with such a sign that more is better."""
    return value if higher_is_better(metric) else -value


def with_direction(metric: str) -> str:
    """The metric's name with an arrow towards better."""
    return f"{metric} {'↑' if higher_is_better(metric) else '↓'}"


def show(metric: str, value: float) -> str:
    return f"{value:.{_DIGITS.get(metric, 4)}f}"


def show_change(metric: str, value: float, base: float) -> str:
    """The difference from ``base``: in per cent, or in the metric's unit where per cents mean nothing."""
    difference = _DIFFERENCES.get(metric)
    if difference is not None:
        return signed(value - base, difference.digits) + difference.unit
    return "n/a" if base == 0 else f"{signed(100 * (value / base - 1), 1)} %"


def verdict(metric: str, value: float, base: float) -> int:
    """1 where ``value`` is better than ``base``, -1 where it is worse, 0 where they are level."""
    gain = quality(metric, value) - quality(metric, base)
    difference = _DIFFERENCES.get(metric)
    level = difference.level if difference is not None else _LEVEL * abs(base)
    return 0 if abs(gain) <= level else 1 if gain > 0 else -1


def signed(value: float, digits: int) -> str:
    """A number with its sign, a true minus, and no sign where it rounds to nothing."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")
