"""The loss of all fits of prompts: that of training, with DISTS."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from functools import lru_cache
from typing import Final

import torch

from hybridprompt.evaluate.loss import GeneratorLoss, LossWeights
from hybridprompt.evaluate.perceptual import quick_dtype

_WEIGHTS: Final = LossWeights(dists=1.0, vgg_every=3, vgg_crops=2, vgg_size=128)


def fit_loss(device: torch.device, seed: int, share: float = 1.0) -> GeneratorLoss:
    """The loss of a share of a batch, with random choices of its own; the networks are shared by all fits."""
    loss = copy(_networks(device))
    loss.weights = replace(_WEIGHTS, vgg_crops=max(1, round(share * _WEIGHTS.vgg_crops)))
    loss.rng = torch.Generator().manual_seed(seed)
    return loss


def random_below(high: int, rng: torch.Generator) -> int:
    """A random integer from 0 to high - 1."""
    return int(torch.randint(high, (1,), generator=rng))


@lru_cache(maxsize=1)
def _networks(device: torch.device) -> GeneratorLoss:
    """Reading the networks takes longer than a step."""
    return GeneratorLoss(_WEIGHTS, device, torch.Generator(), alex_dtype=quick_dtype(device))
