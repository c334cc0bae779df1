"""The prompt envelope: round trips, each fault, and any bytes at all."""

import contextlib
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridprompt.errors import BitstreamError
from hybridprompt.prompt.sections import parse_sections
from hybridprompt.prompt.syntax import (
    MAX_PROMPT_BYTES,
    Prompt,
    PromptError,
    PromptFault,
    Section,
    decode_prompt,
    encode_prompt,
)

GENERATOR_ID = bytes(range(8))
SIZES = st.integers(16, 16384)
SECTIONS = st.builds(Section, st.integers(0, 255), st.binary(max_size=400))
PROMPTS = st.builds(
    Prompt,
    st.binary(min_size=8, max_size=8),
    SIZES,
    SIZES,
    st.lists(SECTIONS, max_size=6).map(tuple),
)


def sealed(body: bytes) -> bytes:
    """A body with its checksum, whatever it says."""
    return body + zlib.crc32(body).to_bytes(4, "big")


def fault_of(data: bytes) -> PromptFault:
    with pytest.raises(PromptError) as caught:
        decode_prompt(data)
    assert str(caught.value).startswith(caught.value.fault.value)
    return caught.value.fault


@settings(deadline=None)
@given(PROMPTS)
def test_decoding_undoes_encoding(prompt: Prompt) -> None:
    assert decode_prompt(encode_prompt(prompt)) == prompt


@settings(deadline=None)
@given(PROMPTS, st.data())
def test_every_cut_and_every_flipped_bit_is_noticed(prompt: Prompt, data: st.DataObject) -> None:
    encoded = encode_prompt(prompt)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    assert fault_of(encoded[:cut]) in (PromptFault.TRUNCATED, PromptFault.NOT_A_PROMPT)
    damaged = bytearray(encoded)
    damaged[data.draw(st.integers(0, len(encoded) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    fault_of(bytes(damaged))


def test_faults_are_told_apart() -> None:
    body = encode_prompt(Prompt(GENERATOR_ID, 320, 180, (Section(9, b"abc"),)))[:-4]
    assert fault_of(b"") is PromptFault.NOT_A_PROMPT
    assert fault_of(b"HPRX" + sealed(body)[4:]) is PromptFault.NOT_A_PROMPT
    assert fault_of(sealed(body[:4] + b"\x02" + body[5:])) is PromptFault.UNKNOWN_VERSION
    assert fault_of(sealed(body)[:-1]) is PromptFault.TRUNCATED
    assert fault_of(body[:-2] + b"?" + sealed(body)[-5:]) is PromptFault.CHECKSUM
    assert fault_of(sealed(body) + b"\0") is PromptFault.TRAILING_BYTES
    assert fault_of(sealed(body[:5] + b"\x80" + body[6:])) is PromptFault.INVALID  # flags
    assert fault_of(sealed(body[:14] + b"\0\x0f" + body[16:])) is PromptFault.INVALID  # width 15
    assert fault_of(sealed(body[:16] + b"\x40\x01" + body[18:])) is PromptFault.INVALID  # height 16385


@pytest.mark.parametrize("length", [b"\x83\x00", b"\x83\x80\x00", b"\x83\x80\x80\x00"])
def test_lengths_have_one_form_only(length: bytes) -> None:
    header = encode_prompt(Prompt(GENERATOR_ID, 320, 180))[:-5]
    assert decode_prompt(sealed(header + b"\x01\x09\x03abc")).sections == (Section(9, b"abc"),)
    assert fault_of(sealed(header + b"\x01\x09" + length + b"abc")) is PromptFault.INVALID


def test_layout_of_a_prompt_without_sections() -> None:
    # The checksum is that of an independent CRC-32: the remainder of the bits modulo 0x04C11DB7.
    expected = bytes.fromhex("4850524d 01 00 0001020304050607 0140 00b4 00")
    remainder = 0xFFFFFFFF
    for byte in expected:
        remainder ^= byte
        for _ in range(8):
            remainder = remainder >> 1 ^ (0xEDB88320 if remainder & 1 else 0)
    assert encode_prompt(Prompt(GENERATOR_ID, 320, 180)) == expected + (remainder ^ 0xFFFFFFFF).to_bytes(
        4, "big"
    )


def test_values_the_syntax_cannot_hold_are_refused() -> None:
    for arguments in [
        (b"short", 320, 180, ()),
        (GENERATOR_ID, 15, 180, ()),
        (GENERATOR_ID, 320, 16385, ()),
        (GENERATOR_ID, 320, 180, (Section(9, b""),) * 256),
    ]:
        with pytest.raises(PromptError):
            Prompt(*arguments)
    with pytest.raises(PromptError):
        Section(256, b"")


def test_prompts_above_one_mebibyte_are_refused() -> None:
    # 23 bytes of envelope and 4 of type and length.
    largest = Prompt(GENERATOR_ID, 320, 180, (Section(9, bytes(MAX_PROMPT_BYTES - 27)),))
    assert len(encode_prompt(largest)) == MAX_PROMPT_BYTES
    assert decode_prompt(encode_prompt(largest)) == largest
    with pytest.raises(PromptError):
        encode_prompt(Prompt(GENERATOR_ID, 320, 180, (Section(9, bytes(MAX_PROMPT_BYTES - 26)),)))
    assert fault_of(b"HPRM" + bytes(MAX_PROMPT_BYTES)) is PromptFault.INVALID


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=120), st.booleans(), st.booleans())
def test_any_bytes_give_a_prompt_or_a_bitstream_error(data: bytes, header: bool, checksum: bool) -> None:
    if header:
        data = bytes.fromhex("4850524d 01 00 0001020304050607 0140 00b4") + data
    if checksum:
        data = sealed(data)
    with contextlib.suppress(BitstreamError):
        prompt = decode_prompt(data)
        assert encode_prompt(prompt) == data
        parse_sections(prompt)
