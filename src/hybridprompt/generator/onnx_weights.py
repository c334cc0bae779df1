"""The convolutions in a generator's ONNX file: read, and with gains and offsets of their output channels.

A file holds floats, or 8-bit integers with a scale for every output channel (QDQ), whose biases are 32-bit
integers in units of the input's scale times the weights'.  Whatever the file's layout, weights and channels
are given and taken as in torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper

from hybridprompt.errors import GeneratorError
from hybridprompt.generator import layout
from hybridprompt.generator.layout import Doubles

_LARGEST_BIAS = (1 << 31) - 1


@dataclass(frozen=True, eq=False)
class Convolution:
    """weight: (out, in, rows, columns), bias: (out,), both multiplied out."""

    name: str
    weight: Doubles
    bias: Doubles


@dataclass(frozen=True, eq=False)
class Change:
    """For each output channel, (out,): what its weights are multiplied by, and what is added to its bias."""

    gains: Doubles
    offsets: Doubles


@dataclass(frozen=True)
class _Stored:
    """Names of tensors in the file; those of scales are None where it holds floats."""

    weight: str
    bias: str
    weight_scale: str | None = None
    bias_scale: str | None = None
    input_scale: str | None = None


class ConvolutionFile:
    """The convolutions of an ONNX file, in the order in which a picture passes them.

    Raises GeneratorError for a file of another kind.
    """

    def __init__(self, weights: bytes) -> None:
        try:
            self._model = onnx.load_model_from_string(weights)
        except DecodeError as error:
            raise GeneratorError(f"not an ONNX file: {error}") from error
        graph = self._model.graph
        properties = {entry.key: entry.value for entry in self._model.metadata_props}
        self._in_bytes = properties.get(layout.LAYOUT_KEY) == layout.BYTE_LAYOUT
        self._values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._made_by = {output: node for node in graph.node for output in node.output}
        try:
            self._stored = [self._find(node) for node in graph.node if node.op_type == "Conv"]
            self.convolutions = [self._multiplied_out(stored) for stored in self._stored]
        except (KeyError, IndexError, ValueError) as error:
            raise GeneratorError(
                f"a convolution whose weights or bias are not in the file: {error}"
            ) from error

    @property
    def holds_integers(self) -> bool:
        """Whether the weights are integers with scales."""
        return any(stored.weight_scale is not None for stored in self._stored)

    def changed(self, changes: Sequence[Change]) -> bytes:
        """Return a file of the same kind whose convolutions are changed, one by one.

        Scales of integer weights take the gains, so the integers stay as they are.
        """
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        for stored, convolution, change in zip(self._stored, self.convolutions, changes, strict=True):
            for name, value in self._changed(stored, convolution, change).items():
                tensors[name].CopyFrom(numpy_helper.from_array(value.astype(self._values[name].dtype), name))
        data: bytes = model.SerializeToString()
        return data

    def _find(self, node: onnx.NodeProto) -> _Stored:
        of_input, weight, bias = node.input[:3]
        if weight in self._values:
            return _Stored(weight, bias)
        (integers, weight_scale), (integer_bias, bias_scale), (_, input_scale) = (
            self._dequantised(name) for name in (weight, bias, of_input)
        )
        return _Stored(integers, integer_bias, weight_scale, bias_scale, input_scale)

    def _dequantised(self, name: str) -> tuple[str, str]:
        """Names of the integers and of their scale that a tensor is made of.  Raises KeyError, ValueError."""
        node = self._made_by[name]
        if node.op_type != "DequantizeLinear" or node.input[1] not in self._values:
            raise ValueError(f"{name} is neither stored nor dequantised")
        return node.input[0], node.input[1]

    def _multiplied_out(self, stored: _Stored) -> Convolution:
        weight, bias = (self._values[name].astype(np.float64) for name in (stored.weight, stored.bias))
        if stored.weight_scale is not None and stored.bias_scale is not None:
            # Zero points of weights are zero.
            weight = weight * self._values[stored.weight_scale].reshape(-1, *[1] * (weight.ndim - 1))
            bias = bias * self._values[stored.bias_scale]
        name = stored.weight.removesuffix("_quantized").removesuffix(".weight")
        if self._in_bytes:
            weight, bias = layout.to_torch(name, weight, bias)
        return Convolution(name, weight, bias)

    def _changed(
        self, stored: _Stored, convolution: Convolution, change: Change
    ) -> dict[str, NDArray[np.floating] | NDArray[np.integer]]:
        gains, bias = change.gains, convolution.bias + change.offsets
        weight = convolution.weight * gains.reshape(-1, *[1] * (convolution.weight.ndim - 1))
        if self._in_bytes:
            weight, bias = layout.to_file(convolution.name, weight, bias)
            gains = layout.channels_to_file(convolution.name, gains)
        if stored.weight_scale is None or stored.bias_scale is None or stored.input_scale is None:
            return {stored.weight: weight, stored.bias: bias}
        scale = (self._values[stored.weight_scale] * gains).astype(np.float32)
        unit = (scale * self._values[stored.input_scale]).astype(np.float32)
        integers = np.clip(np.rint(bias / unit), -_LARGEST_BIAS, _LARGEST_BIAS)
        return {stored.weight_scale: scale, stored.bias_scale: unit, stored.bias: integers}
