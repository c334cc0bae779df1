"""Synthetic pictures for the demo's tests."""

from fractions import Fraction

import numpy as np

from hybridprompt.video.picture import Picture

RATE = Fraction(30)


def moving_pictures(count: int, width: int = 96, height: int = 64, seed: int = 1) -> list[Picture]:
    """A random texture that moves one pixel right per picture."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(30, 220, (height // 4 + 1, (width + count) // 4 + 1), np.uint8)
    texture = cells.repeat(4, 0).repeat(4, 1)
    chroma = np.full(((height + 1) // 2, (width + 1) // 2), 128, np.uint8)
    return [
        Picture(texture[:height, i : i + width].copy(), chroma, chroma, i, 1 / RATE) for i in range(count)
    ]
