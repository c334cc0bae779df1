"""Finds the gates of a GOP by gradient descent on their strengths, with later frames as supervision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hybridprompt.encode.blocks import gate_map
from hybridprompt.encode.fit import (
    Response,
    StrengthFitter,
    Supervision,
    affordable_frames,
    block_indices,
    difference,
    quantise,
    sample_bytes,
)
from hybridprompt.encode.gop import Candidate
from hybridprompt.encode.operator.probe import ProbeSettings, probe
from hybridprompt.encode.search import Found
from hybridprompt.encode.settings import GATE_LEVELS, GATE_UNIT
from hybridprompt.encode.trials import Choice, Maps, Trials, pays_off
from hybridprompt.evaluate.sampling import sample_frames
from hybridprompt.generator.base import Planes
from hybridprompt.prompt.gate import grid_shape

_LATER_START = 0.5
"""Later anchors add to detail that is there already, so descent begins lower than the keyframe's."""


@dataclass(frozen=True)
class FittedSearch:
    """Fits the keyframe's strengths, then those of all anchors; what really measured best is returned.

    Of pictures of odd sizes, fits see the even part.  worth: of bytes, see worth.WORTH_OF_BYTES.
    """

    fitter: StrengthFitter
    worth: float

    def supervising_frames(self, gop_frames: int, candidates: Sequence[Candidate]) -> list[int]:
        """Frames of a GOP whose source a fit may ask for: those of the anchors, and some between them."""
        own = [candidate.frame for candidate in candidates]
        return sorted({*own, *sample_frames(gop_frames, self.fitter.settings.frames)})

    def search(self, trials: Trials, candidates: Sequence[Candidate], base: Maps) -> Found:
        """See search.Search.search."""
        best = Found({}, base)
        settings = self.fitter.settings
        own = [candidate.frame for candidate in candidates]
        frames = affordable_frames(
            self.supervising_frames(trials.gop.frame_count, candidates),
            own,
            trials.size,
            sample_bytes(len(own)),
        )
        responses: dict[int, Response] = {}
        for anchors, seen, steps in (
            (candidates[:1], frames if settings.frames else own[:1], settings.steps),
            (candidates, frames if settings.frames else own, settings.joint_steps),
        ):
            # The keyframe's response is worth measuring once; later anchors build on what it brings.
            new = [anchor for anchor in anchors if anchor.packet not in responses]
            if not new:
                break
            decoded = trials.planes(best.choices, seen)
            self._respond(trials, new, best.choices, decoded, responses)
            fitted = self._fit(trials, anchors, responses, decoded, steps)
            # Before the next decode: a fit may hold much.
            del decoded
            tried = trials.measure(fitted, base) if fitted else base
            # More anchors cost a player time, and bytes.
            if pays_off(trials.mean(tried), trials.mean(best.maps)) and (
                trials.cost(fitted, tried, self.worth) < trials.cost(best.choices, best.maps, self.worth)
            ):
                best = Found(fitted, tried)
        return best

    def _respond(
        self,
        trials: Trials,
        new: Sequence[Candidate],
        choices: Mapping[int, Choice],
        decoded: Mapping[int, Planes],
        responses: dict[int, Response],
    ) -> None:
        """Bring the responses to what was decoded with the choices; add those of the new anchors."""
        for anchor in new:
            responses[anchor.packet] = self._response(trials, anchor, choices, decoded)
        for packet, choice in choices.items():
            at = choice.gate.strengths()
            responses[packet] = replace(responses[packet], strengths=at, start=at)

    def _fit(
        self,
        trials: Trials,
        anchors: Sequence[Candidate],
        responses: Mapping[int, Response],
        decoded: Mapping[int, Planes],
        steps: int,
    ) -> dict[int, Choice]:
        """Fit the strengths of the anchors together, from what they are in the decoded frames on."""
        frames = Supervision(decoded, {frame: trials.source_planes(frame) for frame in decoded})
        byte_price = self.worth / trials.gop.size_bytes
        moved = [responses[anchor.packet] for anchor in anchors]
        fitted = self.fitter.fit(frames, moved, steps, byte_price=byte_price)
        found: dict[int, Choice] = {}
        for anchor, strengths in zip(anchors, fitted, strict=True):
            indices = quantise(strengths, GATE_UNIT, GATE_LEVELS)
            if indices.any():
                gate = gate_map(indices, self.fitter.settings.block_log2)
                found[anchor.packet] = Choice(anchor.base_q_idx, gate)
        return found

    def _response(
        self, trials: Trials, anchor: Candidate, choices: Mapping[int, Choice], decoded: Mapping[int, Planes]
    ) -> Response:
        """Measure what an anchor that is not among the choices does to the decoded frames."""
        block_log2 = self.fitter.settings.block_log2
        shape = grid_shape(*trials.size, block_log2)
        full = Choice(anchor.base_q_idx, gate_map(np.full(shape, GATE_UNIT, np.uint8), block_log2))
        reached = [frame for frame in decoded if frame >= anchor.packet]
        changes = {
            frame: difference(planes, decoded[frame])
            for frame, planes in trials.planes({**choices, anchor.packet: full}, reached).items()
        }
        decoder = trials.gop.anchor_decoder(trials.size)
        blocks = {
            found.frame: block_indices(found.displacement, block_log2, shape)
            for found in probe(decoder, anchor.packet, reached, ProbeSettings(bands=0))
        }
        start = np.full(shape, 1.0 if anchor.packet == 0 else _LATER_START, np.float32)
        return Response(np.zeros(shape, np.float32), start, changes, blocks)
