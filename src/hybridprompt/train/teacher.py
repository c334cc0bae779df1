"""A generator that another learns from: reading its weights, narrowing or widening them, distillation.

Distillation adds the mean absolute difference between the student's and the teacher's planes to the loss.
Both refine the same base, so that is the difference of their residuals.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from hybridprompt.generator.network import GeneratorNetwork, NetworkConfig
from hybridprompt.generator.torch_weights import Weights, config_of, read_onnx
from hybridprompt.train.samples import Batch, Planes


def _out_norm(weights: Weights, layer: str) -> torch.Tensor:
    norm: torch.Tensor = torch.linalg.vector_norm(weights[f"{layer}.weight"].flatten(1), dim=1)
    return norm


def _in_norm(weights: Weights, layer: str) -> torch.Tensor:
    return _out_norm({f"{layer}.weight": weights[f"{layer}.weight"].transpose(0, 1)}, layer)


def _strongest(strength: torch.Tensor, count: int, what: str) -> torch.Tensor:
    if count > len(strength):
        raise ValueError(f"{count} {what} cannot be taken from {len(strength)}")
    return strength.topk(count).indices.sort().values


def narrow(weights: Weights, config: NetworkConfig) -> Weights:
    """Cut weights down to ``config``: the strongest channels and the first blocks of a larger network.

    A channel is as strong as the norm of what makes it times the norm of what reads it.  Blocks that only
    ``config`` has are left out, and so is a level at 1/16.  Raises ValueError where it has more channels.
    """
    large = config_of(weights)
    if large.seen_channels and not config.seen_channels:
        raise ValueError("has a convolution of one pixel after the first one, which the smaller one lacks")
    strength = _stem_strength(weights)
    seen = stem = _strongest(strength, config.stem_channels, "stem channels")
    if config.seen_channels:
        if large.seen_channels:
            strength = _out_norm(weights, "stem") * (_in_norm(weights, "down") + _in_norm(weights, "skip"))
            seen = _strongest(strength, config.seen_channels, "channels of the first convolution")
        else:
            weights = with_skip(weights)
            seen = stem[_strongest(strength[stem], config.seen_channels, "stem channels")].sort().values
    body = _strongest(
        _out_norm(weights, "down") * _in_norm(weights, "up"), config.body_channels, "body channels"
    )

    take = partial(taken, weights)
    narrowed = (
        take("stem", seen, None)
        | take("down", body, seen)
        | take("up", _raised(stem), body)
        | take("head", None, stem)
    )
    blocks = [
        ("body", body, config.body_widths[: large.body_blocks]),
        ("tail", stem, config.tail_widths[: large.tail_blocks]),
    ]
    if config.seen_channels:
        narrowed |= take("skip", stem, seen)
    if config.deep_channels and large.deep_channels:
        strength = _out_norm(weights, "deep.down") * _in_norm(weights, "deep.up")
        deep = _strongest(strength, config.deep_channels, "channels at 1/16")
        narrowed |= take("deep.down", deep, body) | take("deep.up", _raised(body), deep)
        blocks.append(("deep.blocks", deep, config.deep_widths[: large.deep_blocks]))
    for name, channels, widths in blocks:
        for index, width in enumerate(widths):
            first, second = f"{name}.{index}.first", f"{name}.{index}.second"
            inner = _strongest(_out_norm(weights, first) * _in_norm(weights, second), width, "inner channels")
            narrowed |= take(first, inner, channels) | take(second, channels, inner)
    return narrowed


def _stem_strength(weights: Weights) -> torch.Tensor:
    """How strong the channels are that the last blocks work on."""
    outputs = _in_norm(weights, "head")
    if "skip.weight" in weights:
        return _out_norm(weights, "skip") * outputs
    return _out_norm(weights, "stem") * (_in_norm(weights, "down") + outputs)


def with_skip(weights: Weights) -> Weights:
    """Weights that do the same with a convolution of one pixel between the first one and the sum."""
    first = weights["stem.bias"]
    identity = torch.eye(len(first), dtype=first.dtype, device=first.device)
    return weights | {"skip.weight": identity[:, :, None, None], "skip.bias": torch.zeros_like(first)}


def taken(weights: Weights, layer: str, outputs: torch.Tensor | None, inputs: torch.Tensor | None) -> Weights:
    """A layer's weights with these channels (indices) only, all of them where None."""
    weight, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
    if outputs is not None:
        weight, bias = weight[outputs], bias[outputs]
    if inputs is not None:
        weight = weight[:, inputs]
    return {f"{layer}.weight": weight.clone(), f"{layer}.bias": bias.clone()}


def _raised(channels: torch.Tensor) -> torch.Tensor:
    """What a pixel shuffle by 2 makes these channels of: four of each."""
    return (channels[:, None] * 4 + torch.arange(4)).flatten()


def widen(weights: Weights, start: Weights) -> Weights:
    """Put weights into those of a larger network at its start, which then computes what they do.

    New channels keep their random weights and read all others, but what there was reads none of them yet.
    New blocks add nothing yet.  start: ``state_dict`` of the larger network.
    Raises ValueError where it has fewer channels or blocks, RuntimeError where weights are missing or misfit.
    """
    small, large = config_of(weights), config_of(start)
    GeneratorNetwork(small).load_state_dict(weights)
    if not small.fits_into(large):
        raise ValueError(f"a network of {small.as_dict()} does not fit into one of {large.as_dict()}")
    widened = {name: value.clone() for name, value in start.items()}
    for name in widened.keys() - weights.keys():
        if name.endswith(".second.weight"):
            widened[name].zero_()
    for name, value in weights.items():
        mine, outputs = widened[name], value.shape[0]
        if value.dim() == 1:
            mine[:outputs] = value
            continue
        mine[:outputs] = 0
        mine[:outputs, : value.shape[1]] = value
    return widened


def read_weights(path: Path, device: torch.device, *, integers: bool = False) -> Weights:
    """Weights in a run's ``.pt`` file or an exported ONNX file, by their names in torch.

    integers: take those of a file in 8-bit integers too.  What is raised for an unusable file is torch's and
    Python's own.
    """
    if path.suffix == ".onnx":
        return read_onnx(path, integers=integers)
    state = torch.load(path, map_location=device, weights_only=True)
    weights: Weights = state["network"]
    return weights


class Teacher:
    """A trained generator in torch that gives its planes as an example; it does not learn."""

    def __init__(self, weights: Weights, device: torch.device) -> None:
        self.network = GeneratorNetwork(config_of(weights))
        self.network.load_state_dict(weights)
        self.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network.requires_grad_(False)

    def distance(self, generated: Planes, batch: Batch) -> torch.Tensor:
        """Mean absolute difference between the student's planes and the teacher's; chroma counts half."""
        with torch.no_grad():
            planes: Planes = self.network(*batch.coded, batch.quantiser)
        y, uv = ((mine - wanted).abs().mean() for mine, wanted in zip(generated, planes, strict=True))
        return y + 0.5 * uv
