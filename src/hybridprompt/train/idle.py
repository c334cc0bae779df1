"""Leaves out channels of a network that do next to nothing.

Of the channels between the two convolutions of a residual block some come to give zero everywhere while a
network is trained, and never learn again ("dead" units; Maas et al. 2013, "Rectifier Nonlinearities Improve
Neural Network Acoustic Models"); they cost as much as the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F

from hybridprompt.errors import GeneratorError
from hybridprompt.generator.network import GeneratorNetwork, ResidualBlock
from hybridprompt.generator.torch_weights import Weights, config_of
from hybridprompt.train.sample_files import Sample
from hybridprompt.train.samples import show
from hybridprompt.train.teacher import taken

_STEP: Final = 8
"""Channels are kept in multiples of this many, which processors compute at once."""


class _Activity:
    """Mean and variance of what a block's first convolution gives, by channel, over all pictures."""

    def __init__(self) -> None:
        self._sums = self._squares = torch.zeros(1, dtype=torch.float64)
        self._count = 0

    def __call__(self, _: Any, __: Any, output: torch.Tensor) -> None:
        given = F.relu(output).double()
        self._sums = self._sums + given.sum((0, 2, 3))
        self._squares = self._squares + given.square().sum((0, 2, 3))
        self._count += given.numel() // given.shape[1]

    @property
    def mean(self) -> torch.Tensor:
        return self._sums / self._count

    @property
    def variance(self) -> torch.Tensor:
        return (self._squares / self._count - self.mean.square()).clamp_min(0)


@torch.no_grad()
def without_idle(
    network: GeneratorNetwork, samples: Sequence[Sample], share: float, *, side: int = 384
) -> GeneratorNetwork:
    """A network that does nearly the same with fewer channels inside its blocks at 1/8 and 1/16.

    From each block the channels are left out that together carry up to ``share`` of what it adds: of the
    variance of a channel over the centres of coded pictures, ``side`` pixels each, times the squares of the
    weights that read it.  Their means go to the bias.  Raises GeneratorError for a share outside 0 to 1.
    """
    if not 0 <= share < 1:
        raise GeneratorError(f"a share of {share}: expected from 0 to below 1")
    blocks = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, ResidualBlock) and not name.startswith("tail.")
    }
    found = {name: _Activity() for name in blocks}
    handles = [block.first.register_forward_hook(found[name]) for name, block in blocks.items()]
    show(network, samples, side, handles)
    weights: Weights = {name: value.clone() for name, value in network.state_dict().items()}
    for name, activity in found.items():
        _cut(weights, name, activity, share)
    cut = GeneratorNetwork(config_of(weights))
    cut.load_state_dict(weights)
    return cut.eval()


def _cut(weights: Weights, block: str, activity: _Activity, share: float) -> None:
    """Leave out the idle channels of one block."""
    first, second = f"{block}.first", f"{block}.second"
    reading = weights[f"{second}.weight"].double()
    energy = activity.variance * reading.square().sum((0, 2, 3))
    weakest = energy.argsort()
    # Of a block that adds nothing yet, one stays.
    idle = min(int((energy[weakest].cumsum(0) <= share * energy.sum()).sum()), len(energy) - 1)
    idle = max(idle - -(len(energy) - idle) % _STEP, 0)
    if idle == 0:
        return
    kept, dropped = weakest[idle:].sort().values, weakest[:idle]
    means = torch.einsum("oihw,i->o", reading[:, dropped], activity.mean[dropped])
    bias = weights[f"{second}.bias"]
    weights[f"{second}.bias"] = bias + means.to(bias.dtype)
    weights |= taken(weights, first, kept, None) | taken(weights, second, None, kept)
