"""Stills: decoding them, what is refused before that, and AV1 streams whose prompts have one."""

from dataclasses import replace

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridprompt.bitstream.obu import HeaderTracker
from hybridprompt.decode import still as still_module
from hybridprompt.decode.injection import GopDecoding, GopPicture, decode_gop
from hybridprompt.decode.still import decode_still, still_header
from hybridprompt.decode.warnings import DecodeWarning, WarningKind
from hybridprompt.errors import BitstreamError, CodecError
from hybridprompt.generator.fake import FakeGenerator
from hybridprompt.prompt.carriage import attach
from hybridprompt.prompt.gate import GateMap, grid_shape
from hybridprompt.prompt.sections import SectionType, Still, StillCodec, build_prompt
from hybridprompt.prompt.syntax import Prompt, Section, encode_prompt
from hybridprompt.video.av1_encoder import Av1Settings, CodedPacket, encode_gop
from hybridprompt.video.picture import Picture
from nal_media import moving
from nal_prompted_media import still_of, still_prompt
from prompted_media import (
    ANCHORS,
    HEIGHT,
    TICK,
    WIDTH,
    Lookup,
    Planes,
    a_prompt,
    assert_same,
    planes_of,
    reference_decode,
    with_prompt,
)

Gop = list[CodedPacket]
DELIMITER = b"\x12\0"


def picture_of(width: int, height: int) -> Picture:
    return moving(1, width, height, seed=9)[0]


@pytest.fixture(scope="module")
def still() -> Still:
    return still_of(picture_of(WIDTH, HEIGHT))


def by_av(still: Still, size: tuple[int, int] | None = None) -> Planes:
    """Decoded, and scaled, with PyAV alone."""
    context = av.CodecContext.create("libdav1d", "r")
    context.options = {"max_frame_delay": "1"}
    (frame,) = context.decode(av.Packet(still.data))
    if size is not None:
        flags = Interpolation.LANCZOS | Interpolation.ACCURATE_RND
        frame = frame.reformat(width=size[0], height=size[1], interpolation=flags)
    return planes_of(frame)


def test_a_still_of_the_pictures_size(still: Still) -> None:
    decoded = decode_still(still, WIDTH, HEIGHT)
    assert_same([decoded.planes], [by_av(still)])
    assert decoded.coded_size == (WIDTH, HEIGHT)
    (header,) = HeaderTracker().parse(still.data)
    assert decoded.base_q_idx == header.base_q_idx > 0


@pytest.mark.parametrize("coded", [(64, 64), (90, 66), (255, 141), (255, 256)])
def test_a_smaller_still_is_scaled_up(coded: tuple[int, int]) -> None:
    small = still_of(picture_of(*coded))
    decoded = decode_still(small, 256, 256)
    assert_same([decoded.planes], [by_av(small, (256, 256))])
    assert [plane.shape for plane in decoded.planes] == [(256, 256), (128, 128), (128, 128)]
    assert decoded.coded_size == coded


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        ((95, 96), "96 wide, expected 24 to 95"),
        ((96, 95), "96 high, expected 24 to 95"),
        ((385, 96), "96 wide, expected 97 to 385"),
        ((96, 385), "96 high, expected 97 to 385"),
    ],
)
def test_sizes_out_of_bounds_are_refused_before_decoding(
    monkeypatch: pytest.MonkeyPatch, picture: tuple[int, int], message: str
) -> None:
    coded = still_of(picture_of(96, 96))
    for size in ((96, 96), (384, 384)):
        decode_still(coded, *size)
    monkeypatch.delattr(still_module, "Av1Decoder")
    with pytest.raises(BitstreamError, match=message):
        decode_still(coded, *picture)


def _with_options(**options: str) -> bytes:
    """A frame of other kinds than 8-bit 4:2:0 without film grain, without its delimiter."""
    context = av.CodecContext.create("libsvtav1", "w")
    context.width, context.height, context.time_base = 96, 96, TICK
    context.pix_fmt = options.pop("pix_fmt", "yuv420p")
    context.options = {"preset": "10", **options}
    frame = picture_of(96, 96).to_frame().reformat(format=context.pix_fmt)
    packets = [*context.encode(frame), *context.encode(None)]
    return bytes(packets[0]).removeprefix(DELIMITER)


