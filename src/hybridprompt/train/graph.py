"""The network as an ONNX graph, written node by node.

It is small, its bytes depend on nothing but the weights, and it carries what the client needs around the
network (8-bit planes in and out, the gate).  Two layouts compute the same: `build` follows the torch network
in floats; `build_for_bytes` is what is quantised, and takes and gives planes as the bytes that they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from hybridprompt.generator import layout
from hybridprompt.generator.base import USUAL_GRID, USUAL_MARGIN
from hybridprompt.generator.network import DeepLevel, GeneratorNetwork, NetworkConfig
from hybridprompt.generator.onnx_generator import GRID_KEY, MARGIN_KEY

_OPSET = 17
_IR_VERSION = 9

_BLOCKS = {"y": 4, "u": 2, "v": 2}
"""Samples of each plane to a side of what becomes one position of the network."""

STEM_BYTES, CHANGE = "stem_bytes", "change"
"""What the first convolution takes in the layout for bytes, dequantised already; what the last one gives."""


class _Graph:
    """Collects nodes and weights; every method returns the name of its output."""

    def __init__(self, half: bool = False) -> None:
        self.half = half
        """Whether the network computes in float16; the planes' own arithmetic is in float32 always."""
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, op: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        output = output or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: NDArray[Any] | np.float32 | np.uint8) -> str:
        if all(name != tensor.name for tensor in self.weights):
            self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def integers(self, *values: int) -> str:
        """A vector of integers, as shapes and axes are given."""
        return self.constant("integers_" + "_".join(map(str, values)), np.array(values, np.int64))

    def weights_of(self, name: str, module: nn.Conv2d) -> tuple[NDArray[Any], NDArray[Any]]:
        """A convolution's weight and bias as they lie in the file."""
        assert module.bias is not None
        return module.weight.detach().cpu().numpy(), module.bias.detach().cpu().numpy()

    def conv(
        self,
        x: str,
        name: str,
        module: nn.Conv2d,
        *,
        relu: bool = False,
        pads: list[int] | None = None,
        output: str | None = None,
    ) -> str:
        kind = np.float16 if self.half else np.float32
        weight, bias = (values.astype(kind) for values in self.weights_of(name, module))
        inputs = [x, self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", bias)]
        kernel, stride = list(module.kernel_size), list(module.stride)
        pad = module.padding[0] if isinstance(module.padding, tuple) else 0
        pads = pads or [int(pad)] * 4
        out = self.add("Conv", inputs, output, kernel_shape=kernel, strides=stride, pads=pads)
        return self.add("Relu", [out]) if relu else out

    def blocks(self, x: str, name: str, modules: nn.Sequential) -> str:
        for index, block in enumerate(modules):
            prefix = f"{name}.{index}"
            inner = self.conv(x, f"{prefix}.first", block.first, relu=True)  # type: ignore[arg-type]
            x = self.add("Add", [self.conv(inner, f"{prefix}.second", block.second), x])  # type: ignore[arg-type]
        return x

    def raised(self, x: str, name: str, module: nn.Conv2d, level: int) -> str:
        """A convolution whose output has four times as many channels as its double size will have.

        level: that of x, 1 at 1/8 of the luma resolution, 2 at 1/16.
        """
        return self.add("DepthToSpace", [self.conv(x, name, module)], blocksize=2, mode="CRD")

    def eighth(self, x: str) -> str:
        """Rows and columns at 1/8 of the luma resolution, of which x is."""
        return self.add("Shape", [x], start=2)

    def change(self, x: str, network: GeneratorNetwork) -> str:
        """What the network adds to planes, from what its first convolution takes."""
        seen = self.conv(x, "stem", network.stem, relu=True)
        skip = self.conv(seen, "skip", network.skip) if isinstance(network.skip, nn.Conv2d) else seen
        deep = self.blocks(self.conv(seen, "down", network.down, relu=True), "body", network.body)
        if isinstance(network.deep, DeepLevel):
            deep = self.add("Add", [deep, self.deep_level(deep, network.deep)])
        tail = self.add("Add", [skip, self.raised(deep, "up", network.up, 1)])
        return self.conv(self.blocks(tail, "tail", network.tail), "head", network.head, output=CHANGE)

    def deep_level(self, x: str, level: DeepLevel) -> str:
        # One more row and column where their number is odd, as in torch; else the last one has no partner.
        down = self.conv(x, "deep.down", level.down, relu=True, pads=[0, 0, 1, 1])
        raised = self.raised(self.blocks(down, "deep.blocks", level.blocks), "deep.up", level.up, 2)
        return self.add("Slice", [raised, self.integers(0, 0), self.eighth(x), self.integers(2, 3)])

    def split(self, stack: str, sizes: str) -> dict[str, str]:
        """Planes by their names, of their stack; sizes: a vector of their channels."""
        parts = {name: f"{name}_stack" for name in _BLOCKS}
        self.nodes.append(
            helper.make_node("Split", [stack, sizes], list(parts.values()), name="split_planes", axis=1)
        )
        return parts

    def model(self, config: NetworkConfig, properties: dict[str, str]) -> onnx.ModelProto:
        """The graph as a model with a generator's inputs and outputs."""

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
        graph = helper.make_graph(self.nodes, "hybridprompt_generator", inputs, outputs, self.weights)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="hybridprompt"
        )
        model.ir_version = _IR_VERSION
        if (config.grid, config.margin) != (USUAL_GRID, USUAL_MARGIN):
            properties = properties | {GRID_KEY: str(config.grid), MARGIN_KEY: str(config.margin)}
        if properties:
            helper.set_model_props(model, properties)
        onnx.checker.check_model(model)
        return model


