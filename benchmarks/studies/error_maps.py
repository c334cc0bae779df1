"""Figure 3: where a keyframe is wrong, coded for least squared error and generated, at the same size.

    python benchmarks/studies/error_maps.py [CLIP] [--at 6] [--crf 60] [--modes codec generated]

Codes one picture as a keyframe with SVT-AV1 tuned for PSNR ("codec"), and lets the shipped generator
work at full strength on such a keyframe ("generated").  Its prompt counts: where the two together have
more bytes than the plain codec's keyframe, the base picture is coded with a coarser CRF.  Prints the
errors, and draws the pictures with their maps of absolute luma error and of local LPIPS-Alex, in scales
that all modes share.  Modes that do not exist are left out, and named.

The default is in the second half of its clip; training takes first halves only.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from figures import (
    FIGURES,
    Distances,
    clip_path,
    code_with_svt,
    new_figure,
    save_csv,
    save_figure,
    source_picture,
)
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from hybridprompt.generator.registry import load_shipped
from hybridprompt.prompt.carriage import attach
from hybridprompt.prompt.gate import GateMap
from hybridprompt.prompt.sections import build_prompt
from hybridprompt.prompt.syntax import encode_prompt
from hybridprompt.video.av1_encoder import CRF_RANGE, CRF_STEP
from hybridprompt.video.picture import Picture

CELL = 16
_COLUMNS = ("mode", "bytes", "of_these_prompt", "crf", "PSNR-Y", "LPIPS-Alex", "mean_absolute_error")


@dataclass(frozen=True)
class Keyframe:
    """A picture made by one mode.  size_bytes: with the prompt, if there is one; detail: the generator."""

    mode: str
    picture: Picture
    size_bytes: int
    prompt_bytes: int
    crf: float
    detail: str = ""


@dataclass(frozen=True)
class Task:
    """What all modes work on.  limit_bytes: what none may exceed."""

    source: Picture
    crf: float
    preset: int
    limit_bytes: int


def plain(task: Task) -> Keyframe:
    """The codec alone."""
    data, decoded, _ = code_with_svt(task.source, task.crf, task.preset)
    return Keyframe("codec", decoded, len(data), 0, task.crf)


def generated(task: Task) -> Keyframe:
    """The shipped generator at full strength on a base picture that leaves room for the prompt."""
    generator = load_shipped(threads=2)
    width, height = task.source.width, task.source.height
    crf = task.crf
    while True:
        data, base, quantiser = code_with_svt(task.source, crf, task.preset)
        gate = GateMap.uniform(width, height)
        prompt = encode_prompt(build_prompt(generator.identity, width, height, None, gate))
        size = len(attach(data, prompt))
        if size <= task.limit_bytes or crf + CRF_STEP > CRF_RANGE[1]:
            break
        crf += CRF_STEP
    planes = generator.generate(
        base.planes, quantiser=quantiser, strengths=gate.strengths(), block_size=gate.block_size
    )
    y, u, v = planes
    return Keyframe("generated", replace(base, y=y, u=u, v=v), size, size - len(data), crf, generator.name)


MODES: dict[str, Callable[[Task], Keyframe]] = {"codec": plain, "generated": generated}
"""A mode that replaces the keyframe end to end belongs here once it exists."""


def error_map(picture: Picture, source: Picture) -> NDArray[np.float64]:
    """Mean absolute luma error per cell."""
    difference = np.abs(picture.y.astype(np.float64) - source.y)
    rows, columns = (np.arange(0, size, CELL) for size in difference.shape)
    sums = np.add.reduceat(np.add.reduceat(difference, rows, 0), columns, 1)
    counts = np.outer(np.diff([*rows, difference.shape[0]]), np.diff([*columns, difference.shape[1]]))
    means: NDArray[np.float64] = sums / counts
    return means


def draw(source: Picture, keyframes: list[Keyframe], distances: Distances) -> Figure:
    """A row per mode: the picture, its error, and its local LPIPS."""
    errors = [error_map(k.picture, source) for k in keyframes]
    local = [distances.lpips_map(k.picture, CELL) for k in keyframes]
    figure = new_figure(10.5, 0.4 + (len(keyframes) + 1) * 10.5 / 3 * source.height / source.width)
    axes = figure.subplots(len(keyframes) + 1, 3, squeeze=False)
    axes[0, 0].imshow(source.to_rgb())
    axes[0, 0].set_title("source", fontsize=9)
    for one in axes.flat:
        one.set_axis_off()
    limits = [float(np.percentile(maps, 99)) for maps in (errors, local)]
    for row, (keyframe, *maps) in enumerate(zip(keyframes, errors, local, strict=True), 1):
        axes[row, 0].imshow(keyframe.picture.to_rgb())
        axes[row, 0].set_title(_caption(keyframe), fontsize=9)
        titles = (
            f"luma error, PSNR-Y {distances.psnr(keyframe.picture):.2f} dB",
            f"local LPIPS-Alex, mean {distances.lpips(keyframe.picture):.4f}",
        )
        for column, (values, title, limit) in enumerate(zip(maps, titles, limits, strict=True), 1):
            drawn = axes[row, column].imshow(values, cmap="inferno", vmin=0, vmax=limit)
            axes[row, column].set_title(title, fontsize=9)
            bar = figure.colorbar(drawn, ax=axes[row, column], fraction=0.05, shrink=0.85)
            bar.ax.tick_params(labelsize=7)
    if len(keyframes) == 2:
        _draw_differences(figure, axes[0, 1:], (errors, local), [k.mode for k in keyframes])
    return figure


def _caption(keyframe: Keyframe) -> str:
    detail = f" by {keyframe.detail}" if keyframe.detail else ""
    return f"{keyframe.mode}{detail}, {keyframe.size_bytes} bytes"


def _draw_differences(figure: Figure, axes: NDArray[np.object_], maps: tuple, modes: list[str]) -> None:
    """Beside the source: where the second mode is better (blue) and worse (red) than the first."""
    for one, (first, second), name in zip(axes, maps, ("luma error", "local LPIPS-Alex"), strict=True):
        difference = second - first
        limit = float(np.percentile(np.abs(difference), 99)) or 1.0
        drawn = one.imshow(difference, cmap="RdBu_r", vmin=-limit, vmax=limit)
        one.set_title(f"{name}: {modes[1]} less {modes[0]}", fontsize=9)
        figure.colorbar(drawn, ax=one, fraction=0.05, shrink=0.85).ax.tick_params(labelsize=7)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clip", nargs="?", type=Path)
    parser.add_argument("--at", type=float, default=6.0, help="seconds into the clip")
    parser.add_argument("--crf", type=float, default=60.0, help="of the plain codec")
    parser.add_argument("--preset", type=int, default=6, help="of SVT-AV1")
    parser.add_argument("--modes", nargs="+", default=["codec", "generated", "end-to-end"])
    parser.add_argument("--output", type=Path, default=FIGURES)
    arguments = parser.parse_args()
    clip = clip_path(arguments.clip)
    source = source_picture(clip, arguments.at)
    limit = len(code_with_svt(source, arguments.crf, arguments.preset)[0])
    task = Task(source, arguments.crf, arguments.preset, limit)
    console = Console(width=110)
    missing = [mode for mode in arguments.modes if mode not in MODES]
    if missing:
        console.print(f"left out, since there is no such mode: {', '.join(missing)}")
    keyframes = [MODES[mode](task) for mode in arguments.modes if mode in MODES]
    if not keyframes:
        raise SystemExit(f"no mode to draw: there are {', '.join(MODES)}")
    distances = Distances(source)
    rows = [
        (
            f"{k.mode} {k.detail}".strip(),
            k.size_bytes,
            k.prompt_bytes,
            f"{k.crf:g}",
            f"{distances.psnr(k.picture):.2f}",
            f"{distances.lpips(k.picture):.4f}",
            f"{float(np.mean(np.abs(k.picture.y.astype(float) - source.y))):.3f}",
        )
        for k in keyframes
    ]
    table = Table(title=f"Keyframe of {clip.stem} at {arguments.at:g} s, {source.width}x{source.height}")
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column == "mode" else "right")
    for row in rows:
        table.add_row(*map(str, row))
    console.print(table)
    save_figure(draw(source, keyframes, distances), arguments.output / "error_maps.png")
    save_csv(arguments.output / "error_maps.csv", _COLUMNS, rows)


if __name__ == "__main__":
    main()
