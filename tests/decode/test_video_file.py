"""The public way to the pictures of a file."""

import subprocess
import sys
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

import hybridprompt
from hybridprompt.bitstream.nal import NalCodec
from hybridprompt.bitstream.sei import insert_user_data
from hybridprompt.decode.nal_gop import NalDecoding, decode_nal_gop
from hybridprompt.decode.warnings import WarningKind
from hybridprompt.errors import ConfigError, GeneratorError, MediaError
from hybridprompt.generator.fake import FakeGenerator
from hybridprompt.prompt.carriage_nal import PROMPT_UUID
from hybridprompt.prompt.syntax import encode_prompt
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.packet_reader import PacketReader
from hybridprompt.video.source import VideoSource
from nal_media import encode, moving, mp4_file, play, read_mp4
from nal_prompted_media import packets_of, still_of, still_prompt, with_prompts, write_nal_file
from prompted_media import (
    ANCHORS,
    GOP_LENGTH,
    HEIGHT,
    TICK,
    WIDTH,
    Lookup,
    a_prompt,
    assert_same,
    ffmpeg_decode,
    moving_pictures,
    reference_decode,
    with_prompt,
    write_mp4,
)

Gop = list[CodedPacket]


def planes(pictures) -> list:
    return [(picture.y, picture.u, picture.v) for picture in pictures]


