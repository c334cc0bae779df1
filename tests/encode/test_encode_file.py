"""Whole encodes of small synthetic files."""

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from encode_media import TICK, LumaJudge, Oracle, audio_packets, packets_of, scene, scenes, write_source

from hybridprompt.decode.generators import LazyGenerators
from hybridprompt.decode.video_file import VideoFile
from hybridprompt.encode import pipeline, video_encoder
from hybridprompt.encode.enhance import enhance_file
from hybridprompt.encode.pipeline import encode_file
from hybridprompt.encode.progress import EncodeSummary, Progress
from hybridprompt.encode.rate_control import RateControl
from hybridprompt.encode.settings import PRESETS, RATE_TOLERANCE, EncodeSettings
from hybridprompt.errors import ConfigError, GeneratorError, MediaError
from hybridprompt.generator.fake import FakeGenerator
from hybridprompt.generator.registry import load_chosen
from hybridprompt.prompt.carriage import detach, extract
from hybridprompt.prompt.sections import parse_sections
from hybridprompt.prompt.syntax import decode_prompt
from hybridprompt.video.picture import Picture
from hybridprompt.video.source import VideoSource
from prompted_media import assert_same, ffmpeg_decode, reference_decode

LENGTHS = (110, 90, 120)
TARGET_KBPS = 60.0


@pytest.fixture(autouse=True, scope="module")
def luma_judge() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "make_judge", lambda scale: LumaJudge())
        yield


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return scenes(*LENGTHS)


