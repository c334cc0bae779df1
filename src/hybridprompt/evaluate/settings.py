"""Settings of an evaluation: defaults, then a TOML file, then flags, in one checked object."""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from hybridprompt.errors import ConfigError
from hybridprompt.evaluate.methods import MethodName, parse_method, parse_scale, with_scales

METRIC_NAMES = (
    "LPIPS-Alex",
    "LPIPS-VGG",
    "DISTS",
    "PSNR-Y",
    "MS-SSIM",
    "VMAF",
    "VMAF-NEG",
    "Flicker",
)
Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".y4m", ".avi", ".ts", ".ivf", ".obu"})
X26X_PRESETS = (
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
    "placebo",
)


@dataclass(frozen=True)
class RateClass:
    """The rates of all clips with at least ``min_height`` lines that no higher class takes."""

    min_height: int
    kbps: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.min_height < 0:
            raise ConfigError(f"min_height is {self.min_height}, expected 0 or more")
        if not self.kbps:
            raise ConfigError("kbps is empty, expected one rate or more")
        for rate in self.kbps:
            if not 5 <= rate <= 50_000:
                raise ConfigError(f"kbps has {rate:g}, expected rates from 5 to 50000")
        if len(set(self.kbps)) != len(self.kbps):
            raise ConfigError(f"kbps has a rate twice: {', '.join(f'{r:g}' for r in self.kbps)}")


@dataclass(frozen=True)
class SampleOverride:
    """What of one method differs from all: the frames that are measured, the rates that it is tried at."""

    light_frames: int | None = None
    heavy_frames: int | None = None
    kbps: tuple[float, ...] | None = None


