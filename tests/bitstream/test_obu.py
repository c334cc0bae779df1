"""OBU parsing against real SVT-AV1 streams, against FFmpeg's own header parser, and against damage."""

import contextlib
import copy
import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from av1_headers import frame_obu, sequence_headers
from av1_streams import FRAMES, HEIGHT, WIDTH, HeaderTrace, decode, svt_stream
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hybridprompt.bitstream.bits import BitWriter
from hybridprompt.bitstream.frame_header import FrameHeaderParser
from hybridprompt.bitstream.obu import (
    FrameHeader,
    FrameType,
    HeaderTracker,
    Obu,
    ObuType,
    OperatingPoint,
    insert_metadata,
    iterate_obus,
    metadata_payloads,
    parse_sequence_header,
    strip_metadata,
)
from hybridprompt.errors import BitstreamError

STREAMS = {
    "random access": "",
    "low delay with S-frames": "pred-struct=1:sframe-posi=1:sframe-mode=4",
    "tiles and film grain": "tile-columns=1:tile-rows=1:film-grain=8",
    "super-resolution": "superres-mode=1:superres-denom=12",
    "resized": "resize-mode=1:resize-denom=12",
    "screen content": "scm=1",
    "forward keyframes": "keyint=8:irefresh-type=1",
}

SHOW_SLOT_3 = bytes([ObuType.FRAME_HEADER << 3 | 2, 1, 0b1_011_1000])


def parse_all(units: tuple[bytes, ...]) -> list[tuple[FrameHeader, ...]]:
    tracker = HeaderTracker()
    return [tracker.parse(unit) for unit in units]


@pytest.mark.parametrize("parameters", STREAMS.values(), ids=STREAMS.keys())
def test_frame_headers_agree_with_ffmpeg(parameters: str) -> None:
    trace = HeaderTrace()
    tracker = HeaderTracker()
    for unit in svt_stream(parameters):
        headers = tracker.parse(unit)
        expected = trace.feed(unit)
        coded = [header for header in headers if not header.show_existing_frame]
        assert [header.base_q_idx for header in coded] == expected.get("base_q_idx", [])
        assert [header.frame_type for header in coded] == expected.get("frame_type", [])
        assert [int(header.show_existing_frame) for header in headers] == expected["show_existing_frame"]


@pytest.mark.parametrize("parameters", STREAMS.values(), ids=STREAMS.keys())
def test_every_unit_shows_exactly_one_picture(parameters: str) -> None:
    units = svt_stream(parameters)
    assert len(units) == FRAMES
    assert [sum(header.shown for header in headers) for headers in parse_all(units)] == [1] * FRAMES


def test_headers_of_a_random_access_stream() -> None:
    headers = [header for unit in parse_all(svt_stream()) for header in unit]
    key = headers[0]
    assert (key.frame_type, key.width, key.height, key.order_hint) == (FrameType.KEY, WIDTH, HEIGHT, 0)
    assert key.is_intra
    assert key.refresh_frame_flags == 0xFF
    assert all(header.base_q_idx > key.base_q_idx for header in headers[1:])
    # Shown in display order, which the order hints count; shown again with what they were coded with.
    assert [header.order_hint for header in headers if header.shown] == list(range(FRAMES))
    hidden = {header.order_hint: header.base_q_idx for header in headers if not header.shown}
    repeated = {header.order_hint: header.base_q_idx for header in headers if header.show_existing_frame}
    assert repeated
    assert repeated == hidden


def test_sequence_header_of_a_real_stream() -> None:
    tracker = HeaderTracker()
    for unit in svt_stream("film-grain=8")[:1]:
        tracker.parse(unit)
    header = tracker.sequence_header
    assert header is not None
    assert (header.max_frame_width, header.max_frame_height) == (WIDTH, HEIGHT)
    assert header.film_grain_params_present
    assert header.enable_order_hint
    assert (header.color.bit_depth, header.color.subsampling_x, header.color.subsampling_y) == (8, 1, 1)


def test_obus_cover_the_unit_without_gaps() -> None:
    for unit in svt_stream():
        assert b"".join(obu.raw for obu in iterate_obus(unit)) == unit