@pytest.fixture(scope="module")
def source(pictures: list[Picture], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source") / "three.mp4", pictures, audio_seconds=10.5)


@pytest.fixture(scope="module")
def oracle(pictures: list[Picture]) -> Oracle:
    return Oracle(pictures)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source") / "short.mp4", scene(24))


def settings(**changes: object) -> EncodeSettings:
    return EncodeSettings(**{"crf": 50.0, "preset": "fast", **changes})


@pytest.fixture(scope="module")
def encoded(
    source: Path, oracle: Oracle, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, EncodeSummary, list[Progress]]:
    out = tmp_path_factory.mktemp("out") / "encoded.mp4"
    told: list[Progress] = []
    chosen = settings(crf=None, bitrate_kbps=TARGET_KBPS)
    return out, encode_file(source, out, chosen, generator=oracle, progress=told.append), told


def test_rate_is_met(encoded) -> None:
    path, summary, _ = encoded
    seconds = sum(LENGTHS) / 30
    size = sum(len(p.data) for p in packets_of(path))
    assert size * 8 / 1000 / seconds == pytest.approx(TARGET_KBPS, rel=0.03)
    assert summary.rate_kbps == pytest.approx(size * 8 / 1000 / seconds, rel=1e-6)
    assert summary.notes == ()


def test_summary_is_what_the_file_holds(encoded) -> None:
    path, summary, _ = encoded
    packets = packets_of(path)
    prompts = [p for p in packets if extract(p.data) is not None]
    assert summary.frames == len(packets) == sum(LENGTHS)
    assert summary.gops == sum(p.is_keyframe for p in packets) == len(summary.crfs) == 3
    assert summary.anchors == len(prompts)
    assert summary.base_bytes == sum(len(detach(p.data)) for p in packets)
    assert summary.base_bytes + summary.prompt_bytes == sum(len(p.data) for p in packets)
    assert summary.duration_seconds == pytest.approx(sum(LENGTHS) / 30)
    assert summary.target_kbps == TARGET_KBPS
    assert summary.distances is not None
    assert summary.distances.decoded < summary.distances.base
    assert summary.as_dict()["rate_kbps"] == summary.rate_kbps


def test_gops_begin_at_the_scene_cuts(encoded) -> None:
    keyframes = [i for i, p in enumerate(packets_of(encoded[0])) if p.is_keyframe]
    assert keyframes == [0, 110, 200]


def test_prompts_are_at_keyframes_and_intervals(source: Path, oracle: Oracle, tmp_path: Path) -> None:
    # Coarse enough that every GOP gains by its prompts.
    encode_file(source, tmp_path / "coarse.mp4", settings(crf=50.0), generator=oracle)
    since_keyframe = 0
    anchors = []
    for packet in packets_of(tmp_path / "coarse.mp4"):
        since_keyframe = 0 if packet.is_keyframe else since_keyframe + 1
        if (prompt_bytes := extract(packet.data)) is not None:
            anchors.append(since_keyframe)
            prompt = decode_prompt(prompt_bytes)
            assert (prompt.width, prompt.height) == (160, 96)
            assert prompt.generator_id == oracle.identity
            assert parse_sections(prompt).quantiser is not None
    assert anchors.count(0) == 3
    # Packets that code the frames 32, 64 and 96, hidden.
    assert set(anchors) <= {0, 1, 33, 65}
    assert len(anchors) > 3


def test_ordinary_players_see_the_base(encoded) -> None:
    path, _, _ = encoded
    packets = packets_of(path)
    bare = [type(p)(detach(p.data), p.pts, p.dts, p.duration, p.is_keyframe) for p in packets]
    base = reference_decode(bare)
    assert_same(ffmpeg_decode(path), base)
    with VideoFile(path, base=True) as video:
        assert_same([(p.y, p.u, p.v) for p in video], base)


def test_our_player_shows_what_the_encoder_promised(encoded, oracle: Oracle, pictures: list[Picture]) -> None:
    path, _, _ = encoded
    with VideoFile(path, generators=[oracle]) as video:
        shown = [(p.y.astype(int), p.is_anchor) for p in video]
        assert video.warnings == ()
    base = [planes[0].astype(int) for planes in ffmpeg_decode(path)]
    assert sum(anchor for _, anchor in shown) == encoded[1].anchors

    def distance(decoded: list[np.ndarray]) -> float:
        return float(np.mean([np.abs(d - p.y).mean() for d, p in zip(decoded, pictures, strict=True)]))

    assert distance([y for y, _ in shown]) < distance(base)


def test_times_and_sound_are_carried(encoded, source: Path) -> None:
    path, _, _ = encoded
    with av.open(str(path)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert times == pytest.approx([i / 30 for i in range(sum(LENGTHS))], abs=1e-4)
    assert audio_packets(path) == audio_packets(source)


def test_progress_is_told_in_order(encoded) -> None:
    _, _, told = encoded
    stages = list(dict.fromkeys(p.stage for p in told))
    assert [s for s in stages if s != "correct"] == ["analyse", "encode", "write"]
    for stage in ("analyse", "encode"):
        done = [p.done for p in told if p.stage == stage]
        assert done == [110, 200, 320]
    assert {p.total for p in told} == {320}


@pytest.mark.parametrize("chosen", [{"bitrate_kbps": 150}, {"bitrate_kbps": 150, "max_kbps": 160}])
@pytest.mark.parametrize("factors", [(0.5,), (0.5, 1.0)])
def test_same_input_and_settings_give_the_same_bytes(
    tmp_path: Path, monkeypatch, chosen: dict[str, float], factors: tuple[float, ...]
) -> None:
    monkeypatch.setitem(PRESETS, "fast", replace(PRESETS["fast"], key_lambda_factors=factors))
    pictures = scenes(40, 30, 30)
    source = write_source(tmp_path / "in.mp4", pictures, audio_seconds=2.0)
    for name in ("a", "b"):
        encode_file(
            source, tmp_path / f"{name}.mp4", settings(crf=None, **chosen), generator=Oracle(pictures)
        )
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_crf_mode(short: Path, tmp_path: Path) -> None:
    sizes = []
    for crf in (40.0, 55.25):
        out = tmp_path / f"{crf}.mp4"
        summary = encode_file(short, out, settings(crf=crf), generator=FakeGenerator())
        assert summary.crfs == (crf,)
        assert summary.target_kbps is None
        sizes.append(summary.base_bytes)
    assert sizes[0] > sizes[1]


def test_variable_frame_rate_is_kept(tmp_path: Path) -> None:
    steps = [0, 1, 2, 5, 6, 10, 11, 12, 30, 31, 60, 61, 62, 63, 64, 95, 96, 130]
    pictures = [Picture(p.y, p.u, p.v, t, TICK) for p, t in zip(scene(len(steps)), steps, strict=True)]
    source = write_source(tmp_path / "vfr.mkv", pictures, codec="ffv1")
    chosen = settings(crf=None, bitrate_kbps=60, gop_seconds=2.0)
    summary = encode_file(source, tmp_path / "out.mp4", chosen, generator=FakeGenerator())
    with av.open(str(tmp_path / "out.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert times == pytest.approx([t / 30 for t in steps], abs=1e-3)
    # No GOP spans more than two seconds, and the rate counts real time.
    keyframes = [i for i, p in enumerate(packets_of(tmp_path / "out.mp4")) if p.is_keyframe]
    assert keyframes == [0, 10, 17]
    frame_seconds = float(1 / VideoSource(source).average_rate)
    assert summary.duration_seconds == pytest.approx(130 / 30 + frame_seconds, abs=0.01)


def test_a_late_start_begins_at_zero(tmp_path: Path) -> None:
    pictures = [Picture(p.y, p.u, p.v, 45 + i, TICK) for i, p in enumerate(scene(10))]
    source = write_source(tmp_path / "late.mkv", pictures, codec="ffv1")
    encode_file(source, tmp_path / "out.mp4", settings(), generator=FakeGenerator())
    assert packets_of(tmp_path / "out.mp4")[0].pts == 0


@pytest.mark.parametrize(
    ("size", "codec", "pix_fmt"),
    [
        ((101, 75), "ffv1", "yuv420p"),
        ((160, 96), "ffv1", "yuv420p10le"),
        ((160, 96), "ffv1", "yuv444p"),
        ((16, 16), "ffv1", "yuv420p"),
        # SVT-AV1 would hang with more than one thread.
        ((12, 70), "ffv1", "yuv420p"),
    ],
)
def test_sizes_and_formats(tmp_path: Path, size: tuple[int, int], codec: str, pix_fmt: str) -> None:
    pictures = scene(12, *size)
    source = write_source(tmp_path / "in.mkv", pictures, codec=codec, pix_fmt=pix_fmt)
    out = tmp_path / "out.mp4"
    summary = encode_file(source, out, settings(crf=55.0), generator=Oracle(pictures[:1]))
    # Prompts hold sizes from 16 on.
    if min(size) < 16 or min(size) >= 64:
        assert summary.anchors == (0 if min(size) < 16 else 1)
    decoded = ffmpeg_decode(out)
    assert decoded[0][0].shape == (size[1], size[0])
    with av.open(str(out)) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
    assert (
        np.mean([np.abs(d[0].astype(int) - p.y).mean() for d, p in zip(decoded, pictures, strict=True)]) < 25
    )


@pytest.mark.parametrize("mode", [{"crf": 50.0}, {"crf": None, "bitrate_kbps": 100.0}])
@pytest.mark.parametrize("count", [1, 2])
def test_one_and_two_pictures(tmp_path: Path, count: int, mode: dict[str, float | None]) -> None:
    pictures = scene(count)
    source = write_source(tmp_path / "in.mkv", pictures, codec="ffv1")
    summary = encode_file(source, tmp_path / "out.mp4", settings(**mode), generator=Oracle(pictures))
    assert summary.frames == count == len(ffmpeg_decode(tmp_path / "out.mp4"))
    assert summary.gops == 1
    if "bitrate_kbps" in mode:
        missed = abs(summary.rate_kbps / 100.0 - 1) > RATE_TOLERANCE
        assert any("off its target" in note for note in summary.notes) == missed


def test_gops_of_two_pictures(tmp_path: Path) -> None:
    pictures = scene(9, step=8)
    source = write_source(tmp_path / "slow.mkv", pictures, codec="ffv1", rate=Fraction(15, 4))
    assert VideoSource(source).average_rate == Fraction(15, 4)
    out = tmp_path / "out.mp4"
    chosen = settings(crf=None, bitrate_kbps=40, gop_seconds=0.5)
    summary = encode_file(source, out, chosen, generator=Oracle(pictures))
    keyframes = [i for i, p in enumerate(packets_of(out)) if p.is_keyframe]
    assert keyframes == [0, 2, 4, 6, 8]
    assert summary.anchors == 5
    assert summary.duration_seconds == pytest.approx(9 * 8 / 30, abs=0.01)


# ---------------------------------------------------------------------------------------------- refusals


def test_existing_output_is_kept_unless_overwriting(short: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    out.write_bytes(b"precious")
    with pytest.raises(MediaError, match="exists already"):
        encode_file(short, out, settings(), generator=FakeGenerator())
    assert out.read_bytes() == b"precious"
    encode_file(short, out, settings(overwrite=True), generator=FakeGenerator())
    assert len(packets_of(out)) == 24


def test_input_is_never_the_output(short: Path, tmp_path: Path) -> None:
    before = short.read_bytes()
    link = tmp_path / "link.mp4"
    link.symlink_to(short)
    for out in (short, link):
        with pytest.raises(ConfigError, match="same file"):
            encode_file(short, out, settings(overwrite=True), generator=FakeGenerator())
    assert short.read_bytes() == before


@pytest.mark.parametrize("name", ["out.mkv", "out", "out.av1"])
def test_output_is_mp4(short: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"name it \.mp4"):
        encode_file(short, tmp_path / name, settings(), generator=FakeGenerator())


def test_unusable_inputs_are_media_errors(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no video")
    cut = write_source(tmp_path / "cut.mp4", scene(5))
    cut.write_bytes(cut.read_bytes()[:60])
    for name in ("missing.mp4", "empty.mp4", "text.mp4", "cut.mp4"):
        with pytest.raises(MediaError, match=name):
            encode_file(tmp_path / name, tmp_path / "out.mp4", settings(), generator=FakeGenerator())
    source = write_source(tmp_path / "good.mp4", scene(5))
    with pytest.raises(MediaError, match="no directory"):
        encode_file(source, tmp_path / "nowhere" / "out.mp4", settings(), generator=FakeGenerator())
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize("mode", [{"crf": 50.0}, {"crf": None, "bitrate_kbps": 100.0}])
def test_a_video_without_pictures_is_a_media_error(
    short: Path, tmp_path: Path, monkeypatch, mode: dict[str, float | None]
) -> None:
    monkeypatch.setattr(VideoSource, "frames", lambda self, *times: iter(()))
    with pytest.raises(MediaError, match="no picture that can be decoded"):
        encode_file(short, tmp_path / "out.mp4", settings(**mode), generator=FakeGenerator())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stage", ["analyse", "encode", "write"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interruption_leaves_nothing(
    short: Path, tmp_path: Path, stage: str, error: type[BaseException]
) -> None:
    def stop(progress: Progress) -> None:
        if progress.stage == stage:
            raise error

    chosen = settings(crf=None, bitrate_kbps=100)
    with pytest.raises(error):
        encode_file(short, tmp_path / "out.mp4", chosen, generator=FakeGenerator(), progress=stop)
    assert list(tmp_path.iterdir()) == []


class Reread(VideoSource):
    """A source that reads differently from the second or third time on."""

    changes_at = 1
    keeps = 100
    shift = 0

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.reads = 0

    def frames(self, start_seconds=None, duration_seconds=None) -> Iterator[Picture]:
        self.reads += 1
        for index, picture in enumerate(super().frames(start_seconds, duration_seconds)):
            if self.reads > self.changes_at:
                if index >= self.keeps:
                    return
                y = np.roll(picture.y, self.shift, 1)
                picture = Picture(y, picture.u, picture.v, picture.pts, picture.time_base, picture.color)
            yield picture


@pytest.fixture(scope="module")
def two_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source") / "two.mp4", scenes(40, 40))


def test_a_source_that_ends_sooner_the_second_time(two_scenes: Path, tmp_path: Path, monkeypatch) -> None:
    chosen = settings(crf=None, bitrate_kbps=100)
    monkeypatch.setattr(pipeline, "VideoSource", Reread)
    monkeypatch.setattr(Reread, "keeps", 30)
    with pytest.raises(MediaError, match="GOP 1 has no picture when read a second time"):
        encode_file(two_scenes, tmp_path / "out.mp4", chosen, generator=FakeGenerator())
    assert list(tmp_path.iterdir()) == []
    # Within the last GOP it does not matter.
    monkeypatch.setattr(Reread, "keeps", 70)
    summary = encode_file(two_scenes, tmp_path / "out.mp4", chosen, generator=FakeGenerator())
    assert summary.frames == len(packets_of(tmp_path / "out.mp4")) == 70


def test_a_source_that_looks_different_the_second_time_keeps_its_gops(
    two_scenes: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(pipeline, "VideoSource", Reread)
    monkeypatch.setattr(Reread, "shift", 40)
    monkeypatch.setattr(video_encoder, "split_gops", lambda pictures, **options: _cut_at_40(pictures))
    out = tmp_path / "out.mp4"
    chosen = settings(crf=None, bitrate_kbps=100)
    assert encode_file(two_scenes, out, chosen, generator=FakeGenerator()).frames == 80
    assert [i for i, p in enumerate(packets_of(out)) if p.is_keyframe] == [0, 40]


def _cut_at_40(pictures: Iterator[Picture]) -> Iterator[list[Picture]]:
    everything = list(pictures)
    yield everything[:40]
    yield everything[40:]


def test_correction_is_given_up_where_a_gop_cannot_be_read_again(
    two_scenes: Path, tmp_path: Path, monkeypatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pipeline, "VideoSource", Reread)
    monkeypatch.setattr(Reread, "changes_at", 2)
    monkeypatch.setattr(Reread, "keeps", 5)
    monkeypatch.setattr(RateControl, "correction", lambda self, tolerance: (1, 60.0))
    chosen = settings(crf=None, bitrate_kbps=100)
    summary = encode_file(two_scenes, tmp_path / "out.mp4", chosen, generator=FakeGenerator())
    assert summary.frames == 80
    assert "not corrected" in caplog.text


def test_correction_replaces_a_gop_only_for_the_better(two_scenes: Path, tmp_path: Path, monkeypatch) -> None:
    """First a change that makes it worse, then one that helps; the file holds the packets that were kept."""
    changes = iter([(0, 20.0), (1, 62.0)])
    monkeypatch.setattr(RateControl, "correction", lambda self, tolerance: next(changes, None))
    monkeypatch.setattr(RateControl, "crf_for_gop", lambda self, gop: 45.0)
    monkeypatch.setattr(RateControl, "common_crf", lambda self: 45.0)
    chosen = settings(crf=None, bitrate_kbps=20)
    monkeypatch.setattr(video_encoder.math, "ceil", lambda value: 2)
    summary = encode_file(two_scenes, tmp_path / "out.mp4", chosen, generator=FakeGenerator())
    assert summary.crfs == (45.0, 62.0)
    packets = packets_of(tmp_path / "out.mp4")
    assert [round(p.pts * 30 * VideoSource(tmp_path / "out.mp4").time_base) for p in packets] == list(
        range(80)
    )
    assert sum(len(p.data) for p in packets) == summary.base_bytes + summary.prompt_bytes
    assert len(ffmpeg_decode(tmp_path / "out.mp4")) == 80


def test_settings_are_checked() -> None:
    for bad in (
        {"crf": None},
        {"bitrate_kbps": 100.0},
        {"crf": 0.5},
        {"crf": 50.1},
        {"crf": None, "bitrate_kbps": 1.0},
        {"crf": None, "bitrate_kbps": float("nan")},
        {"gop_seconds": 0.1},
        {"preset": "placebo"},
        {"anchor_interval": 0},
        {"anchor_interval": 33},
        {"anchor_interval": -32},
    ):
        with pytest.raises(ConfigError):
            settings(**bad)
    assert settings(anchor_interval=None).anchor_interval is None


def test_generator_is_chosen_by_size(short: Path, tmp_path: Path) -> None:
    """The chosen one makes the prompts, and whoever decodes the file finds it without being told."""
    encode_file(short, tmp_path / "base.mp4", settings(crf=63.0), generator=FakeGenerator())
    out = tmp_path / "small.mp4"
    # Without a reference, keyframes are generated whatever a judge would say.
    summary = enhance_file(tmp_path / "base.mp4", out, generator_path=Path("small"))
    assert summary.anchors == 1
    (prompt,) = (decode_prompt(p) for p in (extract(packet.data) for packet in packets_of(out)) if p)
    assert prompt.generator_id == load_chosen(Path("small")).identity
    with VideoFile(out) as video:
        assert next(iter(video)).is_anchor
        assert not video.warnings
    known = LazyGenerators([Path("small")]).find(prompt.generator_id)
    assert known is not None
    assert known.name == "generator_s6"
    with pytest.raises(GeneratorError, match="'tiny', expected one of small, medium, large, or an ONNX file"):
        encode_file(short, tmp_path / "tiny.mp4", settings(generator=Path("tiny")))
    assert not (tmp_path / "tiny.mp4").exists()
