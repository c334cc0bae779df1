"""Adapters: what a prompt changes in a generator's weights.

An adapter has two integers for every output channel of every convolution: a gain, in steps of 1 / 6 of an
octave, of the weights (not of the bias), and an offset of the bias, in steps of 1 / 20 of the layer's usual
(root mean square) weight.  They come layer by layer in the order in which a picture passes them, gains before
offsets.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hybridprompt.errors import GeneratorError
from hybridprompt.generator.onnx_weights import Change, Convolution, ConvolutionFile

GAIN_STEPS_PER_OCTAVE: Final = 6
OFFSET_STEP: Final = 0.05


def usual_weight(convolution: Convolution) -> float:
    """Root mean square of a convolution's weights."""
    return float(np.sqrt(np.square(convolution.weight).mean()))


class AdaptableModel:
    """A generator's ONNX file that adapters can be applied to.  Raises GeneratorError for another file."""

    def __init__(self, weights: bytes) -> None:
        self._file = ConvolutionFile(weights)
        # Of all weights: not again for every adapter.
        self._offset_units = [OFFSET_STEP * usual_weight(layer) for layer in self._file.convolutions]

    @property
    def layer_channels(self) -> list[int]:
        """Output channels of every convolution."""
        return [len(convolution.bias) for convolution in self._file.convolutions]

    @property
    def adapter_length(self) -> int:
        """How many values an adapter has."""
        return 2 * sum(self.layer_channels)

    def adapted(self, values: NDArray[np.int8]) -> bytes:
        """Return the file with an adapter, (2 * sum(layer_channels),), applied.

        Computed in double precision and then rounded, so that machines do not differ.  Raises GeneratorError
        for an adapter of another length.
        """
        channels = self.layer_channels
        if values.shape != (self.adapter_length,):
            raise GeneratorError(f"an adapter of {values.size} values, expected {self.adapter_length}")
        parts = iter(np.split(values.astype(np.float64), np.cumsum(np.repeat(channels, 2))[:-1]))
        return self._file.changed(
            [
                Change(2.0 ** (gains / GAIN_STEPS_PER_OCTAVE), offsets * unit)
                for unit, gains, offsets in zip(self._offset_units, parts, parts, strict=True)
            ]
        )
