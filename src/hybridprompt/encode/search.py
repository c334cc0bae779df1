"""Searches for the gates of a GOP: strengths are tried, and blocks that got better make an anchor's gate.

Note [Price of strength]: the judge is one network, and part of what it calls a gain at full strength is not
one to others: measured through whole GOPs, LPIPS-VGG moves less than LPIPS-Alex.  So a block must gain a
share of its distance, times its strength, before it counts as better.  DISTS gains with strength where the
judge is level, so the share is a small one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hybridprompt.encode.blocks import gate_map, smooth, spread_from
from hybridprompt.encode.gop import Candidate
from hybridprompt.encode.judge import MapArray
from hybridprompt.encode.settings import GATE_UNIT, Preset
from hybridprompt.encode.trials import Choice, Maps, Trials, pays_off
from hybridprompt.evaluate.sampling import sample_frames
from hybridprompt.prompt.gate import GateMap


@dataclass(frozen=True)
class Found:
    """Choices by packet, and what a decode with them really measured."""

    choices: Mapping[int, Choice]
    maps: Maps


class Search(Protocol):
    """A way to find good prompts for a GOP."""

    def search(self, trials: Trials, candidates: Sequence[Candidate], base: Maps) -> Found:
        """Return choices for some of the candidates, possibly none, measured on the frames of ``base``.

        candidates: in display order.  base: what a decode without prompts measured.  Raises as
        Trials.measure does.
        """


class BlindSearch:
    """The first candidate generated everywhere at strength 1; nothing is searched for."""

    def search(self, trials: Trials, candidates: Sequence[Candidate], base: Maps) -> Found:
        """See Search.search."""
        if not candidates:
            return Found({}, base)
        everywhere = {candidates[0].packet: everywhere_at_one(candidates[0], base)}
        return Found(everywhere, trials.measure(everywhere, base))


def everywhere_at_one(candidate: Candidate, base: Maps) -> Choice:
    """The choice that generates a candidate everywhere at strength 1; ``base`` has the shape of the gates."""
    shape = next(iter(base.values())).shape
    return Choice(candidate.base_q_idx, gate_map(np.full(shape, GATE_UNIT, np.uint8)))


@dataclass(frozen=True)
class JointSearch:
    """All anchors at once: one decode to learn from and one with the gates, however many anchors.

    The levels of the first lie side by side, see Note [Levels side by side].
    """

    preset: Preset

    def search(self, trials: Trials, candidates: Sequence[Candidate], base: Maps) -> Found:
        """See Search.search."""
        ends = [candidate.frame for candidate in candidates[1:]] + [trials.gop.frame_count]
        spans = {
            c.packet: [f for f in base if c.packet <= f <= end]
            for c, end in zip(candidates, ends, strict=False)
        }
        # Where no sample would show what an anchor does, it could do harm unseen.
        candidates = [candidate for candidate in candidates if spans[candidate.packet]]
        if not candidates:
            return Found({}, base)
        shape = next(iter(base.values())).shape
        mixed = {
            c.packet: Choice(c.base_q_idx, _side_by_side(_levels(self.preset, c), shape)) for c in candidates
        }
        tried = trials.measure(mixed, base)
        gated: dict[int, Choice] = {}
        for candidate in candidates:
            served = spans[candidate.packet]
            before: MapArray = np.mean([base[f] for f in served], 0)
            gain: MapArray = before - np.mean([tried[f] for f in served], 0)
            indices = mixed[candidate.packet].gate.indices
            gains = {level: spread_from(gain, indices == level) for level in _levels(self.preset, candidate)}
            gate = _best_levels(gains, before, self.preset.strength_price)
            if gate.indices.any():
                gated[candidate.packet] = Choice(candidate.base_q_idx, gate)
        options = [Found({}, base), Found(mixed, tried)]
        if gated:
            options.append(Found(gated, trials.measure(gated, base)))
        reference = trials.mean(base)

        def cost(option: Found) -> float:
            gates = [choice.gate for choice in option.choices.values()]
            return _cost(trials, option.maps, gates, self.preset.strength_price * reference)

        return min(options, key=cost)


@dataclass(frozen=True)
class OneByOneSearch:
    """Anchor after anchor, on top of the earlier ones, so that detail is not piled up."""

    preset: Preset

    def search(self, trials: Trials, candidates: Sequence[Candidate], base: Maps) -> Found:
        """See Search.search."""
        chosen: dict[int, Choice] = {}
        for candidate in candidates:
            served = sample_frames(trials.gop.frame_count, self.preset.sample_frames, candidate.packet)
            before = base if candidate.packet == 0 else trials.measure(chosen, served)
            choice = self._best_choice(trials, candidate, chosen, before)
            if choice is not None:
                chosen[candidate.packet] = choice
        return Found(chosen, trials.measure(chosen, base) if chosen else base)

    def _best_choice(
        self, trials: Trials, candidate: Candidate, chosen: Mapping[int, Choice], before: Maps
    ) -> Choice | None:
        """The choice for one more anchor that serves the frames of ``before``; None if none pays off."""

        def tried(choice: Choice) -> tuple[Choice, Maps]:
            return choice, trials.measure({**chosen, candidate.packet: choice}, before)

        distances: MapArray = np.mean(list(before.values()), 0)
        levels = _levels(self.preset, candidate)
        uniform = [gate_map(np.full(distances.shape, level, np.uint8)) for level in levels]
        by_quantiser: dict[int, list[tuple[Choice, Maps]]] = {}
        for offset in self.preset.quantiser_offsets:
            told = int(np.clip(candidate.base_q_idx + offset, 0, 255))
            by_quantiser[told] = [tried(Choice(told, gate)) for gate in uniform]
        told = min(by_quantiser, key=lambda q: min(trials.mean(maps) for _, maps in by_quantiser[q]))
        options = list(by_quantiser[told])
        gains: dict[int, MapArray] = {
            level: np.mean([before[f] - maps[f] for f in before], 0)
            for level, (_, maps) in zip(levels, options, strict=True)
        }
        gate = _best_levels(gains, distances, self.preset.strength_price)
        if len(np.unique(gate.indices)) > 1:
            options.append(tried(Choice(told, gate)))
        reference = trials.mean(before)

        def cost(option: tuple[Choice, Maps]) -> float:
            return _cost(trials, option[1], [option[0].gate], self.preset.strength_price * reference)

        best = min(options, key=cost)
        return best[0] if pays_off(cost(best), reference) else None


def _levels(preset: Preset, candidate: Candidate) -> tuple[int, ...]:
    return preset.key_levels if candidate.packet == 0 else preset.later_levels


def _side_by_side(levels: Sequence[int], shape: tuple[int, ...]) -> GateMap:
    """The levels in turn from block to block, in both directions."""
    rows, columns = np.indices(shape)
    turns = np.array(levels, np.uint8)[(rows + columns) % len(levels)]
    return gate_map(turns)


def _best_levels(gains: Mapping[int, MapArray], before: MapArray, price: float) -> GateMap:
    """The level of largest gain per block, of those whose gains are given and 0, which gains nothing.

    before: the distance per block that the gains are from.  price: the share of Note [Price of strength].
    """
    levels = [0, *gains]
    prices = [price * level / GATE_UNIT * smooth(before) for level in gains]
    priced = [smooth(gain) - least for gain, least in zip(gains.values(), prices, strict=True)]
    best = np.stack([np.zeros(before.shape), *priced]).argmax(0)
    return gate_map(np.array(levels, np.uint8)[best])


def _cost(trials: Trials, maps: Maps, gates: Collection[GateMap], price: float) -> float:
    """Mean distance plus the price of the gates' mean strength; price: of strength 1, as a distance."""
    coverage = float(np.mean([trials.coverage(gate) for gate in gates])) if gates else 0.0
    return trials.mean(maps) + price * coverage
