"""The order of things in an encode, and its client's buffer, with a made-up base encoder."""

import math
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from fractions import Fraction
from threading import Event
from types import SimpleNamespace

import pytest
from encode_media import TICK, LumaJudge, scene

from hybridprompt.encode.base import BaseEncoder, BaseGop, GivenKeyframe
from hybridprompt.encode.buffer import RateBuffer
from hybridprompt.encode.judge import Judge
from hybridprompt.encode.progress import ProgressMeter
from hybridprompt.encode.rate_control import relative_log_bytes
from hybridprompt.encode.settings import EncodeSettings
from hybridprompt.encode.spool import PacketSpool
from hybridprompt.encode.targets import CrfTarget, GopResult
from hybridprompt.encode.video_encoder import VideoEncoder
from hybridprompt.generator.fake import FakeGenerator
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.picture import Picture

GOP_FRAMES = 15
GOP_SECONDS = GOP_FRAMES / 30


class FakeBase:
    """Codes a GOP to as many bytes as a curve over CRF says."""

    factor = 0.25

    def __init__(self, steepness: float = 1.0) -> None:
        self.steepness = steepness
        self.cancelled = Event()
        self.encodes: list[tuple[int, float, float]] = []

    def size_bytes(self, crf: float) -> int:
        return round(3000 * math.exp(self.steepness * relative_log_bytes(crf)))

    def encode(self, pictures: list[Picture], crf: float, factor: float) -> BaseGop:
        gop = (pictures[0].pts or 0) // GOP_FRAMES
        self.encodes.append((gop, crf, factor))
        data = bytes(self.size_bytes(crf) - len(pictures) + 1)
        packets = [
            CodedPacket(b"\0" if i else data, p.pts or 0, p.pts or 0, 1, is_keyframe=not i)
            for i, p in enumerate(pictures)
        ]
        return BaseGop(pictures, packets, crf, factor)

    def best(self, pictures: list[Picture], crf: float) -> BaseGop:
        return self.encode(pictures, crf, self.factor)

    def again(self, base: BaseGop, crf: float, *, hold_still: bool = True) -> BaseGop:
        return self.encode(base.pictures, crf, base.variant)

    def other_still(self, base: BaseGop) -> BaseGop | None:
        return None


class MostlyStill(FakeBase):
    """Of the bytes of a GOP, nine of ten are of its still."""

    factor = GivenKeyframe(0.0)
    again = BaseEncoder.again

    def encode(self, pictures: list[Picture], crf: float, variant: GivenKeyframe) -> BaseGop:
        coded = super().encode(pictures, crf, variant)
        still, rest = self.size_bytes(crf + variant.still_offset), self.size_bytes(crf)
        data = bytes(round(0.9 * still + 0.1 * rest) - len(pictures) + 1)
        return replace(coded, packets=[replace(coded.packets[0], data=data), *coded.packets[1:]])


class Source:
    path = "made-up.mp4"
    width, height = 160, 96
    average_rate = Fraction(30)
    time_base = TICK
    start_pts = 0

    def __init__(self, gops: int) -> None:
        self.pictures = scene(gops * GOP_FRAMES)

    def frames(self, start_seconds: float | None = None) -> Iterator[Picture]:
        return (p for p in self.pictures if (p.pts or 0) / 30 >= (start_seconds or 0.0))


class Wishes(CrfTarget):
    """Asks for the corrections it is given; every one of them helps."""

    def __init__(self, crf: float, *wishes: tuple[int, float]) -> None:
        super().__init__(crf)
        self.wishes = iter(wishes)
        self.log: list[tuple[str, int]] = []
        self.records = 0
        self.were_limited: list[int] = []

    def limited(self, gop: int) -> None:
        self.were_limited.append(gop)

    def crf_for(self, gop: int, pictures: list[Picture]) -> float:
        self.log.append(("begin", gop))
        return super().crf_for(gop, pictures)

    def record(self, gop: int, result: GopResult) -> None:
        # Long enough for a base that was begun too soon to show.
        time.sleep(0.03)
        self.log.append(("record", gop))
        self.records += 1

    def error(self) -> float:
        return 1 / (1 + self.records)

    def correction(self) -> tuple[int, float] | None:
        return next(self.wishes, None)


