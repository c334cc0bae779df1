"""The table of speeds, and the groups that its plot shares."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from hybridprompt.evaluate.report.cells import Cell, Table
from hybridprompt.evaluate.report.load import Record, Run


def speed_table(run: Run) -> Table:
    """Medians of encoding and decoding per picture size and method."""
    columns = [
        "size", "method", "results", "encode, s", "encode, frames/s", "encodes to match the rate",
        "decode, frames/s", "ratio to plain", "first picture, s", "peak memory, MB",
    ]  # fmt: skip
    rows = []
    for (width, height), method, records in speed_groups(run):
        encodes = [r.encode for r in records if r.encode is not None]
        decodes = [r.decode for r in records if r.decode is not None]
        values = [
            (_median(e.seconds for e in encodes), 1),
            (_median(e.frames_per_second for e in encodes), 1),
            (_median(e.encodes for e in encodes), 0),
            (_median(d.frames_per_second for d in decodes), 0),
            (_median(d.ratio_to_plain for d in decodes), 2),
            (_median(d.first_picture_seconds for d in decodes), 2),
            (_median(d.peak_megabytes for d in decodes), 0),
        ]
        if any(value is not None for value, _ in values):
            extrapolated = any(d.extrapolated_from_frames is not None for d in decodes)
            rows.append(
                [
                    Cell(f"{width}x{height}"),
                    Cell(method + (" (decoding extrapolated)" if extrapolated else "")),
                    Cell(str(len(records))),
                    *(Cell("" if value is None else f"{value:.{digits}f}") for value, digits in values),
                ]
            )
    notes = [
        "Medians over clips and rates.  Encoding is the final encode alone, without the search for the rate."
    ]
    return Table("Speed", columns, rows, notes if rows else ["No speed was measured."], 2)


def speed_groups(run: Run) -> list[tuple[tuple[int, int], str, list[Record]]]:
    """Records by picture size, smallest first, and method."""
    sizes = sorted({(r.width, r.height) for r in run.records}, key=lambda size: (size[0] * size[1], size))
    groups = (
        (size, method, [r for r in run.select(method=method) if (r.width, r.height) == size])
        for size in sizes
        for method in run.methods()
    )
    return [group for group in groups if group[2]]


def _median(values: Iterable[float | int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(statistics.median(known)) if known else None
