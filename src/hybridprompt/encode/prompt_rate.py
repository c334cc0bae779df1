"""What prompts take, in bits, as the coder's own tables say, with gradients: rate in the loss of their fits.

Note [Rate by the tables]: the models of the coder adapt, so what a value costs depends on all values.  They
are asked now and then in the course of a descent, with the values as they would be coded then; between whole
numbers the cost goes along straight lines.  What a value costs others, by the contexts that it brings about,
is in it for gates, which are predicted from their neighbours, not for adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from hybridprompt.prompt.adapter_coding import MAX_VALUE, magnitude_costs
from hybridprompt.prompt.gate_coding import distance_costs

_ASKED_EVERY: Final = 10
"""Calls, between which the tables stay."""


class _Tables:
    """Tables that are made anew with every so many calls."""

    def __init__(self, make: Callable[[NDArray[np.float32]], NDArray[np.float64]]) -> None:
        self._make = make
        self._calls = 0
        self._made: torch.Tensor | None = None

    def ask(self, values: torch.Tensor) -> torch.Tensor:
        if self._made is None or self._calls % _ASKED_EVERY == 0:
            made = self._make(values.detach().cpu().numpy())
            self._made = torch.from_numpy(made.astype(np.float32)).to(values.device)
        self._calls += 1
        return self._made


class GateRate:
    """Bits of a gate.  unit, levels: see GateMap."""

    def __init__(self, unit: int, levels: int) -> None:
        self._unit, self._levels = unit, levels
        self._tables = _Tables(self._costs)

    def __call__(self, strengths: torch.Tensor) -> torch.Tensor:
        """Bits of strengths (rows, columns), a scalar."""
        x = strengths * self._unit
        left, up, corner = _neighbours(x)
        low, high = torch.minimum(left, up), torch.maximum(left, up)
        predicted = torch.minimum(torch.maximum(left + up - corner, low), high)
        off = x - predicted
        # Contexts as they are when all are rounded.
        whole = [value.detach().round() for value in (left, up, predicted)]
        spread = (whole[0] - whole[1]).abs().long().clamp_max(2)
        lean = sum((neighbour - whole[2]).sign() for neighbour in whole[:2]) + 2
        lean = torch.where((whole[2] <= 0) | (whole[2] >= self._levels - 1), 5, lean).long()
        costs = self._tables.ask(x)[(off > 0).long(), lean, spread]
        return _between(costs, off.abs()).sum()

    def _costs(self, indices: NDArray[np.float32]) -> NDArray[np.float64]:
        levels = self._levels
        return distance_costs(np.clip(np.rint(indices), 0, levels - 1).astype(np.uint8), levels)


class AdapterRate:
    """Bits of an adapter."""

    def __init__(self) -> None:
        self._tables = _Tables(self._costs)

    def __call__(self, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """Bits of an adapter's values, layer by layer, any shapes; a scalar."""
        flat = torch.cat([value.flatten() for value in values])
        return _between(self._tables.ask(flat), flat.abs()).sum()

    @staticmethod
    def _costs(values: NDArray[np.float32]) -> NDArray[np.float64]:
        return magnitude_costs(np.clip(np.rint(values), -MAX_VALUE, MAX_VALUE).astype(np.int8))


def _between(costs: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """Values of tables (..., count) at numbers (...), along straight lines, the last of which goes on."""
    first = at.detach().long().clamp_max(costs.shape[-1] - 2)[..., None]
    low, high = costs.gather(-1, first)[..., 0], costs.gather(-1, first + 1)[..., 0]
    return low + (at - first[..., 0]) * (high - low)


def _neighbours(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Left, upper and upper left neighbours, as `prompt.gate_coding` has them at the edges."""
    before = torch.cat([torch.zeros_like(x[:1, :1]), x[:-1, :1]])
    left = torch.cat([before, x[:, :-1]], 1)
    up = torch.cat([left[:1], x[:-1]])
    corner = torch.cat([left[:1], torch.cat([x[:-1, :1], x[:-1, :-1]], 1)])
    return left, up, corner
