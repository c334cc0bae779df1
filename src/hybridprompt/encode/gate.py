"""Decides, from real decodes, which pictures of a GOP become anchors, and where generation applies.

For an anchor the generator runs at full strength once per quantiser it may be told; the GOP is decoded with the
generated picture injected; a judge compares sampled frames, block by block, with the source.  Blocks that got better
make the gate.  The gated picture is decoded again, and the anchor is kept only if the frames that follow really are
closer to the source, by a margin.  Later anchors are decided on top of the earlier ones, so that detail that the
keyframe already brought is not piled up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from hybridprompt.bitstream.obu import HeaderTracker
from hybridprompt.encode.judge import Judge, MapArray
from hybridprompt.encode.settings import Preset
from hybridprompt.generator.base import Generator, Planes
from hybridprompt.prompt.sections import GateMap, build_prompt, grid_shape
from hybridprompt.prompt.syntax import encode_prompt
from hybridprompt.video.av1_decoder import Av1Decoder
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.picture import Picture

BLOCK_LOG2 = 6
_MARGIN = 0.003
"""An anchor must lower the distance of the frames it serves by this share to be worth its bytes and time."""


@dataclass(frozen=True)
class Gop:
    """A coded GOP: its packets (one shown picture each, in display order) and, where there is one, its source."""

    packets: Sequence[CodedPacket]
    extradata: bytes | None
    time_base: Fraction
    source: Callable[[int], Picture]
    """The source picture of a frame index."""


@dataclass(frozen=True)
class AnchorDecision:
    """One anchor of a GOP."""

    frame: int
    prompt_bytes: bytes
    coverage: float
    quantiser: int


@dataclass(frozen=True)
class GopDecision:
    """Anchors of a GOP, and the judge's mean distance of the sampled frames, base and with the anchors."""

    anchors: tuple[AnchorDecision, ...]
    base_distance: float
    distance: float


@dataclass
class _Trial:
    """One decode: the sampled pictures' distance maps."""

    maps: dict[int, MapArray]

    def mean(self, frames: Sequence[int], area: NDArray[np.float64]) -> float:
        return float(np.mean([(self.maps[f] * area).sum() for f in frames]))


def decode_samples(
    gop: Gop, injections: Mapping[int, Planes], wanted: Sequence[int], *, until: int | None = None
) -> dict[int, Picture]:
    """Decode the GOP with pictures injected and return copies of the ``wanted`` frames (after injection)."""
    last = max(wanted) if until is None else until
    out: dict[int, Picture] = {}
    with Av1Decoder(gop.extradata, time_base=gop.time_base, threads=2) as decoder:
        for index, packet in enumerate(gop.packets[: last + 1]):
            for frame in decoder.decode(packet.data, packet.pts):
                if index in injections:
                    frame.overwrite(*injections[index])
                if index in wanted:
                    out[index] = frame.picture.copied()
    return out


def sample_frames(count: int, frames: int, start: int = 0) -> list[int]:
    """``frames`` indices from ``start`` to ``count``: the anchor itself, then the middles of equal parts."""
    length = count - start
    if length <= frames:
        return list(range(start, count))
    parts = frames - 1
    return sorted({start, *(start + int((i + 0.5) * length / parts) for i in range(parts))})


def _area(width: int, height: int) -> NDArray[np.float64]:
    block = 1 << BLOCK_LOG2
    rows, columns = grid_shape(width, height, BLOCK_LOG2)
    heights = np.minimum(block, height - np.arange(rows) * block)
    widths = np.minimum(block, width - np.arange(columns) * block)
    area = heights[:, None] * widths[None].astype(np.float64)
    return area / area.sum()


def _smooth(values: MapArray) -> MapArray:
    """3x3 weighted mean with replicated edges: a decision per block is noisy, its neighbours know more."""
    padded = np.pad(values, 1, "edge")
    weights = (0.25, 0.5, 0.25)
    rows = sum(w * padded[i : i + values.shape[0]] for i, w in enumerate(weights))
    out: MapArray = sum(w * rows[:, i : i + values.shape[1]] for i, w in enumerate(weights))  # type: ignore[index, misc]
    return out


