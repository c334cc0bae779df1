"""All results as Markdown: gains and losses alike, with what is needed to repeat them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from hybridprompt.evaluate.report import tables
from hybridprompt.evaluate.report.bd_tables import bd_tables
from hybridprompt.evaluate.report.cells import Table
from hybridprompt.evaluate.report.load import Run
from hybridprompt.evaluate.report.metrics import PRIMARY
from hybridprompt.evaluate.report.speed_table import speed_table

_INTRODUCTION = f"""# Results

Written by `hybridprompt evaluate`; do not edit.  Every method codes every clip to the same rate, counted over
every byte of the video track.  "The peer" is the SVT-AV1 variant and scale that is best in {PRIMARY} on that
clip at that rate.  Arrows show in which direction a metric gets better."""


# In the middle of a text: from a root to the end of a word.
_PATH = re.compile(r"(?<![\w.:/\\])(?:[A-Za-z]:\\|/)(?:[^\s;,:\"'|]*[/\\])?([^\s;,:\"'|/\\]+)")


def markdown(run: Run) -> str:
    """The document.  Absolute paths in settings and messages are cut down to file names."""
    run = _public(run)
    parts = [_INTRODUCTION, "## In short", _list(tables.sentences(run))]
    if run.failures:
        parts += ["## Failures", _table(tables.failure_table(run))]
    parts += ["## Means", _table(tables.headline(run)), "## BD-rate"]
    for table in bd_tables(run):
        parts += [f"### {_escaped(table.title)}", _table(table)]
    parts += ["## Against the peer, clip by clip", _table(tables.pair_table(run))]
    parts += ["## All results", _table(tables.result_table(run))]
    parts += ["## Rates", _table(tables.rate_table(run)), "## Speed", _table(speed_table(run))]
    lacking = tables.missing_metrics_table(run)
    if lacking.rows:
        parts += [f"## {lacking.title}", _table(lacking)]
    missing = run.missing()
    if missing:
        rows = [f"{clip}, {method}, {target:g} kbit/s" for clip, method, target in missing]
        parts += ["## Not measured", _list(rows)]
    parts += ["## Settings of the methods", _table(tables.method_settings_table(run))]
    parts += ["## Settings of the run", _code(json.dumps(without_paths(run.settings), indent=2))]
    return "\n\n".join(part for part in parts if part) + "\n"


def without_paths(value: Any) -> Any:
    """The same JSON value with every absolute path cut down to its file name."""
    if isinstance(value, Mapping):
        return {without_paths(key): without_paths(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [without_paths(item) for item in value]
    if isinstance(value, str) and "\n" not in value:
        for kind in (PurePosixPath(value), PureWindowsPath(value)):
            if kind.is_absolute():
                return kind.name
    return value


def _public(run: Run) -> Run:
    """The run without the paths of the machine that made it."""
    records = [
        replace(
            r,
            settings=without_paths(r.settings),
            missing={name: _PATH.sub(r"\1", why) for name, why in r.missing.items()},
        )
        for r in run.records
    ]
    failures = [replace(r, error=_PATH.sub(r"\1", r.error or "")) for r in run.failures]
    return replace(run, records=records, failures=failures, settings=without_paths(run.settings))


def _table(table: Table) -> str:
    notes = "\n\n".join(_escaped(note) for note in table.notes)
    if not table.rows:
        return notes
    lines = [
        _line(_escaped(column) for column in table.columns),
        _line("---" if index < table.labels else "---:" for index in range(len(table.columns))),
        *(_line(_escaped(cell.text) for cell in row) for row in table.rows),
    ]
    return "\n".join(lines) + (f"\n\n{notes}" if notes else "")


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _list(items: Sequence[str]) -> str:
    return "\n".join(f"* {_escaped(item)}" for item in items)


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    one_line = " ".join(text.split())
    html = one_line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|])|(?<!\w)_|_(?!\w)", lambda m: f"\\{m.group()}", html)


def _code(text: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}json\n{text}\n{fence}"
