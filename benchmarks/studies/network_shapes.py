"""Shapes of the generator's network, trained alike from random weights and measured on the same pictures.

    python benchmarks/studies/network_shapes.py runs/corpus --steps 1500 --only plain deep large-kernel

Every shape takes the same crops in the same order.  LPIPS-Alex and PSNR of whole held-out pictures, LPIPS-VGG
and DISTS of their central 256 pixels, against the base; GMAC and seconds (torch, float32, two threads) of one
1920x1080 picture.  Results are added to docs/figures/network_shapes.csv as they come.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from figures import FIGURES
from torch import nn

from hybridprompt.evaluate.loss import GeneratorLoss, LossWeights
from hybridprompt.generator.network import GeneratorNetwork, ResidualBlock
from hybridprompt.train.loop import Scores, validate
from hybridprompt.train.samples import SampleStore

_PLANES = 24
_COLUMNS = (
    *("shape", "GMAC", "parameters", "seconds_1080p", "steps"),
    *("alex_%", "vgg_%", "dists_%", "psnr_dB", "seed"),
)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """quarter, eighth, sixteenth: channels and residual blocks there; no quarter blocks or no sixteenth: 0.

    skip: the network meets the picture at 1/4 and works at 1/8; without, it meets it at 1/8.  noise: channels
    of normal noise beside the picture.  conditioned: told the quantiser.
    """

    quarter: tuple[int, int] = (32, 1)
    eighth: tuple[int, int] = (96, 2)
    sixteenth: tuple[int, int] = (0, 0)
    kernel: Literal["plain", "large"] = "plain"
    skip: bool = True
    noise: int = 0
    conditioned: bool = True


SHAPES = {
    "plain": Shape(),
    "unconditioned": Shape(conditioned=False),
    "noise": Shape(noise=2),
    "narrow and deep": Shape(eighth=(68, 4)),
    "wide and shallow": Shape(eighth=(136, 1)),
    "no block at 1/4": Shape(quarter=(32, 0), eighth=(86, 3)),
    "only 1/8": Shape(quarter=(32, 0), eighth=(80, 3), skip=False),
    "1/16 too": Shape(eighth=(96, 1), sixteenth=(128, 2)),
    "large-kernel": Shape(eighth=(96, 8), kernel="large"),
    "deep": Shape(eighth=(96, 4)),
    "wide": Shape(quarter=(40, 1), eighth=(128, 2)),
    "1/16 too, larger": Shape(eighth=(96, 2), sixteenth=(160, 2)),
}


class LargeKernelBlock(nn.Module):
    """x + conv1(relu(conv1(depthwise conv7(x)))), twice as wide inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.first = nn.Conv2d(channels, 2 * channels, 1)
        self.second = nn.Conv2d(2 * channels, channels, 1)
        nn.init.normal_(self.second.weight, std=0.01)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.second(F.relu(self.first(self.depthwise(x))))
        return out


