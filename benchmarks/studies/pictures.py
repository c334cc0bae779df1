"""What studies of single pictures share: a keyframe as the encoder codes it, planes as tensors, distances."""

from __future__ import annotations

import numpy as np
import torch
from figures import code_with_svt
from numpy.typing import NDArray

from hybridprompt.evaluate.colour import yuv420_to_rgb
from hybridprompt.evaluate.perceptual import Dists, Lpips
from hybridprompt.generator.base import Planes
from hybridprompt.video.av1_encoder import PictureLambdas
from hybridprompt.video.picture import Picture


def keyframe(picture: Picture, crf: float) -> tuple[int, int, Planes]:
    """A keyframe as the encoder codes it: bytes, base_q_idx, and what it decodes to."""
    data, decoded, base_q_idx = code_with_svt(picture, crf, 5, tune=0, lambdas=PictureLambdas(key=0.5))
    return len(data), base_q_idx, decoded.planes


def _pad(plane: NDArray[np.uint8], multiple: int) -> torch.Tensor:
    height, width = plane.shape
    grown = np.pad(plane, ((0, -height % multiple), (0, -width % multiple)), "edge")
    return torch.from_numpy(grown)[None, None].float() / 255


def padded_planes(planes: Planes) -> tuple[torch.Tensor, torch.Tensor]:
    """Luma and chroma in [0, 1], edges repeated to multiples of 16 and 8."""
    return _pad(planes[0], 16), torch.cat([_pad(plane, 8) for plane in planes[1:]], 1)


def levels(made: tuple[torch.Tensor, torch.Tensor], like: Planes) -> Planes:
    """Planes in levels, cut to the sizes of others."""
    parts = [(p * 255).round().clamp(0, 255).byte().numpy() for p in (made[0][0, 0], *made[1][0])]
    y, u, v = (part[: p.shape[0], : p.shape[1]] for part, p in zip(parts, like, strict=True))
    return y, u, v


class Measure:
    """Distances of pictures, in bfloat16."""

    def __init__(self) -> None:
        half = torch.bfloat16
        self.networks = [Lpips("alex", dtype=half), Lpips("vgg", dtype=half), Dists(dtype=half)]

    def __call__(self, planes: Planes, source: Planes) -> tuple[float, ...]:
        def rgb(found: Planes) -> torch.Tensor:
            y, u, v = (torch.from_numpy(np.array(plane)).float() / 255 for plane in found)
            return yuv420_to_rgb(y[None, None], torch.stack([u, v])[None])

        with torch.inference_mode():
            pair = rgb(planes), rgb(source)
            return tuple(float(network(*pair)) for network in self.networks)
