"""GOPs in parallel: the pictures of serial decoding, in order, in bounded memory, and no thread left."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from hybridprompt.decode import pipeline
from hybridprompt.decode.injection import MAX_GENERATIONS, GopDecoding
from hybridprompt.decode.pipeline import HEAD_PICTURES, decode_packets
from hybridprompt.decode.warnings import DecodeWarning, WarningKind
from hybridprompt.errors import ConfigError, MediaError
from hybridprompt.generator.fake import FakeGenerator
from hybridprompt.video.av1_encoder import CodedPacket
from prompted_media import (
    GOP_LENGTH,
    HEIGHT,
    TICK,
    WIDTH,
    Lookup,
    assert_same,
    flat,
    prompted,
    reference_decode,
)

Gop = list[CodedPacket]
PICTURE_BYTES = WIDTH * HEIGHT + 2 * (WIDTH // 2) * (HEIGHT // 2)
DECODING = GopDecoding(TICK, generators=Lookup(FakeGenerator()))


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


class SlowGenerator(FakeGenerator):
    """Takes long at the first pictures of even GOPs, so that later GOPs are ready before."""

    def generate(self, planes, *, quantiser, strengths, block_size):
        if planes[1][0, 0] % 20 == 10:
            time.sleep(0.05)
        return super().generate(planes, quantiser=quantiser, strengths=strengths, block_size=block_size)


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("pictures_ahead", [0, 5, 1000])
def test_parallel_is_the_same_as_serial(prompted_gops: list[Gop], workers: int, pictures_ahead: int) -> None:
    expected = [planes for gop in prompted_gops for planes in reference_decode(gop, FakeGenerator())]
    decoded = list(
        decode_packets(
            flat(prompted_gops),
            GopDecoding(TICK, generators=Lookup(SlowGenerator())),
            workers=workers,
            max_picture_bytes=pictures_ahead * PICTURE_BYTES,
        )
    )
    assert [picture.picture.pts for picture in decoded] == list(range(len(expected)))
    assert_same([picture.picture.planes for picture in decoded], expected)
    assert [p.picture.pts for p in decoded if p.is_keyframe] == list(range(0, len(expected), GOP_LENGTH))


def test_no_more_is_decoded_ahead_than_allowed(
    prompted_gops: list[Gop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow consumer: what waits stays within the budget, the few pictures of the head aside."""
    made: list[pipeline._Pipeline] = []
    init = pipeline._Pipeline.__init__
    monkeypatch.setattr(
        pipeline._Pipeline, "__init__", lambda self, *args: (made.append(self), init(self, *args))[0]
    )
    budget = 9
    pictures = decode_packets(
        flat(prompted_gops), DECODING, workers=3, max_picture_bytes=budget * PICTURE_BYTES
    )
    most = 0
    for number, _ in enumerate(pictures):
        if number % 10 == 0:
            time.sleep(0.03)
        with made[0]._changed:
            waiting = [len(gop.pictures) for gop in made[0]._gops]
        assert sum(waiting) <= budget + HEAD_PICTURES
        most = max(most, sum(waiting))
    assert most >= budget


def test_packets_are_not_read_without_end(prompted_gops: list[Gop], monkeypatch: pytest.MonkeyPatch) -> None:
    packets = flat(prompted_gops)
    read = 0

    def counted() -> Iterator[CodedPacket]:
        nonlocal read
        for packet in packets:
            read += 1
            yield packet

    monkeypatch.setattr(pipeline, "MAX_PACKET_BYTES", len(packets[0].data))
    pictures = decode_packets(counted(), DECODING, workers=2, max_picture_bytes=0)
    next(pictures)
    time.sleep(0.1)
    assert read < len(packets) / 2
    assert len(list(pictures)) == len(packets) - 1


