"""The torch side of `adapter`: a generator's network called with adapters that may learn."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from threading import local

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.func import functional_call

from hybridprompt.generator.adapter import GAIN_STEPS_PER_OCTAVE, OFFSET_STEP
from hybridprompt.generator.network import GeneratorNetwork

Pair = tuple[torch.Tensor, torch.Tensor]


class AdaptedNetwork:
    """A network that does not learn, in its own floats.  Safe to share between threads."""

    def __init__(self, network: GeneratorNetwork) -> None:
        self.network = network
        self._threads = local()
        self._layers = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}
        self._usual = {n: float(m.weight.square().mean().sqrt()) for n, m in self._layers.items()}

    @property
    def adapter_length(self) -> int:
        """How many values an adapter has."""
        return 2 * sum(len(layer.weight) for layer in self._layers.values())

    def split(self, values: NDArray[np.int8]) -> list[torch.Tensor]:
        """Gains and offsets of every layer, (2, channels) float32, of an adapter (adapter_length,)."""
        parts, at = [], 0
        for layer in self._layers.values():
            count = 2 * len(layer.weight)
            part = torch.from_numpy(values[at : at + count].astype(np.float32)).to(layer.weight.device)
            parts.append(part.reshape(2, -1))
            at += count
        return parts

    def changed(self, adapter: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Weights and biases with an adapter as `split` gives it."""
        found = {}
        for (name, layer), (gains, offsets) in zip(self._layers.items(), adapter, strict=True):
            assert layer.bias is not None
            scale = torch.exp2(gains / GAIN_STEPS_PER_OCTAVE)
            found[f"{name}.weight"] = layer.weight * scale[:, None, None, None]
            found[f"{name}.bias"] = layer.bias + OFFSET_STEP * self._usual[name] * offsets
        return found

    def own(self) -> GeneratorNetwork:
        """The network for this thread: while it is called with other weights, it holds them."""
        own: GeneratorNetwork | None = getattr(self._threads, "network", None)
        if own is None:
            own = self._threads.network = deepcopy(self.network)
        return own

    def __call__(self, *inputs: torch.Tensor | None, adapter: Sequence[torch.Tensor]) -> Pair:
        """As GeneratorNetwork.forward, with an adapter; the network's own weights where it is empty."""
        planes: Pair = functional_call(self.own(), self.changed(adapter) if adapter else {}, inputs)
        return planes
