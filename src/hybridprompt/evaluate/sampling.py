"""Which frames of many are looked at."""

from __future__ import annotations


def sample_frames(count: int, frames: int, start: int = 0) -> list[int]:
    """``frames`` indices from ``start`` to ``count``: the middles of equal parts, so that none stands out.

    All of them where there are not more.
    """
    length = max(count - start, 0)
    parts = min(frames, length)
    return [start + int((i + 0.5) * length / parts) for i in range(parts)]