DEFAULT_RATES = (RateClass(900, (100.0, 200.0, 400.0)), RateClass(0, (60.0, 120.0, 240.0)))


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """What to compare, and how; everything that is needed to repeat it.  Raises ConfigError.

    clips: video files, or folders of them.  scales: of every peer that is named at full size.  start_share:
    where in each clip to begin, as a share of its duration (0.5: its second half).  seconds: of each clip,
    from there on; 0 for the rest of it.  gop_seconds: longest GOP, of all methods.  threads: of every
    encoder.  light_frames, heavy_frames: sampled frames of the cheap and of the costly metrics.
    heavy_precision: of the networks of the costly metrics.  vmaf_step: VMAF scores every how many-th frame.
    seed: 0 spreads the samples evenly, others draw one in each equal part.  speed: measure decoding of
    full-size methods, medians of speed_repeats.  frame_by_frame_frames: how many frames that method
    generates.  known: ``results.jsonl`` of other runs; what would come out the same is taken from them.
    method: samples and rates of single methods, by name.
    """

    clips: tuple[Path, ...] = ()
    rates: tuple[RateClass, ...] = DEFAULT_RATES
    methods: tuple[MethodName, ...] = field(
        default_factory=lambda: tuple(map(parse_method, ("hybridprompt-fast", "svt-av1", "x265")))
    )
    scales: tuple[str, ...] = ("1",)
    metrics: tuple[str, ...] = METRIC_NAMES
    start_share: float = 0.0
    seconds: float = 4.0
    gop_seconds: float = 4.0
    threads: int = 2
    svt_preset: int = 5
    x265_preset: str = "slow"
    x264_preset: str = "slow"
    vp9_cpu_used: int = 2
    light_frames: int = 10
    heavy_frames: int = 2
    heavy_precision: Precision = "float32"
    vmaf_step: int = 5
    seed: int = 0
    speed: bool = False
    speed_repeats: int = 3
    frame_by_frame_frames: int = 8
    generator: Path | None = None
    cache_gigabytes: float = 8.0
    output: Path = Path("out/evaluate")
    known: tuple[Path, ...] = ()
    method: Mapping[str, SampleOverride] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{name} is {value:g}, expected {low:g} to {high:g}")
        for name in ("x265_preset", "x264_preset"):
            if getattr(self, name) not in X26X_PRESETS:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}, expected one of {', '.join(X26X_PRESETS)}"
                )
        if self.seconds != 0 and not 0.1 <= self.seconds <= 36_000:
            raise ConfigError(f"seconds is {self.seconds:g}, expected 0 (all) or 0.1 to 36000")
        if not 0 <= self.start_share < 1:
            raise ConfigError(f"start_share is {self.start_share:g}, expected 0 or more and less than 1")
        if self.heavy_precision not in PRECISIONS:
            raise ConfigError(
                f"heavy_precision is {self.heavy_precision!r}, expected one of {', '.join(PRECISIONS)}"
            )
        for name in ("methods", "metrics", "scales", "rates"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty, expected one or more")
        for metric in self.metrics:
            if metric not in METRIC_NAMES:
                raise ConfigError(f"metrics has {metric!r}, expected some of {', '.join(METRIC_NAMES)}")
        _check_rates(self.rates)
        _check_overrides(self.method)
        scales = tuple(map(parse_scale, self.scales))
        object.__setattr__(self, "methods", with_scales(self.methods, scales))

    def rates_for(self, height: int) -> tuple[float, ...]:
        """Rates in kbit/s, rising, of a clip of that many lines."""
        fitting = [rate_class for rate_class in self.rates if rate_class.min_height <= height]
        return tuple(sorted(max(fitting, key=lambda c: c.min_height).kbps))

    def rates_of(self, method: MethodName, height: int) -> tuple[float, ...]:
        """Those of ``rates_for`` that a method is tried at."""
        only = self._override(method).kbps
        return tuple(rate for rate in self.rates_for(height) if only is None or rate in only)

    def _override(self, method: MethodName) -> SampleOverride:
        return self.method.get(str(method)) or self.method.get(method.base) or SampleOverride()

    def samples_for(self, method: MethodName) -> tuple[int, int]:
        """How many light and heavy frames are measured of a method."""
        override = self._override(method)
        light, heavy = override.light_frames, override.heavy_frames
        return (
            self.light_frames if light is None else light,
            self.heavy_frames if heavy is None else heavy,
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        plain = {**asdict(self), "methods": [str(method) for method in self.methods]}
        return {
            key: str(value)
            if isinstance(value, Path)
            else [str(v) for v in value]
            if key in ("clips", "known")
            else value
            for key, value in plain.items()
        }


def _check_rates(rates: tuple[RateClass, ...]) -> None:
    heights = [rate_class.min_height for rate_class in rates]
    if len(set(heights)) != len(heights):
        raise ConfigError("rates has a min_height twice")
    if 0 not in heights:
        raise ConfigError("rates has no entry with min_height = 0, for clips of few lines")


def _check_overrides(overrides: Mapping[str, SampleOverride]) -> None:
    for name, override in overrides.items():
        try:
            parse_method(name)
        except ConfigError as error:
            raise ConfigError(f"method.{name}: {error}") from error
        for key in ("light_frames", "heavy_frames"):
            value = getattr(override, key)
            if value is not None and not 0 <= value <= 10_000:
                raise ConfigError(f"method.{name}.{key} is {value}, expected 0 to 10000")
        if override.kbps is not None and not override.kbps:
            raise ConfigError(f"method.{name}.kbps is empty, expected one rate or more")


_RANGES = (
    ("gop_seconds", 0.5, 20),
    ("threads", 1, 6),
    ("svt_preset", -1, 13),
    ("vp9_cpu_used", 0, 8),
    ("light_frames", 1, 10_000),
    ("heavy_frames", 0, 10_000),
    ("vmaf_step", 1, 1000),
    ("seed", 0, 2**32 - 1),
    ("speed_repeats", 1, 101),
    ("frame_by_frame_frames", 1, 1000),
    ("cache_gigabytes", 0, 100_000),
)


# ---------------------------------------------------------------------------------------------- from TOML


def load_settings(path: Path | None, flags: Mapping[str, Any]) -> EvaluateSettings:
    """Defaults, overridden by a TOML file, overridden by ``flags`` (fields; None is left out).

    Paths are relative to the current folder; ``$NAME`` and ``~`` in them are expanded.  Raises ConfigError,
    which names the file and the key.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror or error}") from error
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path}: {error}") from error
        if unknown := sorted(set(table) - set(_READERS)):
            raise ConfigError(
                f"{path}: unknown settings {', '.join(unknown)}; known: {', '.join(sorted(_READERS))}"
            )
        for key, value in table.items():
            if flags.get(key) is not None:
                continue
            try:
                values[key] = _READERS[key](value)
            except ConfigError as error:
                text = str(error)
                raise ConfigError(
                    f"{path}: {text}" if text.startswith(key) else f"{path}: {key}: {text}"
                ) from error
    where = "" if path is None else f"{path}: "
    try:
        EvaluateSettings(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from error
    given = {key: value for key, value in flags.items() if value is not None}
    return EvaluateSettings(**{**values, **given})


def parse_paths(texts: list[str], key: str) -> tuple[Path, ...]:
    """Expand ``~`` and ``$NAME`` in paths.  Raises ConfigError for a variable that is not set."""
    out = []
    for text in texts:
        expanded = os.path.expandvars(text)
        if left := re.search(r"\$(\w+|\{\w*\})", expanded):
            raise ConfigError(f"{key} is {text!r}, but the variable {left[1].strip('{}')} is not set")
        out.append(Path(expanded).expanduser())
    return tuple(out)


def find_clips(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """The files, and the videos in the folders, sorted by name within each.

    Raises ConfigError when there is none, or when two have the same name, which records go by.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file())
        if not inside:
            raise ConfigError(f"clips: no video in the folder {path}")
        found += inside
    found = list(dict.fromkeys(found))
    if not found:
        raise ConfigError("clips is empty, expected video files or a folder of them")
    names: dict[str, Path] = {}
    for path in found:
        other = names.setdefault(path.stem, path)
        if other != path:
            raise ConfigError(f"clips: {other} and {path} have the same name; rename one of them")
    return tuple(found)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"is {value!r}, expected a number")
    return float(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"is {value!r}, expected a whole number")
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"is {value!r}, expected true or false")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"is {value!r}, expected a text in quotes")
    return value


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise ConfigError(f"is {value!r}, expected a list of texts")
    return [_text(item) for item in value]


