"""Perceptual distances in torch: LPIPS v0.1 (Zhang et al. 2018) and DISTS (Ding et al. 2020).

Both take RGB pictures (N, 3, H, W) in [0, 1]; lower is more alike.  Both are differentiable in either
argument.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from hybridprompt.evaluate.weights import dists_weights_path, load_lpips_arrays

Conv = tuple[torch.Tensor, torch.Tensor]

_VGG_STAGES = (2, 2, 3, 3, 3)
_ALEX_STRIDE_PAD = ((4, 2), (1, 2), (1, 1), (1, 1), (1, 1))


def _as_tensor(array: object) -> torch.Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32))


def _load_convolutions(network: str) -> tuple[list[Conv], list[torch.Tensor]]:
    tree = load_lpips_arrays(network)
    body = tree[next(key for key in tree if not key.startswith("NetLin"))]
    convolutions = []
    for index in range(len(body)):
        layer = body[f"Conv_{index}"]
        kernel = _as_tensor(layer["kernel"]).permute(3, 2, 0, 1).contiguous()
        convolutions.append((kernel, _as_tensor(layer["bias"])))
    linear = [_as_tensor(tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]).reshape(1, -1, 1, 1) for i in range(5)]
    return convolutions, linear


def _laid_out(kernel: torch.Tensor) -> torch.Tensor:
    """As the backward pass wants it: it would bring it there every time.  float32 stays as it is."""
    if kernel.dtype == torch.float32:
        return kernel
    return kernel.contiguous(memory_format=torch.channels_last)


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) as (N, H, W, C): gradients are laid out like that, and activations mostly are in memory;
    what is laid out differently multiplies slowly.
    """
    return x.permute(0, 2, 3, 1)


def quick_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device computes in it, which takes half the time; else float32."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return torch.bfloat16 if native else torch.float32