def encoder(
    gops: int, *, prompt_bytes: int = 0, base: FakeBase | None = None, **changes: object
) -> VideoEncoder:
    judging: Future[Judge] = Future()
    judging.set_result(LumaJudge())
    options = {"crf": 50.0, "preset": "fast", "gop_seconds": GOP_SECONDS, **changes}
    made = VideoEncoder(
        Source(gops),  # type: ignore[arg-type]
        EncodeSettings(**options),  # type: ignore[arg-type]
        FakeGenerator(),
        judging,
        ProgressMeter(None, gops * GOP_FRAMES),
    )
    made.base = base or FakeBase()  # type: ignore[assignment]

    def decide(base: BaseGop) -> GopResult:
        decision = SimpleNamespace(base_distance=0.2, distance=0.2, anchors=())
        return GopResult(
            base.packets,
            base.size_bytes,
            prompt_bytes,
            decision,  # type: ignore[arg-type]
            base.crf,
            base.variant,
        )

    made.decide = decide  # type: ignore[method-assign]
    return made


def test_a_base_begins_when_the_gop_before_the_last_is_recorded() -> None:
    """Never sooner, or the bytes would depend on which of two threads is faster."""
    target = Wishes(50.0)
    with PacketSpool() as spool:
        encoder(4).encode_all(target, spool)
    assert [gop for what, gop in target.log if what == "record"] == [0, 1, 2, 3]
    for gop in (2, 3):
        assert target.log.index(("record", gop - 2)) < target.log.index(("begin", gop))


def test_a_failure_ends_the_encode_beside_it() -> None:
    class Endless(FakeBase):
        ended = False

        def best(self, pictures: list[Picture], crf: float) -> BaseGop:
            if pictures[0].pts:
                self.ended = self.cancelled.wait(3)
            return super().best(pictures, crf)

    made = encoder(2, base=(base := Endless()))

    def fail(base: BaseGop) -> GopResult:
        raise RuntimeError("decided")

    made.decide = fail  # type: ignore[method-assign]
    with PacketSpool() as spool, pytest.raises(RuntimeError, match="decided"):
        made.encode_all(CrfTarget(50.0), spool)
    assert base.ended


def test_a_correction_keeps_the_share_of_the_keyframe() -> None:
    made = encoder(2)
    target = Wishes(50.0, (1, 55.0))
    with PacketSpool() as spool:
        made.encode_all(target, spool)
        made.base.factor = 1.0  # type: ignore[attr-defined]
        made.correct(target, spool)
    assert made.base.encodes[-1] == (1, 55.0, 0.25)  # type: ignore[attr-defined]
    assert made.results[1].crf == 55.0


@pytest.mark.parametrize("target", [{"quality": 0.2}, {"bitrate_kbps": 100.0}])
def test_two_gops_may_be_corrected_twice(target: dict[str, float]) -> None:
    made = encoder(2, crf=None, **target)
    wishes = Wishes(50.0, (0, 55.0), (1, 55.0))
    with PacketSpool() as spool:
        made.encode_all(wishes, spool)
        made.correct(wishes, spool)
    assert [made.results[gop].crf for gop in (0, 1)] == [55.0, 55.0]


def test_no_correction_makes_the_buffer_overflow() -> None:
    # A GOP has at most 1500 bytes of the line and 3000 of the buffer.
    made = encoder(2, max_kbps=24.0, buffer_seconds=1.0)
    target = Wishes(60.0, (0, 45.0))
    with PacketSpool() as spool:
        made.encode_all(target, spool)
        made.correct(target, spool)
        assert spool.length(0) == GOP_FRAMES
    assert made.base.encodes[-1][1] == 45.0  # type: ignore[attr-defined]
    assert made.results[0].crf == 60.0
    assert made.buffer_note() is None
    # It would have helped.
    assert target.were_limited == [0]


def test_no_correction_makes_an_overflow_worse() -> None:
    made = encoder(2, max_kbps=24.0, buffer_seconds=1.0)
    target = Wishes(60.0, (1, 59.0), (1, 61.0))
    with PacketSpool() as spool:
        made.encode_all(target, spool)
        made.buffer = RateBuffer(5.0, 0.1)
        for gop in (0, 1):
            made._record(gop, made.results[gop], target)
        made.correct(target, spool)
    assert made.results[1].crf == 61.0
    assert target.were_limited == [1]


def test_a_target_learns_what_the_buffer_makes_coarser() -> None:
    base = FakeBase()
    made = encoder(3, base=base, max_kbps=24.0, buffer_seconds=1.0)
    free = base.best

    def best(pictures: list[Picture], crf: float) -> BaseGop:
        return free(pictures, 40.0 if pictures[0].pts == GOP_FRAMES else crf)

    base.best = best  # type: ignore[method-assign]
    target = Wishes(66.0)
    with PacketSpool() as spool:
        made.encode_all(target, spool)
    assert target.were_limited == [1]
    assert made.results[1].crf > 40.0


