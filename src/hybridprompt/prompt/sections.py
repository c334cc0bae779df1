"""What the sections of a prompt mean, version 1: conditioning quantiser, gate, still and adapter.

docs/bitstream.md has every byte. Types not listed in `SectionType` are skipped.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from hybridprompt.prompt.adapter_coding import MAX_VALUE, decode_values, encode_values
from hybridprompt.prompt.gate import GateMap, decode_gate, encode_gate, grid_shape
from hybridprompt.prompt.syntax import Prompt, Section, invalid

MAX_QUANTISER = 255
MAX_ADAPTER_VALUES = 8192


class SectionType(IntEnum):
    """The section types of version 1."""

    QUANTISER = 1
    GATE = 2
    STILL = 3
    ADAPTER = 4


class StillCodec(IntEnum):
    """What a still is coded with."""

    AV1 = 1


_COUNT_BYTES = 2


@dataclass(frozen=True, slots=True)
class Still:
    """A coded picture from which generation starts in place of the base picture.

    `data` is one AV1 temporal unit without temporal delimiter, sequence header included; what is in it is
    looked at when it is decoded. Raises `PromptError` for no data.
    """

    codec: StillCodec
    data: bytes

    def __post_init__(self) -> None:
        if not self.data:
            raise invalid("still of 0 bytes, expected a coded picture")

    def __repr__(self) -> str:
        return f"Still({self.codec.name}, size_bytes={len(self.data)})"


@dataclass(frozen=True, eq=False)
class Adapter:
    """Changes of the generator's weights, from this picture of the GOP on.

    `values` is (count,) int8 in [-MAX_VALUE, MAX_VALUE], kept as a read-only copy; how many there are and
    what each does is up to the generator. None at all take back an earlier adapter. Raises `PromptError` for
    values that the syntax cannot hold.
    """

    values: NDArray[np.int8]

    def __post_init__(self) -> None:
        values = np.array(self.values, order="C")
        if values.dtype != np.int8 or values.ndim != 1 or values.size > MAX_ADAPTER_VALUES:
            raise invalid(
                f"adapter of {values.dtype} {values.shape}, expected int8 (up to {MAX_ADAPTER_VALUES},)"
            )
        if values.size and np.abs(values.astype(np.int16)).max() > MAX_VALUE:
            raise invalid(f"adapter with values beyond -{MAX_VALUE}..{MAX_VALUE}")
        values.setflags(write=False)
        object.__setattr__(self, "values", values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Adapter):
            return NotImplemented
        return np.array_equal(self.values, other.values)

    def __hash__(self) -> int:
        return hash(self.values.tobytes())

    def __repr__(self) -> str:
        return f"Adapter({self.values.size} values, {np.count_nonzero(self.values)} of them not 0)"


@dataclass(frozen=True, slots=True)
class CodedAdapter:
    """An adapter of `count` values, 0..MAX_ADAPTER_VALUES, as it is coded.

    Its few bytes do not tell what decoding takes: thousands of large values may be in 50 of them.
    """

    count: int
    data: bytes

    def decode(self) -> Adapter:
        """Return the adapter. Raises `PromptError` for data that is not what such values are coded as."""
        return Adapter(decode_values(self.data, self.count) if self.count else np.zeros(0, np.int8))

    def __repr__(self) -> str:
        return f"CodedAdapter({self.count} values, size_bytes={len(self.data)})"


@dataclass(frozen=True, slots=True)
class PromptContent:
    """What a prompt tells the generator.

    `quantiser` is on the scale of AV1's base_q_idx, 0..255; None stands for the picture's own, or that of the
    `still` where there is one. Without an `adapter` that of an earlier picture of the GOP stays.
    """

    quantiser: int | None
    gate: GateMap
    still: Still | None = None
    adapter: Adapter | None = None


@dataclass(frozen=True, slots=True)
class CodedContent:
    """`PromptContent` whose adapter is not decoded yet, which not everybody needs."""

    quantiser: int | None
    gate: GateMap
    still: Still | None = None
    adapter: CodedAdapter | None = None

    def decode(self) -> PromptContent:
        """Return all of it. Raises `PromptError` for an adapter that is malformed."""
        adapter = None if self.adapter is None else self.adapter.decode()
        return PromptContent(self.quantiser, self.gate, self.still, adapter)


def build_prompt(
    generator_id: bytes,
    width: int,
    height: int,
    quantiser: int | None,
    gate: GateMap | None,
    still: Still | None = None,
    adapter: Adapter | None = None,
) -> Prompt:
    """Return the prompt for one picture; None leaves a section out. Raises `PromptError` for unfit values."""
    sections = []
    if quantiser is not None:
        sections.append(Section(SectionType.QUANTISER, encode_quantiser(quantiser)))
    if gate is not None:
        expected = grid_shape(width, height, gate.block_log2)
        if gate.indices.shape != expected:
            raise invalid(f"gate of {gate.indices.shape} blocks, expected {expected} for {width}x{height}")
        sections.append(Section(SectionType.GATE, encode_gate(gate)))
    if still is not None:
        sections.append(Section(SectionType.STILL, encode_still(still)))
    if adapter is not None:
        sections.append(Section(SectionType.ADAPTER, encode_adapter(adapter)))
    return Prompt(generator_id, width, height, tuple(sections))


def parse_sections(prompt: Prompt) -> PromptContent:
    """Return the content of a prompt; without a gate section the gate is 1 everywhere.

    Raises `PromptError` for a section that is malformed or, if its type is known, comes twice.
    """
    return parse_coded_sections(prompt).decode()


def parse_coded_sections(prompt: Prompt) -> CodedContent:
    """Return what `parse_sections` does, but for the values of an adapter: of those only the number is known.

    Takes no more time than the blocks of the picture call for. Raises `PromptError` as `parse_sections` does.
    """
    payloads = _known_payloads(prompt.sections)
    quantiser = payloads.get(SectionType.QUANTISER)
    gate = payloads.get(SectionType.GATE)
    still = payloads.get(SectionType.STILL)
    adapter = payloads.get(SectionType.ADAPTER)
    return CodedContent(
        quantiser=None if quantiser is None else decode_quantiser(quantiser),
        gate=(
            GateMap.uniform(prompt.width, prompt.height)
            if gate is None
            else decode_gate(gate, prompt.width, prompt.height)
        ),
        still=None if still is None else decode_still(still),
        adapter=None if adapter is None else _coded_adapter(adapter),
    )


def has_still(prompt: Prompt) -> bool:
    """Say whether a prompt has a still section, whatever is in it."""
    return any(section.type == SectionType.STILL for section in prompt.sections)


def _known_payloads(sections: Iterable[Section]) -> dict[SectionType, bytes]:
    payloads: dict[SectionType, bytes] = {}
    for section in sections:
        if section.type not in set(SectionType):
            continue
        section_type = SectionType(section.type)
        if section_type in payloads:
            raise invalid(f"two sections of type {section_type.name}, expected at most one")
        payloads[section_type] = section.payload
    return payloads


def encode_quantiser(quantiser: int) -> bytes:
    """Return the payload of a quantiser section; raise `PromptError` outside 0..255."""
    if not 0 <= quantiser <= MAX_QUANTISER:
        raise invalid(f"quantiser {quantiser}, expected 0..{MAX_QUANTISER}")
    return bytes([quantiser])


def decode_quantiser(payload: bytes) -> int:
    """Return the quantiser of a section payload; raise `PromptError` unless it is one byte."""
    if len(payload) != 1:
        raise invalid(f"quantiser section of {len(payload)} bytes, expected 1")
    return payload[0]


def encode_still(still: Still) -> bytes:
    """Return the payload of a still section."""
    return bytes([still.codec]) + still.data


def decode_still(payload: bytes) -> Still:
    """Return the still of a section payload, not decoded. Raises `PromptError` where it is malformed."""
    if not payload:
        raise invalid("still section of 0 bytes, expected a codec")
    if payload[0] not in set(StillCodec):
        raise invalid(f"still codec {payload[0]}, expected {StillCodec.AV1} (AV1)")
    return Still(StillCodec(payload[0]), payload[1:])


def encode_adapter(adapter: Adapter) -> bytes:
    """Return the payload of an adapter section."""
    data = encode_values(adapter.values) if adapter.values.size else b""
    return adapter.values.size.to_bytes(_COUNT_BYTES, "big") + data


def decode_adapter(payload: bytes) -> Adapter:
    """Return the adapter of a section payload. Raises `PromptError` where it is malformed."""
    return _coded_adapter(payload).decode()


def _coded_adapter(payload: bytes) -> CodedAdapter:
    if len(payload) < _COUNT_BYTES:
        raise invalid(f"adapter section of {len(payload)} bytes, expected at least {_COUNT_BYTES}")
    count, data = int.from_bytes(payload[:_COUNT_BYTES], "big"), payload[_COUNT_BYTES:]
    if count > MAX_ADAPTER_VALUES:
        raise invalid(f"adapter of {count} values, expected up to {MAX_ADAPTER_VALUES}")
    if count == 0 and data:
        raise invalid(f"adapter data of {len(data)} bytes, expected 0")
    return CodedAdapter(count, data)
