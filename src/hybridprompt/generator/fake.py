"""A generator without a network, for tests of everything around it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hybridprompt.errors import GeneratorError
from hybridprompt.generator.base import Planes, strength_plane


class FakeGenerator:
    """Adds a fixed luma offset, scaled by the gate: fast, exact, easy to recognise in decoded pictures."""

    def __init__(self, offset: int = 20, identity: bytes = b"fakefake") -> None:
        self._offset = offset
        self._identity = identity

    @property
    def identity(self) -> bytes:
        return self._identity

    @property
    def name(self) -> str:
        return "fake"

    @property
    def adapter_length(self) -> int:
        return 1

    def generate(
        self, planes: Planes, *, quantiser: int, strengths: NDArray[np.float32], block_size: int
    ) -> Planes:
        """Return luma + offset * strength, clipped; chroma as it is."""
        y, u, v = planes
        change = strength_plane(strengths, block_size, y.shape[1], y.shape[0]) * self._offset
        return np.clip(np.rint(y + change), 0, 255).astype(np.uint8), u.copy(), v.copy()

    def adapted(self, values: NDArray[np.int8]) -> FakeGenerator:
        """Return one whose offset is larger by the one value.  Raises GeneratorError for another number."""
        if values.shape != (1,):
            raise GeneratorError(f"an adapter of {values.size} values, expected 1")
        return FakeGenerator(self._offset + int(values[0]), self._identity)
