"""A generator's weights as the torch network of `network` takes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from hybridprompt.errors import GeneratorError
from hybridprompt.generator.network import GeneratorNetwork, NetworkConfig
from hybridprompt.generator.onnx_weights import ConvolutionFile

Weights = dict[str, torch.Tensor]
"""By their names in torch."""


def config_of(weights: Mapping[str, torch.Tensor]) -> NetworkConfig:
    """Shape of the network that weights belong to.  Raises KeyError where they are not a generator's."""
    return NetworkConfig(
        stem_channels=int(weights["head.weight"].shape[1]),
        body_channels=int(weights["down.weight"].shape[0]),
        body_blocks=_blocks(weights, "body"),
        tail_blocks=_blocks(weights, "tail"),
        deep_channels=int(weights["deep.down.weight"].shape[0]) if "deep.down.weight" in weights else 0,
        deep_blocks=_blocks(weights, "deep.blocks"),
        body_hidden=_hidden(weights, "body"),
        deep_hidden=_hidden(weights, "deep.blocks"),
        tail_hidden=_hidden(weights, "tail"),
        seen_channels=int(weights["stem.weight"].shape[0]) if "skip.weight" in weights else 0,
    )


def _hidden(weights: Mapping[str, torch.Tensor], name: str) -> tuple[int, ...]:
    """As in NetworkConfig, where as many as outside are not given."""
    blocks = range(_blocks(weights, name))
    shapes = [tuple(weights[f"{name}.{index}.first.weight"].shape[:2]) for index in blocks]
    return () if all(hidden == channels for hidden, channels in shapes) else tuple(h for h, _ in shapes)


def _blocks(weights: Mapping[str, torch.Tensor], name: str) -> int:
    return sum(key.startswith(f"{name}.") and key.endswith(".first.weight") for key in weights)


def read_onnx(path: Path, *, integers: bool = False) -> Weights:
    """The network's weights in an exported ONNX file.

    integers: read a file in 8-bit integers too, its weights as they are multiplied out; how its activations
    are rounded is not in them.  Raises OSError, and ValueError for another file.
    """
    try:
        file = ConvolutionFile(path.read_bytes())
    except GeneratorError as error:
        raise ValueError(str(error)) from error
    if not file.convolutions or (file.holds_integers and not integers):
        raise ValueError("holds no weights of a generator in floats")
    return _weights(file)


def network_of(weights: bytes) -> GeneratorNetwork:
    """An exported file's network, which does not learn, in float32.

    Raises GeneratorError for a file of another network.
    """
    file = ConvolutionFile(weights)
    found = _weights(file)
    try:
        network = GeneratorNetwork(config_of(found))
        network.load_state_dict(found)
    except (KeyError, RuntimeError) as error:
        raise GeneratorError(f"not the weights of this network: {error}") from error
    order = [name for name, module in network.named_modules() if isinstance(module, torch.nn.Conv2d)]
    if order != [convolution.name for convolution in file.convolutions]:
        # Adapters count on it.
        raise GeneratorError("not the weights of this network: its layers come in another order")
    return network.requires_grad_(False).eval()


def _weights(file: ConvolutionFile) -> Weights:
    found: Weights = {}
    for convolution in file.convolutions:
        for name, value in (("weight", convolution.weight), ("bias", convolution.bias)):
            found[f"{convolution.name}.{name}"] = torch.from_numpy(value.astype(np.float32))
    return found
