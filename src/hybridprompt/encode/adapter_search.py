"""Decides whether the prompts of a GOP adapt the generator, by real decodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hybridprompt.encode.adapter_fit import AdapterFitter, LaterFrame
from hybridprompt.encode.fit import affordable_frames
from hybridprompt.encode.gop import Candidate
from hybridprompt.encode.operator.probe import ProbeSettings, probe
from hybridprompt.encode.search import everywhere_at_one
from hybridprompt.encode.trials import Choice, Maps, Trials
from hybridprompt.evaluate.sampling import sample_frames
from hybridprompt.prompt.sections import Adapter

_SAMPLE_BYTES: Final = 9.5
"""What a LaterFrame takes for each of its luma samples."""


@dataclass(frozen=True)
class AdapterSearch:
    """Fits an adapter to the keyframe, then to frames of the whole GOP; what really measured best is kept.

    Of pictures of odd sizes, fits see the even part.  worth: of bytes, see worth.WORTH_OF_BYTES.
    """

    fitter: AdapterFitter
    worth: float

    def supervising_frames(self, gop_frames: int) -> list[int]:
        """Frames of a GOP whose source a fit may ask for."""
        return sorted({0, *sample_frames(gop_frames, self.fitter.settings.frames)})

    def search(
        self, trials: Trials, keyframe: Candidate, base: Maps, given: Adapter | None = None
    ) -> Adapter | None:
        """Return the best adapter, None where the generator serves as well without one.

        They are compared with the keyframe generated everywhere at strength 1, on every second of the frames
        of ``base``.  given: one that is tried beside those that are fitted.  Leaves the trials without one.
        Raises as Trials.measure does.
        """
        everywhere = {keyframe.packet: everywhere_at_one(keyframe, base)}
        judged = sorted(base)[::2]

        def cost(adapter: Adapter | None) -> float:
            trials.adapter = adapter
            return trials.cost(everywhere, trials.measure(everywhere, judged), self.worth)

        frames = affordable_frames(
            self.supervising_frames(trials.gop.frame_count), [0], trials.size, _SAMPLE_BYTES
        )
        (planes,) = trials.planes({}, [keyframe.frame]).values()
        source = trials.source_planes(keyframe.frame)
        byte_price = self.worth / trials.gop.size_bytes
        values = self.fitter.fit(planes, source, keyframe.base_q_idx, byte_price=byte_price)
        tried = [None, Adapter(values)] if given is None else [None, given, Adapter(values)]
        costs = [(cost(adapter), adapter) for adapter in tried]
        if len(frames) > 1 and self.fitter.settings.joint_steps:
            trials.adapter = Adapter(values)
            later = self._later(trials, keyframe, everywhere, frames[1:])
            values = self.fitter.refine(
                values, planes, source, keyframe.base_q_idx, later, byte_price=byte_price
            )
            del later
            costs.append((cost(Adapter(values)), Adapter(values)))
        trials.adapter = None
        return min(costs, key=lambda pair: pair[0])[1]

    @staticmethod
    def _later(
        trials: Trials, keyframe: Candidate, everywhere: dict[int, Choice], frames: list[int]
    ) -> list[LaterFrame]:
        """Measure later frames, with the adapter that the trials have."""
        decoded = trials.planes(everywhere, frames)
        decoder = trials.gop.anchor_decoder(trials.size)
        return [
            LaterFrame(decoded[found.frame], trials.source_planes(found.frame), found)
            for found in probe(decoder, keyframe.packet, frames, ProbeSettings(bands=0))
        ]