class ShapedNetwork(nn.Module):
    """As GeneratorNetwork, in other shapes."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        (quarter, quarter_blocks), (eighth, eighth_blocks) = shape.quarter, shape.eighth
        block = LargeKernelBlock if shape.kernel == "large" else ResidualBlock
        inputs = _PLANES + (2 if shape.conditioned else 0) + shape.noise
        outputs = _PLANES
        if shape.skip:
            self.stem = nn.Conv2d(inputs, quarter, 3, padding=1)
            self.down = nn.Conv2d(quarter, eighth, 2, stride=2)
            self.up = nn.Conv2d(eighth, quarter * 4, 1)
        else:
            self.stem = nn.Conv2d(inputs * 4, eighth, 3, padding=1)
            quarter = eighth
            outputs *= 4
        self.body = nn.Sequential(*[block(eighth) for _ in range(eighth_blocks)])
        sixteenth, sixteenth_blocks = shape.sixteenth
        if sixteenth:
            self.deeper = nn.Sequential(
                nn.Conv2d(eighth, sixteenth, 2, stride=2),
                nn.ReLU(),
                *[ResidualBlock(sixteenth) for _ in range(sixteenth_blocks)],
                nn.Conv2d(sixteenth, eighth * 4, 1),
                nn.PixelShuffle(2),
            )
        self.tail = nn.Sequential(*[ResidualBlock(quarter) for _ in range(quarter_blocks)])
        self.head = nn.Conv2d(quarter, outputs, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def forward(
        self, y: torch.Tensor, uv: torch.Tensor, quantiser: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        planes = torch.cat([F.pixel_unshuffle(y, 4), F.pixel_unshuffle(uv, 2)], 1) - 0.5
        parts = [planes]
        if self.shape.conditioned:
            condition = quantiser.expand(-1, 1, planes.shape[2], planes.shape[3])
            parts += [condition, condition * condition]
        if self.shape.noise:
            parts.append(torch.randn(len(planes), self.shape.noise, *planes.shape[2:]))
        x = torch.cat(parts, 1)
        height, width = x.shape[2:]
        if not self.shape.skip:
            padded = F.pad(x, (0, width % 2, 0, height % 2))
            deep = self._deep(F.relu(self.stem(F.pixel_unshuffle(padded, 2))))
            residual = F.pixel_shuffle(self.head(self.tail(deep)), 2)[..., :height, :width]
        else:
            skip = F.relu(self.stem(x))
            deep = self._deep(F.relu(self.down(skip)))
            residual = self.head(self.tail(skip + F.pixel_shuffle(self.up(deep), 2)))
        return y + F.pixel_shuffle(residual[:, :16], 4), uv + F.pixel_shuffle(residual[:, 16:], 2)

    def _deep(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        if self.shape.sixteenth[0]:
            height, width = x.shape[2:]
            padded = F.pad(x, (0, width % 2, 0, height % 2))
            x = x + self.deeper(padded)[..., :height, :width]
        return x


def gmac(network: ShapedNetwork, width: int = 1920, height: int = 1088) -> float:
    """Multiply-accumulates of one picture, counted while a small one goes through, in units of 10^9."""
    total = 0

    def count(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d)
        total += module.weight.numel() * output.shape[2] * output.shape[3]

    handles = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        network(torch.zeros(1, 1, 64, 64), torch.zeros(1, 2, 32, 32), torch.zeros(1, 1, 1, 1))
    for handle in handles:
        handle.remove()
    return total * width * height / (64 * 64) / 1e9


def seconds_1080p(network: ShapedNetwork, repeats: int = 5) -> float:
    """Median time of one picture."""
    planes = torch.rand(1, 1, 1088, 1920), torch.rand(1, 2, 544, 960), torch.full((1, 1, 1, 1), 0.6)
    times = []
    with torch.no_grad():
        for _ in range(repeats + 1):
            started = time.perf_counter()
            network(*planes)
            times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def train(
    shape: Shape, corpus: Path, *, steps: int, seed: int, pictures: int, rate: float
) -> tuple[ShapedNetwork, Scores]:
    """Train from random weights and validate the moving average."""
    torch.manual_seed(seed)
    network = ShapedNetwork(shape).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    mean = ShapedNetwork(shape)
    mean.load_state_dict(network.state_dict())
    mean.requires_grad_(False)
    samples, held_out = SampleStore(corpus / "train"), SampleStore(corpus / "validation")
    rng, torch_rng = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    loss = GeneratorLoss(LossWeights(), torch.device("cpu"), torch_rng, alex_dtype=torch.bfloat16)
    optimiser = torch.optim.Adam(network.parameters(), lr=rate, betas=(0.9, 0.99))
    for step in range(steps):
        warm = min((step + 1) / 100, 1)
        for group in optimiser.param_groups:
            group["lr"] = rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        batch = samples.batch(rng, 8, 192)
        with torch.autocast("cpu", torch.bfloat16):
            y, uv = network(*batch.coded, batch.quantiser)
        total = loss((y.float(), uv.float()), batch.source, step).total
        optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimiser.step()
        decay = min(0.995, (1 + step) / (10 + step))
        with torch.no_grad():
            for kept, value in zip(mean.parameters(), network.parameters(), strict=True):
                kept.lerp_(value, 1 - decay)
    measured = cast("GeneratorNetwork", mean)
    return mean, validate(measured, held_out, step=steps, count=pictures, device=torch.device("cpu"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--only", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--out", type=Path, default=FIGURES / "network_shapes.csv")
    args = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    fresh = not args.out.exists()
    with args.out.open("a", newline="") as file:
        table = csv.writer(file)
        if fresh:
            table.writerow(_COLUMNS)
        for name in args.only:
            started = time.monotonic()
            network, scores = train(
                SHAPES[name],
                args.corpus,
                steps=args.steps,
                seed=args.seed,
                pictures=args.pictures,
                rate=args.rate,
            )
            changes = [100 * (scores.generated[m] / scores.base[m] - 1) for m in ("alex", "vgg", "dists")]
            row = [
                name,
                f"{gmac(network):.1f}",
                sum(p.numel() for p in network.parameters()),
                f"{seconds_1080p(network):.3f}",
                args.steps,
                *(f"{change:+.2f}" for change in changes),
                f"{scores.generated['psnr'] - scores.base['psnr']:+.2f}",
                args.seed,
            ]
            table.writerow(row)
            file.flush()
            print(*row, f"{time.monotonic() - started:.0f} s", scores.summary())
            sys.stdout.flush()


if __name__ == "__main__":
    main()
