"""What the sections of a prompt mean, version 1: conditioning quantiser, gate, still and adapter.

docs/bitstream.md has every byte. Types not listed in `SectionType` are skipped.
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

import numpy as np
from numpy.typing import NDArray

from hybridprompt.prompt.adapter_coding import MAX_VALUE, decode_values, encode_values
from hybridprompt.prompt.gate_coding import decode_indices, encode_indices
from hybridprompt.prompt.syntax import Prompt, PromptError, PromptFault, Section

MIN_BLOCK_LOG2 = 5
MAX_BLOCK_LOG2 = 8
MIN_LEVELS = 2
MAX_LEVELS = 16
MAX_STRENGTH = 4
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


class _GateMode(IntEnum):
    UNIFORM = 0
    PACKED = 1
    DEFLATE = 2
    ARITHMETIC = 3


_COUNT_BYTES = 2
_UNIT_FLAG = 0x80
"""In the byte of the mode: a byte with the unit follows."""


@dataclass(frozen=True, eq=False)
class GateMap:
    """How strongly generation applies to each square block of `1 << block_log2` luma samples.

    `indices` is (rows, cols) uint8 in [0, levels), kept as a read-only copy; index k means strength
    k / unit, at most MAX_STRENGTH. The unit is levels - 1 where it is not given (0). Blocks at the right and
    bottom edges may reach beyond the picture. Raises `PromptError` for values that the syntax cannot hold.
    """

    block_log2: int
    levels: int
    indices: NDArray[np.uint8]
    unit: int = 0

    def __post_init__(self) -> None:
        if not MIN_BLOCK_LOG2 <= self.block_log2 <= MAX_BLOCK_LOG2:
            raise _invalid(f"gate block_log2 {self.block_log2}, expected {MIN_BLOCK_LOG2}..{MAX_BLOCK_LOG2}")
        if not MIN_LEVELS <= self.levels <= MAX_LEVELS:
            raise _invalid(f"gate of {self.levels} levels, expected {MIN_LEVELS}..{MAX_LEVELS}")
        if self.unit == 0:
            object.__setattr__(self, "unit", self.levels - 1)
        if not self.unit < self.levels <= MAX_STRENGTH * self.unit + 1:
            raise _invalid(
                f"gate unit {self.unit} of {self.levels} levels, expected the highest strength in "
                f"1..{MAX_STRENGTH}"
            )
        indices = np.array(self.indices, order="C")
        if indices.dtype != np.uint8 or indices.ndim != 2 or indices.size == 0:
            raise _invalid(f"gate indices {indices.dtype} {indices.shape}, expected uint8 (rows, cols)")
        if indices.max() >= self.levels:
            raise _invalid(f"gate index {indices.max()}, expected 0..{self.levels - 1}")
        indices.setflags(write=False)
        object.__setattr__(self, "indices", indices)

    @classmethod
    def uniform(
        cls,
        width: int,
        height: int,
        *,
        block_log2: int = MAX_BLOCK_LOG2,
        levels: int = MIN_LEVELS,
        index: int | None = None,
    ) -> Self:
        """Return the map with one index (by default the highest: strength 1) for the whole picture."""
        shape = grid_shape(width, height, block_log2)
        return cls(block_log2, levels, np.full(shape, levels - 1 if index is None else index, np.uint8))

    @property
    def block_size(self) -> int:
        """Side of a block in luma samples."""
        return 1 << self.block_log2

    def strengths(self) -> NDArray[np.float32]:
        """Return the strength of every block, (rows, cols) float32 in [0, MAX_STRENGTH]."""
        return self.indices.astype(np.float32) / np.float32(self.unit)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GateMap):
            return NotImplemented
        same_scale = self._scale == other._scale
        return same_scale and np.array_equal(self.indices, other.indices)

    def __hash__(self) -> int:
        return hash((self._scale, self.indices.shape, self.indices.tobytes()))

    def __repr__(self) -> str:
        rows, cols = self.indices.shape
        unit = "" if self.unit == self.levels - 1 else f", unit={self.unit}"
        return f"GateMap({rows}x{cols} blocks of {self.block_size}, levels={self.levels}{unit})"

    @property
    def _scale(self) -> tuple[int, int, int]:
        return self.block_log2, self.levels, self.unit


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
            raise _invalid("still of 0 bytes, expected a coded picture")

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
            raise _invalid(
                f"adapter of {values.dtype} {values.shape}, expected int8 (up to {MAX_ADAPTER_VALUES},)"
            )
        if values.size and np.abs(values.astype(np.int16)).max() > MAX_VALUE:
            raise _invalid(f"adapter with values beyond -{MAX_VALUE}..{MAX_VALUE}")
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


def grid_shape(width: int, height: int, block_log2: int) -> tuple[int, int]:
    """Return (rows, cols) of the blocks that cover a picture of `width` x `height` luma samples."""
    return -(-height >> block_log2), -(-width >> block_log2)


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
            raise _invalid(f"gate of {gate.indices.shape} blocks, expected {expected} for {width}x{height}")
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
            raise _invalid(f"two sections of type {section_type.name}, expected at most one")
        payloads[section_type] = section.payload
    return payloads


def encode_quantiser(quantiser: int) -> bytes:
    """Return the payload of a quantiser section; raise `PromptError` outside 0..255."""
    if not 0 <= quantiser <= MAX_QUANTISER:
        raise _invalid(f"quantiser {quantiser}, expected 0..{MAX_QUANTISER}")
    return bytes([quantiser])


def decode_quantiser(payload: bytes) -> int:
    """Return the quantiser of a section payload; raise `PromptError` unless it is one byte."""
    if len(payload) != 1:
        raise _invalid(f"quantiser section of {len(payload)} bytes, expected 1")
    return payload[0]


def encode_still(still: Still) -> bytes:
    """Return the payload of a still section."""
    return bytes([still.codec]) + still.data


def decode_still(payload: bytes) -> Still:
    """Return the still of a section payload, not decoded. Raises `PromptError` where it is malformed."""
    if not payload:
        raise _invalid("still section of 0 bytes, expected a codec")
    if payload[0] not in set(StillCodec):
        raise _invalid(f"still codec {payload[0]}, expected {StillCodec.AV1} (AV1)")
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
        raise _invalid(f"adapter section of {len(payload)} bytes, expected at least {_COUNT_BYTES}")
    count, data = int.from_bytes(payload[:_COUNT_BYTES], "big"), payload[_COUNT_BYTES:]
    if count > MAX_ADAPTER_VALUES:
        raise _invalid(f"adapter of {count} values, expected up to {MAX_ADAPTER_VALUES}")
    if count == 0:
        _expect_size(data, 0, "adapter")
    return CodedAdapter(count, data)


def encode_gate(gate: GateMap) -> bytes:
    """Return the payload of a gate section, in the shortest of its modes."""
    unit = b"" if gate.unit == gate.levels - 1 else bytes([gate.unit])

    def header(mode: _GateMode) -> bytes:
        return bytes([gate.block_log2, gate.levels - 1, mode | (_UNIT_FLAG if unit else 0)]) + unit

    first = int(gate.indices.flat[0])
    if (gate.indices == first).all():
        return header(_GateMode.UNIFORM) + bytes([first])
    compressor = zlib.compressobj(level=9, wbits=-15)
    coded = {
        _GateMode.PACKED: _pack(gate.indices.ravel(), _index_bits(gate.levels)),
        _GateMode.DEFLATE: compressor.compress(gate.indices.tobytes()) + compressor.flush(),
        _GateMode.ARITHMETIC: encode_indices(gate.indices, gate.levels),
    }
    mode = min(coded, key=lambda mode: len(coded[mode]))
    return header(mode) + coded[mode]


def decode_gate(payload: bytes, width: int, height: int) -> GateMap:
    """Return the gate of a section payload, for a picture of `width` x `height` luma samples.

    Never holds more than one byte per block beside the payload. Raises `PromptError` where it is malformed.
    """
    if len(payload) < 3 or (payload[2] & _UNIT_FLAG and len(payload) < 4):
        raise _invalid(f"gate section of {len(payload)} bytes, expected at least 3, or 4 with a unit")
    block_log2, levels, mode = payload[0], payload[1] + 1, payload[2]
    # Before the grid is derived from them: an absurd block size would make an absurd grid.
    if not MIN_BLOCK_LOG2 <= block_log2 <= MAX_BLOCK_LOG2 or not MIN_LEVELS <= levels <= MAX_LEVELS:
        raise _invalid(f"gate with block_log2 {block_log2} and {levels} levels")
    shape = grid_shape(width, height, block_log2)
    count = shape[0] * shape[1]
    data, unit = payload[3:], levels - 1
    if mode & _UNIT_FLAG:
        mode ^= _UNIT_FLAG
        unit, data = payload[3], payload[4:]
        if unit == 0 or unit == levels - 1:
            raise _invalid(f"gate unit {unit} of {levels} levels is written, expected another")
    if mode == _GateMode.UNIFORM:
        _expect_size(data, 1)
        indices = np.full(count, data[0], np.uint8)
    elif mode == _GateMode.PACKED:
        indices = _unpack(data, _index_bits(levels), count)
    elif mode == _GateMode.DEFLATE:
        indices = np.frombuffer(_inflate(data, count), np.uint8)
    elif mode == _GateMode.ARITHMETIC:
        indices = decode_indices(data, levels, shape)
    else:
        raise _invalid(f"gate mode {mode}, expected 0..{max(_GateMode)}")
    return GateMap(block_log2, levels, indices.reshape(shape), unit)


def _index_bits(levels: int) -> int:
    return (levels - 1).bit_length()


def _pack(indices: NDArray[np.uint8], bits: int) -> bytes:
    shifts = np.arange(bits - 1, -1, -1, dtype=np.uint8)
    return np.packbits(indices[:, None] >> shifts & 1).tobytes()


def _unpack(data: bytes, bits: int, count: int) -> NDArray[np.uint8]:
    _expect_size(data, (count * bits + 7) // 8)
    stream = np.unpackbits(np.frombuffer(data, np.uint8))
    if stream[count * bits :].any():
        raise _invalid("padding bits of the gate are set, expected 0")
    weights = (1 << np.arange(bits - 1, -1, -1)).astype(np.uint8)
    indices: NDArray[np.uint8] = stream[: count * bits].reshape(count, bits) @ weights
    return indices


def _inflate(data: bytes, count: int) -> bytes:
    decompressor = zlib.decompressobj(wbits=-15)
    try:
        # One byte more than there are blocks, to see that there is more without ever holding all of it.
        indices = decompressor.decompress(data, count + 1)
    except zlib.error as error:
        raise _invalid(f"gate is no DEFLATE stream: {error}") from error
    if len(indices) != count or not decompressor.eof:
        more = "at least " if len(indices) > count else ""
        raise _invalid(f"gate inflates to {more}{len(indices)} indices, expected {count} and the end")
    if decompressor.unused_data:
        raise _invalid(f"{len(decompressor.unused_data)} bytes after the gate's DEFLATE stream")
    return indices


def _expect_size(data: bytes, size_bytes: int, what: str = "gate") -> None:
    if len(data) != size_bytes:
        raise _invalid(f"{what} data of {len(data)} bytes, expected {size_bytes}")


def _invalid(detail: str) -> PromptError:
    return PromptError(PromptFault.INVALID, detail)
