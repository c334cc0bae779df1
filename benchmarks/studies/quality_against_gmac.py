"""Quality of the generators against their cost in multiply-accumulates.

    python benchmarks/studies/quality_against_gmac.py --corpus runs/corpus [--pictures 32] [FILE.onnx ...]

One point for every generator: the shipped sizes in 8-bit integers, and further ONNX files, such as one in
float32.  Quality is the change of LPIPS-Alex, LPIPS-VGG and DISTS on held-out coded pictures at full
strength, as `benchmarks/generators.py` measures it; cost is that of one 1920x1080 picture.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from figures import FIGURES, new_figure, save_csv, save_figure
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from hybridprompt.generator.network import count_gmac
from hybridprompt.generator.registry import GENERATOR_SIZES, load_file
from hybridprompt.train.export import read_onnx
from hybridprompt.train.samples import even_samples
from hybridprompt.train.teacher import config_of

sys.path.insert(0, str(Path(__file__).parents[1]))
from generators import METRICS, Measure, quality

_WEIGHTS = Path(__file__).parents[2] / "src" / "hybridprompt" / "generator" / "weights"
_DISTANCES = METRICS[:3]
_COLUMNS = ("generator", "gmac_1080p", "bytes", *(f"{name}, %" for name in _DISTANCES), "PSNR-Y, dB")
_COLOURS = ("#0072b2", "#d55e00", "#009e73")
_MARKERS = ("o", "s", "^")


@dataclass(frozen=True)
class Point:
    """One generator.  changes: of the distances, relative (negative is better), and of PSNR-Y in dB."""

    name: str
    gmac: float
    size_bytes: int
    changes: tuple[float, ...]

    @property
    def row(self) -> tuple[object, ...]:
        *distances, psnr = self.changes
        shares = (f"{100 * value:+.1f}" for value in distances)
        return (self.name, f"{self.gmac:.1f}", self.size_bytes, *shares, f"{psnr:+.2f}")


def measure(files: dict[str, Path], corpus: Path, pictures: int) -> list[Point]:
    """A point for every file, cheapest first."""
    samples = even_samples(corpus / "validation", pictures)
    meter = Measure()
    base = quality(None, samples, meter)
    points = []
    for name, path in files.items():
        found = quality(load_file(path, threads=2), samples, meter)
        changes = [value / before - 1 for value, before in zip(found[:3], base[:3], strict=True)]
        gmac = count_gmac(config_of(read_onnx(path, integers=True)), 1920, 1080)
        points.append(Point(name, gmac, path.stat().st_size, (*changes, found[3] - base[3])))
    return sorted(points, key=lambda point: point.gmac)


def draw(points: list[Point]) -> Figure:
    """Gain over cost: one mark for every generator and metric."""
    figure = new_figure(6.6, 4.4)
    axes = figure.subplots()
    for index, (metric, colour, marker) in enumerate(zip(_DISTANCES, _COLOURS, _MARKERS, strict=True)):
        gains = [100 * point.changes[index] for point in points]
        costs = [point.gmac for point in points]
        axes.plot(costs, gains, color=colour, marker=marker, linestyle=":", linewidth=0.8, label=metric)
    seen: dict[float, int] = {}
    for point in points:
        line = seen[point.gmac] = seen.get(point.gmac, -1) + 1
        axes.annotate(
            point.name,
            (point.gmac, 0),
            xytext=(0, -10 - 11 * line),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    axes.set_xlim(0, max(point.gmac for point in points) * 1.3)
    axes.set_ylim(top=0)
    axes.set_xlabel("GMAC per picture of 1920x1080")
    axes.set_ylabel("change against the base, % (lower is better)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, help="further generators, in ONNX")
    parser.add_argument("--corpus", type=Path, default=Path("runs/corpus"))
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--output", type=Path, default=FIGURES)
    arguments = parser.parse_args()
    files = {f"{size}, int8": _WEIGHTS / f"{name}.onnx" for size, name in GENERATOR_SIZES.items()}
    files |= {path.stem: path for path in arguments.files}
    points = measure(files, arguments.corpus, arguments.pictures)
    table = Table(title=f"{arguments.pictures} held-out pictures, change against the base")
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column == "generator" else "right")
    for point in points:
        table.add_row(*map(str, point.row))
    Console(width=110).print(table)
    save_figure(draw(points), arguments.output / "quality_against_gmac.png")
    save_csv(arguments.output / "quality_against_gmac.csv", _COLUMNS, [point.row for point in points])


if __name__ == "__main__":
    main()
