"""The loss of all fits of prompts: that of training, with DISTS.

Note [Turns]: LPIPS-VGG and DISTS have a VGG16 each, of other pooling, and took more than half of a descent's
time.  They take turns, and what has its turn counts twice: the same gradient on average, for half of that.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from functools import lru_cache
from typing import Final

import torch

from hybridprompt.evaluate.loss import GeneratorLoss, LossTerms, LossWeights
from hybridprompt.evaluate.perceptual import quick_dtype

_WEIGHTS: Final = LossWeights(vgg=2.0, dists=2.0, vgg_every=3, vgg_crops=2, vgg_size=128)


class FitLoss:
    """The loss of one of several parts of a batch, with random choices of its own.

    share: of the batch's crops.  part: its index; where one has LPIPS-VGG, the next one has DISTS, see Note
    [Turns].  The networks are shared by all fits.
    """

    def __init__(self, device: torch.device, seed: int, *, share: float = 1.0, part: int = 0) -> None:
        weights = replace(_WEIGHTS, vgg_crops=max(1, round(share * _WEIGHTS.vgg_crops)))
        self.rng = torch.Generator().manual_seed(seed)
        with_lpips, with_dists = (copy(_networks(device)) for _ in range(2))
        with_lpips.dists, with_dists.vgg = None, None
        self._turns = with_lpips, with_dists
        for loss in self._turns:
            loss.weights, loss.rng = weights, self.rng
        self._part = part

    def __call__(
        self,
        generated: tuple[torch.Tensor, torch.Tensor],
        source: tuple[torch.Tensor, torch.Tensor],
        step: int,
    ) -> LossTerms:
        """See GeneratorLoss."""
        turn = step // _WEIGHTS.vgg_every + self._part
        return self._turns[turn % len(self._turns)](generated, source, step)


def random_below(high: int, rng: torch.Generator) -> int:
    """A random integer from 0 to high - 1."""
    return int(torch.randint(high, (1,), generator=rng))


@lru_cache(maxsize=1)
def _networks(device: torch.device) -> GeneratorLoss:
    """Reading the networks takes longer than a step."""
    return GeneratorLoss(_WEIGHTS, device, torch.Generator(), alex_dtype=quick_dtype(device))
