"""What all fits of prompts share: the loss, that of training with DISTS included, and the descent's pace."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import torch

from hybridprompt.evaluate.loss import GeneratorLoss, LossWeights
from hybridprompt.evaluate.perceptual import quick_dtype

_WEIGHTS: Final = LossWeights(dists=1.0, vgg_every=3, vgg_crops=2, vgg_size=128)


def fit_loss(device: torch.device, seed: int) -> GeneratorLoss:
    """The loss, its random choices begun anew from a seed; the networks are shared by all fits."""
    loss = _networks(device)
    loss.rng = torch.Generator().manual_seed(seed)
    return loss


def set_cosine_rate(
    optimizer: torch.optim.Optimizer, rate: float, last_share: float, step: int, steps: int
) -> None:
    """Set the rate of learning of a step: from ``rate`` down to ``last_share`` of it, along a cosine."""
    cosine = 0.5 + 0.5 * math.cos(math.pi * step / steps)
    for group in optimizer.param_groups:
        group["lr"] = rate * (last_share + (1 - last_share) * cosine)


def random_below(high: int, rng: torch.Generator) -> int:
    """A random integer from 0 to high - 1."""
    return int(torch.randint(high, (1,), generator=rng))


@lru_cache(maxsize=1)
def _networks(device: torch.device) -> GeneratorLoss:
    """Reading the networks takes longer than a step."""
    return GeneratorLoss(_WEIGHTS, device, torch.Generator(), alex_dtype=quick_dtype(device))
