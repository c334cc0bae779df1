"""A picture as a quantised latent: encoder, entropy model, and a decoder of a generator's cost; in torch.

Planes of 8-bit 4:2:0 go in and come out as the generator's do: luma unshuffled by 4, chroma by 2.  The latent
has 96 values for 16x16 pixels, its hyper-latent 32 for 64x64.  One network serves all rates: gains for every
channel before and behind the rounding, those of whole levels learnt and those between interpolated, after
Cui et al. 2021 ("Asymmetric gained deep image compression").  A latent's value is a Laplace variable whose
mean and scale come from the hyper-latent and from what three earlier passes have brought: four passes, in
each of which every quarter of the channels takes another of four neighbouring places, after Li et al. 2023
("Neural video compression with diverse contexts").

`Prior.integers` is the entropy model in fixed point: the same on every machine, as probabilities must be.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hybridprompt.generator.network import ResidualBlock

LEVELS = 5
LATENT = 96
HYPER = 32
STRIDE = 16
HYPER_STRIDE = 4
"""Of the hyper-latent, in values of the latent."""

PARTS = 16
"""Levels are coded in parts of this size."""

TABLES = 64
"""Scales that a Laplace variable can have: SMALLEST * exp(SCALE_STEP * index)."""
SMALLEST = 0.05
SCALE_STEP = math.log(400) / (TABLES - 1)

PASSES = 4
ONE = 1 << 10
"""What is 1 in fixed point."""

_WEIGHT_BITS = 12
_LARGEST = ONE << 10
_PLANES = 24
_ENCODER = 96, 160, 192
_DECODER = 128, 96, 32
_FEATURES = 64
_FIRST_GAIN = 2.0
_GAIN_RATIO = 1.6
_ORDER = 0, 3, 1, 2
"""Places of four, 2 * row + column, as they take turns."""

Planes = tuple[torch.Tensor, torch.Tensor]
"""Luma (N, 1, H, W) and chroma (N, 2, H/2, W/2), in [0, 1]."""

Settle = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Makes values of their means, the indices of their scales, and a mask of those that are asked for."""


