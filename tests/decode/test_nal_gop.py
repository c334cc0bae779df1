"""GOPs of H.264 and H.265 with prompts: against plain decoders, in display order, and whatever is damaged."""

from collections.abc import Iterator
from dataclasses import replace

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridprompt.bitstream.h264_pcm import replace_idr
from hybridprompt.bitstream.nal import NalCodec, join_nal_units, split_nal_units
from hybridprompt.bitstream.obu import HeaderTracker
from hybridprompt.decode.gop import GopPicture
from hybridprompt.decode.nal_gop import MAX_HELD_PICTURES, NalDecoding, decode_nal_gop
from hybridprompt.decode.nal_injection import H264InjectingDecoder, HevcInjectingDecoder
from hybridprompt.decode.pipeline import decode_packets
from hybridprompt.decode.warnings import DecodeWarning, WarningKind
from hybridprompt.errors import BitstreamError, CodecError, GeneratorError
from hybridprompt.generator.fake import FakeGenerator
from hybridprompt.prompt.carriage_nal import attach
from hybridprompt.prompt.gate import GateMap, grid_shape
from hybridprompt.prompt.sections import Adapter, SectionType, Still, StillCodec, build_prompt, encode_adapter
from hybridprompt.prompt.syntax import MAGIC, Prompt, Section, encode_prompt
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.picture import Picture
from nal_media import TICK, Stream, differing, encode, encode_mp4, moving, play, same
from nal_prompted_media import packets_of, still_of, still_prompt, with_prompts
from prompted_media import Lookup, Planes, a_prompt, planes_of

WIDTH, HEIGHT, COUNT = 98, 70, 21
ONE_GOP = "keyint=60:min-keyint=60"
ANCHORS = (0, 5, 9)
"""Packets with prompts: of H.264 only the first can have one."""
GOOD = encode_prompt(a_prompt(size=(WIDTH, HEIGHT)))

each_codec = pytest.mark.parametrize("codec", list(NalCodec))


class Fixed(FakeGenerator):
    """Makes the same picture of everything."""

    def __init__(self, planes: Planes) -> None:
        super().__init__()
        self._planes = planes

    def generate(self, planes, *, quantiser, strengths, block_size):
        return self._planes


