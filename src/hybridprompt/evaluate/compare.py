"""Compares what decoders show with the source, frame by frame, in several metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hybridprompt.errors import MediaError
from hybridprompt.evaluate.colour import Matrix, yuv420_to_rgb
from hybridprompt.evaluate.perceptual import Dists, Lpips
from hybridprompt.video.picture import BT601_525, BT601_625, BT2020, Picture

METRICS = ("LPIPS-Alex", "LPIPS-VGG", "DISTS", "PSNR-Y")
HIGHER_IS_BETTER = frozenset({"PSNR-Y", "MS-SSIM", "VMAF", "VMAF-NEG"})


def matrix_name(picture: Picture) -> Matrix:
    """The conversion matrix of a picture, tagged or guessed from its height."""
    matrix = picture.color.resolved_matrix(picture.height)
    if matrix in (BT601_525, BT601_625):
        return "bt601"
    return "bt2020" if matrix == BT2020 else "bt709"


def picture_to_rgb(picture: Picture) -> torch.Tensor:
    """Convert a picture to (1, 3, H, W) float RGB in [0, 1]."""
    y = torch.from_numpy(np.array(picture.y))[None, None].float() / 255
    uv = torch.from_numpy(np.stack([picture.u, picture.v]))[None].float() / 255
    return yuv420_to_rgb(y, uv, matrix=matrix_name(picture), full_range=picture.color.full_range)


def psnr_y(a: Picture, b: Picture) -> float:
    """PSNR of luma in dB; 100 for equal pictures."""
    error = float(np.mean((a.y.astype(np.float32) - b.y.astype(np.float32)) ** 2))
    return 100.0 if error == 0 else float(10 * np.log10(255**2 / error))


@dataclass(frozen=True)
class FrameScores:
    """Metrics of one frame of one method; heavy metrics are there on some frames only."""

    frame: int
    method: str
    values: Mapping[str, float]


class Comparer:
    """Measures methods against a source on sampled frames.

    light_frames get LPIPS-Alex and PSNR-Y; heavy_frames get LPIPS-VGG and DISTS as well (they cost seconds
    per 1080p picture).  Frames are indices in display order.
    """

    def __init__(self, light_frames: Iterable[int], heavy_frames: Iterable[int]) -> None:
        self.heavy = frozenset(heavy_frames)
        self.light = frozenset(light_frames) | self.heavy
        self._alex, self._vgg, self._dists = Lpips("alex"), Lpips("vgg"), Dists()

    def compare(
        self, source: Iterable[Picture], methods: Mapping[str, Iterable[Picture]]
    ) -> list[FrameScores]:
        """Walk through source and methods in step.  Raises MediaError when one of them ends early."""
        iterators = {name: iter(pictures) for name, pictures in methods.items()}
        out: list[FrameScores] = []
        for frame, original in enumerate(source):
            shown: dict[str, Picture] = {}
            for name, iterator in iterators.items():
                picture = next(iterator, None)
                if picture is None:
                    raise MediaError(f"{name}: ends before frame {frame} of the source")
                shown[name] = picture
            if frame in self.light:
                out += self._scores(frame, original, shown)
        return out

    @torch.inference_mode()
    def _scores(self, frame: int, original: Picture, shown: Mapping[str, Picture]) -> list[FrameScores]:
        target = picture_to_rgb(original)
        alex = self._alex.features(target)
        vgg = self._vgg.features(target) if frame in self.heavy else None
        dists = self._dists.features(target) if frame in self.heavy else None
        out = []
        for name, picture in shown.items():
            rgb = picture_to_rgb(picture)
            values = {
                "LPIPS-Alex": float(self._alex.distance(self._alex.features(rgb), alex)),
                "PSNR-Y": psnr_y(picture, original),
            }
            if vgg is not None and dists is not None:
                values["LPIPS-VGG"] = float(self._vgg.distance(self._vgg.features(rgb), vgg))
                values["DISTS"] = float(self._dists.distance(self._dists.features(rgb), dists))
            out.append(FrameScores(frame, name, values))
        return out


def mean_scores(scores: Sequence[FrameScores]) -> dict[str, dict[str, float]]:
    """Mean of every metric over the frames that have it, per method."""
    out: dict[str, dict[str, float]] = {}
    for method in dict.fromkeys(s.method for s in scores):
        mine = [s for s in scores if s.method == method]
        out[method] = {
            metric: float(np.mean(values))
            for metric in METRICS
            if (values := [s.values[metric] for s in mine if metric in s.values])
        }
    return out
