"""The results of an evaluation on disk: one JSON line per clip, method and rate."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hybridprompt.errors import ConfigError, MediaError
from hybridprompt.evaluate.cache import write_text_atomically
from hybridprompt.video.files import reason

SCHEMA = 1

Record = dict[str, Any]

_log = logging.getLogger(__name__)


class ResultStore:
    """``results.jsonl`` of a run folder: appended to as results come, put in order at the end.

    Results of earlier settings move to ``archive.jsonl``, from where they come back when those settings do.
    known: results of other runs, read only.  Raises ConfigError where there is none, MediaError where one
    cannot be read.
    """

    def __init__(self, folder: Path, known: Iterable[Path] = ()) -> None:
        self.path = folder / "results.jsonl"
        self.archive = folder / "archive.jsonl"
        self._elsewhere: dict[str, Record] = {}
        for path in known:
            if not path.is_file():
                raise ConfigError(f"known: {path} is no file")
            self._elsewhere |= {r["key"]: r for r in _read(path)}
        self._current = _read(self.path)
        self._known = {r["key"]: r for r in (*_read(self.archive), *self._current)}

    @property
    def current(self) -> list[Record]:
        """The results of the last run."""
        return list(self._current)

    def find(self, key: str) -> Record | None:
        """The result under a key, unless it is an error: those are tried again."""
        for results in (self._known, self._elsewhere):
            record = results.get(key)
            if record is not None and record["error"] is None:
                return record
        return None

    def append(self, record: Record) -> None:
        """Add a result; it is on disk when this returns.  Raises MediaError."""
        try:
            # A line that a killed run left unfinished must not swallow this one.
            torn = self.path.exists() and self.path.read_bytes()[-1:] not in (b"", b"\n")
            with self.path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(("\n" if torn else "") + _line(record))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise MediaError(f"{self.path}: cannot be written ({reason(error)})") from error
        self._known[record["key"]] = record
        self._current.append(record)

    def finish(self, records: list[Record]) -> None:
        """Leave exactly these in ``results.jsonl``, in this order, and archive the others."""
        keys = {record["key"] for record in records}
        others = {r["key"]: r for r in self._known.values() if r["key"] not in keys and r["error"] is None}
        if others:
            _rewrite(self.archive, [others[key] for key in sorted(others)])
        _rewrite(self.path, records)


def _line(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def _rewrite(path: Path, records: Iterable[Record]) -> None:
    text = "".join(map(_line, records))
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text_atomically(path, text)


def _read(path: Path) -> list[Record]:
    """The whole records of a file; lines that are none are left out, with a warning."""
    if not path.exists():
        return []
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({reason(error)})") from error
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if record["schema"] == SCHEMA and isinstance(record["key"], str) and "error" in record:
                records.append(record)
        except (ValueError, TypeError, LookupError):
            if line.strip():
                _log.warning("%s: line %d is no result, left out", path, number)
    return records