class Spy(FakeGenerator):
    """Remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.quantisers: list[int] = []
        self.sources: list[Planes] = []

    def generate(self, planes, *, quantiser, strengths, block_size):
        self.quantisers.append(quantiser)
        self.sources.append(tuple(plane.copy() for plane in planes))
        return super().generate(planes, quantiser=quantiser, strengths=strengths, block_size=block_size)


class Failing(FakeGenerator):
    def generate(self, planes, *, quantiser, strengths, block_size):
        raise GeneratorError("out of memory")


class Misshapen(FakeGenerator):
    def generate(self, planes, *, quantiser, strengths, block_size):
        return planes[0][1:], planes[1], planes[2]


@pytest.fixture(scope="module")
def streams() -> dict[NalCodec, Stream]:
    """One GOP each, as MP4 holds it."""
    return {codec: encode_mp4(moving(COUNT, WIDTH, HEIGHT), codec, params=ONE_GOP) for codec in NalCodec}


@pytest.fixture(scope="module")
def still() -> Still:
    return still_of(moving(1, WIDTH, HEIGHT, seed=5)[0])


def decode(
    packets: list[CodedPacket], stream: Stream, *generators: FakeGenerator, **more
) -> tuple[list[GopPicture], list[DecodeWarning]]:
    """Without generators decode the base."""
    warnings: list[DecodeWarning] = []
    decoding = NalDecoding(
        TICK, stream.extradata, Lookup(*generators) if generators else None,
        codec=stream.codec, on_warning=warnings.append,
    )  # fmt: skip
    return list(decode_nal_gop(packets, decoding, **more)), warnings


def by_pts(shown: list[GopPicture]) -> dict[int, Picture]:
    assert [picture.picture.pts for picture in shown] == sorted(p.picture.pts or 0 for p in shown)
    return {picture.picture.pts or 0: picture.picture for picture in shown}


def fake(planes: Planes) -> Planes:
    """What the fake generator makes of a picture at these prompts."""
    strengths = np.ones(grid_shape(planes[0].shape[1], planes[0].shape[0], 5), np.float32)
    strengths[:, 0] = 0
    return FakeGenerator().generate(planes, quantiser=90, strengths=strengths, block_size=32)


def plain_still(still: Still, size: tuple[int, int]) -> tuple[Planes, Planes]:
    """The still decoded with PyAV alone: as coded, and scaled."""
    context = av.CodecContext.create("libdav1d", "r")
    context.options = {"max_frame_delay": "1"}
    (frame,) = context.decode(av.Packet(still.data))
    flags = Interpolation.LANCZOS | Interpolation.ACCURATE_RND
    scaled = frame.reformat(width=size[0], height=size[1], interpolation=flags)
    return planes_of(frame), planes_of(scaled)


def with_planes(stream: Stream, planes: dict[int, Planes]) -> dict[int, Picture]:
    """Decode with other pictures at these packets: H.264's spliced in for a plain decoder."""
    if stream.codec is NalCodec.H264:
        packets = list(stream.packets)
        for index, given_planes in planes.items():
            data, pts = packets[index]
            sets = [] if stream.extradata is None else _avcc_sets(stream.extradata)
            packets[index] = (
                replace_idr(data, given_planes, parameter_sets=sets, length_size=stream.length_size),
                pts,
            )
        return play(replace(stream, packets=tuple(packets)))
    shown = {}
    with HevcInjectingDecoder(stream.extradata, time_base=TICK) as decoder:
        for index, (data, pts) in enumerate(stream.packets):
            generate = (lambda base, index=index: planes[index]) if index in planes else None
            for frame in decoder.decode(data, pts, generate):
                shown[pts] = frame.picture.copied()
    return shown


def _avcc_sets(extradata: bytes) -> list[bytes]:
    """x264's one SPS and one PPS (ISO/IEC 14496-15, 5.3.3.1)."""
    sps_size = int.from_bytes(extradata[6:8], "big")
    sps, rest = extradata[8 : 8 + sps_size], extradata[8 + sps_size :]
    return [sps, rest[3 : 3 + int.from_bytes(rest[1:3], "big")]]


@each_codec
@pytest.mark.parametrize("is_mp4", [False, True])
def test_without_prompts_all_is_as_any_player_shows_it(codec: NalCodec, is_mp4: bool) -> None:
    stream = (encode_mp4 if is_mp4 else encode)(moving(COUNT, WIDTH, HEIGHT), codec, params=ONE_GOP)
    packets = packets_of(stream)
    assert [packet.pts for packet in packets] != list(range(COUNT)), "there are B-frames"
    for generators in ((), (FakeGenerator(),)):
        shown, warnings = decode(packets, stream, *generators)
        assert not differing(by_pts(shown), play(stream))
        assert [packets[picture.index].pts for picture in shown] == list(range(COUNT))
        assert [p.picture.pts for p in shown if p.is_keyframe] == [0]
        assert not any(picture.is_anchor for picture in shown)
        assert warnings == []


@pytest.mark.parametrize("carried", [True, False])
def test_enhancing_h265_at_any_picture(streams: dict[NalCodec, Stream], carried: bool) -> None:
    stream = streams[NalCodec.H265]
    packets, prompts = packets_of(stream), dict.fromkeys(ANCHORS, a_prompt(size=(WIDTH, HEIGHT)))
    if carried:
        shown, warnings = decode(with_prompts(packets, prompts, stream.codec, 4), stream, FakeGenerator())
    else:
        shown, warnings = decode(packets, stream, FakeGenerator(), prompts=prompts)
    expected = {}
    with HevcInjectingDecoder(stream.extradata, time_base=TICK) as decoder:
        for index, (data, pts) in enumerate(stream.packets):
            generate = (lambda base: fake(base.planes)) if index in ANCHORS else None
            (frame,) = decoder.decode(data, pts, generate)
            expected[pts] = frame.picture.copied()
    assert not differing(by_pts(shown), expected)
    assert sorted(picture.index for picture in shown if picture.is_anchor) == list(ANCHORS)
    assert len(differing(expected, play(stream))) == COUNT
    assert warnings == []