class Lpips:
    """LPIPS v0.1 with AlexNet or VGG16 features and the published linear weights."""

    def __init__(
        self,
        network: Literal["alex", "vgg"] = "alex",
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        convolutions, linear = _load_convolutions({"alex": "alexnet", "vgg": "vgg16"}[network])
        self.network = network
        self.convolutions = [(_laid_out(k.to(device, dtype)), b.to(device, dtype)) for k, b in convolutions]
        self.linear = [w.to(device) for w in linear]
        self.dtype = dtype
        # The scaling layer of LPIPS, for pictures in [-1, 1].
        self._shift = torch.tensor([-0.030, -0.088, -0.188], device=device).view(1, 3, 1, 1)
        self._scale = torch.tensor([0.458, 0.448, 0.450], device=device).view(1, 3, 1, 1)

    def activations(self, rgb: torch.Tensor) -> list[torch.Tensor]:
        """Activations of the five stages, as the network computes them; pictures (N, 3, H, W) in [0, 1]."""
        x = ((rgb * 2 - 1 - self._shift) / self._scale).to(self.dtype)
        # A fifth faster on CPUs.
        x = x.contiguous(memory_format=torch.channels_last)
        return self._alex(x) if self.network == "alex" else self._vgg(x)

    def features(self, rgb: torch.Tensor) -> list[torch.Tensor]:
        """Unit-normalised activations of the five stages for pictures (N, 3, H, W) in [0, 1]."""
        stages = [s.float() for s in self.activations(rgb)]
        norms = [torch.linalg.vector_norm(s, dim=1, keepdim=True) + 1e-10 for s in stages]
        # In place where nothing is learnt: large temporary tensors cost as much as the arithmetic.
        in_place = not torch.is_grad_enabled()
        return [s.div_(n) if in_place else s / n for s, n in zip(stages, norms, strict=True)]

    def _alex(self, x: torch.Tensor) -> list[torch.Tensor]:
        out = []
        for index, (stride, pad) in enumerate(_ALEX_STRIDE_PAD):
            if index in (1, 2):
                x = F.max_pool2d(x, 3, 2)
            x = F.relu(F.conv2d(x, *self.convolutions[index], stride, pad))
            out.append(x)
        return out

    def _vgg(self, x: torch.Tensor) -> list[torch.Tensor]:
        out = []
        index = 0
        for stage, count in enumerate(_VGG_STAGES):
            if stage:
                x = F.max_pool2d(x, 2, 2)
            for _ in range(count):
                x = F.relu(F.conv2d(x, *self.convolutions[index], 1, 1))
                index += 1
            out.append(x)
        return out

    def distance_maps(self, a: list[torch.Tensor], b: list[torch.Tensor]) -> list[torch.Tensor]:
        """Per stage, the distance at every position: (N, h_i, w_i)."""
        maps = []
        for x, y, weight in zip(a, b, self.linear, strict=True):
            difference = _channels_last(x - y)
            square = difference * difference if torch.is_grad_enabled() else difference.square_()
            maps.append(square @ weight.flatten())
        return maps

    def distance(self, a: list[torch.Tensor], b: list[torch.Tensor]) -> torch.Tensor:
        """Distance of two lists of features: (N,)."""
        return torch.stack([m.mean((1, 2)) for m in self.distance_maps(a, b)]).sum(0)

    def __call__(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.distance(self.features(a), self.features(b))


class Dists:
    """DISTS at the pictures' own resolution (no resizing), as the authors' network computes it."""

    _CHANNELS = (3, 64, 128, 256, 512, 512)

    def __init__(self, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        convolutions, _ = _load_convolutions("vgg16")
        self.convolutions = [(_laid_out(k.to(device, dtype)), b.to(device, dtype)) for k, b in convolutions]
        self.dtype = dtype
        weights = torch.load(dists_weights_path(), map_location=device, weights_only=True)
        alpha, beta = weights["alpha"].detach(), weights["beta"].detach()
        total = alpha.sum() + beta.sum()
        self.alpha = torch.split((alpha / total).view(1, 1, 1, -1), list(self._CHANNELS), dim=3)
        self.beta = torch.split((beta / total).view(1, 1, 1, -1), list(self._CHANNELS), dim=3)
        self._mean = torch.tensor([0.485, 0.456, 0.406], device=device).view(1, 3, 1, 1)
        self._std = torch.tensor([0.229, 0.224, 0.225], device=device).view(1, 3, 1, 1)
        window = torch.tensor([0.25, 0.5, 0.25], device=device, dtype=dtype)
        self._pool = window[:, None] * window[None]

    def _l2_pool(self, x: torch.Tensor) -> torch.Tensor:
        kernel = self._pool.expand(x.shape[1], 1, 3, 3)
        return (F.conv2d(x * x, kernel, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()

    def activations(self, rgb: torch.Tensor) -> list[torch.Tensor]:
        """The picture itself and the activations of the five stages, as the network computes them."""
        x = ((rgb - self._mean) / self._std).to(self.dtype)
        if self.dtype != torch.float32:
            # Float32 stays in the order that it was compared with the authors' code in.
            x = x.contiguous(memory_format=torch.channels_last)
        out = [rgb]
        index = 0
        for stage, count in enumerate(_VGG_STAGES):
            if stage:
                x = self._l2_pool(x)
            for _ in range(count):
                x = F.relu(F.conv2d(x, *self.convolutions[index], 1, 1))
                index += 1
            out.append(x)
        return out

    def features(self, rgb: torch.Tensor) -> list[torch.Tensor]:
        """The picture itself and the activations of the five stages, in float32."""
        return [x.float() for x in self.activations(rgb)]

    def distance(self, a: list[torch.Tensor], b: list[torch.Tensor]) -> torch.Tensor:
        """Distance of two lists of features: (N,)."""
        stabiliser = 1e-6
        similarity = torch.zeros(a[0].shape[0], device=a[0].device)
        for x, y, alpha, beta in zip(a, b, self.alpha, self.beta, strict=True):
            x, y = _channels_last(x), _channels_last(y)
            mean_x, mean_y = x.mean((1, 2), keepdim=True), y.mean((1, 2), keepdim=True)
            texture = (2 * mean_x * mean_y + stabiliser) / (mean_x**2 + mean_y**2 + stabiliser)
            x, y = x - mean_x, y - mean_y
            variance_x = (x * x).mean((1, 2), keepdim=True)
            variance_y = (y * y).mean((1, 2), keepdim=True)
            covariance = (x * y).mean((1, 2), keepdim=True)
            structure = (2 * covariance + stabiliser) / (variance_x + variance_y + stabiliser)
            similarity = similarity + (alpha * texture + beta * structure).sum((1, 2, 3))
        return 1 - similarity

    def __call__(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.distance(self.features(a), self.features(b))
