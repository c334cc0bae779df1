"""How weights lie in a generator's file that takes bytes as they are, and how in torch.

In such a file a sample p is (p - 128) / 255, where torch has p / 255 - 1/2; the quantiser and its square are
bytes, too, in several copies; and of the channels that a pixel shuffle by 2 spreads, the four places come
first, where in torch they come last.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

LAYOUT_KEY: Final = "hybridprompt.layout"
BYTE_LAYOUT: Final = "bytes"
"""In a file's metadata: that its weights lie so."""

BYTE_STEP: Final = 1 / 255
BYTE_MIDDLE: Final = 128
CONDITION_STEP: Final = 1 / 127
CONDITION_COPIES: Final = 4
"""The quantiser and its square, in these steps from BYTE_MIDDLE on, reach the first convolution so often."""

CONDITION_GAIN: Final = CONDITION_STEP / BYTE_STEP / CONDITION_COPIES
"""What the weights of these are multiplied by in the file."""

CHANGE_STEP: Final = 2 / 5 * BYTE_STEP
"""What the network adds to samples, before the gate and after it, in bytes from BYTE_MIDDLE on.

None of these steps is half a level, which would be rounded up here and down there.
"""

GATE_STEP: Final = 1 / 120
"""Strengths, which such a file takes as floats, are rounded to these steps, of which an eighth is 15."""

STEM: Final = "stem"
PLANES: Final = 24
"""The first convolution, and how many of its inputs are samples; those of the quantiser come after them."""

Doubles = NDArray[np.float64]

_RAISING = ("up", "deep.up")
_CONDITIONS = 2
_SHIFT = BYTE_STEP * BYTE_MIDDLE - 0.5


def channels_to_file(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Values (out, ...) of a convolution's output channels, by its name in torch, in the file's order."""
    if name not in _RAISING:
        return values
    return np.swapaxes(values.reshape(-1, 4, *values.shape[1:]), 0, 1).reshape(values.shape)


def _channels_to_torch(name: str, values: NDArray[Any]) -> NDArray[Any]:
    if name not in _RAISING:
        return values
    return np.swapaxes(values.reshape(4, -1, *values.shape[1:]), 0, 1).reshape(values.shape)


def to_file(name: str, weight: NDArray[Any], bias: NDArray[Any]) -> tuple[Doubles, Doubles]:
    """Weight (out, in, rows, columns) and bias (out,) of a convolution, by its name in torch, for a file."""
    weight, bias = weight.astype(np.float64), bias.astype(np.float64)
    if name == STEM:
        planes, conditions = weight[:, :PLANES], weight[:, PLANES:]
        copies = np.tile(conditions * CONDITION_GAIN, (1, CONDITION_COPIES, 1, 1))
        return np.concatenate([planes, copies], 1), bias + _SHIFT * planes.sum((1, 2, 3))
    return channels_to_file(name, weight), channels_to_file(name, bias)


def to_torch(name: str, weight: Doubles, bias: Doubles) -> tuple[Doubles, Doubles]:
    """The way back.  Raises ValueError for what cannot be of this layout."""
    if name == STEM:
        planes, copies = weight[:, :PLANES], weight[:, PLANES:]
        if copies.shape[1] != CONDITION_COPIES * _CONDITIONS:
            raise ValueError(f"a stem of {weight.shape[1]} inputs is not of the layout for bytes")
        copies = copies.reshape(len(weight), CONDITION_COPIES, _CONDITIONS, *weight.shape[2:])
        conditions = copies.mean(1) / CONDITION_GAIN
        return np.concatenate([planes, conditions], 1), bias - _SHIFT * planes.sum((1, 2, 3))
    return _channels_to_torch(name, weight), _channels_to_torch(name, bias)