def test_tracker_is_unchanged_by_a_unit_that_fails() -> None:
    units = svt_stream()
    tracker = HeaderTracker()
    tracker.parse(units[0])
    before = tracker.slots
    with pytest.raises(BitstreamError):
        tracker.parse(units[1] + b"\xff")
    assert tracker.slots is before
    assert [tracker.parse(unit) for unit in units[1:]] == parse_all(units)[1:]


def test_frames_before_the_sequence_header_are_refused() -> None:
    units = svt_stream()
    with pytest.raises(BitstreamError, match="before any sequence header"):
        HeaderTracker().parse(units[1])


def test_showing_a_slot_of_unknown_content_is_refused() -> None:
    started = HeaderTracker()
    started.parse(svt_stream()[0])
    joined = HeaderTracker(started.sequence_header)
    with pytest.raises(BitstreamError, match="byte 0: reference slot 3 holds no known frame"):
        joined.parse(SHOW_SLOT_3)


def test_shown_forward_keyframe_takes_every_slot() -> None:
    units = svt_stream()
    tracker = HeaderTracker()
    for unit in units[:10]:
        tracker.parse(unit)
    # As if slot 3 held a keyframe that was coded hidden.
    hidden = FrameHeader(FrameType.KEY, False, False, 11, 64, 48, 5, 0b1000)
    tracker._slots = (*tracker.slots[:3], hidden, *tracker.slots[4:])
    (shown,) = tracker.parse(SHOW_SLOT_3)
    assert shown.shown
    assert (shown.base_q_idx, shown.width, shown.refresh_frame_flags) == (11, 64, 0xFF)
    assert set(tracker.slots) == {shown}


# ------------------------------------------------------------------- headers no encoder at hand would write


def assert_agrees_with_ffmpeg(tracker: HeaderTracker, trace: HeaderTrace, unit: bytes) -> None:
    expected = trace.feed(unit, may_fail=True)
    assume("base_q_idx" in expected)  # FFmpeg refuses some random headers earlier than that
    assume(
        "ref_order_hint" not in expected
    )  # random ones mean lost frames, of which only FFmpeg makes something
    # More than 64 tiles a row or column are illegal; FFmpeg then takes the first 64 and reads on.
    assume(all(len(expected.get(f"{side}_in_sbs_minus_1", [])) < 64 for side in ("width", "height")))
    assert [header.base_q_idx for header in tracker.parse(unit)] == expected["base_q_idx"]


@settings(
    max_examples=500, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
)
@given(sequence_headers(), st.booleans(), st.binary(min_size=64, max_size=64))
def test_random_keyframe_headers_agree_with_ffmpeg(sequence: bytes, shown: bool, bits: bytes) -> None:
    key = bytes([(0b0001_0000 if shown else 0) | bits[0] & 0x0F]) + bits[1:]
    assert_agrees_with_ffmpeg(HeaderTracker(), HeaderTrace(), sequence + frame_obu(key))


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
)
@given(
    st.sampled_from([FrameType.INTER, FrameType.SWITCH, FrameType.INTRA_ONLY]),
    st.binary(min_size=64, max_size=64),
)
def test_random_inter_headers_agree_with_ffmpeg(frame_type: FrameType, bits: bytes) -> None:
    # In this stream the slots hold frames of different sizes and order hints.
    tracker, trace = HeaderTracker(), HeaderTrace()
    for unit in svt_stream(STREAMS["resized"])[:6]:
        tracker.parse(unit)
        trace.feed(unit)
    assert_agrees_with_ffmpeg(tracker, trace, frame_obu(bytes([frame_type << 5 | bits[0] & 0x1F]) + bits[1:]))


def test_more_than_64_tile_columns_are_refused() -> None:
    w = BitWriter()
    w.f(3, 0)
    w.f(2, 0b11)  # still_picture, reduced_still_picture_header
    w.f(5, 0)
    w.f(8, 0xFF)  # 16 bits each for width and height
    w.f(16, 65 * 64 - 1)
    w.f(16, 63)
    w.f(15, 1)  # no tool, 4:2:0, and the trailing bit right after film_grain_params_present
    payload = w.to_bytes()
    sequence = bytes([ObuType.SEQUENCE_HEADER << 3 | 2, len(payload)]) + payload
    # disable_cdf_update, allow_screen_content_tools, render_and_frame_size_different,
    # uniform_tile_spacing_flag, and then columns of one superblock each
    with pytest.raises(BitstreamError, match="more than 64 tile columns"):
        HeaderTracker().parse(sequence + frame_obu(bytes(64)))


