"""Quality of the generators against their cost in multiply-accumulates.

    python benchmarks/generators.py FILE.onnx [FILE.onnx ...] --corpus runs/corpus --csv out/generators.csv
    python benchmarks/studies/quality_against_gmac.py out/generators.csv [--label FILE=NAME ...]

One point for every generator that was measured: the change of LPIPS-Alex, LPIPS-VGG and DISTS on held-out
coded pictures at full strength, over the cost of one 1920x1080 picture.
"""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import dataclass
from pathlib import Path

from figures import FIGURES, new_figure, save_csv, save_figure
from matplotlib.figure import Figure

DISTANCES = ("LPIPS-Alex", "LPIPS-VGG", "DISTS")
_COLUMNS = ("generator", "gmac_1080p", "bytes", *(f"{name}, %" for name in DISTANCES), "PSNR-Y, dB")
_COLOURS = ("#0072b2", "#d55e00", "#009e73")
_MARKERS = ("o", "s", "^")


@dataclass(frozen=True)
class Point:
    """One generator.  changes: of DISTANCES, in percent (negative is better); psnr_change in dB."""

    name: str
    gmac: float
    size_bytes: int
    changes: tuple[float, ...]
    psnr_change: float

    @property
    def row(self) -> tuple[object, ...]:
        shares = (f"{value:+.1f}" for value in self.changes)
        return (self.name, f"{self.gmac:.1f}", self.size_bytes, *shares, f"{self.psnr_change:+.2f}")


def read_points(path: Path, labels: dict[str, str]) -> list[Point]:
    """The points of a file of `benchmarks/generators.py`, cheapest first."""
    with path.open(newline="") as file:
        base, *rows = csv.DictReader(file)
    points = [
        Point(
            labels.get(row["generator"], row["generator"]),
            float(row["GMAC"]),
            int(row["bytes"]),
            tuple(100 * (float(row[name]) / float(base[name]) - 1) for name in DISTANCES),
            float(row["PSNR-Y"]) - float(base["PSNR-Y"]),
        )
        for row in rows
    ]
    return sorted(points, key=lambda point: point.gmac)


def draw(points: list[Point]) -> Figure:
    """Change over cost: a mark for every generator and metric; generators of one cost stand side by side."""
    figure = new_figure(6.6, 4.4)
    axes = figure.subplots()
    shift = 0.02 * max(point.gmac for point in points)
    places: list[float] = []
    for point in points:
        same = sum(abs(point.gmac - other.gmac) < shift for other in points[: len(places)])
        places.append(point.gmac + same * 3 * shift)
    for index, (metric, colour, marker) in enumerate(zip(DISTANCES, _COLOURS, _MARKERS, strict=True)):
        changes = [point.changes[index] for point in points]
        axes.plot(places, changes, color=colour, marker=marker, linestyle="none", label=metric)
    for place, point in zip(places, points, strict=True):
        axes.axvline(place, color="#999999", linewidth=0.5)
        axes.annotate(
            f"{point.name}, {point.gmac:.1f}", (place, 0), xytext=(3, -4), textcoords="offset points",
            rotation=90, va="top", fontsize=8,
        )  # fmt: skip
    axes.set_xlim(0, max(places) * 1.25)
    axes.set_ylim(top=0)
    axes.set_xlabel("GMAC per picture of 1920x1080")
    axes.set_ylabel("change against the base, % (lower is better)")
    axes.grid(alpha=0.3, axis="y")
    axes.legend(fontsize=8, loc="lower left")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path)
    parser.add_argument("--label", action="append", default=[], metavar="FILE=NAME")
    parser.add_argument("--output", type=Path, default=FIGURES)
    arguments = parser.parse_args()
    try:
        points = read_points(arguments.results, dict(label.split("=", 1) for label in arguments.label))
    except (OSError, KeyError, ValueError) as error:
        sys.exit(f"{arguments.results}: no results of benchmarks/generators.py: {error}")
    save_figure(draw(points), arguments.output / "quality_against_gmac.png")
    save_csv(arguments.output / "quality_against_gmac.csv", _COLUMNS, [point.row for point in points])


if __name__ == "__main__":
    main()
