"""`hybridprompt inspect`: what a file spends where."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from hybridprompt.decode.inspect import AnchorReport, FileReport


def inspect(
    input_path: Annotated[Path, typer.Argument(metavar="FILE", help="An AV1, H.264 or H.265 file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Show the report as JSON.")] = False,
    generator: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A further generator (ONNX) to know by name."),
    ] = None,
) -> None:
    """Show the GOPs, the prompts, and the bytes they take."""
    from hybridprompt.decode.inspect import inspect_file

    found = inspect_file(input_path, generators=generator or ())
    if as_json:
        print(json.dumps(found.as_dict(), indent=2))
        return
    console = Console(highlight=False)
    console.print(_summary(found))
    console.print(_gop_table(found))
    if found.anchors:
        console.print(_anchor_table(found))


def _summary(found: "FileReport") -> str:
    return (
        f"[bold]{escape(found.path)}[/]: {found.width}x{found.height}, {found.average_rate:g} Hz, "
        f"{found.duration_seconds:.2f} s, {found.picture_count} pictures, {found.size_bytes} bytes\n"
        f"base {found.base_kbps:.1f} kbit/s, prompts {found.prompt_kbps:.2f} kbit/s"
    )


def _gop_table(found: "FileReport") -> Table:
    table = Table(title="GOPs")
    for name in ("start s", "length s", "pictures", "base bytes", "prompts", "prompt bytes"):
        table.add_column(name, justify="right")
    for gop in found.gops:
        table.add_row(
            f"{gop.start_seconds:.3f}",
            f"{gop.duration_seconds:.3f}",
            str(gop.picture_count),
            str(gop.base_bytes),
            str(len(gop.anchors)),
            str(gop.prompt_bytes),
        )
    return table


def _anchor_table(found: "FileReport") -> Table:
    table = Table(title="Prompts")
    for name in ("time s", "bytes", "quantiser", "gate", "still", "adapter"):
        table.add_column(name, justify="right")
    for name in ("sections", "generator", "state"):
        table.add_column(name)
    for anchor in found.anchors:
        table.add_row(
            f"{anchor.pts_seconds:.3f}",
            str(anchor.size_bytes),
            "-" if anchor.quantiser is None else str(anchor.quantiser),
            _gate(anchor),
            _still(anchor),
            _adapter(anchor),
            ", ".join(f"{s.name or s.type} {s.size_bytes}" for s in anchor.sections) or "-",
            escape(_generator(anchor)),
            "ok" if anchor.is_ok else f"[red]{escape(anchor.state)}[/]",
        )
    return table


def _gate(anchor: "AnchorReport") -> str:
    if anchor.gate_coverage is None or anchor.gate_strength is None:
        return "-"
    return f"{anchor.gate_coverage:.0%} of blocks, mean {anchor.gate_strength:.2f}"


def _still(anchor: "AnchorReport") -> str:
    still = anchor.still
    return "-" if still is None else f"{still.codec} {still.width}x{still.height}, {still.size_bytes} bytes"


def _adapter(anchor: "AnchorReport") -> str:
    adapter = anchor.adapter
    return "-" if adapter is None else f"{adapter.changed_count} of {adapter.value_count} values"


def _generator(anchor: "AnchorReport") -> str:
    if anchor.generator_id is None:
        return "-"
    return f"{anchor.generator_id} ({anchor.generator_name or 'not known here'})"