def at_level(table: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """Rows of a table (LEVELS, C) for levels (N,): (N, C, 1, 1), linear between rows and beyond them."""
    below = level.floor().clamp(0, LEVELS - 2)[:, None]
    share = level[:, None] - below
    grid = torch.arange(LEVELS, device=table.device)
    weights = (grid == below) * (1 - share) + (grid == below + 1) * share
    return (weights[:, :, None] * table).sum(1)[:, :, None, None]


class _Bounded(torch.autograd.Function):
    """Clamps; gradients pass inside the bounds, and outside where they lead back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, low: float, high: float) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.bounds = low, high
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (x,), (low, high), (gradient,) = ctx.saved_tensors, ctx.bounds, gradients
        passes = torch.where(gradient < 0, x < high, x > low)
        return gradient * passes, None, None


def scale_of(index: torch.Tensor) -> torch.Tensor:
    """The scale of a Laplace variable with a table's index, whole or not."""
    bounded: torch.Tensor = _Bounded.apply(index, 0.0, TABLES - 1.0)  # type: ignore[no-untyped-call]
    return SMALLEST * torch.exp(SCALE_STEP * bounded)


def laplace_bits(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Bits of values under a Laplace variable around 0, integrated over a width of 1."""
    size, rate = values.abs(), 1 / scale
    near = 1 - torch.exp(-rate / 2) * torch.cosh(size.clamp_max(0.5) * rate)
    far = (0.5 - size) * rate + torch.log(-torch.expm1(-rate)) - math.log(2)
    return -torch.where(size < 0.5, near.log(), far) / math.log(2)


@dataclass(frozen=True)
class Rounding:
    """seen: what a decoder sees of values; bits: what values cost with their scales."""

    seen: Callable[[torch.Tensor], torch.Tensor]
    bits: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _noisy_bits(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Bits of what is coded, whose gradient to the values is that of noise in the place of rounding.

    Noise itself would make values that nearly always are 0 dearer than they are, by more than a low rate.
    """
    noisy = laplace_bits(x + torch.rand_like(x) - 0.5, scale.detach())
    return laplace_bits(x.detach().round(), scale) + noisy - noisy.detach()


HARD = Rounding(torch.round, lambda x, scale: laplace_bits(x.round(), scale))
"""What is coded."""

STRAIGHT_THROUGH = Rounding(lambda x: x + (x.round() - x).detach(), _noisy_bits)
"""For training: what is coded, with the gradient of the identity."""


def _conv(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2)


class _IntegerConv(nn.Module):
    """A convolution of fixed-point numbers: (N, C, H, W) int64 in units of 1 / ONE."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        assert layer.bias is not None
        assert layer.stride == (1, 1)
        self.weight = (layer.weight.detach().double() * (1 << _WEIGHT_BITS)).round().long()
        self.bias = (layer.bias.detach().double() * (ONE << _WEIGHT_BITS)).round().long()
        self.padding = layer.kernel_size[0] // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.conv2d(x, self.weight, self.bias, padding=self.padding)
        return ((out + (1 << (_WEIGHT_BITS - 1))) >> _WEIGHT_BITS).clamp(-_LARGEST, _LARGEST)


class Prior(nn.Module):
    """What is expected of a latent.  Numbers are floats, or all of them int64 after `integers`."""

    def __init__(self) -> None:
        super().__init__()
        self.level_bias = nn.Parameter(torch.zeros(LEVELS, HYPER))
        self.hyper_index = nn.Parameter(torch.full((LEVELS, HYPER), 32.0))
        """Of the scales of the hyper-latent."""
        self.expand = nn.ModuleList(
            (_conv(HYPER, 96), _conv(96, 4 * 64, 1), _conv(64, 64), _conv(64, 4 * _FEATURES, 1))
        )
        self.contexts = nn.ModuleList(_conv(LATENT, _FEATURES) for _ in range(PASSES - 1))
        self.joints = nn.ModuleList(_conv(_FEATURES, 64, 1) for _ in range(PASSES))
        self.heads = nn.ModuleList(_conv(64, 2 * LATENT, 1) for _ in range(PASSES))

    def integers(self) -> Prior:
        """The same in fixed point; level tables stay as they are, see `hyper_at`."""
        found = copy.deepcopy(self)
        for layers in (found.expand, found.contexts, found.joints, found.heads):
            for index, layer in enumerate(layers):
                assert isinstance(layer, nn.Conv2d)
                layers[index] = _IntegerConv(layer)
        return found

    def hyper_at(self, parts: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Of a level in parts: the bias of the hyper-latent, and the indices of its scales; (1, HYPER, 1, 1).

        The latter, and the former in units of 1 / ONE, are int64, interpolated between integers.
        """
        below = min(max(parts // PARTS, 0), LEVELS - 2)
        share = parts - below * PARTS
        found = []
        for table in (self.level_bias, self.hyper_index):
            rows = (table.detach().double() * ONE).round().long()
            mixed = rows[below] * (PARTS - share) + rows[below + 1] * share
            found.append((mixed + PARTS // 2) // PARTS)
        bias, index = (row[None, :, None, None] for row in found)
        return bias, ((index + ONE // 2) // ONE).clamp(0, TABLES - 1)

    def features(self, hyper: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        """A hyper-latent with its bias, (N, HYPER, h', w'), as features (N, F, h, w) of its latent."""
        first, second, third, last = self.expand
        x = F.pixel_shuffle(second(torch.relu(first(hyper))), 2)
        x = F.pixel_shuffle(last(torch.relu(third(torch.relu(x)))), 2)
        return x[..., : shape[0], : shape[1]]

    def settle(self, features: torch.Tensor, choose: Settle) -> torch.Tensor:
        """The latent (N, LATENT, h, w) that is chosen pass by pass."""
        count, _, height, width = features.shape
        latent = features.new_zeros((count, LATENT, height, width))
        for turn in range(PASSES):
            x = features if turn == 0 else features + self.contexts[turn - 1](latent)
            mean, index = self.heads[turn](torch.relu(self.joints[turn](torch.relu(x)))).chunk(2, 1)
            mask = turn_mask(turn, height, width, features.device)
            # Near the middle of the tables, and eight of them for a step of 1.
            index = 32 + 8 * index if index.is_floating_point() else 32 + ((index + ONE // 16) >> 7)
            latent = latent + mask * choose(mean, index, mask)
        return latent


def turn_mask(turn: int, height: int, width: int, device: torch.device) -> torch.Tensor:
    """Which values of a latent are coded in a pass: (1, LATENT, h, w), bool."""
    rows = torch.arange(height, device=device).view(-1, 1) % 2
    columns = torch.arange(width, device=device).view(1, -1) % 2
    place = 2 * rows + columns
    quarters = [place == _ORDER[(turn + quarter) % 4] for quarter in range(4)]
    return torch.stack(quarters).repeat_interleave(LATENT // 4, 0)[None]


class Decoder(nn.Module):
    """The trunk of a generator: a latent that was scaled back, to planes."""

    def __init__(self) -> None:
        super().__init__()
        low, body, tail = _DECODER
        self.level_bias = nn.Parameter(torch.zeros(LEVELS, low))
        self.first = _conv(LATENT, low)
        self.low = nn.Sequential(*[ResidualBlock(low) for _ in range(2)])
        self.middle = _conv(low, 4 * body, 1)
        self.body = nn.Sequential(*[ResidualBlock(body) for _ in range(2)])
        self.up = _conv(body, 4 * tail, 1)
        self.tail = ResidualBlock(tail)
        self.head = _conv(tail, _PLANES)

    def forward(self, latent: torch.Tensor, level: torch.Tensor) -> Planes:
        """(N, LATENT, H/16, W/16) at levels (N,) to planes of H x W pixels, not clipped."""
        x = self.low(torch.relu(self.first(latent) + at_level(self.level_bias, level)))
        x = self.body(F.pixel_shuffle(self.middle(x), 2))
        x = self.head(self.tail(F.pixel_shuffle(self.up(x), 2))).float() + 0.5
        return F.pixel_shuffle(x[:, :16], 4), F.pixel_shuffle(x[:, 16:], 2)


class LearnedStill(nn.Module):
    """All of it.  quick: bfloat16 for all but the entropy model."""

    def __init__(self, *, quick: bool = False) -> None:
        super().__init__()
        self.quick = quick
        first, second, third = _ENCODER
        self.encoder = nn.Sequential(
            _conv(_PLANES, first),
            nn.ReLU(),
            _conv(first, second, stride=2),
            *[ResidualBlock(second) for _ in range(2)],
            _conv(second, third, stride=2),
            *[ResidualBlock(third) for _ in range(3)],
            _conv(third, LATENT),
        )
        self.hyper_encoder = nn.Sequential(
            _conv(LATENT, 96), nn.ReLU(), _conv(96, 96, stride=2), nn.ReLU(), _conv(96, HYPER, stride=2)
        )
        for layer in self.encoder:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
        self.prior = Prior()
        self.decoder = Decoder()
        gains = _FIRST_GAIN * _GAIN_RATIO ** (torch.arange(LEVELS) - LEVELS // 2)
        logs = gains.log()[:, None].expand(-1, LATENT)
        self.log_gain = nn.Parameter(logs.clone())
        self.log_inverse = nn.Parameter(-logs)

    def _autocast(self) -> AbstractContextManager[object]:
        if not self.quick:
            return nullcontext()
        # Without a cache of weights, which a captured step must not share with others.
        return torch.autocast(self.log_gain.device.type, torch.bfloat16, cache_enabled=False)

    def analyse(self, planes: Planes) -> torch.Tensor:
        """Planes whose sizes are multiples of STRIDE to a latent that has no gain yet, in float32."""
        x = torch.cat([F.pixel_unshuffle(planes[0], 4), F.pixel_unshuffle(planes[1], 2)], 1) - 0.5
        with self._autocast():
            latent: torch.Tensor = self.encoder(x.contiguous(memory_format=torch.channels_last))
        return latent.float()

    def amplified(self, latent: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """The latent with the gains of levels (N,)."""
        return latent * at_level(self.log_gain, level).exp()

    def hyper(self, latent: torch.Tensor) -> torch.Tensor:
        """The hyper-latent of an amplified latent, not rounded."""
        bottom, right = (-n % HYPER_STRIDE for n in latent.shape[-2:])
        with self._autocast():
            out: torch.Tensor = self.hyper_encoder(F.pad(latent, (0, right, 0, bottom), mode="replicate"))
        return out.float()

    def rounded(
        self, latent: torch.Tensor, hyper: torch.Tensor, level: torch.Tensor, rounding: Rounding
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The latent as decoded, how it differs from its means, the hyper-latent as decoded, bits (N,)."""
        parts = []

        def choose(mean: torch.Tensor, index: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            difference = latent - mean
            parts.append(torch.stack([difference, index]) * mask)
            return mean + rounding.seen(difference)

        seen = rounding.seen(hyper)
        bits = rounding.bits(hyper, scale_of(at_level(self.prior.hyper_index, level))).sum((1, 2, 3))
        biased = seen + at_level(self.prior.level_bias, level)
        shape = latent.shape[-2], latent.shape[-1]
        decoded = self.prior.settle(self.prior.features(biased, shape), choose)
        difference, index = torch.stack(parts).sum(0).unbind()
        bits = bits + rounding.bits(difference, scale_of(index)).sum((1, 2, 3))
        return decoded, rounding.seen(difference), seen, bits

    def synthesise(self, decoded: torch.Tensor, level: torch.Tensor) -> Planes:
        """A decoded latent to planes, not clipped."""
        scaled = decoded * at_level(self.log_inverse, level).exp()
        with self._autocast():
            planes: Planes = self.decoder(scaled.contiguous(memory_format=torch.channels_last), level)
        return planes


def padded(y: np.ndarray, uv: np.ndarray, device: torch.device) -> Planes:
    """Planes (H, W) and (2, H/2, W/2), uint8, with repeated edges up to whole strides, in [0, 1]."""
    bottom, right = (-n % STRIDE for n in y.shape)
    luma = np.pad(y, ((0, bottom), (0, right)), "edge")[None, None]
    chroma = np.pad(uv, ((0, 0), (0, bottom // 2), (0, right // 2)), "edge")[None]
    return torch.from_numpy(luma).to(device).float() / 255, torch.from_numpy(chroma).to(device).float() / 255


def count_gmac(width: int, height: int) -> tuple[float, float]:
    """Multiply-accumulates of the decoder and of the entropy model for one picture, in units of 10^9."""
    with torch.device("meta"):
        network = LearnedStill()
        shape = -(-height // STRIDE), -(-width // STRIDE)
        latent, level = torch.zeros(1, LATENT, *shape), torch.zeros(1)
        hyper = torch.zeros(1, HYPER, *(-(-n // HYPER_STRIDE) for n in shape))
    found = []
    for run in (
        lambda: network.synthesise(latent, level),
        lambda: network.rounded(latent, hyper, level, HARD),
    ):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            run()
        found.append(counter.get_total_flops() / 2e9)
    return found[0], found[1]
