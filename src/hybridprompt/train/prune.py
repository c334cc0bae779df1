"""Takes channels out of a network, and lets those that stay do their work as well as they can.

Channels go one by one, always the one that is missed least once the weights that read the others are fitted
anew by least squares to what the layer gave ("Optimal Brain Surgeon"; Hassibi, Stork 1993, "Second Order
Derivatives for Network Pruning"; here for all weights that read a channel at once).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import nn

from hybridprompt.generator.network import GeneratorNetwork, NetworkConfig
from hybridprompt.generator.torch_weights import Weights, config_of
from hybridprompt.train.sample_files import Sample
from hybridprompt.train.samples import show
from hybridprompt.train.teacher import taken, with_skip

_RIDGE: Final = 1e-5
"""Share of the mean square of inputs that keeps the weights of those that hardly vary near what they were."""


@dataclass(frozen=True)
class _Shared:
    """Channels that one layer makes and others read."""

    maker: str
    readers: tuple[str, ...]
    kept: int
    """How many of them stay."""


def pruned(weights: Weights, config: NetworkConfig, samples: Sequence[Sample], *, side: int = 256) -> Weights:
    """Weights of ``config`` that do nearly what those of a network with more channels do.

    config: may have fewer channels inside blocks, and in the first convolution, and is the same otherwise.
    samples: pictures to fit on, of which the centres are taken, ``side`` pixels each.  Raises ValueError for
    another config, KeyError and RuntimeError where weights are missing or misfit.
    """
    if config.seen_channels and "skip.weight" not in weights:
        weights = with_skip(weights)
    own = config_of(weights)
    alike = replace(
        config,
        body_hidden=own.body_hidden,
        deep_hidden=own.deep_hidden,
        tail_hidden=own.tail_hidden,
        seen_channels=own.seen_channels,
    )
    if alike != own or not config.fits_into(own):
        raise ValueError(
            f"a network of {own.as_dict()} with fewer channels inside is none of {config.as_dict()}"
        )
    for shared in _shared(config):
        if shared.kept < len(weights[f"{shared.maker}.bias"]):
            weights = _without(weights, shared, samples, side)
    return weights


def _shared(config: NetworkConfig) -> Iterator[_Shared]:
    """In the order in which a picture passes them."""
    if config.seen_channels:
        yield _Shared("stem", ("skip", "down"), config.seen_channels)
    deep = config.deep_widths if config.deep_channels else ()
    levels = ("body", config.body_widths), ("deep.blocks", deep), ("tail", config.tail_widths)
    for level, widths in levels:
        for index, width in enumerate(widths):
            block = f"{level}.{index}"
            yield _Shared(f"{block}.first", (f"{block}.second",), width)


class _Reader:
    """A layer, and the products of all that it reads with one another, a constant last."""

    def __init__(self, name: str, module: nn.Conv2d) -> None:
        self.name = name
        assert module.bias is not None
        self.fitted = torch.cat([module.weight.flatten(1), module.bias[:, None]], 1).double()
        """Weights and bias as they are best without the channels that went; (out, channels * taps + 1)."""
        size = self.fitted.shape[1]
        self._taps = module.weight[0, 0].numel()
        self._products = torch.zeros(size, size, dtype=torch.float64)
        self._read = 0
        self._inverse = self._products
        self._variance = 1.0

    def __call__(self, module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        windows = F.unfold(inputs[0], module.kernel_size, padding=module.padding, stride=module.stride)
        rows = windows.transpose(1, 2).flatten(0, 1).double()
        rows = torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
        self._products += rows.T @ rows
        self._read += len(rows)

    def begin(self) -> None:
        """All has been read."""
        moments = self._products / self._read
        spread = moments - torch.outer(moments[-1], moments[-1])
        self._variance = float(torch.einsum("oi,ij,oj->", self.fitted, spread, self.fitted))
        ridge = _RIDGE * float(moments.diagonal().mean())
        self._inverse = torch.linalg.inv(moments + ridge * torch.eye(len(moments), dtype=torch.float64))

    def _of(self, channel: int) -> slice:
        return slice(channel * self._taps, (channel + 1) * self._taps)

    def loss_without(self, channel: int) -> float:
        """What the layer loses of its variance without one more channel, as a share."""
        part = self._of(channel)
        read = self.fitted[:, part]
        lost = (torch.linalg.solve(self._inverse[part, part], read.T) * read.T).sum()
        return float(lost) / max(self._variance, 1e-30)

    def leave_out(self, channel: int) -> None:
        part = self._of(channel)
        shares = torch.linalg.solve(self._inverse[part, part], self._inverse[part])
        self.fitted = self.fitted - self.fitted[:, part] @ shares
        self._inverse = self._inverse - self._inverse[:, part] @ shares

    def weights(self, kept: torch.Tensor, like: torch.Tensor) -> Weights:
        """Of the channels that are left; like: the weights as they were, (out, in, rows, columns)."""
        weight = self.fitted[:, :-1].to(like.dtype).view_as(like)[:, kept].contiguous()
        return {f"{self.name}.weight": weight, f"{self.name}.bias": self.fitted[:, -1].to(like.dtype)}


@torch.no_grad()
def _without(weights: Weights, shared: _Shared, samples: Sequence[Sample], side: int) -> Weights:
    network = GeneratorNetwork(config_of(weights))
    network.load_state_dict(weights)
    readers, handles = [], []
    for name in shared.readers:
        module = network.get_submodule(name)
        assert isinstance(module, nn.Conv2d)
        readers.append(_Reader(name, module))
        handles.append(module.register_forward_pre_hook(readers[-1]))
    show(network, samples, side, handles)
    for reader in readers:
        reader.begin()
    left = list(range(len(weights[f"{shared.maker}.bias"])))
    while len(left) > shared.kept:
        losses = [sum(reader.loss_without(channel) for reader in readers) for channel in left]
        least = left.pop(min(range(len(left)), key=losses.__getitem__))
        for reader in readers:
            reader.leave_out(least)
    kept = torch.tensor(left)
    cut = weights | taken(weights, shared.maker, kept, None)
    for reader in readers:
        cut |= reader.weights(kept, weights[f"{reader.name}.weight"])
    return cut
