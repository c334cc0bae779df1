"""Test pictures whose remains in a decoded frame tell where its pixels come from.

Note [Probing by phase]: put sin(2 pi x / P) into an anchor, then cos(2 pi x / P).  What the two become at a
pixel of a later frame, less what flat grey becomes there, are sine and cosine of the phase of the position x
that the pixel comes from, times the gain.  A short period gives the position exactly, but only up to whole
periods; a long one gives those.  Chroma moves with luma, so longer waves travel in u (sine) and v (cosine)
while the finest one is in y: four pictures and the grey one are enough for both axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hybridprompt.errors import ConfigError
from hybridprompt.generator.base import Plane, Planes

GREY: Final = 128
_BINOMIAL: Final = (0.0625, 0.25, 0.375, 0.25, 0.0625)


class Axis(IntEnum):
    """Direction of a wave; as an index, x comes first."""

    X = 0
    Y = 1


@dataclass(frozen=True, kw_only=True)
class Waves:
    """The waves of a probe.  Periods are in luma samples.

    fine_period: of the waves in y.  middle_period: of those in u and v that tell periods of the fine apart;
    the longest period is twice the size of the picture.  amplitude: in levels, at most 127.  Raises
    ConfigError.
    """

    fine_period: float = 24
    middle_period: float = 128
    amplitude: float = 80

    def __post_init__(self) -> None:
        if not 4 <= self.fine_period < self.middle_period:
            raise ConfigError(
                f"periods are {self.fine_period:g} and {self.middle_period:g}, expected at least 4, and the "
                "middle one longer than the fine one"
            )
        if not 1 <= self.amplitude <= GREY - 1:
            raise ConfigError(f"amplitude is {self.amplitude:g}, expected 1 to {GREY - 1}")

    def pictures(self, width: int, height: int) -> tuple[Planes, ...]:
        """Five pictures of one size, even or odd: flat grey, fine sine and cosine along x, then along y.

        In u and v: grey; the longest wave along x, then along y; the middle one along x, then along y.
        """
        fine = [self._pair(np.arange(size), self.fine_period) for size in (width, height)]
        centres = [2.0 * np.arange(half_up(size)) + 0.5 for size in (width, height)]
        longest = [self._pair(c, 2 * size) for c, size in zip(centres, (width, height), strict=True)]
        middle = [self._pair(c, self.middle_period) for c in centres]
        coded = (*longest, *middle)
        pictures = [_grey(width, height)]
        for number, (u, v) in enumerate(coded):
            luma_axis, chroma_axis = Axis(number // 2), Axis(number % 2)
            y = fine[luma_axis][number % 2]
            pictures.append(
                (
                    _spread(y, luma_axis, width, height),
                    _spread(u, chroma_axis, half_up(width), half_up(height)),
                    _spread(v, chroma_axis, half_up(width), half_up(height)),
                )
            )
        return tuple(pictures)

    def _pair(self, positions: NDArray[np.generic], period: float) -> tuple[Plane, Plane]:
        """Sine and cosine at the positions, in levels around grey."""
        phase = 2 * np.pi * positions.astype(np.float64) / period
        sine, cosine = (
            np.rint(GREY + self.amplitude * wave(phase)).astype(np.uint8) for wave in (np.sin, np.cos)
        )
        return sine, cosine


def add_texture(base: Planes, *, bands: int, deviation: float, seed: int) -> Planes:
    """Add noise to a picture, of the same standard deviation in each of several octaves, clipped to 0..255.

    bands, deviation: how many octaves from the finest on, and levels in each.
    """
    rng = np.random.default_rng(seed)
    y, u, v = (
        np.clip(np.rint(plane + deviation * _texture(rng, plane.shape, bands)), 0, 255).astype(np.uint8)
        for plane in base
    )
    return y, u, v


def _texture(rng: np.random.Generator, shape: tuple[int, ...], bands: int) -> NDArray[np.float32]:
    """White noise with its octaves brought to the same standard deviation, 1 in each."""
    rest = rng.standard_normal(shape, dtype=np.float32)
    total = np.zeros(shape, np.float32)
    for octave in range(bands):
        smooth = _blurred(_blurred(rest, 0, 1 << octave), 1, 1 << octave)
        band = rest - smooth if octave < bands - 1 else rest
        total += band / max(float(band.std()), 1e-6)
        rest = smooth
    return total


def _blurred(plane: NDArray[np.float32], axis: int, step: int) -> NDArray[np.float32]:
    taps = (np.roll(plane, step * (k - 2), axis) * np.float32(tap) for k, tap in enumerate(_BINOMIAL))
    blurred: NDArray[np.float32] = np.sum(list(taps), axis=0, dtype=np.float32)
    return blurred


def half_up(length: int) -> int:
    """Samples of chroma for so many of luma."""
    return -(-length // 2)


def _grey(width: int, height: int) -> Planes:
    y, u, v = (
        np.full(shape, GREY, np.uint8)
        for shape in ((height, width), *[(half_up(height), half_up(width))] * 2)
    )
    return y, u, v


def _spread(line: Plane, axis: Axis, width: int, height: int) -> Plane:
    return np.ascontiguousarray(np.broadcast_to(line if axis is Axis.X else line[:, None], (height, width)))
