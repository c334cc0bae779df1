"""Runs with a codec that is a formula: resuming, reuse, order, errors; and one real run of every family."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

pytest.importorskip("torch")

from hybridprompt.encode.method import imported_sources, make_method, normalised_code
from hybridprompt.errors import CodecError, ConfigError, MediaError
from hybridprompt.evaluate import job
from hybridprompt.evaluate.cache import EncodeCache
from hybridprompt.evaluate.methods import MethodName, Reference, parse_method
from hybridprompt.evaluate.rates import Grid, crf_grid
from hybridprompt.evaluate.references import open_reference
from hybridprompt.evaluate.runner import Evaluation, Moment, Outcome
from hybridprompt.evaluate.settings import EvaluateSettings, RateClass, SampleOverride
from hybridprompt.video.peer_encoder import track_bytes
from hybridprompt.video.picture import Picture

TICK = Fraction(1, 30)


def moving(count: int, width: int = 128, height: int = 96, seed: int = 1) -> list[Picture]:
    rng = np.random.default_rng(seed)
    cells = rng.integers(30, 220, (height // 4 + 1, (width + 2 * count) // 4 + 1), np.uint8)
    texture = cells.repeat(4, 0).repeat(4, 1)
    texture = np.clip(texture + rng.integers(-25, 26, texture.shape), 16, 235).astype(np.uint8)
    chroma = np.full(((height + 1) // 2, (width + 1) // 2), 128, np.uint8)
    return [
        Picture(texture[:height, 2 * i : 2 * i + width].copy(), chroma, chroma, i, TICK) for i in range(count)
    ]


def write(path: Path, pictures: list[Picture]) -> Path:
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=30, options={"crf": "4", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = pictures[0].width, pictures[0].height, "yuv420p"
        stream.codec_context.time_base = stream.time_base = TICK
        for picture in pictures:
            output.mux(stream.encode(picture.to_frame()))
        output.mux(stream.encode(None))
    return path


@dataclass
class FakeMethod:
    """Its file is as long as a formula says, and shows the source."""

    name: MethodName
    log: list[tuple[str, float]] = field(default_factory=list)
    fails: type[BaseException] | None = None
    version: int = 1
    suffix: str = ".mp4"
    max_encodes: int = 9
    metrics: frozenset[str] | None = None
    max_frames: int | None = None

    @property
    def grid(self) -> Grid:
        return crf_grid(1, 70, 0.25, slope=-0.06, finest_jump=12)

    def first_index(self, reference: Reference, target_kbps: float) -> int:
        return 150

    def finer(self, index: int) -> None:
        return None

    def encode_settings(self, reference: Reference) -> dict[str, Any]:
        return {"codec": "fake", "version": self.version}

    def result_settings(self) -> dict[str, Any]:
        return {}

    def encode(self, reference: Reference, parameter: float, path: Path) -> None:
        if self.fails is not None:
            raise self.fails("the fake fails")
        self.log.append((reference.name, parameter))
        path.write_bytes(bytes(int(100_000 * np.exp(-0.06 * parameter))))

    def decode(self, reference: Reference, path: Path, frames: frozenset[int]) -> Iterator[Picture]:
        return reference.pictures()

    def speed_program(self, path: Path) -> None:
        return None


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write(folder / "b.mp4", moving(12, seed=2))
    write(folder / "a.mp4", moving(12))
    return folder


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeMethod:
    method = FakeMethod(parse_method("hybridprompt-fast"))
    monkeypatch.setattr(job, "track_bytes", lambda path: path.stat().st_size)
    return method


def settings(folder: Path, output: Path, **changes: Any) -> EvaluateSettings:
    base = EvaluateSettings(
        clips=(folder,),
        rates=(RateClass(0, (100.0, 50.0)),),
        methods=(parse_method("hybridprompt-fast"),),
        metrics=("PSNR-Y", "Flicker"),
        seconds=0.3,
        output=output,
    )
    return replace(base, **changes)


def run(fake: FakeMethod, given: EvaluateSettings, **options: Any) -> Outcome:
    return Evaluation(given, lambda name, s: replace(fake, name=name), **options).run()


def lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]


def test_records_are_complete_and_in_order(clips: Path, tmp_path: Path, fake: FakeMethod) -> None:
    outcome = run(fake, settings(clips, tmp_path))
    assert outcome.complete
    found = lines(tmp_path)
    assert found == json.loads(json.dumps(outcome.records))
    assert [(r["clip"], r["target_kbps"]) for r in found] == [("a", 50), ("a", 100), ("b", 50), ("b", 100)]
    for record in found:
        assert (record["frames"], record["width"], record["height"]) == (9, 128, 96)
        assert record["duration_seconds"] == pytest.approx(0.3, abs=0.002)
        target = record["target_kbps"] * 125 * 0.3
        assert target * 0.975 <= record["bytes"] <= target * 1.005
        assert record["matched"]
        assert record["metrics"] == {"PSNR-Y": 100.0, "Flicker": 0.0}
        assert record["error"] is None
        assert record["settings"]["parameter"] == {"crf": record["parameter"]}
        assert record["decode"] is None
        assert record["encode"]["frames_per_second"] > 0
    assert json.loads((tmp_path / "settings.json").read_text())["settings"]["seconds"] == 0.3


def test_a_second_run_encodes_nothing_and_changes_no_byte(
    clips: Path, tmp_path: Path, fake: FakeMethod
) -> None:
    given = settings(clips, tmp_path)
    first = run(fake, given)
    before, made = (tmp_path / "results.jsonl").read_bytes(), len(fake.log)
    assert first.encodes == made > 0
    again = run(fake, given)
    assert (again.encodes, again.reused, len(fake.log)) == (0, 4, made)
    assert (tmp_path / "results.jsonl").read_bytes() == before


def test_an_interrupted_run_goes_on_where_it_was(clips: Path, tmp_path: Path, fake: FakeMethod) -> None:
    given = settings(clips, tmp_path)

    def interrupt(moment: Moment) -> None:
        if moment.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(fake, given, progress=interrupt)
    assert len(lines(tmp_path)) == 2
    # Killed in the middle of a line.
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"schema": 1, "key": "to')
    done = {name for name, _ in fake.log}
    assert done == {"a"}
    fake.log.clear()
    outcome = run(fake, given)
    assert outcome.reused == 2
    assert {name for name, _ in fake.log} == {"b"}
    assert [(r["clip"], r["target_kbps"]) for r in lines(tmp_path)] == [
        ("a", 50),
        ("a", 100),
        ("b", 50),
        ("b", 100),
    ]


def test_encodes_serve_all_rates_and_other_metrics(clips: Path, tmp_path: Path, fake: FakeMethod) -> None:
    run(fake, settings(clips, tmp_path))
    assert len(fake.log) == len(set(fake.log))
    fake.log.clear()
    outcome = run(fake, settings(clips, tmp_path, metrics=("PSNR-Y",)))
    assert (outcome.reused, outcome.encodes, fake.log) == (0, 0, [])
    assert outcome.records[0]["metrics"] == {"PSNR-Y": 100.0}


def test_other_settings_archive_and_bring_back(clips: Path, tmp_path: Path, fake: FakeMethod) -> None:
    given = settings(clips, tmp_path)
    run(fake, given)
    before = (tmp_path / "results.jsonl").read_bytes()
    run(fake, replace(given, rates=(RateClass(0, (70.0,)),)))
    assert [r["target_kbps"] for r in lines(tmp_path)] == [70, 70]
    assert run(fake, given).reused == 4
    assert (tmp_path / "results.jsonl").read_bytes() == before


def test_a_method_may_have_some_of_the_rates_only(clips: Path, tmp_path: Path, fake: FakeMethod) -> None:
    given = settings(
        clips,
        tmp_path,
        methods=(parse_method("hybridprompt-fast"), parse_method("hybridprompt-slow")),
        method={"hybridprompt-slow": SampleOverride(kbps=(100.0, 70.0))},
    )
    moments: list[Moment] = []
    outcome = Evaluation(given, lambda name, _: replace(fake, name=name), progress=moments.append).run()
    assert outcome.complete
    assert {(r["method"], r["target_kbps"]) for r in outcome.records} == {
        ("hybridprompt-fast", 50.0),
        ("hybridprompt-fast", 100.0),
        ("hybridprompt-slow", 100.0),
    }
    assert {moment.total for moment in moments} == {6}
    # A result is the same whether its method has other rates, too.
    again = Evaluation(replace(given, method={}), lambda name, _: replace(fake, name=name)).run()
    assert again.reused == 6


def test_results_of_other_runs_are_taken_where_they_would_be_the_same(
    clips: Path, tmp_path: Path, fake: FakeMethod
) -> None:
    run(fake, settings(clips, tmp_path / "first"))
    published = tmp_path / "published.jsonl"
    (tmp_path / "first" / "results.jsonl").replace(published)
    text = published.read_bytes()
    fake.log.clear()
    given = settings(clips, tmp_path / "second", known=(published,))
    outcome = run(fake, given)
    assert (outcome.reused, outcome.encodes, fake.log) == (4, 0, [])
    assert (tmp_path / "second" / "results.jsonl").read_bytes() == text
    # One result fewer: the others of the file do not become this run's.
    fewer = replace(given, output=tmp_path / "third", rates=(RateClass(0, (100.0,)),))
    assert run(fake, fewer).reused == 2
    assert len(lines(tmp_path / "third")) == 2
    assert not (tmp_path / "third" / "archive.jsonl").exists()
    assert published.read_bytes() == text
    assert run(replace(fake, version=2), replace(given, output=tmp_path / "fourth")).reused == 0
    with pytest.raises(ConfigError, match=r"known: .*gone\.jsonl is no file"):
        run(fake, replace(given, known=(tmp_path / "gone.jsonl",)))


def test_other_code_makes_other_results(clips: Path, tmp_path: Path, fake: FakeMethod) -> None:
    run(fake, settings(clips, tmp_path))
    outcome = run(replace(fake, version=2), settings(clips, tmp_path))
    assert outcome.reused == 0
    assert outcome.encodes > 0


@pytest.mark.parametrize("kind", [CodecError, MediaError, ZeroDivisionError])
def test_a_failing_method_costs_only_its_own_results(
    clips: Path, tmp_path: Path, fake: FakeMethod, kind: type[Exception]
) -> None:
    given = settings(
        clips, tmp_path, methods=(parse_method("hybridprompt-fast"), parse_method("hybridprompt-slow"))
    )

    def factory(name: MethodName, _: EvaluateSettings) -> FakeMethod:
        return replace(fake, name=name, fails=kind if name.variant == "fast" else None)

    outcome = Evaluation(given, factory).run()
    assert not outcome.complete
    assert {r["method"] for r in outcome.errors} == {"hybridprompt-fast"}
    assert all("the fake fails" in r["error"] and "\n" not in r["error"] for r in outcome.errors)
    assert len(outcome.records) == 8
    # Errors are tried again.
    assert run(fake, given).complete


def test_unreadable_clips_are_named(clips: Path, tmp_path: Path, fake: FakeMethod) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    gone = tmp_path / "gone.mp4"
    given = settings(clips, tmp_path / "out", clips=(broken, gone, clips / "a.mp4"))
    outcome = run(fake, given)
    assert [r["clip"] for r in outcome.errors] == ["broken"] * 2 + ["gone"] * 2
    assert all(r["error"].startswith("unreadable clip: ") for r in outcome.errors)
    assert [r["clip"] for r in outcome.records if r["error"] is None] == ["a", "a"]
    before = (tmp_path / "out" / "results.jsonl").read_bytes()
    assert run(fake, given).encodes == 0
    assert (tmp_path / "out" / "results.jsonl").read_bytes() == before


def test_an_impossible_rate_is_named(clips: Path, tmp_path: Path, fake: FakeMethod) -> None:
    outcome = run(fake, settings(clips, tmp_path, rates=(RateClass(0, (5.0, 100.0)),)))
    assert [(r["target_kbps"], "out of reach" in r["error"]) for r in outcome.errors] == [(5, True)] * 2
    assert len(outcome.records) == 4


def test_a_missing_metric_is_in_record_and_outcome(
    clips: Path, tmp_path: Path, fake: FakeMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings(clips, tmp_path, metrics=("PSNR-Y", "VMAF"))
    with monkeypatch.context() as patched:
        patched.setattr("hybridprompt.evaluate.metrics.find_vmaf", lambda: (None, "not there"))
        outcome = run(fake, given)
    assert not outcome.complete
    assert outcome.missing == {"VMAF": "not there"}
    assert outcome.records[0]["metrics"] == {"PSNR-Y": 100.0}


def test_two_runs_in_one_folder_are_refused(clips: Path, tmp_path: Path, fake: FakeMethod) -> None:
    def second(moment: Moment) -> None:
        with pytest.raises(ConfigError, match="another evaluation"):
            run(fake, settings(clips, tmp_path))

    run(fake, settings(clips, tmp_path), progress=second)


def test_layout_and_texts_of_code_do_not_matter() -> None:
    one = 'def f(x):\n    """Text."""\n    # Why.\n    return x + 1\n'
    assert normalised_code(one) == normalised_code("def f(x): return (x+1)")
    assert normalised_code(one) != normalised_code("def f(x): return x + 2")


def test_the_code_that_counts_is_what_is_imported() -> None:
    found = imported_sources(("hybridprompt.encode.pipeline",))
    # At the top; inside a function; by others; a module taken from its package.
    for name in ("encode.gate", "encode.judge", "evaluate.perceptual", "bitstream.bits"):
        assert f"hybridprompt.{name}" in found
    assert not [name for name in found if name.startswith(("hybridprompt.cli", "hybridprompt.train"))]
    assert imported_sources(("hybridprompt.errors", "os.path", "hybridprompt.no_such")).keys() == {
        "hybridprompt.errors"
    }


def test_a_share_of_a_clip_is_cut_off(clips: Path, tmp_path: Path) -> None:
    encodes = EncodeCache(tmp_path, 10**9)
    whole = open_reference(clips / "a.mp4", 0, encodes)
    half = open_reference(clips / "a.mp4", 0, encodes, start_share=0.5)
    piece = open_reference(clips / "a.mp4", 0.1, encodes, start_share=0.5)
    assert [r.frames for r in (whole, half, piece)] == [12, 6, 3]
    assert len({r.digest for r in (whole, half, piece)}) == 3
    last = list(whole.pictures())[6:]
    for one, other in zip(half.pictures(), last, strict=True):
        assert np.array_equal(one.y, other.y)
    assert half.duration_seconds == pytest.approx(0.2, abs=0.002)


# ------------------------------------------------------------------------------------------- real codecs


@pytest.mark.parametrize(
    "method", ["svt-av1", "svt-av1-tune0@1/2", "svt-av1-variance-boost", "x265", "x264", "vp9", "x264@2/3"]
)
def test_every_peer_works(clips: Path, tmp_path: Path, method: str) -> None:
    target = 80.0 if "@" in method else 300.0  # a small picture has no more bytes to take
    given = settings(
        clips,
        tmp_path,
        clips=(clips / "a.mp4",),
        methods=(parse_method(method),),
        rates=(RateClass(0, (target,)),),
        svt_preset=10,
        x264_preset="veryfast",
        x265_preset="ultrafast",
        vp9_cpu_used=5,
    )
    evaluation = Evaluation(given, make_method)
    (record,) = evaluation.run().records
    assert record["error"] is None
    assert record["bytes"] <= target * 125 * record["duration_seconds"]
    assert record["actual_kbps"] > target * (0.98 if record["matched"] else 0.9)
    assert record["metrics"]["PSNR-Y"] > 15
    stored = evaluation.stored_pictures()
    shown, source = stored.decoded(record, [0, 8]), stored.source(record, [0, 8])
    assert set(shown) == set(source) == {0, 8}
    error = np.mean((shown[8].y.astype(float) - source[8].y) ** 2)
    assert 10 * np.log10(255**2 / error) > 15
    path = tmp_path / "cache" / f"{record['settings']['encode_key']}.mp4"
    assert track_bytes(path) == record["bytes"] < path.stat().st_size


@pytest.mark.slow
def test_our_methods_work(clips: Path, tmp_path: Path) -> None:
    given = settings(
        clips,
        tmp_path,
        clips=(clips / "a.mp4",),
        methods=(parse_method("hybridprompt-fast"), parse_method("frame-by-frame")),
        metrics=("PSNR-Y", "VMAF"),
        rates=(RateClass(0, (400.0,)),),
        svt_preset=10,
        speed=True,
        speed_repeats=1,
        frame_by_frame_frames=2,
    )
    ours, frame_by_frame = Evaluation(given, make_method).run().records
    assert (ours["error"], frame_by_frame["error"]) == (None, None)
    assert ours["bytes"] <= 400 * 125 * ours["duration_seconds"]
    assert 0 < ours["decode"]["ratio_to_plain"] < 1.5
    # A process that inherited the peak of this one, which has torch, would show far more.
    assert 20 < ours["decode"]["peak_megabytes"] < 450
    assert frame_by_frame["decode"]["extrapolated_from_frames"] == 2
    assert len(frame_by_frame["per_frame"]["PSNR-Y"]) == 2
    assert set(frame_by_frame["metrics"]) == {"PSNR-Y"}
    assert frame_by_frame["missing"] == {}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hybridprompt-slow", ("slow", "enhance", "av1", "gop")),
        ("hybridprompt-fast-replace-h265", ("fast", "replace", "h265", "gop")),
        ("hybridprompt-medium-keyframe", ("medium", "enhance", "av1", "keyframe")),
        ("hybridprompt-medium-blind", ("medium", "enhance", "av1", "blind")),
        ("hybridprompt-medium-none", ("medium", "enhance", "av1", "none")),
    ],
)
def test_names_say_how_we_encode(name: str, expected: tuple[str, ...]) -> None:
    method = make_method(parse_method(name), EvaluateSettings())
    settings = method._settings(100.0)
    assert (settings.preset, settings.mode, settings.codec, settings.prompts) == expected
