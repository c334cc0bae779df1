"""Decides, from real decodes, which pictures of a GOP become anchors, and where generation applies.

Candidates are the keyframe and the base pictures of later mini-GOPs.  A trial is a set of prompts: the GOP is
decoded with them by the decoder's own code, and a judge compares sampled frames, block by block, with the
source.  Blocks that got better make an anchor's gate.  What is kept is always the set of prompts whose real
decode was closest to the source; an empty set is one of them.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hybridprompt.bitstream.obu import FrameHeader, HeaderTracker
from hybridprompt.decode.headers import sequence_header
from hybridprompt.decode.injection import GopDecoding, GopPicture, decode_gop
from hybridprompt.decode.warnings import DecodeWarning, WarningKind
from hybridprompt.encode.judge import Judge, MapArray
from hybridprompt.encode.settings import GATE_LEVELS, GATE_UNIT, FitSettings, Preset
from hybridprompt.errors import CodecError, GeneratorError
from hybridprompt.generator.base import Generator, Planes
from hybridprompt.generator.registry import GeneratorRegistry
from hybridprompt.prompt.sections import GateMap, build_prompt, grid_shape
from hybridprompt.prompt.syntax import MAX_SIZE, MIN_SIZE, Prompt, encode_prompt
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.packet_decoder import DecodedFrame
from hybridprompt.video.picture import Picture

if TYPE_CHECKING:
    from hybridprompt.encode.fit import Response, StrengthFitter

logger = logging.getLogger(__name__)

BLOCK_LOG2 = 6
_MARGIN = 0.003
"""An anchor must lower the distance of the frames it serves by this share to be worth its bytes and time."""

_PRICE = 0.04
"""Note [Price of strength]: the judge is one network, and part of what it calls a gain at full strength is
not one to others: measured through whole GOPs, LPIPS-VGG moves some four points less than LPIPS-Alex.  So a
block must gain this share of its distance, times its strength, before it counts as better."""

_CACHED_PICTURES = 12


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
class Candidate:
    """A picture that can be an anchor: the packet that codes it, the frame that shows it, its base_q_idx."""

    packet: int
    frame: int
    base_q_idx: int


@dataclass(frozen=True)
class AnchorDecision:
    """One anchor of a GOP; ``coverage`` is the gate's mean strength."""

    packet: int
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


class CachedGenerator:
    """Remembers the last pictures of another generator: trials differ in one anchor, the others repeat."""

    def __init__(self, inner: Generator, capacity: int = _CACHED_PICTURES) -> None:
        self._inner = inner
        self._capacity = capacity
        self._pictures: OrderedDict[bytes, Planes] = OrderedDict()

    @property
    def identity(self) -> bytes:
        return self._inner.identity

    @property
    def name(self) -> str:
        return self._inner.name

    def generate(
        self, planes: Planes, *, quantiser: int, strengths: NDArray[np.float32], block_size: int
    ) -> Planes:
        """Generate, or return what the same input gave before.  See Generator.generate."""
        digest = hashlib.blake2b(f"{quantiser}:{block_size}:{strengths.shape}".encode(), digest_size=16)
        for array in (strengths, *planes):
            digest.update(np.ascontiguousarray(array).data)
        key = digest.digest()
        if key in self._pictures:
            self._pictures.move_to_end(key)
            return self._pictures[key]
        made = self._inner.generate(planes, quantiser=quantiser, strengths=strengths, block_size=block_size)
        self._pictures[key] = made
        if len(self._pictures) > self._capacity:
            self._pictures.popitem(last=False)
        return made


def sample_frames(count: int, frames: int, start: int = 0) -> list[int]:
    """``frames`` indices from ``start`` to ``count``: the middles of equal parts, so that none stands out."""
    length = count - start
    if length <= frames:
        return list(range(start, count))
    return sorted({start + int((i + 0.5) * length / frames) for i in range(frames)})


