"""GOPs by x264 and x265, and those against a first picture that is given."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from threading import Event

import av.logging
import numpy as np
import pytest

from hybridprompt.bitstream.nal import H264Nal, NalCodec, has_idr, nal_type, split_nal_units
from hybridprompt.errors import CodecError, ConfigError
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.nal_encoder import NalEncoderName, NalSettings, encode_nal_gop
from hybridprompt.video.picture import ColorInfo, Picture
from nal_media import TICK, Stream, moving, play

CODECS: dict[NalEncoderName, NalCodec] = {"x264": NalCodec.H264, "x265": NalCodec.H265}
both = pytest.mark.parametrize("encoder", list(CODECS))


def settings(encoder: NalEncoderName, **changes: object) -> NalSettings:
    plain = NalSettings(
        encoder=encoder, width=160, height=96, frame_rate=Fraction(30), time_base=TICK, crf=30, preset="fast"
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def played(packets: Sequence[CodedPacket], encoder: NalEncoderName) -> dict[int, Picture]:
    return play(Stream(CODECS[encoder], None, tuple((p.data, p.pts) for p in packets), None))


def worst_error(a: Picture, b: Picture) -> int:
    return max(int(np.abs(p.astype(int) - q).max()) for p, q in zip(a.planes, b.planes, strict=True))


def parameter_sets(packet: CodedPacket, codec: NalCodec) -> list[bytes]:
    kinds = (H264Nal.SPS, H264Nal.PPS) if codec is NalCodec.H264 else (32, 33, 34)
    return [nal.data for nal in split_nal_units(packet.data) if nal_type(nal, codec) in kinds]


@both
@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_a_gop_is_closed_and_keeps_its_times(encoder: NalEncoderName, count: int) -> None:
    clip = [replace(p, pts=7 + 3 * i) for i, p in enumerate(moving(count, 160, 96))]
    clip[-1] = replace(clip[-1], pts=500)
    packets = encode_nal_gop(clip, settings(encoder))
    times = [p.pts for p in clip]
    assert sorted(p.pts for p in packets) == times
    assert [p.dts for p in packets] == times
    assert [p.is_keyframe for p in packets] == [True] + [False] * (count - 1)
    assert [has_idr(p.data, CODECS[encoder]) for p in packets] == [True] + [False] * (count - 1)
    following = dict(zip(times, [*times[1:], 501], strict=True))
    assert all(p.duration == following[p.pts] - p.pts for p in packets)
    assert (count < 40) or [p.pts for p in packets] != times  # B-frames
    shown = played(packets, encoder)
    assert list(shown) == times
    assert all(np.abs(shown[p.pts].y.astype(int) - p.y).mean() < 12 for p in clip)


@both
def test_nothing_gives_nothing(encoder: NalEncoderName) -> None:
    assert encode_nal_gop([], settings(encoder)) == []


@both
@pytest.mark.parametrize("count", [1, 2, 41])
@pytest.mark.parametrize("full_range", [False, True])
def test_a_given_first_picture_is_coded_as_it_is(
    encoder: NalEncoderName, count: int, full_range: bool
) -> None:
    color = ColorInfo(1, 1, 1, full_range)
    clip = [replace(p, color=color) for p in moving(count, 160, 96)]
    packets = encode_nal_gop(clip, settings(encoder, given_first=True, color=color))
    shown = played(packets, encoder)
    assert worst_error(shown[0], clip[0]) <= 2
    ordinary = encode_nal_gop(clip, settings(encoder, color=color))
    assert worst_error(played(ordinary, encoder)[0], clip[0]) > 10
    # The offset is the first picture's alone, also where x265's buffers are used again.
    for first, second in ((1, count), (25, count)):
        given, usual = (sum(len(p.data) for p in some[first:second]) for some in (packets, ordinary))
        assert given <= 1.15 * usual


@both
def test_marking_pictures_is_nothing_to_complain_of(encoder: NalEncoderName) -> None:
    before = av.logging.get_level()
    av.logging.set_level(av.logging.WARNING)
    try:
        with av.logging.Capture() as messages:
            encode_nal_gop(
                [replace(p, color=ColorInfo(1, 1, 1, True)) for p in moving(3, 160, 96)],
                settings(encoder, given_first=True, color=ColorInfo(1, 1, 1, True)),
            )
    finally:
        av.logging.set_level(before)
    assert messages == []


@both
def test_parameter_sets_are_the_same_for_all_gops(encoder: NalEncoderName) -> None:
    codec = CODECS[encoder]
    clip = moving(8, 160, 96)
    gops = [
        encode_nal_gop(clip, settings(encoder, crf=15)),
        encode_nal_gop(clip, settings(encoder, crf=33.37, given_first=True)),
        encode_nal_gop(clip[:1], settings(encoder, crf=51)),
    ]
    sets = [parameter_sets(gop[0], codec) for gop in gops]
    assert sets[0] == sets[1] == sets[2] != []
    assert not any(parameter_sets(packet, codec) for gop in gops for packet in gop[1:])


_HASH = """
import hashlib, sys
sys.path[:0] = sys.argv[1:]
from test_nal_encoder import encode_nal_gop, settings
from encode_media import scene
params = ("rc-lookahead", "12"), ("b-adapt", "0"), ("b-pyramid", "none")
packets = encode_nal_gop(
    scene(14, 192, 96), settings("x264", width=192, crf=35, threads=1, extra=params)
)
print(hashlib.sha256(b"".join(packet.data for packet in packets)).hexdigest())
"""


def test_bytes_do_not_depend_on_what_memory_held() -> None:
    """x264 with all its instructions fails this where there is AVX-512."""
    tests = Path(__file__).parents[1]
    hashes = set()
    for filler in ("0", "90", "165"):
        made = subprocess.run(
            [sys.executable, "-c", _HASH, str(tests), str(tests / "encode"), str(tests / "video")],
            env={**os.environ, "MALLOC_PERTURB_": filler},
            capture_output=True,
            check=True,
        )
        hashes.add(made.stdout)
    assert len(hashes) == 1


@both
def test_any_crf_counts(encoder: NalEncoderName) -> None:
    clip = moving(8, 160, 96)
    sizes = [
        sum(len(p.data) for p in encode_nal_gop(clip, settings(encoder, crf=crf))) for crf in (20, 30.4, 30.6)
    ]
    assert sizes == sorted(set(sizes), reverse=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 101}, "cannot code 101x96"),
        ({"height": 75}, "cannot code 160x75"),
        ({"width": 30}, "cannot code 30x96"),
        ({"height": 16}, "even sizes of at least 32"),
        ({"crf": 0.5}, "CRF of x264 is 0.5"),
        ({"crf": 51.5}, "expected 1 to 51"),
        ({"encoder": "x266"}, "'x266', expected x264 or x265"),
        ({"frame_rate": Fraction(0)}, "must be above 0"),
        ({"time_base": Fraction(-1, 30)}, "must be above 0"),
        ({"threads": 0}, "must be above 0"),
    ],
)
def test_settings_out_of_range(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(settings("x264"), **changes)  # type: ignore[arg-type]


@both
def test_unfit_pictures_are_refused(encoder: NalEncoderName) -> None:
    clip = moving(3, 160, 96)
    with pytest.raises(CodecError, match="pts of the pictures of a GOP do not increase"):
        encode_nal_gop([clip[0], clip[2], clip[2]], settings(encoder))
    with pytest.raises(CodecError, match="picture 1 is 96x64, expected 160x96"):
        encode_nal_gop([clip[0], *moving(2, 96, 64)[1:]], settings(encoder))
    with pytest.raises(CodecError, match="picture 2 has pts None"):
        encode_nal_gop([*clip[:2], replace(clip[2], pts=None)], settings(encoder))
    with pytest.raises(CodecError, match="in units of 1/25 s"):
        encode_nal_gop([replace(clip[0], time_base=Fraction(1, 25))], settings(encoder))


@both
def test_an_encode_that_is_cancelled_ends(encoder: NalEncoderName) -> None:
    cancelled = Event()
    cancelled.set()
    with pytest.raises(CodecError, match="the encode was cancelled"):
        encode_nal_gop(moving(3, 160, 96), settings(encoder), cancelled=cancelled)


def test_refusals_of_the_library_are_codec_errors() -> None:
    with pytest.raises(CodecError, match="x264 refuses"):
        encode_nal_gop(moving(3, 160, 96), settings("x264", preset="placid"))


@both
def test_another_keyframe_inside_is_an_error(encoder: NalEncoderName) -> None:
    inside = settings(encoder, extra=(("keyint", "4"), ("min-keyint", "1")))
    with pytest.raises(CodecError, match=r"made keyframes at packets \[0, 4"):
        encode_nal_gop(moving(9, 160, 96), inside)
