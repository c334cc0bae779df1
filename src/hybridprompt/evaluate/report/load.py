"""Reads what a run has written: `results.jsonl`, one record a line, and `settings.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hybridprompt.errors import ConfigError
from hybridprompt.evaluate.rates import TOLERANCE

SCHEMA = 1
RESULTS = "results.jsonl"
SETTINGS = "settings.json"

OURS = "hybridprompt"
PEER = "svt-av1"

RATE_TOLERANCE = TOLERANCE
"""How far, as a share, an actual rate may be from its target to count as matched."""

_ROUNDING = 0.0005


@dataclass(frozen=True)
class EncodeSpeed:
    """Of the final encode alone.  encodes: how many it took to match the rate."""

    seconds: float | None
    frames_per_second: float | None
    encodes: int | None


@dataclass(frozen=True)
class DecodeSpeed:
    """ratio_to_plain: of the frames per second to those of the plain decoder.

    extrapolated_from_frames: how many frames were decoded, where that was not the whole clip.
    """

    frames_per_second: float | None
    first_picture_seconds: float | None
    peak_megabytes: float | None
    ratio_to_plain: float | None
    extrapolated_from_frames: float | None = None


@dataclass(frozen=True)
class Record:
    """One clip, coded by one method for one target rate.

    metrics: means over the measured frames; per_frame: (frame index in display order, value).  missing: why
    a metric is not there.  raw: the line as it was read.  Where ``error`` says why there is no result,
    actual_kbps, size_bytes and parameter are None.
    """

    key: str
    clip: str
    width: int
    height: int
    frames: int
    frame_rate: float
    duration_seconds: float
    method: str
    family: str
    variant: str
    scale: str
    target_kbps: float
    actual_kbps: float | None
    size_bytes: int | None
    parameter: float | None
    error: str | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    per_frame: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    encode: EncodeSpeed | None = None
    decode: DecodeSpeed | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    matched_by_run: bool | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def rate_kbps(self) -> float:
        """The rate that was reached; only of records without error."""
        assert self.actual_kbps is not None
        return self.actual_kbps

    @property
    def rate_error(self) -> float:
        """By what share the rate is off its target; negative where it is lower."""
        return self.rate_kbps / self.target_kbps - 1

    @property
    def matched(self) -> bool:
        """Whether the rate is the one that was asked for; the run's own word counts, where it gave one."""
        if self.matched_by_run is not None:
            return self.matched_by_run
        return abs(self.rate_error) <= RATE_TOLERANCE + _ROUNDING


@dataclass(frozen=True)
class Run:
    """All that a run has found so far.  replaced: older lines for the same clip, method and target."""

    records: Sequence[Record]
    failures: Sequence[Record]
    settings: Mapping[str, Any]
    replaced: int = 0

    @property
    def clips(self) -> list[str]:
        return list(dict.fromkeys(record.clip for record in (*self.records, *self.failures)))

    @property
    def metrics(self) -> list[str]:
        return list(dict.fromkeys(metric for record in self.records for metric in record.metrics))

    @property
    def families(self) -> list[str]:
        """Ours first, then the peer, then the others by name."""
        found = {record.family for record in self.records}
        first = [family for family in (OURS, PEER) if family in found]
        return first + sorted(found - set(first))

    def methods(self, family: str | None = None) -> list[str]:
        """Methods with results, by family and then by name."""
        return [
            method
            for one in ([family] if family is not None else self.families)
            for method in sorted({record.method for record in self.records if record.family == one})
        ]

    def targets(self, clip: str) -> list[float]:
        """The target rates of a clip, rising."""
        return sorted({r.target_kbps for r in (*self.records, *self.failures) if r.clip == clip})

    def select(
        self,
        *,
        clip: str | None = None,
        family: str | None = None,
        method: str | None = None,
        target_kbps: float | None = None,
    ) -> list[Record]:
        """Records without error that fit all that is given."""
        return [
            record
            for record in self.records
            if clip in (None, record.clip)
            and family in (None, record.family)
            and method in (None, record.method)
            and target_kbps in (None, record.target_kbps)
        ]

    def missing(self) -> list[tuple[str, str, float]]:
        """(clip, method, target) of what other clips or rates have, and this one has not (yet)."""
        everything = (*self.records, *self.failures)
        known = {(r.clip, r.method, r.target_kbps) for r in everything}
        methods = list(dict.fromkeys(record.method for record in everything))
        wanted = ((c, m, t) for c in self.clips for m in methods for t in self.targets(c))
        return [combination for combination in wanted if combination not in known]


