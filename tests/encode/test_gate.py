"""The gate, on real streams with a judge and generators whose effects are known."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from encode_media import TICK, LumaJudge, Oracle, scene

from hybridprompt.bitstream.obu import HeaderTracker, ObuType, iterate_obus
from hybridprompt.decode.injection import GopDecoding, decode_gop
from hybridprompt.encode.blocks import spread_from
from hybridprompt.encode.cached_generator import CachedGenerator
from hybridprompt.encode.gate import GopGate, attach_prompts
from hybridprompt.encode.gop import Gop, can_carry, find_candidates
from hybridprompt.encode.settings import PRESETS, Preset, PromptsName
from hybridprompt.encode.trials import Trials, pays_off
from hybridprompt.errors import BitstreamError, CodecError, GeneratorError
from hybridprompt.evaluate.sampling import sample_frames
from hybridprompt.generator.base import Planes
from hybridprompt.generator.fake import FakeGenerator
from hybridprompt.prompt.sections import parse_sections
from hybridprompt.prompt.syntax import decode_prompt
from hybridprompt.video.av1_decoder import Av1Decoder
from hybridprompt.video.av1_encoder import Av1Settings, CodedPacket, encode_gop
from hybridprompt.video.picture import Picture
from prompted_media import Lookup

WIDTH, HEIGHT = 256, 128
MINI_GOP = 16  # of SVT-AV1 at the preset that the tests use
FAST = PRESETS["fast"]


def encoded(pictures: list[Picture], *, crf: float = 30, **options: object) -> list[CodedPacket]:
    settings = Av1Settings(
        width=pictures[0].width,
        height=pictures[0].height,
        frame_rate=Fraction(30),
        time_base=TICK,
        crf=crf,
        preset=10,
        **options,
    )
    return encode_gop(pictures, settings)


def brighter(picture: Picture, change: np.ndarray | int) -> Picture:
    y = np.clip(picture.y.astype(int) + change, 0, 255).astype(np.uint8)
    return replace(picture, y=y)


def gop_of(packets: list[CodedPacket], source: Callable[[int], Picture]) -> Gop:
    return Gop(packets, None, TICK, source)


@pytest.fixture(scope="module")
def still() -> list[Picture]:
    return [replace(p, pts=i) for i, p in enumerate(scene(1, WIDTH, HEIGHT) * 40)]


@pytest.fixture(scope="module")
def still_packets(still: list[Picture]) -> list[CodedPacket]:
    return encoded(still)


@pytest.fixture(scope="module")
def moving() -> list[Picture]:
    return scene(100, WIDTH, HEIGHT, speed=3)


@pytest.fixture(scope="module")
def moving_packets(moving: list[Picture]) -> list[CodedPacket]:
    return encoded(moving, crf=50)


def decide(gop: Gop, generator: object, preset: Preset = FAST, interval: int | None = None):
    return GopGate(gop, generator, LumaJudge(), preset, interval).decide()


@pytest.mark.parametrize("name", PRESETS)
def test_gate_picks_the_part_that_gets_better(still, still_packets, name: str) -> None:
    change = np.zeros((HEIGHT, WIDTH), int)
    change[:, : WIDTH // 2] = 8
    decision = decide(
        gop_of(still_packets, lambda f: brighter(still[f], change)), FakeGenerator(8), PRESETS[name]
    )
    (anchor,) = decision.anchors
    assert anchor.frame == 0
    prompt = decode_prompt(anchor.prompt_bytes)
    assert (prompt.width, prompt.height, prompt.generator_id) == (WIDTH, HEIGHT, b"fakefake")
    gate = parse_sections(prompt).gate
    assert gate.block_size == 64
    strengths = gate.strengths()
    assert anchor.coverage == pytest.approx(strengths.mean())
    if PRESETS[name].joint_anchors:
        # Where levels are tried side by side, blocks at the border see what their neighbours gain or lose.
        assert np.array_equal(strengths[:, [0, 3]], [[1, 0]] * 2)
        assert (strengths[:, 1] >= 0.5).all()
        assert strengths[:, 2].mean() < strengths[:, 1].mean()
        assert decision.distance < 0.75 * decision.base_distance
        return
    assert np.array_equal(strengths, [[1, 1, 0, 0]] * 2)
    # Half the picture was 8 levels off, and is not any more.
    assert decision.base_distance - decision.distance == pytest.approx(8 * anchor.coverage, abs=0.5)


def test_levels_side_by_side_are_told_apart() -> None:
    rows, columns = np.indices((6, 9))
    known = (rows + columns) % 2 == 0
    rng = np.random.default_rng(1)
    smooth = 5 + 0.1 * rows + 0.2 * columns
    found = spread_from(np.where(known, smooth, -100 + rng.random(known.shape)), known)
    assert np.array_equal(found[known], smooth[known])
    assert np.abs(found - smooth).max() < 0.3
    assert not spread_from(smooth, np.zeros_like(known)).any()


def test_strength_between_is_found(still, still_packets) -> None:
    gop = gop_of(still_packets, lambda f: brighter(still[f], 4))
    (anchor,) = decide(gop, FakeGenerator(8), PRESETS["medium"]).anchors
    assert np.array_equal(
        parse_sections(decode_prompt(anchor.prompt_bytes)).gate.strengths(), [[0.5] * 4] * 2
    )


@pytest.mark.parametrize("name", PRESETS)
def test_strength_has_a_price(still, still_packets, name: str) -> None:
    """A quarter of the distance is gained at strength 1: worth a tenth of it, but not half."""
    gop = gop_of(still_packets, lambda f: brighter(still[f], 8))
    cheap, dear = (replace(PRESETS[name], strength_price=price) for price in (0.1, 0.5))
    (anchor,) = decide(gop, FakeGenerator(2), cheap).anchors
    assert anchor.coverage >= 1
    assert decide(gop, FakeGenerator(2), dear).anchors == ()


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("levels", [(3,), (1, 5)])
def test_later_anchors_take_their_own_levels(
    moving, moving_packets, name: str, levels: tuple[int, ...]
) -> None:
    gop = gop_of(moving_packets, moving.__getitem__)
    preset = replace(PRESETS[name], later_levels=levels)
    _, *later = decide(gop, Oracle(moving), preset, interval=32).anchors
    assert later
    gates = [parse_sections(decode_prompt(anchor.prompt_bytes)).gate.strengths() for anchor in later]
    assert set(np.unique(gates)) <= {0, *(level / 4 for level in levels)}


def test_blind_is_the_same_everywhere(still, still_packets) -> None:
    """Half the picture would gain more at half the strength; blind prompts cannot know."""
    blind = PRESETS["medium"].with_prompts("blind")
    assert (blind.fit, blind.adapter) == (None, None)
    change = np.full((HEIGHT, WIDTH), 8)
    change[:, : WIDTH // 2] = 4
    gop = gop_of(still_packets, lambda f: brighter(still[f], change))
    (anchor,) = decide(gop, FakeGenerator(8), blind, interval=32).anchors
    assert anchor.coverage == 1
    assert (parse_sections(decode_prompt(anchor.prompt_bytes)).gate.strengths() == 1).all()
    # Nor do they harm.
    assert decide(gop, FakeGenerator(40), blind).anchors == ()


@pytest.mark.parametrize(("prompts", "frames"), [("keyframe", [0]), ("blind", [0]), ("none", [])])
@pytest.mark.parametrize("name", PRESETS)
def test_prompts_that_know_less_are_of_the_keyframe(
    moving, moving_packets, name: str, prompts: PromptsName, frames: list[int]
) -> None:
    gop = gop_of(moving_packets, moving.__getitem__)
    decision = decide(gop, Oracle(moving), PRESETS[name].with_prompts(prompts), interval=32)
    assert [anchor.frame for anchor in decision.anchors] == frames
    assert (decision.distance < decision.base_distance) == bool(frames)


def test_prompts_of_the_keyframe_ask_for_no_later_picture() -> None:
    preset = PRESETS["medium"].with_prompts("keyframe")
    assert preset.fit is not None
    assert preset.adapter is not None
    assert (preset.fit.frames, preset.adapter.frames) == (0, 0)
    assert preset.fit.steps == PRESETS["medium"].fit.steps
    assert PRESETS["medium"].with_prompts("gop") == PRESETS["medium"]


def test_generator_that_harms_is_left_out(still, still_packets) -> None:
    gop = gop_of(still_packets, lambda f: brighter(still[f], 8))
    for generator in (FakeGenerator(-8), FakeGenerator(40)):
        decision = decide(gop, generator, PRESETS["medium"])
        assert decision.anchors == ()
        assert decision.distance == decision.base_distance


def test_no_gain_is_no_anchor(still_packets) -> None:
    """Also where the base is perfect already, so that no share of its distance can be gained."""
    decoded = {p.index: p.picture.copied() for p in decode_gop(still_packets, GopDecoding(TICK))}
    for preset in PRESETS.values():
        decision = decide(gop_of(still_packets, decoded.__getitem__), FakeGenerator(0), preset)
        assert decision.base_distance == 0
        assert decision.anchors == ()


def test_what_helps_the_keyframe_but_harms_what_follows_is_left_out(still, still_packets) -> None:
    gop = gop_of(still_packets, lambda f: brighter(still[f], 8 if f == 0 else -8))
    assert decide(gop, FakeGenerator(8), PRESETS["medium"]).anchors == ()


def test_told_quantiser_is_the_one_that_helps_most(still, still_packets) -> None:
    class Picky(FakeGenerator):
        def generate(
            self, planes: Planes, *, quantiser: int, strengths: np.ndarray, block_size: int
        ) -> Planes:
            better = FakeGenerator(8 if quantiser == actual + 32 else 5)
            return better.generate(planes, quantiser=quantiser, strengths=strengths, block_size=block_size)

    gop = gop_of(still_packets, lambda f: brighter(still[f], 8))
    actual = find_candidates(gop, None)[0].base_q_idx
    (anchor,) = decide(gop, Picky(), PRESETS["slow"]).anchors
    assert anchor.quantiser == actual + 32
    assert parse_sections(decode_prompt(anchor.prompt_bytes)).quantiser == actual + 32


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("interval", "allowed"), [(None, [0]), (32, [0, 32, 64]), (64, [0, 48])])
def test_anchors_come_only_where_the_interval_allows(
    moving, moving_packets, interval: int | None, allowed: list[int], preset: str
) -> None:
    gop = gop_of(moving_packets, moving.__getitem__)
    decision = decide(gop, Oracle(moving), PRESETS[preset], interval)
    assert [anchor.frame for anchor in decision.anchors] == allowed
    assert [anchor.packet for anchor in decision.anchors] == [max(f - MINI_GOP + 1, 0) for f in allowed]
    assert decision.distance < decision.base_distance


@pytest.mark.parametrize("preset", ["fast", "medium"])
def test_decision_holds_in_a_decode(moving, moving_packets, preset: str) -> None:
    """The distances are those of a plain decode of the prompted packets, measured here."""
    gop = gop_of(moving_packets, moving.__getitem__)
    decision = decide(gop, Oracle(moving), PRESETS[preset], interval=32)
    prompted = attach_prompts(gop, decision.anchors)
    samples = sample_frames(100, PRESETS[preset].sample_frames)
    for packets, expected in ((moving_packets, decision.base_distance), (prompted, decision.distance)):
        decoding = GopDecoding(TICK, generators=Lookup(Oracle(moving)))
        luma = [p.picture.y.astype(int) for p in decode_gop(packets, decoding)]
        found = np.mean([np.abs(luma[f] - moving[f].y).mean() for f in samples])
        assert found == pytest.approx(expected, rel=1e-9)


def test_anchors_that_no_sample_shows_are_left_out(moving, moving_packets) -> None:
    """One sample, in the middle: what the keyframe does until frame 32 stays unseen."""
    gop = gop_of(moving_packets, moving.__getitem__)
    preset = replace(FAST, sample_frames=1)
    assert sample_frames(100, 1) == [50]
    assert [a.frame for a in decide(gop, Oracle(moving), preset, 32).anchors] == [32, 64]


def test_only_announced_source_pictures_are_asked_for(moving, moving_packets) -> None:
    asked: set[int] = set()

    def source(frame: int) -> Picture:
        asked.add(frame)
        return moving[frame]

    gate = GopGate(gop_of(moving_packets, source), Oracle(moving), LumaJudge(), PRESETS["medium"], 32)
    wanted = gate.wanted_frames()
    assert not asked
    gate.decide()
    assert asked <= set(wanted)
    assert len(wanted) < 40


def test_few_prepared_references_are_held(moving, moving_packets, monkeypatch) -> None:
    gop = gop_of(moving_packets, moving.__getitem__)
    most = 0
    measure = Trials.measure

    def watched(trials: Trials, *arguments: object) -> object:
        nonlocal most
        out = measure(trials, *arguments)
        most = max(most, len(trials._references))
        return out

    monkeypatch.setattr(Trials, "measure", watched)
    decide(gop, Oracle(moving), PRESETS["medium"], 32)
    assert most == PRESETS["medium"].sample_frames


def test_references_are_prepared_once_for_frames_and_a_part_of_them(moving, moving_packets) -> None:
    judge = LumaJudge()
    trials = Trials(gop_of(moving_packets, moving.__getitem__), Oracle(moving), judge)
    all_of_them = trials.measure({}, [0, 7, 14, 21])
    some = trials.measure({}, [0, 14])
    assert {frame: maps.tolist() for frame, maps in some.items()} == {
        frame: all_of_them[frame].tolist() for frame in (0, 14)
    }
    trials.measure({}, [0, 7, 14, 21])
    assert judge.prepared == 4
    trials.measure({}, [14, 30])
    assert judge.prepared == 5
    assert sorted(trials._references) == [14, 30]


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_short_gops(count: int) -> None:
    pictures = scene(count, WIDTH, HEIGHT)
    gop = gop_of(encoded(pictures, crf=50), pictures.__getitem__)
    decision = decide(gop, Oracle(pictures), PRESETS["medium"], 32)
    assert [anchor.frame for anchor in decision.anchors] == [0]
    assert decision.distance < decision.base_distance


@pytest.mark.parametrize(("size", "anchors"), [((16, 16), 1), ((101, 67), 1), ((14, 40), 0), ((64, 8), 0)])
def test_sizes(size: tuple[int, int], anchors: int) -> None:
    """Prompts hold sizes from 16 on; smaller pictures are left alone."""
    pictures = scene(5, *size)
    gop = gop_of(encoded(pictures, crf=60), lambda f: brighter(pictures[f], 9))
    assert len(decide(gop, FakeGenerator(9)).anchors) == anchors


def test_film_grain_leaves_the_gop_alone() -> None:
    rng = np.random.default_rng(0)
    pictures = [
        brighter(p, np.rint(rng.normal(0, 9, p.y.shape)).astype(int)) for p in scene(9, WIDTH, HEIGHT)
    ]
    packets = encoded(pictures, extra=(("film-grain", "30"),))
    with Av1Decoder() as decoder:
        frames = decoder.decode(packets[0].data, 0)
        assert frames[0].has_film_grain
        assert not can_carry(frames)
    gop = gop_of(packets, lambda f: brighter(pictures[f], 9))
    assert decide(gop, FakeGenerator(9)).anchors == ()


def test_ten_bits_leave_the_gop_alone() -> None:
    encoder = av.CodecContext.create("libsvtav1", "w")
    encoder.width, encoder.height, encoder.pix_fmt = WIDTH, HEIGHT, "yuv420p10le"
    encoder.time_base, encoder.framerate = TICK, Fraction(30)
    encoder.options = {"preset": "12", "crf": "40"}
    pictures = scene(5, WIDTH, HEIGHT)
    packets = []
    for index, picture in enumerate(pictures):
        frame = picture.to_frame().reformat(format="yuv420p10le")
        frame.pts, frame.time_base = index, TICK
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    coded = [CodedPacket(bytes(p), i, i, 1, i == 0) for i, p in enumerate(packets)]
    gop = gop_of(coded, lambda f: brighter(pictures[f], 9))
    assert decide(gop, FakeGenerator(9)).anchors == ()


@pytest.mark.parametrize("preset", ["fast", "medium"])
def test_damage_is_an_error_of_its_kind(moving, moving_packets, preset: str) -> None:
    packets = list(moving_packets)
    packets[2] = replace(packets[2], data=packets[2].data[:4] + bytes(len(packets[2].data) - 4))
    with pytest.raises((CodecError, BitstreamError)):
        decide(gop_of(packets, moving.__getitem__), Oracle(moving), PRESETS[preset], 32)


def test_packet_without_a_picture_is_a_codec_error(moving, moving_packets) -> None:
    packets = [*moving_packets[:4], replace(moving_packets[4], data=bytes([0x12, 0x00]))]
    with pytest.raises(CodecError, match=r"packets \[4\] of a GOP show no picture"):
        decide(gop_of(packets, moving.__getitem__), Oracle(moving), PRESETS["slow"])


def test_generator_that_fails_is_a_generator_error(still, still_packets) -> None:
    class Failing(FakeGenerator):
        def generate(self, planes: Planes, **options: object) -> Planes:
            raise GeneratorError("out of memory")

    with pytest.raises(GeneratorError, match="out of memory"):
        decide(gop_of(still_packets, still.__getitem__), Failing())


def test_prompts_that_are_there_already_change_nothing(still, still_packets) -> None:
    def source(frame: int) -> Picture:
        return brighter(still[frame], 8)

    gop = gop_of(still_packets, source)
    wanted = decide(gop, FakeGenerator(8))
    prompted = attach_prompts(gop, wanted.anchors)
    assert decide(gop_of(prompted, source), FakeGenerator(8)) == wanted


def test_cached_generator_generates_once(still) -> None:
    oracle = Oracle(still[:1])
    cached = CachedGenerator(oracle, capacity=2)
    assert (cached.identity, cached.name) == (oracle.identity, oracle.name)
    strengths = np.full((2, 4), 0.5, np.float32)

    def generate(change: int, **options: object) -> Planes:
        planes = brighter(still[0], change).planes
        return cached.generate(
            planes, **{"quantiser": 9, "strengths": strengths, "block_size": 64, **options}
        )

    first = generate(9)
    assert np.array_equal(generate(9)[0], first[0])
    assert oracle.calls == 1
    for number, other in enumerate(
        ({"change": 3}, {"change": 9, "strengths": strengths * 2}, {"change": 9, "quantiser": 8}), 2
    ):
        generate(**other)
        assert oracle.calls == number
    generate(9)
    assert oracle.calls == 5


# ---------------------------------------------------------------------------------------- which frames


def test_candidates_are_the_base_pictures_of_mini_gops(moving_packets) -> None:
    gop = gop_of(moving_packets, lambda f: None)
    assert [c.frame for c in find_candidates(gop, None)] == [0]
    assert [c.frame for c in find_candidates(gop, 64)] == [0, 48]
    found = find_candidates(gop, 32)
    assert [c.frame for c in found] == [0, 32, 64]
    # Each is coded, hidden, in the packet that shows the first picture after the one before.
    assert [c.packet for c in found] == [0, 17, 49]
    tracker = HeaderTracker()
    for index, packet in enumerate(moving_packets):
        headers = tracker.parse(packet.data)
        for candidate in found:
            if candidate.packet == index:
                assert headers[0].base_q_idx == candidate.base_q_idx
                assert headers[0].shown == (index == 0)
                order = headers[0].order_hint
            if candidate.frame == index and index:
                (shown,) = headers
                assert shown.show_existing_frame
                assert shown.order_hint == candidate.frame % (1 << tracker.sequence_header.order_hint_bits)
    assert order == 64


def test_sequence_header_may_come_from_the_container(moving_packets) -> None:
    obus = list(iterate_obus(moving_packets[0].data))
    header = next(o.raw for o in obus if o.type is ObuType.SEQUENCE_HEADER)
    bare = b"".join(o.raw for o in obus if o.type is not ObuType.SEQUENCE_HEADER)
    packets = [replace(moving_packets[0], data=bare), *moving_packets[1:]]
    expected = find_candidates(gop_of(moving_packets, lambda f: None), 32)
    assert find_candidates(Gop(packets, header, TICK, lambda f: None), 32) == expected


def test_gains_that_nobody_sees_do_not_pay() -> None:
    assert pays_off(0.0994, 0.1)
    assert not pays_off(0.0998, 0.1)
    assert pays_off(0.006, 0.007)
    # Half of nearly nothing is nothing.
    assert not pays_off(0.002, 0.004)