@pytest.mark.parametrize("carried", [True, False])
def test_enhancing_h264_at_its_keyframe(streams: dict[NalCodec, Stream], carried: bool) -> None:
    stream = streams[NalCodec.H264]
    packets, prompts = packets_of(stream), {0: a_prompt(size=(WIDTH, HEIGHT))}
    if carried:
        shown, warnings = decode(with_prompts(packets, prompts, stream.codec, 4), stream, FakeGenerator())
    else:
        shown, warnings = decode(packets, stream, FakeGenerator(), prompts=prompts)
    expected = with_planes(stream, {0: fake(play(stream)[0].planes)})
    assert not differing(by_pts(shown), expected)
    assert [picture.index for picture in shown if picture.is_anchor] == [0]
    assert len(differing(expected, play(stream))) == COUNT
    assert warnings == []


def test_only_idr_pictures_of_h264_are_anchors(streams: dict[NalCodec, Stream]) -> None:
    stream = streams[NalCodec.H264]
    packets = with_prompts(packets_of(stream), {5: a_prompt(size=(WIDTH, HEIGHT))}, stream.codec, 4)
    shown, warnings = decode(packets, stream, FakeGenerator())
    assert not differing(by_pts(shown), play(stream))
    (warning,) = warnings
    assert warning.kind is WarningKind.PROMPT_MISFIT
    assert warning.message.endswith("the base is shown")
    assert warning.pts_seconds == pytest.approx(packets[5].pts / 30)


@each_codec
def test_prompts_given_by_hand_take_those_of_the_packets_away(
    streams: dict[NalCodec, Stream], codec: NalCodec
) -> None:
    stream = streams[codec]
    packets = with_prompts(packets_of(stream), {0: a_prompt(size=(WIDTH, HEIGHT))}, codec, 4)
    shown, _ = decode(packets, stream, FakeGenerator(), prompts={0: None})
    assert not differing(by_pts(shown), play(stream))


# What a stream without its keyframe looks like: a grey one in its place, coded with the same parameter sets.
def stubbed(codec: NalCodec, width: int, height: int) -> Stream:
    stream = encode(moving(COUNT, width, height), codec, params=ONE_GOP)
    grey = [np.full_like(plane, 128) for plane in moving(1, width, height)[0].planes]
    stub = encode([Picture(*grey, pts=n, time_base=TICK) for n in range(8)], codec, params=ONE_GOP)
    kinds = (0x67, 0x68, 0x40, 0x42, 0x44)
    sets = [
        [nal.data for nal in split_nal_units(s.packets[0][0]) if nal.data[0] in kinds] for s in (stream, stub)
    ]
    assert sets[0] == sets[1]
    return replace(stream, packets=(stub.packets[0], *stream.packets[1:]))


