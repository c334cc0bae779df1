"""The report's plots as PNG, each with the numbers it draws as CSV.

No date, version or random name goes into a file: the same records give the same bytes.
"""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hybridprompt.errors import ConfigError
from hybridprompt.evaluate.report.hull import best, hull, mean_curve, points
from hybridprompt.evaluate.report.load import OURS, PEER, Run
from hybridprompt.evaluate.report.metrics import PRIMARY, higher_is_better, ordered
from hybridprompt.evaluate.report.speed_table import speed_groups

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 100
_COLUMNS = 3
# Okabe and Ito's colours: told apart without seeing red or green.
_FAMILY_COLOURS = {
    OURS: "#d55e00",
    PEER: "#0072b2",
    "x265": "#009e73",
    "x264": "#cc79a7",
    "vp9": "#e69f00",
    "frame-by-frame": "#56b4e9",
}
_OTHER_COLOURS = ("#444444", "#8c6d31", "#7b4173", "#637939")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


@dataclass(frozen=True)
class Plot:
    """A picture and its numbers.  name: of the files, without ending."""

    name: str
    caption: str
    png: bytes
    csv: str


def all_plots(run: Run) -> list[Plot]:
    """Every plot of the report that the run has numbers for, LPIPS-Alex against rate first."""
    plots: list[Plot] = []
    for metric in ordered(run.metrics):
        plots += rate_plots(run, metric)
    return plots + frame_plots(run) + speed_plots(run)


def rate_plots(run: Run, metric: str) -> list[Plot]:
    """A metric against rate: the mean over all clips (where there is one), and clip by clip."""
    found = [mean_rate_plot(run, metric), clip_rate_plot(run, metric)]
    return [plot for plot in found if plot is not None]


def mean_rate_plot(run: Run, metric: str) -> Plot | None:
    """Means over all clips of each family's best; None where clips and rates allow no mean."""
    curves = {family: mean_curve(run, family, metric) for family in run.families}
    curves = {family: curve for family, curve in curves.items() if curve}
    if not curves or len(run.clips) < 2:
        return None
    with _figure(7.2, 4.6) as figure:
        axes = figure.add_subplot()
        for family, curve in curves.items():
            axes.plot(
                [p.rate_kbps for p in curve],
                [p.value for p in curve],
                **_style(run, family),
                label=_text(_family_label(run, family)),
            )
        _finish_rate_axes(axes, metric, [p.rate_kbps for p in next(iter(curves.values()))])
        axes.set_title(f"mean of {len(run.clips)} clips")
        axes.legend(fontsize=9)
        png = _png(figure)
    rows = [
        (family, point.step.label, f"{point.rate_kbps:.3f}", f"{point.value:.6f}")
        for family, curve in curves.items()
        for point in curve
    ]
    table = _csv(("family", "target", "rate_kbps", metric), rows)
    return Plot(
        f"rate_{_slug(metric)}_mean", f"{metric} against rate, mean of {len(run.clips)} clips", png, table
    )


def clip_rate_plot(run: Run, metric: str) -> Plot | None:
    """One panel per clip: each family's hull, and its single methods thinly behind it."""
    clips = [clip for clip in run.clips if points(run.select(clip=clip), metric)]
    if not clips:
        return None
    rows: list[tuple[str, ...]] = []
    with _panels(len(clips), 4.4, 3.3) as (figure, panels):
        labelled: dict[str, Artist] = {}
        for axes, clip in zip(panels, clips, strict=True):
            for family in run.families:
                rows += _draw_family(axes, run, clip, family, metric, labelled)
            _finish_rate_axes(axes, metric, run.targets(clip))
            axes.set_title(_text(clip), fontsize=9)
        _shared_legend(figure, labelled)
        png = _png(figure)
    table = _csv(("clip", "family", "method", "target_kbps", "rate_kbps", metric, "on_hull"), rows)
    return Plot(f"rate_{_slug(metric)}_clips", f"{metric} against rate, clip by clip", png, table)


