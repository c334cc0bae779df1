"""Generating at anchors: exact where the prompt is good, the base where it is not."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest

from hybridprompt.bitstream.obu import HeaderTracker, insert_metadata
from hybridprompt.bitstream.show_hidden import split_at_first_frame
from hybridprompt.decode.headers import HeaderHistory, existing_slot, starts_gop
from hybridprompt.decode.injection import GopDecoding, decode_gop
from hybridprompt.decode.warnings import DecodeWarning, WarningCollector, WarningKind
from hybridprompt.errors import CodecError, GeneratorError
from hybridprompt.generator.fake import FakeGenerator
from hybridprompt.prompt import adapter_coding, sections
from hybridprompt.prompt.carriage import METADATA_TYPE, attach
from hybridprompt.prompt.gate import GateMap, grid_shape
from hybridprompt.prompt.sections import (
    MAX_ADAPTER_VALUES,
    Adapter,
    SectionType,
    build_prompt,
    encode_adapter,
)
from hybridprompt.prompt.syntax import MAGIC, Prompt, Section, encode_prompt
from hybridprompt.video.av1_decoder import Av1Decoder
from hybridprompt.video.av1_encoder import Av1Settings, CodedPacket, encode_gop, sequence_header
from prompted_media import (
    ANCHORS,
    GOP_LENGTH,
    HEIGHT,
    TICK,
    WIDTH,
    Lookup,
    Planes,
    a_prompt,
    assert_same,
    moving_pictures,
    reference_decode,
    with_prompt,
)

Gop = list[CodedPacket]


class Spy(FakeGenerator):
    """Remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.quantisers: list[int] = []

    def generate(self, planes, *, quantiser, strengths, block_size):
        self.quantisers.append(quantiser)
        return super().generate(planes, quantiser=quantiser, strengths=strengths, block_size=block_size)


def decode(packets: Gop, generator: FakeGenerator | None = None, **options):
    """Decode one GOP; return planes, indices of anchors, and warnings."""
    warnings: list[DecodeWarning] = []
    lookup = None if generator is None else Lookup(generator)
    decoding = GopDecoding(TICK, generators=lookup, on_warning=warnings.append)
    decoded = list(decode_gop(packets, decoding, **options))
    planes = [picture.picture.planes for picture in decoded]
    return planes, [picture.index for picture in decoded if picture.is_anchor], warnings


def test_generated_pictures_are_what_the_others_are_predicted_from(prompted_gops: list[Gop]) -> None:
    for gop in prompted_gops:
        planes, anchors, warnings = decode(gop, FakeGenerator())
        assert_same(planes, reference_decode(gop, FakeGenerator()))
        assert anchors == list(ANCHORS)
        assert warnings == []
    base = reference_decode(gop)
    # The detail travels: pictures between anchors are brighter too, except on the gate's left.
    assert planes[5][0][:, 64:].mean() > base[5][0][:, 64:].mean() + 15
    assert np.array_equal(planes[0][0][:, :32], base[0][0][:, :32])


def test_an_anchor_may_be_a_frame_decoded_before_it_is_shown(prompted_gops: list[Gop]) -> None:
    assert existing_slot(prompted_gops[0][ANCHORS[1]].data) is not None


def test_base_ignores_prompts(base_gops: list[Gop], prompted_gops: list[Gop]) -> None:
    planes, anchors, warnings = decode(prompted_gops[0])
    assert_same(planes, reference_decode(base_gops[0]))
    assert anchors == []
    assert warnings == []


def test_prompts_given_by_hand_take_the_place_of_those_in_the_packets(
    base_gops: list[Gop], prompted_gops: list[Gop]
) -> None:
    given = dict.fromkeys(ANCHORS, a_prompt())
    planes, anchors, _ = decode(base_gops[0], FakeGenerator(), prompts=given)
    assert_same(planes, reference_decode(prompted_gops[0], FakeGenerator()))
    assert anchors == list(ANCHORS)
    planes, anchors, _ = decode(prompted_gops[0], FakeGenerator(), prompts=dict.fromkeys(ANCHORS))
    assert_same(planes, reference_decode(base_gops[0]))
    assert anchors == []


