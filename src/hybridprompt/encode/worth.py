"""What bytes are worth: how distances at different numbers of bytes compare."""

from __future__ import annotations

import math
from typing import Final

WORTH_OF_BYTES: Final = 0.95
"""By how much the log of the distance falls as that of the bytes rises, at the rates this is made for."""


def at_equal_bytes(distance: float, size_bytes: int, worth: float = WORTH_OF_BYTES) -> float:
    """Log of a distance from the source, as it would be at some number of bytes, the same for all."""
    return math.log(max(distance, 1e-9)) + worth * math.log(max(size_bytes, 1))