def frame_plots(run: Run, metric: str = PRIMARY) -> list[Plot]:
    """A metric frame by frame: one picture per clip, one panel per target rate, each family's best."""
    out = []
    names: set[str] = set()
    for clip in run.clips:
        targets = [
            target
            for target in run.targets(clip)
            if any(r.per_frame.get(metric) for r in run.select(clip=clip, target_kbps=target))
        ]
        if targets:
            name = _unused(f"frames_{_slug(clip)}", names)
            out.append(_frame_plot(run, clip, targets, metric, name))
    return out


def speed_plots(run: Run) -> list[Plot]:
    """Bars of encoding and decoding speed, one picture per picture size."""
    groups = speed_groups(run)
    out = []
    for size in dict.fromkeys(size for size, _, _ in groups):
        bars = []
        for found, method, records in groups:
            if found != size:
                continue
            encode = [r.encode.frames_per_second for r in records if r.encode is not None]
            decode = [r.decode.frames_per_second for r in records if r.decode is not None]
            speeds = _median(encode), _median(decode)
            if speeds != (None, None):
                bars.append((records[0].family, method, *speeds))
        if bars:
            out.append(_speed_plot(run, size, bars))
    return out


def _draw_family(
    axes: Axes, run: Run, clip: str, family: str, metric: str, labelled: dict[str, Artist]
) -> list[tuple[str, ...]]:
    records = run.select(clip=clip, family=family)
    front = hull(records, metric)
    if not front:
        return []
    methods = run.methods(family)
    style = _style(run, family)
    if len(methods) > 1:
        for method in methods:
            curve = points([r for r in records if r.method == method], metric)
            axes.plot(
                [p.rate_kbps for p in curve],
                [p.value for p in curve],
                color=style["color"],
                linewidth=0.7,
                alpha=0.35,
                marker=".",
                markersize=3,
            )
    (line,) = axes.plot([p.rate_kbps for p in front], [p.value for p in front], **style)
    labelled.setdefault(_family_label(run, family), line)
    on_hull = {id(p.record) for p in front}
    return [
        (
            clip,
            family,
            p.record.method,
            f"{p.record.target_kbps:g}",
            f"{p.rate_kbps:.3f}",
            f"{p.value:.6f}",
            "yes" if id(p.record) in on_hull else "no",
        )
        for p in points(records, metric)
    ]


def _frame_plot(run: Run, clip: str, targets: Sequence[float], metric: str, name: str) -> Plot:
    rows: list[tuple[str, ...]] = []
    labelled: dict[str, Artist] = {}
    with _figure(8.0, 0.8 + 2.1 * len(targets)) as figure:
        panels = figure.subplots(len(targets), 1, sharex=True, squeeze=False)[:, 0]
        for axes, target in zip(panels, targets, strict=True):
            for family in run.families:
                candidates = run.select(clip=clip, family=family, target_kbps=target)
                record = best([r for r in candidates if r.per_frame.get(metric)], metric)
                if record is None:
                    continue
                frames, values = zip(*record.per_frame[metric], strict=True)
                style = _style(run, family) | {"markersize": 3, "linewidth": 1.2}
                (line,) = axes.plot(frames, values, **style)
                labelled.setdefault(_family_label(run, family), line)
                rows += [
                    (f"{target:g}", family, record.method, str(frame), f"{value:.6f}")
                    for frame, value in zip(frames, values, strict=True)
                ]
            axes.set_title(f"{target:g} kbit/s", fontsize=9)
            axes.set_ylabel(_axis_label(metric), fontsize=8)
            axes.grid(alpha=0.3)
        panels[-1].set_xlabel("frame")
        _shared_legend(figure, labelled)
        png = _png(figure)
    table = _csv(("target_kbps", "family", "method", "frame", metric), rows)
    return Plot(name, f"{metric} frame by frame, {clip}", png, table)