def test_pictures_cannot_be_written_to(prompted_gops: list[Gop]) -> None:
    for picture in decode_gop(prompted_gops[0], GopDecoding(TICK, generators=Lookup(FakeGenerator()))):
        for plane in picture.picture.planes:
            with pytest.raises(ValueError, match="read-only"):
                plane[0, 0] = 1


def test_pictures_do_not_change_after_they_came_out(prompted_gops: list[Gop]) -> None:
    kept, copies = [], []
    for picture in decode_gop(prompted_gops[0], GopDecoding(TICK, generators=Lookup(FakeGenerator()))):
        kept.append(picture.picture.planes)
        copies.append(picture.picture.copied().planes)
    assert_same(kept, copies)


@pytest.mark.parametrize("index", ANCHORS)
def test_without_a_quantiser_the_generator_is_told_the_pictures_own(base_gops: list[Gop], index: int) -> None:
    gop = base_gops[0]
    tracker = HeaderTracker()
    shown = [[header for header in tracker.parse(packet.data) if header.shown][-1] for packet in gop]
    spy = Spy()
    decode(gop, spy, prompts={index: build_prompt(b"fakefake", WIDTH, HEIGHT, None, None)})
    assert spy.quantisers == [shown[index].base_q_idx]
    assert shown[0].base_q_idx != shown[ANCHORS[1]].base_q_idx
    spy = Spy()
    decode(gop, spy, prompts={index: build_prompt(b"fakefake", WIDTH, HEIGHT, 7, None)})
    assert spy.quantisers == [7]


@pytest.mark.parametrize("generator_id", [b"fakefake", b"stranger"])
@pytest.mark.parametrize("quantiser", [90, None])
def test_a_gate_of_nothing_replaces_nothing(
    base_gops: list[Gop], generator_id: bytes, quantiser: int | None
) -> None:
    """Nor is a generator looked for."""
    gop, spy = base_gops[0], Spy()
    hidden, _ = hidden_base(gop)
    gate = GateMap.uniform(WIDTH, HEIGHT, index=0)
    prompt = build_prompt(generator_id, WIDTH, HEIGHT, quantiser, gate)
    expected = reference_decode(gop)
    for indices in (ANCHORS, (hidden,)):
        planes, anchors, warnings = decode(gop, spy, prompts=dict.fromkeys(indices, prompt))
        assert_same(planes, expected)
        assert anchors == []
        assert warnings == []
    assert spy.quantisers == []


def flipped(data: bytes) -> bytes:
    return data[:20] + bytes([data[20] ^ 1]) + data[21:]


def with_section(section: Section) -> bytes:
    return encode_prompt(Prompt(b"fakefake", WIDTH, HEIGHT, (section,)))


GOOD = encode_prompt(a_prompt())


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (lambda: flipped(GOOD), WarningKind.PROMPT_DAMAGED),
        (lambda: GOOD[:-1], WarningKind.PROMPT_DAMAGED),
        (lambda: MAGIC, WarningKind.PROMPT_DAMAGED),
        (lambda: GOOD + b"x", WarningKind.PROMPT_DAMAGED),
        (lambda: MAGIC + b"\x02" + GOOD[5:], WarningKind.PROMPT_DAMAGED),
        (lambda: with_section(Section(SectionType.GATE, b"abc")), WarningKind.PROMPT_DAMAGED),
        (lambda: with_section(Section(SectionType.ADAPTER, b"\xff\xff\0")), WarningKind.PROMPT_DAMAGED),
        (lambda: encode_prompt(a_prompt(generator_id=b"stranger")), WarningKind.GENERATOR_UNKNOWN),
        (lambda: encode_prompt(a_prompt(size=(160, 90))), WarningKind.PROMPT_MISFIT),
    ],
    ids=["flipped", "cut", "magic-only", "too-long", "version", "section", "adapter", "stranger", "size"],
)
@pytest.mark.parametrize("index", ANCHORS)
def test_a_bad_prompt_leaves_the_base_and_one_warning(
    base_gops: list[Gop], damage: Callable[[], bytes], kind: WarningKind, index: int
) -> None:
    gop = [with_prompt(p, damage()) if i == index else p for i, p in enumerate(base_gops[1])]
    planes, anchors, warnings = decode(gop, FakeGenerator())
    assert_same(planes, reference_decode(base_gops[1]))
    assert anchors == []
    assert [warning.kind for warning in warnings] == [kind]
    if kind is not WarningKind.GENERATOR_UNKNOWN:
        assert warnings[0].pts_seconds == pytest.approx((GOP_LENGTH + index) / 30)


