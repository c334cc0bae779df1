"""Targets against made-up encoders, and real encodes that meet them."""

import math
from concurrent.futures import Future
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
from encode_media import LumaJudge, Oracle, packets_of, scene, scenes, write_source

from hybridprompt.encode import pipeline, video_encoder
from hybridprompt.encode.base import BaseEncoder, BaseGop, GivenKeyframe, Variant
from hybridprompt.encode.buffer import RateBuffer
from hybridprompt.encode.pipeline import encode_file
from hybridprompt.encode.rate_control import (
    ANALYSIS_CRFS,
    STEERED_CRF_RANGE,
    GopAnalysis,
    coarser_crf,
    crf_at,
    relative_log_bytes,
)
from hybridprompt.encode.settings import PRESETS, EncodeSettings
from hybridprompt.encode.targets import GopResult, QualityTarget, RateTarget, usual_prompt_bytes
from hybridprompt.encode.video_encoder import VideoEncoder
from hybridprompt.errors import ConfigError
from hybridprompt.generator.fake import FakeGenerator
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.source import VideoSource


class FakeBase:
    """Its distance follows its CRF as that of real encodes does, steeper or less so."""

    def __init__(self, scale: float, steepness: float = 1.0) -> None:
        self.scale, self.steepness = scale, steepness
        self.encodes = 0

    def at(self, crf: float) -> BaseGop:
        self.encodes += 1
        return BaseGop([], [], crf, 1.0)

    def again(self, base: BaseGop, crf: float, *, hold_still: bool = True) -> BaseGop:
        return self.at(crf)

    def distance(self, base: BaseGop) -> float:
        return self.scale * math.exp(-self.steepness * relative_log_bytes(base.crf))


def result(base: float, decoded: float, crf: float) -> GopResult:
    decision = SimpleNamespace(base_distance=base, distance=decoded)
    return GopResult((), 1000, 10, decision, crf, 1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [0.06, 0.1, 0.2])
@pytest.mark.parametrize("steepness", [0.7, 1.0, 1.4])
def test_quality_is_met_in_few_encodes(scale: float, steepness: float) -> None:
    fake = FakeBase(scale, steepness)
    target = QualityTarget(fake, 0.15)  # type: ignore[arg-type]
    kept = target.settled(0, fake.at(target.crf_for(0, [])))
    target.expect(0, kept)
    gain = 0.9
    target.record(0, result(fake.distance(kept), gain * fake.distance(kept), kept.crf))
    assert target.error() < 0.08
    assert fake.encodes <= 4
    # The next GOP begins where this one ended, and knows what prompts gain.
    assert target.crf_for(1, []) == kept.crf
    following = target.settled(1, fake.at(kept.crf))
    assert gain * fake.distance(following) == pytest.approx(0.15, rel=0.04)


def test_quality_corrects_the_gop_that_is_farthest_off() -> None:
    fake = FakeBase(0.1)
    target = QualityTarget(fake, 0.15)  # type: ignore[arg-type]
    target.record(0, result(0.16, 0.151, 57.0))
    assert target.correction() is None
    assert target.note() is None
    target.record(1, result(0.16, 0.12, 58.0))
    gop, crf = target.correction() or (0, 0.0)
    assert gop == 1
    assert crf > 58
    assert "1 of 2 GOPs" in (target.note() or "")


def test_quality_does_not_ask_again_for_what_was_rejected() -> None:
    target = QualityTarget(FakeBase(0.1), 0.15)  # type: ignore[arg-type]
    kept = result(0.2, 0.18, 62.0)
    target.record(0, kept)
    target.record(1, result(0.2, 0.17, 62.0))
    gop, crf = target.correction() or (9, 0.0)
    assert gop == 0
    # The base is what was wanted, but the prompts fail.
    target.record(0, result(0.15 / 0.9, 0.3, crf))
    target.record(0, kept)
    assert (target.correction() or (9, 0.0))[0] == 1


def test_quality_does_not_follow_one_odd_gop() -> None:
    fake = FakeBase(0.1)
    target = QualityTarget(fake, 0.15)  # type: ignore[arg-type]
    for gop, decoded in enumerate((0.144, 0.0001, 0.144)):
        target.record(gop, result(0.16, decoded, 58.0))
    following = target.settled(3, fake.at(58.0))
    assert 0.9 * fake.distance(following) == pytest.approx(0.15, rel=0.04)


