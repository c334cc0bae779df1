"""Runs an evaluation: every clip by every method at every rate, resumable at any moment.

Note [Keys]: an encode is found by a digest of the reference, the method's settings, its parameter and the
codecs' versions; a result by a digest of all that and of the target, the samples and the metrics.  So nothing
is computed twice, and nothing stale is ever taken for fresh.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hybridprompt import __version__
from hybridprompt.errors import ConfigError, HybridPromptError
from hybridprompt.evaluate.cache import EncodeCache, write_text_atomically
from hybridprompt.evaluate.frame_by_frame import FrameByFrameMethod
from hybridprompt.evaluate.job import Job, Stage, Tools, failed, metric_versions
from hybridprompt.evaluate.methods import Method, MethodName, Reference
from hybridprompt.evaluate.metrics import MetricSet
from hybridprompt.evaluate.peers import make_peer
from hybridprompt.evaluate.records import SCHEMA, Record, ResultStore
from hybridprompt.evaluate.references import open_reference
from hybridprompt.evaluate.settings import EvaluateSettings, find_clips
from hybridprompt.evaluate.stored import StoredPictures
from hybridprompt.video.files import reason

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
    stage: Stage
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
            store = ResultStore(folder, settings.known)
            cache = self.open_cache()
            metrics = MetricSet(
                settings.metrics, threads=settings.threads, precision=settings.heavy_precision
            )
            work = _Work(self, store, cache, metrics)
            records = work.all(clips)
            store.finish(records)
        return Outcome(folder, records, work.tools.encodes_made, self.reused)

    def open_cache(self) -> EncodeCache:
        """The folder of the encodes.  Raises ConfigError."""
        folder = self.cache_folder or self.settings.output / "cache"
        return EncodeCache(folder, round(self.settings.cache_gigabytes * _GIGABYTE))

    def stored_pictures(self) -> StoredPictures:
        """Pictures of the results, for the report.  Raises ConfigError."""
        return StoredPictures(self.settings, self.open_cache(), self.make_method)

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


class _Work:
    """What a run has open."""

    def __init__(
        self, evaluation: Evaluation, store: ResultStore, encodes: EncodeCache, metrics: MetricSet
    ) -> None:
        self.evaluation, self.settings = evaluation, evaluation.settings
        self.store, self.cache, self.metrics = store, encodes, metrics
        self.tools = Tools(self.settings, encodes, metrics, self._tell)
        self.done = self.total = 0

    def all(self, clips: tuple[Path, ...]) -> list[Record]:
        heights = [rate_class.min_height for rate_class in self.settings.rates]
        self.total = len(clips) * max(
            sum(len(self.settings.rates_of(name, height)) for name in self.settings.methods)
            for height in heights
        )
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
            unknown = [(name, rate) for name in names for rate in self.settings.rates_of(name, 0)]
            self.done += len(unknown)
            return [
                self._kept(failed(clip.stem, name, rate, f"unreadable clip: {error}"))
                for name, rate in unknown
            ]
        out = []
        for name in names:
            for rate in self.settings.rates_of(name, reference.height):
                out.append(self._result(reference, name, rate))
                self.done += 1
        return out

    def _result(self, reference: Reference, name: MethodName, rate: float) -> Record:
        try:
            method = self.evaluation.make_method(name)
            job = Job(self.tools, reference, method, rate)
            found = self.store.find(job.key)
            if found is not None and not self._can_complete(found):
                self.evaluation.reused += 1
                return found
            self.evaluation._pace.start(str(name))
            record = job.run()
            self.evaluation._pace.end(str(name))
        except (HybridPromptError, OSError) as error:
            record = failed(reference.name, name, rate, str(error), reference)
        except Exception as error:
            # One method's trouble must not cost the results of the others.
            _log.debug("%s at %g kbit/s", name, rate, exc_info=True)
            record = failed(
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

    def _tell(self, job: Job, stage: Stage) -> None:
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
