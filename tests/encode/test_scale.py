"""Fewer samples than the source has: when, and what a file of them is."""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
from encode_media import LumaJudge, scene, write_source

from hybridprompt.decode.video_file import VideoFile
from hybridprompt.encode import pipeline, scale, video_encoder
from hybridprompt.encode.base import BaseGop
from hybridprompt.encode.method import HybridPromptMethod
from hybridprompt.encode.pipeline import encode_file
from hybridprompt.encode.rate_control import GopAnalysis, relative_log_bytes
from hybridprompt.encode.scale import best_scale
from hybridprompt.encode.settings import PRESETS, EncodeSettings
from hybridprompt.encode.targets import RateTarget
from hybridprompt.encode.video_encoder import VideoEncoder
from hybridprompt.errors import ConfigError
from hybridprompt.evaluate.methods import parse_method
from hybridprompt.generator.fake import FakeGenerator
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.picture import Picture
from hybridprompt.video.scaling import scaled_size
from hybridprompt.video.source import VideoSource

THIRDS, HALF = Fraction(2, 3), Fraction(1, 2)


class FakeBase:
    """Bytes by a curve over CRF and by area; distances by scale, where the bytes are those of full size."""

    settings = EncodeSettings(bitrate_kbps=100, preset="medium")

    def __init__(self, distances: dict[Fraction, float], steepness: float = 1.0) -> None:
        self.distances = distances
        self.steepness = steepness
        self.encodes: list[tuple[int, int]] = []

    def encode(self, pictures: list[Picture], crf: float, variant: float) -> BaseGop:
        area = pictures[0].width * pictures[0].height
        size_bytes = round(area * math.exp(self.steepness * relative_log_bytes(crf)))
        self.encodes.append((pictures[0].width, size_bytes))
        return BaseGop(pictures, [CodedPacket(bytes(size_bytes), 0, 0, 1, is_keyframe=True)], crf, variant)

    def gop(self, base: BaseGop) -> BaseGop:
        return base

    def judge(self) -> LumaJudge:
        return LumaJudge()

    def distance(self, base: BaseGop) -> float:
        return self.distances[Fraction(1)]


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Fraction, FakeBase]]:
    def run(*gops: dict[Fraction, float], size: tuple[int, int] = (480, 288)) -> tuple[Fraction, FakeBase]:
        base = FakeBase({})

        def distance(
            gop: BaseGop, judge: object, frames: list[int], sources: Callable[[int], Picture]
        ) -> float:
            assert (sources(0).width, sources(0).height) == size
            return base.distances[Fraction(gop.pictures[0].width, size[0])]

        monkeypatch.setattr(scale, "base_distance", distance)

        def pictures() -> Iterator[tuple[list[Picture], float]]:
            for distances in gops:
                base.distances = distances
                yield scene(3, *size), 66.0

        return best_scale(base, pictures()), base  # type: ignore[arg-type]

    return run


def test_a_smaller_picture_must_be_clearly_nearer(tried: Callable[..., tuple[Fraction, FakeBase]]) -> None:
    chosen, base = tried({Fraction(1): 0.2, THIRDS: 0.17, HALF: 0.18})
    assert chosen == THIRDS
    full = base.encodes[0][1]
    last = {width: size_bytes for width, size_bytes in base.encodes}
    # The last encode of each has the bytes of full size, whatever the first had.
    assert set(last) == {480, 320, 240}
    assert all(abs(math.log(size_bytes / full)) < 0.05 for size_bytes in last.values())
    assert tried({Fraction(1): 0.2, THIRDS: 0.19, HALF: 0.189})[0] == 1
    assert tried({Fraction(1): 0.2, THIRDS: 0.18, HALF: 0.16})[0] == HALF
    # Prompts lose with every step.
    assert tried({Fraction(1): 0.2, THIRDS: 0.18, HALF: 0.175})[0] == THIRDS
    assert tried({Fraction(1): 0.2, THIRDS: 0.19, HALF: 0.15})[0] == HALF


def test_half_is_not_tried_where_two_thirds_are_worse(
    tried: Callable[..., tuple[Fraction, FakeBase]],
) -> None:
    chosen, base = tried({Fraction(1): 0.2, THIRDS: 0.21, HALF: 0.01})
    assert chosen == 1
    assert {width for width, _ in base.encodes} == {480, 320}


def test_several_gops_decide_together(tried: Callable[..., tuple[Fraction, FakeBase]]) -> None:
    good, bad = {Fraction(1): 0.2, THIRDS: 0.15, HALF: 0.2}, {Fraction(1): 0.2, THIRDS: 0.22, HALF: 0.2}
    assert tried(good, good, bad)[0] == THIRDS
    assert tried(good, bad, bad)[0] == 1
    assert tried()[0] == 1


def test_small_sources_stay_as_they_are(tried: Callable[..., tuple[Fraction, FakeBase]]) -> None:
    chosen, base = tried({Fraction(1): 0.2, THIRDS: 0.01, HALF: 0.01}, size=(360, 240))
    assert chosen == 1
    assert base.encodes == []


def test_sizes_are_even() -> None:
    assert scaled_size(1280, 720, THIRDS) == (854, 480)
    assert scaled_size(1920, 1080, HALF) == (960, 540)
    assert scaled_size(3, 2, Fraction(1, 8)) == (2, 2)