def test_other_kinds_are_refused_before_decoding(
    monkeypatch: pytest.MonkeyPatch, base_gops: list[Gop]
) -> None:
    good = still_of(picture_of(96, 96)).data
    assert still_header(Still(StillCodec.AV1, _with_options())).width == 96
    monkeypatch.delattr(still_module, "Av1Decoder")
    for data, message in (
        (DELIMITER + good, "temporal delimiter"),
        (good + good, "2 frames"),
        (good[: good.index(b"\x32")], "0 frames"),
        (good[good.index(b"\x32") :], "before any sequence header"),
        (base_gops[0][1].data.removeprefix(DELIMITER), "before any sequence header"),
        (good + b"\xff", "OBU header"),
        (_with_options(pix_fmt="yuv420p10le"), "10 bits"),
        (_with_options(**{"svtav1-params": "film-grain=8"}), "film grain"),
    ):
        with pytest.raises(BitstreamError, match=message):
            decode_still(Still(StillCodec.AV1, data), 96, 96)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 255)), max_size=5),
    st.one_of(st.none(), st.integers(1, 4000)),
)
def test_any_damage_gives_a_still_or_our_errors(damage: list[tuple[int, int]], cut: int | None) -> None:
    data = bytearray(_DAMAGED[:cut])
    for position, mask in damage:
        data[position % len(data)] ^= mask
    try:
        decoded = decode_still(Still(StillCodec.AV1, bytes(data)), 100, 98)
    except (BitstreamError, CodecError):
        return
    assert [plane.shape for plane in decoded.planes] == [(98, 100), (49, 50), (49, 50)]


_DAMAGED = still_of(picture_of(96, 96)).data


# ------------------------------------------------------------------------------------------ in AV1 streams


def decode(packets: Gop, *generators: FakeGenerator) -> tuple[list[GopPicture], list[DecodeWarning]]:
    """Without generators decode the base."""
    warnings: list[DecodeWarning] = []
    decoding = GopDecoding(
        TICK, generators=Lookup(*generators) if generators else None, on_warning=warnings.append
    )
    return list(decode_gop(packets, decoding)), warnings


def overwritten(packets: Gop, planes: dict[int, Planes]) -> list[Planes]:
    """Decode with PyAV alone, with other pictures at these packets."""
    context = av.CodecContext.create("libdav1d", "r")
    context.thread_count = 1
    context.options = {"max_frame_delay": "1"}
    decoded = []
    for index, packet in enumerate(packets):
        (frame,) = context.decode(av.Packet(packet.data))
        for plane, samples in zip(frame.planes, planes.get(index, ()), strict=index in planes):
            rows = np.zeros((plane.height, plane.line_size), np.uint8)
            rows[:, : plane.width] = samples
            plane.update(rows.tobytes())
        decoded.append(planes_of(frame))
    return decoded


def prompted(gop: Gop, prompt: Prompt, indices: tuple[int, ...]) -> Gop:
    return [
        replace(packet, data=attach(packet.data, encode_prompt(prompt))) if index in indices else packet
        for index, packet in enumerate(gop)
    ]


def generated(planes: Planes) -> Planes:
    strengths = np.ones(grid_shape(WIDTH, HEIGHT, 5), np.float32)
    strengths[:, 0] = 0
    return FakeGenerator().generate(planes, quantiser=90, strengths=strengths, block_size=32)


@pytest.mark.parametrize("coded", [(WIDTH, HEIGHT), (80, 64)])
@pytest.mark.parametrize("played", ["generated", "generator unknown", "base"])
def test_av1_with_stills(base_gops: list[Gop], coded: tuple[int, int], played: str) -> None:
    small = still_of(picture_of(*coded))
    gop = prompted(base_gops[0], still_prompt(small, WIDTH, HEIGHT), ANCHORS)
    generators = {
        "generated": [FakeGenerator()],
        "generator unknown": [FakeGenerator(identity=b"stranger")],
        "base": [],
    }
    shown, warnings = decode(gop, *generators[played])
    planes = by_av(small, (WIDTH, HEIGHT))
    if played == "generated":
        planes = generated(planes)
    assert_same([p.picture.planes for p in shown], overwritten(base_gops[0], dict.fromkeys(ANCHORS, planes)))
    assert [p.index for p in shown if p.is_anchor] == (list(ANCHORS) if played == "generated" else [])
    if played == "generator unknown":
        assert len(warnings) == len(ANCHORS)
        assert all(w.message.endswith(": the still is shown without generation") for w in warnings)
    else:
        assert warnings == []


@pytest.mark.parametrize("generator_id", [b"fakefake", b"stranger"])
def test_a_still_whose_gate_is_nothing_is_shown_in_av1(
    base_gops: list[Gop], still: Still, generator_id: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeGenerator, "generate", lambda *arguments, **options: pytest.fail("generated"))
    gate = GateMap.uniform(WIDTH, HEIGHT, index=0)
    prompt = build_prompt(generator_id, WIDTH, HEIGHT, None, gate, still)
    shown, warnings = decode(prompted(base_gops[0], prompt, ANCHORS), FakeGenerator())
    expected = overwritten(base_gops[0], dict.fromkeys(ANCHORS, by_av(still)))
    assert_same([p.picture.planes for p in shown], expected)
    assert not any(picture.is_anchor for picture in shown)
    assert warnings == []


