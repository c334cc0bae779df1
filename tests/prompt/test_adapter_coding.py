"""Adapter sections: round trips, a decoder made from docs/bitstream.md alone, hostile data."""

import numpy as np
import pytest
from arithmetic_reference import Reference as ArithmeticReference
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hybridprompt.prompt.adapter_coding import MAX_VALUE, decode_values, encode_values
from hybridprompt.prompt.gate import GateMap
from hybridprompt.prompt.sections import (
    MAX_ADAPTER_VALUES,
    Adapter,
    SectionType,
    build_prompt,
    decode_adapter,
    encode_adapter,
    parse_coded_sections,
    parse_sections,
)
from hybridprompt.prompt.syntax import Prompt, PromptError, Section, decode_prompt, encode_prompt


def layers(seed: int, *counts: int) -> NDArray[np.int8]:
    """Like an adapter: layers whose values are mostly 0, or mostly not."""
    rng = np.random.default_rng(seed)
    parts = [rng.laplace(0, rng.uniform(0.1, 2.5), count) for count in counts]
    return np.clip(np.rint(np.concatenate(parts)), -MAX_VALUE, MAX_VALUE).astype(np.int8)


class Reference(ArithmeticReference):
    """Values, as docs/bitstream.md says it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data, contexts=37)

    def values(self, count: int) -> NDArray[np.int8]:
        found, usual = [], 0
        for _ in range(count):
            activity = len([step for step in (8, 24, 48, 96, 160) if step <= usual])
            found.append(self.value(activity))
            usual += (64 * abs(found[-1]) - usual) // 8
        return np.array(found, np.int8)

    def value(self, activity: int) -> int:
        if self.bit(activity):
            return 0
        sign = -1 if self.bit(6) else 1
        distance = 1
        while distance < 15 and self.bit(6 + 5 * activity + min(distance, 5)):
            distance += 1
        return sign * distance


@pytest.mark.parametrize("counts", [(1,), (32, 32, 128, 128, 24, 24), (700, 900)])
def test_round_trip_and_an_independent_decoder(counts: tuple[int, ...]) -> None:
    for seed in range(3):
        values = layers(seed, *counts)
        data = encode_values(values)
        np.testing.assert_array_equal(decode_values(data, len(values)), values)
        np.testing.assert_array_equal(Reference(data).values(len(values)), values)


def test_the_largest_values_survive() -> None:
    values = np.array([MAX_VALUE, -MAX_VALUE] * 300 + [0] * 100, np.int8)
    np.testing.assert_array_equal(decode_values(encode_values(values), 700), values)


def test_quiet_layers_cost_little_whatever_is_beside_them() -> None:
    """Nothing is known of the layers, yet zeros in a row are all but free."""
    loud = np.random.default_rng(0).integers(-6, 7, 200).astype(np.int8)
    alone = len(encode_values(loud))
    assert len(encode_values(np.concatenate([loud, np.zeros(1500, np.int8)]))) < alone + 40
    assert len(encode_values(np.zeros(1700, np.int8))) < 40


def test_always_the_same_bytes() -> None:
    """Streams that exist shall stay readable."""
    values = np.array([0, 0, 1, -2, 5, 0, -15, 3, 0, 0, 0, 1], np.int8)
    assert encode_adapter(Adapter(values)).hex() == "000ca1cba08ed9be2ebc"


@given(st.binary(max_size=80), st.integers(0, 60))
def test_any_bytes_decode_or_are_refused(data: bytes, count: int) -> None:
    payload = count.to_bytes(2, "big") + data
    try:
        adapter = decode_adapter(payload)
    except PromptError:
        return
    assert adapter.values.size == count
    assert encode_adapter(adapter) == payload


def test_what_the_encoder_would_not_write_is_refused() -> None:
    data = encode_values(layers(2, 60, 60))
    for changed in (data + b"\0", data + b"\1", data[:-3], b"\xff" * len(data)):
        with pytest.raises(PromptError, match="coded adapter"):
            decode_values(changed, 120)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "0 bytes, expected at least 2"),
        (b"\0", "1 bytes, expected at least 2"),
        (b"\0\0\1", "adapter data of 1 bytes, expected 0"),
        ((MAX_ADAPTER_VALUES + 1).to_bytes(2, "big"), f"expected up to {MAX_ADAPTER_VALUES}"),
        (b"\xff\xff" + bytes(30), f"expected up to {MAX_ADAPTER_VALUES}"),
    ],
)
def test_malformed_sections_are_refused(payload: bytes, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        decode_adapter(payload)


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(4, np.int16),
        np.zeros((2, 2), np.int8),
        np.array([MAX_VALUE + 1], np.int8),
        np.array([-128], np.int8),
        np.zeros(MAX_ADAPTER_VALUES + 1, np.int8),
    ],
)
def test_adapters_refuse_what_the_syntax_cannot_hold(values: np.ndarray) -> None:
    with pytest.raises(PromptError, match="adapter"):
        Adapter(values)


def test_adapters_keep_their_own_copy() -> None:
    values = np.array([1, 2], np.int8)
    adapter = Adapter(values)
    values[0] = 7
    assert adapter.values.tolist() == [1, 2]
    with pytest.raises(ValueError, match="read-only"):
        adapter.values[0] = 1
    assert adapter == Adapter(np.array([1, 2], np.int8))
    assert adapter != Adapter(np.array([1, 3], np.int8))
    assert len({adapter, Adapter(np.array([1, 2], np.int8))}) == 1


@pytest.mark.parametrize("values", [np.zeros(0, np.int8), layers(5, 40, 40)])
def test_prompts_carry_adapters(values: NDArray[np.int8]) -> None:
    prompt = build_prompt(b"generate", 64, 48, 90, GateMap.uniform(64, 48), adapter=Adapter(values))
    assert [section.type for section in prompt.sections] == [1, 2, 4]
    content = parse_sections(decode_prompt(encode_prompt(prompt)))
    assert content.adapter == Adapter(values)
    assert content.quantiser == 90


def test_an_adapter_comes_once() -> None:
    section = Section(SectionType.ADAPTER, encode_adapter(Adapter(np.zeros(3, np.int8))))
    with pytest.raises(PromptError, match="two sections of type ADAPTER"):
        parse_sections(Prompt(b"generate", 64, 48, (section, section)))
    assert parse_sections(Prompt(b"generate", 64, 48, ())).adapter is None


def test_values_are_decoded_when_asked_for() -> None:
    values = layers(3, 30, 30)
    prompt = build_prompt(b"generate", 64, 48, 90, None, adapter=Adapter(values))
    content = parse_coded_sections(prompt)
    assert content.adapter is not None
    assert content.adapter.count == len(values)
    assert content.adapter.decode() == Adapter(values)
    assert content.decode() == parse_sections(prompt)
    broken = Section(SectionType.ADAPTER, len(values).to_bytes(2, "big") + b"\xff" * 40)
    prompt = Prompt(b"generate", 64, 48, (broken,))
    coded = parse_coded_sections(prompt).adapter
    assert coded is not None
    for refused in (coded.decode, parse_coded_sections(prompt).decode, lambda: parse_sections(prompt)):
        with pytest.raises(PromptError, match="coded adapter"):
            refused()


@pytest.mark.parametrize(
    "payload", [b"", b"\0", b"\0\0\1", (MAX_ADAPTER_VALUES + 1).to_bytes(2, "big") + bytes(30)]
)
def test_all_but_the_values_is_checked_at_once(payload: bytes) -> None:
    with pytest.raises(PromptError, match="adapter"):
        parse_coded_sections(Prompt(b"generate", 64, 48, (Section(SectionType.ADAPTER, payload),)))
    section = Section(SectionType.ADAPTER, encode_adapter(Adapter(layers(1, 9))))
    with pytest.raises(PromptError, match="two sections of type ADAPTER"):
        parse_coded_sections(Prompt(b"generate", 64, 48, (section, section)))
