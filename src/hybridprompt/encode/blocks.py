"""Arithmetic on what is known per block of a picture: shares of its area, smoothing, gates of strengths."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hybridprompt.encode.judge import MapArray
from hybridprompt.encode.settings import GATE_LEVELS, GATE_UNIT
from hybridprompt.prompt.gate import GateMap, grid_shape

BLOCK_LOG2 = 6
"""Of the blocks that are judged, and of the gates that are searched for."""


def area_shares(width: int, height: int, block_log2: int = BLOCK_LOG2) -> NDArray[np.float64]:
    """What share of a picture every block covers: (rows, columns), sum 1; blocks at the edges may be cut."""
    block = 1 << block_log2
    rows, columns = grid_shape(width, height, block_log2)
    heights = np.minimum(block, height - np.arange(rows) * block)
    widths = np.minimum(block, width - np.arange(columns) * block)
    area = heights[:, None] * widths[None].astype(np.float64)
    share: NDArray[np.float64] = area / area.sum()
    return share


def smooth(values: MapArray) -> MapArray:
    """3x3 weighted mean with replicated edges: a decision per block is noisy, its neighbours know more."""
    padded = np.pad(values, 1, "edge")
    height, width = values.shape
    weights = (0.25, 0.5, 0.25)
    rows = np.stack([w * padded[i : i + height] for i, w in enumerate(weights)]).sum(0)
    out: MapArray = np.stack([w * rows[:, i : i + width] for i, w in enumerate(weights)]).sum(0)
    return out


def spread_from(values: MapArray, known: NDArray[np.bool_]) -> MapArray:
    """Values of the known blocks, and around them weighted means of the known neighbours.

    Note [Levels side by side].  A decode costs as much whether all blocks have one strength or neighbours
    have different ones, and what a block gains at some strength its neighbours gain about as well.  So one
    decode with the strengths laid out like a chessboard tells about all of them.
    """
    weights = smooth(known.astype(np.float64))
    spread: MapArray = np.where(weights > 0, smooth(values * known) / np.maximum(weights, 1e-9), 0.0)
    return np.where(known, values, spread)


def gate_map(indices: NDArray[np.uint8], block_log2: int = BLOCK_LOG2) -> GateMap:
    """The gate of strengths indices / GATE_UNIT, with no more levels than it needs."""
    levels = GATE_LEVELS if indices.max() > GATE_UNIT else GATE_UNIT + 1
    return GateMap(block_log2, levels, indices, GATE_UNIT)
