"""Draws source, peer and HybridPrompt next to each other: whole frames, and crops of one place at 1:1."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hybridprompt.errors import ConfigError
from hybridprompt.video.picture import Picture, Plane

PANEL_SIDE = 640
"""Longer side of a panel in pixels."""

_GAP = 8
_CAPTION = 30
_DPI = 100
_STEP = 16


@dataclass(frozen=True)
class Panel:
    """One picture of a row, and what is written above it."""

    picture: Picture
    caption: str


@dataclass(frozen=True)
class Moment:
    """The source and what two methods show of one frame."""

    source: Panel
    peer: Panel
    ours: Panel

    @property
    def panels(self) -> tuple[Panel, Panel, Panel]:
        return self.source, self.peer, self.ours


def panel_size(width: int, height: int) -> tuple[int, int]:
    """Width and height of a panel for pictures of that size: same shape, never enlarged."""
    scale = min(1.0, PANEL_SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def most_different(a: Plane, b: Plane, size: tuple[int, int]) -> tuple[int, int]:
    """Top and left of the window of ``size`` (width, height) in which two lumas differ most."""
    width, height = size
    difference = np.abs(a.astype(np.int32) - b)
    sums = np.pad(difference.cumsum(0, dtype=np.int64).cumsum(1), ((1, 0), (1, 0)))
    windows = (
        sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    )[::_STEP, ::_STEP]
    row, column = np.unravel_index(int(windows.argmax()), windows.shape)
    return int(row) * _STEP, int(column) * _STEP


def draw(moments: Sequence[Moment], path: Path) -> None:
    """Write a PNG: per moment a row of whole frames, and one of crops where peer and ours differ most.

    Raises ConfigError when matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            "the demo draws with matplotlib; install it with: pip install 'hybridprompt[evaluate]'"
        ) from error
    first = moments[0].source.picture
    width, height = panel_size(first.width, first.height)
    figure_width = 3 * width + 4 * _GAP
    figure_height = len(moments) * 2 * (_CAPTION + height + _GAP)
    figure = Figure(figsize=(figure_width / _DPI, figure_height / _DPI), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)

    def place(image: NDArray[np.uint8], column: int, row: int, caption: str) -> object:
        left = _GAP + column * (width + _GAP)
        top = row * (_CAPTION + height + _GAP) + _CAPTION
        bounds = (
            left / figure_width,
            1 - (top + height) / figure_height,
            width / figure_width,
            height / figure_height,
        )
        axes = figure.add_axes(bounds)
        axes.imshow(image, aspect="auto", interpolation="antialiased")
        axes.set_axis_off()
        figure.text(
            left / figure_width, 1 - (top - 8) / figure_height, caption, fontsize=10.5, va="bottom", ha="left"
        )
        return axes

    for number, moment in enumerate(moments):
        top, left = most_different(moment.peer.picture.y, moment.ours.picture.y, (width, height))
        for column, panel in enumerate(moment.panels):
            rgb = panel.picture.to_rgb()
            whole = place(rgb, column, 2 * number, panel.caption)
            _outline(whole, left, top, width, height)
            crop = rgb[top : top + height, left : left + width]
            note = "the framed part at 1:1 (where the two codings differ most)" if column == 0 else ""
            place(crop, column, 2 * number + 1, note)
    figure.savefig(path, dpi=_DPI)


def _outline(axes: object, left: int, top: int, width: int, height: int) -> None:
    from matplotlib.patches import Rectangle

    frame = Rectangle((left, top), width, height, fill=False, edgecolor="yellow", linewidth=1)
    axes.add_patch(frame)  # type: ignore[attr-defined]
