"""Gate indices as an arithmetic code.

docs/bitstream.md (gate mode 3) has the whole of it.  An index is coded relative to a prediction from its
neighbours, as LOCO-I predicts samples (Weinberger, Seroussi and Sapiro 2000): gates are smooth, so that most
indices are the predicted one.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hybridprompt.prompt.binary_coding import Bit, decode_bits, encode_bits

# Contexts: is it the predicted index, by how much the neighbours differ (3); is it larger, by how many of
# them are (5); is it further away, by how far it is (3).
_SAME: Final = 0
_LARGER: Final = 3
_FURTHER: Final = 8
_CONTEXTS: Final = 11


def encode_indices(indices: NDArray[np.uint8], levels: int) -> bytes:
    """Code a grid of indices, (rows, cols) uint8 in [0, levels)."""
    return encode_bits(_CONTEXTS, lambda bit: _code(indices, levels, bit))


def decode_indices(data: bytes, levels: int, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the indices that were coded; (rows, cols) uint8 in [0, levels).

    Raises `PromptError` for data that `encode_indices` does not make of any indices of this shape.
    """
    nothing = np.zeros(shape, np.uint8)
    return decode_bits(data, _CONTEXTS, lambda bit: _code(nothing, levels, bit), what="coded gate")


def _code(indices: NDArray[np.uint8], levels: int, bit: Bit) -> NDArray[np.uint8]:
    """Code all indices, row by row; return what the bits say."""
    rows, cols = indices.shape
    coded = np.zeros((rows, cols), np.uint8)
    above: list[int] = []
    for row in range(rows):
        current: list[int] = []
        for col in range(cols):
            left = current[-1] if col else above[0] if row else 0
            up = above[col] if row else left
            corner = above[col - 1] if row and col else up if row else left
            current.append(_code_index(int(indices[row, col]), (left, up, corner), levels - 1, bit))
        coded[row] = above = current
    return coded


def _code_index(index: int, neighbours: tuple[int, int, int], top: int, bit: Bit) -> int:
    left, up, corner = neighbours
    low, high = min(left, up), max(left, up)
    predicted = min(max(left + up - corner, low), high)
    if bit(_SAME + min(high - low, 2), int(index == predicted)):
        return predicted
    if 0 < predicted < top:
        lean = (left > predicted) + (up > predicted) - (left < predicted) - (up < predicted)
        larger = bit(_LARGER + 2 + lean, int(index > predicted))
    else:
        larger = int(predicted == 0)
    room = top - predicted if larger else predicted
    distance = 1
    while distance < room and bit(_FURTHER + min(distance, 3) - 1, int(abs(index - predicted) > distance)):
        distance += 1
    return predicted + distance if larger else predicted - distance