def _speed_plot(
    run: Run, size: tuple[int, int], bars: Sequence[tuple[str, str, float | None, float | None]]
) -> Plot:
    width, height = size
    with _figure(9.0, 1.1 + 0.28 * len(bars)) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, index, title in ((panels[0], 2, "encoding"), (panels[1], 3, "decoding")):
            speeds = [bar[index] for bar in bars]
            positions = range(len(bars))
            axes.barh(
                positions,
                [speed or 0.0 for speed in speeds],
                color=[_colour(run, family) for family, *_ in bars],
                height=0.7,
            )
            for position, speed in zip(positions, speeds, strict=True):
                text = "not measured" if speed is None else f"{speed:.3g}"
                axes.text(float(speed or 0.0), position, f" {text}", va="center", fontsize=8)
            axes.set_yticks(positions, [_text(method) for _, method, *_ in bars], fontsize=8)
            axes.set_title(title, fontsize=9)
            axes.set_xlabel("frames/s, median")
            axes.margins(x=0.18)
            axes.grid(axis="x", alpha=0.3)
        panels[0].invert_yaxis()
        png = _png(figure)
    rows = [
        (method, *("" if speed is None else f"{speed:.3f}" for speed in (encode, decode)))
        for _, method, encode, decode in bars
    ]
    table = _csv(("method", "encode_frames_per_second", "decode_frames_per_second"), rows)
    return Plot(f"speed_{width}x{height}", f"Speed at {width}x{height}", png, table)


def _finish_rate_axes(axes: Axes, metric: str, targets: Sequence[float]) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    axes.set_xscale("log")
    axes.set_xlabel("kbit/s")
    axes.set_ylabel(_axis_label(metric), fontsize=9)
    # The rates that were asked for, instead of powers of ten; of many, those that leave room for labels.
    ticks: list[float] = []
    for target in sorted(targets):
        if not ticks or target > 1.2 * ticks[-1]:
            ticks.append(target)
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)


def _axis_label(metric: str) -> str:
    return f"{_text(metric)} ({'higher' if higher_is_better(metric) else 'lower'} is better)"


def _family_label(run: Run, family: str) -> str:
    count = len(run.methods(family))
    return f"{family}, best of {count}" if count > 1 else run.methods(family)[0]


def _colour(run: Run, family: str) -> str:
    if family in _FAMILY_COLOURS:
        return _FAMILY_COLOURS[family]
    others = [f for f in run.families if f not in _FAMILY_COLOURS]
    return _OTHER_COLOURS[others.index(family) % len(_OTHER_COLOURS)]


def _style(run: Run, family: str) -> dict[str, Any]:
    index = run.families.index(family)
    return {
        "color": _colour(run, family),
        "marker": _MARKERS[index % len(_MARKERS)],
        "markersize": 5,
        "linewidth": 2.2 if family == OURS else 1.5,
    }


def _shared_legend(figure: Figure, labelled: dict[str, Artist]) -> None:
    figure.legend(
        list(labelled.values()),
        [_text(label) for label in labelled],
        loc="outside lower center",
        ncols=min(len(labelled), 4) or 1,
        fontsize=9,
    )


@contextmanager
def _panels(count: int, width: float, height: float) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure with ``count`` axes in rows of at most three; sizes of one panel in inches."""
    columns = min(count, _COLUMNS)
    rows = -(-count // columns)
    with _figure(max(width * columns, 6.0), height * rows + 0.5) as figure:
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for empty in axes[count:]:
            empty.remove()
        yield figure, axes[:count]


@contextmanager
def _figure(width: float, height: float) -> Iterator[Figure]:
    """A figure of that size in inches, drawn without a display and with the same settings everywhere."""
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            "the report draws with matplotlib; install it with: pip install 'hybridprompt[evaluate]'"
        ) from error
    settings = {
        **matplotlib.rcParamsDefault,
        # Names of clips and methods may hold a "$", which would start a formula.
        "text.parse_math": False,
        "font.size": 10.0,
    }
    settings.pop("backend", None)
    with warnings.catch_warnings(), matplotlib.rc_context(settings):
        warnings.simplefilter("ignore")
        figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def _text(text: str) -> str:
    """A label of one line; matplotlib leaves labels out that start with an underscore."""
    one_line = " ".join(text.split())
    return f" {one_line}" if one_line.startswith("_") else one_line


def _slug(name: str) -> str:
    """A file name: letters, digits and underscores."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:60] or "unnamed"


def _unused(name: str, taken: set[str]) -> str:
    number, found = 2, name
    while found in taken:
        found, number = f"{name}_{number}", number + 1
    taken.add(found)
    return found


def _median(values: Iterable[float | None]) -> float | None:
    import statistics

    known = [value for value in values if value is not None]
    return float(statistics.median(known)) if known else None


def _csv(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return buffer.getvalue()
