"""Base encodes whose keyframe is given or x264's and x265's own: what the encoder knows, the client has."""

import math
from dataclasses import replace
from fractions import Fraction
from threading import Event
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from encode_media import TICK, LumaJudge, scene

from hybridprompt.bitstream.nal import NalCodec, nal_type, split_nal_units
from hybridprompt.bitstream.obu import HeaderTracker
from hybridprompt.decode.still import decode_still
from hybridprompt.decode.warnings import DecodeWarning
from hybridprompt.encode import given_keyframe, nal_base
from hybridprompt.encode.alternation import closed_variant
from hybridprompt.encode.base import BaseEncoder, BaseGop, GivenKeyframe, held
from hybridprompt.encode.gate import AnchorDecision, GopDecision
from hybridprompt.encode.given_keyframe import GivenKeyframes, blurred, small_keyframe
from hybridprompt.encode.gop import Gop
from hybridprompt.encode.nal_base import NalBaseEncoder, nal_crf, svt_crf, told_quantiser
from hybridprompt.encode.nal_gop import NalGop
from hybridprompt.encode.rate_control import relative_log_bytes
from hybridprompt.encode.settings import EncodeSettings
from hybridprompt.encode.still_encoder import encode_still
from hybridprompt.encode.video_encoder import make_base_encoder
from hybridprompt.errors import CodecError, ConfigError
from hybridprompt.generator.base import Planes
from hybridprompt.generator.fake import FakeGenerator
from hybridprompt.generator.registry import GeneratorRegistry
from hybridprompt.prompt.carriage_nal import extract
from hybridprompt.prompt.gate import GateMap, grid_shape
from hybridprompt.prompt.sections import Adapter, build_prompt, parse_sections
from hybridprompt.prompt.syntax import decode_prompt, encode_prompt
from hybridprompt.video import av1_given_keyframe
from hybridprompt.video.av1_decoder import Av1Decoder
from hybridprompt.video.av1_encoder import CodedPacket, encode_gop
from hybridprompt.video.nal_encoder import NalSettings, encode_nal_gop
from hybridprompt.video.picture import ColorInfo, Picture, grey
from nal_media import Stream, play, same

SIZE = 160, 96
COUNT = 20
NAL_CODECS = ("h264", "h265")
ENCODERS = {"h264": "x264", "h265": "x265"}
KINDS = {"h264": NalCodec.H264, "h265": NalCodec.H265}
FAKE = FakeGenerator(offset=30)