def set_frame_refs_as_written(hints: list[int], now: int, bits: int, last: int, gold: int) -> list[int]:
    """AV1 7.8 step by step, without shortcuts."""
    half = 1 << (bits - 1)

    def distance(a: int) -> int:
        difference = a - now
        return (difference & (half - 1)) - (difference & half)

    shifted = [half + distance(hint) for hint in hints]
    refs = [-1] * 7
    refs[0], refs[3] = last, gold
    used = {last, gold}

    def find(backward: bool, latest: bool) -> int:
        best = -1
        for i in range(8):
            if i in used or (shifted[i] >= half) != backward:
                continue
            better = best < 0 or (shifted[i] >= shifted[best] if latest else shifted[i] < shifted[best])
            best = i if better else best
        return best

    for position, latest in ((6, True), (4, False), (5, False)):
        if (ref := find(True, latest)) >= 0:
            refs[position] = ref
            used.add(ref)
    for position in (1, 2, 4, 5, 6):
        if refs[position] < 0 and (ref := find(False, True)) >= 0:
            refs[position] = ref
            used.add(ref)
    earliest = 0
    for i in range(1, 8):
        if shifted[i] < shifted[earliest]:
            earliest = i
    return [earliest if ref < 0 else ref for ref in refs]


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 31), min_size=8, max_size=8),
    st.integers(0, 31),
    st.integers(0, 7),
    st.integers(0, 7),
)
def test_short_signaling_derives_the_references_of_7_8(
    hints: list[int], now: int, last: int, gold: int
) -> None:
    tracker = HeaderTracker()
    unit = svt_stream()[0]
    tracker.parse(unit)
    sequence = tracker.sequence_header
    assert sequence is not None
    slots = [FrameHeader(FrameType.INTER, True, False, 0, 64, 64, hint, 0) for hint in hints]
    parser = FrameHeaderParser(next(iterate_obus(unit)), sequence, slots)
    expected = set_frame_refs_as_written(hints, now, sequence.order_hint_bits, last, gold)
    assert parser._set_frame_refs(last, gold, now) == expected


# --------------------------------------------------------------------------------------------- framing


def test_only_the_last_obu_may_lack_its_size() -> None:
    unit = bytes([ObuType.TEMPORAL_DELIMITER << 3 | 2, 0, ObuType.PADDING << 3]) + b"abc"
    delimiter, padding = iterate_obus(unit)
    assert (delimiter.type, delimiter.payload) == (ObuType.TEMPORAL_DELIMITER, b"")
    assert (padding.type, padding.payload) == (ObuType.PADDING, b"abc")


def test_frames_outside_operating_point_0_are_skipped() -> None:
    tracker = HeaderTracker()
    tracker.parse(svt_stream()[0])
    assert tracker.sequence_header is not None
    base_layer_only = OperatingPoint(idc=0x101)
    layered = HeaderTracker(replace(tracker.sequence_header, operating_points=(base_layer_only,)))
    enhancement = bytes([ObuType.FRAME_HEADER << 3 | 6, 1 << 5, 1, 0b1_011_1000])
    assert layered.parse(enhancement) == ()
    with pytest.raises(BitstreamError, match="slot 3"):
        layered.parse(bytes([ObuType.FRAME_HEADER << 3 | 6, 0, 1, 0b1_011_1000]))


def test_extension_header_gives_the_layers() -> None:
    (obu,) = iterate_obus(bytes([ObuType.PADDING << 3 | 6, 5 << 5 | 2 << 3, 1, 9]))
    assert (obu.temporal_id, obu.spatial_id, obu.payload) == (5, 2, b"\x09")


@pytest.mark.parametrize(
    ("unit", "message"),
    [
        (b"\x92\x00", "obu_forbidden_bit"),
        (b"\x32", "byte 0 of 1"),
        (b"\x36", "byte 0 of 1"),
        (b"\x32\x05\x00", "claims 5 payload bytes, found 1"),
        (b"\x12\x00\x32\x80", "byte 2 of 4"),
        (b"\x32" + b"\xff" * 8 + b"\x01", "longer than 8 bytes"),
    ],
)
def test_malformed_framing_is_located(unit: bytes, message: str) -> None:
    with pytest.raises(BitstreamError, match=message):
        list(iterate_obus(unit))


