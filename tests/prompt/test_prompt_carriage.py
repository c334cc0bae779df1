"""Prompts in AV1 temporal units, and the worked example of docs/bitstream.md."""

import contextlib
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridprompt.bitstream.obu import insert_metadata
from hybridprompt.errors import BitstreamError
from hybridprompt.prompt.carriage import METADATA_TYPE, attach, detach, extract
from hybridprompt.prompt.gate import GateMap
from hybridprompt.prompt.sections import PromptContent, build_prompt, parse_sections
from hybridprompt.prompt.syntax import MAGIC, decode_prompt, encode_prompt

# A temporal delimiter, padding, and what stands for a frame: carriage looks at no frame's inside.
UNIT = bytes.fromhex("1200 7a0155 3203010203")
GATE = GateMap(6, 4, np.array([[0, 0, 1, 1, 0], [1, 2, 3, 3, 1], [2, 3, 3, 3, 2]], np.uint8))
PROMPT = encode_prompt(build_prompt(bytes.fromhex("0123456789abcdef"), 320, 180, 78, GATE))


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_attach_extract_detach(rest: bytes) -> None:
    carrying = attach(UNIT, MAGIC + rest)
    assert extract(carrying) == MAGIC + rest
    assert detach(carrying) == UNIT
    assert extract(UNIT) is None
    assert detach(UNIT) == UNIT


def test_payloads_of_others_are_neither_seen_nor_touched() -> None:
    foreign = insert_metadata(insert_metadata(UNIT, METADATA_TYPE, b"theirs"), 4, MAGIC)
    assert extract(foreign) is None
    assert extract(attach(foreign, PROMPT)) == PROMPT
    assert detach(attach(foreign, PROMPT)) == foreign


def test_a_unit_carries_one_prompt() -> None:
    carrying = attach(UNIT, PROMPT)
    with pytest.raises(BitstreamError, match="already"):
        attach(carrying, PROMPT)
    with pytest.raises(BitstreamError, match="2 prompts"):
        extract(insert_metadata(carrying, METADATA_TYPE, PROMPT))


def test_only_prompts_are_attached() -> None:
    with pytest.raises(BitstreamError, match="expected b'HPRM'"):
        attach(UNIT, b"something else")


def test_worked_example_of_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "bitstream.md").read_text()
    (dump,) = re.findall(r"```hexdump\n(.*?)```", text, re.DOTALL)
    # The bytes end where two spaces or more begin the explanation.
    obu = b"".join(bytes.fromhex(re.split(r"\s{2,}", line)[0]) for line in dump.splitlines())
    assert len(obu) == 39
    assert attach(UNIT, PROMPT) == UNIT[:5] + obu + UNIT[5:]
    extracted = extract(obu + UNIT)
    assert extracted is not None
    decoded = decode_prompt(extracted)
    assert decoded.generator_id.hex() == "0123456789abcdef"
    assert parse_sections(decoded) == PromptContent(78, GATE)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, len(UNIT) + len(PROMPT) + 3), st.integers(1, 255)), max_size=5),
    st.binary(),
)
def test_damaged_units_give_values_or_bitstream_errors(damage: list[tuple[int, int]], tail: bytes) -> None:
    unit = bytearray(attach(UNIT, PROMPT) + tail)
    for position, mask in damage:
        unit[position] ^= mask
    for call in (extract, detach, lambda data: attach(data, PROMPT)):
        with contextlib.suppress(BitstreamError):
            call(bytes(unit))
    with contextlib.suppress(BitstreamError):
        extracted = extract(bytes(unit))
        if extracted is not None:
            parse_sections(decode_prompt(extracted))
