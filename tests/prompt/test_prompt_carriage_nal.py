"""Prompts in H.264 and H.265 access units: synthetic, of real encoders, and damaged."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridprompt.bitstream.nal import NalCodec, frame_nal_unit, join_nal_units
from hybridprompt.bitstream.sei import SeiMessage, insert_user_data, write_sei
from hybridprompt.errors import BitstreamError
from hybridprompt.prompt.carriage_nal import PROMPT_UUID, attach, detach, extract
from hybridprompt.prompt.gate import GateMap
from hybridprompt.prompt.sections import PromptContent, build_prompt, parse_sections
from hybridprompt.prompt.syntax import MAGIC, MAX_PROMPT_BYTES, decode_prompt, encode_prompt
from nal_media import Stream, differing, encode, encode_mp4, moving, play

NALS = {
    NalCodec.H264: [bytes.fromhex("6742"), bytes.fromhex("6588aa")],
    NalCodec.H265: [bytes.fromhex("420107"), bytes.fromhex("260188aa")],
}
GATE = GateMap(6, 4, np.array([[0, 0], [1, 2]], np.uint8))
PROMPT = encode_prompt(build_prompt(bytes.fromhex("0123456789abcdef"), 98, 70, 78, GATE))
each_codec = pytest.mark.parametrize("codec", list(NalCodec))
codecs, length_sizes = st.sampled_from(list(NalCodec)), st.sampled_from([None, 2, 4])


@settings(deadline=None)
@given(st.binary(max_size=300), codecs, length_sizes)
def test_attach_extract_detach(rest: bytes, codec: NalCodec, length_size: int | None) -> None:
    unit = join_nal_units(NALS[codec], length_size=length_size)
    carrying = attach(unit, MAGIC + rest, codec=codec, length_size=length_size)
    assert extract(carrying, codec=codec, length_size=length_size) == MAGIC + rest
    assert detach(carrying, codec=codec, length_size=length_size) == unit
    assert extract(unit, codec=codec, length_size=length_size) is None
    assert detach(unit, codec=codec, length_size=length_size) == unit


@pytest.mark.parametrize(("codec", "header"), [(NalCodec.H264, "06"), (NalCodec.H265, "4e01")])
def test_worked_example(codec: NalCodec, header: str) -> None:
    """The prompt of the example in docs/bitstream.md."""
    prompt = bytes.fromhex("4850524d 0100 0123456789abcdef 014000b4 02 01014e 0207 060301 051bdbf8 402991cf")
    sei = bytes.fromhex(f"00000001 {header} 05 33 8247fb5443274579a9fb2c18fc3b9027") + prompt + b"\x80"
    first, last = (frame_nal_unit(nal) for nal in NALS[codec])
    assert attach(first + last, prompt, codec=codec) == first + sei + last


@each_codec
@pytest.mark.parametrize("is_mp4", [False, True])
def test_real_streams_carry_prompts_and_play_as_before(codec: NalCodec, is_mp4: bool) -> None:
    stream = (encode_mp4 if is_mp4 else encode)(moving(6, 98, 70), codec)
    packets = tuple(
        (attach(data, PROMPT, codec=codec, length_size=stream.length_size), pts)
        for data, pts in stream.packets
    )
    for (data, _), (plain, _) in zip(packets, stream.packets, strict=True):
        found = extract(data, codec=codec, length_size=stream.length_size)
        assert found is not None
        assert parse_sections(decode_prompt(found)) == PromptContent(78, GATE)
        assert detach(data, codec=codec, length_size=stream.length_size) == plain
    carrying = Stream(codec, stream.extradata, packets, stream.length_size)
    assert not differing(play(carrying), play(stream))


@each_codec
def test_a_unit_carries_one_prompt(codec: NalCodec) -> None:
    unit = join_nal_units(NALS[codec])
    carrying = attach(unit, PROMPT, codec=codec)
    with pytest.raises(BitstreamError, match="already"):
        attach(carrying, PROMPT, codec=codec)
    twice = insert_user_data(carrying, PROMPT_UUID, PROMPT, codec=codec)
    with pytest.raises(BitstreamError, match="2 prompts"):
        extract(twice, codec=codec)
    assert detach(twice, codec=codec) == unit


@each_codec
def test_payloads_of_others_are_neither_seen_nor_touched(codec: NalCodec) -> None:
    unit = insert_user_data(join_nal_units(NALS[codec]), bytes(range(16, 32)), PROMPT, codec=codec)
    unit = insert_user_data(unit, PROMPT_UUID, b"theirs", codec=codec)
    assert extract(unit, codec=codec) is None
    assert extract(attach(unit, PROMPT, codec=codec), codec=codec) == PROMPT
    assert detach(attach(unit, PROMPT, codec=codec), codec=codec) == unit


@each_codec
def test_a_prompt_that_shares_its_nal_unit_is_found(codec: NalCodec) -> None:
    other = SeiMessage(1, b"\0\0\0")
    shared = write_sei([other, SeiMessage(5, PROMPT_UUID + PROMPT)], codec=codec)
    first, last = NALS[codec]
    unit = join_nal_units([first, shared, last])
    assert extract(unit, codec=codec) == PROMPT
    assert detach(unit, codec=codec) == join_nal_units([first, write_sei([other], codec=codec), last])


@each_codec
def test_only_prompts_of_allowed_size_are_carried(codec: NalCodec) -> None:
    unit = join_nal_units(NALS[codec])
    with pytest.raises(BitstreamError, match="expected b'HPRM'"):
        attach(unit, b"something else", codec=codec)
    largest = MAGIC + bytes(MAX_PROMPT_BYTES - len(MAGIC))
    assert extract(attach(unit, largest, codec=codec), codec=codec) == largest
    with pytest.raises(BitstreamError, match="expected at most 1048576"):
        attach(unit, largest + b"x", codec=codec)
    with pytest.raises(BitstreamError, match="expected at most 1048576"):
        extract(insert_user_data(unit, PROMPT_UUID, largest + b"x", codec=codec), codec=codec)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(1, 255)), max_size=5),
    st.binary(max_size=40),
    codecs,
    length_sizes,
)
def test_damaged_units_give_values_or_bitstream_errors(
    damage: list[tuple[int, int]], tail: bytes, codec: NalCodec, length_size: int | None
) -> None:
    framed = join_nal_units(NALS[codec], length_size=length_size)
    unit = bytearray(attach(framed, PROMPT, codec=codec, length_size=length_size) + tail)
    for position, mask in damage:
        unit[position % len(unit)] ^= mask
    data = bytes(unit)
    with contextlib.suppress(BitstreamError):
        detach(data, codec=codec, length_size=length_size)
    with contextlib.suppress(BitstreamError):
        attach(data, PROMPT, codec=codec, length_size=length_size)
    with contextlib.suppress(BitstreamError):
        extracted = extract(data, codec=codec, length_size=length_size)
        if extracted is not None:
            parse_sections(decode_prompt(extracted))
