from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from threading import Event
from typing import Any

import numpy as np
import pytest
from video_media import RATE, TICK, pictures, psnr

from hybridprompt.bitstream.frame_header import FrameType, HeaderTracker
from hybridprompt.errors import CodecError, ConfigError
from hybridprompt.video import av1_given_keyframe
from hybridprompt.video.av1_decoder import Av1Decoder
from hybridprompt.video.av1_encoder import Av1Settings, CodedPacket, encode_gop, sequence_header
from hybridprompt.video.av1_given_keyframe import encode_given_keyframe
from hybridprompt.video.picture import ColorInfo, Picture

SETTINGS = Av1Settings(width=96, height=64, frame_rate=RATE, time_base=TICK, crf=50, preset=8)


def decode(packets: Sequence[CodedPacket], given: Picture | None = None) -> list[Picture]:
    """Decode what shows one picture per packet, the first overwritten if one is given."""
    shown = []
    with Av1Decoder() as decoder:
        for packet in packets:
            (frame,) = decoder.decode(packet.data, packet.pts)
            if given is not None and not shown:
                frame.overwrite(*given.planes)
            shown.append(frame.picture.copied())
    return shown


def same(a: Picture, b: Picture) -> bool:
    return all(np.array_equal(p, q) for p, q in zip(a.planes, b.planes, strict=True))


@pytest.fixture
def from_encoder(monkeypatch: pytest.MonkeyPatch) -> list[list[CodedPacket]]:
    """All that came out of SVT-AV1, before the stub replaced its beginning."""
    kept = []

    def keeping(*args: Any, **options: Any) -> list[CodedPacket]:
        kept.append(encode_gop(*args, **options))
        return kept[-1]

    monkeypatch.setattr(av1_given_keyframe, "encode_gop", keeping)
    return kept


@pytest.mark.parametrize("count", [2, 3, 4, 7, 20, 41])
def test_client_has_what_the_encoder_knows(count: int, from_encoder: list[list[CodedPacket]]) -> None:
    clip = pictures(count)
    packets = encode_given_keyframe(clip, SETTINGS)
    assert [packet.pts for packet in packets] == list(range(count))
    assert [packet.is_keyframe for packet in packets] == [True] + [False] * (count - 1)
    assert all(packet.dts == packet.pts and packet.duration == 1 for packet in packets)
    known = decode(from_encoder[-1])[1:]  # SVT-AV1 was fed the given picture twice
    client = decode(packets, clip[0])
    assert same(known[0], clip[0])
    assert all(same(a, b) for a, b in zip(known, client, strict=True))
    assert not same(decode(packets)[1], client[1])  # they do predict from what is given


def test_inter_frames_move_the_given_picture_and_correct_it() -> None:
    clip = pictures(12)
    fine = replace(SETTINGS, crf=35)
    given = replace(clip[0], y=255 - clip[0].y)
    for first, floor in ((clip[0], 27), (given, 20)):
        client = decode(encode_given_keyframe([first, *clip[1:]], fine), first)
        assert min(psnr(a.y, b.y) for a, b in zip(client[1:], clip[1:], strict=True)) > floor


@pytest.mark.parametrize(
    "size", [(4, 4), (16, 16), (17, 16), (16, 17), (35, 201), (97, 65), (65, 64), (640, 16)]
)
@pytest.mark.parametrize("preset", [6, 9])
def test_odd_and_small_sizes(
    size: tuple[int, int], preset: int, from_encoder: list[list[CodedPacket]]
) -> None:
    clip = pictures(6, *size)
    settings = replace(SETTINGS, width=size[0], height=size[1], preset=preset)
    packets = encode_given_keyframe(clip, settings)
    known = decode(from_encoder[-1])[1:]
    assert psnr(known[0].y, clip[0].y) > 90
    assert min(psnr(known[0].u, clip[0].u), psnr(known[0].v, clip[0].v)) > 48
    # With the encoder's own copy, whatever it is, all is exact.
    assert all(same(a, b) for a, b in zip(known, decode(packets, known[0]), strict=True))


def test_stub_is_small_and_knows_nothing_of_the_given_picture() -> None:
    one, other = pictures(3), pictures(3, seed=2)
    stub = encode_given_keyframe(one, SETTINGS)[0]
    assert len(stub.data) < 60
    assert encode_given_keyframe(other, SETTINGS)[0] == stub
    (shown,) = decode([stub])
    assert all(abs(int(plane.min()) - 128) <= 1 and np.ptp(plane) <= 1 for plane in shown.planes)


def test_one_picture_is_a_stub_and_none_is_nothing() -> None:
    clip = pictures(2)
    assert encode_given_keyframe(clip[:1], SETTINGS) == encode_given_keyframe(clip, SETTINGS)[:1]
    assert encode_given_keyframe([], SETTINGS) == []


def test_switch_frames_as_the_headers_tell() -> None:
    """The frame that follows the stub resets the decoder, and what comes then has an ordinary quantiser."""
    clip = pictures(40)
    tracker, headers = HeaderTracker(), []
    for packet in encode_given_keyframe(clip, SETTINGS):
        headers.append(tracker.parse(packet.data))
    ((stub,), (reset,)) = headers[:2]
    assert (stub.frame_type, stub.order_hint, stub.shown) == (FrameType.KEY, 1, True)
    assert (reset.frame_type, reset.order_hint, reset.refresh_frame_flags) == (FrameType.SWITCH, 2, 0xFF)
    assert reset.base_q_idx > 20
    later = [header for unit in headers[2:] for header in unit]
    assert {header.frame_type for header in later} == {FrameType.INTER}
    assert any(not header.shown for unit in headers[2:] for header in unit[:1])  # random access
    ordinary = HeaderTracker()
    coarsest = max(h.base_q_idx for p in encode_gop(clip, SETTINGS) for h in ordinary.parse(p.data))
    assert max(header.base_q_idx for header in later) == coarsest
    assert min(header.base_q_idx for header in later) > 20


