"""The gate of a prompt: what it is, and the bytes of its section.

docs/bitstream.md has every byte.
"""

import zlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

import numpy as np
from numpy.typing import NDArray

from hybridprompt.prompt.gate_coding import decode_indices, encode_indices
from hybridprompt.prompt.syntax import invalid

MIN_BLOCK_LOG2 = 5
MAX_BLOCK_LOG2 = 8
MIN_LEVELS = 2
MAX_LEVELS = 16
MAX_STRENGTH = 4


class _GateMode(IntEnum):
    UNIFORM = 0
    PACKED = 1
    DEFLATE = 2
    ARITHMETIC = 3


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
            raise invalid(f"gate block_log2 {self.block_log2}, expected {MIN_BLOCK_LOG2}..{MAX_BLOCK_LOG2}")
        if not MIN_LEVELS <= self.levels <= MAX_LEVELS:
            raise invalid(f"gate of {self.levels} levels, expected {MIN_LEVELS}..{MAX_LEVELS}")
        if self.unit == 0:
            object.__setattr__(self, "unit", self.levels - 1)
        if not self.unit < self.levels <= MAX_STRENGTH * self.unit + 1:
            raise invalid(
                f"gate unit {self.unit} of {self.levels} levels, expected the highest strength in "
                f"1..{MAX_STRENGTH}"
            )
        indices = np.array(self.indices, order="C")
        if indices.dtype != np.uint8 or indices.ndim != 2 or indices.size == 0:
            raise invalid(f"gate indices {indices.dtype} {indices.shape}, expected uint8 (rows, cols)")
        if indices.max() >= self.levels:
            raise invalid(f"gate index {indices.max()}, expected 0..{self.levels - 1}")
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


def grid_shape(width: int, height: int, block_log2: int) -> tuple[int, int]:
    """Return (rows, cols) of the blocks that cover a picture of `width` x `height` luma samples."""
    return -(-height >> block_log2), -(-width >> block_log2)


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
        raise invalid(f"gate section of {len(payload)} bytes, expected at least 3, or 4 with a unit")
    block_log2, levels, mode = payload[0], payload[1] + 1, payload[2]
    # Before the grid is derived from them: an absurd block size would make an absurd grid.
    if not MIN_BLOCK_LOG2 <= block_log2 <= MAX_BLOCK_LOG2 or not MIN_LEVELS <= levels <= MAX_LEVELS:
        raise invalid(f"gate with block_log2 {block_log2} and {levels} levels")
    shape = grid_shape(width, height, block_log2)
    count = shape[0] * shape[1]
    data, unit = payload[3:], levels - 1
    if mode & _UNIT_FLAG:
        mode ^= _UNIT_FLAG
        unit, data = payload[3], payload[4:]
        if unit == 0 or unit == levels - 1:
            raise invalid(f"gate unit {unit} of {levels} levels is written, expected another")
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
        raise invalid(f"gate mode {mode}, expected 0..{max(_GateMode)}")
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
        raise invalid("padding bits of the gate are set, expected 0")
    weights = (1 << np.arange(bits - 1, -1, -1)).astype(np.uint8)
    indices: NDArray[np.uint8] = stream[: count * bits].reshape(count, bits) @ weights
    return indices


def _inflate(data: bytes, count: int) -> bytes:
    decompressor = zlib.decompressobj(wbits=-15)
    try:
        # One byte more than there are blocks, to see that there is more without ever holding all of it.
        indices = decompressor.decompress(data, count + 1)
    except zlib.error as error:
        raise invalid(f"gate is no DEFLATE stream: {error}") from error
    if len(indices) != count or not decompressor.eof:
        more = "at least " if len(indices) > count else ""
        raise invalid(f"gate inflates to {more}{len(indices)} indices, expected {count} and the end")
    if decompressor.unused_data:
        raise invalid(f"{len(decompressor.unused_data)} bytes after the gate's DEFLATE stream")
    return indices


def _expect_size(data: bytes, size_bytes: int) -> None:
    if len(data) != size_bytes:
        raise invalid(f"gate data of {len(data)} bytes, expected {size_bytes}")
