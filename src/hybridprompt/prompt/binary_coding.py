"""Coding of bits with adaptive models of integers, by the range coder of constriction.

docs/bitstream.md ("Arithmetic") has the whole of it.  What the bits mean is up to `gate_coding` and
`adapter_coding`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

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

Bit = Callable[[int, int], int]
"""Codes a bit in a context and returns it; a decoder knows better than the bit it is given."""

_Coded = TypeVar("_Coded")


class _Models:
    """How often each bit came in each context so far."""

    def __init__(self, contexts: int) -> None:
        self._counts = [[_FIRST_COUNT, _FIRST_COUNT] for _ in range(contexts)]

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


def encode_bits(contexts: int, code: Callable[[Bit], object]) -> bytes:
    """Return what `code` has coded by the function it is given; contexts: how many there are, from 0 on."""
    encoder, models = constriction.stream.queue.RangeEncoder(), _Models(contexts)

    def bit(context: int, value: int) -> int:
        encoder.encode(value, models.model(context))
        models.learn(context, value)
        return value

    code(bit)
    words: NDArray[np.uint32] = encoder.get_compressed()
    return words.astype(">u4").tobytes().rstrip(b"\0")


def decode_bits(data: bytes, contexts: int, code: Callable[[Bit], _Coded], *, what: str) -> _Coded:
    """Return what `code` makes of the decoded bits.  Most data decodes to something, however long it is.

    Raises `PromptError`, which names what it should be, for data that is no code at all.
    """
    padded = data + bytes(-len(data) % _WORD_BYTES)
    decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(padded, ">u4").astype(np.uint32))
    models = _Models(contexts)

    def bit(context: int, value: int) -> int:
        decoded = int(decoder.decode(models.model(context)))
        models.learn(context, decoded)
        return decoded

    try:
        return code(bit)
    except AssertionError as error:
        # What constriction raises for data of no code at all.
        raise PromptError(PromptFault.INVALID, f"{len(data)} bytes are no {what}") from error