def load_run(folder: Path) -> Run:
    """Read a run folder.  A missing settings.json gives empty settings.

    Of several lines for the same clip, method and target the last one counts.  Raises ConfigError, with the
    line number, for lines that are no records of this schema, and when there is no record at all.
    """
    path = folder / RESULTS
    kept: dict[tuple[str, str, float], Record] = {}
    count = 0
    for number, line in enumerate(_read(path).split("\n"), 1):
        if not line.strip():
            continue
        record = _parse_line(line, f"{path}, line {number}")
        count += 1
        kept[record.clip, record.method, record.target_kbps] = record
    if not kept:
        raise ConfigError(f"{path}: holds no record")
    records = _sorted(kept.values())
    return Run(
        [record for record in records if record.error is None],
        [record for record in records if record.error is not None],
        _settings(folder / SETTINGS),
        count - len(kept),
    )


def parse_record(raw: object, where: str) -> Record:
    """Check one decoded JSON line.  Raises ConfigError that starts with ``where``."""
    fields = _Fields(raw, where)
    if fields.raw.get("schema") != SCHEMA:
        raise ConfigError(f"{where}: schema is {fields.raw.get('schema')!r}, expected {SCHEMA}")
    error = fields.raw.get("error")
    if error is not None and not isinstance(error, str):
        raise ConfigError(f"{where}: error is {error!r}, expected a text or null")
    target = fields.number("target_kbps", above=0)
    common: dict[str, Any] = {
        "key": fields.text("key"),
        "clip": fields.text("clip"),
        "method": fields.text("method"),
        "family": fields.text("family"),
        "variant": fields.text("variant"),
        "scale": fields.text("scale"),
        "target_kbps": target,
        "error": error,
        "settings": fields.mapping("settings", optional=True),
        "raw": fields.raw,
    }
    if error is not None:
        # Nothing but its name is promised of a failure.
        return Record(
            width=0, height=0, frames=0, frame_rate=0.0, duration_seconds=0.0,
            actual_kbps=None, size_bytes=None, parameter=None, **common,
        )  # fmt: skip
    return Record(
        width=fields.whole("width"),
        height=fields.whole("height"),
        frames=fields.whole("frames"),
        frame_rate=fields.number("frame_rate", above=0),
        duration_seconds=fields.number("duration_seconds", above=0),
        actual_kbps=fields.number("actual_kbps", above=0),
        size_bytes=fields.whole("bytes"),
        parameter=fields.optional_number("parameter"),
        metrics=_metrics(fields.mapping("metrics"), where),
        missing={str(name): str(why) for name, why in fields.mapping("missing", optional=True).items()},
        matched_by_run=fields.optional_truth("matched"),
        per_frame=_per_frame(fields.mapping("per_frame", optional=True), where),
        encode=_encode_speed(fields),
        decode=_decode_speed(fields),
        **common,
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is no UTF-8 text ({error.reason} at byte {error.start})") from error


def _parse_line(line: str, where: str) -> Record:
    return parse_record(_json(line, where), where)


def _json(text: str, where: str) -> object:
    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is not a finite number")

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: no valid JSON ({error})") from error


def _settings(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    found = _json(_read(path), str(path))
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: holds {type(found).__name__}, expected an object")
    return found


def _sorted(records: Iterable[Record]) -> list[Record]:
    # Not in the order in which they were finished: that may differ from run to run.
    families = {OURS: 0, PEER: 1}
    return sorted(
        records, key=lambda r: (r.clip, r.target_kbps, families.get(r.family, 2), r.family, r.method)
    )


class _Fields:
    """Checked access to the fields of one JSON object."""

    def __init__(self, raw: object, where: str) -> None:
        if not isinstance(raw, dict):
            raise ConfigError(f"{where}: holds {type(raw).__name__}, expected an object")
        self.raw: dict[str, Any] = raw
        self._where = where

    def _get(self, name: str) -> Any:
        if name not in self.raw:
            raise ConfigError(f"{self._where}: has no {name!r}")
        return self.raw[name]

    def _refuse(self, name: str, value: object, expected: str) -> ConfigError:
        return ConfigError(f"{self._where}: {name} is {value!r}, expected {expected}")

    def text(self, name: str) -> str:
        value = self._get(name)
        if not isinstance(value, str) or not value:
            raise self._refuse(name, value, "a text")
        return value

    def number(self, name: str, *, above: float = -math.inf) -> float:
        value = self._get(name)
        if not is_number(value) or not value > above:
            raise self._refuse(name, value, "a number" if math.isinf(above) else f"a number above {above:g}")
        return float(value)

    def optional_number(self, name: str) -> float | None:
        return None if self.raw.get(name) is None else self.number(name)

    def optional_truth(self, name: str) -> bool | None:
        value = self.raw.get(name)
        if value is not None and not isinstance(value, bool):
            raise self._refuse(name, value, "true or false")
        return value

    def whole(self, name: str) -> int:
        value = self._get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self._refuse(name, value, "a whole number above 0")
        return value

    def mapping(self, name: str, *, optional: bool = False) -> dict[str, Any]:
        value = self.raw.get(name) if optional else self._get(name)
        if value is None and optional:
            return {}
        if not isinstance(value, dict):
            raise self._refuse(name, value, "an object")
        return value

    def part(self, name: str) -> _Fields | None:
        found = self.mapping(name, optional=True)
        return _Fields(found, f"{self._where}, {name}") if found else None


def is_number(value: object) -> bool:
    """Whether a JSON value is a finite number (true and false are none)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _metrics(raw: Mapping[str, Any], where: str) -> dict[str, float]:
    # A metric that could not be measured may be null: the others still count.
    present = {name: value for name, value in raw.items() if value is not None}
    for name, value in present.items():
        if not is_number(value):
            raise ConfigError(f"{where}: metric {name} is {value!r}, expected a finite number")
    return {name: float(value) for name, value in present.items()}


def _per_frame(raw: Mapping[str, Any], where: str) -> dict[str, Sequence[tuple[int, float]]]:
    out: dict[str, Sequence[tuple[int, float]]] = {}
    for name, pairs in raw.items():
        good = isinstance(pairs, list) and all(
            isinstance(pair, list)
            and len(pair) == 2
            and isinstance(pair[0], int)
            and pair[0] >= 0
            and is_number(pair[1])
            for pair in pairs
        )
        if not good:
            raise ConfigError(f"{where}: per_frame of {name} is no list of [frame, value]")
        out[name] = tuple(sorted((frame, float(value)) for frame, value in pairs))
    return out


def _encode_speed(fields: _Fields) -> EncodeSpeed | None:
    part = fields.part("encode")
    if part is None:
        return None
    encodes = part.optional_number("encodes")
    return EncodeSpeed(
        part.optional_number("seconds"),
        part.optional_number("frames_per_second"),
        None if encodes is None else int(encodes),
    )


def _decode_speed(fields: _Fields) -> DecodeSpeed | None:
    part = fields.part("decode")
    if part is None:
        return None
    return DecodeSpeed(
        *(
            part.optional_number(name)
            for name in (
                "frames_per_second",
                "first_picture_seconds",
                "peak_megabytes",
                "ratio_to_plain",
                "extrapolated_from_frames",
            )
        )
    )
