"""The linear pieces that the decode operator is made of, in torch: sampling, and octave bands."""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F

_BINOMIAL: Final = (0.0625, 0.25, 0.375, 0.25, 0.0625)


def sample(planes: torch.Tensor, displacement: torch.Tensor) -> torch.Tensor:
    """Take each position's value from where it is displaced to.

    planes: (N, H, W).  displacement: (2, rows, columns), x then y, in samples of these planes.  Bicubic
    (a = -0.75) between samples; beyond the picture its edges go on, as AV1's reference pictures do
    (7.11.3.3).  Linear in planes; returns (N, rows, columns) of their dtype.
    """
    height, width = planes.shape[-2:]
    rows, columns = displacement.shape[-2:]
    dx, dy = displacement.to(planes.dtype)
    x = torch.arange(columns, dtype=planes.dtype, device=planes.device) + dx
    y = torch.arange(rows, dtype=planes.dtype, device=planes.device)[:, None] + dy
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)
    return F.grid_sample(planes[None], grid[None], "bicubic", "border", align_corners=False)[0]


def split_bands(planes: torch.Tensor, bands: int) -> torch.Tensor:
    """Split planes (N, H, W) into (bands, N, H, W) that add up to them, the finest octave first.

    An undecimated pyramid with the binomial filter (Burt and Adelson 1983; "a trous").  Linear in planes.
    """
    out = []
    rest = planes
    for octave in range(bands - 1):
        smooth = _blurred(rest, 1 << octave)
        out.append(rest - smooth)
        rest = smooth
    return torch.stack([*out, rest])


def downscale(displacement: torch.Tensor) -> torch.Tensor:
    """Displacement (2, H, W) of luma as that of chroma, (2, H/2, W/2), in chroma samples."""
    return F.avg_pool2d(displacement[None], 2)[0] / 2


def spread(cells: torch.Tensor, height: int, width: int, cell_size: int) -> torch.Tensor:
    """Values per cell, (..., ceil(H/cell_size), ceil(W/cell_size)), to (..., H, W)."""
    rows = torch.arange(height, device=cells.device) // cell_size
    columns = torch.arange(width, device=cells.device) // cell_size
    return cells[..., rows[:, None], columns]


def box_mean(planes: torch.Tensor, size: int) -> torch.Tensor:
    """Mean over a square of `size` (odd) samples around each position of planes (..., H, W), less where it
    reaches beyond them.
    """
    if size == 1:
        return planes
    # Five times as fast as avg_pool2d.
    for axis in (-1, -2):
        planes = _line_mean(planes, size // 2, axis)
    return planes


def _line_mean(planes: torch.Tensor, margin: int, axis: int) -> torch.Tensor:
    """Mean of each position and of `margin` ones to either side, along the last axis or the one before."""
    length = planes.shape[axis]
    padded = F.pad(planes, (margin, margin) if axis == -1 else (0, 0, margin, margin))
    total = padded.narrow(axis, 0, length) + padded.narrow(axis, 1, length)
    for shift in range(2, 2 * margin + 1):
        total += padded.narrow(axis, shift, length)
    positions = torch.arange(length, device=planes.device)
    last = (positions + margin).clamp_max(length - 1)
    counts = last - (positions - margin).clamp_min(0) + 1
    return total / (counts if axis == -1 else counts[:, None])


def _blurred(planes: torch.Tensor, step: int) -> torch.Tensor:
    taps = torch.tensor(_BINOMIAL, dtype=planes.dtype, device=planes.device)
    margin = 2 * step
    across = F.pad(planes[:, None], (margin, margin, 0, 0), "replicate")
    across = F.conv2d(across, taps.view(1, 1, 1, 5), dilation=(1, step))
    both = F.pad(across, (0, 0, margin, margin), "replicate")
    return F.conv2d(both, taps.view(1, 1, 5, 1), dilation=(step, 1))[:, 0]