def test_a_bad_prompt_does_not_spoil_the_good_one(base_gops: list[Gop], prompted_gops: list[Gop]) -> None:
    gop = [with_prompt(base_gops[0][0], flipped(GOOD)), *prompted_gops[0][1:]]
    planes, anchors, warnings = decode(gop, FakeGenerator())
    alone = [base_gops[0][0], *prompted_gops[0][1:]]
    assert_same(planes, reference_decode(alone, FakeGenerator()))
    assert anchors == [ANCHORS[1]]
    assert len(warnings) == 1


def test_two_prompts_in_a_unit_are_none(base_gops: list[Gop]) -> None:
    twice = insert_metadata(attach(base_gops[0][0].data, GOOD), METADATA_TYPE, GOOD)
    gop = [replace(base_gops[0][0], data=twice), *base_gops[0][1:]]
    planes, anchors, warnings = decode(gop, FakeGenerator())
    assert_same(planes, reference_decode(base_gops[0]))
    assert anchors == []
    assert [warning.kind for warning in warnings] == [WarningKind.PROMPT_DAMAGED]
    assert "2 prompts" in warnings[0].message


def test_payloads_of_others_are_left_alone(base_gops: list[Gop]) -> None:
    gop = [replace(p, data=insert_metadata(p.data, METADATA_TYPE, b"theirs HPRM")) for p in base_gops[0]]
    planes, anchors, warnings = decode(gop, FakeGenerator())
    assert_same(planes, reference_decode(base_gops[0]))
    assert (anchors, warnings) == ([], [])


class Failing(FakeGenerator):
    def generate(self, planes, *, quantiser, strengths, block_size):
        raise GeneratorError("out of order")


class Misshapen(FakeGenerator):
    def generate(self, planes, *, quantiser, strengths, block_size):
        return planes[0], planes[1][1:], planes[2]


@pytest.mark.parametrize("generator", [Failing(), Misshapen()])
def test_a_failing_generator_leaves_the_base(
    base_gops: list[Gop], prompted_gops: list[Gop], generator: FakeGenerator
) -> None:
    planes, anchors, warnings = decode(prompted_gops[0], generator)
    assert_same(planes, reference_decode(base_gops[0]))
    assert anchors == []
    assert [warning.kind for warning in warnings] == [WarningKind.GENERATION_FAILED] * 2


def with_adapter(prompt: Prompt, *values: int) -> Prompt:
    payload = encode_adapter(Adapter(np.array(values, np.int8)))
    return replace(prompt, sections=(*prompt.sections, Section(SectionType.ADAPTER, payload)))


def brightened(gop: Gop, prompts: dict[int, Prompt], offsets: dict[int, int]) -> list[Planes]:
    """What the GOP shows when the generator of each prompt has another offset, without adapters."""
    plain = {
        index: replace(prompt, generator_id=bytes([offsets[index]] * 8), sections=prompt.sections[:2])
        for index, prompt in prompts.items()
    }
    lookup = Lookup(*(FakeGenerator(offset, bytes([offset] * 8)) for offset in set(offsets.values())))
    shown = decode_gop(gop, GopDecoding(TICK, generators=lookup), prompts=plain)
    return [picture.picture.planes for picture in shown]


