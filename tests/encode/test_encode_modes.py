"""Whole encodes in the modes and codecs beside AV1 `enhance`, played by ordinary players and by ours."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import av.logging
import numpy as np
import pytest
from encode_media import TICK, LumaJudge, Oracle, audio_packets, scene, scenes, write_source

import hybridprompt
from hybridprompt.decode.carriage import PacketCarriage
from hybridprompt.decode.video_file import DecodedPicture
from hybridprompt.encode import alternation, given_keyframe, nal_base, pipeline
from hybridprompt.encode.base import GivenKeyframe
from hybridprompt.encode.gate import AnchorDecision, GopDecision, GopGate, attach_prompts
from hybridprompt.encode.judge import LpipsJudge
from hybridprompt.encode.pipeline import encode_file
from hybridprompt.encode.progress import EncodeSummary
from hybridprompt.encode.settings import PRESETS, EncodeSettings
from hybridprompt.encode.targets import GopResult
from hybridprompt.errors import ConfigError
from hybridprompt.generator.fake import FakeGenerator
from hybridprompt.prompt.sections import parse_sections
from hybridprompt.prompt.syntax import decode_prompt
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.nal_encoder import NalSettings
from hybridprompt.video.packet_reader import PacketReader
from hybridprompt.video.picture import ColorInfo, Picture
from hybridprompt.video.source import VideoSource

CODECS = ("h265", "h264", "av1")
TAGS = {"h265": "hvc1", "h264": "avc1", "av1": "av01"}
COUNT = 26
KEYFRAMES = [0, 24]
BOTH = [(codec, mode) for codec in CODECS for mode in ("replace", "enhance")]
both = pytest.mark.parametrize(("codec", "mode"), BOTH)


@pytest.fixture(scope="module", autouse=True)
def one_still() -> Iterator[None]:
    """Stills of one size: which of several serves a GOP best is a question of its own."""
    kept = PRESETS["fast"]
    PRESETS["fast"] = replace(kept, still_offsets=(0.0,))
    yield
    PRESETS["fast"] = kept


@pytest.fixture(autouse=True, scope="module")
def luma_judge() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "make_judge", lambda scale: LumaJudge())
        yield


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    """The second GOP is two pictures long."""
    return scene(COUNT)


@pytest.fixture(scope="module")
def source(pictures: list[Picture], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "in.mkv"
    return write_source(path, pictures, codec="ffv1", audio_seconds=0.9)


def settings(codec: str, mode: str, **changes: object) -> EncodeSettings:
    chosen = {"crf": 50.0 if codec == "av1" else 35.0, "preset": "fast", "gop_seconds": 0.8, **changes}
    return EncodeSettings(codec=codec, mode=mode, **chosen)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def files(
    source: Path, pictures: list[Picture], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], tuple[Path, EncodeSummary]]:
    folder, made = tmp_path_factory.mktemp("files"), {}
    for codec, mode in BOTH:
        out = folder / f"{codec}-{mode}.mp4"
        made[codec, mode] = out, encode_file(source, out, settings(codec, mode), generator=Oracle(pictures))
    return made


Files = dict[tuple[str, str], tuple[Path, EncodeSummary]]


def play_plainly(path: Path) -> list[tuple[float, np.ndarray]]:
    """What an ordinary player shows that takes every complaint for an error: time and luma."""
    before = av.logging.get_level()
    with av.logging.Capture() as messages:
        av.logging.set_level(av.logging.WARNING)
        try:
            with av.open(str(path), options={"err_detect": "explode"}) as container:
                stream = container.streams.video[0]
                # Messages of other threads could wait for this one for ever.
                stream.thread_count, stream.codec_context.options = 1, {"err_detect": "explode"}
                shown = [(f.time, np.array(f.to_ndarray()[: f.height])) for f in container.decode(video=0)]
        finally:
            av.logging.set_level(before)
    assert messages == []
    return shown


def play(path: Path, pictures: list[Picture], *, base: bool = False) -> list[DecodedPicture]:
    with hybridprompt.open(path, base=base, generators=[] if base else [Oracle(pictures)]) as video:
        shown = list(video)
        assert video.warnings == ()
    return shown


def packets_of(path: Path) -> tuple[list[bytes], list[bool], list[bytes | None]]:
    """Packets in decoding order, whether they are keyframes, and their prompts."""
    reader = PacketReader(path, ("av1", "h264", "hevc"))
    carriage = PacketCarriage.of(reader.codec, reader.extradata)
    packets = list(reader)
    data = [packet.data for packet in packets]
    return data, [packet.is_keyframe for packet in packets], [carriage.extract(d) for d in data]


def distance(luma: np.ndarray, picture: Picture) -> float:
    return float(np.abs(luma.astype(float) - picture.y).mean())


# ------------------------------------------------------------------------------------ what a file is to whom


@both
def test_ordinary_players_play_every_file(
    codec: str, mode: str, files: Files, pictures: list[Picture]
) -> None:
    path, _ = files[codec, mode]
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.codec_tag == TAGS[codec]
    shown = play_plainly(path)
    assert [time for time, _ in shown] == pytest.approx([i / 30 for i in range(COUNT)], abs=1e-3)
    distances = [distance(y, picture) for (_, y), picture in zip(shown, pictures, strict=True)]
    if mode == "enhance":
        assert max(distances) < 20
    else:
        # Grey, to which the residuals of what follows are added.
        assert all(np.abs(shown[k][1].astype(int) - 128).max() <= 2 for k in KEYFRAMES)
        assert distances[0] > 30


@both
def test_our_player_shows_the_generated_keyframes(
    codec: str, mode: str, files: Files, pictures: list[Picture]
) -> None:
    path, summary = files[codec, mode]
    shown = play(path, pictures)
    assert [p.pts_seconds for p in shown] == pytest.approx([i / 30 for i in range(COUNT)], abs=1e-3)
    assert [i for i, p in enumerate(shown) if p.is_keyframe] == KEYFRAMES
    assert {i for i, p in enumerate(shown) if p.is_anchor} == set(KEYFRAMES)
    assert summary.anchors == 2
    distances = [distance(p.y, picture) for p, picture in zip(shown, pictures, strict=True)]
    plain = [distance(y, picture) for (_, y), picture in zip(play_plainly(path), pictures, strict=True)]
    assert max(distances[k] for k in KEYFRAMES) < 2.5
    assert all(ours < theirs for ours, theirs in zip(distances, plain, strict=True))
    assert summary.distances is not None
    # On the sampled frames; the last one of a GOP is the worst.
    assert summary.distances.decoded < summary.distances.base
    assert min(distances) <= summary.distances.decoded <= max(distances)


@both
def test_without_generation_the_base_is_shown(
    codec: str, mode: str, files: Files, pictures: list[Picture]
) -> None:
    path, _ = files[codec, mode]
    shown = play(path, pictures, base=True)
    assert not any(p.is_anchor for p in shown)
    distances = [distance(p.y, picture) for p, picture in zip(shown, pictures, strict=True)]
    generated = [distance(p.y, picture) for p, picture in zip(play(path, pictures), pictures, strict=True)]
    # In mode replace that is the still: not grey, nor generated.
    assert max(distances) < 20
    assert distances[0] > generated[0]
    if mode == "enhance":
        assert all(np.array_equal(p.y, y) for p, (_, y) in zip(shown, play_plainly(path), strict=True))


@both
def test_the_summary_is_what_the_file_holds(codec: str, mode: str, files: Files) -> None:
    path, summary = files[codec, mode]
    data, keyframes, prompts = packets_of(path)
    assert summary.frames == len(data) == COUNT
    assert summary.gops == sum(keyframes) == 2
    report = hybridprompt.inspect_file(path)
    assert (summary.base_bytes, summary.prompt_bytes) == (report.base_bytes, report.prompt_bytes)
    assert summary.base_bytes + summary.prompt_bytes == sum(map(len, data))
    assert summary.duration_seconds == pytest.approx(COUNT / 30, abs=2e-3)
    carried = {i for i, prompt in enumerate(prompts) if prompt is not None}
    assert carried == {i for i, keyframe in enumerate(keyframes) if keyframe}
    stills = [parse_sections(decode_prompt(prompts[i] or b"")).still for i in sorted(carried)]
    assert all((still is not None) is (mode == "replace") for still in stills)


@both
def test_crfs_of_the_summary_are_those_of_the_codec(
    codec: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []
    real = nal_base.encode_nal_gop

    def noting(clip: list[Picture], chosen: NalSettings, **options: object) -> list[CodedPacket]:
        if len(clip) > 1:
            told.append(chosen.crf)
        return real(clip, chosen, **options)

    monkeypatch.setattr(nal_base, "encode_nal_gop", noting)
    clip, asked = scene(3), 52.0 if codec == "av1" else 33.0
    source = write_source(tmp_path / "in.mkv", clip, codec="ffv1")
    summary = encode_file(
        source, tmp_path / "out.mp4", settings(codec, mode, crf=asked), generator=Oracle(clip)
    )
    assert summary.crfs == pytest.approx([asked], abs=0.1)
    if codec != "av1":
        # What x264 and x265 were given last is what the file holds.
        assert summary.crfs == pytest.approx(told[-1:], abs=0.006)


@both
def test_sound_is_carried(codec: str, mode: str, files: Files, source: Path) -> None:
    assert audio_packets(files[codec, mode][0]) == audio_packets(source) != []


@pytest.mark.parametrize("codec", CODECS)
def test_the_same_bytes_every_time(codec: str, files: Files, source: Path, tmp_path: Path, pictures) -> None:
    path, _ = files[codec, "replace"]
    encode_file(source, tmp_path / "again.mp4", settings(codec, "replace"), generator=Oracle(pictures))
    assert (tmp_path / "again.mp4").read_bytes() == path.read_bytes()


# ---------------------------------------------------------------------- players know a file by its first one


def without_anchors_in(first: bool, rest: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = GopGate.decide, []

    def decide(self: GopGate) -> GopDecision:
        calls.append(self)
        decision = real(self)
        assert decision.anchors
        return replace(decision, anchors=()) if (first if len(calls) == 1 else rest) else decision

    monkeypatch.setattr(GopGate, "decide", decide)


@pytest.mark.parametrize("codec", CODECS)
def test_the_first_keyframe_has_a_prompt_where_others_have(
    codec: str, source: Path, pictures: list[Picture], tmp_path: Path, monkeypatch
) -> None:
    without_anchors_in(True, False, monkeypatch)
    out = tmp_path / "out.mp4"
    summary = encode_file(source, out, settings(codec, "enhance"), generator=Oracle(pictures))
    data, _, prompts = packets_of(out)
    assert summary.anchors == 1
    assert summary.base_bytes + summary.prompt_bytes == sum(map(len, data))
    shown = play(out, pictures)
    assert shown[24].is_anchor
    assert distance(shown[24].y, pictures[24]) < 2.5
    # AV1 needs none.
    assert (prompts[0] is None) is (codec == "av1")
    plain = play_plainly(out)
    assert all(np.array_equal(shown[i].y, plain[i][1]) for i in range(24))


@pytest.mark.parametrize("codec", CODECS)
def test_a_file_without_anchors_has_no_prompts(
    codec: str, source: Path, pictures: list[Picture], tmp_path: Path, monkeypatch
) -> None:
    without_anchors_in(True, True, monkeypatch)
    out = tmp_path / "out.mp4"
    summary = encode_file(source, out, settings(codec, "enhance"), generator=Oracle(pictures))
    data, _, prompts = packets_of(out)
    assert (summary.anchors, summary.prompt_bytes, summary.base_bytes) == (0, 0, sum(map(len, data)))
    assert prompts == [None] * COUNT
    assert [p.is_anchor for p in play(out, pictures)] == [False] * COUNT


@pytest.mark.parametrize("codec", CODECS)
def test_stills_need_no_anchors(
    codec: str, source: Path, pictures: list[Picture], tmp_path: Path, monkeypatch
) -> None:
    without_anchors_in(True, True, monkeypatch)
    out = tmp_path / "out.mp4"
    summary = encode_file(source, out, settings(codec, "replace"), generator=Oracle(pictures))
    report = hybridprompt.inspect_file(out)
    assert (summary.anchors, summary.prompt_bytes) == (0, report.prompt_bytes)
    assert summary.base_bytes == report.base_bytes
    stills = [anchor.still.size_bytes for anchor in report.anchors if anchor.still is not None]
    assert len(stills) == 2
    assert sum(stills) < summary.prompt_bytes < sum(stills) + 2 * 100
    shown, base = play(out, pictures), play(out, pictures, base=True)
    assert all(np.array_equal(a.y, b.y) for a, b in zip(shown, base, strict=True))
    assert max(distance(p.y, picture) for p, picture in zip(shown, pictures, strict=True)) < 20


def test_h265_has_anchors_inside_a_gop_and_h264_has_none(tmp_path: Path) -> None:
    clip = scene(90)
    source = write_source(tmp_path / "in.mkv", clip, codec="ffv1")
    anchors = {}
    for codec in ("h265", "h264"):
        out = tmp_path / f"{codec}.mp4"
        chosen = settings(codec, "replace", crf=45.0, gop_seconds=4.0)
        encode_file(source, out, chosen, generator=Oracle(clip))
        anchors[codec] = [i for i, p in enumerate(play(out, clip)) if p.is_anchor]
    assert anchors["h264"] == [0]
    assert len(anchors["h265"]) > 1


# ------------------------------------------------------------------------------------------ closed loop


def test_a_gop_is_encoded_anew_against_what_its_prompt_generates(
    source: Path, pictures: list[Picture], tmp_path: Path, monkeypatch
) -> None:
    variants: list[object] = []
    real = nal_base.NalBaseEncoder.encode

    def noting(self, clip, crf, variant):
        variants.append(variant)
        return real(self, clip, crf, variant)

    monkeypatch.setattr(nal_base.NalBaseEncoder, "encode", noting)
    monkeypatch.setattr(alternation, "serves_better", lambda result, other, worth: True)
    monkeypatch.setitem(PRESETS, "fast", replace(PRESETS["fast"], alternations=2, still_offsets=(0.0,)))
    out = tmp_path / "out.mp4"
    encode_file(source, out, settings("h265", "replace"), generator=Oracle(pictures))
    assert sum(variant == GivenKeyframe(0.0) for variant in variants) == 2
    gates = [v.gate for v in variants if isinstance(v, GivenKeyframe) and v.gate is not None]
    assert len(gates) == 4
    assert all(gate.strengths().any() for gate in gates)
    shown = play(out, pictures)
    assert distance(shown[0].y, pictures[0]) < 2.5
    # As soon as it does not serve better the allowance is not used up, nor the result.
    variants.clear()
    monkeypatch.setattr(alternation, "serves_better", lambda result, other, worth: False)
    encode_file(source, tmp_path / "b.mp4", settings("h265", "replace"), generator=Oracle(pictures))
    assert len(variants) == 4
    monkeypatch.setitem(PRESETS, "fast", replace(PRESETS["fast"], alternations=0))
    encode_file(source, tmp_path / "c.mp4", settings("h265", "replace"), generator=Oracle(pictures))
    assert (tmp_path / "b.mp4").read_bytes() == (tmp_path / "c.mp4").read_bytes()


def test_what_serves_better_is_nearer_at_equal_bytes() -> None:
    def result(distance: float, base_bytes: int, prompt_bytes: int = 0) -> GopResult:
        return GopResult((), base_bytes, prompt_bytes, GopDecision((), 1.0, distance), 50.0, 1.0)

    def better(result: GopResult, other: GopResult, worth: float = 1.0) -> bool:
        return alternation.serves_better(result, other, worth)

    assert better(result(0.1, 1000), result(0.11, 1000))
    assert better(result(0.1, 900), result(0.1, 1000))
    assert better(result(0.1, 1000), result(0.1, 1000, 100))
    assert better(result(0.1, 1000), result(0.09, 2000))
    assert not better(result(0.1, 1000), result(0.1, 1000))
    # What bytes are worth decides.
    assert better(result(0.1, 1000), result(0.09, 1100), worth=1.2)
    assert not better(result(0.1, 1000), result(0.09, 1100), worth=0.9)


def test_prompts_go_into_their_own_packets_whatever_the_order() -> None:
    class Joined:
        def __init__(self) -> None:
            self.packets = [CodedPacket(bytes([i]), pts, i, 1, i == 0) for i, pts in enumerate((0, 2, 1))]

        def carry(self, packet: bytes, prompt_bytes: bytes) -> bytes:
            return packet + prompt_bytes

    anchors = [AnchorDecision(2, 1, b"late", 1.0, 9), AnchorDecision(0, 0, b"first", 1.0, 9)]
    attached = attach_prompts(Joined(), anchors)  # type: ignore[arg-type]
    assert [p.data for p in attached] == [b"\0first", b"\1", b"\2late"]
    assert [p.pts for p in attached] == [0, 2, 1]


# ------------------------------------------------------------------------------------------------- targets


@pytest.fixture(scope="module")
def three_scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Picture]]:
    clip = scenes(40, 30, 50)
    return write_source(tmp_path_factory.mktemp("source") / "three.mkv", clip, codec="ffv1"), clip


@pytest.mark.parametrize(
    ("codec", "mode"), [("h265", "replace"), ("h264", "replace"), ("av1", "replace"), ("h265", "enhance")]
)
def test_a_rate_is_met(
    codec: str, mode: str, three_scenes: tuple[Path, list[Picture]], tmp_path: Path
) -> None:
    path, clip = three_scenes
    out = tmp_path / "out.mp4"
    chosen = settings(codec, mode, crf=None, bitrate_kbps=100.0, gop_seconds=4.0)
    summary = encode_file(path, out, chosen, generator=Oracle(clip))
    data, keyframes, _ = packets_of(out)
    assert sum(keyframes) == 3
    assert sum(map(len, data)) * 8 / 1000 / 4 == pytest.approx(100, rel=0.05)
    assert summary.rate_kbps == pytest.approx(sum(map(len, data)) * 8 / 1000 / 4, rel=1e-3)
    assert [p.is_keyframe for p in play(out, clip)].count(True) == 3
    assert len(play_plainly(out)) == 120


@pytest.mark.parametrize("codec", ["h265", "h264"])
def test_a_crf_is_that_of_the_codec(
    codec: str, source: Path, pictures: list[Picture], tmp_path: Path
) -> None:
    sizes = []
    for crf in (25.0, 35.0, 35.4, 45.0):
        out = tmp_path / f"{crf}.mp4"
        sizes.append(
            encode_file(source, out, settings(codec, "enhance", crf=crf), generator=Oracle(pictures))
        )
    assert [s.base_bytes for s in sizes] == sorted({s.base_bytes for s in sizes}, reverse=True)
    for bad in (9.9, 51.5):
        with pytest.raises(ConfigError, match=f"CRF of {codec} is {bad}, expected 10 to 51"):
            settings(codec, "enhance", crf=bad)


def test_a_quality_is_aimed_at(three_scenes: tuple[Path, list[Picture]], tmp_path: Path, monkeypatch) -> None:
    path, clip = three_scenes

    def chosen(quality: float) -> EncodeSettings:
        return settings("h265", "replace", crf=None, quality=quality, gop_seconds=4.0)

    with pytest.raises(ConfigError, match="weights are not installed"):
        encode_file(path, tmp_path / "none.mp4", chosen(0.2), generator=Oracle(clip))

    class Scaled(LumaJudge, LpipsJudge):
        """As if it were LPIPS."""

        def distance_map(self, *args) -> np.ndarray:
            return super().distance_map(*args) / 15

    monkeypatch.setattr(pipeline, "make_judge", lambda scale: Scaled())
    sizes = []
    for quality in (0.2, 0.4):
        out = tmp_path / f"{quality}.mp4"
        summary = encode_file(path, out, chosen(quality), generator=Oracle(clip))
        assert summary.distances is not None
        # No prompts of a real generator gain as much as the oracle's, nor as unevenly.
        assert summary.distances.decoded == pytest.approx(quality, rel=0.25)
        assert len(play_plainly(out)) == 120
        sizes.append(summary.base_bytes)
    assert sizes[0] > 1.3 * sizes[1]


@pytest.mark.parametrize("codec", CODECS)
def test_a_buffer_holds_a_gop_down(
    codec: str, three_scenes: tuple[Path, list[Picture]], tmp_path: Path
) -> None:
    path, clip = three_scenes
    made = []
    for limit in (None, 0.7):
        out = tmp_path / f"{limit}.mp4"
        most = None if limit is None else limit * made[0].rate_kbps
        chosen = settings(
            codec, "replace", gop_seconds=4.0, max_kbps=most, buffer_seconds=None if most is None else 0.5
        )
        made.append(encode_file(path, out, chosen, generator=Oracle(clip)))
        assert len(play_plainly(out)) == 120
    free, held = made
    assert held.rate_kbps < free.rate_kbps
    assert max(held.crfs) > max(free.crfs)
    assert held.notes == ()


# ----------------------------------------------------------------------------------------- legacy keyframes


@pytest.mark.parametrize("codec", CODECS)
def test_a_legacy_keyframe_is_for_players_without_prompts(
    codec: str, files: Files, source: Path, pictures: list[Picture], tmp_path: Path
) -> None:
    out, most = tmp_path / "out.mp4", 2500
    chosen = settings(codec, "replace", legacy_keyframe_bytes=most)
    encode_file(source, out, chosen, generator=Oracle(pictures))
    grey, legacy = play_plainly(files[codec, "replace"][0]), play_plainly(out)
    for k in KEYFRAMES:
        assert distance(legacy[k][1], pictures[k]) < 0.4 * distance(grey[k][1], pictures[k])
    sizes = [
        [len(d) - len(p or b"") for d, k, p in zip(*packets_of(path), strict=True) if k]
        for path in (files[codec, "replace"][0], out)
    ]
    # Framing of the prompt aside.
    assert all(size < 200 for size in sizes[0])
    assert all(1000 < size <= most + 40 for size in sizes[1])
    # It is nothing to clients that generate, and so are stubs.
    for base in (False, True):
        ours, before = play(out, pictures, base=base), play(files[codec, "replace"][0], pictures, base=base)
        assert [p.is_anchor for p in ours] == [p.is_anchor for p in before]
        assert all(np.array_equal(a.y, b.y) for a, b in zip(ours, before, strict=True))


@pytest.mark.parametrize("codec", CODECS)
def test_the_least_legacy_keyframe(codec: str, source: Path, pictures: list[Picture], tmp_path: Path) -> None:
    chosen = settings(codec, "replace", legacy_keyframe_bytes=200)
    encode_file(source, tmp_path / "out.mp4", chosen, generator=Oracle(pictures))
    reader = PacketReader(tmp_path / "out.mp4", ("av1", "h264", "hevc"))
    carriage = PacketCarriage.of(reader.codec, reader.extradata)
    assert all(len(carriage.detach(p.data)) <= 200 for p in reader if p.is_keyframe)
    assert len(play_plainly(tmp_path / "out.mp4")) == COUNT


@pytest.mark.parametrize("codec", CODECS)
def test_the_summary_tells_where_no_legacy_keyframe_fits(
    codec: str, three_scenes: tuple[Path, list[Picture]], tmp_path: Path, monkeypatch
) -> None:
    path, clip = three_scenes
    real = given_keyframe.small_keyframe

    def fitting(picture: Picture, size_bytes: int, code: Callable[[Picture, float], bytes]) -> bytes | None:
        return real(picture, size_bytes, code) if picture.pts == 0 else None

    monkeypatch.setattr(given_keyframe, "small_keyframe", fitting)
    # A rate, for which GOPs are encoded more than once.
    rate = {"crf": None, "bitrate_kbps": 100.0, "gop_seconds": 4.0}
    chosen = settings(codec, "replace", legacy_keyframe_bytes=600, **rate)
    summary = encode_file(path, tmp_path / "out.mp4", chosen, generator=Oracle(clip))
    about = [note for note in summary.notes if "keyframe" in note]
    assert about == ["no keyframe fits in 600 bytes: 2 of 3 GOPs show grey to players without prompts"]
    shown = play_plainly(tmp_path / "out.mp4")
    assert [np.abs(shown[k][1].astype(int) - 128).max() <= 2 for k in (0, 40, 70)] == [False, True, True]


def test_settings_of_modes_are_checked() -> None:
    for codec, mode, changes, message in (
        ("av1", "enhance", {"legacy_keyframe_bytes": 500}, "mode replace only"),
        ("h265", "replace", {"legacy_keyframe_bytes": 199}, "199 bytes, expected 200 to 1000000"),
        ("h265", "replace", {"legacy_keyframe_bytes": 1_000_001}, "expected 200 to 1000000"),
        ("vp9", "enhance", {}, "codec is 'vp9', expected one of av1, h265, h264"),
        ("av1", "swap", {}, "mode is 'swap', expected one of enhance, replace"),
    ):
        with pytest.raises(ConfigError, match=message):
            settings(codec, mode, **changes)


# ----------------------------------------------------------------------------------------------- odd inputs


@both
@pytest.mark.parametrize("count", [1, 2])
def test_one_and_two_pictures(codec: str, mode: str, count: int, tmp_path: Path) -> None:
    clip = scene(count)
    source = write_source(tmp_path / "in.mkv", clip, codec="ffv1")
    out = tmp_path / "out.mp4"
    summary = encode_file(source, out, settings(codec, mode), generator=Oracle(clip))
    assert (summary.frames, summary.gops, summary.anchors) == (count, 1, 1)
    assert len(play_plainly(out)) == count
    shown = play(out, clip)
    assert [p.is_anchor for p in shown] == [True, False][:count]
    assert distance(shown[0].y, clip[0]) < 2.5


@pytest.mark.parametrize("codec", CODECS)
def test_variable_frame_rates_are_kept(codec: str, tmp_path: Path) -> None:
    steps = [0, 1, 2, 5, 6, 10, 11, 12, 30, 31, 60, 61, 62, 63, 64, 95, 96, 130]
    clip = [replace(p, pts=45 + t) for p, t in zip(scene(len(steps)), steps, strict=True)]
    source = write_source(tmp_path / "in.mkv", clip, codec="ffv1")
    out = tmp_path / "out.mp4"
    summary = encode_file(source, out, settings(codec, "replace", gop_seconds=2.0), generator=Oracle(clip))
    times = [t / 30 for t in steps]
    assert [time for time, _ in play_plainly(out)] == pytest.approx(times, abs=2e-3)
    shown = play(out, clip)
    assert [p.pts_seconds for p in shown] == pytest.approx(times, abs=2e-3)
    assert [i for i, p in enumerate(shown) if p.is_anchor] == [0, 10, 17]
    reader = PacketReader(out, ("av1", "h264", "hevc"))
    packets = list(reader)
    assert all(p.dts <= p.pts for p in packets)
    assert [p.dts for p in packets] == sorted({p.dts for p in packets})
    usual = float(1 / VideoSource(source).average_rate)
    assert summary.duration_seconds == pytest.approx(130 / 30 + usual, abs=0.01)


@both
@pytest.mark.parametrize("size", [(102, 78), (32, 34)])
def test_sizes_that_fill_no_block(codec: str, mode: str, size: tuple[int, int], tmp_path: Path) -> None:
    clip = scene(6, *size)
    source = write_source(tmp_path / "in.mkv", clip, codec="ffv1")
    out = tmp_path / "out.mp4"
    encode_file(source, out, settings(codec, mode), generator=Oracle(clip))
    assert play_plainly(out)[0][1].shape == size[::-1]
    shown = play(out, clip)
    assert shown[0].is_anchor
    assert distance(shown[0].y, clip[0]) < 8


@pytest.mark.parametrize(
    ("codec", "mode", "size"),
    [("h265", "replace", (101, 75)), ("h264", "enhance", (30, 64)), ("av1", "replace", (12, 70))],
)
def test_sizes_that_cannot_be_coded_cost_no_time(
    codec: str, mode: str, size: tuple[int, int], tmp_path: Path, monkeypatch
) -> None:
    source = write_source(tmp_path / "in.mkv", scene(4, *size), codec="ffv1")
    monkeypatch.setattr(VideoSource, "frames", lambda self: pytest.fail("the source was read"))
    chosen = settings(codec, mode, crf=None, bitrate_kbps=100.0)
    with pytest.raises(ConfigError, match=f"{size[0]}x{size[1]}"):
        encode_file(source, tmp_path / "out.mp4", chosen, generator=FakeGenerator())
    assert not (tmp_path / "out.mp4").exists()


def write_x264(path: Path, clip: list[Picture], *, rotation: int = 0) -> Path:
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=Fraction(30), options={"crf": "2", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = clip[0].width, clip[0].height, "yuv420p"
        stream.time_base = TICK
        context, color = stream.codec_context, clip[0].color
        context.colorspace, context.color_primaries = color.matrix, color.primaries
        context.color_trc, context.color_range = color.transfer, 2 if color.full_range else 1
        if rotation:
            stream.set_display_rotation(rotation)
        for picture in clip:
            output.mux(stream.encode(picture.to_frame()))
        output.mux(stream.encode(None))
    return path


@both
def test_colors_and_full_range_are_kept(codec: str, mode: str, tmp_path: Path) -> None:
    color = ColorInfo(1, 1, 1, True)
    clip = [replace(p, color=color) for p in scene(6)]
    source = write_x264(tmp_path / "in.mp4", clip)
    assert VideoSource(source).color == color
    out = tmp_path / "out.mp4"
    encode_file(source, out, settings(codec, mode), generator=Oracle(clip))
    play_plainly(out)
    shown = play(out, clip)
    assert shown[0].color == PacketReader(out, ("av1", "h264", "hevc")).color == color
    assert distance(shown[0].y, clip[0]) < 2.5


@pytest.mark.parametrize("codec", CODECS)
def test_rotated_sources_are_encoded_upright(codec: str, tmp_path: Path) -> None:
    source = write_x264(tmp_path / "in.mp4", scene(6), rotation=90)
    upright = list(VideoSource(source).frames())
    assert (upright[0].width, upright[0].height) == (96, 160)
    out = tmp_path / "out.mp4"
    encode_file(source, out, settings(codec, "replace"), generator=Oracle(upright))
    shown = play(out, upright)
    assert (shown[0].width, shown[0].height) == (96, 160)
    assert distance(shown[0].y, upright[0]) < 2.5
