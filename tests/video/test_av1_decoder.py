from collections.abc import Callable

import av
import numpy as np
import pytest
from video_media import RATE, TICK, pictures

from hybridprompt.errors import CodecError
from hybridprompt.video.av1_decoder import Av1Decoder
from hybridprompt.video.av1_encoder import Av1Settings, CodedPacket, encode_gop
from hybridprompt.video.packet_decoder import DecodedFrame
from hybridprompt.video.picture import Picture

SETTINGS = Av1Settings(width=96, height=64, frame_rate=RATE, time_base=TICK, crf=35, preset=10)
Edit = Callable[[int, DecodedFrame], None]


@pytest.fixture(scope="module")
def gop() -> list[CodedPacket]:
    return encode_gop(pictures(40), SETTINGS)


@pytest.fixture(scope="module")
def other() -> Picture:
    return pictures(1, seed=99)[0]


def decode(packets: list[CodedPacket], edit: Edit | None = None, threads: int = 1) -> list[Picture]:
    shown = []
    with Av1Decoder(time_base=TICK, threads=threads) as decoder:
        for index, packet in enumerate(packets):
            (frame,) = decoder.decode(packet.data, packet.pts)
            if edit is not None:
                edit(index, frame)
            shown.append(frame.picture.copied())
        assert decoder.flush() == []
    return shown


def same(a: list[Picture], b: list[Picture]) -> bool:
    return all(
        np.array_equal(p, q)
        for x, y in zip(a, b, strict=True)
        for p, q in zip(x.planes, y.planes, strict=True)
    )


def reference_decode(packets: list[CodedPacket], keyframe: Picture) -> list[Picture]:
    """The same injection by another way: whole buffers through Plane.update, and plain PyAV around it."""
    context = av.CodecContext.create("libdav1d", "r")
    context.thread_count, context.options = 1, {"max_frame_delay": "1"}
    shown = []
    for packet in packets:
        unit = av.Packet(packet.data)
        unit.pts = packet.pts
        for frame in context.decode(unit):
            if not shown:
                for plane, samples in zip(frame.planes, keyframe.planes, strict=True):
                    buffer = bytearray(memoryview(plane))
                    for row, values in enumerate(samples):
                        start = row * plane.line_size
                        buffer[start : start + len(values)] = values.tobytes()
                    plane.update(bytes(buffer))
            planes = []
            for plane in frame.planes:
                rows = np.frombuffer(bytes(plane), np.uint8).reshape(-1, plane.line_size)
                planes.append(rows[: plane.height, : plane.width])
            shown.append(Picture(*planes))
    return shown


def test_pts_and_keyframe_flag_come_with_the_frame(gop: list[CodedPacket]) -> None:
    with Av1Decoder(time_base=TICK) as decoder:
        frames = [decoder.decode(packet.data, 100 + packet.pts)[0] for packet in gop]
    assert [frame.pts for frame in frames] == list(range(100, 140))
    assert [frame.is_keyframe for frame in frames] == [True] + [False] * 39
    assert frames[3].picture.pts_seconds == pytest.approx(103 / 30)
    assert not frames[0].has_film_grain


def test_injected_keyframe_is_predicted_from(gop: list[CodedPacket], other: Picture) -> None:
    def inject(index: int, frame: DecodedFrame) -> None:
        if index == 0:
            frame.overwrite(*other.planes)

    plain, injected = decode(gop), decode(gop, inject)
    assert np.array_equal(injected[0].y, other.y)
    assert all(not np.array_equal(a.y, b.y) for a, b in zip(plain, injected, strict=True))
    assert same(injected, reference_decode(gop, other))
    assert same(injected, decode(gop, inject, threads=2))


def test_later_shown_reference_can_be_overwritten(gop: list[CodedPacket], other: Picture) -> None:
    def inject(index: int, frame: DecodedFrame) -> None:
        if index == 32:
            frame.overwrite(*other.planes)

    plain, injected = decode(gop), decode(gop, inject)
    assert same(plain[:32], injected[:32])
    assert np.array_equal(injected[32].y, other.y)
    assert all(not np.array_equal(plain[i].y, injected[i].y) for i in range(33, 40))
    assert same(injected, decode(gop, inject, threads=2))


