"""Decides a GOP's prompts, and in mode `replace` whether it is encoded anew against what they generate: Note
[Open and closed loop] in `encode.given_keyframe`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hybridprompt.decode.still import still_header
from hybridprompt.encode.base import BaseEncoder, BaseGop, GivenKeyframe
from hybridprompt.encode.gate import GopDecision, GopGate, attach_prompts, make_adapter_fitter, make_fitter
from hybridprompt.encode.targets import GopResult
from hybridprompt.encode.worth import at_equal_bytes
from hybridprompt.generator.base import Generator
from hybridprompt.prompt.sections import parse_sections
from hybridprompt.prompt.syntax import decode_prompt

if TYPE_CHECKING:
    from hybridprompt.encode.adapter_fit import AdapterFitter


def decide(base: BaseGop, encoder: BaseEncoder, generator: Generator) -> GopResult:
    """Decide a GOP's prompts; in mode replace, encode it anew against what they generate as long as that
    serves it better and the preset allows it.
    """
    # It remembers what it has fitted, which an encode anew needs again.
    adapter_fitter = make_adapter_fitter(encoder.settings.effort.adapter, generator)
    result = _decided(base, encoder, generator, adapter_fitter)
    for _ in range(encoder.settings.effort.alternations):
        variant = closed_variant(base, result.decision)
        if variant is None:
            break
        base = encoder.encode(base.pictures, base.crf, variant)
        again = _decided(base, encoder, generator, adapter_fitter)
        if not serves_better(again, result, encoder.worth_of_bytes):
            break
        result = again
    return result


def _decided(
    base: BaseGop, encoder: BaseEncoder, generator: Generator, adapter_fitter: AdapterFitter | None
) -> GopResult:
    gop, settings = encoder.gop(base), encoder.settings
    gate = GopGate(
        gop,
        generator,
        encoder.judge(),
        settings.effort,
        settings.anchor_interval,
        make_fitter(settings.effort.fit),
        adapter_fitter,
        encoder.worth_of_bytes,
        base.variant.adapter if isinstance(base.variant, GivenKeyframe) else None,
    )
    decision = gate.decide()
    prompted = attach_prompts(gop, decision.anchors)
    prompt_bytes = sum(len(packet.data) for packet in prompted) - base.size_bytes
    return GopResult(
        prompted, base.size_bytes, prompt_bytes, decision, base.crf, base.variant, gop.still_bytes
    )


def closed_variant(base: BaseGop, decision: GopDecision) -> GivenKeyframe | None:
    """The variant whose keyframe is what the decided prompt generates of the still; None without either."""
    key = next((anchor for anchor in decision.anchors if anchor.packet == 0), None)
    if key is None or base.still is None or not isinstance(base.variant, GivenKeyframe):
        return None
    content = parse_sections(decode_prompt(key.prompt_bytes))
    return replace(
        base.variant,
        gate=content.gate,
        adapter=content.adapter,
        quantiser_offset=key.quantiser - still_header(base.still).base_q_idx,
    )


def serves_better(result: GopResult, other: GopResult, worth: float) -> bool:
    """Whether a GOP is nearer to its source than it is otherwise, at equal bytes."""

    def cost(result: GopResult) -> float:
        return at_equal_bytes(result.decision.distance, result.base_bytes + result.prompt_bytes, worth)

    return cost(result) < cost(other)
