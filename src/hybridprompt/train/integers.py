"""The network as `export --int8` makes it, in floats and with gradients: for training it to be rounded.

Quantisation-aware training (Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference"): what is rounded in the exported file is rounded here, with gradients as
if it were not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import nn
from torch.func import functional_call

from hybridprompt.generator.layout import BYTE_MIDDLE, CHANGE_STEP, CONDITION_GAIN, PLANES, STEM
from hybridprompt.generator.network import DeepLevel, GeneratorNetwork, ResidualBlock

_LARGEST_ACTIVATION: Final = 255
_LARGEST_WEIGHT: Final = 64
"""Weights of seven bits: see `export`."""

_LEAST_STEP: Final = 1e-8


def _as_if_not(values: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    """The rounded values, with gradients as if they were not; nothing is read back, as graphs need it."""
    return values + (rounded - values).detach()


def rounded_activations(x: torch.Tensor) -> torch.Tensor:
    """Values in steps of 1/255 of their range, which has 0 in it; any shape.

    The range is that of these values themselves, where the exported file has one for all pictures.
    """
    values = x.float()
    low, high = torch.aminmax(values.detach())
    low, high = low.clamp_max(0), high.clamp_min(0)
    step = ((high - low) / _LARGEST_ACTIVATION).clamp_min(_LEAST_STEP)
    zero = (-low / step).round()
    rounded = ((values / step).round() + zero).clamp(0, _LARGEST_ACTIVATION) - zero
    return _as_if_not(values, rounded * step).to(x.dtype)


def rounded_change(x: torch.Tensor) -> torch.Tensor:
    """What the network adds to samples, in units of [0, 1], as the exported file has it before the gate."""
    values = x.float()
    rounded = (values / CHANGE_STEP).round().clamp(-BYTE_MIDDLE, _LARGEST_ACTIVATION - BYTE_MIDDLE)
    return _as_if_not(values, rounded * CHANGE_STEP).to(x.dtype)


def rounded_weights(weight: torch.Tensor) -> torch.Tensor:
    """Weights (out, ...) in steps of 1/64 of the largest magnitude of their output channel."""
    largest = weight.detach().abs().flatten(1).amax(1).view(-1, *[1] * (weight.dim() - 1))
    step = (largest / _LARGEST_WEIGHT).clamp_min(_LEAST_STEP)
    return _as_if_not(weight, (weight / step).round().clamp(-_LARGEST_WEIGHT, _LARGEST_WEIGHT) * step)


def rounded_in_file(name: str, weight: torch.Tensor) -> torch.Tensor:
    """Weights (out, in, rows, columns) of a convolution, by its name, as the exported file rounds them."""
    if name != STEM:
        return rounded_weights(weight)
    gains = weight.new_ones(weight.shape[1], 1, 1)
    gains[PLANES:] = CONDITION_GAIN
    return rounded_weights(weight * gains) / gains


class InIntegers:
    """Calls a network with its weights and activations rounded; the network itself stays as it is.

    Rounded are what convolutions and residual blocks take, but for the first one, which takes bytes, and what
    convolutions give to a sum.
    """

    def __init__(self, network: GeneratorNetwork) -> None:
        self._network = network
        modules = dict(network.named_modules())
        self._convolutions = {n: m for n, m in modules.items() if isinstance(m, nn.Conv2d)}
        blocks = [module for module in modules.values() if isinstance(module, ResidualBlock)]
        # What the first convolution of a block takes is rounded for the whole block.
        others = [network.stem, *(block.first for block in blocks)]
        self._taking = [*blocks, *(m for m in self._convolutions.values() if m not in others)]
        giving: list[nn.Module] = [network.up, *(block.second for block in blocks)]
        if isinstance(network.skip, nn.Conv2d):
            giving.append(network.skip)
        if isinstance(network.deep, DeepLevel):
            giving.append(network.deep.up)
        self._giving = dict.fromkeys(giving, rounded_activations) | {network.head: rounded_change}

    def __call__(
        self, y: torch.Tensor, uv: torch.Tensor, quantiser: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See GeneratorNetwork.forward."""
        weights = {f"{n}.weight": rounded_in_file(n, m.weight) for n, m in self._convolutions.items()}
        with self._rounding():
            planes: tuple[torch.Tensor, torch.Tensor] = functional_call(
                self._network, weights, (y, uv, quantiser)
            )
        return planes

    @contextmanager
    def _rounding(self) -> Iterator[None]:
        def taken(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            return (rounded_activations(inputs[0]), *inputs[1:])

        def given(module: nn.Module, _: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
            return self._giving[module](output)

        handles = [module.register_forward_pre_hook(taken) for module in self._taking]
        handles += [module.register_forward_hook(given) for module in self._giving]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