@each_codec
@pytest.mark.parametrize("still_size", [(WIDTH, HEIGHT), (66, 64)])
@pytest.mark.parametrize("played", ["generated", "generator unknown", "base"])
def test_replacing(codec: NalCodec, still_size: tuple[int, int], played: str) -> None:
    stream = stubbed(codec, WIDTH, HEIGHT)
    still = still_of(moving(1, *still_size, seed=5)[0])
    prompt = still_prompt(still, WIDTH, HEIGHT)
    packets = with_prompts(packets_of(stream), {0: prompt}, codec)
    generators = {
        "generated": [FakeGenerator()],
        "generator unknown": [FakeGenerator(identity=b"stranger")],
        "base": [],
    }
    shown, warnings = decode(packets, stream, *generators[played])
    _, still_planes = plain_still(still, (WIDTH, HEIGHT))
    keyframe = fake(still_planes) if played == "generated" else still_planes
    assert not differing(by_pts(shown), with_planes(stream, {0: keyframe}))
    assert same(shown[0].picture, Picture(*keyframe))
    assert [p.index for p in shown if p.is_anchor] == ([0] if played == "generated" else [])
    assert [p.index for p in shown if p.is_keyframe] == [0]
    if played == "generator unknown":
        assert [warning.kind for warning in warnings] == [WarningKind.GENERATOR_UNKNOWN]
        assert warnings[0].message.endswith("the still is shown without generation")
        assert warnings[0].pts_seconds is None
    else:
        assert warnings == []


def test_a_still_at_any_picture_of_h265(streams: dict[NalCodec, Stream], still: Still) -> None:
    stream = streams[NalCodec.H265]
    shown, warnings = decode(
        packets_of(stream), stream, FakeGenerator(), prompts={4: still_prompt(still, WIDTH, HEIGHT)}
    )
    expected = with_planes(stream, {4: fake(plain_still(still, (WIDTH, HEIGHT))[1])})
    assert not differing(by_pts(shown), expected)
    assert warnings == []


@each_codec
@pytest.mark.parametrize("generator", [Failing(), Misshapen()])
def test_where_the_generator_fails_the_still_is_shown(
    streams: dict[NalCodec, Stream], still: Still, codec: NalCodec, generator: FakeGenerator
) -> None:
    stream = streams[codec]
    prompts = {0: still_prompt(still, WIDTH, HEIGHT)}
    shown, warnings = decode(packets_of(stream), stream, generator, prompts=prompts)
    expected = with_planes(stream, {0: plain_still(still, (WIDTH, HEIGHT))[1]})
    assert not differing(by_pts(shown), expected)
    assert [warning.kind for warning in warnings] == [WarningKind.GENERATION_FAILED]
    assert warnings[0].message.endswith("the still is shown without generation")
    shown, warnings = decode(
        packets_of(stream), stream, generator, prompts={0: a_prompt(size=(WIDTH, HEIGHT))}
    )
    assert not differing(by_pts(shown), play(stream))
    assert [warning.kind for warning in warnings] == [WarningKind.GENERATION_FAILED]
    assert warnings[0].message.endswith("the base is shown")


@each_codec
def test_what_the_generator_is_told(streams: dict[NalCodec, Stream], still: Still, codec: NalCodec) -> None:
    stream, spy = streams[codec], Spy()
    for prompt in (
        still_prompt(still, WIDTH, HEIGHT),
        still_prompt(still, WIDTH, HEIGHT, quantiser=7),
        a_prompt(size=(WIDTH, HEIGHT)),
    ):
        decode(packets_of(stream), stream, spy, prompts={0: prompt})
    (header,) = HeaderTracker().parse(still.data)
    assert spy.quantisers == [header.base_q_idx, 7, 90]
    assert header.base_q_idx not in (7, 90)
    as_coded = plain_still(still, (WIDTH, HEIGHT))[0]
    for source, expected in zip(spy.sources, (as_coded, as_coded, play(stream)[0].planes), strict=True):
        assert same(Picture(*source), Picture(*expected))


@each_codec
def test_without_still_and_quantiser_nothing_is_generated(
    streams: dict[NalCodec, Stream], codec: NalCodec
) -> None:
    stream = streams[codec]
    prompts = {0: build_prompt(b"fakefake", WIDTH, HEIGHT, None, None)}
    shown, warnings = decode(packets_of(stream), stream, FakeGenerator(), prompts=prompts)
    assert not differing(by_pts(shown), play(stream))
    assert [warning.kind for warning in warnings] == [WarningKind.PROMPT_DAMAGED]
    assert "no quantiser" in warnings[0].message


