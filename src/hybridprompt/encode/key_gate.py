"""The gate of a picture alone: what serves it best, whatever is predicted from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hybridprompt.encode.blocks import BLOCK_LOG2
from hybridprompt.encode.judge import Judge, MapArray
from hybridprompt.encode.search import best_levels
from hybridprompt.encode.settings import GATE_UNIT
from hybridprompt.generator.base import Generator, Planes
from hybridprompt.prompt.sections import GateMap, grid_shape
from hybridprompt.video.picture import Picture


def key_gate(
    source: Picture,
    planes: Planes,
    quantiser: int,
    *,
    generator: Generator,
    judge: Judge,
    levels: Sequence[int],
) -> GateMap:
    """The gate that brings a picture nearest to its source, of strengths of 0 and levels / GATE_UNIT.

    planes: y (H, W), u and v (ceil(H/2), ceil(W/2)) uint8.  quantiser: what the generator is told.  Raises
    GeneratorError.
    """
    reference = judge.prepare(source)
    shape = grid_shape(source.width, source.height, BLOCK_LOG2)

    def distances(shown: Planes) -> MapArray:
        y, u, v = shown
        picture = Picture(y, u, v, source.pts, source.time_base, source.color)
        return judge.distance_map(picture, reference, 1 << BLOCK_LOG2)

    before = distances(planes)
    gains = {}
    for level in levels:
        strengths = np.full(shape, level / GATE_UNIT, np.float32)
        generated = generator.generate(
            planes, quantiser=quantiser, strengths=strengths, block_size=1 << BLOCK_LOG2
        )
        gains[level] = before - distances(generated)
    return best_levels(gains, before)