def find_candidates(gop: Gop, anchor_interval: int | None) -> list[Candidate]:
    """The keyframe, and every ``anchor_interval`` frames the base picture of a mini-GOP.

    A base picture is coded, hidden, in the packet that shows the first picture of its mini-GOP, and is shown
    later.
    """
    tracker = HeaderTracker(sequence_header(gop.extradata))
    out: list[Candidate] = []
    for index, packet in enumerate(gop.packets):
        headers = tracker.parse(packet.data)
        if not headers:
            continue
        if index == 0:
            out.append(Candidate(0, 0, headers[0].base_q_idx))
        elif anchor_interval is not None and _is_hidden_base(headers):
            bits = tracker.sequence_header.order_hint_bits if tracker.sequence_header is not None else 0
            shown = next((h for h in headers if h.shown), headers[-1])
            ahead = (headers[0].order_hint - shown.order_hint) % (1 << bits) if bits else 0
            frame = index + ahead
            # One that is shown soon, or near the end, serves too few frames to be worth a generator run.
            far = frame - out[-1].frame >= anchor_interval - anchor_interval // 4
            if ahead >= 4 and far and frame < len(gop.packets) - anchor_interval // 4:
                out.append(Candidate(index, frame, headers[0].base_q_idx))
    return out


def can_carry(frames: Sequence[DecodedFrame]) -> bool:
    """Whether a player could replace what a packet showed: one picture, 8-bit 4:2:0, without film grain."""
    if len(frames) != 1 or not frames[0].can_overwrite or frames[0].has_film_grain:
        return False
    picture = frames[0].picture
    return all(MIN_SIZE <= size <= MAX_SIZE for size in (picture.width, picture.height))


def _is_hidden_base(headers: Sequence[FrameHeader]) -> bool:
    return not headers[0].shown and headers[0].refresh_frame_flags != 0 and not headers[0].is_intra


def _raise_if_generation_failed(warning: DecodeWarning) -> None:
    if warning.kind is WarningKind.GENERATION_FAILED:
        raise GeneratorError(warning.message)
    logger.debug("%s", warning)


def _area(width: int, height: int, block_log2: int = BLOCK_LOG2) -> NDArray[np.float64]:
    block = 1 << block_log2
    rows, columns = grid_shape(width, height, block_log2)
    heights = np.minimum(block, height - np.arange(rows) * block)
    widths = np.minimum(block, width - np.arange(columns) * block)
    area = heights[:, None] * widths[None].astype(np.float64)
    share: NDArray[np.float64] = area / area.sum()
    return share


def _smooth(values: MapArray) -> MapArray:
    """3x3 weighted mean with replicated edges: a decision per block is noisy, its neighbours know more."""
    padded = np.pad(values, 1, "edge")
    height, width = values.shape
    weights = (0.25, 0.5, 0.25)
    rows = np.stack([w * padded[i : i + height] for i, w in enumerate(weights)]).sum(0)
    out: MapArray = np.stack([w * rows[:, i : i + width] for i, w in enumerate(weights)]).sum(0)
    return out


def _spread_from(values: MapArray, known: NDArray[np.bool_]) -> MapArray:
    """Values of the known blocks, and around them weighted means of the known neighbours.

    Note [Levels side by side].  A decode costs as much whether all blocks have one strength or neighbours
    have different ones, and what a block gains at some strength its neighbours gain about as well.  So one
    decode with the strengths laid out like a chessboard tells about all of them.
    """
    weights = _smooth(known.astype(np.float64))
    spread: MapArray = np.where(weights > 0, _smooth(values * known) / np.maximum(weights, 1e-9), 0.0)
    return np.where(known, values, spread)


def _gate_map(indices: NDArray[np.uint8], block_log2: int = BLOCK_LOG2) -> GateMap:
    """The gate of strengths indices / GATE_UNIT, with no more levels than it needs."""
    levels = GATE_LEVELS if indices.max() > GATE_UNIT else GATE_UNIT + 1
    return GateMap(block_log2, levels, indices, GATE_UNIT)