@each_codec
@pytest.mark.parametrize("generator_id", [b"fakefake", b"stranger"])
@pytest.mark.parametrize("quantiser", [90, None])
def test_a_gate_of_nothing_replaces_nothing(
    streams: dict[NalCodec, Stream], codec: NalCodec, generator_id: bytes, quantiser: int | None
) -> None:
    """Not even hidden samples, which following pictures predict from; nor is a generator looked for."""
    stream, spy = streams[codec], Spy()
    gate = GateMap.uniform(WIDTH, HEIGHT, index=0)
    prompt = build_prompt(generator_id, WIDTH, HEIGHT, quantiser, gate)
    indices = ANCHORS if codec is NalCodec.H265 else ANCHORS[:1]
    packets = with_prompts(packets_of(stream), dict.fromkeys(indices, prompt), codec, 4)
    shown, warnings = decode(packets, stream, spy)
    assert not differing(by_pts(shown), play(stream))
    assert not any(picture.is_anchor for picture in shown)
    assert warnings == []
    assert spy.quantisers == []
    # Another way to change nothing, putting a picture in its own place, is not as faithful.
    own = with_planes(stream, dict.fromkeys(indices[:1], play(stream)[0].planes))
    assert differing(own, play(stream))


@each_codec
@pytest.mark.parametrize("generator_id", [b"fakefake", b"stranger"])
def test_a_still_whose_gate_is_nothing_is_shown(codec: NalCodec, still: Still, generator_id: bytes) -> None:
    stream, spy = stubbed(codec, WIDTH, HEIGHT), Spy()
    gate = GateMap.uniform(WIDTH, HEIGHT, index=0)
    prompt = build_prompt(generator_id, WIDTH, HEIGHT, None, gate, still)
    shown, warnings = decode(with_prompts(packets_of(stream), {0: prompt}, codec), stream, spy)
    expected = with_planes(stream, {0: plain_still(still, (WIDTH, HEIGHT))[0]})
    assert not differing(by_pts(shown), expected)
    assert not any(picture.is_anchor for picture in shown)
    assert warnings == []
    assert spy.quantisers == []