@pytest.mark.parametrize("payload", [b"", b"\xe0\x00", b"\x00" * 2])
def test_malformed_sequence_headers_are_refused(payload: bytes) -> None:
    with pytest.raises(BitstreamError):
        parse_sequence_header(payload)


# -------------------------------------------------------------------------------------------- metadata


@settings(deadline=None)
@given(st.integers(6, 31), st.binary(max_size=300), st.integers(0, FRAMES - 1))
def test_metadata_round_trip(metadata_type: int, payload: bytes, index: int) -> None:
    unit = svt_stream()[index]
    carrying = insert_metadata(unit, metadata_type, payload)
    assert metadata_payloads(carrying, metadata_type) == [payload]
    assert metadata_payloads(carrying, metadata_type ^ 1) == []
    assert strip_metadata(carrying, metadata_type) == unit
    assert strip_metadata(carrying, metadata_type ^ 1) == carrying


def test_metadata_stands_right_before_the_first_frame() -> None:
    unit = svt_stream()[0]
    before = [obu.type for obu in iterate_obus(unit)]
    after = [obu.type for obu in iterate_obus(insert_metadata(unit, 24, b"x"))]
    first_frame = before.index(ObuType.FRAME)
    assert ObuType.SEQUENCE_HEADER in before[:first_frame]
    assert after == [*before[:first_frame], ObuType.METADATA, *before[first_frame:]]


def test_metadata_leaves_decoding_and_ffmpeg_untouched() -> None:
    units = svt_stream()
    carrying = tuple(insert_metadata(unit, 24, bytes([i, 0, 255])) for i, unit in enumerate(units))
    plain, with_metadata = decode(units), decode(carrying)
    assert len(plain) == len(with_metadata) == FRAMES
    assert all(np.array_equal(a, b) for a, b in zip(plain, with_metadata, strict=True))
    assert parse_all(carrying) == parse_all(units)
    assert HeaderTrace().feed(carrying[0])["metadata_type"] == [24]


def test_metadata_of_other_prefixes_is_left_alone() -> None:
    unit = svt_stream()[0]
    foreign = insert_metadata(unit, 24, b"other")
    both = insert_metadata(foreign, 24, b"mine!")
    assert metadata_payloads(both, 24, prefix=b"mine") == [b"mine!"]
    assert strip_metadata(both, 24, prefix=b"mine") == foreign


def test_metadata_without_trailing_bits_is_refused() -> None:
    with pytest.raises(BitstreamError, match="trailing bits"):
        metadata_payloads(bytes([ObuType.METADATA << 3 | 2, 3, 24, 1, 2]), 24)


def test_metadata_needs_a_frame() -> None:
    with pytest.raises(BitstreamError, match="no frame"):
        insert_metadata(b"\x12\x00", 24, b"")


# ----------------------------------------------------------------------------------------------- fuzz


def swallow_bitstream_errors(unit: bytes, tracker: HeaderTracker) -> None:
    calls: list[Callable[[], object]] = [
        lambda: list(iterate_obus(unit)),
        lambda: tracker.parse(unit),
        lambda: metadata_payloads(unit, 24),
        lambda: strip_metadata(unit, 24),
        lambda: insert_metadata(unit, 24, b"x"),
        lambda: parse_sequence_header(unit),
    ]
    for call in calls:
        with contextlib.suppress(BitstreamError):
            call()


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_values_or_bitstream_errors(unit: bytes) -> None:
    swallow_bitstream_errors(unit, HeaderTracker())


def test_mutated_real_units_give_values_or_bitstream_errors() -> None:
    generator = random.Random(1)
    units = svt_stream(STREAMS["tiles and film grain"])
    started = HeaderTracker()
    started.parse(units[0])
    for _ in range(1500):
        unit = bytearray(generator.choice(units))
        for _ in range(generator.randint(1, 6)):
            unit[generator.randrange(min(len(unit), 60))] ^= 1 << generator.randrange(8)
        cut = generator.choice([len(unit), generator.randrange(len(unit))])
        swallow_bitstream_errors(bytes(unit[:cut]), copy.copy(started))


def test_obu_repr_is_short() -> None:
    assert repr(Obu(ObuType.FRAME, b"\x32\x01\x00", 0, 2, 3)) == "Obu(FRAME, offset=0, size_bytes=3)"
