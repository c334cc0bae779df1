"""Conversion of coded planes to RGB for the metrics, as one differentiable torch function.

The same function is used for the source and for every decoded picture, so that no metric measures a
converter.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

Matrix = Literal["bt601", "bt709", "bt2020"]

# Kr, Kb of ITU-T H.273, table 4 (matrix coefficients 5/6, 1 and 9).
_KR_KB: dict[str, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
}


def yuv420_to_rgb(
    y: torch.Tensor, uv: torch.Tensor, *, matrix: Matrix = "bt709", full_range: bool = False
) -> torch.Tensor:
    """Convert 8-bit 4:2:0 planes, scaled to [0, 1], to RGB.

    y: (N, 1, H, W); uv: (N, 2, ceil(H/2), ceil(W/2)); both float, sample value / 255. Returns (N, 3, H, W) in
    [0, 1].  Chroma is upsampled bilinearly (centre-sited, as the codecs' default players do).
    """
    kr, kb = _KR_KB[matrix]
    h, w = y.shape[-2:]
    chroma = F.interpolate(uv, scale_factor=2, mode="bilinear", align_corners=False)[..., :h, :w] - 128 / 255
    if full_range:
        luma, cb, cr = y, chroma[:, :1], chroma[:, 1:]
    else:
        luma = (y - 16 / 255) * (255 / 219)
        cb, cr = chroma[:, :1] * (255 / 224), chroma[:, 1:] * (255 / 224)
    r = luma + 2 * (1 - kr) * cr
    b = luma + 2 * (1 - kb) * cb
    g = (luma - kr * r - kb * b) / (1 - kr - kb)
    return torch.cat([r, g, b], 1).clamp(0, 1)
