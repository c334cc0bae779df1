"""Decides, from real decodes, which pictures of a GOP become anchors, and where generation applies.

For an anchor the generator runs once per quantiser it may be told and per strength; the GOP is decoded with
the generated picture injected; a judge compares sampled frames, block by block, with the source.  Blocks that
got better make the gate.  The gated picture is decoded again, and the anchor is kept only if the frames that
follow really are closer to the source, by a margin.  Later anchors are decided on top of the earlier ones, so
that detail that the keyframe already brought is not piled up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hybridprompt.bitstream.obu import HeaderTracker
from hybridprompt.decode.headers import HeaderHistory, sequence_header
from hybridprompt.encode.judge import Judge, MapArray
from hybridprompt.encode.settings import Preset
from hybridprompt.errors import CodecError
from hybridprompt.generator.base import Generator, Planes
from hybridprompt.prompt.sections import GateMap, build_prompt, grid_shape
from hybridprompt.prompt.syntax import MAX_SIZE, MIN_SIZE, encode_prompt
from hybridprompt.video.av1_decoder import Av1Decoder, DecodedFrame
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.picture import Picture

BLOCK_LOG2 = 6
_BLOCK = 1 << BLOCK_LOG2
_MARGIN = 0.003
"""An anchor must lower the distance of the frames it serves by this share to be worth its bytes and time."""


@dataclass(frozen=True)
class Gop:
    """A coded GOP and, where there is one, its source.

    packets: in display order, each with one shown picture.  source: the source picture of a frame index.
    """

    packets: Sequence[CodedPacket]
    extradata: bytes | None
    time_base: Fraction
    source: Callable[[int], Picture]


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


@dataclass(frozen=True)
class _Attempt:
    """The whole picture generated at one strength, and what the frames it serves gained by it."""

    told: int
    level: int
    gain: MapArray
    planes: Planes
    trial: _Trial


def decode_samples(gop: Gop, injections: Mapping[int, Planes], wanted: Sequence[int]) -> dict[int, Picture]:
    """Decode the GOP with pictures injected; return copies of the ``wanted`` frames, after injection.

    Raises CodecError when the packets cannot be decoded or do not show a picture each.
    """
    out: dict[int, Picture] = {}
    with Av1Decoder(gop.extradata, time_base=gop.time_base, threads=2) as decoder:
        for index, packet in enumerate(gop.packets[: max(wanted) + 1]):
            frames = decoder.decode(packet.data, packet.pts)
            if len(frames) != 1:
                raise CodecError(f"packet {index} of a GOP shows {len(frames)} pictures, expected 1")
            if index in injections:
                frames[0].overwrite(*injections[index])
            if index in wanted:
                out[index] = frames[0].picture.copied()
    return out


def can_carry(frames: Sequence[DecodedFrame]) -> bool:
    """Whether a player could replace what a packet showed: one picture, 8-bit 4:2:0, without film grain."""
    if len(frames) != 1 or not frames[0].can_overwrite or frames[0].has_film_grain:
        return False
    picture = frames[0].picture
    return all(MIN_SIZE <= size <= MAX_SIZE for size in (picture.width, picture.height))


def sample_frames(count: int, frames: int, start: int = 0) -> list[int]:
    """``frames`` indices from ``start`` to ``count``: the anchor itself, then the middles of equal parts."""
    length = count - start
    if length <= frames:
        return list(range(start, count))
    parts = frames - 1
    return sorted({start, *(start + int((i + 0.5) * length / parts) for i in range(parts))})


def _area(width: int, height: int) -> NDArray[np.float64]:
    rows, columns = grid_shape(width, height, BLOCK_LOG2)
    heights = np.minimum(_BLOCK, height - np.arange(rows) * _BLOCK)
    widths = np.minimum(_BLOCK, width - np.arange(columns) * _BLOCK)
    area = heights[:, None] * widths[None].astype(np.float64)
    share: NDArray[np.float64] = area / area.sum()
    return share


def _smooth(values: MapArray) -> MapArray:
    """3x3 weighted mean with replicated edges: a decision per block is noisy, its neighbours know more."""
    padded = np.pad(values, 1, "edge")
    rows = 0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:]
    out: MapArray = 0.25 * rows[:, :-2] + 0.5 * rows[:, 1:-1] + 0.25 * rows[:, 2:]
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

    def decide(self) -> GopDecision:
        """Try anchors from the keyframe on; returns those that really help.

        Raises CodecError and BitstreamError when the packets cannot be decoded.
        """
        anchors: list[AnchorDecision] = []
        injections: dict[int, Planes] = {}
        samples = self._served(0)
        base = final = self._trial(injections, samples)
        area = self._frame_area
        for frame in self._candidates:
            served = self._served(frame)
            before = base if frame == 0 else self._trial(injections, served)
            found = self._best_anchor(frame, injections, served, before)
            if found is None:
                continue
            anchor, injections[frame], final = found
            anchors.append(anchor)
        if any(anchor.frame for anchor in anchors):
            final = self._trial(injections, samples)
        decision = GopDecision(tuple(anchors), base.mean(samples, area), final.mean(samples, area))
        if decision.distance > decision.base_distance:
            return GopDecision((), decision.base_distance, decision.base_distance)
        return decision

    def wanted_frames(self) -> list[int]:
        """Indices of all frames whose source `decide` may ask for.  Raises BitstreamError."""
        return sorted({f for anchor in (0, *self._candidates) for f in self._served(anchor)})

    @cached_property
    def _quantisers(self) -> dict[int, int]:
        return actual_quantisers(self.gop)

    @property
    def _candidates(self) -> list[int]:
        """The keyframe, and every ``anchor_interval``-th frame that is still a reference when it is shown."""
        count = len(self.gop.packets)
        frames = [0]
        if self.anchor_interval is not None:
            frames += range(self.anchor_interval, count - self.anchor_interval // 4, self.anchor_interval)
        return [frame for frame in frames if frame in self._quantisers]

    def _served(self, anchor: int) -> list[int]:
        return sample_frames(len(self.gop.packets), self.preset.sample_frames, anchor)

    @property
    def _frame_area(self) -> NDArray[np.float64]:
        picture = self.gop.source(0)
        return _area(picture.width, picture.height)

    def _trial(self, injections: Mapping[int, Planes], samples: Sequence[int]) -> _Trial:
        pictures = decode_samples(self.gop, injections, samples)
        # A prepared reference may be many times as large as its picture, so only the present ones are kept.
        self._references = {f: kept for f, kept in self._references.items() if f in pictures}
        return _Trial({f: self._map(f, p) for f, p in pictures.items()})

    def _map(self, frame: int, picture: Picture) -> MapArray:
        if frame not in self._references:
            self._references[frame] = self.judge.prepare(self.gop.source(frame))
        return self.judge.distance_map(picture, self._references[frame], _BLOCK)

    def _best_anchor(
        self, frame: int, injections: Mapping[int, Planes], served: Sequence[int], before: _Trial
    ) -> tuple[AnchorDecision, Planes, _Trial] | None:
        base = self._base_of(frame, injections)
        if base is None:
            return None
        width, height = base.width, base.height
        area = _area(width, height)
        levels = self.preset.gate_levels
        attempts = self._attempts(frame, base, injections, served, before)
        told = max(attempts, key=lambda attempt: float((attempt.gain * area).sum())).told
        chosen = [attempt for attempt in attempts if attempt.told == told]

        shape = grid_shape(width, height, BLOCK_LOG2)
        indices = np.stack([np.zeros(shape), *(_smooth(attempt.gain) for attempt in chosen)]).argmax(0)
        candidates: list[tuple[GateMap, Planes, _Trial]] = []
        for attempt in chosen:
            uniform = GateMap(BLOCK_LOG2, levels, np.full(shape, attempt.level, np.uint8))
            candidates.append((uniform, attempt.planes, attempt.trial))
        if len(np.unique(indices)) > 1:
            gate = GateMap(BLOCK_LOG2, levels, indices.astype(np.uint8))
            planes = self._generate(base, told, gate.strengths())
            candidates.append((gate, planes, self._trial({**injections, frame: planes}, served)))
        gate, planes, trial = min(candidates, key=lambda candidate: candidate[2].mean(served, area))
        if trial.mean(served, area) >= before.mean(served, area) * (1 - _MARGIN):
            return None
        prompt = build_prompt(self.generator.identity, width, height, told, gate)
        coverage = float((gate.strengths() * area).sum())
        return AnchorDecision(frame, encode_prompt(prompt), coverage, told), planes, trial

    def _attempts(
        self,
        frame: int,
        base: Picture,
        injections: Mapping[int, Planes],
        served: Sequence[int],
        before: _Trial,
    ) -> list[_Attempt]:
        """Generate the whole picture per told quantiser and strength, and see how much closer blocks get."""
        shape = grid_shape(base.width, base.height, BLOCK_LOG2)
        attempts = []
        for offset in self.preset.quantiser_offsets:
            told = int(np.clip(self._quantisers[frame] + offset, 0, 255))
            for level in range(1, self.preset.gate_levels):
                gate = GateMap(BLOCK_LOG2, self.preset.gate_levels, np.full(shape, level, np.uint8))
                planes = self._generate(base, told, gate.strengths())
                trial = self._trial({**injections, frame: planes}, served)
                gain: MapArray = np.mean([before.maps[f] - trial.maps[f] for f in served], 0)
                attempts.append(_Attempt(told, level, gain, planes, trial))
        return attempts

    def _generate(self, base: Picture, told: int, strengths: NDArray[np.float32]) -> Planes:
        return self.generator.generate(base.planes, quantiser=told, strengths=strengths, block_size=_BLOCK)

    def _base_of(self, frame: int, injections: Mapping[int, Planes]) -> Picture | None:
        """The picture that the generator meets there, or None where a player could not replace it."""
        with Av1Decoder(self.gop.extradata, time_base=self.gop.time_base, threads=2) as decoder:
            for index, packet in enumerate(self.gop.packets[: frame + 1]):
                frames = decoder.decode(packet.data, packet.pts)
                if index in injections:
                    frames[0].overwrite(*injections[index])
            return frames[0].picture.copied() if can_carry(frames) else None


def actual_quantisers(gop: Gop) -> dict[int, int]:
    """base_q_idx of every frame that can be an anchor: the keyframe, and what is a reference when shown.

    A frame that SVT-AV1 codes ahead is shown by ``show_existing_frame`` while its slot still holds it; what
    is decoded next predicts from it.  A picture that was shown before cannot be an anchor: a player has given
    it away.  Raises BitstreamError.
    """
    tracker = HeaderTracker(sequence_header(gop.extradata))
    history = HeaderHistory(gop.extradata)
    out: dict[int, int] = {}
    for index, packet in enumerate(gop.packets):
        history.append(packet.data)
        for header in tracker.parse(packet.data):
            is_reference = index == 0 or header.show_existing_frame or header.refresh_frame_flags
            if header.shown and is_reference and not history.last_shown().is_repeat:
                out[index] = header.base_q_idx
    return out
