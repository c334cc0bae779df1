"""Exports the torch network to ONNX, and checks that both compute the same pictures.

The graph is written node by node: it is small, its bytes depend on nothing but the weights, and it carries
what the client needs around the network (8-bit planes in and out, the gate).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from hybridprompt.errors import GeneratorError
from hybridprompt.generator.base import identity_of
from hybridprompt.generator.network import GeneratorNetwork, NetworkConfig
from hybridprompt.generator.onnx_generator import OnnxGenerator

_OPSET = 17
_IR_VERSION = 9


@dataclass(frozen=True)
class Equivalence:
    """Differences between torch and ONNX Runtime over a number of random pictures, in 8-bit levels."""

    largest: int
    differing: int
    samples: int


class _Graph:
    """Collects nodes and weights; every method returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, op: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        output = output or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: NDArray[Any] | np.float32) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def conv(self, x: str, name: str, module: nn.Conv2d, *, relu: bool = False) -> str:
        assert module.bias is not None
        weight = self.constant(f"{name}.weight", module.weight.detach().cpu().numpy())
        bias = self.constant(f"{name}.bias", module.bias.detach().cpu().numpy())
        kernel, stride = list(module.kernel_size), list(module.stride)
        pad = module.padding[0] if isinstance(module.padding, tuple) else 0
        out = self.add("Conv", [x, weight, bias], kernel_shape=kernel, strides=stride, pads=[int(pad)] * 4)
        return self.add("Relu", [out]) if relu else out

    def blocks(self, x: str, name: str, modules: nn.Sequential) -> str:
        for index, block in enumerate(modules):
            prefix = f"{name}.{index}"
            inner = self.conv(x, f"{prefix}.first", block.first, relu=True)  # type: ignore[arg-type]
            x = self.add("Add", [self.conv(inner, f"{prefix}.second", block.second), x])  # type: ignore[arg-type]
        return x


def _build(network: GeneratorNetwork) -> onnx.ModelProto:
    g = _Graph()
    scale, half = g.constant("scale", np.float32(1 / 255)), g.constant("half", np.float32(0.5))
    levels = g.constant("levels", np.float32(255))
    zero, top = g.constant("zero", np.float32(0)), g.constant("top", np.float32(255))

    planes = {}
    for name, block in (("y", 4), ("u", 2), ("v", 2)):
        real = g.add("Mul", [g.add("Cast", [name], to=TensorProto.FLOAT), scale])
        planes[name] = g.add("SpaceToDepth", [real], blocksize=block)
    stack = g.add("Concat", [planes["y"], planes["u"], planes["v"]], axis=1)
    centred = g.add("Sub", [stack, half])
    # The quantiser's plane has the size of the gate's.
    ones = g.add("Add", [g.add("Mul", ["strength", zero]), g.constant("one", np.float32(1))])
    condition = g.add("Mul", [ones, "quantiser"])
    x = g.add("Concat", [centred, condition, g.add("Mul", [condition, condition])], axis=1)

    skip = g.conv(x, "stem", network.stem, relu=True)
    deep = g.blocks(g.conv(skip, "down", network.down, relu=True), "body", network.body)
    raised = g.add("DepthToSpace", [g.conv(deep, "up", network.up)], blocksize=2, mode="CRD")
    tail = g.blocks(g.add("Add", [skip, raised]), "tail", network.tail)
    residual = g.add("Mul", [g.conv(tail, "head", network.head), "strength"])
    generated = g.add("Mul", [g.add("Add", [stack, residual]), levels])
    clipped = g.add("Clip", [g.add("Round", [generated]), zero, top])
    parts = ["y_stack", "u_stack", "v_stack"]
    split = g.constant("split", np.array([16, 4, 4], np.int64))
    g.nodes.append(helper.make_node("Split", [clipped, split], parts, name="split_planes", axis=1))
    for name, part, block in zip("yuv", parts, (4, 2, 2), strict=True):
        plane = g.add("DepthToSpace", [part], blocksize=block, mode="CRD")
        g.add("Cast", [plane], f"{name}_out", to=TensorProto.UINT8)

    def tensor(name: str, kind: int, shape: list[int | str]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    inputs = [
        tensor("y", TensorProto.UINT8, [1, 1, "H", "W"]),
        tensor("u", TensorProto.UINT8, [1, 1, "H/2", "W/2"]),
        tensor("v", TensorProto.UINT8, [1, 1, "H/2", "W/2"]),
        tensor("quantiser", TensorProto.FLOAT, [1, 1, 1, 1]),
        tensor("strength", TensorProto.FLOAT, [1, 1, "H/4", "W/4"]),
    ]
    outputs = [tensor(f"{n}_out", TensorProto.UINT8, [1, 1, f"{n}H", f"{n}W"]) for n in "yuv"]
    graph = helper.make_graph(g.nodes, "hybridprompt_generator", inputs, outputs, g.weights)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="hybridprompt"
    )
    model.ir_version = _IR_VERSION
    onnx.checker.check_model(model)
    return model


