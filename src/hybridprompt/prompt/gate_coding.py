"""Gate indices as an arithmetic code: adaptive binary models of integers, the range coder of constriction.

docs/bitstream.md (gate mode 3) has the whole of it.  An index is coded relative to a prediction from its
neighbours, as LOCO-I predicts samples (Weinberger, Seroussi and Sapiro 2000): gates are smooth, so that most
indices are the predicted one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import constriction
import numpy as np
from numpy.typing import NDArray

from hybridprompt.prompt.syntax import PromptError, PromptFault

_FIRST_COUNT: Final = 2
_INCREMENT: Final = 4
_MAX_COUNTS: Final = 400
_ONE: Final = 1 << 16
_LEAST: Final = 64
"""Probabilities are in units of 1 / _ONE, from _LEAST to _ONE - _LEAST."""

_WORD_BYTES: Final = 4

# Contexts: is it the predicted index, by how much the neighbours differ (3); is it larger, by how many of
# them are (5); is it further away, by how far it is (3).
_SAME, _LARGER, _FURTHER, _CONTEXTS = 0, 3, 8, 11

_Bit = Callable[[int, int], int]
"""Codes a bit in a context and returns it; a decoder knows better than the bit it is given."""


class _Models:
    """How often each bit came in each context so far."""

    def __init__(self) -> None:
        self._counts = [[_FIRST_COUNT, _FIRST_COUNT] for _ in range(_CONTEXTS)]

    def model(self, context: int) -> Any:
        """Of the next bit in a context, for constriction."""
        zeros, ones = self._counts[context]
        share = min(max((ones << 16) // (zeros + ones), _LEAST), _ONE - _LEAST)
        # A multiple of 2**-16 is exact in floating point, so constriction makes the same of it everywhere.
        return constriction.stream.model.Bernoulli(share / _ONE, perfect=False)

    def learn(self, context: int, bit: int) -> None:
        counts = self._counts[context]
        counts[bit] += _INCREMENT
        if sum(counts) > _MAX_COUNTS:
            counts[:] = ((count + 1) // 2 for count in counts)


def encode_indices(indices: NDArray[np.uint8], levels: int) -> bytes:
    """Code a grid of indices, (rows, cols) uint8 in [0, levels)."""
    encoder, models = constriction.stream.queue.RangeEncoder(), _Models()

    def bit(context: int, value: int) -> int:
        encoder.encode(value, models.model(context))
        models.learn(context, value)
        return value

    _code(indices, levels, bit)
    words: NDArray[np.uint32] = encoder.get_compressed()
    return words.astype(">u4").tobytes().rstrip(b"\0")


def decode_indices(data: bytes, levels: int, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the indices that were coded; (rows, cols) uint8 in [0, levels).

    Raises `PromptError` for data that `encode_indices` does not make of any indices of this shape.
    """
    padded = data + bytes(-len(data) % _WORD_BYTES)
    decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(padded, ">u4").astype(np.uint32))
    models = _Models()

    def bit(context: int, value: int) -> int:
        decoded = int(decoder.decode(models.model(context)))
        models.learn(context, decoded)
        return decoded

    try:
        indices = _code(np.zeros(shape, np.uint8), levels, bit)
    except AssertionError as error:
        # What constriction raises for data of no code at all.
        raise PromptError(PromptFault.INVALID, f"{len(data)} bytes are no coded gate") from error
    # Most bytes decode to something.
    if encode_indices(indices, levels) != data:
        raise PromptError(PromptFault.INVALID, f"{len(data)} bytes of coded gate hold more or other than it")
    return indices


def _code(indices: NDArray[np.uint8], levels: int, bit: _Bit) -> NDArray[np.uint8]:
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


def _code_index(index: int, neighbours: tuple[int, int, int], top: int, bit: _Bit) -> int:
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
