"""What is made once for a GOP, which rate control encodes repeatedly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class LastTwo(Generic[K, V]):
    """Remembers what was made for the last two keys: of each of the two GOPs that are under way at a time.

    Two threads may ask at once.
    """

    def __init__(self) -> None:
        self._kept: dict[K, tuple[V]] = {}

    def get(self, key: K, make: Callable[[], V]) -> V:
        """What was made for a key, or is made now."""
        found = self._kept.get(key)
        if found is None:
            found = (make(),)
            # The other thread may have put its own there meanwhile, or taken one away.
            for old in list(self._kept)[:-1]:
                self._kept.pop(old, None)
            self._kept[key] = found
        return found[0]
