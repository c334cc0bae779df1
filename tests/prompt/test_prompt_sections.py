"""Quantiser, gate and still: round trips, the modes of the gate, bounds, and any bytes at all."""

import contextlib
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridprompt.errors import BitstreamError
from hybridprompt.prompt.gate import GateMap, decode_gate, encode_gate, grid_shape
from hybridprompt.prompt.sections import (
    PromptContent,
    SectionType,
    Still,
    StillCodec,
    build_prompt,
    decode_quantiser,
    decode_still,
    encode_quantiser,
    encode_still,
    has_still,
    parse_sections,
)
from hybridprompt.prompt.syntax import Prompt, PromptError, Section, decode_prompt, encode_prompt

GENERATOR_ID = bytes(range(8))
UNIFORM, PACKED, DEFLATE = 0, 1, 2


@st.composite
def gates(draw: st.DrawFn) -> tuple[int, int, GateMap]:
    """Picture width and height, and a gate for it: uniform, regular or noise."""
    width, height = draw(st.integers(16, 2000)), draw(st.integers(16, 2000))
    block_log2, levels = draw(st.integers(5, 8)), draw(st.integers(2, 16))
    shape = (-(-height // 2**block_log2), -(-width // 2**block_log2))
    kind = draw(st.sampled_from(["uniform", "columns", "noise"]))
    seed = draw(st.integers(0, 2**32 - 1))
    noise = np.random.default_rng(seed).integers(0, levels, shape, dtype=np.uint8)
    indices = {"uniform": np.full_like(noise, noise[0, 0]), "columns": noise[:1].repeat(shape[0], 0)}
    unit = draw(st.integers(-(-(levels - 1) // 4), levels - 1))
    return width, height, GateMap(block_log2, levels, indices.get(kind, noise), unit)


def gate_payload(mode: int, data: bytes, *, block_log2: int = 6, levels: int = 4) -> bytes:
    return bytes([block_log2, levels - 1, mode]) + data


def deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return compressor.compress(data) + compressor.flush()


@settings(deadline=None)
@given(gates())
def test_gate_round_trip(drawn: tuple[int, int, GateMap]) -> None:
    width, height, gate = drawn
    assert gate.indices.shape == grid_shape(width, height, gate.block_log2)
    decoded = decode_gate(encode_gate(gate), width, height)
    assert decoded == gate
    assert hash(decoded) == hash(gate)


@settings(deadline=None)
@given(gates(), st.none() | st.integers(0, 255), st.booleans())
def test_prompt_round_trip(drawn: tuple[int, int, GateMap], quantiser: int | None, gated: bool) -> None:
    width, height, gate = drawn
    prompt = build_prompt(GENERATOR_ID, width, height, quantiser, gate if gated else None)
    content = parse_sections(decode_prompt(encode_prompt(prompt)))
    assert content.quantiser == quantiser
    if gated:
        assert content.gate == gate
    else:
        assert content.gate.indices.shape == grid_shape(width, height, content.gate.block_log2)
        assert (content.gate.strengths() == 1).all()


def test_gate_takes_its_shortest_mode() -> None:
    noise = np.random.default_rng(0).integers(0, 16, (17, 30), dtype=np.uint8)
    repeated = np.tile(noise[:2], (9, 1))[:17]
    assert encode_gate(GateMap(6, 16, np.full((17, 30), 9, np.uint8))) == bytes([6, 15, UNIFORM, 9])
    assert encode_gate(GateMap(6, 16, noise))[2] == PACKED
    assert len(encode_gate(GateMap(6, 16, noise))) == 3 + 17 * 30 // 2
    assert encode_gate(GateMap(6, 16, repeated))[2] == DEFLATE
    assert len(encode_gate(GateMap(6, 16, repeated))) < 100


def test_packed_layout() -> None:
    # Three levels take two bits each, most significant first: 00 01 10 10 | 01 (zeros)
    gate = GateMap(5, 3, np.array([[0, 1, 2], [2, 1, 0]], np.uint8))
    assert encode_gate(gate) == bytes([5, 2, PACKED, 0b00011010, 0b01000000])


def test_strengths_run_from_0_to_1() -> None:
    gate = GateMap(8, 5, np.array([[0, 1, 2, 3, 4]], np.uint8))
    assert gate.strengths().dtype == np.float32
    np.testing.assert_array_equal(gate.strengths(), [[0, 0.25, 0.5, 0.75, 1]])
    assert gate.block_size == 256
    assert repr(gate) == "GateMap(1x5 blocks of 256, levels=5)"


def test_strengths_above_1_have_a_unit() -> None:
    gate = GateMap(8, 9, np.array([[0, 4, 8]], np.uint8), 4)
    np.testing.assert_array_equal(gate.strengths(), [[0, 1, 2]])
    assert repr(gate) == "GateMap(1x3 blocks of 256, levels=9, unit=4)"
    # Four bits each after the unit: 0000 0100 | 1000 (zeros)
    assert encode_gate(gate) == bytes([8, 8, PACKED | 0x80, 4, 0b00000100, 0b10000000])
    assert gate != GateMap(8, 9, gate.indices)
    uniform = GateMap(6, 9, np.full((2, 2), 6, np.uint8), 4)
    assert encode_gate(uniform) == bytes([6, 8, UNIFORM | 0x80, 4, 6])
    # What has no need of a unit is written as before there were any.
    assert encode_gate(GateMap(6, 5, np.full((2, 2), 3, np.uint8), 4)) == bytes([6, 4, UNIFORM, 3])


@pytest.mark.parametrize("unit", [-1, 9, 1, 255])
def test_gate_map_refuses_units_of_other_strengths(unit: int) -> None:
    with pytest.raises(PromptError, match="unit"):
        GateMap(6, 9, np.zeros((1, 1), np.uint8), unit)


def test_gate_map_keeps_its_own_copy() -> None:
    indices = np.zeros((2, 2), np.uint8)
    gate = GateMap(6, 2, indices)
    indices[0, 0] = 1
    assert gate.indices[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        gate.indices[0, 0] = 1


@pytest.mark.parametrize(
    ("block_log2", "levels", "indices"),
    [
        (4, 2, np.zeros((1, 1), np.uint8)),
        (9, 2, np.zeros((1, 1), np.uint8)),
        (6, 1, np.zeros((1, 1), np.uint8)),
        (6, 17, np.zeros((1, 1), np.uint8)),
        (6, 4, np.full((1, 1), 4, np.uint8)),
        (6, 4, np.zeros((1, 1), np.int64)),
        (6, 4, np.zeros(3, np.uint8)),
        (6, 4, np.zeros((0, 3), np.uint8)),
    ],
)
def test_gate_map_refuses_what_the_syntax_cannot_hold(
    block_log2: int, levels: int, indices: np.ndarray
) -> None:
    with pytest.raises(PromptError):
        GateMap(block_log2, levels, indices)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"\x06\x03", "at least 3"),
        (gate_payload(UNIFORM, b"\0", block_log2=4), "block_log2 4"),
        (gate_payload(UNIFORM, b"\0", block_log2=200), "block_log2 200"),
        (gate_payload(UNIFORM, b"\0", levels=1), "1 levels"),
        (gate_payload(UNIFORM, b"\0", levels=17), "17 levels"),
        (gate_payload(4, b"\0"), "mode 4"),
        (gate_payload(4 | 0x80, b"\2\0"), "mode 4"),
        (gate_payload(3, b"\0"), "coded gate"),
        (gate_payload(UNIFORM | 0x80, b""), "4 with a unit"),
        (gate_payload(UNIFORM | 0x80, b"\0\0"), "unit 0"),
        (gate_payload(UNIFORM | 0x80, b"\3\0"), "unit 3 of 4 levels is written"),
        (gate_payload(UNIFORM | 0x80, b"\4\0"), "unit 4"),
        (gate_payload(UNIFORM | 0x80, b"\1\0", levels=6), "unit 1"),
        (gate_payload(UNIFORM | 0x80, b"\2"), "0 bytes, expected 1"),
        (gate_payload(UNIFORM, b""), "0 bytes, expected 1"),
        (gate_payload(UNIFORM, b"\4"), "index 4"),
        (gate_payload(PACKED, bytes(3)), "3 bytes, expected 4"),
        (gate_payload(PACKED, bytes(5)), "5 bytes, expected 4"),
        (gate_payload(PACKED, b"\0\0\0\1"), "padding"),
        (gate_payload(PACKED, b"\xff\0\0\0", levels=3), "index 3"),
        (gate_payload(DEFLATE, deflate(bytes(14))), "14 indices, expected 15"),
        (gate_payload(DEFLATE, deflate(bytes(16))), "at least 16 indices"),
        (gate_payload(DEFLATE, deflate(bytes(15)) + b"x"), "1 bytes after"),
        (gate_payload(DEFLATE, deflate(bytes(15))[:-1]), "and the end"),
        (gate_payload(DEFLATE, deflate(b"\4" * 15)), "index 4"),
        (gate_payload(DEFLATE, b"\xff\xff"), "no DEFLATE"),
    ],
)
def test_malformed_gates_are_refused(payload: bytes, message: str) -> None:
    # 320x180 in blocks of 64: 3 rows of 5
    with pytest.raises(PromptError, match=message):
        decode_gate(payload, 320, 180)


def test_a_deflate_bomb_stays_small() -> None:
    bomb = gate_payload(DEFLATE, deflate(bytes(64 << 20)))
    assert len(bomb) < 1 << 17
    tracemalloc.start()
    with pytest.raises(PromptError, match="at least 16 indices"):
        decode_gate(bomb, 320, 180)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 19


def test_gate_must_fit_the_picture() -> None:
    with pytest.raises(PromptError, match=r"expected \(3, 5\) for 320x180"):
        build_prompt(GENERATOR_ID, 320, 180, None, GateMap.uniform(320, 256, block_log2=6))


def test_unknown_sections_are_skipped_and_known_ones_come_once() -> None:
    unknown = Section(77, b"later")
    quantiser = Section(SectionType.QUANTISER, encode_quantiser(9))
    content = parse_sections(Prompt(GENERATOR_ID, 320, 180, (unknown, quantiser, unknown)))
    assert content == PromptContent(9, GateMap.uniform(320, 180))
    with pytest.raises(PromptError, match="two sections of type QUANTISER"):
        parse_sections(Prompt(GENERATOR_ID, 320, 180, (quantiser, quantiser)))


def test_quantiser_is_one_byte() -> None:
    assert decode_quantiser(encode_quantiser(255)) == 255
    for payload in (b"", b"ab"):
        with pytest.raises(PromptError):
            decode_quantiser(payload)
    for quantiser in (-1, 256):
        with pytest.raises(PromptError):
            encode_quantiser(quantiser)


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=70000), st.none() | st.integers(0, 255), st.booleans())
def test_still_round_trip(data: bytes, quantiser: int | None, gated: bool) -> None:
    still, gate = Still(StillCodec.AV1, data), GateMap.uniform(320, 180) if gated else None
    prompt = build_prompt(GENERATOR_ID, 320, 180, quantiser, gate, still)
    decoded = decode_prompt(encode_prompt(prompt))
    assert decoded == prompt
    assert has_still(decoded)
    assert parse_sections(decoded) == PromptContent(quantiser, GateMap.uniform(320, 180), still)


def test_still_layout() -> None:
    assert encode_still(Still(StillCodec.AV1, b"coded")) == b"\1coded"
    assert SectionType.STILL == 3
    assert repr(Still(StillCodec.AV1, b"coded")) == "Still(AV1, size_bytes=5)"
    without = build_prompt(GENERATOR_ID, 320, 180, 9, None)
    assert not has_still(without)
    assert parse_sections(without).still is None


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "0 bytes, expected a codec"),
        (b"\1", "still of 0 bytes"),
        (b"\0coded", "codec 0"),
        (b"\2coded", "codec 2"),
    ],
)
def test_malformed_stills_are_refused(payload: bytes, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        decode_still(payload)
    prompt = Prompt(GENERATOR_ID, 320, 180, (Section(SectionType.STILL, payload),))
    with pytest.raises(PromptError, match=message):
        parse_sections(prompt)
    assert has_still(prompt)


def test_a_still_comes_once_and_has_data() -> None:
    section = Section(SectionType.STILL, b"\1coded")
    with pytest.raises(PromptError, match="two sections of type STILL"):
        parse_sections(Prompt(GENERATOR_ID, 320, 180, (section, section)))
    with pytest.raises(PromptError, match="0 bytes"):
        Still(StillCodec.AV1, b"")


def test_uniform_gate_takes_an_index() -> None:
    gate = GateMap.uniform(100, 33, block_log2=5, levels=5, index=1)
    assert gate.indices.shape == (2, 4)
    assert (gate.strengths() == 0.25).all()


@settings(deadline=None, max_examples=300)
@given(st.integers(5, 8), st.integers(1, 15), st.integers(0, 3), st.binary(max_size=40), st.booleans())
def test_any_gate_bytes_give_a_gate_or_a_bitstream_error(
    block_log2: int, levels: int, mode: int, data: bytes, compressed: bool
) -> None:
    payload = bytes([block_log2, levels, mode]) + (deflate(data) if compressed else data)
    sections = (Section(SectionType.GATE, payload),)
    with contextlib.suppress(BitstreamError):
        gate = parse_sections(Prompt(GENERATOR_ID, 320, 180, sections)).gate
        assert decode_gate(encode_gate(gate), 320, 180) == gate
