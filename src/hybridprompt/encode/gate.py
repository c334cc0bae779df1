"""Decides which pictures of a GOP become anchors, and where generation applies.

Candidates are the keyframe and the base pictures of later mini-GOPs.  A search finds prompts for them.  They
are kept only where a real decode with them came closer to the source than the base, by a margin.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from hybridprompt.encode.gop import Candidate, Gop, can_name
from hybridprompt.encode.judge import Judge
from hybridprompt.encode.search import BlindSearch, Found, JointSearch, OneByOneSearch, Search
from hybridprompt.encode.settings import AdapterSettings, FitSettings, Preset
from hybridprompt.encode.trials import Trials, pays_off
from hybridprompt.encode.worth import WORTH_OF_BYTES
from hybridprompt.errors import GeneratorError
from hybridprompt.evaluate.sampling import sample_frames
from hybridprompt.generator.base import Generator
from hybridprompt.generator.onnx_generator import OnnxGenerator
from hybridprompt.prompt.sections import Adapter
from hybridprompt.prompt.syntax import encode_prompt
from hybridprompt.video.av1_encoder import CodedPacket

if TYPE_CHECKING:
    import torch

    from hybridprompt.encode.adapter_fit import AdapterFitter
    from hybridprompt.encode.adapter_search import AdapterSearch
    from hybridprompt.encode.fit import StrengthFitter
    from hybridprompt.encode.fitted_search import FittedSearch

_LEAST_FITTED = 64

logger = logging.getLogger(__name__)


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


def attach_prompts(gop: Gop, anchors: Sequence[AnchorDecision]) -> list[CodedPacket]:
    """The packets of a GOP, with every anchor's prompt in its own."""
    prompts = {anchor.packet: anchor.prompt_bytes for anchor in anchors}
    return [
        replace(packet, data=gop.carry(packet.data, prompts[index])) if index in prompts else packet
        for index, packet in enumerate(gop.packets)
    ]


def make_fitter(settings: FitSettings | None) -> StrengthFitter | None:
    """What fits strengths; None where that is not asked for, or the metric weights are not installed."""
    from hybridprompt.evaluate.weights import have_metric_weights

    if settings is None or not have_metric_weights():
        return None
    from hybridprompt.encode.fit import StrengthFitter

    return StrengthFitter(settings, device=_device())


def make_adapter_fitter(settings: AdapterSettings | None, generator: Generator) -> AdapterFitter | None:
    """What fits adapters of a generator; None where `make_fitter` says so, or where the generator is no
    network of this package.
    """
    from hybridprompt.evaluate.weights import have_metric_weights

    if settings is None or not have_metric_weights() or not isinstance(generator, OnnxGenerator):
        return None
    from hybridprompt.encode.adapter_fit import AdapterFitter
    from hybridprompt.generator.torch_weights import network_of

    try:
        network = network_of(generator.weights)
    except GeneratorError as error:
        logger.warning("generator %s cannot be adapted: %s", generator.name, error)
        return None
    return AdapterFitter(network, settings, device=_device())


def _device() -> torch.device:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass
class GopGate:
    """Decides the anchors of one GOP.

    fitter: fits the strengths of pictures that are not too small; without one they are searched for, as the
    preset says.  adapter_fitter: fits adapters to such keyframes; without one there are none.
    worth_of_bytes: see worth.WORTH_OF_BYTES.  given_adapter: one that is tried, too: what the other pictures
    were coded against.
    """

    gop: Gop
    generator: Generator
    judge: Judge
    preset: Preset
    anchor_interval: int | None
    fitter: StrengthFitter | None = None
    adapter_fitter: AdapterFitter | None = None
    worth_of_bytes: float = WORTH_OF_BYTES
    given_adapter: Adapter | None = None

    def decide(self) -> GopDecision:
        """Return the anchors that really help, possibly none.

        Raises CodecError and BitstreamError when the packets cannot be decoded, GeneratorError when the
        generator fails.
        """
        trials = Trials(self.gop, self.generator, self.judge)
        candidates = self._candidates if can_name(*trials.size) else []
        base = trials.measure({}, self._samples(0))
        base_distance = trials.mean(base)
        if not pays_off(0.0, base_distance):
            # Not even perfect prompts would: no need to look for any.
            return GopDecision((), base_distance, base_distance)
        if candidates and self._adapting is not None and _can_be_fitted(*trials.size):
            trials.adapter = self._adapting.search(trials, candidates[0], base, self.given_adapter)
        found = self._search(*trials.size).search(trials, candidates, base)
        found = self._less_adapter(trials, found)
        distance = trials.mean(found.maps)
        if not (
            pays_off(distance, base_distance)
            and self._cost(trials, found) < self._cost(trials, Found({}, base))
        ):
            return GopDecision((), base_distance, base_distance)
        anchors = tuple(
            AnchorDecision(
                candidate.packet,
                candidate.frame,
                encode_prompt(trials.prompt(candidate.packet, choice)),
                trials.coverage(choice.gate),
                choice.quantiser,
            )
            for candidate in candidates
            if (choice := found.choices.get(candidate.packet)) is not None
        )
        return GopDecision(anchors, base_distance, distance)

    def _less_adapter(self, trials: Trials, found: Found) -> Found:
        """The same choices, without an adapter where that serves them as well."""
        adapter = trials.adapter
        if adapter is None or 0 not in found.choices:
            return found
        with_it = self._cost(trials, found)
        trials.adapter = None
        without = Found(found.choices, trials.measure(found.choices, found.maps))
        if self._cost(trials, without) <= with_it:
            return without
        trials.adapter = adapter
        return found

    def _cost(self, trials: Trials, found: Found) -> float:
        return trials.cost(found.choices, found.maps, self.worth_of_bytes)

    def wanted_frames(self) -> list[int]:
        """Indices of all frames whose source `decide` may ask for.  Raises BitstreamError."""
        starts = {0, *(candidate.packet for candidate in self._candidates)}
        wanted = {0, *(frame for start in starts for frame in self._samples(start))}
        if self._fitted is not None:
            wanted |= set(self._fitted.supervising_frames(self.gop.frame_count, self._candidates))
        if self._adapting is not None:
            wanted |= set(self._adapting.supervising_frames(self.gop.frame_count))
        return sorted(wanted)

    @cached_property
    def _candidates(self) -> list[Candidate]:
        if self.preset.prompts == "none":
            return []
        return self.gop.candidates(self.anchor_interval if self.preset.prompts == "gop" else None)

    @cached_property
    def _fitted(self) -> FittedSearch | None:
        if self.fitter is None:
            return None
        # Needs torch, as the fitter does.
        from hybridprompt.encode.fitted_search import FittedSearch

        return FittedSearch(self.fitter, self.worth_of_bytes)

    @cached_property
    def _adapting(self) -> AdapterSearch | None:
        if self.adapter_fitter is None:
            return None
        # Needs torch, as the fitter does.
        from hybridprompt.encode.adapter_search import AdapterSearch

        return AdapterSearch(self.adapter_fitter, self.worth_of_bytes)

    def _search(self, width: int, height: int) -> Search:
        if self.preset.prompts == "blind":
            return BlindSearch()
        if self._fitted is not None and _can_be_fitted(width, height):
            return self._fitted
        return JointSearch(self.preset) if self.preset.joint_anchors else OneByOneSearch(self.preset)

    def _samples(self, start: int) -> list[int]:
        return sample_frames(self.gop.frame_count, self.preset.sample_frames, start)


def _can_be_fitted(width: int, height: int) -> bool:
    """Large enough for the networks of the loss, at the smallest scale."""
    return min(width, height) >= _LEAST_FITTED
