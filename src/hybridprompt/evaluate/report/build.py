"""Puts the report together: `report/index.html`, plots with their numbers, and the results as Markdown."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from hybridprompt.errors import ConfigError, MediaError
from hybridprompt.evaluate.report import tables
from hybridprompt.evaluate.report.bd_tables import bd_tables
from hybridprompt.evaluate.report.cells import Cell, Table
from hybridprompt.evaluate.report.crops import Crop, Pictures, find_crops
from hybridprompt.evaluate.report.load import Run, load_run
from hybridprompt.evaluate.report.markdown import markdown
from hybridprompt.evaluate.report.metrics import signed
from hybridprompt.evaluate.report.plots import Plot, all_plots
from hybridprompt.evaluate.report.speed_table import speed_table
from hybridprompt.video.files import PartialFile

REPORT = "report"
_PLOTS = "plots"


def write_report(
    run_folder: Path, *, pictures: Pictures | None = None, source: Pictures | None = None
) -> Path:
    """Write the report of a run folder and return the path of its index.html.

    pictures(record, frames) gives decoded pictures by frame index, source(record, frames) those of the
    source, at the same size; None where they are not there.  Without them there are no crops, and the report
    says so.
    The same records and pictures give the same files; plots of an earlier report that do not belong to this
    one are removed.  Raises ConfigError for records that cannot be read, MediaError where nothing can be
    written.
    """
    run_folder = Path(run_folder)
    run = load_run(run_folder)
    plots = all_plots(run)
    found = find_crops(run, pictures, source)
    page = _render(run, plots, found.crops, found.notes)
    report = run_folder / REPORT
    try:
        (report / _PLOTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(f"{report}: cannot be made ({error.strerror or error})") from error
    wanted = {f"{plot.name}.{ending}" for plot in plots for ending in ("png", "csv")}
    for plot in plots:
        _write(report / _PLOTS / f"{plot.name}.png", plot.png)
        _write(report / _PLOTS / f"{plot.name}.csv", plot.csv.encode())
    for old in (report / _PLOTS).iterdir():
        if old.suffix in (".png", ".csv") and old.name not in wanted:
            old.unlink()
    _write(report / "results.md", markdown(run).encode())
    # Last: a page that is there has everything beside it.
    index = report / "index.html"
    _write(index, page.encode())
    return index


def main_markdown(run_folder: Path, output: Path) -> Path:
    """Write the results of a run folder as Markdown to ``output``, replacing it.

    Raises like `write_report`.
    """
    text = markdown(load_run(Path(run_folder)))
    _write(Path(output), text.encode())
    return Path(output)


def _write(path: Path, data: bytes) -> None:
    partial = PartialFile(path, overwrite=True)
    try:
        partial.path.write_bytes(data)
        partial.commit()
    except OSError as error:
        raise MediaError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        partial.discard()


def _render(run: Run, plots: list[Plot], crops: Any, crop_notes: Any) -> str:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise ConfigError(
            "the report needs Jinja2; install it with: pip install 'hybridprompt[evaluate]'"
        ) from error
    environment = Environment(
        loader=PackageLoader("hybridprompt.evaluate.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("report.html.j2").render(
        sentences=tables.sentences(run),
        failures=tables.failure_table(run),
        headline=tables.headline(run),
        bd_tables=bd_tables(run),
        pair_table=tables.pair_table(run),
        result_table=tables.result_table(run),
        missing_metrics=tables.missing_metrics_table(run),
        rate_table=tables.rate_table(run),
        speed_table=speed_table(run),
        method_settings=tables.method_settings_table(run),
        settings=tables.settings_table(run.settings),
        missing=[f"{clip}, {method}, {target:g} kbit/s" for clip, method, target in run.missing()],
        replaced=run.replaced,
        clips=_clips(run),
        rate_plots=_inlined(plots, "rate_"),
        frame_plots=_inlined(plots, "frames_"),
        speed_plots=_inlined(plots, "speed_"),
        crops=[_shown(crop) for crop in crops],
        crop_notes=crop_notes,
    )


def _clips(run: Run) -> Table:
    rows = []
    for clip in run.clips:
        records = run.select(clip=clip)
        first = records[0] if records else None
        rates = ", ".join(f"{target:g}" for target in run.targets(clip))
        shape = ("no result", "", "") if first is None else (
            f"{first.width}x{first.height}",
            f"{first.frames} at {first.frame_rate:g}/s",
            f"{first.duration_seconds:g}",
        )  # fmt: skip
        rows.append([Cell(text) for text in (clip, *shape, rates)])
    columns = ["clip", "size", "frames", "seconds", "target rates, kbit/s"]
    return Table("Clips", columns, rows, (), 1)


def _inlined(plots: list[Plot], prefix: str) -> list[dict[str, str]]:
    return [
        {"caption": plot.caption, "uri": _data_uri(plot.png)}
        for plot in plots
        if plot.name.startswith(prefix)
    ]


def _shown(crop: Crop) -> dict[str, Any]:
    pair = crop.pair
    return {
        "kind": crop.kind,
        "title": f"{pair.clip} at {pair.target_kbps:g} kbit/s, frame {crop.frame}, "
        f"{crop.width}x{crop.height} at ({crop.left}, {crop.top})",
        "difference": signed(crop.difference, 4),
        "images": [
            {"caption": caption, "uri": _data_uri(png)}
            for caption, png in (
                ("source", crop.source_png),
                (f"{pair.peer.method}, {pair.peer.rate_kbps:.1f} kbit/s", crop.peer_png),
                (f"{pair.ours.method}, {pair.ours.rate_kbps:.1f} kbit/s", crop.ours_png),
            )
        ],
    }


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