def build(network: GeneratorNetwork, *, half: bool = False) -> onnx.ModelProto:
    """The network as torch computes it; half: in 16-bit floats."""
    g = _Graph(half)
    scale, middle = g.constant("scale", np.float32(layout.BYTE_STEP)), g.constant("half", np.float32(0.5))
    levels = g.constant("levels", np.float32(255))
    zero, top = g.constant("zero", np.float32(0)), g.constant("top", np.float32(255))

    planes = {}
    for name, block in _BLOCKS.items():
        real = g.add("Mul", [g.add("Cast", [name], to=TensorProto.FLOAT), scale])
        planes[name] = g.add("SpaceToDepth", [real], blocksize=block)
    stack = g.add("Concat", [planes["y"], planes["u"], planes["v"]], axis=1)
    centred = g.add("Sub", [stack, middle])
    # The quantiser's plane has the size of the gate's.
    ones = g.add("Add", [g.add("Mul", ["strength", zero]), g.constant("one", np.float32(1))])
    condition = g.add("Mul", [ones, "quantiser"])
    x = g.add("Concat", [centred, condition, g.add("Mul", [condition, condition])], axis=1)
    if g.half:
        x = g.add("Cast", [x], to=TensorProto.FLOAT16)

    change = g.change(x, network)
    if g.half:
        change = g.add("Cast", [change], to=TensorProto.FLOAT)
    residual = g.add("Mul", [change, "strength"])
    generated = g.add("Mul", [g.add("Add", [stack, residual]), levels])
    clipped = g.add("Clip", [g.add("Round", [generated]), zero, top])
    channels = g.constant("split", np.array([16, 4, 4], np.int64))
    for name, part in g.split(clipped, channels).items():
        plane = g.add("DepthToSpace", [part], blocksize=_BLOCKS[name], mode="CRD")
        g.add("Cast", [plane], f"{name}_out", to=TensorProto.UINT8)
    return g.model(network.config, {})