def test_quality_learns_nothing_from_a_gop_that_is_nearly_its_source() -> None:
    fake = FakeBase(0.1)
    target = QualityTarget(fake, 0.15)  # type: ignore[arg-type]
    target.record(0, result(0.0005, 0.000005, 58.0))
    following = target.settled(1, fake.at(58.0))
    assert math.exp(-0.08) * fake.distance(following) == pytest.approx(0.15, rel=0.04)


def test_a_missed_quality_is_explained() -> None:
    target = QualityTarget(FakeBase(0.1), 0.15)  # type: ignore[arg-type]
    for gop, distance in enumerate((0.15, 0.2, 0.19, 0.12)):
        target.record(gop, result(distance, distance, 60.0))
    assert target.note() == "3 of 4 GOPs miss the distance by more than 5%"
    # What meets its distance, or is better, is not held down.
    target.limited(0)
    target.limited(3)
    assert "maximum rate" not in (target.note() or "")
    target.limited(1)
    assert (target.note() or "").endswith("5%: the maximum rate holds 1 down")
    target.limited(2)
    target.record(3, result(0.15, 0.15, 61.0))
    assert target.note() == "2 of 4 GOPs miss the distance by more than 5%: the maximum rate holds 2 down"


def test_better_than_asked_for_at_the_coarsest_crf_is_no_miss() -> None:
    target = QualityTarget(FakeBase(0.1), 0.15)  # type: ignore[arg-type]
    target.record(0, result(0.1, 0.05, STEERED_CRF_RANGE[1]))
    assert target.note() is None
    target.record(1, result(0.1, 0.05, 70.0))
    assert "1 of 2 GOPs" in (target.note() or "")
    target.record(1, result(0.4, 0.3, STEERED_CRF_RANGE[1]))
    assert "1 of 2 GOPs" in (target.note() or "")


class FakeSizes(FakeBase):
    """GOPs of as many bytes as a curve says, off the analysis by a factor for each."""

    settings = EncodeSettings(bitrate_kbps=100.0, preset="fast")

    def __init__(self, *factors: float, steepness: float = 1.0) -> None:
        super().__init__(1.0, steepness)
        self.factors = factors
        self.by_gop = [0] * len(factors)
        self.held: list[bool] = []
        self.variant: Variant = 1.0

    def bytes_of(self, gop: int, crf: float) -> int:
        return round(10_000 * self.factors[gop] * math.exp(self.steepness * relative_log_bytes(crf)))

    def of(self, gop: int, crf: float) -> BaseGop:
        self.by_gop[gop] += 1
        packet = CodedPacket(bytes(self.bytes_of(gop, crf)), gop, gop, 1, is_keyframe=True)
        return BaseGop([], [packet], crf, self.variant)

    def again(self, base: BaseGop, crf: float, *, hold_still: bool = True) -> BaseGop:
        self.held.append(hold_still)
        return self.of(base.packets[0].pts, crf)

    def analysis_bytes(self, pictures: object, crf: float, *, threads: int) -> int:
        return round(0.74 * self.bytes_of(0, crf))

    def target(self, kbps: float) -> RateTarget:
        # Of usual GOPs, as far as an analysis can tell.
        analysis = GopAnalysis(
            *(round(5000 * math.exp(relative_log_bytes(crf))) for crf in ANALYSIS_CRFS), 1.0
        )
        return RateTarget(self, kbps, [analysis] * len(self.factors), 0.0)  # type: ignore[arg-type]

    def encode_all(self, target: RateTarget) -> None:
        for gop in range(len(self.factors)):
            target.expect(gop, target.settled(gop, self.of(gop, target.crf_for(gop, []))))


