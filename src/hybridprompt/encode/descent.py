"""Gradient descent, as all fits of prompts do it.

Note [Parts of a batch]: the operators on crops of some 200 samples are too small for several threads each:
with two, a step takes 0.8 of its time.  So the crops of a step are divided, and the parts are computed beside
each other, on one thread each: 0.65.  The parts have their own random choices, and are as many on every
device, so that the outcome depends on neither threads nor timing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from threading import Barrier
from typing import Final

import torch

from hybridprompt.encode.fit_loss import FitLoss

_PARTS: Final = 2
"""Of Note [Parts of a batch]."""

_KEPT: Final = 0.9
"""Of the loss that is usual, in every step: that of single steps differs, not all of them have all terms."""

Pair = tuple[torch.Tensor, torch.Tensor]
"""Luma (N, 1, H, W) and chroma (N, 2, H/2, W/2) in [0, 1], or changes of them."""

Batch = Callable[[int, torch.Generator], tuple[Pair, Pair]]
"""Makes some crops as predicted, and of their sources, with random choices from a generator."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """steps, and the rate of learning: from ``rate`` down to ``last_share`` of it, along a cosine."""

    steps: int
    rate: float
    last_share: float


def descend(
    parameters: Sequence[torch.Tensor],
    batch: Batch,
    price: Callable[[], torch.Tensor],
    pace: Pace,
    *,
    crops: int,
    seed: int,
    confine: Callable[[], None] = lambda: None,
) -> None:
    """Bring the parameters, leaves that require gradients, down the loss of batches and the price.

    price: by what share of itself the loss must fall for it.  crops: of a batch.  confine: called after every
    step, without gradients.  Deterministic for a seed on a CPU; on CUDA, sums may come in another order.
    """
    device = parameters[0].device
    sizes = [(crops + part) // _PARTS for part in range(_PARTS)]
    parts = [
        _Part(batch, size, FitLoss(device, seed * _PARTS + i, share=size / crops, part=i), size / crops)
        for i, size in enumerate(sizes)
        if size
    ]
    optimizer = torch.optim.Adam(parameters, pace.rate)
    compute = _pool().map if device.type == "cpu" else map
    usual: float | None = None
    for step in range(pace.steps):
        cosine = 0.5 + 0.5 * math.cos(math.pi * step / pace.steps)
        for group in optimizer.param_groups:
            group["lr"] = pace.rate * (pace.last_share + (1 - pace.last_share) * cosine)
        optimizer.zero_grad()
        found = list(compute(_Part.gradients, parts, repeat(parameters), repeat(step)))
        loss = sum(part_loss for part_loss, _ in found)
        usual = loss if usual is None else _KEPT * usual + (1 - _KEPT) * loss
        (usual * price()).backward()  # type: ignore[no-untyped-call]
        for _, gradients in found:
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        optimizer.step()
        with torch.no_grad():
            confine()


class _Part:
    """Some of the crops of every batch, with their share of its loss."""

    def __init__(self, batch: Batch, crops: int, loss: FitLoss, share: float) -> None:
        self._batch, self._crops, self._loss, self._share = batch, crops, loss, share

    def gradients(
        self, parameters: Sequence[torch.Tensor], step: int
    ) -> tuple[float, tuple[torch.Tensor | None, ...]]:
        """The part's share of the loss, and its gradients."""
        predicted, wanted = self._batch(self._crops, self._loss.rng)
        total = self._share * self._loss(predicted, wanted, step).total
        return float(total.detach()), torch.autograd.grad(total, parameters, allow_unused=True)


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    """Threads that have one thread each for their operators."""
    threads = torch.get_num_threads()
    begun = Barrier(_PARTS)

    def begin() -> None:
        # Sets them for this thread, and for all whose first operator comes later.  The query counts as that.
        torch.set_num_threads(1)
        torch.get_num_threads()
        begun.wait()

    pool = ThreadPoolExecutor(_PARTS)
    for future in [pool.submit(begin) for _ in range(_PARTS)]:
        future.result()
    torch.set_num_threads(threads)
    return pool