def test_a_still_in_place_of_an_av1_stub(still: Still) -> None:
    """Low delay, with an S-frame after the keyframe: what follows does not inherit the stub's contexts."""
    av1 = Av1Settings(
        width=WIDTH,
        height=HEIGHT,
        frame_rate=1 / TICK,
        time_base=TICK,
        crf=40,
        preset=10,
        extra=(("pred-struct", "1"), ("sframe-posi", "1"), ("sframe-mode", "4")),
    )
    pictures = moving(9, WIDTH, HEIGHT)
    grey = Picture(*(np.full_like(plane, 128) for plane in pictures[0].planes), pts=0, time_base=TICK)
    coded = encode_gop(pictures, av1)
    # One picture: of several that are all the same, SVT-AV1 4.1 may wait for itself in low delay.
    stub = encode_gop([grey], av1)[0]
    gop = [stub, *coded[1:]]
    keyframe = reference_decode(coded)[0]
    prompt = build_prompt(b"fakefake", WIDTH, HEIGHT, 90, None, still)
    shown, warnings = decode(prompted(gop, prompt, (0,)))
    assert_same([p.picture.planes for p in shown], overwritten(gop, {0: by_av(still)}))
    assert warnings == []
    # With the keyframe that was coded in the stub's place, all are the encoder's own.
    assert_same(overwritten(gop, {0: keyframe}), reference_decode(coded))


def test_a_damaged_still_leaves_the_base_of_av1(base_gops: list[Gop], still: Still) -> None:
    bad = still_prompt(Still(StillCodec.AV1, still.data[:-20]), WIDTH, HEIGHT)
    for generators in ([FakeGenerator()], []):
        shown, warnings = decode(prompted(base_gops[0], bad, (0,)), *generators)
        assert_same([p.picture.planes for p in shown], reference_decode(base_gops[0]))
        assert [warning.kind for warning in warnings] == [WarningKind.PROMPT_DAMAGED]


BROKEN_ADAPTER = Section(SectionType.ADAPTER, b"\0\1" + bytes(40))


def test_a_broken_adapter_beside_a_still_counts_where_a_generator_is_to_run_with_it(
    base_gops: list[Gop], still: Still
) -> None:
    plain = still_prompt(still, WIDTH, HEIGHT)
    gop = prompted(base_gops[0], replace(plain, sections=(*plain.sections, BROKEN_ADAPTER)), (0,))
    shown, warnings = decode(gop, FakeGenerator())
    assert_same([p.picture.planes for p in shown], reference_decode(base_gops[0]))
    assert [warning.kind for warning in warnings] == [WarningKind.PROMPT_DAMAGED]
    for generators in ([FakeGenerator(identity=b"stranger")], []):
        shown, warnings = decode(gop, *generators)
        assert_same([p.picture.planes for p in shown], overwritten(base_gops[0], {0: by_av(still)}))
        assert len(warnings) == len(generators)


def test_a_broken_adapter_of_an_earlier_prompt_leaves_the_still(base_gops: list[Gop], still: Still) -> None:
    nothing = build_prompt(b"fakefake", WIDTH, HEIGHT, 90, GateMap.uniform(WIDTH, HEIGHT, index=0))
    gop = prompted(base_gops[0], still_prompt(still, WIDTH, HEIGHT), ANCHORS[1:])
    gop = prompted(gop, replace(nothing, sections=(*nothing.sections, BROKEN_ADAPTER)), (0,))
    shown, warnings = decode(gop, FakeGenerator())
    assert_same([p.picture.planes for p in shown], overwritten(base_gops[0], {ANCHORS[1]: by_av(still)}))
    assert [warning.kind for warning in warnings] == [WarningKind.PROMPT_DAMAGED]
    assert warnings[0].message.endswith(": the still is shown without generation")


def test_base_playback_of_av1_ignores_prompts_given_by_hand(base_gops: list[Gop], still: Still) -> None:
    prompts = {0: a_prompt(), 8: still_prompt(still, WIDTH, HEIGHT)}
    shown = list(decode_gop(base_gops[0], GopDecoding(TICK), prompts=prompts))
    assert_same([p.picture.planes for p in shown], overwritten(base_gops[0], {8: by_av(still)}))


def test_base_playback_of_av1_ignores_damaged_prompts(base_gops: list[Gop]) -> None:
    good = encode_prompt(still_prompt(Still(StillCodec.AV1, b"x"), WIDTH, HEIGHT))
    gop = [with_prompt(base_gops[0][0], good[:-1] + bytes([good[-1] ^ 1])), *base_gops[0][1:]]
    shown, warnings = decode(gop)
    assert_same([p.picture.planes for p in shown], reference_decode(base_gops[0]))
    assert warnings == []
