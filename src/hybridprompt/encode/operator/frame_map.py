"""What a probe finds about one frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hybridprompt.errors import ConfigError
from hybridprompt.generator.base import Planes

CELL: Final = 8
"""Side, in samples of a plane, of the cells for which there are gains per band."""

Half = NDArray[np.float16]


@dataclass(frozen=True, eq=False, kw_only=True)
class FrameMap:
    """Where the pixels of one frame come from in the anchor's picture.

    displacement: (2, H, W) float16, x then y, in luma samples: position in the anchor less that in the frame;
    rounded by at most 1/64 sample where it is below 64.  gain_y (H, W), gain_uv (H/2, W/2): float16, 0 to 1.
    factors_y (bands, ceil(H/CELL), ceil(W/CELL)), factors_uv (bands, 2, ceil(H/2/CELL), ceil(W/2/CELL)):
    float16, what to multiply the gain of each octave with, the finest first; see Note [Gain per band] in
    `band_gain`.  Raises ConfigError for shapes that do not fit together.
    """

    frame: int
    displacement: Half
    gain_y: Half
    gain_uv: Half
    factors_y: Half
    factors_uv: Half

    def __post_init__(self) -> None:
        if self.displacement.ndim != 3 or self.displacement.shape[0] != 2:
            raise ConfigError(f"displacement has shape {self.displacement.shape}, expected (2, H, W)")
        height, width = self.displacement.shape[1:]
        if height % 2 or width % 2:
            raise ConfigError(f"map of {width}x{height}, expected even sizes")
        bands = self.factors_y.shape[0] if self.factors_y.ndim == 3 else 0
        expected = {
            "gain_y": (height, width),
            "gain_uv": (height // 2, width // 2),
            "factors_y": (bands, *cell_grid(height, width)),
            "factors_uv": (bands, 2, *cell_grid(height // 2, width // 2)),
        }
        for name, shape in expected.items():
            found = getattr(self, name).shape
            if found != shape or bands == 0:
                raise ConfigError(f"{name} has shape {found}, expected {shape} with 1 or more bands")

    def __repr__(self) -> str:
        return f"FrameMap(frame={self.frame}, {self.width}x{self.height}, bands={len(self.factors_y)})"

    @property
    def width(self) -> int:
        return int(self.displacement.shape[2])

    @property
    def height(self) -> int:
        return int(self.displacement.shape[1])


def even_part(planes: Planes) -> Planes:
    """Planes without the last row and column of luma where their number is odd: what maps are of."""
    y, u, v = planes
    height, width = (length // 2 for length in y.shape)
    return y[: 2 * height, : 2 * width], u[:height, :width], v[:height, :width]


def cell_grid(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of cells of a plane."""
    return -(-height // CELL), -(-width // CELL)
