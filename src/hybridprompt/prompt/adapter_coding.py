"""The integers of an adapter as an arithmetic code.

docs/bitstream.md (section type 4) has the whole of it.  Most are 0, and how large the others are changes from
layer to layer: the context of each is how large those just before it were, so nothing needs to be known of
the generator's layers.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hybridprompt.prompt.binary_coding import Bit, decode_bits, encode_bits

MAX_VALUE: Final = 15
"""An adapter's integers are from -MAX_VALUE to MAX_VALUE."""

_STEPS: Final = (8, 24, 48, 96, 160)
"""Where the next activity begins."""

_ACTIVITIES: Final = len(_STEPS) + 1
_FURTHER: Final = 5
# Contexts: is it 0, by the activity; is it negative; is its magnitude above 1, 2, ..., by the activity.
_ZERO: Final = 0
_NEGATIVE: Final = _ACTIVITIES
_LARGER: Final = _NEGATIVE + 1
_CONTEXTS: Final = _LARGER + _ACTIVITIES * _FURTHER


def encode_values(values: NDArray[np.int8]) -> bytes:
    """Code values, (count,) int8 in [-MAX_VALUE, MAX_VALUE]."""
    return encode_bits(_CONTEXTS, lambda bit: _code(values, bit))


def decode_values(data: bytes, count: int) -> NDArray[np.int8]:
    """Return the values that were coded; (count,) int8 in [-MAX_VALUE, MAX_VALUE].

    Raises `PromptError` for data that `encode_values` does not make of any such values.
    """
    nothing = np.zeros(count, np.int8)
    return decode_bits(data, _CONTEXTS, lambda bit: _code(nothing, bit), what="coded adapter")


def _code(values: NDArray[np.int8], bit: Bit) -> NDArray[np.int8]:
    """Code all values in order; return what the bits say."""
    coded = np.zeros(len(values), np.int8)
    # Mean magnitude of the last ones, in 1/64, the latest weighing most.
    usual = 0
    for index, value in enumerate(values.tolist()):
        activity = sum(usual >= step for step in _STEPS)
        coded[index] = found = _code_value(value, activity, bit)
        usual += (64 * abs(found) - usual) // 8
    return coded


def _code_value(value: int, activity: int, bit: Bit) -> int:
    if bit(_ZERO + activity, int(value == 0)):
        return 0
    negative = bit(_NEGATIVE, int(value < 0))
    magnitude = 1
    while magnitude < MAX_VALUE:
        context = _LARGER + activity * _FURTHER + min(magnitude, _FURTHER) - 1
        if not bit(context, int(abs(value) > magnitude)):
            break
        magnitude += 1
    return -magnitude if negative else magnitude
