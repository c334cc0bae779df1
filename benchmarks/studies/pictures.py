"""What studies of single pictures share: a keyframe as the encoder codes it, planes as tensors, distances."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray

from hybridprompt.bitstream.obu import HeaderTracker
from hybridprompt.evaluate.colour import yuv420_to_rgb
from hybridprompt.evaluate.perceptual import Dists, Lpips
from hybridprompt.generator.base import Planes
from hybridprompt.video.av1_decoder import Av1Decoder
from hybridprompt.video.av1_encoder import Av1Settings, PictureLambdas, encode_gop
from hybridprompt.video.picture import Picture


def keyframe(picture: Picture, crf: float) -> tuple[int, int, Planes]:
    """A keyframe as the encoder codes it: bytes, base_q_idx, and what it decodes to."""
    settings = Av1Settings(
        width=picture.width,
        height=picture.height,
        frame_rate=Fraction(30),
        time_base=Fraction(1, 30),
        crf=crf,
        preset=5,
        threads=2,
        color=picture.color,
        picture_lambdas=PictureLambdas(key=0.5),
        extra=(("tune", "0"),),
    )
    (packet,) = encode_gop([picture], settings)
    header = next(header for header in HeaderTracker().parse(packet.data) if header.shown)
    with Av1Decoder(time_base=Fraction(1, 30)) as decoder:
        (frame,) = decoder.decode(packet.data, packet.pts)
        y, u, v = (plane.copy() for plane in frame.picture.planes)
    return len(packet.data), header.base_q_idx, (y, u, v)


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
