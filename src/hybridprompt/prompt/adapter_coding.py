"""The integers of an adapter as an arithmetic code.

docs/bitstream.md (section type 4) has the whole of it.  Most are 0, and how large the others are changes from
layer to layer: the context of each is how large those just before it were, so nothing needs to be known of
the generator's layers.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hybridprompt.prompt.binary_coding import Bit, bit_costs, decode_bits, encode_bits

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


def magnitude_costs(values: NDArray[np.int8]) -> NDArray[np.float64]:
    """Bits that each magnitude from 0 to MAX_VALUE would take in place of each value, (count, MAX_VALUE + 1).

    By what the models know after coding the values, (count,) int8; what a value changes for those after it
    is not in them.
    """
    activities: list[int] = []
    bits = bit_costs(_CONTEXTS, lambda bit: _code(values, bit, activities))
    by_activity = np.empty((_ACTIVITIES, MAX_VALUE + 1))
    for activity in range(_ACTIVITIES):
        zero = bits[_ZERO + activity]
        further = bits[_LARGER + activity * _FURTHER :][:_FURTHER]
        # What it takes to say that it is above 1, 2, ..., and that it ends there.
        contexts = np.minimum(np.arange(1, MAX_VALUE), _FURTHER) - 1
        above = np.concatenate([[0.0], np.cumsum(further[contexts, 1])])
        ends = np.concatenate([further[contexts, 0], [0.0]])
        by_activity[activity, 0] = zero[1]
        by_activity[activity, 1:] = zero[0] + bits[_NEGATIVE].mean() + above + ends
    return by_activity[np.array(activities, np.intp)]


def _code(values: NDArray[np.int8], bit: Bit, activities: list[int] | None = None) -> NDArray[np.int8]:
    """Code all values in order; return what the bits say.  activities: takes the activity of each."""
    coded = np.zeros(len(values), np.int8)
    # Mean magnitude of the last ones, in 1/64, the latest weighing most.
    usual = 0
    for index, value in enumerate(values.tolist()):
        activity = sum(usual >= step for step in _STEPS)
        if activities is not None:
            activities.append(activity)
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
