"""`hybridprompt evaluate`: where HybridPrompt stands against other codecs at the same bytes."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hybridprompt.cli.common import messages, options, report, say
from hybridprompt.cli.encode import parse_rate
from hybridprompt.errors import ConfigError, HybridPromptError

if TYPE_CHECKING:
    from hybridprompt.evaluate.runner import Evaluation, Moment, Outcome, ProgressCallback

_TABLE_WIDTH = 120
_TABLE_METRICS = ("LPIPS-Alex", "LPIPS-VGG", "DISTS", "VMAF")
_RELATIVE_METRICS = ("LPIPS-Alex", "DISTS", "VMAF")


def _list(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def _flags(
    clips: list[Path] | None, rates: str | None, methods: str | None, others: dict[str, Any]
) -> dict[str, Any]:
    from hybridprompt.evaluate.methods import parse_method
    from hybridprompt.evaluate.settings import RateClass

    flags = dict(others)
    if clips:
        flags["clips"] = tuple(clips)
    if rates is not None:
        flags["rates"] = (RateClass(0, tuple(map(parse_rate, _list(rates) or []))),)
    if methods is not None:
        flags["methods"] = tuple(map(parse_method, _list(methods) or []))
    for name in ("scales", "metrics"):
        if flags[name] is not None:
            flags[name] = tuple(_list(flags[name]) or [])
    return flags


@contextmanager
def _live_progress() -> "Iterator[ProgressCallback | None]":
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    if options.quiet:
        yield None
        return
    if not messages.is_terminal:
        yield _lines()
        return
    with Progress(
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        BarColumn(bar_width=24),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        console=messages,
        transient=True,
    ) as bar:
        task = bar.add_task("starting", total=1, left="")

        def show(moment: "Moment") -> None:
            bar.update(
                task, completed=moment.done, total=moment.total, description=_what(moment), left=_left(moment)
            )

        yield show


def _lines() -> "ProgressCallback":
    """Progress where there is no terminal: one line per result."""
    said: set[tuple[str, str, float]] = set()

    def show(moment: "Moment") -> None:
        result = moment.clip, moment.method, moment.target_kbps
        if result not in said:
            said.add(result)
            left = _left(moment)
            report(f"{moment.done}/{moment.total} {_what(moment)}{', ' + left if left else ''}")

    return show


def _what(moment: "Moment") -> str:
    return f"{moment.clip}, {moment.method} at {moment.target_kbps:g} kbit/s: {moment.stage}"


def _left(moment: "Moment") -> str:
    if moment.seconds_left is None:
        return ""
    minutes = round(moment.seconds_left / 60)
    if minutes < 1:
        return "less than a minute left"
    return (
        f"about {minutes // 60} h {minutes % 60:02d} min left"
        if minutes >= 60
        else f"about {minutes} min left"
    )


def evaluate(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="[CONFIG.toml]", help="Settings; flags go before them.", show_default=False),
    ] = None,
    clips: Annotated[
        list[Path] | None,
        typer.Option("--clips", metavar="DIR|FILE", help="Clips to use; may come more than once."),
    ] = None,
    rates: Annotated[
        str | None, typer.Option(metavar="100k,200k", help="Rates of the video track, for all clips.")
    ] = None,
    methods: Annotated[
        str | None, typer.Option(metavar="A,B", help="E.g. hybridprompt-fast,svt-av1,x265@1/2.")
    ] = None,
    scales: Annotated[
        str | None, typer.Option(metavar="1,2/3", help="Scales at which every peer is tried.")
    ] = None,
    metrics: Annotated[str | None, typer.Option(metavar="A,B", help="Only these metrics.")] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Use so many seconds of each clip; 0 for all.", show_default="4")
    ] = None,
    start_share: Annotated[
        float | None,
        typer.Option(help="Begin at this share of each clip; 0.5 is its second half.", show_default="0"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the results.", show_default="out/evaluate")
    ] = None,
    light_frames: Annotated[
        int | None, typer.Option(help="Frames of the cheap metrics.", show_default="10")
    ] = None,
    heavy_frames: Annotated[
        int | None, typer.Option(help="Frames of LPIPS-VGG and DISTS.", show_default="2")
    ] = None,
    speed: Annotated[
        bool | None,
        typer.Option("--speed/--no-speed", help="Measure decoding, too.", show_default="no-speed"),
    ] = None,
    generator: Annotated[
        Path | None,
        typer.Option(
            metavar="SIZE|FILE",
            help="Generator: small, medium, large, or an ONNX file.",
            show_default="medium",
        ),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the encodes.", show_default="DIR/cache")
    ] = None,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no report.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON lines.")] = False,
) -> None:
    """Compare HybridPrompt with other codecs at the same bytes, on your own clips.

    A run that was interrupted goes on where it was; a finished one is only shown again.
    """
    _need_torch()
    from hybridprompt.encode.method import make_method
    from hybridprompt.evaluate.runner import Evaluation
    from hybridprompt.evaluate.settings import load_settings

    others = {
        "scales": scales,
        "metrics": metrics,
        "start_share": start_share,
        "seconds": seconds,
        "output": output,
        "light_frames": light_frames,
        "heavy_frames": heavy_frames,
        "speed": speed,
        "generator": generator,
    }
    settings = load_settings(config, _flags(clips, rates, methods, others))
    evaluation = Evaluation(settings, make_method, cache_folder=cache)
    try:
        with _live_progress() as progress:
            evaluation.progress = progress
            outcome = evaluation.run()
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from here")
        raise
    index = None if no_report else _write_report(evaluation)
    _show(outcome, as_json=as_json)
    if index is not None:
        report(f"report: {index}")
    if not outcome.complete:
        raise typer.Exit(1)


def _need_torch() -> None:
    from importlib.util import find_spec

    if find_spec("torch") is None:
        raise ConfigError(
            "torch is not installed; install it with: pip install 'hybridprompt[encode,evaluate]'"
        )


def _write_report(evaluation: "Evaluation") -> Path | None:
    try:
        from hybridprompt.evaluate.report.build import write_report
    except ImportError as error:
        say(f"[yellow]warning:[/] no report: {escape(str(error))}")
        return None
    stored = evaluation.stored_pictures()
    try:
        index: Path = write_report(
            evaluation.settings.output,
            pictures=lambda record, frames: stored.decoded(dict(record.raw), frames),
            source=lambda record, frames: stored.source(dict(record.raw), frames),
        )
    except HybridPromptError as error:
        say(f"[yellow]warning:[/] no report: {escape(str(error))}")
        return None
    return index


def _show(outcome: "Outcome", *, as_json: bool) -> None:
    if as_json:
        for record in outcome.records:
            print(json.dumps(record))
    elif not options.quiet:
        # Nobody's lines end at 80 columns in a file.
        console = Console(highlight=False)
        console.width = max(console.width, _TABLE_WIDTH)
        for table in _tables(outcome):
            console.print(table)
    for record in outcome.errors:
        where = f"{record['clip']}, {record['method']} at {record['target_kbps']:g} kbit/s"
        say(f"[red]error:[/] {escape(where)}: {escape(record['error'])}")
    for name, why in outcome.missing.items():
        say(f"[red]missing:[/] {escape(name)}: {escape(why)}")
    report(
        f"{len(outcome.records)} results in {outcome.folder / 'results.jsonl'}: "
        f"{outcome.reused} were there, {outcome.encodes} encodes made, {len(outcome.errors)} errors"
    )


def _tables(outcome: "Outcome") -> list[Table]:
    from hybridprompt.evaluate.summary import Row, rows

    found: dict[int, list[Row]] = {}
    for row in rows(outcome.records, _TABLE_METRICS):
        found.setdefault(row.rate_index, []).append(row)
    tables = []
    for place, group in found.items():
        table = Table(
            title=f"Rate {place + 1} of {len(found)}: means over clips; change against the best SVT-AV1"
        )
        table.add_column("method")
        for name in ("clips", "kbit/s", *_TABLE_METRICS):
            table.add_column(name, justify="right")
        for row in group:
            cells = [_cell(row, metric) for metric in _TABLE_METRICS]
            kbps = f"{row.kbps:.1f}" + (f" ({row.unmatched} below)" if row.unmatched else "")
            table.add_row(escape(row.method), str(row.clips), kbps, *cells)
        tables.append(table)
    return tables


def _cell(row: Any, metric: str) -> str:
    if metric not in row.values:
        return "-"
    text = f"{row.values[metric]:.1f}" if metric == "VMAF" else f"{row.values[metric]:.4f}"
    if metric in _RELATIVE_METRICS and metric in row.relative:
        text += f" ({row.relative[metric]:+.1f} %)"
    return text