def test_quality_follows_the_crf_up_to_its_limit() -> None:
    clip = pictures(20)
    sizes = []
    for crf in (30, 50, 63, 70):
        packets = encode_given_keyframe(clip, replace(SETTINGS, crf=crf))
        sizes.append(sum(len(packet.data) for packet in packets))
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)


def test_irregular_pts_survive() -> None:
    times, unit = [-7, 5, 6, 40], Fraction(1, 1000)
    packets = encode_given_keyframe(pictures(4, pts=times, time_base=unit), replace(SETTINGS, time_base=unit))
    assert [packet.pts for packet in packets] == times
    assert [packet.duration for packet in packets] == [12, 1, 34, 33]


def test_same_bytes_at_any_level_of_parallelism() -> None:
    clip = pictures(20)
    assert encode_given_keyframe(clip, replace(SETTINGS, threads=2)) == encode_given_keyframe(clip, SETTINGS)


def test_color_reaches_stub_and_stream() -> None:
    color = ColorInfo(1, 1, 1, True)
    tagged = encode_given_keyframe(pictures(2, color=color), replace(SETTINGS, color=color))
    plain = encode_given_keyframe(pictures(2), SETTINGS)
    assert sequence_header(tagged[0].data) != sequence_header(plain[0].data)


def test_bad_settings_and_pictures_are_refused() -> None:
    with pytest.raises(ConfigError, match="bitrate_kbps 100"):
        encode_given_keyframe(pictures(2), replace(SETTINGS, crf=None, bitrate_kbps=100))
    with pytest.raises(ConfigError, match="preset is 11, expected at most 10"):
        encode_given_keyframe(pictures(2), replace(SETTINGS, preset=11))
    with pytest.raises(CodecError, match="picture 1 is 98x64, expected 96x64"):
        encode_given_keyframe([*pictures(1), *pictures(1, 98, pts=[1])], SETTINGS)
    with pytest.raises(CodecError, match="picture 1 has pts 0, expected more than 0"):
        encode_given_keyframe(pictures(2, pts=[0, 0]), SETTINGS)


def test_cancelled_encode_ends() -> None:
    cancelled = Event()
    cancelled.set()
    with pytest.raises(CodecError, match="cancelled"):
        encode_given_keyframe(pictures(3), SETTINGS, cancelled=cancelled)


def with_first_changed(monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]) -> None:
    """Let the stub, which is encoded first, be encoded with other settings."""
    calls = []

    def changed(clip: list[Picture], settings: Av1Settings, **options: Any) -> list[CodedPacket]:
        calls.append(clip)
        return encode_gop(clip, replace(settings, **change) if len(calls) == 1 else settings, **options)

    monkeypatch.setattr(av1_given_keyframe, "encode_gop", changed)


def test_stub_with_another_sequence_header_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with_first_changed(monkeypatch, {"color": ColorInfo(1, 1, 1)})
    with pytest.raises(CodecError, match="the stub's sequence header is 0a"):
        encode_given_keyframe(pictures(3), SETTINGS)


def test_unexpected_stub_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    header = sequence_header(encode_gop(pictures(1), SETTINGS)[0].data)
    assert header is not None
    for data in (b"\x12\x00", b"\x12\x00" + header, b"\x12\x00" + header + b"\x32\x03\x10\x04\x00"):
        made = [CodedPacket(data, 0, 0, 1, True)]
        monkeypatch.setattr(av1_given_keyframe, "encode_gop", lambda *args, made=made, **options: made)
        with pytest.raises(CodecError, match="expected a keyframe with order hint 0"):
            encode_given_keyframe(pictures(1), SETTINGS)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("sframe-qp-offset", "-5,0", "copy of the given keyframe is not lossless"),
        ("sframe-posi", "1,4", "did not place its switch frames"),
        ("sframe-posi", "1,12", "did not place its switch frames"),
    ],
)
def test_switch_frames_out_of_place_are_noticed(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    switches = dict(av1_given_keyframe._SWITCHES) | {name: value}
    monkeypatch.setattr(av1_given_keyframe, "_SWITCHES", tuple(switches.items()))
    with pytest.raises(CodecError, match=message):
        encode_given_keyframe(pictures(20), SETTINGS)


@pytest.mark.parametrize("packet", [0, 1, 2])
def test_packets_that_show_nothing_are_noticed(packet: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_picture(*args: Any, **options: Any) -> list[CodedPacket]:
        coded = encode_gop(*args, **options)
        if len(coded) > 1:
            header = sequence_header(coded[0].data) or b"" if packet == 0 else b""
            coded[packet] = replace(coded[packet], data=b"\x12\x00" + header)
        return coded

    monkeypatch.setattr(av1_given_keyframe, "encode_gop", without_picture)
    with pytest.raises(CodecError, match=f"packet {packet} of a given keyframe's GOP shows 0 pictures"):
        encode_given_keyframe(pictures(5), SETTINGS)
