"""What studies of learned latents share: their bits in training, integer tables, and the range coder.

A latent is a grid of integers, (channels, rows, columns).  Each value's table is chosen by its channel and
by the magnitudes of values decoded before it: left, above, and above to both sides.  Tables are integers, so
that every machine decodes the same.
"""

from __future__ import annotations

from typing import Any

import constriction
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

CONTEXTS = 6
TOP = 15
"""Largest magnitude; more is cut off."""

_BOUNDS = (0, 1, 3, 6, 12)
_VALUES = 2 * TOP + 1
_ONE = 1 << 16


class RateModel(nn.Module):
    """Laplace distributions of values by channel and context, for training."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.linspace(-2, 1.5, CONTEXTS)[:, None].repeat(1, channels))

    def bits(self, noisy: torch.Tensor, contexts: torch.Tensor) -> torch.Tensor:
        """Bits of values (N, channels, rows, columns) with uniform noise of a step: a sum per picture."""
        channel = torch.arange(noisy.shape[1])[None, :, None, None].expand_as(contexts)
        scale = self.log_scale[contexts, channel].exp()
        share = _laplace_cdf((noisy + 0.5) / scale) - _laplace_cdf((noisy - 0.5) / scale)
        return -share.clamp_min(1e-6).log2().sum((1, 2, 3))


def _laplace_cdf(x: torch.Tensor) -> torch.Tensor:
    return 0.5 - 0.5 * x.sign() * torch.expm1(-x.abs())


def contexts_of(values: torch.Tensor) -> torch.Tensor:
    """Context of every value (N, channels, rows, columns): integers from integers."""
    magnitude = F.pad(values.abs(), (1, 1, 1, 0))
    height, width = values.shape[2:]

    def at(dy: int, dx: int) -> torch.Tensor:
        return magnitude[..., 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]

    total = 2 * at(0, -1) + 2 * at(-1, 0) + at(-1, -1) + at(-1, 1)
    found = torch.zeros_like(total, dtype=torch.long)
    for bound in _BOUNDS:
        found += total > bound
    return found


class Counts:
    """Counts values by channel and context, to make tables of."""

    def __init__(self, channels: int) -> None:
        self._counts = torch.zeros(channels, CONTEXTS, _VALUES)

    def add(self, values: torch.Tensor) -> None:
        """Count values (N, channels, rows, columns)."""
        cut = values.clamp(-TOP, TOP).long()
        channel = torch.arange(values.shape[1])[None, :, None, None]
        index = (channel * CONTEXTS + contexts_of(cut)) * _VALUES + cut + TOP
        self._counts += torch.bincount(index.flatten(), minlength=self._counts.numel()).view_as(self._counts)

    def tables(self) -> torch.Tensor:
        """Integers, (channels, CONTEXTS, values), each at least 1 and 2**16 in all for a context."""
        # A little of the channel's mean where a context is rare.
        prior = self._counts.sum(1, keepdim=True)
        shares = self._counts + 4 * prior / prior.sum(-1, keepdim=True).clamp_min(1) + 0.01
        shares = shares / shares.sum(-1, keepdim=True)
        tables = (shares * (_ONE - _VALUES)).floor().int() + 1
        tables[..., TOP] += _ONE - tables.sum(-1)
        return tables


def _models(tables: torch.Tensor) -> list[list[Any]]:
    categorical = constriction.stream.model.Categorical
    return [
        [categorical(row.numpy().astype(np.float32) / _ONE, perfect=False) for row in channel]
        for channel in tables
    ]


def code_values(values: NDArray[np.int32], tables: torch.Tensor) -> bytes:
    """Write values (channels, rows, columns), channel by channel, row by row."""
    contexts = contexts_of(torch.from_numpy(values)[None])[0].numpy()
    models, coder = _models(tables), constriction.stream.queue.RangeEncoder()
    for channel in range(len(values)):
        for value, context in zip(values[channel].ravel(), contexts[channel].ravel(), strict=True):
            coder.encode(int(value) + TOP, models[channel][context])
    words: NDArray[np.uint32] = coder.get_compressed()
    return words.astype(">u4").tobytes().rstrip(b"\0")


def read_values(data: bytes, shape: tuple[int, int], tables: torch.Tensor) -> NDArray[np.int32]:
    """What `code_values` wrote; contexts come from what was read before."""
    words = np.frombuffer(data + bytes(-len(data) % 4), ">u4").astype(np.uint32)
    models, coder = _models(tables), constriction.stream.queue.RangeDecoder(words)
    rows, columns = shape
    values = np.zeros((len(tables), rows, columns), np.int32)
    for channel, plane in enumerate(values):
        padded = np.zeros((rows + 1, columns + 2), np.int32)
        for row in range(rows):
            for column in range(columns):
                above = padded[row, column : column + 3]
                total = 2 * padded[row + 1, column] + above[0] + 2 * above[1] + above[2]
                context = sum(int(total > bound) for bound in _BOUNDS)
                value = int(coder.decode(models[channel][context])) - TOP
                plane[row, column] = value
                padded[row + 1, column + 1] = abs(value)
    return values
