"""Strengths of anchors without a source: the less, the more of what they would add has arrived already.

Motion compensation brings what the generator added to earlier anchors to the later ones, in some blocks all
of it, in others none.  How much is measured: decoded with the earlier prompts and without, a later picture
differs by what arrived; the generator, given the picture without, tells what it would have added itself.  The
share of the second that is in the first, by least squares, need not be added again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hybridprompt.decode.injection import GeneratorLookup
from hybridprompt.encode.blocks import BLOCK_LOG2, area_shares
from hybridprompt.encode.cached_generator import CachedGenerator
from hybridprompt.encode.gate import AnchorDecision
from hybridprompt.encode.gop import Candidate, Gop
from hybridprompt.encode.trials import raise_if_generation_failed
from hybridprompt.errors import CodecError
from hybridprompt.generator.base import Generator, Planes
from hybridprompt.generator.registry import GeneratorRegistry
from hybridprompt.prompt.gate import GateMap, grid_shape
from hybridprompt.prompt.sections import build_prompt
from hybridprompt.prompt.syntax import Prompt, encode_prompt

_UNIT: Final = 8
"""Strengths are in steps of 1 / _UNIT."""

_LESS_WHERE_ARRIVED: Final = 0.75
"""By how much strength falls where all has arrived.  What arrives is blurred on the way, so that some more
still brings a picture nearer to its source; found with `benchmarks/studies/generator_gops.py`."""

_LEAST_CHANGE: Final = 1.0
"""Mean square, in levels, of a change that is none: its share would be one of noise."""


def share_arrived(arrived: NDArray[np.float32], whole: NDArray[np.float32]) -> NDArray[np.float64]:
    """How much of one change is in another, for every block of BLOCK_LOG2: (rows, columns), 0 to 1.

    arrived, whole: (height, width), differences of luma in levels.
    """
    both = _block_means(arrived * whole)
    share: NDArray[np.float64] = both / np.maximum(_block_means(whole * whole), _LEAST_CHANGE)
    return share.clip(0, 1)


def _block_means(values: NDArray[np.float32]) -> NDArray[np.float64]:
    block = 1 << BLOCK_LOG2
    height, width = values.shape
    rows, columns = np.arange(0, height, block), np.arange(0, width, block)
    sums = np.add.reduceat(np.add.reduceat(values.astype(np.float64), rows, 0), columns, 1)
    areas = np.diff(rows, append=height)[:, None] * np.diff(columns, append=width)[None]
    means: NDArray[np.float64] = sums / areas
    return means


def measured_anchors(
    gop: Gop, generator: Generator, candidates: Sequence[Candidate], width: int, height: int
) -> tuple[AnchorDecision, ...]:
    """Anchors of a GOP: the first one everywhere at strength 1, later ones as measured.

    candidates: in decoding order, the keyframe first.  Raises CodecError and BitstreamError when the packets
    cannot be decoded, GeneratorError when the generator fails.
    """
    generator = CachedGenerator(generator)
    generators = GeneratorRegistry([generator], shipped=False)
    ones = np.ones(grid_shape(width, height, BLOCK_LOG2), np.float32)
    shares = area_shares(width, height)
    later = [candidate.frame for candidate in candidates[1:]]
    plain = _planes(gop, {}, later, None, (width, height)) if later else {}
    prompts: dict[int, Prompt] = {}
    anchors = []
    for candidate in candidates:
        indices = np.full(ones.shape, _UNIT, np.uint8)
        if prompts:
            shown = _planes(gop, prompts, [candidate.frame], generators, (width, height))
            without = plain.pop(candidate.frame)
            made = generator.generate(
                without, quantiser=candidate.base_q_idx, strengths=ones, block_size=1 << BLOCK_LOG2
            )
            share = share_arrived(*(_change(planes, without) for planes in (shown[candidate.frame], made)))
            indices = np.rint(_UNIT * (1 - _LESS_WHERE_ARRIVED * share)).astype(np.uint8)
        gate = GateMap(BLOCK_LOG2, _UNIT + 1, indices)
        prompt = build_prompt(generator.identity, width, height, candidate.base_q_idx, gate)
        prompts[candidate.packet] = prompt
        coverage = float((gate.strengths() * shares).sum())
        anchors.append(
            AnchorDecision(
                candidate.packet, candidate.frame, encode_prompt(prompt), coverage, candidate.base_q_idx
            )
        )
    return tuple(anchors)


def _planes(
    gop: Gop,
    prompts: Mapping[int, Prompt],
    frames: Sequence[int],
    generators: GeneratorLookup | None,
    size: tuple[int, int],
) -> dict[int, Planes]:
    """Frames as they are decoded with these prompts, by packet; size: their width and height."""
    found = {}
    for frame, picture in gop.shown(
        prompts, frames, generators=generators, on_warning=raise_if_generation_failed
    ):
        if (picture.width, picture.height) != size:
            raise CodecError(f"frame {frame} of a GOP is of another size than its first one")
        found[frame] = picture.copied().planes
    return found


def _change(planes: Planes, before: Planes) -> NDArray[np.float32]:
    """Of luma."""
    return planes[0].astype(np.float32) - before[0]