Maps = dict[int, MapArray]
"""Distance per block of sampled frames."""


@dataclass(frozen=True)
class _Choice:
    """What an anchor's prompt says."""

    quantiser: int
    gate: GateMap


@dataclass
class GopGate:
    """Decides the anchors of one GOP.

    fitter: fits the strengths of pictures of even sizes; without one they are searched for, as the preset
    says.
    """

    gop: Gop
    generator: Generator
    judge: Judge
    preset: Preset
    anchor_interval: int | None
    fitter: StrengthFitter | None = None
    _references: dict[int, object] = field(default_factory=dict)

    def decide(self) -> GopDecision:
        """Return the anchors that really help, possibly none.

        Raises CodecError and BitstreamError when the packets cannot be decoded, GeneratorError when the
        generator fails.
        """
        samples = self._samples(0)
        first = self.gop.source(0)
        self._size = (first.width, first.height)
        # Prompts cannot name other sizes.
        fits = all(MIN_SIZE <= size <= MAX_SIZE for size in self._size)
        candidates = self._candidates if fits else []
        self._area = _area(*self._size)
        self._shape = grid_shape(*self._size, BLOCK_LOG2)
        registry = GeneratorRegistry([CachedGenerator(self.generator)], shipped=False)
        self._decoding = GopDecoding(
            self.gop.time_base,
            self.gop.extradata,
            registry,
            threads=2,
            on_warning=_raise_if_generation_failed,
        )
        base = self._trial({}, samples)
        search = self._jointly if self.preset.joint_anchors else self._one_by_one
        if self.fitter is not None and not any(size % 2 for size in self._size):
            search = self._fitted
        prompts, final = search(candidates, samples, base)
        distance, base_distance = self._mean(final, samples), self._mean(base, samples)
        if distance >= base_distance * (1 - _MARGIN):
            return GopDecision((), base_distance, base_distance)
        anchors = tuple(self._decision(c, prompts[c.packet]) for c in candidates if c.packet in prompts)
        return GopDecision(anchors, base_distance, distance)

    def wanted_frames(self) -> list[int]:
        """Indices of all frames whose source `decide` may ask for.  Raises BitstreamError."""
        starts = {0, *(candidate.packet for candidate in self._candidates)}
        searched = {0, *(frame for start in starts for frame in self._samples(start))}
        if self.fitter is not None:
            searched |= set(self._fit_frames(self.fitter.settings))
        return sorted(searched)

    @cached_property
    def _candidates(self) -> list[Candidate]:
        return find_candidates(self.gop, self.anchor_interval)

    def _samples(self, start: int) -> list[int]:
        return sample_frames(len(self.gop.packets), self.preset.sample_frames, start)

    def _decision(self, candidate: Candidate, prompt: _Choice) -> AnchorDecision:
        area = _area(*self._size, prompt.gate.block_log2)
        coverage = float((prompt.gate.strengths() * area).sum())
        data = encode_prompt(self._prompt(prompt))
        return AnchorDecision(candidate.packet, candidate.frame, data, coverage, prompt.quantiser)

    def _prompt(self, choice: _Choice) -> Prompt:
        return build_prompt(self.generator.identity, *self._size, choice.quantiser, choice.gate)

    def _trial(self, choices: Mapping[int, _Choice], samples: Sequence[int]) -> Maps:
        """Decode with the chosen prompts and measure the sampled frames."""
        maps: Maps = {
            shown.index: self._map(shown.index, shown.picture) for shown in self._shown(choices, samples)
        }
        # A prepared reference may be many times as large as its picture, so only the present ones are kept.
        self._references = {frame: kept for frame, kept in self._references.items() if frame in maps}
        return maps

    def _shown(self, choices: Mapping[int, _Choice], frames: Collection[int]) -> Iterator[GopPicture]:
        """Decode with the chosen prompts; yield the frames asked for.  Raises CodecError where one lacks."""
        # None takes away what a packet may carry already.
        prompts: dict[int, Prompt | None] = dict.fromkeys(range(len(self.gop.packets)))
        prompts |= {packet: self._prompt(choice) for packet, choice in choices.items()}
        missing = set(frames)
        for shown in decode_gop(self.gop.packets[: max(frames) + 1], self._decoding, prompts=prompts):
            if shown.index in frames:
                missing.discard(shown.index)
                yield shown
        if missing:
            raise CodecError(f"packets {sorted(missing)} of a GOP show no picture")

    def _planes(self, choices: Mapping[int, _Choice], frames: Collection[int]) -> dict[int, Planes]:
        return {shown.index: shown.picture.copied().planes for shown in self._shown(choices, frames)}

    def _map(self, frame: int, picture: Picture) -> MapArray:
        if frame not in self._references:
            self._references[frame] = self.judge.prepare(self.gop.source(frame))
        return self.judge.distance_map(picture, self._references[frame], 1 << BLOCK_LOG2)

    def _mean(self, maps: Maps, samples: Sequence[int]) -> float:
        return float(np.mean([(maps[f] * self._area).sum() for f in samples]))

    def _uniform(self, level: int) -> GateMap:
        return _gate_map(np.full(self._shape, level, np.uint8))

    def _levels(self, candidate: Candidate) -> tuple[int, ...]:
        return self.preset.key_levels if candidate.packet == 0 else self.preset.later_levels

    def _gate(self, gains: Mapping[int, MapArray], before: MapArray) -> GateMap:
        """The level of largest gain per block, of those whose gains are given and 0, which gains nothing.

        before: the distance per block that the gains are from; it scales Note [Price of strength].
        """
        levels = [0, *gains]
        prices = [_PRICE * level / GATE_UNIT * _smooth(before) for level in gains]
        priced = [_smooth(gain) - price for gain, price in zip(gains.values(), prices, strict=True)]
        best = np.stack([np.zeros(self._shape), *priced]).argmax(0)
        return _gate_map(np.array(levels, np.uint8)[best])

    def _cost(self, maps: Maps, samples: Sequence[int], gates: Iterable[GateMap], reference: float) -> float:
        """Mean distance plus the price of the gates' strength."""
        coverage = [float((gate.strengths() * self._area).sum()) for gate in gates]
        return self._mean(maps, samples) + _PRICE * reference * (
            float(np.mean(coverage)) if coverage else 0.0
        )

    def _jointly(
        self, candidates: Sequence[Candidate], samples: Sequence[int], base: Maps
    ) -> tuple[dict[int, _Choice], Maps]:
        """All anchors at once: one decode to learn from and one with the gates, however many anchors.

        The levels of the first lie side by side, see Note [Levels side by side].  Returns the choices, and
        what their decode measured on the samples.
        """
        ends = [candidate.frame for candidate in candidates[1:]] + [len(self.gop.packets)]
        spans = {
            c.packet: [f for f in samples if c.packet <= f <= end]
            for c, end in zip(candidates, ends, strict=False)
        }
        # Where no sample would show what an anchor does, it could do harm unseen.
        candidates = [candidate for candidate in candidates if spans[candidate.packet]]
        if not candidates:
            return {}, base
        mixed = {c.packet: _Choice(c.base_q_idx, self._mixed(self._levels(c))) for c in candidates}
        tried = self._trial(mixed, samples)
        gated: dict[int, _Choice] = {}
        for candidate in candidates:
            served = spans[candidate.packet]
            before: MapArray = np.mean([base[f] for f in served], 0)
            gain: MapArray = before - np.mean([tried[f] for f in served], 0)
            indices = mixed[candidate.packet].gate.indices
            gains = {level: _spread_from(gain, indices == level) for level in self._levels(candidate)}
            gate = self._gate(gains, before)
            if gate.indices.any():
                gated[candidate.packet] = _Choice(candidate.base_q_idx, gate)
        options: list[tuple[dict[int, _Choice], Maps]] = [({}, base), (mixed, tried)]
        if gated:
            options.append((gated, self._trial(gated, samples)))
        reference = self._mean(base, samples)

        def cost(option: tuple[dict[int, _Choice], Maps]) -> float:
            choices, maps = option
            return self._cost(maps, samples, (c.gate for c in choices.values()), reference)

        return min(options, key=cost)

    def _mixed(self, levels: Sequence[int]) -> GateMap:
        """The levels in turn from block to block, in both directions."""
        rows, columns = np.indices(self._shape)
        turns = np.array(levels, np.uint8)[(rows + columns) % len(levels)]
        return _gate_map(turns)

    def _fitted(
        self, candidates: Sequence[Candidate], samples: Sequence[int], base: Maps
    ) -> tuple[dict[int, _Choice], Maps]:
        """Fit the keyframe's strengths, then those of all anchors; what really measured best is returned."""
        assert self.fitter is not None
        best: tuple[dict[int, _Choice], Maps] = ({}, base)
        settings = self.fitter.settings
        own = [candidate.frame for candidate in candidates]
        frames = self._affordable(self._fit_frames(settings))
        responses: dict[int, Response] = {}
        for anchors, seen, steps in (
            (candidates[:1], frames if settings.frames else own[:1], settings.steps),
            (candidates, frames if settings.frames else own, settings.joint_steps),
        ):
            # The keyframe's response is worth measuring once; later anchors build on what it brings.
            new = [anchor for anchor in anchors if anchor.packet not in responses]
            if not new:
                break
            choices, maps = best
            fitted = self._fit(anchors, new, choices, seen, responses, steps)
            tried = self._trial(fitted, samples) if fitted else base
            # More anchors cost a player time.
            if self._mean(tried, samples) < self._mean(maps, samples) * (1 - _MARGIN):
                best = fitted, tried
        return best

    def _fit(
        self,
        anchors: Sequence[Candidate],
        new: Sequence[Candidate],
        choices: Mapping[int, _Choice],
        frames: Sequence[int],
        responses: dict[int, Response],
        steps: int,
    ) -> dict[int, _Choice]:
        """Fit the anchors' strengths together, from ``choices`` on.  Adds the responses of the new ones."""
        from hybridprompt.encode.fit import Supervision, quantise

        assert self.fitter is not None
        decoded = self._planes(choices, frames)
        for anchor in new:
            responses[anchor.packet] = self._response(anchor, choices, decoded)
        for packet, choice in choices.items():
            at = choice.gate.strengths()
            responses[packet] = replace(responses[packet], strengths=at, start=at)
        sources = {frame: self.gop.source(frame).planes for frame in frames}
        fitted = self.fitter.fit(
            Supervision(decoded, sources), [responses[anchor.packet] for anchor in anchors], steps
        )
        found: dict[int, _Choice] = {}
        for anchor, strengths in zip(anchors, fitted, strict=True):
            indices = quantise(strengths, GATE_UNIT, GATE_LEVELS)
            if indices.any():
                gate = _gate_map(indices, self.fitter.settings.block_log2)
                found[anchor.packet] = _Choice(anchor.base_q_idx, gate)
        return found

    def _response(
        self, anchor: Candidate, choices: Mapping[int, _Choice], decoded: Mapping[int, Planes]
    ) -> Response:
        """Measure what an anchor that is not among the choices does to the decoded frames."""
        from hybridprompt.encode.fit import Response, block_indices, difference
        from hybridprompt.encode.operator.decoders import Av1AnchorDecoder
        from hybridprompt.encode.operator.probe import ProbeSettings, probe

        assert self.fitter is not None
        block_log2 = self.fitter.settings.block_log2
        shape = grid_shape(*self._size, block_log2)
        full = _Choice(anchor.base_q_idx, _gate_map(np.full(shape, GATE_UNIT, np.uint8), block_log2))
        reached = [frame for frame in decoded if frame >= anchor.packet]
        changes = {
            frame: difference(planes, decoded[frame])
            for frame, planes in self._planes({**choices, anchor.packet: full}, reached).items()
        }
        decoder = Av1AnchorDecoder(
            packets=self.gop.packets,
            size=self._size,
            time_base=self.gop.time_base,
            extradata=self.gop.extradata,
        )
        blocks = {
            found.frame: block_indices(found.displacement, block_log2, shape)
            for found in probe(decoder, anchor.packet, reached, ProbeSettings(bands=0))
        }
        # Later anchors add to detail that is there already, so they begin low.
        start = np.full(shape, 1.0 if anchor.packet == 0 else 0.25, np.float32)
        return Response(np.zeros(shape, np.float32), start, changes, blocks)

    def _fit_frames(self, settings: FitSettings) -> list[int]:
        own = [candidate.frame for candidate in self._candidates]
        count = settings.frames
        return sorted({*own, *(sample_frames(len(self.gop.packets), count) if count else [])})

    def _affordable(self, frames: Sequence[int]) -> list[int]:
        """Fewer of the frames where a fit of all would take too much memory, but those of anchors."""
        from hybridprompt.encode.fit import MAX_FIT_BYTES, frame_bytes

        own = {candidate.frame for candidate in self._candidates}
        room = MAX_FIT_BYTES // frame_bytes(*self._size, len(own)) - len(own)
        others = [frame for frame in frames if frame not in own]
        kept = [others[i] for i in sample_frames(len(others), max(room, 0))] if room > 0 else []
        return sorted({*own, *kept})

    def _one_by_one(
        self, candidates: Sequence[Candidate], samples: Sequence[int], base: Maps
    ) -> tuple[dict[int, _Choice], Maps]:
        """Anchor after anchor, on top of the earlier ones, so that detail is not piled up.

        Returns the choices, and what their decode measures on the samples.
        """
        chosen: dict[int, _Choice] = {}
        for candidate in candidates:
            served = self._samples(candidate.packet)
            before = base if candidate.packet == 0 else self._trial(chosen, served)
            choice = self._best_choice(candidate, chosen, served, before)
            if choice is not None:
                chosen[candidate.packet] = choice
        return chosen, self._trial(chosen, samples) if chosen else base

    def _best_choice(
        self, candidate: Candidate, chosen: Mapping[int, _Choice], served: Sequence[int], before: Maps
    ) -> _Choice | None:
        trials: dict[int, list[tuple[_Choice, Maps]]] = {}
        for offset in self.preset.quantiser_offsets:
            told = int(np.clip(candidate.base_q_idx + offset, 0, 255))
            trials[told] = []
            for level in self._levels(candidate):
                choice = _Choice(told, self._uniform(level))
                trials[told].append((choice, self._trial({**chosen, candidate.packet: choice}, served)))
        told = min(trials, key=lambda q: min(self._mean(maps, served) for _, maps in trials[q]))
        options = list(trials[told])
        gains: dict[int, MapArray] = {
            level: np.mean([before[f] - maps[f] for f in served], 0)
            for level, (_, maps) in zip(self._levels(candidate), options, strict=True)
        }
        gate = self._gate(gains, np.mean([before[f] for f in served], 0))
        if len(np.unique(gate.indices)) > 1:
            choice = _Choice(told, gate)
            options.append((choice, self._trial({**chosen, candidate.packet: choice}, served)))
        reference = self._mean(before, served)
        best, maps = min(options, key=lambda o: self._cost(o[1], served, [o[0].gate], reference))
        if self._cost(maps, served, [best.gate], reference) >= reference * (1 - _MARGIN):
            return None
        return best