def write_h264(path: Path, count: int = 12) -> Path:
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=30, options={"g": "5"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for picture in moving_pictures(count):
            output.mux(stream.encode(picture.to_frame()))
        output.mux(stream.encode(None))
    return path


def test_pictures_with_generated_detail(prompted_file: Path, prompted_gops: list[Gop]) -> None:
    expected = [p for gop in prompted_gops for p in reference_decode(gop, FakeGenerator())]
    with hybridprompt.open(prompted_file, generators=[FakeGenerator()]) as video:
        assert (video.width, video.height) == (WIDTH, HEIGHT)
        assert video.duration_seconds == pytest.approx(len(expected) / 30, abs=0.01)
        assert video.average_rate == 30
        pictures = list(video)
        assert video.warnings == ()
    assert_same(planes(pictures), expected)
    assert [p.pts_seconds for p in pictures] == pytest.approx(
        [n / 30 for n in range(len(expected))], abs=1e-4
    )
    anchors = [n for n, p in enumerate(pictures) if p.is_anchor]
    assert anchors == [GOP_LENGTH * k + n for k in range(len(prompted_gops)) for n in ANCHORS]
    assert [n for n, p in enumerate(pictures) if p.is_keyframe] == list(range(0, len(expected), GOP_LENGTH))


def test_base_is_what_every_player_shows(prompted_file: Path, base_file: Path) -> None:
    with hybridprompt.open(prompted_file, base=True, generators=[FakeGenerator()]) as video:
        pictures = list(video)
        assert video.warnings == ()
    assert not any(picture.is_anchor for picture in pictures)
    assert_same(planes(pictures), ffmpeg_decode(prompted_file))
    assert_same(planes(pictures), ffmpeg_decode(base_file))


def test_files_without_prompts(base_file: Path) -> None:
    with hybridprompt.open(base_file) as video:
        assert_same(planes(video), ffmpeg_decode(base_file))
        assert video.warnings == ()


def test_without_the_generator_the_base_is_shown_with_one_warning(
    prompted_file: Path, base_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with hybridprompt.open(prompted_file) as video:
        assert_same(planes(video), ffmpeg_decode(base_file))
        assert [warning.kind for warning in video.warnings] == [WarningKind.GENERATOR_UNKNOWN]
        list(video)
        assert len(video.warnings) == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert b"fakefake".hex() in caplog.text


def test_each_damaged_prompt_is_one_warning(tmp_path: Path, base_gops: list[Gop], base_file: Path) -> None:
    good = encode_prompt(a_prompt())
    bad = good[:30] + bytes([good[30] ^ 255]) + good[31:]
    path = write_mp4(
        tmp_path / "bad.mp4", [p for gop in base_gops for p in [with_prompt(gop[0], bad), *gop[1:]]]
    )
    with hybridprompt.open(path, generators=[FakeGenerator()]) as video:
        assert_same(planes(video), ffmpeg_decode(base_file))
        times = [warning.pts_seconds for warning in video.warnings]
    assert times == pytest.approx([GOP_LENGTH * k / 30 for k in range(len(base_gops))], abs=1e-4)


def test_memory_does_not_grow_with_what_strangers_name(tmp_path: Path, base_gops: list[Gop]) -> None:
    gops = [
        [with_prompt(p, encode_prompt(a_prompt(generator_id=bytes([k, n] * 4)))) for n, p in enumerate(gop)]
        for k, gop in enumerate(base_gops)
    ]
    path = write_mp4(tmp_path / "strangers.mp4", [p for gop in gops for p in gop])
    with hybridprompt.open(path) as video, pytest.MonkeyPatch.context() as patch:
        patch.setattr("hybridprompt.decode.warnings.MAX_OF_A_KIND", 9)
        list(video)
        list(video)
        assert len(video.warnings) == 10
        assert "further ones" in video.warnings[-1].message


@pytest.mark.parametrize(
    ("start", "duration", "expected"),
    [
        (None, None, range(85)),
        (0, 5 / 30, range(5)),
        (20 / 30, None, range(20, 85)),
        (17 / 30, 17 / 30, range(17, 34)),
        (40 / 30, 3 / 30, range(40, 43)),
        (40.4 / 30, 1 / 30, range(41, 42)),
        (84 / 30, 99, range(84, 85)),
        (1000, None, range(0)),
        (0, 0, range(0)),
    ],
)
def test_parts_of_a_file(prompted_file: Path, start: float, duration: float, expected: range) -> None:
    with hybridprompt.open(prompted_file, generators=[FakeGenerator()]) as video:
        whole = planes(video)
        part = list(video.pictures(start, duration))
    assert [round(picture.pts_seconds * 30) for picture in part] == list(expected)
    assert_same(planes(part), [whole[n] for n in expected])


def test_seek(prompted_file: Path) -> None:
    with hybridprompt.open(prompted_file, generators=[FakeGenerator()]) as video:
        pictures = list(video)
        for at in (50, 3, 84, 0):
            video.seek(pictures[at].pts_seconds)
            assert [p.pts for p in video] == [p.pts for p in pictures[at:]]


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_impossible_times(base_file: Path, seconds: float) -> None:
    with hybridprompt.open(base_file) as video:
        with pytest.raises(ConfigError, match="expected 0 or more"):
            video.seek(seconds)
        with pytest.raises(ConfigError, match="expected 0 or more"):
            video.pictures(seconds)


def test_times_count_from_the_first_picture(tmp_path: Path, base_gops: list[Gop]) -> None:
    late = [replace(p, pts=p.pts + 300, dts=p.dts + 300) for gop in base_gops[:2] for p in gop]
    path = tmp_path / "late.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libsvtav1", rate=30)
        stream.width, stream.height, stream.time_base = WIDTH, HEIGHT, TICK
        for packet in late:
            coded = av.Packet(packet.data)
            coded.pts = coded.dts = packet.pts
            coded.time_base, coded.stream, coded.is_keyframe = TICK, stream, packet.is_keyframe
            output.mux(coded)
    with hybridprompt.open(path) as video:
        pictures = list(video)
        assert pictures[0].pts * video.time_base == pytest.approx(10, abs=0.01)
        assert pictures[0].pts_seconds == 0
        (found,) = video.pictures(20 / 30 - 0.005, 1 / 30)
        assert found.pts == pictures[20].pts


def test_other_codecs_are_decoded_as_they_are(tmp_path: Path) -> None:
    path = write_h264(tmp_path / "h264.mp4")
    with hybridprompt.open(path) as video:
        assert (video.width, video.height) == (WIDTH, HEIGHT)
        pictures = list(video)
        assert_same(planes(pictures), ffmpeg_decode(path))
        assert not any(picture.is_anchor for picture in pictures)
        assert [p.pts for p in video.pictures(5 / 30, 3 / 30)] == [p.pts for p in pictures[5:8]]
        assert [p.pts for p in video.pictures(0, 3 / 30)] == [p.pts for p in pictures[:3]]


each_nal_codec = pytest.mark.parametrize("codec", list(NalCodec))
NAL_COUNT = 41
NAL_SIZE = (98, 70)
NAL_PROMPTS = (0, 16, 32)
"""Packets, and pictures, that start the GOPs."""


@pytest.fixture(scope="module")
def nal_files() -> dict[NalCodec, bytes]:
    return {codec: mp4_file(moving(NAL_COUNT, *NAL_SIZE), codec) for codec in NalCodec}


@pytest.fixture(scope="module")
def nal_paths(nal_files: dict[NalCodec, bytes], tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The first GOP has a still, the others are enhanced."""
    still = still_of(moving(1, *NAL_SIZE, seed=5)[0])
    prompts = {
        0: still_prompt(still, *NAL_SIZE),
        16: a_prompt(size=NAL_SIZE),
        32: a_prompt(size=NAL_SIZE, strength=1),
    }
    folder = tmp_path_factory.mktemp("nal")
    return {
        codec: write_nal_file(folder / f"{codec.value}.mp4", file, codec, prompts)
        for codec, file in nal_files.items()
    }


@each_nal_codec
@pytest.mark.parametrize("workers", [1, 3])
def test_h264_and_h265_with_prompts(
    nal_paths: dict[NalCodec, Path], nal_files: dict[NalCodec, bytes], codec: NalCodec, workers: int
) -> None:
    reader = PacketReader(nal_paths[codec], ("h264", "hevc"))
    packets = list(reader.packets())
    decoding = NalDecoding(reader.time_base, reader.extradata, Lookup(FakeGenerator()), codec=codec)
    expected = [
        shown.picture.copied().planes
        for start, stop in pairwise((*NAL_PROMPTS, NAL_COUNT))
        for shown in decode_nal_gop(packets[start:stop], decoding)
    ]
    with hybridprompt.open(nal_paths[codec], generators=[FakeGenerator()], workers=workers) as video:
        assert (video.width, video.height) == NAL_SIZE
        assert video.duration_seconds == pytest.approx(NAL_COUNT / 30, abs=0.01)
        pictures = list(video)
        assert video.warnings == ()
    assert_same(planes(pictures), expected)
    assert [p.pts_seconds for p in pictures] == pytest.approx([n / 30 for n in range(NAL_COUNT)], abs=1e-4)
    assert [n for n, p in enumerate(pictures) if p.is_anchor] == list(NAL_PROMPTS)
    assert [n for n, p in enumerate(pictures) if p.is_keyframe] == list(NAL_PROMPTS)
    plain = play(read_mp4(nal_files[codec], codec))
    assert all(not np.array_equal(p.y, plain[n].y) for n, p in enumerate(pictures))


@each_nal_codec
def test_the_base_of_h264_and_h265_has_its_stills(
    nal_paths: dict[NalCodec, Path], nal_files: dict[NalCodec, bytes], codec: NalCodec
) -> None:
    plain = play(read_mp4(nal_files[codec], codec))
    stranger = FakeGenerator(identity=b"stranger")
    with hybridprompt.open(nal_paths[codec], base=True) as video:
        base = list(video)
        assert video.warnings == ()
    with hybridprompt.open(nal_paths[codec], generators=[stranger]) as video:
        unknown = list(video)
        # One that ends in "the base is shown", one for stills: each once for the whole file.
        assert [warning.kind for warning in video.warnings] == [WarningKind.GENERATOR_UNKNOWN] * 2
        assert {w.message.split(": ")[1] for w in video.warnings} == {
            "the base is shown",
            "the still is shown without generation",
        }
    for pictures in (base, unknown):
        assert_same(planes(pictures[16:]), [plain[n].planes for n in range(16, NAL_COUNT)])
        assert not any(np.array_equal(p.y, plain[n].y) for n, p in enumerate(pictures[:16]))
        assert not any(picture.is_anchor for picture in pictures)
    assert_same(planes(base), planes(unknown))


@each_nal_codec
@pytest.mark.parametrize(
    ("start", "duration", "expected"),
    [
        (None, None, range(NAL_COUNT)),
        (0, 5 / 30, range(5)),
        (15 / 30, 3 / 30, range(15, 18)),
        (16 / 30, 16 / 30, range(16, 32)),
        (17 / 30, None, range(17, NAL_COUNT)),
        (31.4 / 30, 1 / 30, range(32, 33)),
        (40 / 30, 99, range(40, 41)),
        (1000, None, range(0)),
        (0, 0, range(0)),
    ],
)
def test_parts_of_h264_and_h265_files(
    nal_paths: dict[NalCodec, Path], codec: NalCodec, start: float, duration: float, expected: range
) -> None:
    with hybridprompt.open(nal_paths[codec], generators=[FakeGenerator()]) as video:
        whole = list(video)
        part = list(video.pictures(start, duration))
    assert [round(picture.pts_seconds * 30) for picture in part] == list(expected)
    assert_same(planes(part), planes(whole[n] for n in expected))


@each_nal_codec
def test_nothing_of_a_gop_after_the_end_is_decoded(
    tmp_path: Path, nal_files: dict[NalCodec, bytes], codec: NalCodec
) -> None:
    good = encode_prompt(a_prompt(size=NAL_SIZE))
    path = write_nal_file(tmp_path / "bad.mp4", nal_files[codec], codec, {0: good, 16: good[:-1]})
    with hybridprompt.open(path, generators=[FakeGenerator()]) as video:
        assert len(list(video.pictures(0, 16 / 30))) == 16
        assert video.warnings == ()
        assert len(list(video.pictures(0, 17 / 30))) == 17
        assert [warning.kind for warning in video.warnings] == [WarningKind.PROMPT_DAMAGED]
        assert video.warnings[0].pts_seconds == pytest.approx(16 / 30, abs=1e-4)


@each_nal_codec
def test_only_the_first_keyframes_prompt_makes_a_prompted_file(
    tmp_path: Path, nal_files: dict[NalCodec, bytes], codec: NalCodec
) -> None:
    path = write_nal_file(tmp_path / "late.mp4", nal_files[codec], codec, {16: a_prompt(size=NAL_SIZE)})
    with hybridprompt.open(path, generators=[FakeGenerator()]) as video:
        pictures = list(video)
    assert_same(planes(pictures), ffmpeg_decode(path))
    assert not any(picture.is_anchor or picture.is_keyframe for picture in pictures)
    damaged = encode_prompt(a_prompt(size=NAL_SIZE))[:-1]
    path = write_nal_file(
        tmp_path / "damaged.mp4", nal_files[codec], codec, {0: damaged, 16: a_prompt(size=NAL_SIZE)}
    )
    with hybridprompt.open(path, generators=[FakeGenerator()]) as video:
        assert [n for n, p in enumerate(video) if p.is_anchor] == [16]


@each_nal_codec
def test_a_first_keyframe_with_two_prompts_makes_a_prompted_file(
    tmp_path: Path, nal_files: dict[NalCodec, bytes], codec: NalCodec
) -> None:
    """Which of them it should be cannot be told, but there is no doubt that the file has prompts."""
    good = encode_prompt(a_prompt(size=NAL_SIZE))
    once = write_nal_file(tmp_path / "once.mp4", nal_files[codec], codec, dict.fromkeys((0, 16), good))

    def twice(unit: bytes) -> bytes:
        return insert_user_data(unit, PROMPT_UUID, good, codec=codec, length_size=4)

    path = write_nal_file(tmp_path / "twice.mp4", once.read_bytes(), codec, {}, changes={0: twice})
    with hybridprompt.open(path, generators=[FakeGenerator()]) as video:
        assert [n for n, p in enumerate(video) if p.is_anchor] == [16]
        assert "2 prompts" in video.warnings[0].message


@each_nal_codec
@pytest.mark.parametrize("suffix", ["mkv", "ts"])
def test_h264_and_h265_in_other_containers(
    tmp_path: Path,
    nal_paths: dict[NalCodec, Path],
    nal_files: dict[NalCodec, bytes],
    codec: NalCodec,
    suffix: str,
) -> None:
    prompts = dict.fromkeys(NAL_PROMPTS, a_prompt(size=NAL_SIZE))
    mp4, other = (
        write_nal_file(tmp_path / f"a.{kind}", nal_files[codec], codec, prompts) for kind in ("mp4", suffix)
    )
    with hybridprompt.open(mp4, generators=[FakeGenerator()]) as video:
        expected = planes(video)
    with hybridprompt.open(other, generators=[FakeGenerator()]) as video:
        whole = list(video)
        assert_same(planes(whole), expected)
        assert [n for n, p in enumerate(whole) if p.is_anchor] == list(NAL_PROMPTS)
        for start in (1, 14, 15, 16, 17, 31, 32, 40):
            part = list(video.pictures(whole[start].pts_seconds, 3 / 30))
            assert [p.pts for p in part] == [p.pts for p in whole[start : start + 3]]
            assert_same(planes(part), expected[start : start + 3])
        assert video.warnings == ()


@each_nal_codec
@pytest.mark.parametrize("prompted", [True, False])
def test_raw_streams_are_played_in_order_without_their_prompts(
    tmp_path: Path, codec: NalCodec, prompted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing says when their pictures are shown, which comes in another order."""
    stream = encode(moving(24, *NAL_SIZE), codec)
    assert [pts for _, pts in stream.packets] != list(range(24))
    packets = packets_of(stream)
    if prompted:
        packets = with_prompts(packets, dict.fromkeys((0, 16), a_prompt(size=NAL_SIZE)), codec)
    path = tmp_path / f"raw.{codec.value}"
    path.write_bytes(b"".join(packet.data for packet in packets))
    plain = play(stream)
    with hybridprompt.open(path, generators=[FakeGenerator()]) as video:
        assert (video.width, video.height) == NAL_SIZE
        pictures = list(video)
        assert video.warnings == ()
    assert_same(planes(pictures), [plain[n].planes for n in range(24)])
    assert [p.pts for p in pictures] == sorted({p.pts for p in pictures})
    assert not any(picture.is_anchor for picture in pictures)
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    expected = f"{path}: prompts are not used, as packets have no times; put it into MP4"
    assert warned == ([expected] if prompted else [])


def test_pictures_shown_before_the_keyframe_they_follow(tmp_path: Path) -> None:
    """Leading pictures (H.265 RADL): the end of a part lies between them and their keyframe."""
    file = mp4_file(moving(NAL_COUNT, *NAL_SIZE), NalCodec.H265, params="radl=2")
    stream = read_mp4(file, NalCodec.H265)
    keyframe = next(n for n, (_, pts) in enumerate(stream.packets) if n and pts % 16 == 0 and pts)
    leading = [pts for _, pts in stream.packets[keyframe + 1 :] if pts < stream.packets[keyframe][1]]
    assert leading
    path = write_nal_file(tmp_path / "radl.mp4", file, NalCodec.H265, {0: a_prompt(size=NAL_SIZE)})
    with hybridprompt.open(path, generators=[FakeGenerator()]) as video:
        whole = planes(video)
        assert len(whole) == NAL_COUNT
        for start in range(10, 22):
            assert_same(planes(video.pictures(start / 30, 2 / 30)), whole[start : start + 2])


@each_nal_codec
@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotated_h264_and_h265_files_are_turned(
    tmp_path: Path, nal_files: dict[NalCodec, bytes], codec: NalCodec, rotation: int
) -> None:
    path = write_nal_file(
        tmp_path / "turned.mp4", nal_files[codec], codec, {0: a_prompt(size=NAL_SIZE)}, rotation=rotation
    )
    with hybridprompt.open(path, base=True) as video:
        pictures = list(video)
        assert (pictures[0].width, pictures[0].height) == (video.width, video.height)
        assert pictures[0].is_keyframe
    assert_same(planes(pictures), [picture.planes for picture in VideoSource(path)])


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotated_files_are_turned(tmp_path: Path, prompted_gops: list[Gop], rotation: int) -> None:
    """The reference turns H.264 files: both tracks must agree, whatever the sign convention."""
    path = tmp_path / "turned.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libsvtav1", rate=30)
        stream.width, stream.height, stream.pix_fmt, stream.time_base = WIDTH, HEIGHT, "yuv420p", TICK
        stream.set_display_rotation(rotation)
        for packet in prompted_gops[0]:
            coded = av.Packet(packet.data)
            coded.pts = coded.dts = packet.pts
            coded.time_base, coded.stream, coded.is_keyframe = TICK, stream, packet.is_keyframe
            output.mux(coded)
    with hybridprompt.open(path, base=True) as video:
        pictures = list(video)
        assert (pictures[0].width, pictures[0].height) == (video.width, video.height)
    assert_same(planes(pictures), [picture.planes for picture in VideoSource(path)])


@pytest.mark.parametrize("share", [0.4, 0.7, 0.95])
def test_a_truncated_file_gives_what_is_there(
    tmp_path: Path, prompted_file: Path, prompted_gops: list[Gop], share: float
) -> None:
    """Where the index comes first, as in files to be played while they load."""
    path = tmp_path / "cut.mp4"
    data = prompted_file.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    path.write_bytes(data[: int(len(data) * share)])
    expected = [p for gop in prompted_gops for p in reference_decode(gop, FakeGenerator())]
    with hybridprompt.open(path, generators=[FakeGenerator()]) as video:
        pictures = planes(video)
    assert 0 < len(pictures) < 85
    assert_same(pictures, expected[: len(pictures)])


def test_a_file_cut_before_its_index_is_refused(tmp_path: Path, prompted_file: Path) -> None:
    path = tmp_path / "cut.mp4"
    path.write_bytes(prompted_file.read_bytes()[:200])
    with pytest.raises(MediaError, match=r"cut\.mp4"):
        hybridprompt.open(path)


def test_a_damaged_file_gives_the_rest(tmp_path: Path, base_file: Path, base_gops: list[Gop]) -> None:
    data = base_file.read_bytes()
    unit = base_gops[1][5].data[2:]  # without the temporal delimiter, as MP4 holds it
    at = data.index(unit) + 4
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data[:at] + b"\xff" * (len(unit) - 4) + data[at + len(unit) - 4 :])
    with hybridprompt.open(path) as video:
        pictures = list(video)
        assert [warning.kind for warning in video.warnings] == [WarningKind.PACKET_DAMAGED]
    left_out = range(GOP_LENGTH + 5, 2 * GOP_LENGTH)
    expected = [p for n, p in enumerate(ffmpeg_decode(base_file)) if n not in left_out]
    assert_same(planes(pictures), expected)
    with hybridprompt.open(path) as video:
        assert len(list(video.pictures(0, GOP_LENGTH / 30))) == GOP_LENGTH
        assert video.warnings == (), "nothing after the end is decoded"


