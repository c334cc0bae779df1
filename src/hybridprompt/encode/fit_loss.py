"""The loss that prompts are fitted with: that of training, DISTS included."""

from __future__ import annotations

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


@lru_cache(maxsize=1)
def _networks(device: torch.device) -> GeneratorLoss:
    """Reading the networks takes longer than a step."""
    return GeneratorLoss(_WEIGHTS, device, torch.Generator(), alex_dtype=quick_dtype(device))
