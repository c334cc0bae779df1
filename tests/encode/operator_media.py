"""What the tests of the decode operator share."""

import numpy as np
import torch

from hybridprompt.generator.base import Planes


def tensors(planes: Planes) -> tuple[torch.Tensor, torch.Tensor]:
    """y (H, W) and uv (2, H/2, W/2), in levels."""
    y, u, v = (torch.from_numpy(plane.astype(np.float32)) for plane in planes)
    return y, torch.stack([u, v])


def inner(a: tuple[torch.Tensor, ...], b: tuple[torch.Tensor, ...]) -> float:
    """Inner product of two pictures."""
    return float(sum((x.double() * y.double()).sum() for x, y in zip(a, b, strict=True)))
