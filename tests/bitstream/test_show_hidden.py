"""Frame headers to their end, and hidden frames made to be shown, against FFmpeg's parser and dav1d."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from av1_headers import frame_obu, sequence_headers
from av1_streams import FRAMES, HeaderTrace, svt_stream
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from hybridprompt.bitstream.bits import BitReader, BitWriter, encode_leb128
from hybridprompt.bitstream.frame_header import PRIMARY_REF_NONE, FrameHeaderParser
from hybridprompt.bitstream.frame_header_end import read_header_end
from hybridprompt.bitstream.obu import FrameType, HeaderTracker, Obu, ObuType, TimingInfo, iterate_obus
from hybridprompt.bitstream.show_hidden import SplitUnit, split_at_first_frame
from hybridprompt.errors import BitstreamError
from hybridprompt.video.av1_decoder import Av1Decoder
from hybridprompt.video.packet_decoder import DecodedFrame

STREAMS = {
    "random access": "",
    "tiles": "tile-columns=1:tile-rows=1",
    "super-resolution": "superres-mode=1:superres-denom=12",
    "resized": "resize-mode=1:resize-denom=12",
    "screen content": "scm=1",
    "low delay with S-frames": "pred-struct=1:sframe-posi=1:sframe-mode=4",
    "hidden intra-only frames": "keyint=8:irefresh-type=1",
    "quantiser matrices and segments": "enable-qm=1:aq-mode=1",
    "lossless": "lossless=1",
    "slow": "preset=3",
}
# S-frames stand in streams without hidden frames; the decoder refuses some units of SVT-AV1's lossless mode.
SPLITTABLE = [name for name in STREAMS if name not in ("low delay with S-frames", "lossless")]
FIRST_HIDDEN = 1  # the unit that begins with the first mini-GOP's base picture

Planes = tuple[np.ndarray, ...]


def tracker_before(units: tuple[bytes, ...], index: int) -> HeaderTracker:
    tracker = HeaderTracker()
    for unit in units[:index]:
        tracker.parse(unit)
    return tracker


def split_unit(parameters: str = "", index: int = FIRST_HIDDEN) -> SplitUnit:
    units = svt_stream(parameters)
    split = split_at_first_frame(units[index], tracker_before(units, index))
    assert split is not None
    return split


def planes(frames: list[DecodedFrame]) -> Planes:
    (frame,) = frames
    return frame.picture.copied().planes


def same(a: Planes, b: Planes) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def decoded(units: tuple[bytes, ...]) -> list[Planes]:
    with Av1Decoder() as decoder:
        return [planes(decoder.decode(unit, index)) for index, unit in enumerate(units)]


# --------------------------------------------------------------------------------- the end of the header


def header_ends(tracker: HeaderTracker, unit: bytes) -> list[int]:
    """Read the headers of the coded frames to their ends; the tracker then has parsed the unit."""
    ends = []
    for obu in iterate_obus(unit):
        if obu.type in (ObuType.FRAME, ObuType.FRAME_HEADER):
            sequence = tracker.sequence_header
            assert sequence is not None
            parser = FrameHeaderParser(obu, sequence, tracker.slots)
            header, _ = parser.parse()
            if not header.show_existing_frame:
                ends.append(read_header_end(parser, header))
        tracker.parse(obu.raw)
    return ends


@pytest.mark.parametrize("parameters", STREAMS.values(), ids=STREAMS.keys())
def test_header_ends_agree_with_ffmpeg(parameters: str) -> None:
    tracker, trace = HeaderTracker(), HeaderTrace()
    for unit in svt_stream(parameters):
        assert header_ends(tracker, unit) == [bits["end"] for bits in trace.header_bits(unit)]


def assert_agrees_with_ffmpeg(tracker: HeaderTracker, trace: HeaderTrace, unit: bytes) -> None:
    expected = trace.header_bits(unit, may_fail=True)
    assume(len(expected) == 1)  # FFmpeg refuses some random headers
    # Random ones mean lost frames, of which only FFmpeg makes something.
    assume("ref_order_hint" not in expected[0])
    try:
        ends = header_ends(tracker, unit)
    except BitstreamError as error:
        # FFmpeg reads on where a row or column has more than 64 tiles, which is illegal.
        assume(not any(reason in str(error) for reason in ("segmentation", "more than 64 tile")))
        raise
    assert ends == [expected[0]["end"]]


# One draw, not st.randoms(): Hypothesis is slow with hundreds of draws per example.
SEEDED = st.integers(0, 2**32 - 1).map(Random)
FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
)


def random_frame(frame_type: FrameType, shown: bool, random: Random) -> bytes:
    """A frame that is coded, not shown again, without error_resilient_mode where that is coded."""
    # Runs of ones among the random bits: long codes, everything enabled.
    bits = bytes(random.choice((255, random.getrandbits(8))) for _ in range(300))
    free = 0b1111 if frame_type is FrameType.KEY else 0b0111 if shown else 0b1011
    return frame_obu(bytes([frame_type << 5 | shown << 4 | bits[0] & free]) + bits[1:])


@st.composite
def quantisers(draw: st.DrawFn, parser: FrameHeaderParser) -> BitWriter:
    """quantization_params() and segmentation_params() that are lossless or nearly so."""
    color = parser.seq.color
    w = BitWriter()

    def flag(value: bool) -> bool:
        w.f(1, value)
        return value

    base_q_idx = draw(st.sampled_from([0, 0, 3, 255]))
    w.f(8, base_q_idx)
    has_deltas = draw(st.booleans())
    for count in (1,) if color.mono_chrome else (1, 2):
        if count == 2 and color.separate_uv_delta_q:
            flag(False)  # diff_uv_delta
        for _ in range(count):
            if flag(has_deltas and draw(st.booleans())):
                w.f(7, draw(st.integers(0, 127)))
    flag(False)  # using_qmatrix
    if not flag(draw(st.booleans())):
        return w
    if parser.primary_ref_frame != PRIMARY_REF_NONE:
        flag(False)  # segmentation_update_map
        if not flag(draw(st.booleans())):  # segmentation_update_data
            return w
    q_deltas = draw(st.sampled_from([[-base_q_idx], [-255], [0], [-255, 0], [1]]))
    for segment in range(8):
        q_delta = q_deltas[segment % len(q_deltas)]
        if flag(q_delta != 0 or draw(st.booleans())):
            w.f(9, q_delta % 512)
        for _ in range(7):
            flag(False)
    return w


def with_quantisers(unit: bytes, tracker: HeaderTracker, data: st.DataObject) -> bytes:
    """The unit of one frame, with other bits from base_q_idx on."""
    *others, frame = iterate_obus(unit)
    started = HeaderTracker(tracker.sequence_header)
    started.parse(b"".join(obu.raw for obu in others))
    assert started.sequence_header is not None
    parser = FrameHeaderParser(frame, started.sequence_header, tracker.slots)
    try:
        parser.parse()
    except BitstreamError:
        assume(False)
    replaced = with_bits(frame, parser.r.position - 8, data.draw(quantisers(parser)))
    return unit[: frame.offset] + replaced


def with_bits(frame: Obu, position: int, replacement: BitWriter) -> bytes:
    """The OBU_FRAME with other bits from `position` of its payload on."""
    size = replacement.position
    reader, writer = BitReader(frame.payload), BitWriter()
    writer.f(position, reader.f(position))
    writer.f(size, BitReader(replacement.to_bytes()).f(size))
    reader.f(size)
    writer.f(reader.remaining, reader.f(reader.remaining))
    return frame_obu(writer.to_bytes())


def with_empty_tiles(key: bytes) -> bytes:
    """The unit of a keyframe with zero bits after its header: FFmpeg then takes the frame for complete."""
    *others, frame = iterate_obus(key)
    elements = HeaderTrace().header_bits(key, may_fail=True)
    assume(elements)
    reader, writer = BitReader(frame.payload), BitWriter()
    writer.f(elements[0]["end"], reader.f(elements[0]["end"]))
    return b"".join(obu.raw for obu in others) + frame_obu(writer.to_bytes() + bytes(4))


@FUZZ
@given(
    sequence_headers(film_grain=False),
    st.sampled_from([FrameType.INTER, FrameType.INTRA_ONLY]),
    st.booleans(),
    st.booleans(),
    SEEDED,
    st.data(),
)
def test_random_headers_agree_with_ffmpeg(
    sequence: bytes,
    frame_type: FrameType,
    shown: bool,
    nearly_lossless: bool,
    random: Random,
    data: st.DataObject,
) -> None:
    """A keyframe in a random sequence, and a frame after it."""
    tracker, trace = HeaderTracker(), HeaderTrace()
    for unit in (
        sequence + random_frame(FrameType.KEY, True, random),
        random_frame(frame_type, shown, random),
    ):
        chosen = with_quantisers(unit, tracker, data) if nearly_lossless else unit
        chosen = with_empty_tiles(chosen) if unit.startswith(sequence) else chosen
        assert_agrees_with_ffmpeg(tracker, trace, chosen)


@FUZZ
@given(
    st.sampled_from(["resized", "random access"]),
    st.integers(1, FRAMES),
    st.booleans(),
    SEEDED,
)
def test_random_inter_headers_agree_with_ffmpeg(name: str, count: int, shown: bool, random: Random) -> None:
    tracker, trace = HeaderTracker(), HeaderTrace()
    for unit in svt_stream(STREAMS[name])[:count]:
        tracker.parse(unit)
        trace.feed(unit)
    assert_agrees_with_ffmpeg(tracker, trace, random_frame(FrameType.INTER, shown, random))


def test_segments_of_an_earlier_frame_do_not_matter_with_quantiser_deltas() -> None:
    unit = svt_stream()[FIRST_HIDDEN]
    frame = next(obu for obu in iterate_obus(unit) if obu.type is ObuType.FRAME)
    w = BitWriter()
    w.f(8, 200)  # base_q_idx
    w.f(1 + 7, 0x81)  # DeltaQYDc
    w.f(2 + 1, 0)  # the other deltas, using_qmatrix
    w.f(3, 0b100)  # segmentation_enabled, segmentation_update_map, segmentation_update_data
    changed = with_bits(frame, first_frame_elements()["base_q_idx"], w)
    trace = HeaderTrace()
    for earlier in svt_stream()[:FIRST_HIDDEN]:
        trace.feed(earlier)
    (elements,) = trace.header_bits(changed, may_fail=True)
    assert header_ends(tracker_before(svt_stream(), FIRST_HIDDEN), changed) == [elements["end"]]


# ------------------------------------------------------------------------------------- decoding with dav1d


@pytest.mark.parametrize("name", SPLITTABLE)
def test_split_units_decode_to_the_same_pictures(name: str) -> None:
    units = svt_stream(STREAMS[name])
    expected = decoded(units)
    tracker = HeaderTracker()
    hidden: list[tuple[int, Planes]] = []
    with Av1Decoder() as decoder:
        for index, unit in enumerate(units):
            split = split_at_first_frame(unit, tracker)
            headers = tracker.parse(unit)
            if split is not None:
                assert split.header == headers[0]
                hidden.append((split.header.order_hint, planes(decoder.decode(split.first, index))))
            rest = unit if split is None else split.rest
            assert same(planes(decoder.decode(rest, index)), expected[index])
    assert hidden
    assert all(same(picture, expected[order_hint]) for order_hint, picture in hidden)


def test_overwriting_a_hidden_frame_changes_what_predicts_from_it() -> None:
    units = svt_stream()
    expected = decoded(units)
    split = split_unit()
    pictures = []
    with Av1Decoder() as decoder:
        for index, unit in enumerate(units):
            if index == FIRST_HIDDEN:
                (hidden,) = decoder.decode(split.first, index)
                injected = tuple(np.ascontiguousarray(255 - plane[::-1]) for plane in hidden.picture.planes)
                hidden.overwrite(*injected)
                unit = split.rest
            pictures.append(planes(decoder.decode(unit, index)))
    shown = split.header.order_hint
    assert shown > FIRST_HIDDEN + 1
    assert same(pictures[shown], injected)
    changed = [index for index in range(FRAMES) if not same(pictures[index], expected[index])]
    assert changed == list(range(FIRST_HIDDEN, FRAMES))


# ------------------------------------------------------------------------------------------ the split itself


def test_only_the_header_of_the_first_frame_changes() -> None:
    unit, split = svt_stream()[FIRST_HIDDEN], split_unit()
    before, after = list(iterate_obus(unit)), list(iterate_obus(split.first))
    assert [obu.type for obu in after] == [obu.type for obu in before[: len(after)]]
    assert [obu.raw for obu in after[:-1]] == [obu.raw for obu in before[: len(after) - 1]]
    assert unit.endswith(split.rest)
    assert [obu.raw for obu in iterate_obus(split.rest)] == [obu.raw for obu in before[len(after) :]]
    tracker = tracker_before(svt_stream(), FIRST_HIDDEN)
    assert tracker.parse(split.first) == (replace(split.header, show_frame=True),)


def test_the_tracker_is_left_as_it_is() -> None:
    tracker = tracker_before(svt_stream(), FIRST_HIDDEN)
    sequence, slots = tracker.sequence_header, tracker.slots
    split_at_first_frame(svt_stream()[FIRST_HIDDEN], tracker)
    assert tracker.sequence_header is sequence
    assert tracker.slots is slots


def test_units_that_begin_with_a_shown_frame_are_not_split() -> None:
    units = svt_stream()
    tracker = HeaderTracker()
    whole = []
    for index, unit in enumerate(units):
        split = split_at_first_frame(unit, tracker)
        assert (split is None) == tracker.parse(unit)[0].shown
        if split is None:
            whole.append(index)
    assert 0 in whole
    assert 16 in whole, "shows the base picture of the mini-GOP again"
    assert split_at_first_frame(b"", tracker) is None


def obu_bytes(obu_type: ObuType, payload: bytes) -> bytes:
    return bytes([obu_type << 3 | 2]) + encode_leb128(len(payload)) + payload


def with_own_header_obu(frame: Obu, end: int, *, copies: int = 0) -> bytes:
    """Turn an OBU_FRAME into an OBU_FRAME_HEADER, redundant copies of it, and an OBU_TILE_GROUP."""
    size = end // 8 + 1  # a whole byte of trailing bits where the header ends at a byte
    bits = int.from_bytes(frame.payload[:size], "big") >> (8 * size - end)
    header = ((bits << 1 | 1) << (8 * size - end - 1)).to_bytes(size, "big")
    return (
        obu_bytes(ObuType.FRAME_HEADER, header)
        + obu_bytes(ObuType.REDUNDANT_FRAME_HEADER, header) * copies
        + obu_bytes(ObuType.TILE_GROUP, frame.payload[(end + 7) // 8 :])
    )


@pytest.mark.parametrize("copies", [0, 2])
def test_headers_in_obus_of_their_own(copies: int) -> None:
    units = svt_stream()
    expected = split_unit()
    trace = HeaderTrace()
    for unit in units[:FIRST_HIDDEN]:
        trace.feed(unit)
    bits = trace.header_bits(units[FIRST_HIDDEN])
    frames = [obu for obu in iterate_obus(units[FIRST_HIDDEN]) if obu.type is ObuType.FRAME]
    assert len(frames) == len(bits) > 1
    parts = [
        with_own_header_obu(frame, elements["end"], copies=copies)
        for frame, elements in zip(frames, bits, strict=True)
    ]
    padding = obu_bytes(ObuType.PADDING, b"\x80")
    unit = parts[0] + padding + b"".join(parts[1:])
    split = split_at_first_frame(unit, tracker_before(units, FIRST_HIDDEN))
    assert split is not None
    assert split.header == expected.header
    assert split.rest == padding + b"".join(parts[1:])
    (frame,) = [obu for obu in iterate_obus(expected.first) if obu.type is ObuType.FRAME]
    assert split.first == with_own_header_obu(frame, bits[0]["end"] - 1)
    with Av1Decoder() as ours, Av1Decoder() as theirs:
        for index in range(FIRST_HIDDEN):
            ours.decode(units[index], index)
            theirs.decode(units[index], index)
        for a, b in ((split.first, expected.first), (split.rest, expected.rest)):
            assert same(planes(ours.decode(a, FIRST_HIDDEN)), planes(theirs.decode(b, FIRST_HIDDEN)))


def first_frame_with(bit_values: dict[int, int]) -> bytes:
    """The first hidden frame as a unit of its own, with some bits of its header replaced."""
    frame = next(obu for obu in iterate_obus(svt_stream()[FIRST_HIDDEN]) if obu.type is ObuType.FRAME)
    payload = bytearray(frame.payload)
    for position, value in bit_values.items():
        mask = 0x80 >> (position & 7)
        payload[position >> 3] = payload[position >> 3] & ~mask | (mask if value else 0)
    return frame_obu(bytes(payload))


def first_frame_elements() -> dict[str, int]:
    trace = HeaderTrace()
    for unit in svt_stream()[:FIRST_HIDDEN]:
        trace.feed(unit)
    return trace.header_bits(svt_stream()[FIRST_HIDDEN])[0]


def test_a_last_obu_without_its_size() -> None:
    unit = first_frame_with({})
    sized = split_at_first_frame(unit, tracker_before(svt_stream(), FIRST_HIDDEN))
    payload = next(iterate_obus(unit)).payload
    split = split_at_first_frame(
        bytes([ObuType.FRAME << 3]) + payload, tracker_before(svt_stream(), FIRST_HIDDEN)
    )
    assert split == sized
    assert split is not None
    assert split.rest == b""


def refusal(unit: bytes, tracker: HeaderTracker) -> str:
    with pytest.raises(BitstreamError) as caught:
        split_at_first_frame(unit, tracker)
    return str(caught.value)


def test_headers_that_cannot_be_rewritten_are_refused() -> None:
    tracker = tracker_before(svt_stream(), FIRST_HIDDEN)
    at = first_frame_elements()
    key = first_frame_with({1: 0, 2: 0})
    assert (
        refusal(key, tracker) == "first frame, at byte 0: the hidden frame cannot be shown: it is a KEY frame"
    )
    assert "SWITCH frame" in refusal(first_frame_with({1: 1, 2: 1}), tracker)
    assert "not showable" in refusal(first_frame_with({4: 0}), tracker)
    segments = at["segmentation_enabled"]
    earlier_segments = first_frame_with({segments: 1, segments + 1: 0, segments + 2: 0})
    assert "segmentation parameters are those of an earlier frame" in refusal(earlier_segments, tracker)
    assert at["end"] % 8
    assert "bits after the header" in refusal(first_frame_with({at["end"]: 1}), tracker)


def test_streams_that_cannot_be_rewritten_are_refused() -> None:
    units = svt_stream("film-grain=8")
    assert "film grain" in refusal(units[FIRST_HIDDEN], tracker_before(units, FIRST_HIDDEN))
    units = svt_stream()
    tracker = tracker_before(units, FIRST_HIDDEN)
    assert tracker.sequence_header is not None
    assert "reference slot" in refusal(units[FIRST_HIDDEN], HeaderTracker(tracker.sequence_header))
    assert "before any sequence header" in refusal(units[FIRST_HIDDEN], HeaderTracker())
    timing = TimingInfo(1, 30, False, True, 8, 8, 8)
    tracker._sequence_header = replace(tracker.sequence_header, timing_info=timing)
    # Without buffer removal times: buffer_removal_time_present_flag takes the place of another bit.
    assert "presentation times" in refusal(units[FIRST_HIDDEN], tracker)


def damaged(unit: bytes, changes: list[tuple[float, int]], cut: float) -> bytes:
    data = bytearray(unit)
    for where, value in changes:
        data[int(where * len(data))] ^= value
    return bytes(data[: len(data) - int(cut * len(data))])


@settings(max_examples=400, deadline=None)
@given(
    st.integers(0, FRAMES - 1),
    st.lists(st.tuples(st.floats(0, 0.999) | st.floats(0, 0.1), st.integers(1, 255)), max_size=6),
    st.just(0.0) | st.floats(0, 1),
)
@example(FIRST_HIDDEN, [], 0.0)
def test_damage_gives_a_value_or_a_bitstream_error(
    index: int, changes: list[tuple[float, int]], cut: float
) -> None:
    units = svt_stream()
    tracker = tracker_before(units, index)
    try:
        split = split_at_first_frame(damaged(units[index], changes, cut), tracker)
    except BitstreamError:
        return
    if split is not None:
        assert tracker.parse(split.first) == (replace(split.header, show_frame=True),)
