import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from threading import Event

import pytest
from video_media import RATE, TICK, pictures, psnr

from hybridprompt.errors import CodecError, ConfigError
from hybridprompt.video.av1_decoder import Av1Decoder
from hybridprompt.video.av1_encoder import (
    Av1Settings,
    PictureLambdas,
    encode_gop,
    encode_stream,
    sequence_header,
)
from hybridprompt.video.picture import ColorInfo

SETTINGS = Av1Settings(width=96, height=64, frame_rate=RATE, time_base=TICK, crf=30, preset=10)


_POLICIES = """
import os

# The process that starts this one may be marked already, and hands that down.
os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))

from test_av1_encoder import SETTINGS
from video_media import pictures
from hybridprompt.video.av1_encoder import encode_stream

def watched():
    for picture in pictures(3):
        print(*(int(os.sched_getscheduler(int(t))) for t in os.listdir("/proc/self/task")))
        yield picture

assert len(list(encode_stream(watched(), SETTINGS, 8))) == 3
"""


@pytest.mark.parametrize("count", [1, 2, 7, 33])
def test_one_packet_per_picture_and_one_keyframe(count: int) -> None:
    packets = encode_gop(pictures(count), SETTINGS)
    assert [packet.pts for packet in packets] == list(range(count))
    assert [packet.is_keyframe for packet in packets] == [True] + [False] * (count - 1)
    assert all(packet.dts == packet.pts and packet.duration == 1 for packet in packets)


def test_odd_size_decodes_to_nearly_the_source() -> None:
    clip = pictures(4, 97, 65)
    packets = encode_gop(clip, replace(SETTINGS, width=97, height=65, crf=10))
    with Av1Decoder() as decoder:
        for packet, picture in zip(packets, clip, strict=True):
            (frame,) = decoder.decode(packet.data, packet.pts)
            assert psnr(frame.picture.y, picture.y) > 35
            assert psnr(frame.picture.u, picture.u) > (40 if frame.is_keyframe else 24)


def test_irregular_pts_survive_and_do_not_change_the_bytes() -> None:
    times = [0, 5, 6, 40, 41, 100]
    regular = encode_gop(pictures(6), SETTINGS)
    irregular = encode_gop(
        pictures(6, pts=times, time_base=Fraction(1, 1000)), replace(SETTINGS, time_base=Fraction(1, 1000))
    )
    assert [packet.pts for packet in irregular] == times
    assert [packet.duration for packet in irregular] == [5, 1, 34, 1, 59, 33]
    assert [packet.data for packet in irregular] == [packet.data for packet in regular]


def test_quarter_crf_steps_differ_and_share_the_sequence_header() -> None:
    clip = pictures(4)
    coded = [encode_gop(clip, replace(SETTINGS, crf=crf)) for crf in (30, 30.25, 31, 63, 70)]
    assert len({b"".join(packet.data for packet in packets) for packets in coded}) == len(coded)
    headers = {sequence_header(packets[0].data) for packets in coded}
    assert len(headers) == 1
    assert None not in headers


def test_same_bytes_from_any_thread_and_any_lp() -> None:
    clip = pictures(20)
    with ThreadPoolExecutor(2) as pool:
        coded = list(pool.map(lambda lp: encode_gop(clip, replace(SETTINGS, threads=lp)), (1, 2, 1)))
    assert coded[0] == coded[1] == coded[2]


def test_stream_has_a_keyframe_every_gop_length() -> None:
    packets = list(encode_stream(iter(pictures(25)), SETTINGS, gop_length=10))
    assert [packet.pts for packet in packets if packet.is_keyframe] == [0, 10, 20]


def test_bitrate_mode_spends_more_when_asked() -> None:
    clip = pictures(40)
    sizes = []
    for kbps in (20, 400):
        settings = replace(SETTINGS, crf=None, bitrate_kbps=kbps)
        sizes.append(sum(len(packet.data) for packet in encode_stream(clip, settings, 40)))
    assert sizes[1] > 1.5 * sizes[0]


def test_color_reaches_the_sequence_header() -> None:
    tagged = encode_gop(pictures(1), replace(SETTINGS, color=ColorInfo(1, 1, 1, True)))
    plain = encode_gop(pictures(1), SETTINGS)
    assert sequence_header(tagged[0].data) != sequence_header(plain[0].data)


@pytest.mark.parametrize(
    "change",
    [{"crf": 30.1}, {"crf": 71}, {"crf": None}, {"bitrate_kbps": 100}, {"width": 2}, {"preset": 14}],
)
def test_bad_settings_are_refused(change: dict[str, float | None]) -> None:
    with pytest.raises(ConfigError):
        replace(SETTINGS, **change)  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="the system does not tell")
def test_encoder_takes_no_real_time_priority() -> None:
    """As root it would, for its own threads and ours; whatever else runs would starve."""
    # In a process of its own: tests that open SVT-AV1 without us leave their mark on this one.
    done = subprocess.run(
        [sys.executable, "-c", _POLICIES],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent,
    )
    assert set(done.stdout.split()) == {str(int(os.SCHED_OTHER))}


def test_cancelled_encode_ends() -> None:
    cancelled = Event()

    clip = pictures(40)
    assert len(encode_gop(clip, SETTINGS, cancelled=cancelled)) == 40
    cancelled.set()
    with pytest.raises(CodecError, match="cancelled"):
        encode_gop(clip, SETTINGS, cancelled=cancelled)


def test_bad_pictures_are_refused() -> None:
    with pytest.raises(CodecError, match="picture 0 is 98x64, expected 96x64"):
        encode_gop(pictures(1, 98, 64), SETTINGS)
    with pytest.raises(CodecError, match="picture 1 has pts 0, expected more than 0"):
        encode_gop(pictures(2, pts=[0, 0]), SETTINGS)
    with pytest.raises(CodecError, match="expected one in units"):
        encode_gop(pictures(1, time_base=Fraction(1, 25)), SETTINGS)
    assert encode_gop([], SETTINGS) == []


def test_lagrange_multipliers_trade_bytes_at_the_same_quantisers() -> None:
    clip = pictures(40)
    coarse = replace(SETTINGS, crf=50)

    def sizes(settings: Av1Settings) -> list[int]:
        return [len(packet.data) for packet in encode_gop(clip, settings)]

    plain = sizes(coarse)
    assert sizes(replace(coarse, lambda_factor=1.0)) == plain
    assert sum(sizes(replace(coarse, lambda_factor=3.0))) < sum(plain)
    assert sum(sizes(replace(coarse, lambda_factor=0.4))) > sum(plain)
    rich = sizes(replace(coarse, picture_lambdas=PictureLambdas(key=0.25)))
    assert rich[0] != plain[0]  # which way, on real texture, tests/encode/test_targets.py tells
    lean = sizes(replace(coarse, picture_lambdas=PictureLambdas(leaf=4.0)))
    assert lean[0] == plain[0]
    assert sum(lean) < sum(plain)
    parameters = replace(
        coarse, lambda_factor=2.0, picture_lambdas=PictureLambdas(key=0.5, base=0.75, inner=1.5, leaf=2)
    ).svt_params(99)
    assert "lambda-scale-factors=128,512,256,192,256,256,384" in parameters
    assert "lambda" not in coarse.svt_params(99)


@pytest.mark.parametrize("factor", [0.0, -1.0, 17.0, float("nan")])
def test_lagrange_multipliers_are_checked(factor: float) -> None:
    with pytest.raises(ConfigError):
        replace(SETTINGS, lambda_factor=factor)
    with pytest.raises(ConfigError):
        PictureLambdas(leaf=factor)
