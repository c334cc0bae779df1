"""Matching bytes from below, with encoders that are formulas."""

import math
from collections.abc import Callable

import pytest

from hybridprompt.errors import CodecError
from hybridprompt.evaluate.rates import Grid, bitrate_grid, crf_grid, match_from_below

CRFS = crf_grid(1, 70, 0.25, slope=-0.06, finest_jump=12)


class FakeEncoder:
    def __init__(self, size: Callable[[int], float]) -> None:
        self.size, self.asked = size, []

    def __call__(self, index: int) -> int:
        self.asked.append(index)
        return int(self.size(index))


def exponential(grid: Grid, slope: float, at_zero: float = 1e7) -> FakeEncoder:
    return FakeEncoder(lambda index: at_zero * math.exp(slope * index * grid.step))


def test_grids_give_their_values() -> None:
    assert CRFS.value(0) == 1
    assert CRFS.value(CRFS.high) == 70
    assert CRFS.index(41.3) == round((41.3 - 1) / 0.25)
    bitrates = bitrate_grid()
    assert bitrates.value(bitrates.index(200)) == pytest.approx(200, rel=0.003)
    assert bitrates.value(bitrates.high) > 5
    assert bitrates.value(10) < bitrates.value(9)


@pytest.mark.parametrize("slope", [-0.03, -0.06, -0.14])
@pytest.mark.parametrize("target", [20_000, 123_456, 1_500_000])
@pytest.mark.parametrize("first", [10, 150, 270])
def test_the_match_is_below_and_within_two_percent(slope: float, target: int, first: int) -> None:
    encoder = exponential(CRFS, slope)
    smallest = encoder.size(CRFS.high)
    if smallest > target:
        pytest.skip("out of reach")
    match = match_from_below(encoder, target, CRFS, {}, first=first, max_encodes=14)
    step = 1 - math.exp(slope * CRFS.step)
    assert match.size_bytes <= target
    assert match.size_bytes == int(encoder.size(match.index))
    assert match.size_bytes >= target * (0.98 if step < 0.02 else 1 - step) - 1
    assert match.matched == (match.size_bytes >= 0.98 * target)
    assert match.encodes == len(encoder.asked) == len(set(encoder.asked))


def test_a_usual_search_is_short() -> None:
    encoder = exponential(CRFS, -0.08)
    assert match_from_below(encoder, 150_000, CRFS, {}, first=200).encodes <= 5


def test_known_encodes_are_not_made_again() -> None:
    encoder, known = exponential(CRFS, -0.06), {}
    first = match_from_below(encoder, 400_000, CRFS, known, first=200)
    made = len(encoder.asked)
    again = match_from_below(encoder, 400_000, CRFS, known, first=3)
    assert (again.index, again.encodes, len(encoder.asked)) == (first.index, 0, made)
    other = match_from_below(encoder, 380_000, CRFS, known, first=3)
    assert other.encodes <= 2
    assert other.size_bytes <= 380_000
    assert 3 not in encoder.asked


def test_coarse_steps_take_the_largest_below_and_say_so() -> None:
    coarse = crf_grid(0, 63, 1, slope=-0.06, finest_jump=12)
    encoder = exponential(coarse, -0.1)
    target = 1e7 * math.exp(-0.1 * 30.5)
    match = match_from_below(encoder, target, coarse, {}, first=50, max_encodes=20)
    assert match.index == 31
    assert not match.matched


def test_a_bumpy_encoder_is_still_from_below() -> None:
    encoder = FakeEncoder(lambda i: 1e6 * math.exp(-0.015 * i) * (1 + 0.03 * math.sin(i * 2.1)))
    for target in (30_000, 77_000, 300_000):
        match = match_from_below(encoder, target, CRFS, {}, first=100)
        assert match.size_bytes <= target


def test_out_of_reach_is_told_with_the_smallest() -> None:
    with pytest.raises(CodecError, match=r"50 bytes are out of reach.*has 1000"):
        match_from_below(FakeEncoder(lambda i: 1000 + CRFS.high - i), 50, CRFS, {}, first=100, max_encodes=30)


def test_a_floor_is_noticed() -> None:
    encoder = FakeEncoder(lambda i: max(15_000, 125 * bitrate_grid().value(i)))
    with pytest.raises(CodecError, match="out of reach"):
        match_from_below(encoder, 14_000, bitrate_grid(), {}, first=450, max_encodes=30)
    assert len(encoder.asked) <= 4


def test_more_than_the_finest_gives_is_the_finest_unmatched() -> None:
    match = match_from_below(exponential(CRFS, -0.06), 1e9, CRFS, {}, first=30, max_encodes=20)
    assert (match.index, match.matched) == (0, False)


def test_the_number_of_encodes_is_bounded() -> None:
    encoder = FakeEncoder(lambda i: 1e6 - 1e3 * i + 400 * (i % 3))
    match = match_from_below(encoder, 834_567, CRFS, {}, first=0, tolerance=1e-9, max_encodes=5)
    assert len(encoder.asked) <= 5
    assert 0 < match.size_bytes <= 834_567


def test_what_is_asked_for_another_rate_does_not_lead_astray() -> None:
    """Two encodes a step apart whose bytes differ by noise alone: a slope that means nothing."""
    grid = bitrate_grid()
    encoder = FakeEncoder(lambda index: 500 * grid.value(index))
    at = grid.index(119.0)
    known = {at: 60_400, at + 1: 58_600, at + 3: 58_400}
    match = match_from_below(encoder, 40_000, grid, known, first=grid.index(79.2), max_encodes=3)
    assert match.matched
    assert encoder.asked == [grid.index(79.2)]
