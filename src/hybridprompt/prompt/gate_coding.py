"""Gate indices as an arithmetic code.

docs/bitstream.md (gate mode 3) has the whole of it.  An index is coded relative to a prediction from its
neighbours, as LOCO-I predicts samples (Weinberger, Seroussi and Sapiro 2000): gates are smooth, so that most
indices are the predicted one.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hybridprompt.prompt.binary_coding import Bit, bit_costs, decode_bits, encode_bits

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


def distance_costs(indices: NDArray[np.uint8], levels: int) -> NDArray[np.float64]:
    """Bits of an index that is so far from its prediction, (2, 6, 3, levels).

    By whether it is larger; by 2 and how many neighbours more are above the prediction than below, or 5 where
    there is only one way to go; by how much the neighbours differ (0, 1, more); by the distance.  By what the
    models know after coding the indices, (rows, cols) uint8 in [0, levels), and as if there were room beyond.
    """
    bits = bit_costs(_CONTEXTS, lambda bit: _code(indices, levels, bit))
    contexts = np.minimum(np.arange(1, levels - 1), 3) - 1
    further = bits[_FURTHER:]
    # What it takes to say that it is further away than 1, 2, ..., and that it ends there.
    above = np.concatenate([[0.0], np.cumsum(further[contexts, 1])])
    ends = np.concatenate([further[contexts, 0], [0.0]])
    ways = np.concatenate([bits[_LARGER:_FURTHER], np.zeros((1, 2))]).T
    same = bits[_SAME:_LARGER]
    costs = np.empty((2, 6, 3, levels))
    costs[..., 0] = same[:, 1]
    costs[..., 1:] = ways[:, :, None, None] + same[None, None, :, 0, None] + (above + ends)
    return costs


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
