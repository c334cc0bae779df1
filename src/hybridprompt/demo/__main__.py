"""python -m hybridprompt.demo: the same bytes as plain AV1 and as HybridPrompt, side by side."""

import logging
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from hybridprompt.errors import ConfigError, HybridPromptError

if TYPE_CHECKING:
    from hybridprompt.demo.report import DemoReport


class _Preset(StrEnum):
    FAST = "fast"
    MEDIUM = "medium"
    SLOW = "slow"


def main(
    clip: Annotated[Path | None, typer.Option(help="A video of your own; else one is fetched.")] = None,
    seconds: Annotated[float, typer.Option(help="How much of it.")] = 8.0,
    bitrate: Annotated[float, typer.Option(help="kbit/s.")] = 200.0,
    preset: Annotated[_Preset, typer.Option()] = _Preset.FAST,
    generator: Annotated[
        Path | None, typer.Option(metavar="SIZE|FILE", help="small, medium, large, or an ONNX file.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out/demo"),
    cache: Annotated[Path, typer.Option(help="Folder where a fetched clip is kept.")] = Path(".cache/demo"),
) -> None:
    """Encode a clip, and compare it with plain SVT-AV1 of the same bytes."""
    console = Console()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        report = _run(console, clip, seconds, bitrate, preset.value, generator, out, cache)
    except HybridPromptError as error:
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False)
        sys.exit(1)
    from hybridprompt.demo.report import sentences, table

    console.print(table(report))
    for sentence in sentences(report):
        console.print(sentence, highlight=False)
    console.print(
        f"Look at {out / 'side_by_side.png'}; play {out / 'hybridprompt.mp4'} and {out / 'av1.mp4'}."
    )


def _run(
    console: Console,
    given: Path | None,
    seconds: float,
    bitrate_kbps: float,
    preset: str,
    generator: Path | None,
    out: Path,
    cache: Path,
) -> "DemoReport":
    try:
        from hybridprompt.demo.clip import find_clip
        from hybridprompt.demo.run import DemoSettings, run_demo
    except ImportError as error:
        raise ConfigError(f"{error}; the demo needs: pip install 'hybridprompt[encode,evaluate]'") from error
    settings = DemoSettings(
        seconds=seconds,
        bitrate_kbps=bitrate_kbps,
        preset=preset,  # type: ignore[arg-type]
        generator=generator,
    )
    data = os.environ.get("HYBRIDPROMPT_DATA")
    with console.status("looking for a clip") as status:
        clip = find_clip(given, cache, Path(data) if data else None)
        console.print(f"clip: {clip.path} ({clip.credit})", highlight=False)
        return run_demo(clip, out, settings, tell=status.update)


if __name__ == "__main__":
    typer.run(main)