def test_h264_does_not_decode_a_base_that_nobody_needs(
    streams: dict[NalCodec, Stream], still: Still, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("decoded the base")

    monkeypatch.setattr(H264InjectingDecoder, "keyframe", refuse)
    stream = streams[NalCodec.H264]
    shown, _ = decode(
        packets_of(stream), stream, FakeGenerator(), prompts={0: still_prompt(still, WIDTH, HEIGHT)}
    )
    assert shown[0].is_anchor
    with pytest.raises(AssertionError, match="decoded the base"):
        decode(packets_of(stream), stream, FakeGenerator(), prompts={0: a_prompt(size=(WIDTH, HEIGHT))})


def _parameter_sets(unit: bytes) -> dict[int, bytes]:
    """VPS, SPS and PPS of H.265 by the first byte of their headers."""
    nals = [nal.data for nal in split_nal_units(unit)]
    return {nal[0]: nal for nal in nals if nal[0] in (0x40, 0x42, 0x44)}


@pytest.mark.parametrize("size", [(98, 70), (94, 66), (130, 78)])
def test_hidden_samples_of_h265_repeat_the_edge(size: tuple[int, int]) -> None:
    """The encoder's own given keyframe: x265 repeats the edge, too, where it codes a picture without loss.

    Its packet takes the keyframe's place, and the parameter sets of the others come again after it: an
    unmodified decoder plays that.
    """
    params = f"{ONE_GOP}:sao=0"
    other = moving(1, *size, seed=3)[0]
    stream = encode(moving(COUNT, *size), NalCodec.H265, params=params)
    lossless = encode([other] * 2, NalCodec.H265, params=f"{params}:lossless=1")
    sets, others = (_parameter_sets(found.packets[0][0]) for found in (stream, lossless))
    # They differ in general_level_idc alone, which x265 leaves open where there is no loss.
    assert sets[0x42] == others[0x42].replace(b"\xff", b"\x1e", 1)
    slices = [n.data for n in split_nal_units(lossless.packets[0][0]) if n.data[0] not in (0x40, 0x42, 0x4E)]
    first, second, *rest = stream.packets
    exchanged = replace(
        stream,
        packets=(
            (join_nal_units([sets[0x40], sets[0x42], *slices]), first[1]),
            (join_nal_units([sets[0x44]]) + second[0], second[1]),
            *rest,
        ),
    )
    expected = play(exchanged)
    assert same(expected[0], other)
    hidden = play(exchanged, cropped=False)[0].y
    assert hidden.shape == (-(-size[1] // 8) * 8, -(-size[0] // 8) * 8)
    assert (hidden[: size[1], size[0] :] == other.y[:, -1:]).all()

    shown, warnings = decode(
        packets_of(stream), stream, Fixed(other.planes), prompts={0: a_prompt(size=size)}
    )
    assert not differing(by_pts(shown), expected)
    assert len(differing(expected, play(stream))) == COUNT
    assert warnings == []


@pytest.mark.parametrize("bframes", [0, 2, 4])
def test_h265_holds_no_more_pictures_back_than_it_has_to(bframes: int) -> None:
    stream = encode(
        moving(COUNT, WIDTH, HEIGHT), NalCodec.H265, params=f"{ONE_GOP}:bframes={bframes}:b-adapt=0"
    )
    read = 0

    def counted() -> Iterator[CodedPacket]:
        nonlocal read
        for packet in packets_of(stream):
            read += 1
            yield packet

    ahead = []
    for number, shown in enumerate(decode_nal_gop(counted(), NalDecoding(TICK, codec=stream.codec))):
        assert shown.picture.pts == number
        ahead.append(read - number)
    assert max(ahead) == 1 + {0: 0, 2: 2, 4: 2}[bframes]
    assert MAX_HELD_PICTURES >= 16


@each_codec
def test_pictures_are_read_only_and_stay(streams: dict[NalCodec, Stream], codec: NalCodec) -> None:
    stream, kept = streams[codec], []
    prompts = {0: a_prompt(size=(WIDTH, HEIGHT))}
    decoding = NalDecoding(TICK, stream.extradata, Lookup(FakeGenerator()), codec=codec)
    for shown in decode_nal_gop(packets_of(stream), decoding, prompts=prompts):
        kept.append((shown.picture, shown.picture.copied()))
        with pytest.raises(ValueError, match="read-only"):
            shown.picture.y[0, 0] = 1
    assert all(same(picture, copy) for picture, copy in kept)


def flipped(data: bytes) -> bytes:
    return data[:20] + bytes([data[20] ^ 1]) + data[21:]


def sections(*found: Section) -> bytes:
    return encode_prompt(Prompt(b"fakefake", WIDTH, HEIGHT, found))


@each_codec
@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        (flipped(GOOD), WarningKind.PROMPT_DAMAGED),
        (GOOD[:-1], WarningKind.PROMPT_DAMAGED),
        (MAGIC, WarningKind.PROMPT_DAMAGED),
        (sections(Section(1, b"ab")), WarningKind.PROMPT_DAMAGED),
        (sections(Section(3, b"")), WarningKind.PROMPT_DAMAGED),
        (sections(Section(3, b"\2abc")), WarningKind.PROMPT_DAMAGED),
        (sections(Section(3, b"\1abc")), WarningKind.PROMPT_DAMAGED),
        (encode_prompt(a_prompt(size=(96, 70))), WarningKind.PROMPT_MISFIT),
        (
            encode_prompt(a_prompt(size=(WIDTH, HEIGHT), generator_id=b"stranger")),
            WarningKind.GENERATOR_UNKNOWN,
        ),
    ],
)
def test_prompts_that_cannot_be_used_leave_the_base(
    streams: dict[NalCodec, Stream], codec: NalCodec, prompt: bytes, kind: WarningKind
) -> None:
    stream = streams[codec]
    packets = with_prompts(packets_of(stream), {0: prompt}, codec, 4)
    shown, warnings = decode(packets, stream, FakeGenerator())
    assert not differing(by_pts(shown), play(stream))
    assert not any(picture.is_anchor for picture in shown)
    assert [warning.kind for warning in warnings] == [kind]
    assert warnings[0].message.endswith("the base is shown")


@each_codec
def test_base_playback_ignores_prompts_without_a_still(
    streams: dict[NalCodec, Stream], codec: NalCodec
) -> None:
    stream = streams[codec]
    for prompt in (GOOD, flipped(GOOD), GOOD[:-1]):
        packets = with_prompts(packets_of(stream), {0: prompt}, codec, 4)
        shown, warnings = decode(packets, stream)
        assert not differing(by_pts(shown), play(stream))
        assert warnings == []
    shown, _ = decode(packets_of(stream), stream, prompts={0: a_prompt(size=(WIDTH, HEIGHT))})
    assert not differing(by_pts(shown), play(stream))
    packets = with_prompts(packets_of(stream), {0: sections(Section(3, b"\1abc"))}, codec, 4)
    shown, warnings = decode(packets, stream)
    assert not differing(by_pts(shown), play(stream))
    assert [warning.kind for warning in warnings] == [WarningKind.PROMPT_DAMAGED]


@each_codec
def test_two_prompts_are_damage(streams: dict[NalCodec, Stream], codec: NalCodec) -> None:
    stream = streams[codec]
    first, *others = packets_of(stream)
    once = [nal.data for nal in split_nal_units(first.data, length_size=4)]
    prompted = attach(first.data, GOOD, codec=codec, length_size=4)
    twice = [nal.data for nal in split_nal_units(prompted, length_size=4)]
    (sei,) = [nal for nal in twice if nal not in once]
    data = join_nal_units([sei, *twice], length_size=4)
    shown, warnings = decode([replace(first, data=data), *others], stream, FakeGenerator())
    assert not differing(by_pts(shown), play(stream))
    assert "2 prompts" in warnings[0].message


@each_codec
def test_a_keyframes_adapter_serves_its_gop_and_no_other(
    streams: dict[NalCodec, Stream], codec: NalCodec
) -> None:
    stream, packets = streams[codec], packets_of(streams[codec])
    size = WIDTH, HEIGHT
    later = (5, 9) if codec is NalCodec.H265 else ()
    plain = dict.fromkeys((0, *later), a_prompt(size=size))
    adapter = Section(SectionType.ADAPTER, encode_adapter(Adapter(np.array([9], np.int8))))
    adapted = {**plain, 0: replace(plain[0], sections=(*plain[0].sections, adapter))}
    brighter, usual = (
        by_pts(decode(packets, stream, FakeGenerator(offset), prompts=plain)[0]) for offset in (29, 20)
    )
    decoding = NalDecoding(TICK, stream.extradata, Lookup(FakeGenerator(20)), codec=codec)
    with decoding.new_decoder() as decoder:
        for prompts, expected in ((adapted, brighter), (plain, usual)):
            shown = list(decode_nal_gop(packets, decoding, decoder=decoder, prompts=prompts))
            assert not differing(by_pts(shown), expected)
    assert len(differing(brighter, usual)) == COUNT


@each_codec
def test_one_decoder_serves_gop_after_gop(streams: dict[NalCodec, Stream], codec: NalCodec) -> None:
    stream = streams[codec]
    prompts = {0: a_prompt(size=(WIDTH, HEIGHT))}
    decoding = NalDecoding(TICK, stream.extradata, Lookup(FakeGenerator()), codec=codec)
    packets = packets_of(stream)
    expected = by_pts(list(decode_nal_gop(packets, decoding, prompts=prompts)))
    with decoding.new_decoder() as decoder:
        for left_after in (COUNT, 3, 1, COUNT):
            found = {}
            gop = decode_nal_gop(packets, decoding, decoder=decoder, prompts=prompts)
            for _, shown in zip(range(left_after), gop, strict=False):
                found[shown.picture.pts or 0] = shown.picture.copied()
            gop.close()
            assert not differing(found, {pts: expected[pts] for pts in range(left_after)})


@each_codec
def test_gops_in_parallel(codec: NalCodec, still: Still) -> None:
    """Two prompted GOPs of 16 and one of 9; damage in the second leaves out what is after it."""
    stream = encode_mp4(moving(41, WIDTH, HEIGHT), codec)
    prompts = {0: still_prompt(still, WIDTH, HEIGHT), 16: a_prompt(size=(WIDTH, HEIGHT))}
    packets = with_prompts(packets_of(stream), prompts, codec, 4)
    warnings: list[DecodeWarning] = []
    decoding = NalDecoding(
        TICK, stream.extradata, Lookup(FakeGenerator()), codec=codec, on_warning=warnings.append
    )
    assert [n for n, packet in enumerate(packets) if decoding.starts_gop(packet)] == [0, 16, 32]
    expected = {}
    for start, stop in ((0, 16), (16, 32), (32, 41)):
        expected |= by_pts(list(decode_nal_gop(packets[start:stop], decoding)))
    for workers in (1, 3):
        shown = list(decode_packets(packets, decoding, workers=workers))
        assert not differing(by_pts(shown), expected)
        assert [p.picture.pts for p in shown if p.is_anchor] == [0, 16]
    assert warnings == []

    cut = replace(packets[20], data=packets[20].data[:-3])
    shown = list(decode_packets([*packets[:20], cut, *packets[21:]], decoding, workers=2))
    found = by_pts(shown)
    assert not differing(found, {pts: expected[pts] for pts in found})
    assert set(range(16)) | set(range(32, 41)) <= set(found)
    assert 0 < len(found) - 25 <= 4
    assert [warning.kind for warning in warnings] == [WarningKind.PACKET_DAMAGED]
    assert warnings[0].pts_seconds == pytest.approx(packets[20].pts / 30)


@each_codec
def test_a_damaged_packet_is_no_start_without_the_containers_word(codec: NalCodec) -> None:
    decoding = NalDecoding(TICK, codec=codec)
    for is_keyframe in (False, True):
        assert decoding.starts_gop(CodedPacket(b"damaged", 0, 0, 1, is_keyframe)) is is_keyframe


_FUZZED = {codec: stubbed(codec, WIDTH, HEIGHT) for codec in NalCodec}
_STILL = still_of(moving(1, 66, 64, seed=5)[0])


@settings(deadline=None, max_examples=120)
@given(
    st.sampled_from(list(NalCodec)),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 255)), max_size=4),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4000), st.integers(1, 255)), max_size=3),
    st.one_of(st.none(), st.integers(1, 3000)),
    st.booleans(),
)
def test_damage_gives_pictures_warnings_or_our_errors(
    codec: NalCodec,
    still_damage: list[tuple[int, int]],
    damage: list[tuple[int, int, int]],
    cut: int | None,
    generates: bool,
) -> None:
    stream = _FUZZED[codec]
    coded = bytearray(_STILL.data[:cut])
    for position, mask in still_damage:
        coded[position % len(coded)] ^= mask
    prompt = still_prompt(Still(StillCodec.AV1, bytes(coded)), WIDTH, HEIGHT)
    packets = with_prompts(packets_of(stream)[:4], {0: prompt}, codec)
    for index, position, mask in damage:
        data = bytearray(packets[index].data)
        data[position % len(data)] ^= mask
        packets[index] = replace(packets[index], data=bytes(data))
    generators = [FakeGenerator()] if generates else []
    try:
        decode(packets, stream, *generators)
    except (BitstreamError, CodecError):
        assert damage
