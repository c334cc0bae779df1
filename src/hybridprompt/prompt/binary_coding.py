"""Coding of bits with adaptive models of integers, by the range coder of constriction.

docs/bitstream.md ("Arithmetic") has the whole of it.  What the bits mean is up to `gate_coding` and
`adapter_coding`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import constriction
import numpy as np
from numpy.typing import NDArray

from hybridprompt.prompt.syntax import invalid

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
    """How often each bit came in each context so far; keeps the bits, and what they were coded with."""

    def __init__(self, contexts: int) -> None:
        self._counts = [[_FIRST_COUNT, _FIRST_COUNT] for _ in range(contexts)]
        self._bits: list[int] = []
        self._chances: list[float] = []

    def chance(self, context: int) -> float:
        """Probability of a 1 as the next bit in a context: a multiple of 1 / _ONE."""
        zeros, ones = self._counts[context]
        share = min(max((ones << 16) // (zeros + ones), _LEAST), _ONE - _LEAST)
        # Exact in floating point, so constriction makes the same of it everywhere.
        return share / _ONE

    def learn(self, context: int, bit: int, chance: float) -> None:
        """Count a bit; chance: what `chance` said of it when it was coded."""
        self._bits.append(bit)
        self._chances.append(chance)
        counts = self._counts[context]
        counts[bit] += _INCREMENT
        if sum(counts) > _MAX_COUNTS:
            counts[:] = ((count + 1) // 2 for count in counts)

    def code(self) -> bytes:
        """All bits so far as an arithmetic code; in one call, which is far quicker than one per bit."""
        encoder = constriction.stream.queue.RangeEncoder()
        family = constriction.stream.model.Bernoulli(perfect=False)
        encoder.encode(np.array(self._bits, np.int32), family, np.array(self._chances, np.float64))
        words: NDArray[np.uint32] = encoder.get_compressed()
        return words.astype(">u4").tobytes().rstrip(b"\0")


def encode_bits(contexts: int, code: Callable[[Bit], object]) -> bytes:
    """Return what `code` has coded by the function it is given; contexts: how many there are, from 0 on."""
    models = _Models(contexts)

    def bit(context: int, value: int) -> int:
        models.learn(context, value, models.chance(context))
        return value

    code(bit)
    return models.code()


def bit_costs(contexts: int, code: Callable[[Bit], object]) -> NDArray[np.float64]:
    """Bits that a 0 and a 1 take in each context, (contexts, 2), by what the models know after `code`."""
    models = _Models(contexts)

    def bit(context: int, value: int) -> int:
        models.learn(context, value, models.chance(context))
        return value

    code(bit)
    ones = np.array([models.chance(context) for context in range(contexts)])
    costs: NDArray[np.float64] = -np.log2(np.stack([1 - ones, ones], 1))
    return costs


def decode_bits(data: bytes, contexts: int, code: Callable[[Bit], _Coded], *, what: str) -> _Coded:
    """Return what `code` makes of the decoded bits.

    Raises `PromptError`, which names what it should be, for data that `encode_bits` does not make of any bits
    that `code` asks for.
    """
    padded = data + bytes(-len(data) % _WORD_BYTES)
    decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(padded, ">u4").astype(np.uint32))
    models = _Models(contexts)
    bernoulli = constriction.stream.model.Bernoulli

    def bit(context: int, value: int) -> int:
        chance = models.chance(context)
        decoded = int(decoder.decode(bernoulli(chance, perfect=False)))
        models.learn(context, decoded, chance)
        return decoded

    try:
        coded = code(bit)
    except AssertionError as error:
        # What constriction raises for data of no code at all.
        raise invalid(f"{len(data)} bytes are no {what}") from error
    # Most data decodes to something, however long it is.
    if models.code() != data:
        raise invalid(f"{len(data)} bytes of {what} hold more or other than it")
    return coded