class FakeLpips(LumaJudge):
    pass


@pytest.fixture
def luma_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "make_judge", lambda number: LumaJudge())


@pytest.mark.usefixtures("luma_judge")
def test_a_file_of_a_given_scale(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source.mp4", scene(12, 200, 120))
    out = tmp_path / "small.mp4"
    chosen = EncodeSettings(crf=40.0, preset="fast", scale=THIRDS)
    encode_file(source, out, chosen, generator=FakeGenerator())
    with VideoFile(out, generators=[FakeGenerator()]) as video:
        shown = [frame.picture for frame in video]
    assert {(picture.width, picture.height) for picture in shown} == {(134, 80)}
    assert len(shown) == 12
    coded = VideoSource(out)
    # Players show it in the shape of the source.
    assert coded.sample_aspect_ratio * coded.width / coded.height == Fraction(200, 120)


@pytest.mark.usefixtures("luma_judge")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (120, 72)),
        ({"scale": Fraction(1)}, (240, 144)),
        ({"preset": "fast"}, (240, 144)),
        ({"bitrate_kbps": None, "crf": 64.0}, (240, 144)),
        ({"mode": "replace"}, (240, 144)),
        ({"codec": "h265"}, (240, 144)),
    ],
)
def test_the_scale_is_chosen_where_it_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], expected: tuple[int, int]
) -> None:
    """Whether a choice is made, and that it is kept to; what it is, is made up."""
    for name in PRESETS:
        quick = PRESETS["fast"].__dict__ | {"tries_scales": PRESETS[name].tries_scales}
        monkeypatch.setitem(PRESETS, name, type(PRESETS[name])(**quick))
    asked: list[int] = []

    def choose(encoder: object, gops: Iterator[tuple[list[Picture], float]]) -> Fraction:
        asked.extend(len(pictures) for pictures, _ in gops)
        return HALF

    monkeypatch.setattr(video_encoder, "best_scale", choose)
    monkeypatch.setattr(video_encoder, "LEAST_CRF", 1.0)
    monkeypatch.setattr(video_encoder, "LpipsJudge", LumaJudge)
    source = write_source(tmp_path / "source.mp4", scene(40, 240, 144))
    options = {"bitrate_kbps": 60.0, "preset": "medium", "gop_seconds": 0.5, **changes}
    summary = encode_file(
        source,
        tmp_path / "out.mp4",
        EncodeSettings(**options),  # type: ignore[arg-type]
        generator=FakeGenerator(),
    )
    coded = VideoSource(tmp_path / "out.mp4")
    assert (coded.width, coded.height) == expected
    assert any("coded at 120x72" in note for note in summary.notes) == (expected == (120, 72))
    # GOPs of 15, 15 and 10 pictures: all three of them here, as there are no more.
    assert asked == ([15, 15, 10] if expected == (120, 72) else [])
    assert coded.sample_aspect_ratio == 1


@pytest.mark.parametrize(("crf", "judge"), [(65.9, FakeLpips), (70.0, LumaJudge)])
def test_nothing_is_tried_where_the_rate_affords_a_finer_quantiser_or_without_lpips(
    crf: float, judge: type
) -> None:
    def never(encoder: object, gops: Iterator[tuple[list[Picture], float]]) -> Fraction:
        assert list(gops) == []
        return Fraction(1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video_encoder, "best_scale", never)
        patch.setattr(video_encoder, "LpipsJudge", FakeLpips)
        encoder = SimpleNamespace(starts=[0], gops=lambda: iter([scene(3)]), base=None, judge=judge())
        target = SimpleNamespace(crf_for=lambda gop, pictures: crf)
        assert VideoEncoder.best_scale(encoder, target) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [Fraction(1, 9), Fraction(0), Fraction(-1), Fraction(9, 8)])
def test_scales_are_checked(given: Fraction) -> None:
    with pytest.raises(ConfigError, match="from 1/8 to 1"):
        EncodeSettings(crf=50.0, scale=given)


@pytest.mark.usefixtures("luma_judge")
def test_the_evaluation_shows_small_pictures_at_full_size(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source.mp4", scene(4, 200, 120))
    encode_file(
        source,
        tmp_path / "small.mp4",
        EncodeSettings(crf=40.0, preset="fast", scale=HALF),
        generator=FakeGenerator(),
    )
    method = HybridPromptMethod(parse_method("hybridprompt-medium"), "medium", 4.0)
    reference = SimpleNamespace(width=200, height=120, color=VideoSource(source).color)
    shown = list(method.decode(reference, tmp_path / "small.mp4", frozenset()))  # type: ignore[arg-type]
    assert [(picture.width, picture.height) for picture in shown] == [(200, 120)] * 4


def test_the_first_gop_is_probed_once() -> None:
    asked: list[float] = []
    encoder = SimpleNamespace(
        settings=EncodeSettings(bitrate_kbps=100.0),
        analysis_bytes=lambda pictures, crf, threads: asked.append(crf) or 20_000,
    )
    target = RateTarget(encoder, 100.0, [GopAnalysis(40_000, 9_000, 4.0)], 100.0)  # type: ignore[arg-type]
    first = target.crf_for(0, scene(2))
    assert target.crf_for(0, scene(2)) == first
    assert len(asked) == 1