@dataclass
class GopGate:
    """Decides the anchors of one GOP."""

    gop: Gop
    generator: Generator
    judge: Judge
    preset: Preset
    anchor_interval: int | None
    _references: dict[int, object] = field(default_factory=dict)
    _quantisers: dict[int, int] = field(default_factory=dict)

    def decide(self) -> GopDecision:
        """Try anchors from the keyframe on; returns those that really help."""
        self._quantisers = actual_quantisers(self.gop)
        count = len(self.gop.packets)
        anchors: list[AnchorDecision] = []
        injections: dict[int, Planes] = {}
        samples = sample_frames(count, self.preset.sample_frames)
        base = final = self._trial(injections, samples)
        area = self._frame_area
        for frame in self._candidates(count):
            served = sample_frames(count, self.preset.sample_frames, frame)
            before = base if frame == 0 else self._trial(injections, served)
            found = self._best_anchor(frame, injections, served, before)
            if found is None:
                continue
            anchor, planes, final = found
            anchors.append(anchor)
            injections[frame] = planes
        if any(anchor.frame for anchor in anchors):
            final = self._trial(injections, samples)
        decision = GopDecision(tuple(anchors), base.mean(samples, area), final.mean(samples, area))
        if decision.distance > decision.base_distance:
            return GopDecision((), decision.base_distance, decision.base_distance)
        return decision

    def _candidates(self, count: int) -> list[int]:
        """The keyframe, and every ``anchor_interval``-th frame that is still a reference when it is shown."""
        if self.anchor_interval is None:
            return [0]
        later = range(self.anchor_interval, count - self.anchor_interval // 4, self.anchor_interval)
        return [0, *(frame for frame in later if frame in self._quantisers)]

    @property
    def _frame_area(self) -> NDArray[np.float64]:
        picture = self.gop.source(0)
        return _area(picture.width, picture.height)

    def _trial(self, injections: Mapping[int, Planes], samples: Sequence[int]) -> _Trial:
        pictures = decode_samples(self.gop, injections, samples)
        return _Trial({f: self._map(f, p) for f, p in pictures.items()})

    def _map(self, frame: int, picture: Picture) -> MapArray:
        if frame not in self._references:
            self._references[frame] = self.judge.prepare(self.gop.source(frame))
        return self.judge.distance_map(picture, self._references[frame], 1 << BLOCK_LOG2)

    def _best_anchor(
        self, frame: int, injections: Mapping[int, Planes], served: Sequence[int], before: _Trial
    ) -> tuple[AnchorDecision, Planes, _Trial] | None:
        reference = decode_samples(self.gop, injections, [frame])[frame]
        width, height = reference.width, reference.height
        area = _area(width, height)
        planes = reference.planes
        actual = self._quantisers[frame]
        shape = grid_shape(width, height, BLOCK_LOG2)
        block = 1 << BLOCK_LOG2

        # Per told quantiser and strength: how much closer every block gets, over the frames it serves.
        gains: list[tuple[int, float, MapArray, _Trial, Planes]] = []
        strengths = np.linspace(0, 1, self.preset.gate_levels)[1:]
        for offset in self.preset.quantiser_offsets:
            told = int(np.clip(actual + offset, 0, 255))
            for strength in strengths:
                gate = np.full(shape, strength, np.float32)
                generated = self.generator.generate(planes, quantiser=told, strengths=gate, block_size=block)
                trial = self._trial({**injections, frame: generated}, served)
                gain = np.mean([before.maps[f] - trial.maps[f] for f in served], 0)
                gains.append((told, float(strength), gain, trial, generated))
        told = max({g[0] for g in gains}, key=lambda q: max(float((g[2] * area).sum()) for g in gains if g[0] == q))
        chosen = [g for g in gains if g[0] == told]

        stack = np.stack([np.zeros(shape), *(_smooth(g[2]) for g in chosen)])
        indices = stack.argmax(0).astype(np.uint8)
        candidates: list[tuple[GateMap, Planes, _Trial]] = []
        for level, (_, _, _, trial, generated) in enumerate(chosen, 1):
            uniform = GateMap(BLOCK_LOG2, self.preset.gate_levels, np.full(shape, level, np.uint8))
            candidates.append((uniform, generated, trial))
        if len(np.unique(indices)) > 1:
            gate_map = GateMap(BLOCK_LOG2, self.preset.gate_levels, indices)
            generated = self.generator.generate(
                planes, quantiser=told, strengths=gate_map.strengths(), block_size=block
            )
            candidates.append((gate_map, generated, self._trial({**injections, frame: generated}, served)))
        gate_map, generated, trial = min(candidates, key=lambda c: c[2].mean(served, area))
        if trial.mean(served, area) > before.mean(served, area) * (1 - _MARGIN):
            return None
        prompt = build_prompt(self.generator.identity, width, height, told, gate_map)
        coverage = float((gate_map.strengths() * area).sum())
        return AnchorDecision(frame, encode_prompt(prompt), coverage, told), generated, trial


def actual_quantisers(gop: Gop) -> dict[int, int]:
    """base_q_idx of every frame that can be an anchor: the keyframe, and frames that stay references when shown.

    A frame that SVT-AV1 codes ahead is shown by ``show_existing_frame`` while its slot still holds it; what is
    decoded next predicts from it.
    """
    tracker = HeaderTracker()
    out: dict[int, int] = {}
    for index, packet in enumerate(gop.packets):
        for header in tracker.parse(packet.data):
            if header.shown and (index == 0 or header.show_existing_frame or header.refresh_frame_flags):
                out[index] = header.base_q_idx
    return out
