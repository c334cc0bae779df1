"""Figure 5: LPIPS-Alex against rate.

    hybridprompt evaluate ... --output runs/evaluation
    python benchmarks/studies/lpips_against_rate.py runs/evaluation [--metric LPIPS-Alex]

Draws what a run of `hybridprompt evaluate` has found with the plots of its report: the mean over all
clips, where they allow one, and every clip.  Prints the rates and values of every family's hull.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from figures import FIGURES, MAX_BYTES, write_file
from rich.console import Console
from rich.table import Table

from hybridprompt.errors import HybridPromptError
from hybridprompt.evaluate.report.hull import hull
from hybridprompt.evaluate.report.load import Run, load_run
from hybridprompt.evaluate.report.metrics import PRIMARY, show, with_direction
from hybridprompt.evaluate.report.plots import rate_plots


def hull_table(run: Run, metric: str) -> Table:
    """Every point of every hull."""
    table = Table(title=f"Hulls, {with_direction(metric)}")
    for column in ("clip", "family", "method"):
        table.add_column(column)
    for column in ("kbit/s", metric):
        table.add_column(column, justify="right")
    for clip in run.clips:
        for family in run.families:
            for point in hull(run.select(clip=clip, family=family), metric):
                value = show(metric, point.value)
                table.add_row(clip, family, point.record.method, f"{point.rate_kbps:.1f}", value)
        table.add_section()
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("--metric", default=PRIMARY)
    parser.add_argument("--output", type=Path, default=FIGURES)
    arguments = parser.parse_args()
    try:
        run = load_run(arguments.run_folder)
    except HybridPromptError as error:
        sys.exit(str(error))
    plots = rate_plots(run, arguments.metric)
    if not plots:
        sys.exit(f"{arguments.run_folder}: no result has {arguments.metric}")
    Console(width=110).print(hull_table(run, arguments.metric))
    for plot in plots:
        for ending, data in (("png", plot.png), ("csv", plot.csv.encode())):
            path = arguments.output / f"{plot.name}.{ending}"
            write_file(path, data)
            if len(data) >= MAX_BYTES:
                print(f"{path}: {len(data)} bytes, too large for the repository", file=sys.stderr)


if __name__ == "__main__":
    main()
