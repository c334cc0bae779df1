"""What a generator is to the rest of the system."""

from __future__ import annotations

import hashlib
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.uint8]
Planes = tuple[Plane, Plane, Plane]
IDENTITY_BYTES = 8

USUAL_GRID, USUAL_MARGIN = 8, 64
"""Luma pixels between places where a network computes alike, and those around a part that it may see."""


class Generator(Protocol):
    """Turns a base picture into a generated picture, steered by what the prompt holds."""

    @property
    def identity(self) -> bytes:
        """The first 8 bytes of the SHA-256 of the weights; prompts name their generator by it."""

    @property
    def name(self) -> str:
        """Short name for people."""

    @property
    def adapter_length(self) -> int:
        """How many values its adapters have; 0 where it takes none.  Raises GeneratorError."""

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

        values: (adapter_length,), what `hybridprompt.generator.adapter` says.  Raises GeneratorError for an
        adapter of another generator.
        """


def identity_of(weights: bytes) -> bytes:
    """Identity of a weights file."""
    return hashlib.sha256(weights).digest()[:IDENTITY_BYTES]


def strength_plane(
    strengths: NDArray[np.float32], block_size: int, width: int, height: int, step: int = 1
) -> NDArray[np.float32]:
    """Spread the strengths of blocks of ``block_size`` to the positions of a (height, width) plane.

    step: of every so many rows and columns the first.
    """
    rows = np.minimum(np.arange(0, height, step) // block_size, strengths.shape[0] - 1)
    columns = np.minimum(np.arange(0, width, step) // block_size, strengths.shape[1] - 1)
    spread: NDArray[np.float32] = strengths[rows].take(columns, axis=1)
    return spread
