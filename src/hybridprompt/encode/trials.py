"""Trials of a GOP: decoded with chosen prompts by the decoder's own code, and judged against the source."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from hybridprompt.decode.warnings import DecodeWarning, WarningKind
from hybridprompt.encode.blocks import BLOCK_LOG2, area_shares
from hybridprompt.encode.cached_generator import CachedGenerator
from hybridprompt.encode.gop import Gop
from hybridprompt.encode.judge import Judge, MapArray
from hybridprompt.encode.operator.frame_map import even_part
from hybridprompt.encode.worth import at_equal_bytes
from hybridprompt.errors import GeneratorError
from hybridprompt.generator.base import Generator, Planes
from hybridprompt.generator.registry import GeneratorRegistry
from hybridprompt.prompt.gate import GateMap
from hybridprompt.prompt.sections import Adapter, build_prompt
from hybridprompt.prompt.syntax import Prompt, encode_prompt
from hybridprompt.video.picture import Picture
from hybridprompt.video.scaling import scaled

logger = logging.getLogger(__name__)

Maps = dict[int, MapArray]
"""Distance per block of BLOCK_LOG2, by frame."""

_MARGIN = 0.003
"""An anchor must lower the distance of the frames it serves by this share to be worth its bytes and time."""

_NEAR_ENOUGH = 0.005
"""A distance that nobody sees, of rendered text, say.  The frames that are judged would gain a few percent
of it by chance, which others lose."""


@dataclass(frozen=True)
class Choice:
    """What an anchor's prompt says."""

    quantiser: int
    gate: GateMap


class Trials:
    """Decodes one GOP again and again, each time with other prompts, and measures frames of it.

    Choices are given by the packets that code the anchors.  size: (width, height) of the pictures.  adapter:
    what the keyframe's prompt brings, if there is one.
    """

    def __init__(self, gop: Gop, generator: Generator, judge: Judge) -> None:
        first = gop.source(0)
        self.gop = gop
        self.size = (first.width, first.height)
        self.adapter: Adapter | None = None
        self._identity = generator.identity
        self._judge = judge
        self._shares = area_shares(*self.size)
        self._generators = GeneratorRegistry([CachedGenerator(generator)], shipped=False)
        self._references: dict[int, object] = {}

    def measure(self, choices: Mapping[int, Choice], frames: Collection[int]) -> Maps:
        """Decode with the chosen prompts and judge the frames, in display order.

        Raises CodecError and BitstreamError when the packets cannot be decoded or show none of those frames,
        GeneratorError when the generator fails.
        """
        more = not self._references.keys() >= set(frames)
        maps: Maps = {frame: self._map(frame, picture) for frame, picture in self._shown(choices, frames)}
        if more:
            # A prepared reference may be many times as large as its picture: only the present ones are kept.
            self._references = {frame: kept for frame, kept in self._references.items() if frame in maps}
        return maps

    def planes(self, choices: Mapping[int, Choice], frames: Collection[int]) -> dict[int, Planes]:
        """Decode with the chosen prompts; copy the even parts of frames.  Raises as `measure` does."""
        shown = self._shown(choices, frames)
        return {frame: even_part(picture.copied().planes) for frame, picture in shown}

    def source_planes(self, frame: int) -> Planes:
        """The even part of a frame's source."""
        return even_part(self.gop.source(frame).planes)

    def mean(self, maps: Maps) -> float:
        """Mean distance of all measured frames."""
        return float(np.mean([(blocks * self._shares).sum() for blocks in maps.values()]))

    def cost(self, choices: Mapping[int, Choice], maps: Maps, worth: float) -> float:
        """Log of the mean distance, with the bytes of the prompts that these choices are, at equal bytes.

        worth: of bytes, see worth.WORTH_OF_BYTES.
        """
        size_bytes = self.gop.size_bytes
        if choices:
            prompts = [encode_prompt(self.prompt(packet, choice)) for packet, choice in choices.items()]
            size_bytes += sum(map(len, prompts)) - self.gop.still_bytes
        return at_equal_bytes(self.mean(maps), size_bytes, worth)

    def coverage(self, gate: GateMap) -> float:
        """Mean strength of a gate, weighted by area."""
        return float((gate.strengths() * area_shares(*self.size, gate.block_log2)).sum())

    def prompt(self, packet: int, choice: Choice) -> Prompt:
        """The prompt that says this.  Raises BitstreamError for a size that prompts cannot name."""
        still, adapter = (self.gop.still, self.adapter) if packet == 0 else (None, None)
        return build_prompt(self._identity, *self.size, choice.quantiser, choice.gate, still, adapter)

    def _shown(self, choices: Mapping[int, Choice], frames: Collection[int]) -> Iterator[tuple[int, Picture]]:
        prompts = {packet: self.prompt(packet, choice) for packet, choice in choices.items()}
        return self.gop.shown(
            prompts, frames, generators=self._generators, on_warning=raise_if_generation_failed
        )

    def _map(self, frame: int, picture: Picture) -> MapArray:
        if frame not in self._references:
            self._references[frame] = self._judge.prepare(self.gop.source(frame))
        return self._judge.distance_map(picture, self._references[frame], 1 << BLOCK_LOG2)


def pays_off(distance: float, before: float) -> bool:
    """Whether prompts that bring the distance down from ``before`` are worth their bytes and time."""
    return before > _NEAR_ENOUGH and distance < before * (1 - _MARGIN)


def base_distance(
    gop: Gop,
    judge: Judge,
    frames: Collection[int],
    sources: Callable[[int], Picture] | None = None,
) -> float:
    """The judge's mean distance of frames of a GOP, decoded without prompts, from the source.

    sources: larger pictures, by frame, to which what is decoded is scaled, in place of the GOP's own.
    Raises CodecError when the packets cannot be decoded.
    """
    distances = []
    for frame, picture in gop.shown({}, frames, generators=None, on_warning=_log):
        source = (sources or gop.source)(frame)
        if sources is not None:
            picture = scaled(picture, source.width, source.height)
        blocks = judge.distance_map(picture, judge.prepare(source), 1 << BLOCK_LOG2)
        distances.append(float((blocks * area_shares(source.width, source.height)).sum()))
    return float(np.mean(distances))


def _log(warning: DecodeWarning) -> None:
    logger.debug("%s", warning)


def raise_if_generation_failed(warning: DecodeWarning) -> None:
    if warning.kind is WarningKind.GENERATION_FAILED:
        raise GeneratorError(warning.message)
    _log(warning)
