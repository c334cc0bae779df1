"""What a generator is to the rest of the system."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from hybridprompt.errors import GeneratorError

Plane = NDArray[np.uint8]
Planes = tuple[Plane, Plane, Plane]
IDENTITY_BYTES = 8

_adapter_counts: WeakKeyDictionary[Generator, int] = WeakKeyDictionary()
"""How many values the adapters of those have that took one."""


class Generator(Protocol):
    """Turns a base picture into a generated picture, steered by what the prompt holds."""

    @property
    def identity(self) -> bytes:
        """The first 8 bytes of the SHA-256 of the weights; prompts name their generator by it."""

    @property
    def name(self) -> str:
        """Short name for people."""

    def generate(
        self, planes: Planes, *, quantiser: int, strengths: NDArray[np.float32], block_size: int
    ) -> Planes:
        """Generate one picture.

        planes: y (H, W), u and v (ceil(H/2), ceil(W/2)) uint8, not changed.  quantiser: 0..255 on the scale
        of AV1's base_q_idx.  strengths: (ceil(H/block_size), ceil(W/block_size)) in [0, 4], the gate: 0
        leaves a block as it is, bit for bit; above 1 the change goes further than what was trained.  Returns
        new planes of the same shapes.  Raises GeneratorError.
        """

    def adapted(self, values: NDArray[np.int8]) -> Generator:
        """This generator, of the same identity, with an adapter of its weights.

        values: (count,), what `hybridprompt.generator.adapter` says.  Raises GeneratorError for an adapter of
        another generator.
        """


def check_adapter_count(generator: Generator, count: int) -> None:
    """Raise GeneratorError unless the generator is made for adapters of so many values, 1 or more.

    So an adapter need not be decoded to be refused.  The generator is asked with one of zeros, and not again
    once it took it.
    """
    known = None
    # One that cannot be remembered is asked again.
    with suppress(TypeError):
        known = _adapter_counts.get(generator)
    if known is None:
        generator.adapted(np.zeros(count, np.int8))
        with suppress(TypeError):
            _adapter_counts[generator] = count
    elif known != count:
        raise GeneratorError(f"an adapter of {count} values, expected {known}")


def identity_of(weights: bytes) -> bytes:
    """Identity of a weights file."""
    return hashlib.sha256(weights).digest()[:IDENTITY_BYTES]


def strength_plane(
    strengths: NDArray[np.float32], block_size: int, width: int, height: int
) -> NDArray[np.float32]:
    """Spread the strengths of blocks of ``block_size`` to the positions of a (height, width) plane."""
    rows = np.minimum(np.arange(height) // block_size, strengths.shape[0] - 1)
    columns = np.minimum(np.arange(width) // block_size, strengths.shape[1] - 1)
    return np.ascontiguousarray(strengths[rows[:, None], columns[None, :]])
