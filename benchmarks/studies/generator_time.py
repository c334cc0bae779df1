"""Figure 4: run time of the shipped generators in ONNX Runtime against resolution.

    python benchmarks/studies/generator_time.py [--sizes small medium] [--heights 240 ... 2160]
        [--threads 1 2] [--repeats 5]

Generates whole pictures (16:9, every block at full strength) of random detail, whose content does not
matter to the time.  Generators, resolutions and thread counts take turns, so that a disturbance does not hit
one of them alone; medians and the fastest run are printed.  Meaningful on an idle machine only.
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import cycle
from pathlib import Path

import numpy as np
from figures import FIGURES, new_figure, save_csv, save_figure
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from rich.console import Console
from rich.table import Table

from hybridprompt.generator.base import Planes
from hybridprompt.generator.onnx_generator import OnnxGenerator
from hybridprompt.generator.registry import GENERATOR_SIZES, load_chosen

HEIGHTS = (240, 360, 480, 720, 1080, 1440, 2160)
BLOCK_SIZE = 64
_COLUMNS = ("size", "height", "width", "megapixels", "threads", "median_ms", "fastest_ms", "ms_per_megapixel")
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00")

Times = dict[tuple[str, int, int], list[float]]


def width_of(height: int) -> int:
    """Even width of a 16:9 picture."""
    return round(height * 16 / 9 / 2) * 2


def random_planes(height: int) -> Planes:
    rng = np.random.default_rng(height)
    width = width_of(height)
    shapes = ((height, width), (height // 2, width // 2), (height // 2, width // 2))
    y, u, v = (rng.integers(16, 236, shape, dtype=np.uint8) for shape in shapes)
    return y, u, v


def run_seconds(generator: OnnxGenerator, planes: Planes) -> float:
    """Wall-clock time of one picture."""
    height, width = planes[0].shape
    strengths = np.ones((-(-height // BLOCK_SIZE), -(-width // BLOCK_SIZE)), np.float32)
    start = time.perf_counter()
    generator.generate(planes, quantiser=160, strengths=strengths, block_size=BLOCK_SIZE)
    return time.perf_counter() - start


def measure(sizes: list[str], heights: list[int], threads: list[int], repeats: int) -> Times:
    """Seconds by (size, height, threads); one run of each before counts for nothing."""
    generators = {
        (size, count): load_chosen(Path(size), threads=count) for size in sizes for count in threads
    }
    times: Times = {(size, height, count): [] for size in sizes for height in heights for count in threads}
    for round_number in range(repeats + 1):
        for height in heights:
            planes = random_planes(height)
            for (size, count), generator in generators.items():
                seconds = run_seconds(generator, planes)
                if round_number:
                    times[size, height, count].append(seconds)
    return times


def rows_of(times: Times) -> list[tuple[object, ...]]:
    rows = []
    for (size, height, count), seconds in times.items():
        width = width_of(height)
        megapixels = width * height / 1e6
        median = 1000 * statistics.median(seconds)
        rows.append(
            (
                size,
                height,
                width,
                f"{megapixels:.2f}",
                count,
                f"{median:.1f}",
                f"{1000 * min(seconds):.1f}",
                f"{median / megapixels:.1f}",
            )
        )
    return rows


def draw(times: Times) -> Figure:
    """Medians over the number of lines, both in logarithms: linear in pixels is a slope of two."""
    figure = new_figure(6.6, 4.4)
    axes = figure.subplots()
    heights = sorted({height for _, height, _ in times})
    lines = dict.fromkeys((size, count) for size, _, count in times)
    for colour, (size, count) in zip(cycle(_COLOURS), lines, strict=False):
        medians = [1000 * statistics.median(times[size, height, count]) for height in heights]
        fastest = [1000 * min(times[size, height, count]) for height in heights]
        label = f"{size}, {count} thread{'s' if count > 1 else ''}"
        axes.plot(heights, medians, color=colour, marker="o", label=f"{label}, median")
        axes.plot(heights, fastest, color=colour, linewidth=0.8, linestyle=":", label=f"{label}, fastest")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(heights, [f"{height}p" for height in heights])
    axes.xaxis.set_minor_locator(NullLocator())
    for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        set_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.tick_params(axis="y", which="both", labelsize=8)
    axes.set_xlabel("picture, 16:9")
    axes.set_ylabel("ms per generated picture")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=6, ncols=2, loc="upper left")
    axes.set_ylim(top=3 * axes.get_ylim()[1])
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=list(GENERATOR_SIZES), default=list(GENERATOR_SIZES))
    parser.add_argument("--heights", nargs="+", type=int, default=list(HEIGHTS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=FIGURES)
    arguments = parser.parse_args()
    if arguments.repeats < 1 or min(arguments.heights) < 16 or min(arguments.threads) < 1:
        parser.error("repeats and threads are at least 1, heights at least 16")
    heights = [height // 2 * 2 for height in arguments.heights]
    times = measure(arguments.sizes, heights, arguments.threads, arguments.repeats)
    rows = rows_of(times)
    names = ", ".join(f"{size}: {GENERATOR_SIZES[size]}" for size in arguments.sizes)
    table = Table(title=f"{names}; {arguments.repeats} runs each")
    for column in _COLUMNS:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*map(str, row))
    Console(width=110).print(table)
    save_figure(draw(times), arguments.output / "generator_time.png")
    save_csv(arguments.output / "generator_time.csv", _COLUMNS, rows)


if __name__ == "__main__":
    main()