class Sound:
    """So many bytes every tenth of a second."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes

    def bytes_between(self, start_seconds: float, end_seconds: float) -> int:
        first = 0 if start_seconds == -math.inf else math.ceil(round(10 * start_seconds, 6))
        return self.size_bytes * (math.ceil(round(10 * end_seconds, 6)) - first)


@pytest.mark.parametrize("analysed", [False, True])
def test_the_sound_counts_for_the_buffer(analysed: bool) -> None:
    plain = encoder(3, prompt_bytes=20, crf=40.0, max_kbps=32.0, buffer_seconds=0.5)
    sounding = encoder(3, prompt_bytes=20, crf=40.0, max_kbps=32.0, buffer_seconds=0.5)
    # A tenth of the line.
    sounding.sound = Sound(40)  # type: ignore[assignment]
    for made in (plain, sounding):
        if analysed:
            made.base.analysis_bytes = lambda *args, **options: 100  # type: ignore[method-assign]
            made.analyse()
        with PacketSpool() as spool:
            made.encode_all(CrfTarget(40.0), spool)
        assert made.buffer_note() is None
    assert sounding.sound_bytes == {0: 200, 1: 200, 2: 200}
    sent = [
        sum(result.base_bytes + result.prompt_bytes for result in made.results.values())
        for made in (plain, sounding)
    ]
    assert 0.9 * 600 < sent[0] - sent[1] < 1.1 * 600
    # Nothing is left beside three times the line.
    sounding.sound = Sound(1200)  # type: ignore[assignment]
    sounding.durations.clear()
    with PacketSpool() as spool:
        sounding.encode_all(CrfTarget(40.0), spool)
    assert "3 of 3 GOPs" in (sounding.buffer_note() or "")


def test_a_gop_that_overflows_does_not_keep_the_others_from_correction() -> None:
    made = encoder(3, max_kbps=24.0, buffer_seconds=1.0)
    target = Wishes(66.0, (2, 67.0), (1, 50.0))
    with PacketSpool() as spool:
        made.encode_all(target, spool)
        # There is no room for the first, whatever may be done.
        made._record(0, replace(made.results[0], base_bytes=4600), target)
        assert "1 of 3 GOPs" in (made.buffer_note() or "")
        made.correct(target, spool)
    assert [made.results[gop].crf for gop in range(3)] == [66.0, 66.0, 67.0]
    assert "1 of 3 GOPs" in (made.buffer_note() or "")


@pytest.mark.parametrize("steepness", [0.6, 1.0, 1.4])
def test_a_limit_within_reach_is_met_from_any_crf(steepness: float) -> None:
    made = encoder(1, base=FakeBase(steepness), prompt_bytes=250, crf=10.0, max_kbps=16.0, buffer_seconds=2.0)
    with PacketSpool() as spool:
        made.encode_all(CrfTarget(10.0), spool)
    assert made.buffer_note() is None


def test_a_still_does_not_resist_the_buffer() -> None:
    """A little too much, so that the CRF changes by less than stills are held for."""
    base = MostlyStill()
    free = base.size_bytes(50.0)
    made = encoder(1, base=base, crf=50.0)
    # The line and the buffer take 1.5 % less, beside the prompts that are expected.
    per_second = (0.985 * free + 2 * made._most_prompt_bytes) / (GOP_SECONDS + 1.0)
    made.buffer = RateBuffer(per_second / 125, 1.0)
    with PacketSpool() as spool:
        made.encode_all(CrfTarget(50.0), spool)
    crfs = [crf for _, crf, _ in base.encodes]
    assert 50.0 < crfs[1] <= 50.75
    assert len(crfs) <= 3
    assert 0.9 * free < made.results[0].base_bytes <= 0.985 * free
    assert made.buffer_note() is None


@pytest.mark.parametrize("prompt_bytes", [0, 400])
def test_the_buffer_keeps_room_for_twice_the_prompts(prompt_bytes: int) -> None:
    """They are decided when the base is done, and a GOP may have more than any before it."""
    made = encoder(3, prompt_bytes=prompt_bytes, crf=40.0, max_kbps=32.0, buffer_seconds=0.5)
    assert made.buffer is not None
    reserved = []
    room = made.buffer.room

    def measured(gop: int, seconds: float) -> float:
        found = room(gop, seconds)
        reserved.append((gop, found, made._most_prompt_bytes))
        return found

    made.buffer.room = measured  # type: ignore[method-assign]
    with PacketSpool() as spool:
        made.encode_all(CrfTarget(40.0), spool)
    most = [least for _, _, least in reserved]
    assert most[0] > 0
    assert most[2] == max(most[0], prompt_bytes)
    for gop, found, least in reserved:
        coded = made.results[gop].base_bytes
        assert 0.9 * (found - 2 * least) < coded <= found - 2 * least
