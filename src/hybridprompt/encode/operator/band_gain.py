"""Measures how much of each octave arrives, beside what positions and gain say.

Note [Gain per band]: fine detail fades sooner than coarse, since interpolation and prediction from two places
average it away, and the positions have errors themselves.  So one more decode, of the base picture with some
texture added, is compared with the one of the base picture alone: for each octave, and locally, least squares
say how much of what the positions and the gain of the waves predict is really there.
"""

from __future__ import annotations

import itertools
from typing import Final

import torch
import torch.nn.functional as F

from hybridprompt.encode.operator.frame_map import CELL
from hybridprompt.encode.operator.sampling import box_mean, sample, split_bands

_NEIGHBOURHOOD: Final = 3
"""Side, in cells, of the square over which least squares are taken."""

_PRIOR: Final = 0.5
"""Weight, in squared levels per sample, of the waves' own gain against what the texture says."""

_FACTOR_RANGE: Final = (-0.2, 1.3)


def fit_factors(
    found: torch.Tensor, change: torch.Tensor, displacement: torch.Tensor, gain: torch.Tensor, bands: int
) -> torch.Tensor:
    """Factors (bands, N, rows, columns) of cells, by least squares: Note [Gain per band].

    found, change: what came of the texture, and the texture, (N, H, W).
    """
    count, height, width = found.shape
    predicted = sample(split_bands(change, bands).flatten(0, 1), displacement)
    predicted = predicted.reshape(bands, count, height, width) * gain
    right = torch.stack([_cell_mean(one * found) for one in predicted], -1) + _PRIOR
    left = torch.empty(*right.shape, bands, device=found.device)
    for i, j in itertools.combinations_with_replacement(range(bands), 2):
        left[..., i, j] = left[..., j, i] = _cell_mean(predicted[i] * predicted[j])
    left += _PRIOR * torch.eye(bands, device=found.device)
    factors = torch.linalg.solve(left, right[..., None])[..., 0]
    clamped: torch.Tensor = factors.clamp(*_FACTOR_RANGE)
    return clamped.movedim(-1, 0)


def _cell_mean(planes: torch.Tensor) -> torch.Tensor:
    """Mean of planes (N, H, W) over the neighbourhood of each cell: (N, rows, columns)."""
    means = F.avg_pool2d(planes[None], CELL, ceil_mode=True, count_include_pad=False)[0]
    return box_mean(means, _NEIGHBOURHOOD)