def load_weights(path: Path) -> GeneratorNetwork:
    """Load a network from a run's ``ema.pt``.  Raises GeneratorError."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network = GeneratorNetwork(NetworkConfig(**state["config"]))
        network.load_state_dict(state["network"])
    except (OSError, EOFError, UnpicklingError, LookupError, TypeError, RuntimeError, ValueError) as error:
        raise GeneratorError(f"{path}: not the weights of a generator: {error}") from error
    return network.eval()


@torch.no_grad()
def check_equivalence(
    network: GeneratorNetwork, generator: OnnxGenerator, *, seed: int = 0, size: int = 256
) -> Equivalence:
    """Compare both on smooth and noisy random pictures at several quantisers and half a gate."""
    rng = np.random.default_rng(seed)
    largest = differing = samples = 0
    for quantiser in (0, 90, 160, 255):
        coarse = rng.integers(0, 256, (3, size // 16, size // 16)).astype(np.uint8)
        full = coarse.repeat(16, 1).repeat(16, 2)
        noisy = np.clip(full + rng.normal(0, 8, full.shape), 0, 255).astype(np.uint8)
        y, u, v = noisy[0], noisy[1, ::2, ::2].copy(), noisy[2, ::2, ::2].copy()
        strengths = rng.integers(0, 3, (size // 64, size // 64)).astype(np.float32) * np.float32(0.5)
        strengths[0, 0] = strengths[-1, -1] = 1
        got = generator.generate((y, u, v), quantiser=quantiser, strengths=strengths, block_size=64)
        gate = torch.from_numpy(strengths.repeat(16, 0).repeat(16, 1))[None, None]
        wanted = network(
            torch.from_numpy(y)[None, None].float() / 255,
            torch.from_numpy(np.stack([u, v]))[None].float() / 255,
            torch.full((1, 1, 1, 1), quantiser / 255),
            gate,
        )
        pairs = [(got[0], wanted[0][0, 0]), (got[1], wanted[1][0, 0]), (got[2], wanted[1][0, 1])]
        for plane, reference in pairs:
            levels = (reference * 255).round().clamp(0, 255).numpy().astype(int)
            difference = np.abs(plane.astype(int) - levels)
            largest = max(largest, int(difference.max()))
            differing += int((difference > 0).sum())
            samples += difference.size
    return Equivalence(largest, differing, samples)


def export(weights: Path, output: Path) -> Equivalence:
    """Export ``ema.pt`` to ONNX; the file is written only when both runtimes agree to one level.

    Raises GeneratorError.
    """
    network = load_weights(weights)
    data = _build(network).SerializeToString()
    result = check_equivalence(network, OnnxGenerator(data, name=output.stem))
    if result.largest > 1 or result.differing > result.samples // 1000:
        raise GeneratorError(f"{output}: ONNX Runtime differs from torch: {result}")
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.partial")
    temporary.write_bytes(data)
    os.replace(temporary, output)
    return result


def describe(path: Path) -> str:
    """Identity of an exported file, as people and prompts name it."""
    return identity_of(path.read_bytes()).hex()