class Counting(FakeGenerator):
    """Counts how many of its runs go on at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._running = self.most = 0

    def generate(self, planes, *, quantiser, strengths, block_size):
        with self._lock:
            self._running += 1
            self.most = max(self.most, self._running)
        time.sleep(0.02)
        with self._lock:
            self._running -= 1
        return super().generate(planes, quantiser=quantiser, strengths=strengths, block_size=block_size)


def test_no_more_generators_run_at_a_time_than_memory_allows(prompted_gops: list[Gop]) -> None:
    generator = Counting()
    list(decode_packets(flat(prompted_gops), GopDecoding(TICK, generators=Lookup(generator)), workers=5))
    assert generator.most == MAX_GENERATIONS


@pytest.mark.parametrize("taken", [0, 1, 20])
def test_stopping_early_ends_threads_and_reading(prompted_gops: list[Gop], taken: int) -> None:
    closed = threading.Event()

    def endless() -> Iterator[CodedPacket]:
        try:
            while True:
                yield from prompted_gops[0]
        finally:
            closed.set()

    pictures = decode_packets(endless(), DECODING, workers=2, max_picture_bytes=10 * PICTURE_BYTES)
    for _ in range(taken):
        next(pictures)
    pictures.close()
    assert closed.is_set() or taken == 0


def test_what_reading_raises_reaches_the_caller(prompted_gops: list[Gop]) -> None:
    def broken() -> Iterator[CodedPacket]:
        yield from prompted_gops[0]
        raise MediaError("the disk is gone")

    with pytest.raises(MediaError, match="the disk is gone"):
        list(decode_packets(broken(), DECODING, workers=2))


class Buggy(FakeGenerator):
    def generate(self, planes, *, quantiser, strengths, block_size):
        raise ZeroDivisionError


def test_what_a_worker_raises_reaches_the_caller(prompted_gops: list[Gop]) -> None:
    with pytest.raises(ZeroDivisionError):
        list(decode_packets(flat(prompted_gops), GopDecoding(TICK, generators=Lookup(Buggy())), workers=2))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("at", [0, 5])
def test_after_damage_decoding_goes_on_at_the_next_keyframe(
    base_gops: list[Gop], workers: int, at: int
) -> None:
    damaged = list(base_gops[1])
    damaged[at] = replace(damaged[at], data=damaged[at].data[:12] + bytes(30))
    stream = [*base_gops[0], *damaged, *base_gops[2], *base_gops[3]]
    warnings: list[DecodeWarning] = []
    decoding = GopDecoding(TICK, on_warning=warnings.append)
    decoded = list(decode_packets(stream, decoding, workers=workers))
    left_out = range(GOP_LENGTH + at, 2 * GOP_LENGTH)
    assert [p.picture.pts for p in decoded] == [n for n in range(4 * GOP_LENGTH) if n not in left_out]
    expected = [*reference_decode(base_gops[0]), *reference_decode(base_gops[1])[:at]]
    expected += [*reference_decode(base_gops[2]), *reference_decode(base_gops[3])]
    assert_same([picture.picture.planes for picture in decoded], expected)
    assert [warning.kind for warning in warnings] == [WarningKind.PACKET_DAMAGED]
    assert warnings[0].pts_seconds == pytest.approx((GOP_LENGTH + at) / 30)


def test_a_stream_that_begins_in_the_middle_of_a_gop(base_gops: list[Gop]) -> None:
    warnings: list[DecodeWarning] = []
    stream = [*base_gops[0][3:], *base_gops[1]]
    decoded = list(decode_packets(stream, GopDecoding(TICK, on_warning=warnings.append), workers=2))
    assert_same([picture.picture.planes for picture in decoded], reference_decode(base_gops[1]))
    assert len(warnings) == 1


@pytest.mark.parametrize("budget", [1, 2000])
def test_packets_left_out_make_room_for_others(
    base_gops: list[Gop], monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    """Some of a damaged GOP's packets are waiting when it is given up, others have still to be read."""
    monkeypatch.setattr(pipeline, "MAX_PACKET_BYTES", budget)
    bad = replace(base_gops[0][1], data=base_gops[0][1].data[:12] + bytes(30))
    damaged = [base_gops[0][0], bad, *base_gops[0][2:]]
    stream = [*damaged * 20, *base_gops[1]]
    decoded = list(decode_packets(stream, GopDecoding(TICK, on_warning=lambda _: None), workers=2))
    assert len(decoded) == 20 + GOP_LENGTH


def test_nothing_gives_nothing() -> None:
    assert list(decode_packets([], DECODING)) == []


def test_workers_are_at_least_one() -> None:
    with pytest.raises(ConfigError, match="0 decoding workers"):
        decode_packets([], DECODING, workers=0)


def test_short_gops(base_gops: list[Gop]) -> None:
    keyframes = [prompted([replace(gop[0], pts=n)])[0] for n, gop in enumerate(base_gops * 8)]
    decoded = list(decode_packets(keyframes, DECODING, workers=3))
    assert [picture.picture.pts for picture in decoded] == list(range(len(keyframes)))
    assert all(picture.is_anchor for picture in decoded)