def _one_path(key: str) -> Callable[[Any], Path]:
    return lambda value: parse_paths([_text(value)], key)[0]


def _rate_classes(value: Any) -> tuple[RateClass, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"is {value!r}, expected a list of rates, or tables [[rates]]")
    if all(not isinstance(item, dict) for item in value):
        return (RateClass(0, tuple(map(_number, value))),)
    out = []
    for number, item in enumerate(value, 1):
        if not isinstance(item, dict) or set(item) != {"min_height", "kbps"}:
            raise ConfigError(f"entry {number} is {item!r}, expected min_height and kbps")
        kbps = item["kbps"] if isinstance(item["kbps"], list) else [item["kbps"]]
        try:
            out.append(RateClass(_whole(item["min_height"]), tuple(map(_number, kbps))))
        except ConfigError as error:
            raise ConfigError(f"entry {number}: {error}") from error
    return tuple(out)


def _overrides(value: Any) -> dict[str, SampleOverride]:
    if not isinstance(value, dict):
        raise ConfigError(f"is {value!r}, expected tables [method.NAME]")
    names = {f.name for f in fields(SampleOverride)}
    out = {}
    for name, table in value.items():
        if not isinstance(table, dict) or not set(table) <= names:
            raise ConfigError(f"{name} is {table!r}, expected a table with {', '.join(sorted(names))}")
        values: dict[str, Any] = {key: _whole(value) for key, value in table.items() if key != "kbps"}
        if "kbps" in table:
            if not isinstance(table["kbps"], list):
                raise ConfigError(f"{name}.kbps is {table['kbps']!r}, expected a list of rates")
            values["kbps"] = tuple(map(_number, table["kbps"]))
        out[name] = SampleOverride(**values)
    return out


_READERS: dict[str, Callable[[Any], Any]] = {
    "clips": lambda value: parse_paths(_texts([value] if isinstance(value, str) else value), "clips"),
    "known": lambda value: parse_paths(_texts([value] if isinstance(value, str) else value), "known"),
    "rates": _rate_classes,
    "methods": lambda value: tuple(map(parse_method, _texts(value))),
    "scales": lambda value: tuple(_texts(value)),
    "metrics": lambda value: tuple(_texts(value)),
    "start_share": _number,
    "seconds": _number,
    "gop_seconds": _number,
    "threads": _whole,
    "svt_preset": _whole,
    "x265_preset": _text,
    "x264_preset": _text,
    "vp9_cpu_used": _whole,
    "light_frames": _whole,
    "heavy_frames": _whole,
    "heavy_precision": _text,
    "vmaf_step": _whole,
    "seed": _whole,
    "speed": _truth,
    "speed_repeats": _whole,
    "frame_by_frame_frames": _whole,
    "generator": _one_path("generator"),
    "cache_gigabytes": _number,
    "output": _one_path("output"),
    "method": _overrides,
}
