"""The buffer of a client that receives at a limited rate."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class RateBuffer:
    """A leaky bucket (a VBV that counts GOPs): what is sent runs ahead of the maximum rate by what it holds.

    The bytes of a GOP are all that is sent for it: base, prompts and sound.
    max_kbps: at which it drains.  seconds: of that rate that it holds.  Unless there are `overflows`, any run
    of GOPs of together T seconds has at most max_kbps * (T + seconds) kbit, and a client that has filled its
    buffer does not wait.
    """

    max_kbps: float
    seconds: float
    _sizes: dict[int, tuple[float, float]] = field(default_factory=dict)
    """GOP -> bytes, seconds."""

    @property
    def _bytes_per_second(self) -> float:
        return self.max_kbps * 125

    def _level(self, before: int) -> float:
        """Bytes that are in the bucket when a GOP comes."""
        level = 0.0
        for gop in range(before):
            size, seconds = self._sizes.get(gop, (0.0, 0.0))
            level = max(level + size - seconds * self._bytes_per_second, 0.0)
        return level

    def room(self, gop: int, seconds: float) -> float:
        """Bytes that a GOP of some seconds may have, after those before it."""
        return self._bytes_per_second * (seconds + self.seconds) - self._level(gop)

    def record(self, gop: int, size_bytes: float, seconds: float) -> None:
        """Tell what a GOP takes."""
        self._sizes[gop] = size_bytes, seconds

    def overflows(self) -> dict[int, float]:
        """GOPs for which there was no room -> the bytes that had none."""
        over = {gop: size - self.room(gop, seconds) for gop, (size, seconds) in sorted(self._sizes.items())}
        return {gop: excess for gop, excess in over.items() if excess > 0}
