"""The arithmetic mode of the gate: round trips, a decoder made from docs/bitstream.md alone, hostile data."""

import numpy as np
import pytest
from arithmetic_reference import Reference as ArithmeticReference
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hybridprompt.prompt.gate import GateMap, decode_gate, encode_gate
from hybridprompt.prompt.gate_coding import decode_indices, encode_indices
from hybridprompt.prompt.syntax import PromptError

ARITHMETIC = 3


def smooth(rows: int, cols: int, levels: int, seed: int) -> NDArray[np.uint8]:
    """Like a gate: areas of similar strength."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 0.8, (rows, cols)).cumsum(0) + rng.normal(0, 0.8, (rows, cols)).cumsum(1)
    return np.clip(np.rint(steps), 0, levels - 1).astype(np.uint8)


class Reference(ArithmeticReference):
    """Gate indices, as docs/bitstream.md says it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data, contexts=11)

    def indices(self, levels: int, shape: tuple[int, int]) -> NDArray[np.uint8]:
        grid = np.zeros(shape, int)
        for row in range(shape[0]):
            for col in range(shape[1]):
                up = grid[row - 1, col] if row else None
                left = grid[row, col - 1] if col else (0 if up is None else up)
                up = left if up is None else up
                corner = grid[row - 1, col - 1] if row and col else up if row else left
                grid[row, col] = self.index(int(left), int(up), int(corner), levels - 1)
        return grid.astype(np.uint8)

    def index(self, left: int, up: int, corner: int, top: int) -> int:
        predicted = sorted((left, up, left + up - corner))[1]
        if self.bit(min(abs(left - up), 2)):
            return predicted
        larger = predicted == 0
        if 0 < predicted < top:
            larger = self.bit(5 + sum(np.sign(n - predicted) for n in (left, up)))
        distance, room = 1, top - predicted if larger else predicted
        while distance < room and self.bit(7 + min(distance, 3)):
            distance += 1
        return predicted + distance if larger else predicted - distance


@pytest.mark.parametrize("levels", [2, 3, 9, 16])
@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (17, 1), (17, 30), (34, 60)])
def test_round_trip_and_an_independent_decoder(levels: int, shape: tuple[int, int]) -> None:
    for seed in range(3):
        indices = smooth(*shape, levels, seed)
        data = encode_indices(indices, levels)
        np.testing.assert_array_equal(decode_indices(data, levels, shape), indices)
        np.testing.assert_array_equal(Reference(data).indices(levels, shape), indices)


def test_long_grids_stay_in_step() -> None:
    """Counts are halved, words carry over."""
    indices = np.random.default_rng(0).integers(0, 5, (120, 200), dtype=np.uint8)
    data = encode_indices(indices, 5)
    np.testing.assert_array_equal(decode_indices(data, 5, (120, 200)), indices)
    np.testing.assert_array_equal(Reference(data).indices(5, (120, 200)), indices)
    assert len(data) < 1.05 * indices.size * np.log2(5) / 8


def test_it_is_the_shortest_for_what_gates_look_like() -> None:
    indices = smooth(17, 30, 9, 1)
    coded = encode_gate(GateMap(6, 9, indices, 4))
    assert coded[2] & 0x7F == ARITHMETIC
    assert len(coded) - 4 < 0.7 * 17 * 30 * 4 / 8
    assert decode_gate(coded, 30 * 64, 17 * 64) == GateMap(6, 9, indices, 4)


def test_always_the_same_bytes() -> None:
    """Streams that exist shall stay readable."""
    indices = (np.indices((6, 9)).sum(0) // 3 % 5).astype(np.uint8)
    assert encode_indices(indices, 9).hex() == "b2d003d67c3570b0"


@given(st.binary(max_size=80), st.integers(2, 16))
def test_any_bytes_decode_or_are_refused(data: bytes, levels: int) -> None:
    try:
        indices = decode_indices(data, levels, (5, 7))
    except PromptError:
        return
    assert indices.max() < levels
    assert encode_indices(indices, levels) == data


def test_what_the_encoder_would_not_write_is_refused() -> None:
    data = encode_indices(smooth(9, 16, 9, 2), 9)
    for changed in (data + b"\0", data + b"\1", data[:-3], b"\xff" * len(data)):
        with pytest.raises(PromptError, match="coded gate"):
            decode_indices(changed, 9, (9, 16))