class _ByteGraph(_Graph):
    """With what moves bytes about: reshapes and transposes, which copy rows, or turn one matrix.

    ONNX Runtime takes several times as long for SpaceToDepth and DepthToSpace, which are made for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.size = self.add("Shape", ["strength"], start=2)
        """Rows and columns at 1/4 of the luma resolution."""
        one, two = self.integers(1), self.integers(2)
        self._eighth = self.add("Div", [self.size, two])
        self._columns = [self.add("Gather", [size, one]) for size in (self.size, self._eighth)]
        self._columns.append(self.add("Div", [self.add("Add", [self._columns[1], one]), two]))

    def weights_of(self, name: str, module: nn.Conv2d) -> tuple[NDArray[Any], NDArray[Any]]:
        return layout.to_file(name, *super().weights_of(name, module))

    def eighth(self, x: str) -> str:
        return self._eighth

    def shape(self, *parts: int | str) -> str:
        """A shape of integers and vectors of one."""
        names = [part if isinstance(part, str) else self.integers(part) for part in parts]
        return self.add("Concat", names, axis=0)

    def rounded(self, x: str, step: str, zero: str) -> str:
        """x in bytes; ONNX Runtime computes with these where it finds them on all sides of an operation."""
        return self.add("DequantizeLinear", [self.add("QuantizeLinear", [x, step, zero]), step, zero])

    def unshuffled(self, plane: str, block: int) -> str:
        """(1, 1, H, W) to (1, block * block, H / block, W / block)."""
        columns = self._columns[0]
        groups = self.add("Reshape", [plane, self.integers(-1, block)])
        rows = self.add("Transpose", [groups], perm=[1, 0])
        apart = self.add("Reshape", [rows, self.shape(block, -1, block, columns)])
        stacked = self.add("Transpose", [apart], perm=[2, 0, 1, 3])
        return self.add("Reshape", [stacked, self.shape(1, block * block, -1, columns)])

    def shuffled(self, stack: str, block: int, output: str) -> str:
        """The way back."""
        columns = self._columns[0]
        apart = self.add("Reshape", [stack, self.shape(block, block, -1, columns)])
        rows = self.add("Transpose", [apart], perm=[1, 2, 0, 3])
        mixed = self.add("Transpose", [self.add("Reshape", [rows, self.integers(block, -1)])], perm=[1, 0])
        width = self.add("Mul", [columns, self.integers(block)])
        return self.add("Reshape", [mixed, self.shape(1, 1, -1, width)], output)

    def raised(self, x: str, name: str, module: nn.Conv2d, level: int) -> str:
        channels = module.out_channels // 4
        last = self.add("Transpose", [self.conv(x, name, module)], perm=[0, 2, 3, 1])
        columns = self._columns[level]
        apart = self.add("Reshape", [last, self.shape(-1, columns, 2, 2 * channels)])
        rows = self.add("Transpose", [apart], perm=[0, 2, 1, 3])
        width = self.add("Mul", [columns, self.integers(2)])
        whole = self.add("Reshape", [rows, self.shape(1, -1, width, channels)])
        return self.add("Transpose", [whole], perm=[0, 3, 1, 2])


def build_for_bytes(network: GeneratorNetwork) -> onnx.ModelProto:
    """The network with all that is around it in bytes; to be quantised.

    A sample p is (p - 128) / 255 to it.  The quantiser and its square are bytes of the same kind, in as many
    copies as make 32 channels in all: sums of other lengths take ONNX Runtime up to twice the time, and the
    weights of copies need not be large.
    """
    g = _ByteGraph()
    step, middle = (
        g.constant("byte_step", np.float32(layout.BYTE_STEP)),
        g.constant("byte_middle", np.uint8(layout.BYTE_MIDDLE)),
    )
    planes = [g.unshuffled(name, block) for name, block in _BLOCKS.items()]
    square = g.add("Mul", ["quantiser", "quantiser"])
    conditions = g.add("Concat", ["quantiser", square] * layout.CONDITION_COPIES, axis=1)
    condition_step = g.constant("condition_step", np.float32(layout.CONDITION_STEP))
    told = g.add("QuantizeLinear", [conditions, condition_step, middle])
    spread = g.add("Expand", [told, g.add("Concat", [g.integers(1, 1), g.size], axis=0)])
    stack = g.add("Concat", planes, axis=1)
    x = g.add("DequantizeLinear", [g.add("Concat", [*planes, spread], axis=1), step, middle], STEM_BYTES)

    change_step = g.constant("change_step", np.float32(layout.CHANGE_STEP))
    gate_step, none = g.constant("gate_step", np.float32(layout.GATE_STEP)), g.constant("none", np.uint8(0))
    change = g.change(x, network)
    gate = g.rounded("strength", gate_step, none)
    residual = g.rounded(g.add("Mul", [change, gate]), change_step, middle)
    base = g.add("DequantizeLinear", [stack, step, middle])
    made = g.add("QuantizeLinear", [g.add("Add", [base, residual]), step, middle])
    for name, part in g.split(made, g.integers(16, 4, 4)).items():
        g.shuffled(part, _BLOCKS[name], f"{name}_out")
    return g.model(network.config, {layout.LAYOUT_KEY: layout.BYTE_LAYOUT})