def test_overwriting_with_the_same_samples_changes_nothing(gop: list[CodedPacket]) -> None:
    plain = decode(gop)
    assert same(plain, decode(gop, lambda index, frame: frame.overwrite(*plain[index].planes)))


def test_copy_is_safe_from_overwriting(gop: list[CodedPacket], other: Picture) -> None:
    with Av1Decoder() as decoder:
        (frame,) = decoder.decode(gop[0].data, 0)
        before = frame.picture.copied()
        frame.overwrite(*other.planes)
    assert np.array_equal(frame.picture.y, other.y)
    assert not np.array_equal(before.y, other.y)


def test_film_grain_is_reported_and_not_applied() -> None:
    grainy = encode_gop(pictures(3), Av1Settings(**{**SETTINGS.__dict__, "extra": (("film-grain", "30"),)}))
    with Av1Decoder() as decoder:
        (frame,) = decoder.decode(grainy[0].data, 0)
    assert frame.has_film_grain
    context = av.CodecContext.create("libdav1d", "r")
    context.options = {"max_frame_delay": "1", "filmgrain": "1"}
    (applied,) = context.decode(av.Packet(grainy[0].data))
    shown = np.frombuffer(bytes(applied.planes[0]), np.uint8).reshape(-1, applied.planes[0].line_size)
    assert not np.array_equal(shown[:64, :96], frame.picture.y)


def test_ten_bit_decodes_but_cannot_be_overwritten(other: Picture) -> None:
    context = av.CodecContext.create("libsvtav1", "w")
    context.width, context.height, context.pix_fmt, context.time_base = 96, 64, "yuv420p10le", TICK
    context.framerate, context.options = RATE, {"preset": "10", "crf": "30"}
    frame = pictures(1)[0].to_frame().reformat(format="yuv420p10le")
    frame.pts = 0
    packets = [*context.encode(frame), *context.encode(None)]
    with Av1Decoder() as decoder:
        (shown,) = decoder.decode(bytes(packets[0]), 0)
    assert shown.picture.y.shape == (64, 96)
    with pytest.raises(CodecError, match="yuv420p10le"):
        shown.overwrite(*other.planes)


def test_wrong_shapes_are_refused(gop: list[CodedPacket], other: Picture) -> None:
    with Av1Decoder() as decoder:
        (frame,) = decoder.decode(gop[0].data, 0)
        with pytest.raises(CodecError, match=r"plane y .* expected \(64, 96\) uint8"):
            frame.overwrite(other.y[1:], other.u, other.v)


def test_damage_raises_or_conceals_but_never_hangs(gop: list[CodedPacket]) -> None:
    rng = np.random.default_rng(5)
    failures = 0
    for _ in range(60):
        data = bytearray(gop[0].data)
        for position in rng.integers(0, len(data), 6):
            data[position] ^= int(rng.integers(1, 256))
        with Av1Decoder() as decoder:
            try:
                decoder.decode(bytes(data), 7)
                decoder.decode(gop[1].data, 8)
            except CodecError:
                failures += 1
    assert failures > 0


def test_decoder_recovers_at_the_next_keyframe(gop: list[CodedPacket]) -> None:
    with Av1Decoder() as decoder:
        with pytest.raises(CodecError, match=r"AV1 packet with pts 3 \(140 bytes\)"):
            decoder.decode(b"garbage" * 20, 3)
        assert len(decoder.decode(gop[0].data, 4)) == 1
        assert decoder.flush() == []
        assert len(decoder.decode(gop[0].data, 5)) == 1


def test_closed_and_empty_input_raise(gop: list[CodedPacket]) -> None:
    with Av1Decoder() as decoder, pytest.raises(CodecError, match="pts 1 is empty"):
        decoder.decode(b"", 1)
    with pytest.raises(CodecError, match="closed"):
        decoder.decode(gop[0].data, 0)
