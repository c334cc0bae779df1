"""Finding the encode with the most bytes within a target: a search over an encoder's own steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from hybridprompt.errors import CodecError

TOLERANCE = 0.02
"""A match has at most this share of bytes less than the target, and none more."""

MAX_ENCODES = 9

_FLOOR_LOG = 0.1

ParameterKind = Literal["crf", "bitrate_kbps"]


@dataclass(frozen=True)
class Grid:
    """The steps of an encoder's parameter, by index: bytes fall (all but steadily) as the index rises.

    kind: what `value` gives.  A CRF is ``origin + step * index``; a bitrate falls by the share ``step`` with
    every index, from ``origin`` kbit/s on.  low, high: the range of the index.  slope: typical change of the
    log of the bytes per index, until two encodes have told it.  finest_jump: how many indices the search goes
    towards finer encodes at a time, since far too fine ones take long.
    """

    kind: ParameterKind
    origin: float
    step: float
    low: int
    high: int
    slope: float
    finest_jump: int

    def value(self, index: int) -> float:
        """The parameter at an index."""
        if self.kind == "crf":
            return self.origin + self.step * index
        return round(self.origin * (1 - self.step) ** index, 3)

    def index(self, value: float) -> int:
        """The index whose parameter is nearest to ``value``."""
        if self.kind == "crf":
            found = round((value - self.origin) / self.step)
        else:
            found = round(math.log(value / self.origin) / math.log(1 - self.step))
        return min(max(found, self.low), self.high)


def crf_grid(low: float, high: float, step: float, *, slope: float, finest_jump: float) -> Grid:
    """Grid of CRFs; ``slope`` and ``finest_jump`` are per CRF."""
    return Grid(
        "crf", low, step, 0, round((high - low) / step), slope * step, max(round(finest_jump / step), 1)
    )


def bitrate_grid() -> Grid:
    """Grid of bitrates in steps of 0.5 %, from 90 Mbit/s down to 5.2 kbit/s."""
    return Grid("bitrate_kbps", 1000.0, 0.005, -900, 1049, math.log(1 - 0.005), 400)


@dataclass(frozen=True)
class Match:
    """The largest encode that is not above the target.  encodes: how many this search has asked for."""

    index: int
    size_bytes: int
    encodes: int
    matched: bool


def match_from_below(
    size_of: Callable[[int], int],
    target_bytes: float,
    grid: Grid,
    known: dict[int, int],
    *,
    first: int,
    tolerance: float = TOLERANCE,
    max_encodes: int = MAX_ENCODES,
) -> Match:
    """Find the index with the most bytes that has at most ``target_bytes``.

    size_of: encodes at an index and returns the bytes.  known: bytes by index from earlier searches, used and
    added to.  first: where to begin if nothing is known.  Ends at a match, when no step is left between too
    many and too few bytes, or after ``max_encodes``; then the largest below the target is taken, unmatched.
    Raises CodecError when nothing tried is small enough.
    """
    encodes = 0
    start = min(max(first, grid.low), grid.high)
    while encodes < max_encodes and _best(known, target_bytes, tolerance) is None:
        # One that is asked for a rate mostly meets it; what it made of other rates tells less.
        asks = not known or (grid.kind == "bitrate_kbps" and encodes == 0 and start not in known)
        following = start if asks else _next(known, target_bytes, grid)
        if following is None:
            break
        if (
            grid.kind == "crf"
            and encodes == max_encodes - 1
            and not any(b <= target_bytes for b in known.values())
        ):
            # Better far below than nothing; and if not even that, it is certain.
            following = grid.high
        known[following] = size_of(following)
        encodes += 1
    below = {index: size for index, size in known.items() if size <= target_bytes}
    if not below:
        smallest = min(known.values(), default=0)
        raise CodecError(
            f"{target_bytes:.0f} bytes are out of reach: the smallest of {len(known)} encodes has {smallest}"
        )
    # Of several of one size the first in order, so that the choice does not depend on the history.
    index = min(below, key=lambda i: (-below[i], i))
    return Match(index, below[index], encodes, below[index] >= target_bytes * (1 - tolerance))


def _best(known: dict[int, int], target_bytes: float, tolerance: float) -> int | None:
    good = [i for i, size in known.items() if target_bytes * (1 - tolerance) <= size <= target_bytes]
    return min(good, default=None)


def _next(known: dict[int, int], target_bytes: float, grid: Grid) -> int | None:
    """Where to look next, strictly between what is known to be too large and too small; None if nowhere."""
    coarse = min((i for i, size in known.items() if size <= target_bytes), default=None)
    fine = max(
        (i for i, size in known.items() if size > target_bytes and (coarse is None or i < coarse)),
        default=None,
    )
    if coarse is not None and fine is None and coarse == grid.low:
        return None
    low = grid.low if fine is None else fine + 1
    high = grid.high if coarse is None else coarse - 1
    if low > high:
        return None
    aim = math.log(target_bytes * (1 - TOLERANCE / 2))
    if fine is not None and coarse is not None:
        return min(max(_between(known, fine, coarse, aim), low), high)
    if fine is not None and _at_floor(known, fine, grid):
        return None
    anchor = coarse if fine is None else fine
    assert anchor is not None
    jump = round((aim - _log(known[anchor])) / _slope(known, anchor, grid))
    # Never stand still; never run away to the finest encodes on a slope that is a guess, but do overtake a
    # target that keeps ahead: far too coarse an encode costs little.
    jump = max(min(jump, -1), -grid.finest_jump) if fine is None else max(jump, 1) * min(len(known), 3)
    return min(max(anchor + jump, low), high)


def _at_floor(known: dict[int, int], fine: int, grid: Grid) -> bool:
    """Whether asking for a tenth less has changed nothing at all: an encoder at the end of its own range."""
    return any(
        size == known[fine] and (index - fine) * grid.slope >= _FLOOR_LOG for index, size in known.items()
    )


def _between(known: dict[int, int], fine: int, coarse: int, aim: float) -> int:
    """Regula falsi on log bytes, kept off the ends, so that the bracket shrinks from both sides."""
    start, end = _log(known[fine]), _log(known[coarse])
    share = 0.5 if start <= end else min(max((start - aim) / (start - end), 0.1), 0.9)
    return fine + round(share * (coarse - fine))


def _slope(known: dict[int, int], anchor: int, grid: Grid) -> float:
    others = [i for i in known if i != anchor]
    if not others:
        return grid.slope
    nearest = min(others, key=lambda i: abs(i - anchor))
    measured = (_log(known[nearest]) - _log(known[anchor])) / (nearest - anchor)
    # A flat stretch of noise must not send the search to the other end.
    return min(max(measured, 3 * grid.slope), grid.slope / 3)


def _log(size_bytes: int) -> float:
    return math.log(max(size_bytes, 1))