@pytest.mark.parametrize(
    ("key", "later", "offsets"),
    [
        ((9,), None, (29, 29)),
        ((9,), (-5,), (29, 15)),
        ((9,), (), (29, 20)),
        (None, (9,), (20, 29)),
        ((), None, (20, 20)),
    ],
    ids=["stays", "replaced", "taken back", "from then on", "none to take back"],
)
def test_an_adapter_holds_until_the_next(
    base_gops: list[Gop], key: tuple[int, ...] | None, later: tuple[int, ...] | None, offsets: tuple[int, int]
) -> None:
    """Note [Adapters stay] in `decode.generation`."""
    prompts = {
        index: a_prompt() if values is None else with_adapter(a_prompt(), *values)
        for index, values in zip(ANCHORS, (key, later), strict=True)
    }
    planes, anchors, warnings = decode(base_gops[0], FakeGenerator(20), prompts=prompts)
    assert_same(planes, brightened(base_gops[0], prompts, dict(zip(ANCHORS, offsets, strict=True))))
    assert anchors == list(ANCHORS)
    assert warnings == []


def test_an_adapter_holds_where_its_own_picture_is_not_generated(base_gops: list[Gop]) -> None:
    nothing = build_prompt(b"fakefake", WIDTH, HEIGHT, 90, GateMap.uniform(WIDTH, HEIGHT, index=0))
    prompts = {0: with_adapter(nothing, 9), ANCHORS[1]: a_prompt()}
    planes, anchors, _ = decode(base_gops[0], FakeGenerator(20), prompts=prompts)
    assert_same(planes, brightened(base_gops[0], {ANCHORS[1]: a_prompt()}, {ANCHORS[1]: 29}))
    assert anchors == [ANCHORS[1]]


def test_an_adapter_is_for_its_generator_and_its_gop(base_gops: list[Gop]) -> None:
    other = FakeGenerator(20, b"stranger")
    prompts = {0: with_adapter(a_prompt(), 9), ANCHORS[1]: a_prompt(generator_id=b"stranger")}
    decoding = GopDecoding(TICK, generators=Lookup(FakeGenerator(20), other))
    for gop, given, offsets in (
        (base_gops[0], prompts, {0: 29, ANCHORS[1]: 20}),
        (base_gops[1], {0: a_prompt()}, {0: 20}),
    ):
        shown = [picture.picture.planes for picture in decode_gop(gop, decoding, prompts=given)]
        assert_same(shown, brightened(gop, given, offsets))


def test_the_last_adapter_counts_whosever_it_is(base_gops: list[Gop]) -> None:
    """So that a client never holds more than one."""
    hidden, _ = hidden_base(base_gops[0])
    assert ANCHORS[0] < hidden != ANCHORS[1]
    first, second = sorted((hidden, ANCHORS[1]))
    prompts = {
        0: with_adapter(a_prompt(), 9),
        first: with_adapter(a_prompt(generator_id=b"stranger"), 4),
        second: a_prompt(),
    }
    decoding = GopDecoding(TICK, generators=Lookup(FakeGenerator(20), FakeGenerator(20, b"stranger")))
    shown = [picture.picture.planes for picture in decode_gop(base_gops[0], decoding, prompts=prompts)]
    assert_same(shown, brightened(base_gops[0], prompts, {0: 29, first: 24, second: 20}))


def test_the_adapter_of_a_refused_prompt_is_refused_too(base_gops: list[Gop]) -> None:
    broken = with_adapter(a_prompt(), 9)
    broken = replace(broken, sections=(*broken.sections, Section(SectionType.STILL, b"\1nothing")))
    planes, anchors, warnings = decode(
        base_gops[0], FakeGenerator(20), prompts={0: broken, ANCHORS[1]: a_prompt()}
    )
    assert_same(planes, brightened(base_gops[0], {ANCHORS[1]: a_prompt()}, {ANCHORS[1]: 20}))
    assert anchors == [ANCHORS[1]]
    assert [warning.kind for warning in warnings] == [WarningKind.PROMPT_DAMAGED]