def test_closing_ends_all_iterations(prompted_file: Path) -> None:
    before = threading.active_count()
    video = hybridprompt.open(prompted_file)
    first, second = video.pictures(), iter(video)
    kept = next(first), next(second)
    video.close()
    assert threading.active_count() == before
    assert next(first, None) is None
    assert np.array_equal(kept[0].y, kept[1].y)
    with pytest.raises(MediaError, match="closed"):
        video.pictures()


def test_leaving_a_loop_ends_its_threads(prompted_file: Path) -> None:
    before = threading.active_count()
    with hybridprompt.open(prompted_file) as video:
        for _ in video:
            break
        assert threading.active_count() == before


def test_bad_arguments(tmp_path: Path, base_file: Path) -> None:
    with pytest.raises(MediaError, match=r"nowhere\.mp4: no such file"):
        hybridprompt.open(tmp_path / "nowhere.mp4")
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    with pytest.raises(MediaError, match=r"text\.mp4"):
        hybridprompt.open(text)
    with pytest.raises(GeneratorError, match="generator text"):
        hybridprompt.open(base_file, generators=[text])
    with pytest.raises(ConfigError, match="workers"):
        hybridprompt.open(base_file, workers=0)


def test_nothing_heavy_is_imported_before_it_is_needed(prompted_file: Path) -> None:
    script = f"""
import sys, hybridprompt
assert "av" not in sys.modules and "numpy" not in sys.modules
from hybridprompt.generator.fake import FakeGenerator
with hybridprompt.open({str(prompted_file)!r}, generators=[FakeGenerator()]) as video:
    assert next(iter(video)).is_anchor
assert "torch" not in sys.modules and "onnxruntime" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_values_of_the_package() -> None:
    assert set(hybridprompt.__all__) <= set(dir(hybridprompt))
    for name in hybridprompt.__all__:
        assert getattr(hybridprompt, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = hybridprompt.nothing
