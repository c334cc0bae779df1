"""A generator that remembers: trials of a GOP differ in one anchor, the others repeat."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from hybridprompt.generator.base import Generator, Planes

_CACHED_PICTURES = 12


class CachedGenerator:
    """Remembers the last pictures of another generator."""

    def __init__(self, inner: Generator, capacity: int = _CACHED_PICTURES) -> None:
        self._inner = inner
        self._capacity = capacity
        self._pictures: OrderedDict[bytes, Planes] = OrderedDict()
        self._adapted: tuple[bytes, CachedGenerator] | None = None

    @property
    def identity(self) -> bytes:
        return self._inner.identity

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def adapter_length(self) -> int:
        return self._inner.adapter_length

    def adapted(self, values: NDArray[np.int8]) -> CachedGenerator:
        """See Generator.adapted.  The last one is kept."""
        key = values.tobytes()
        if self._adapted is None or self._adapted[0] != key:
            self._adapted = key, CachedGenerator(self._inner.adapted(values), self._capacity)
        return self._adapted[1]

    def generate(
        self, planes: Planes, *, quantiser: int, strengths: NDArray[np.float32], block_size: int
    ) -> Planes:
        """Generate, or return what the same input gave before.  See Generator.generate."""
        digest = hashlib.blake2b(f"{quantiser}:{block_size}:{strengths.shape}".encode(), digest_size=16)
        for array in (strengths, *planes):
            digest.update(np.ascontiguousarray(array).data)
        key = digest.digest()
        if key in self._pictures:
            self._pictures.move_to_end(key)
            return self._pictures[key]
        made = self._inner.generate(planes, quantiser=quantiser, strengths=strengths, block_size=block_size)
        self._pictures[key] = made
        if len(self._pictures) > self._capacity:
            self._pictures.popitem(last=False)
        return made