def test_an_adapter_of_another_generator_leaves_the_base(base_gops: list[Gop]) -> None:
    prompts = {0: with_adapter(a_prompt(), 1, 2, 3)}
    planes, anchors, warnings = decode(base_gops[0], FakeGenerator(), prompts=prompts)
    assert_same(planes, reference_decode(base_gops[0]))
    assert anchors == []
    assert [warning.kind for warning in warnings] == [WarningKind.GENERATION_FAILED]
    assert "an adapter of 3 values, expected 1" in warnings[0].message


BROKEN = Section(SectionType.ADAPTER, b"\0\1" + bytes(40))
"""For a generator of one value; its header is fine."""


@pytest.fixture
def decoded_counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many values every adapter has whose code is decoded."""
    counts: list[int] = []

    def decode_values(data: bytes, count: int):
        counts.append(count)
        return adapter_coding.decode_values(data, count)

    monkeypatch.setattr(sections, "decode_values", decode_values)
    return counts


def with_broken_adapter(prompt: Prompt) -> Prompt:
    return replace(prompt, sections=(*prompt.sections, BROKEN))


def test_adapters_that_no_generator_runs_with_are_not_decoded(
    base_gops: list[Gop], decoded_counts: list[int]
) -> None:
    """Some bytes may hold thousands of values, which take longer than the picture."""
    nothing = build_prompt(b"fakefake", WIDTH, HEIGHT, 90, GateMap.uniform(WIDTH, HEIGHT, index=0))
    unknown = a_prompt(generator_id=b"stranger")
    adapter = [15] * MAX_ADAPTER_VALUES
    for prompt, kinds in (
        (with_adapter(nothing, *adapter), []),
        (with_adapter(unknown, *adapter), [WarningKind.GENERATOR_UNKNOWN] * 2),
        (with_adapter(a_prompt(), *adapter), [WarningKind.GENERATION_FAILED] * 2),
        (with_broken_adapter(unknown), [WarningKind.GENERATOR_UNKNOWN] * 2),
        (with_broken_adapter(nothing), []),
    ):
        planes, anchors, warnings = decode(
            base_gops[0], FakeGenerator(20), prompts=dict.fromkeys(ANCHORS, prompt)
        )
        assert_same(planes, reference_decode(base_gops[0]))
        assert anchors == []
        assert [warning.kind for warning in warnings] == kinds
    assert decoded_counts == []


def test_an_adapter_is_decoded_once(base_gops: list[Gop], decoded_counts: list[int]) -> None:
    prompts = {0: with_adapter(a_prompt(), 9), ANCHORS[1]: a_prompt()}
    planes, _, _ = decode(base_gops[0], FakeGenerator(20), prompts=prompts)
    assert_same(planes, brightened(base_gops[0], prompts, {0: 29, ANCHORS[1]: 29}))
    assert decoded_counts == [1]


def test_a_broken_adapter_leaves_the_base_and_those_before_it(base_gops: list[Gop]) -> None:
    hidden, _ = hidden_base(base_gops[0])
    first, second = sorted((hidden, ANCHORS[1]))
    prompts = {0: with_adapter(a_prompt(), 9), first: with_broken_adapter(a_prompt()), second: a_prompt()}
    planes, _, warnings = decode(base_gops[0], FakeGenerator(20), prompts=prompts)
    good = {0: a_prompt(), second: a_prompt()}
    assert_same(planes, brightened(base_gops[0], good, {0: 29, second: 29}))
    assert [warning.kind for warning in warnings] == [WarningKind.PROMPT_DAMAGED]
    assert "coded adapter" in warnings[0].message


def test_a_broken_adapter_is_found_where_a_generator_is_to_run_with_it(
    base_gops: list[Gop], decoded_counts: list[int]
) -> None:
    nothing = build_prompt(b"fakefake", WIDTH, HEIGHT, 90, GateMap.uniform(WIDTH, HEIGHT, index=0))
    hidden, _ = hidden_base(base_gops[0])
    first, second = sorted((hidden, ANCHORS[1]))
    prompts = {0: with_broken_adapter(nothing), first: a_prompt(), second: a_prompt()}
    planes, anchors, warnings = decode(base_gops[0], FakeGenerator(20), prompts=prompts)
    assert_same(planes, reference_decode(base_gops[0]))
    assert anchors == []
    assert [warning.kind for warning in warnings] == [WarningKind.PROMPT_DAMAGED] * 2
    assert all("an earlier prompt's adapter" in warning.message for warning in warnings)
    assert decoded_counts == [1]
    prompts[second] = with_adapter(a_prompt(), 9)
    planes, _, warnings = decode(base_gops[0], FakeGenerator(20), prompts=prompts)
    assert_same(planes, brightened(base_gops[0], {second: a_prompt()}, {second: 29}))
    assert len(warnings) == 1


class Unloadable:
    def find(self, identity: bytes) -> None:
        raise GeneratorError("weights are damaged")


def test_an_unknown_generator_is_one_warning_for_the_whole_file(prompted_gops: list[Gop]) -> None:
    for lookup in (Lookup(), Unloadable()):
        collector = WarningCollector()
        decoding = GopDecoding(TICK, generators=lookup, on_warning=collector.add)
        for gop in prompted_gops:
            assert not any(picture.is_anchor for picture in decode_gop(gop, decoding))
        assert [warning.kind for warning in collector.found] == [WarningKind.GENERATOR_UNKNOWN]
        assert collector.found[0].pts_seconds is None


def stream_of(extra: tuple[tuple[str, str], ...]) -> Gop:
    settings = Av1Settings(
        width=WIDTH, height=HEIGHT, frame_rate=Fraction(30), time_base=TICK, crf=40, preset=10, extra=extra
    )
    return encode_gop(moving_pictures(4), settings)


def test_film_grain_is_not_generated_upon() -> None:
    gop = stream_of((("film-grain", "20"),))
    planes, anchors, warnings = decode([with_prompt(gop[0]), *gop[1:]], FakeGenerator())
    plain, _, _ = decode(gop)
    assert_same(planes, plain)
    assert anchors == []
    assert [warning.kind for warning in warnings] == [WarningKind.PROMPT_MISFIT]
    assert "film grain" in warnings[0].message


def hidden_base(gop: Gop) -> tuple[int, HeaderTracker]:
    """Index of the first packet that begins with a hidden frame, and a tracker of all before it."""
    tracker = HeaderTracker()
    for index, packet in enumerate(gop):
        if split_at_first_frame(packet.data, tracker) is not None:
            return index, tracker
        tracker.parse(packet.data)
    raise AssertionError("no hidden frame")


def test_a_hidden_frame_is_generated_before_what_predicts_from_it(base_gops: list[Gop]) -> None:
    gop = base_gops[0]
    at, tracker = hidden_base(gop)
    planes, anchors, warnings = decode([*gop[:at], with_prompt(gop[at]), *gop[at + 1 :]], FakeGenerator())
    split = split_at_first_frame(gop[at].data, tracker)
    assert split is not None
    expected: list[Planes] = []
    with Av1Decoder() as decoder:
        for index, packet in enumerate(gop):
            if index == at:
                (frame,) = decoder.decode(split.first, packet.pts)
                strengths = np.ones(grid_shape(WIDTH, HEIGHT, 5), np.float32)
                strengths[:, 0] = 0
                generated = FakeGenerator().generate(
                    frame.picture.planes, quantiser=90, strengths=strengths, block_size=32
                )
                frame.overwrite(*generated)
            data = split.rest if index == at else packet.data
            expected += [f.picture.copied().planes for f in decoder.decode(data, packet.pts)]
    assert_same(planes, expected)
    assert warnings == []
    base = reference_decode(gop)
    (shown,) = anchors
    changed = [i for i in range(at, shown) if not np.array_equal(planes[i][0], base[i][0])]
    assert changed, "frames shown before the hidden one predict from it"
    assert np.array_equal(planes[shown][0], generated[0])


def test_a_hidden_frame_without_the_shown_one_is_no_anchor(base_gops: list[Gop]) -> None:
    """Cut a temporal unit in two: the part with the hidden frames shows nothing, and loses nothing."""
    gop = base_gops[0]
    at, tracker = hidden_base(gop)
    split = split_at_first_frame(gop[at].data, tracker)
    assert split is not None
    cut = len(gop[at].data) - len(split.rest)
    hidden = replace(gop[at], data=attach(gop[at].data[:cut], GOOD))
    shown = replace(gop[at], data=gop[at].data[cut:])
    planes, anchors, warnings = decode([*gop[:at], hidden, shown, *gop[at + 1 :]], FakeGenerator())
    assert len(planes) == len(gop)
    assert len(anchors) == 1
    assert warnings == []


def test_a_picture_shown_again_is_no_anchor(base_gops: list[Gop]) -> None:
    """Its buffer is out already; changing it would change a picture that was delivered."""
    gop = base_gops[0]
    again = replace(gop[ANCHORS[1]], data=gop[ANCHORS[1]].data)
    first_time = with_prompt(gop[ANCHORS[1]])
    packets = [*gop[: ANCHORS[1]], first_time, with_prompt(again)]
    spy = Spy()
    _, anchors, warnings = decode(packets, spy)
    assert anchors == [ANCHORS[1]]
    assert [warning.kind for warning in warnings] == [WarningKind.PROMPT_MISFIT]
    assert len(spy.quantisers) == 1


def test_a_damaged_packet_raises(base_gops: list[Gop]) -> None:
    gop = base_gops[0]
    with pytest.raises(CodecError):
        decode([*gop[:3], replace(gop[3], data=gop[3].data[:10] + bytes(20)), *gop[4:]])


def test_gops_start_at_shown_keyframes_only(base_gops: list[Gop]) -> None:
    keyframe, inter = base_gops[0][0], base_gops[0][1]
    header = sequence_header(keyframe.data)
    assert header is not None
    assert starts_gop(keyframe)
    assert not starts_gop(inter)
    assert not starts_gop(replace(inter, is_keyframe=True), header)
    # Without any header nothing can be told but by the container.
    assert starts_gop(replace(inter, is_keyframe=True))


def test_header_history_forgets_what_it_has_parsed(
    base_gops: list[Gop], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = HeaderHistory(None)
    monkeypatch.setattr("hybridprompt.decode.headers.MAX_PENDING_BYTES", 1 << 30)
    for packet in base_gops[0]:
        whole.append(packet.data)
    monkeypatch.setattr("hybridprompt.decode.headers.MAX_PENDING_BYTES", 0)
    eager = HeaderHistory(None)
    for packet in base_gops[0]:
        eager.append(packet.data)
        assert eager._pending == []
    assert eager.last_shown() == whole.last_shown()


def test_ten_bits_are_not_generated_upon() -> None:
    context = av.CodecContext.create("libsvtav1", "w")
    context.width, context.height, context.pix_fmt = WIDTH, HEIGHT, "yuv420p10le"
    context.time_base, context.framerate = TICK, 1 / TICK
    context.options = {"preset": "10", "crf": "40"}
    units = []
    for picture in moving_pictures(3):
        frame = picture.to_frame().reformat(format="yuv420p10le")
        frame.pts, frame.time_base = picture.pts, TICK
        units += context.encode(frame)
    units += context.encode(None)
    gop = [CodedPacket(bytes(u), n, n, 1, u.is_keyframe) for n, u in enumerate(units)]
    planes, anchors, warnings = decode([with_prompt(gop[0]), *gop[1:]], FakeGenerator())
    plain, _, _ = decode(gop)
    assert_same(planes, plain)
    assert anchors == []
    assert [warning.kind for warning in warnings] == [WarningKind.PROMPT_MISFIT]