@pytest.mark.parametrize("gops", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("preset", ["fast", "medium"])
def test_quick_encodes_repeat_little(gops: int, preset: str) -> None:
    """Where the model is far off, and the curve of every GOP much steeper than usual."""
    fake = FakeSizes(*[0.3] * (gops - 1), 0.1, steepness=1.8)
    fake.settings = EncodeSettings(bitrate_kbps=100.0, preset=preset)  # type: ignore[arg-type]
    fake.encode_all(fake.target(60.0))
    assert fake.by_gop[1:-1] == [1] * (gops - 2)
    first, last = fake.by_gop[0] - 1, fake.by_gop[-1] - 1
    if preset == "medium" or gops == 1:
        assert first == last == 2
    else:
        assert first == 1
        assert 1 <= last <= (1 if gops < 4 else 2)


@pytest.mark.parametrize("preset", ["fast", "medium", "slow"])
@pytest.mark.parametrize("prompts", ["keyframe", "blind", "none"])
def test_prompts_that_know_less_do_not_change_how_a_rate_is_met(preset: str, prompts: str) -> None:
    crfs = []
    for known in ("gop", prompts):
        fake = FakeSizes(0.3, 0.3, 0.3, 0.1, steepness=1.8)
        fake.settings = EncodeSettings(bitrate_kbps=100.0, preset=preset, prompts=known)  # type: ignore[arg-type]
        target = fake.target(60.0)
        fake.encode_all(target)
        crfs.append([crf for crf, _, _ in target.control.spent.values()] + fake.by_gop)
    assert crfs[0] == crfs[1]


@pytest.mark.parametrize(("mode", "codec"), [("replace", "av1"), ("replace", "h265"), ("enhance", "h264")])
def test_only_the_usual_mode_saves_encodes(mode: str, codec: str) -> None:
    fake = FakeSizes(0.3, 0.1, steepness=1.8)
    fake.settings = EncodeSettings(bitrate_kbps=100.0, preset="fast", mode=mode, codec=codec)  # type: ignore[arg-type]
    fake.encode_all(fake.target(60.0))
    assert fake.by_gop == [3, 3]


def test_a_quick_encode_is_left_within_its_tolerance() -> None:
    fake = FakeSizes(1.0, 1.0, 1.02, 1.02)
    target = fake.target(40.0)
    fake.encode_all(target)
    assert fake.by_gop == [1, 1, 1, 1]
    assert target.error() <= 0.025
    # A single GOP comes nearer.
    fake = FakeSizes(1.0)
    target = fake.target(40.0)
    fake.encode_all(target)
    assert target.error() <= 0.004


def test_of_all_encodes_the_nearest_to_the_rate_is_kept() -> None:
    fake = FakeSizes(1.0)
    target = fake.target(40.0)  # 5000 bytes
    crf = target.crf_for(0, [])
    # Coarser CRFs, and more bytes: such encodes exist.
    sizes = iter([5200, 6000, 5900, 5700])
    fake.bytes_of = lambda gop, crf: next(sizes)  # type: ignore[method-assign]
    kept = target.settled(0, fake.of(0, crf))
    assert fake.by_gop[0] > 2
    assert kept.size_bytes == 5200
    target.expect(0, kept)
    assert target.error() == pytest.approx(0.04)


@pytest.mark.parametrize(
    ("sizes", "kept", "held"),
    [
        # What is missing is less than a leap of the still's bytes.
        ((5600, 5400, 5060, 5005), 5005, [False, False, True]),
        # The rate lies between two stills.
        ((5300, 4500, 5150, 5010), 5010, [False, True, True]),
    ],
)
def test_a_still_is_held_where_only_the_rest_can_meet_the_rate(
    sizes: tuple[int, ...], kept: int, held: list[bool]
) -> None:
    fake = FakeSizes(1.0)
    fake.settings = EncodeSettings(bitrate_kbps=100.0, preset="medium")
    fake.variant = GivenKeyframe(0.0)
    target = fake.target(40.0)  # 5000 bytes
    crf = target.crf_for(0, [])
    coming = iter(sizes)
    fake.bytes_of = lambda gop, crf: next(coming)  # type: ignore[method-assign]
    assert target.settled(0, fake.of(0, crf)).size_bytes == kept
    assert fake.held == held


@pytest.mark.parametrize("kbps", [1.0, 100_000.0])
def test_a_rate_out_of_reach_is_said(kbps: float) -> None:
    fake = FakeSizes(1.0, 1.0)
    target = fake.target(kbps)
    fake.encode_all(target)
    assert "out of the codec's reach" in (target.note() or "")


def test_a_missed_rate_is_explained() -> None:
    fake = FakeSizes(1.0, 1.0)
    target = fake.target(40.0)
    for gop in (0, 1):
        # The client's buffer had room for no more.
        target.limited(gop)
        target.expect(gop, fake.of(gop, 68.0))
    assert "the maximum rate holds it down" in (target.note() or "")
    target = fake.target(40.0)
    for gop in (0, 1):
        target.expect(gop, fake.of(gop, 68.0))
    assert "too short to steer" in (target.note() or "")


def test_quality_out_of_reach_ends_at_the_bounds() -> None:
    fake = FakeBase(1e-6)
    target = QualityTarget(fake, 0.5)  # type: ignore[arg-type]
    assert target.settled(0, fake.at(60.0)).crf == STEERED_CRF_RANGE[1]
    assert fake.encodes <= 5


def test_crf_of_relative_bytes() -> None:
    for crf in (10.0, 40.0, 57.5, 62.25, 64.0, 71.0):
        assert crf_at(relative_log_bytes(crf)) == pytest.approx(crf, abs=1 / 32)
        half = coarser_crf(crf, 0.5)
        drop = relative_log_bytes(crf) - relative_log_bytes(half)
        assert half == STEERED_CRF_RANGE[1] or drop == pytest.approx(math.log(2), abs=0.02)
    assert coarser_crf(60.0, 0.9999) > 60.0


def test_buffer_fills_and_drains() -> None:
    buffer = RateBuffer(80.0, 2.0)  # 10 kB/s, 20 kB
    assert buffer.room(0, 1.0) == 30_000
    buffer.record(0, 30_000, 1.0)
    # Full: what drains in the meantime is all that may come.
    assert buffer.room(1, 1.0) == 10_000
    buffer.record(1, 5_000, 1.0)
    assert buffer.room(2, 3.0) == 35_000
    assert buffer.overflows() == {}
    # Never below empty: quiet times are not saved up.
    buffer.record(2, 0, 100.0)
    assert buffer.room(3, 1.0) == 30_000
    buffer.record(1, 10_001, 1.0)
    assert buffer.overflows() == {1: 1}


@pytest.fixture(scope="module")
def two_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source") / "two.mp4", scenes(40, 60))


@pytest.fixture
def luma_judge(monkeypatch: pytest.MonkeyPatch) -> LumaJudge:
    judge = LumaJudge()
    monkeypatch.setattr(pipeline, "make_judge", lambda scale: judge)
    return judge


def settings(**changes: object) -> EncodeSettings:
    return EncodeSettings(**{"preset": "fast", **changes})


def test_one_gop_meets_its_rate(luma_judge: LumaJudge, tmp_path: Path) -> None:
    """A short video, where SVT-AV1's own steps would miss it by percents."""
    source = write_source(tmp_path / "one.mp4", scene(90, 320, 192))
    for kbps in (80.0, 81.3, 83.1):
        chosen = settings(bitrate_kbps=kbps, overwrite=True)
        summary = encode_file(source, tmp_path / "out.mp4", chosen, generator=FakeGenerator())
        assert summary.rate_kbps == pytest.approx(kbps, rel=0.015)
        assert summary.notes == ()


def test_quality_of_a_real_encode(
    luma_judge: LumaJudge, two_scenes: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(video_encoder, "LpipsJudge", LumaJudge)
    # In the fake judge's unit.
    monkeypatch.setattr(EncodeSettings, "__post_init__", lambda self: None)
    rates = []
    for distance in (4.0, 8.0):
        chosen = settings(quality=distance, overwrite=True)
        summary = encode_file(two_scenes, tmp_path / "out.mp4", chosen, generator=FakeGenerator())
        assert summary.distances is not None
        assert summary.distances.decoded == pytest.approx(distance, rel=0.12)
        rates.append(summary.rate_kbps)
    assert rates[0] > 1.3 * rates[1]


@pytest.mark.parametrize("distance", [4.0, 6.0, 8.0])
def test_quality_counts_what_prompts_gain(
    luma_judge: LumaJudge, tmp_path: Path, monkeypatch, distance: float
) -> None:
    """Of prompts that gain a fifth, as real ones do."""
    monkeypatch.setattr(video_encoder, "LpipsJudge", LumaJudge)
    monkeypatch.setattr(EncodeSettings, "__post_init__", lambda self: None)
    pictures = scenes(40, 50, 40)
    source = write_source(tmp_path / "three.mp4", pictures)
    chosen = settings(quality=distance)
    summary = encode_file(source, tmp_path / "out.mp4", chosen, generator=Oracle(pictures, reach=0.3))
    assert summary.distances is not None
    assert summary.anchors >= 3
    assert summary.distances.decoded == pytest.approx(distance, rel=0.1)
    assert summary.distances.base > 1.1 * summary.distances.decoded


def test_quality_wants_lpips(luma_judge: LumaJudge, two_scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="weights are not installed"):
        encode_file(two_scenes, tmp_path / "out.mp4", settings(quality=0.2), generator=FakeGenerator())
    assert list(tmp_path.iterdir()) == []


def test_no_gop_exceeds_the_buffer(luma_judge: LumaJudge, two_scenes: Path, tmp_path: Path) -> None:
    free = encode_file(two_scenes, tmp_path / "free.mp4", settings(crf=40.0), generator=FakeGenerator())
    limit = 0.6 * free.rate_kbps
    chosen = settings(crf=40.0, max_kbps=limit, buffer_seconds=0.5)
    summary = encode_file(two_scenes, tmp_path / "out.mp4", chosen, generator=FakeGenerator())
    packets = packets_of(tmp_path / "out.mp4")
    starts = [i for i, packet in enumerate(packets) if packet.is_keyframe] + [len(packets)]
    buffer = RateBuffer(limit, 0.5)
    for gop, (start, end) in enumerate(pairwise(starts)):
        buffer.record(gop, sum(len(p.data) for p in packets[start:end]), (end - start) / 30)
    assert len(starts) == 3
    assert buffer.overflows() == {}
    assert summary.notes == ()
    assert all(crf > 40 for crf in summary.crfs)


def sounding(path: Path, *, seconds: float = 100 / 30) -> Path:
    return write_source(path, scenes(40, 60), audio_seconds=seconds)


def test_no_gop_and_its_sound_exceed_the_buffer(luma_judge: LumaJudge, tmp_path: Path) -> None:
    source, out = sounding(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    limit = 150.0
    chosen = settings(crf=20.0, max_kbps=limit, buffer_seconds=0.2)
    summary = encode_file(source, out, chosen, generator=FakeGenerator())
    assert summary.notes == ()
    with av.open(str(out)) as container:
        packets = [
            (float(p.pts * p.time_base), p.size, p.stream.type == "video" and p.is_keyframe)
            for p in container.demux()
            if p.size
        ]
    starts = [time for time, _, is_start in packets if is_start]
    assert len(starts) == 2
    buffer, used = RateBuffer(limit, 0.2), 0
    for gop, (start, end) in enumerate(pairwise([-1.0, starts[1], 100 / 30])):
        size = sum(size for time, size, _ in packets if start <= time < end - 1e-9)
        used += size
        buffer.record(gop, size, end - max(start, 0.0))
    assert buffer.overflows() == {}
    # It is used, too.
    assert used > 0.75 * limit * 125 * (100 / 30 + 0.2)


@pytest.mark.parametrize("bitrate", [None, 50.0])
def test_sound_that_leaves_nothing_is_refused(
    luma_judge: LumaJudge, tmp_path: Path, bitrate: float | None
) -> None:
    source = sounding(tmp_path / "in.mp4")
    chosen = settings(crf=None if bitrate else 40.0, bitrate_kbps=bitrate, max_kbps=50.0)
    with pytest.raises(ConfigError, match=r"maximum rate is 50 kbit/s, expected more than the .*in\.mp4"):
        encode_file(source, tmp_path / "out.mp4", chosen, generator=FakeGenerator())
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]
    # Without a maximum rate the sound is not counted.
    chosen = settings(crf=60.0)
    encode_file(source, tmp_path / "out.mp4", chosen, generator=FakeGenerator())


def test_sound_that_leaves_less_than_the_rate_is_said(luma_judge: LumaJudge, tmp_path: Path) -> None:
    source = sounding(tmp_path / "in.mp4")
    for limit, said in ((110.0, True), (400.0, False)):
        chosen = settings(bitrate_kbps=100.0, max_kbps=limit, buffer_seconds=0.5, overwrite=True)
        summary = encode_file(source, tmp_path / "out.mp4", chosen, generator=FakeGenerator())
        assert any("the sound takes" in note for note in summary.notes) == said
        assert any("holds it down" in note for note in summary.notes) == said


def test_quality_that_a_limit_forbids_is_said(
    luma_judge: LumaJudge, two_scenes: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(video_encoder, "LpipsJudge", LumaJudge)
    # In the fake judge's unit.
    monkeypatch.setattr(EncodeSettings, "__post_init__", lambda self: None)
    for limit, said in ((10.0, True), (20.0, True), (10_000.0, False)):
        chosen = settings(quality=4.0, max_kbps=limit, buffer_seconds=0.5, overwrite=True)
        summary = encode_file(two_scenes, tmp_path / "out.mp4", chosen, generator=FakeGenerator())
        assert any("the maximum rate holds 2 down" in note for note in summary.notes) == said


def test_a_limit_out_of_reach_is_said(luma_judge: LumaJudge, two_scenes: Path, tmp_path: Path) -> None:
    chosen = settings(crf=40.0, max_kbps=5.0, buffer_seconds=0.1)
    summary = encode_file(two_scenes, tmp_path / "out.mp4", chosen, generator=FakeGenerator())
    assert any("maximum rate" in note for note in summary.notes)


def test_the_keyframe_gets_the_bytes_that_serve_it_best(two_scenes: Path, monkeypatch) -> None:
    monkeypatch.setitem(PRESETS, "fast", replace(PRESETS["fast"], key_lambda_factors=(1.0, 0.4)))
    source = VideoSource(two_scenes)
    pictures = list(source.frames())[:40]
    encoder = BaseEncoder(source, settings(crf=50.0), LumaJudge)
    plain, rich = (encoder.encode(pictures, 50.0, factor) for factor in (1.0, 0.4))
    assert len(rich.packets[0].data) > len(plain.packets[0].data)
    worth = {}
    for base in (plain, rich):
        worth[base.variant] = math.log(encoder.distance(base)) + 0.95 * math.log(base.size_bytes)
    assert encoder.best(pictures, 50.0).variant == min(worth, key=lambda factor: worth[factor])
    # It follows what the judge says, not a rule.
    monkeypatch.setattr(BaseEncoder, "distance", lambda self, base: base.variant**3)
    assert encoder.best(pictures, 50.0).variant == 0.4
    monkeypatch.setattr(BaseEncoder, "distance", lambda self, base: base.variant**-3)
    assert encoder.best(pictures, 50.0).variant == 1.0
    assert encoder.again(rich, 50.0).packets == rich.packets
    assert source.average_rate == Fraction(30)


def test_settings_are_checked() -> None:
    for bad in (
        {"crf": 50.0, "quality": 0.2},
        {"quality": 0.001},
        {"quality": float("nan")},
        {"crf": 50.0, "max_kbps": 1.0},
        {"bitrate_kbps": 300.0, "max_kbps": 200.0},
        {"crf": 50.0, "max_kbps": float("nan")},
        {"crf": 50.0, "max_kbps": 100.0, "buffer_seconds": 0.0},
        {"crf": 50.0, "max_kbps": 100.0, "buffer_seconds": float("inf")},
    ):
        with pytest.raises(ConfigError):
            EncodeSettings(**bad)
    with pytest.raises(ConfigError, match="buffer goes with a maximum rate"):
        EncodeSettings(crf=50.0, buffer_seconds=2.0)


def test_an_adapter_is_reckoned_with() -> None:
    plain = usual_prompt_bytes(1920, 1080)
    assert 300 < usual_prompt_bytes(1920, 1080, with_adapter=True) - plain < 600


@pytest.mark.parametrize(("preset", "adapts"), [("fast", False), ("medium", True), ("slow", True)])
def test_presets_that_adapt_keep_room_for_it(tmp_path: Path, preset: str, adapts: bool) -> None:
    source = VideoSource(write_source(tmp_path / "source.mp4", scene(3)))
    settings = EncodeSettings(crf=50.0, preset=preset)  # type: ignore[arg-type]
    made = VideoEncoder(source, settings, FakeGenerator(), Future(), None)  # type: ignore[arg-type]
    fit = PRESETS[preset].fit  # type: ignore[index]
    expected = usual_prompt_bytes(160, 96, 6 if fit is None else fit.block_log2, with_adapter=adapts)
    assert made._most_prompt_bytes == expected
