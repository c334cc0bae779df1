"""The loss of training, and of fitting prompts.

    L = w_alex LPIPS_alex(phase, scale) + w_vgg LPIPS_vgg + w_dists DISTS + w_pixel L1 + w_band B

LPIPS with AlexNet alone is gamed by a pixel-shuffle network: its first layer has a stride of 4, so it always
meets the same phase.  Hence a random crop phase and a random rescale before it, a VGG16 term on a few crops,
and the sub-band term B, which asks for the source's local standard deviation in two Laplacian bands (right
amount of texture, no wish for its exact place).  DISTS is left out unless it is asked for: where it takes
part, it no longer tells whether a gain in LPIPS is more than that.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from hybridprompt.errors import ConfigError
from hybridprompt.evaluate.colour import yuv420_to_rgb
from hybridprompt.evaluate.perceptual import Dists, Lpips, quick_dtype


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weights of the terms; 0 leaves one out.

    ``vgg_every``, ``vgg_crops`` and ``vgg_size`` bound the cost of the terms of VGG16, LPIPS-VGG and DISTS.
    """

    alex: float = 1.0
    vgg: float = 1.0
    dists: float = 0.0
    pixel: float = 2.0
    band: float = 1.0
    vgg_every: int = 3
    vgg_crops: int = 3
    vgg_size: int = 112

    def __post_init__(self) -> None:
        if self.vgg_every < 1 or self.vgg_crops < 1 or self.vgg_size < 32:
            raise ConfigError(
                f"vgg_every = {self.vgg_every}, vgg_crops = {self.vgg_crops}, vgg_size = {self.vgg_size}: "
                "expected at least 1, 1 and 32"
            )


@dataclass(frozen=True)
class LossTerms:
    """The terms of one step; ``vgg`` and ``dists`` are None on the steps that leave them out."""

    total: torch.Tensor
    alex: float
    vgg: float | None
    dists: float | None
    pixel: float
    band: float


def _local_deviation(band: torch.Tensor, window: int) -> torch.Tensor:
    mean = F.avg_pool2d(band, window, window // 2)
    square = F.avg_pool2d(band * band, window, window // 2)
    return (square - mean * mean).clamp_min(1e-8).sqrt()


def band_loss(y: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean difference of local standard deviation in two Laplacian bands of luma (N, 1, H, W)."""
    total = y.new_zeros(())
    for _ in range(2):
        low, low_target = F.avg_pool2d(y, 2), F.avg_pool2d(target, 2)
        band = y - F.interpolate(low, scale_factor=2, mode="bilinear", align_corners=False)
        band_target = target - F.interpolate(low_target, scale_factor=2, mode="bilinear", align_corners=False)
        total = total + (_local_deviation(band, 8) - _local_deviation(band_target, 8)).abs().mean()
        y, target = low, low_target
    return total


def pixel_loss(
    generated: tuple[torch.Tensor, torch.Tensor], source: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """Mean difference of luma (N, 1, H, W), and half of that of chroma (N, 2, H/2, W/2)."""
    return (generated[0] - source[0]).abs().mean() + 0.5 * (generated[1] - source[1]).abs().mean()


def mean_distance(metric: Lpips | Dists, generated: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Mean distance of RGB pictures (N, 3, H, W), a scalar, with gradients of the generated ones only."""
    with torch.no_grad():
        wanted = metric.features(source)
    return metric.distance(metric.features(generated), wanted).mean()


class GeneratorLoss:
    """Computes the loss of a batch; random choices come from ``rng`` so that a run can be repeated.

    alex_dtype: of AlexNet's arithmetic; bfloat16 is twice as fast on processors that have it.
    """

    def __init__(
        self,
        weights: LossWeights,
        device: torch.device,
        rng: torch.Generator,
        *,
        alex_dtype: torch.dtype = torch.float32,
    ) -> None:
        self.weights = weights
        self.alex = Lpips("alex", device=device, dtype=alex_dtype) if weights.alex > 0 else None
        self.vgg = Lpips("vgg", device=device, dtype=quick_dtype(device)) if weights.vgg > 0 else None
        self.dists = Dists(device=device, dtype=quick_dtype(device)) if weights.dists > 0 else None
        self.rng = rng

    def _random(self, high: int) -> int:
        return int(torch.randint(high, (1,), generator=self.rng))

    def _alex_distance(self, rgb: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        assert self.alex is not None
        dy, dx = self._random(8), self._random(8)
        scale = (0.8, 1.0, 1.25)[self._random(3)]

        def seen(picture: torch.Tensor) -> torch.Tensor:
            part = picture[..., dy:, dx:]
            if scale != 1.0:
                part = F.interpolate(part, scale_factor=scale, mode="bilinear", antialias=True)
            return part

        return mean_distance(self.alex, seen(rgb), seen(target))

    def _crop(self, rgb: torch.Tensor) -> tuple[slice, slice, slice, slice]:
        """Where the terms of VGG16 look."""
        size = min(self.weights.vgg_size, *rgb.shape[-2:])
        dy, dx = self._random(rgb.shape[-2] - size + 1), self._random(rgb.shape[-1] - size + 1)
        count = min(self.weights.vgg_crops, len(rgb))
        return slice(0, count), slice(None), slice(dy, dy + size), slice(dx, dx + size)

    def __call__(
        self,
        generated: tuple[torch.Tensor, torch.Tensor],
        source: tuple[torch.Tensor, torch.Tensor],
        step: int,
    ) -> LossTerms:
        """Loss of generated planes, (N, 1, H, W) luma and (N, 2, H/2, W/2) chroma, against the source's."""
        weights = self.weights
        rgb, target = yuv420_to_rgb(*generated), yuv420_to_rgb(*source)
        alex = rgb.new_zeros(()) if self.alex is None else self._alex_distance(rgb, target)
        pixel = pixel_loss(generated, source)
        band = band_loss(generated[0], source[0])
        total = weights.alex * alex + weights.pixel * pixel + weights.band * band
        late: dict[str, float] = {}
        if (self.vgg or self.dists) and step % weights.vgg_every == 0:
            crop = self._crop(rgb)
            for name, weight, metric in (
                ("vgg", weights.vgg, self.vgg),
                ("dists", weights.dists, self.dists),
            ):
                if metric is not None:
                    distance = mean_distance(metric, rgb[crop], target[crop])
                    total = total + weight * distance
                    late[name] = float(distance.detach())
        return LossTerms(
            total=total,
            alex=float(alex.detach()),
            vgg=late.get("vgg"),
            dists=late.get("dists"),
            pixel=float(pixel.detach()),
            band=float(band.detach()),
        )