class Telling(FakeGenerator):
    """Makes another picture of every quantiser."""

    def generate(self, planes: Planes, *, quantiser: int, strengths: np.ndarray, block_size: int) -> Planes:
        inner = FakeGenerator(offset=quantiser // 3)
        return inner.generate(planes, quantiser=quantiser, strengths=strengths, block_size=block_size)


def psnr(a: Picture, b: Picture) -> float:
    error = np.mean((a.y.astype(float) - b.y) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def base_encoder(
    codec: str,
    mode: str = "replace",
    *,
    size: tuple[int, int] = SIZE,
    generator: FakeGenerator = FAKE,
    **changes: object,
) -> Any:
    source = SimpleNamespace(
        path="made-up.mp4",
        width=size[0],
        height=size[1],
        average_rate=Fraction(30),
        time_base=TICK,
        color=ColorInfo(),
    )
    settings = EncodeSettings(**{"crf": 40.0, "preset": "fast", "mode": mode, "codec": codec, **changes})  # type: ignore[arg-type]
    return make_base_encoder(source, settings, LumaJudge, generator)  # type: ignore[arg-type]


def a_gate() -> GateMap:
    """All kinds of strengths: a picture that the source is nowhere near."""
    indices = np.arange(np.prod(grid_shape(*SIZE, 6)), dtype=np.uint8).reshape(grid_shape(*SIZE, 6)) % 5
    return GateMap(6, 5, indices)


def shown(encoder: BaseEncoder, base: BaseGop, gate: GateMap | None) -> list[Picture]:
    """What a client shows of a GOP."""
    warnings: list[DecodeWarning] = []
    prompts = {}
    if gate is not None:
        prompts[0] = build_prompt(FAKE.identity, *SIZE, None, gate, base.still)
    pictures = encoder.gop(base).shown(
        prompts,
        range(len(base.packets)),
        generators=GeneratorRegistry([FAKE], shipped=False),
        on_warning=warnings.append,
    )
    copies = [picture.copied() for _, picture in pictures]
    assert warnings == []
    return copies


# ------------------------------------------------------------------------------- encoder and client agree


@pytest.mark.parametrize("with_gate", [False, True])
@pytest.mark.parametrize("codec", NAL_CODECS)
def test_x264_and_x265_know_what_the_client_shows(codec: str, with_gate: bool, monkeypatch) -> None:
    calls: list[tuple[list[Picture], NalSettings]] = []

    def noting(pictures: list[Picture], settings: NalSettings, **options: Any) -> list[CodedPacket]:
        calls.append((pictures, settings))
        return encode_nal_gop(pictures, settings, **options)

    monkeypatch.setattr(nal_base, "encode_nal_gop", noting)
    clip, gate = scene(COUNT), a_gate() if with_gate else None
    encoder = base_encoder(codec)
    base = encoder.encode(clip, 55.0, GivenKeyframe(0.0, gate))
    assert base.still is not None
    ((given, *_), _) = next(call for call in calls if call[1].given_first)
    whole = encode_nal_gop(*next(call for call in calls if call[1].given_first))
    known = play(Stream(KINDS[codec], None, tuple((p.data, p.pts) for p in whole), None))
    client = shown(encoder, base, gate)
    assert same(client[0], given)
    assert (psnr(client[0], clip[0]) < 25) is with_gate
    assert psnr(known[0], client[0]) > 45
    assert psnr(known[COUNT - 1], client[-1]) > 45
    # Which is better than what those get that do not generate.
    assert (psnr(client[-1], shown(encoder, base, None)[-1]) > 45) is not with_gate


@pytest.fixture
def from_svt(monkeypatch: pytest.MonkeyPatch) -> list[list[CodedPacket]]:
    """All that came out of SVT-AV1 for GOPs, before a stub took its beginning's place."""
    coded: list[list[CodedPacket]] = []

    def keeping(*args: Any, **options: Any) -> list[CodedPacket]:
        coded.append(encode_gop(*args, **options))
        return coded[-1]

    monkeypatch.setattr(av1_given_keyframe, "encode_gop", keeping)
    return coded


def decoded_by_svt(coded: list[CodedPacket]) -> list[Picture]:
    """The pictures that SVT-AV1 predicts from, which was fed the given one twice."""
    known = []
    with Av1Decoder() as decoder:
        for packet in coded:
            (frame,) = decoder.decode(packet.data, packet.pts)
            known.append(frame.picture.copied())
    return known[1:]


@pytest.mark.parametrize("with_gate", [False, True])
def test_av1_knows_exactly_what_the_client_shows(with_gate: bool, from_svt: list[list[CodedPacket]]) -> None:
    gate = a_gate() if with_gate else None
    encoder = base_encoder("av1")
    base = encoder.encode(scene(COUNT), 55.0, GivenKeyframe(0.0, gate))
    known = decoded_by_svt(max(from_svt, key=len))
    client = shown(encoder, base, gate)
    assert len(client) == COUNT
    assert all(same(a, b) for a, b in zip(known, client, strict=True))


def test_the_keyframes_candidate_has_the_stills_quantiser() -> None:
    encoder = base_encoder("av1")
    base = encoder.encode(scene(COUNT), 55.0, GivenKeyframe(0.0))
    (stub,) = HeaderTracker().parse(base.packets[0].data)
    still = decode_still(base.still, *SIZE)
    assert abs(still.base_q_idx - stub.base_q_idx) > 20
    key, *later = encoder.gop(base).candidates(8)
    assert (key.packet, key.frame, key.base_q_idx) == (0, 0, still.base_q_idx)
    # The others' are their own, as without a still.
    key, *others = encoder.gop(replace(base, still=None)).candidates(8)
    assert key.base_q_idx == stub.base_q_idx
    assert later == others != []


@pytest.mark.parametrize(("quantiser_change", "adapter"), [(0, None), (-24, None), (1000, None), (0, (9,))])
def test_closed_loop_is_what_the_decided_prompt_generates(
    quantiser_change: int, adapter: tuple[int, ...] | None, from_svt: list[list[CodedPacket]]
) -> None:
    generator, clip, gate = Telling(), scene(COUNT), a_gate()
    encoder = base_encoder("av1", generator=generator)
    open_loop = encoder.encode(clip, 55.0, GivenKeyframe(2.0))
    (key,) = encoder.gop(open_loop).candidates(None)
    quantiser = min(key.base_q_idx + quantiser_change, 255)
    adapts = None if adapter is None else Adapter(np.array(adapter, np.int8))
    prompt = build_prompt(generator.identity, *SIZE, quantiser, gate, open_loop.still, adapts)
    anchor = AnchorDecision(0, 0, encode_prompt(prompt), 1.0, quantiser)
    variant = closed_variant(open_loop, GopDecision((anchor,), 1.0, 0.5))
    assert variant == GivenKeyframe(2.0, gate, quantiser - key.base_q_idx, adapts)
    from_svt.clear()
    closed = encoder.encode(clip, 55.0, variant)
    assert closed.still == open_loop.still
    known = decoded_by_svt(max(from_svt, key=len))
    warnings: list[DecodeWarning] = []
    client = encoder.gop(closed).shown(
        {0: prompt},
        range(COUNT),
        generators=GeneratorRegistry([generator], shipped=False),
        on_warning=warnings.append,
    )
    drift = [int(np.abs(a.y.astype(int) - known[frame].y).max()) for frame, a in client]
    assert drift == [0] * COUNT
    assert warnings == []
    strengths, size = gate.strengths(), gate.block_size
    planes = decode_still(open_loop.still, *SIZE).planes
    if adapts is not None:
        generator = generator.adapted(adapts.values)
    expected = generator.generate(planes, quantiser=quantiser, strengths=strengths, block_size=size)
    assert same(known[0], Picture(*expected))


@pytest.mark.parametrize(("offset", "told"), [(-1000, 0), (1000, 255)])
def test_told_quantisers_stay_in_their_range(offset: int, told: int) -> None:
    """A still is coded anew, at another quantiser, where the rate asks for it."""
    generator, gate = Telling(), a_gate()
    keyframes = GivenKeyframes(EncodeSettings(crf=50.0, preset="fast", mode="replace"), generator)
    still, given = keyframes.make(scene(1)[0], 55.0, GivenKeyframe(0.0, gate, offset))
    planes, strengths, size = decode_still(still, *SIZE).planes, gate.strengths(), gate.block_size
    expected = generator.generate(planes, quantiser=told, strengths=strengths, block_size=size)
    assert same(given, Picture(*expected))


def test_without_a_prompt_or_still_there_is_no_closed_loop() -> None:
    encoder = base_encoder("av1")
    base = encoder.encode(scene(2), 55.0, GivenKeyframe(0.0))
    prompt = encode_prompt(build_prompt(FAKE.identity, *SIZE, 90, a_gate(), base.still))
    key, later = AnchorDecision(0, 0, prompt, 1.0, 90), AnchorDecision(1, 1, prompt, 1.0, 90)
    assert closed_variant(base, GopDecision((), 1.0, 1.0)) is None
    assert closed_variant(base, GopDecision((later,), 1.0, 0.5)) is None
    assert closed_variant(replace(base, still=None), GopDecision((key,), 1.0, 0.5)) is None
    assert closed_variant(replace(base, variant=1.0), GopDecision((key,), 1.0, 0.5)) is None
    found = closed_variant(base, GopDecision((later, key), 1.0, 0.5))
    assert found is not None
    assert found.quantiser_offset == 90 - decode_still(base.still, *SIZE).base_q_idx


# ---------------------------------------------------------------------------------------- what is in a GOP


@pytest.mark.parametrize("codec", NAL_CODECS)
def test_packets_hold_no_parameter_sets_and_no_talk(codec: str) -> None:
    encoder = base_encoder(codec)
    base = encoder.encode(scene(6), 50.0, GivenKeyframe(0.0))
    kept = {nal_type(nal, KINDS[codec]) for p in base.packets[1:] for nal in split_nal_units(p.data)}
    assert kept <= ({1} if codec == "h264" else set(range(10)))
    sets = [nal_type(nal, KINDS[codec]) for nal in split_nal_units(encoder.parameter_sets)]
    assert sets == ([7, 8] if codec == "h264" else [32, 33, 34])
    # The stub carries the one prompt that shows the still as it is.
    prompts = [extract(p.data, codec=KINDS[codec]) for p in base.packets]
    assert prompts[1:] == [None] * 5
    content = parse_sections(decode_prompt(prompts[0] or b""))
    assert content.still == base.still
    assert not content.gate.strengths().any()
    still = decode_still(base.still, *SIZE)
    assert np.array_equal(shown(encoder, base, None)[0].y, still.planes[0])
    gop = encoder.gop(base)
    assert isinstance(gop, NalGop)
    assert gop.candidates(None)[0].base_q_idx == still.base_q_idx


@pytest.mark.parametrize("codec", NAL_CODECS)
def test_other_parameter_sets_are_refused(codec: str) -> None:
    encoder = base_encoder(codec, "enhance")
    encoder.encode(scene(2), 50.0, 1.0)
    encoder._nal_settings = replace(encoder._nal_settings, color=ColorInfo(1, 1, 1))
    with pytest.raises(CodecError, match="wrote other parameter sets than for the first GOP"):
        encoder.encode(scene(2), 50.0, 1.0)


def test_a_finer_still_takes_more_bytes_and_is_nearer() -> None:
    picture = scene(1)[0]
    keyframes = GivenKeyframes(EncodeSettings(crf=50.0, preset="fast", mode="replace"), FAKE)
    made = [keyframes.make(picture, 55.0, GivenKeyframe(offset)) for offset in (-10.0, 0.0, 10.0)]
    sizes = [len(still.data) for still, _ in made]
    assert sizes == sorted(set(sizes), reverse=True)
    errors = [psnr(given, picture) for _, given in made]
    assert errors == sorted(errors, reverse=True)
    assert all(given.pts == picture.pts for _, given in made)
    # Beyond SVT-AV1's range there is nothing.
    finest, _ = encode_still(picture, -30.0, preset=8, tune=0)
    assert finest == encode_still(picture, 1.0, preset=8, tune=0)[0]


def test_a_still_that_a_prompt_cannot_hold_is_coded_coarser(monkeypatch) -> None:
    picture = scene(1)[0]
    keyframes = GivenKeyframes(EncodeSettings(crf=30.0, preset="fast", mode="replace"), FAKE)
    fine, _ = keyframes.make(picture, 40.0, GivenKeyframe(0.0))
    limit = len(fine.data) // 2
    monkeypatch.setattr(given_keyframe, "_MAX_STILL_BYTES", limit)
    # What has been coded already fits.
    assert keyframes.make(picture, 40.0, GivenKeyframe(0.0))[0] == fine
    again = GivenKeyframes(keyframes.settings, FAKE)
    still, given = again.make(picture, 40.0, GivenKeyframe(0.0))
    assert limit // 2 < len(still.data) <= limit
    assert same(given, Picture(*decode_still(still, *SIZE).planes))
    assert decode_still(still, *SIZE).base_q_idx > decode_still(fine, *SIZE).base_q_idx
    # The coarsest is as coarse as it gets.
    monkeypatch.setattr(given_keyframe, "_MAX_STILL_BYTES", 1)
    coarsest, _ = again.make(picture, 66.0, GivenKeyframe(0.0))
    assert coarsest == encode_still(picture, 70.0, preset=again.settings.effort.svt_preset, tune=0)[0]


def test_stills_are_kept_of_the_two_gops_under_way(monkeypatch) -> None:
    coded: list[int | None] = []

    def noting(picture: Picture, crf: float, **options: Any) -> Any:
        coded.append(picture.pts)
        return encode_still(picture, crf, **options)

    monkeypatch.setattr(given_keyframe, "encode_still", noting)
    keyframes = GivenKeyframes(EncodeSettings(crf=50.0, preset="fast", mode="replace"), FAKE)
    one, two, three = (scene(1, first=first)[0] for first in (0, 24, 48))
    for picture in (one, two, one, two, three, two, three):
        keyframes.make(picture, 60.0, GivenKeyframe(0.0))
    assert coded == [0, 24, 48]
    keyframes.make(one, 60.0, GivenKeyframe(0.0))
    assert coded == [0, 24, 48, 0]


# Thousands of bytes at CRF 62, log of the distance at 100 of them, by how much that falls as log bytes rise.
CURVES = {
    "flat": {0.0: (100.0, -1.0, 0.9), 8.0: (60.0, -0.9, 0.4), -5.0: (120.0, -0.98, 0.9)},
    "steep": {0.0: (100.0, -1.0, 0.9), 8.0: (60.0, -1.1, 1.6), -5.0: (120.0, -0.98, 0.9)},
    "large": {0.0: (100.0, -1.0, 0.9), 8.0: (60.0, -0.9, 1.0), -5.0: (180.0, -1.05, 2.0)},
}


@pytest.mark.parametrize("steepness", [0.2, 1.3])
@pytest.mark.parametrize(("curves", "best"), [("flat", None), ("steep", 8.0), ("large", -5.0)])
def test_of_several_stills_the_best_at_equal_bytes_is_found(
    monkeypatch: pytest.MonkeyPatch, curves: str, best: float | None, steepness: float
) -> None:
    encoder = base_encoder("h265", preset="medium")
    assert encoder.settings.effort.still_offsets == (0.0, 8.0, -5.0)

    def made(pictures: list[Picture], crf: float, variant: GivenKeyframe) -> BaseGop:
        kilobytes = CURVES[curves][variant.still_offset][0]
        change = steepness * (relative_log_bytes(crf) - relative_log_bytes(62.0))
        size = round(1000 * kilobytes * math.exp(change))
        return BaseGop(pictures, [CodedPacket(bytes(size), 0, 0, 1, True)], crf, variant)

    def distance(self: object, base: BaseGop) -> float:
        _, level, worth = CURVES[curves][base.variant.still_offset]
        return math.exp(level - worth * math.log(base.size_bytes / 100_000))

    monkeypatch.setattr(encoder, "encode", made)
    monkeypatch.setattr(NalBaseEncoder, "distance", distance)
    first = encoder.best(scene(1), 62.0)
    assert (first.crf, first.variant) == (62.0, GivenKeyframe(0.0))
    other = encoder.other_still(first)
    if best is None:
        assert other is None
    else:
        assert other is not None
        assert (other.crf, other.variant) == (62.0, GivenKeyframe(best))


# -------------------------------------------------------------------------------------- stand-in keyframes


@pytest.mark.parametrize("codec", ["av1", *NAL_CODECS])
def test_a_stand_in_is_as_good_as_its_bytes_allow(codec: str) -> None:
    clip = scene(2)
    sizes, errors = [], []
    for size_bytes in (None, 400, 1500, 6000):
        encoder = base_encoder(codec, legacy_keyframe_bytes=size_bytes)
        base = encoder.encode(clip, 50.0, GivenKeyframe(0.0))
        # Without its prompt, as ordinary players see it.
        bare = list(encoder.gop(replace(base, still=None)).shown({}, [0], generators=None, on_warning=print))
        packet = base.packets[0].data
        prompt_bytes = len(packet) - len(_bare(packet, codec))
        sizes.append(len(packet) - prompt_bytes)
        errors.append(psnr(bare[0][1], clip[0]))
    assert sizes[0] < 130
    assert sizes[1] <= 400
    assert sizes[2] <= 1500
    assert sizes[3] <= 6000
    assert errors == sorted(errors)
    assert errors[1] > errors[0] + 2
    assert errors[3] > errors[1] + 3


def _bare(packet: bytes, codec: str) -> bytes:
    if codec == "av1":
        from hybridprompt.prompt.carriage import detach

        return detach(packet)
    from hybridprompt.prompt.carriage_nal import detach as detach_nal

    return detach_nal(packet, codec=KINDS[codec])


def test_the_size_of_a_stand_in_is_searched_for() -> None:
    picture = scene(1)[0]

    def code(shown: Picture, crf: float) -> bytes:
        detail = float(np.abs(np.diff(shown.y.astype(float), axis=1)).mean())
        return bytes(round(detail * (80 - crf)) + 1)

    full = len(code(picture, 36.0))
    assert len(small_keyframe(picture, full, code) or b"") == full
    half = small_keyframe(picture, full // 2, code)
    assert half is not None
    assert full // 2 - full // 20 <= len(half) <= full // 2
    # Where the coarsest is too much, the picture is blurred.
    blurry = small_keyframe(picture, len(code(picture, 70.0)) - 10, code)
    assert blurry is not None
    assert 1 < len(blurry) <= len(code(picture, 70.0)) - 10
    assert small_keyframe(picture, 0, code) is None


@pytest.mark.parametrize("codec", ["av1", *NAL_CODECS])
def test_where_no_stand_in_is_small_enough_there_is_grey(codec: str, monkeypatch) -> None:
    clip = scene(2)
    grey_stub = base_encoder(codec).encode(clip, 50.0, GivenKeyframe(0.0))
    monkeypatch.setattr(given_keyframe, "small_keyframe", lambda *args: None)
    instead = base_encoder(codec, legacy_keyframe_bytes=200).encode(clip, 50.0, GivenKeyframe(0.0))
    assert instead.packets == grey_stub.packets


@pytest.mark.parametrize("size", [(160, 96), (33, 47), (16, 16)])
def test_blurred_and_grey_pictures_keep_their_size(size: tuple[int, int]) -> None:
    picture = scene(1, *size)[0]
    assert blurred(picture, 1) is picture
    flatness = [float(np.ptp(blurred(picture, shrink).y)) for shrink in (1, 4, 16)]
    assert flatness == sorted(flatness, reverse=True)
    for changed in (blurred(picture, 16), grey(picture)):
        assert [p.shape for p in changed.planes] == [p.shape for p in picture.planes]
        assert changed.pts == picture.pts
    assert all((plane == 128).all() for plane in grey(picture).planes)


@pytest.mark.parametrize("codec", ["av1", *NAL_CODECS])
def test_stand_ins_are_made_once_for_each_of_the_two_gops_under_way(codec: str, monkeypatch) -> None:
    """Prompts of one GOP are decided, with encodes of it, while the next is encoded."""
    made: list[int | None] = []

    def noting(picture: Picture, size_bytes: int, code: Any) -> bytes:
        made.append(picture.pts)
        return small_keyframe(picture, size_bytes, code) or b""

    monkeypatch.setattr(given_keyframe, "small_keyframe", noting)
    clips = [scene(2, seed=seed, first=50 * seed) for seed in (1, 2)]
    encoder = base_encoder(codec, legacy_keyframe_bytes=3000)

    def stub(clip: list[Picture], crf: float) -> bytes:
        return _bare(encoder.encode(clip, crf, GivenKeyframe(0.0)).packets[0].data, codec)

    stubs = [stub(clip, crf) for crf in (50.0, 55.0) for clip in clips]
    assert made == [50, 100]
    assert stubs[:2] == stubs[2:]
    assert stubs[0] != stubs[1]
    assert 1000 < len(stubs[0]) <= 3000


# ------------------------------------------------------------------------------------- scales and refusals


@pytest.mark.parametrize("codec", list(NalCodec))
def test_crfs_go_there_and_back(codec: NalCodec) -> None:
    for crf in (10.0, 18.5, 27.0, 35.0, 42.25, 51.0):
        assert nal_crf(svt_crf(crf, codec), codec) == pytest.approx(crf, abs=0.1)
    for crf in (5.0, 40.0, 55.0, 62.0, 69.0):
        assert svt_crf(nal_crf(crf, codec), codec) == pytest.approx(crf, abs=0.05)
    crfs = [nal_crf(float(crf), codec) for crf in range(4, 74)]
    assert crfs == sorted(crfs)
    told = [told_quantiser(float(crf)) for crf in range(4, 90)]
    assert told == sorted(told)
    assert (told[0], told_quantiser(50.0), told[-1]) == (60, 104, 225)
    assert 1.0 <= crfs[0] < crfs[-1] == 51.0
    assert nal_crf(-1000.0, codec) == 1.0


@pytest.mark.parametrize("mode", ["enhance", "replace"])
@pytest.mark.parametrize("codec", NAL_CODECS)
@pytest.mark.parametrize("size", [(101, 96), (160, 75), (30, 96)])
def test_sizes_that_cannot_be_coded_are_found_first(codec: str, mode: str, size: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=f"cannot code {size[0]}x{size[1]} here"):
        base_encoder(codec, mode, size=size)


def test_sizes_that_prompts_cannot_name_have_no_mode_replace() -> None:
    with pytest.raises(ConfigError, match="pictures of 12x70 cannot have prompts"):
        base_encoder("av1", size=(12, 70))
    assert base_encoder("av1", "enhance", size=(12, 70)) is not None
    assert base_encoder("av1", size=(16, 17)) is not None


@pytest.mark.parametrize("codec", ["av1", *NAL_CODECS])
def test_given_keyframes_can_be_cancelled(codec: str) -> None:
    encoder = base_encoder(codec)
    assert isinstance(encoder.cancelled, Event)
    encoder.cancelled.set()
    with pytest.raises(CodecError, match="cancelled"):
        encoder.encode(scene(3), 50.0, GivenKeyframe(0.0))


@pytest.mark.parametrize("codec", NAL_CODECS)
def test_the_first_keyframe_is_marked_by_a_prompt_that_changes_nothing(codec: str) -> None:
    encoder = base_encoder(codec, "enhance")
    base = encoder.encode(scene(6), 50.0, 1.0)
    marked = encoder.marked(base.packets[0].data)
    prompt_bytes = extract(marked, codec=KINDS[codec])
    assert prompt_bytes is not None
    assert len(prompt_bytes) < 40
    prompt = decode_prompt(prompt_bytes)
    assert (prompt.generator_id, prompt.width, prompt.height) == (FAKE.identity, *SIZE)
    assert encoder.marked(marked) == marked
    gop: Gop = encoder.gop(base)
    plain = dict(gop.shown({}, range(6), generators=None, on_warning=print))
    known = GeneratorRegistry([FAKE], shipped=False)
    for frame, picture in gop.shown({0: prompt}, range(6), generators=known, on_warning=print):
        assert same(picture, plain[frame])
    assert base_encoder("av1", "enhance").marked(b"as it is") == b"as it is"


def test_a_still_is_held_while_the_rate_is_fine_tuned() -> None:
    variant = GivenKeyframe(2.0)
    assert held(variant, 0.5) == GivenKeyframe(1.5)
    assert held(variant, -0.5) == GivenKeyframe(2.5)
    # Far away its share of the bytes would be wrong.
    assert held(variant, 2.0) == variant
    assert held(0.5, 0.25) == 0.5


@pytest.mark.parametrize("codec", ["h265", "h264", "av1"])
def test_again_keeps_the_still(codec: str) -> None:
    encoder = base_encoder(codec)
    base = encoder.encode(scene(3), 50.0, GivenKeyframe(0.0))
    assert encoder.again(base, 50.5).still == base.still
    assert encoder.again(base, 56.0).still != base.still


def test_stills_take_the_better_of_two_ways() -> None:
    picture = scene(1)[0]
    for crf in (40.0, 43.0, 44.25, 47.0, 70.0):
        _, decoded = encode_still(picture, crf, preset=8, tune=0)
        assert decoded.base_q_idx % 4 >= 2
