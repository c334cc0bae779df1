"""`hybridprompt encode` and `hybridprompt enhance`: make files with prompts."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from hybridprompt.cli.common import messages, options, report
from hybridprompt.errors import ConfigError

# PyAV, NumPy and torch take a while to import, and "--help" shall not wait for them.
if TYPE_CHECKING:
    from hybridprompt.encode.progress import EncodeSummary, ProgressCallback

_STAGES = {
    "analyse": "analysing",
    "encode": "encoding",
    "correct": "meeting the target",
    "write": "writing",
}


def parse_rate(text: str) -> float:
    """Read a bitrate such as ``200k``, ``1.5M`` or ``200000`` (bit/s) as kbit/s.  Raises ConfigError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKmM]?)(?:bit/s|bps|b)?\s*", text)
    if match is None:
        raise ConfigError(f"bitrate is {text!r}, expected a number such as 200k or 1.5M")
    return float(match[1]) * {"": 0.001, "k": 1.0, "m": 1000.0}[match[2].lower()]


def parse_interval(text: str) -> int | None:
    """Read an anchor interval: frames, or ``off``.  Raises ConfigError."""
    if text.strip().lower() == "off":
        return None
    if not text.strip().isdigit():
        raise ConfigError(f"anchor interval is {text!r}, expected a number of frames or off")
    return int(text)


@contextmanager
def _live_progress() -> "Iterator[ProgressCallback | None]":
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from hybridprompt.encode.progress import Progress as Moment

    if options.quiet or not messages.is_terminal:
        yield None
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} pictures, {task.fields[pace]:.1f}/s"),
        TimeRemainingColumn(),
        console=messages,
        transient=True,
    ) as bar:
        task = bar.add_task("starting", total=1, pace=0.0)

        def show(moment: Moment) -> None:
            bar.update(
                task,
                description=_STAGES[moment.stage],
                completed=moment.done,
                total=max(moment.total, moment.done, 1),
                pace=moment.frames_per_second,
            )

        yield show


def _show_summary(summary: "EncodeSummary", output: Path, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"output": str(output), **summary.as_dict()}))
        return
    if options.quiet:
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("output", str(output))
    table.add_row(
        "video",
        f"{summary.frames} pictures, {summary.duration_seconds:.2f} s, {summary.gops} GOPs, "
        f"{summary.anchors} anchors",
    )
    rate = f"{summary.rate_kbps:.1f} kbit/s"
    if summary.target_kbps is not None:
        rate += (
            f" (target {summary.target_kbps:g}, {100 * (summary.rate_kbps / summary.target_kbps - 1):+.1f} %)"
        )
    table.add_row("rate", rate)
    share = 100 * summary.prompt_bytes / max(summary.base_bytes + summary.prompt_bytes, 1)
    table.add_row("bytes", f"{summary.base_bytes} base + {summary.prompt_bytes} prompts ({share:.2f} %)")
    if summary.distances is not None:
        d = summary.distances
        change = f" ({100 * (d.decoded / d.base - 1):+.1f} %)" if d.base > 0 else ""
        table.add_row(d.metric, f"base {d.base:.4f}, with prompts {d.decoded:.4f}{change}, on sampled frames")
    table.add_row("time", f"{summary.elapsed_seconds:.1f} s")
    for note in summary.notes:
        table.add_row("note", note)
    Console(stderr=True, highlight=False, soft_wrap=True).print(table)


def encode(
    input_path: Annotated[Path, typer.Argument(metavar="INPUT", help="Any video file.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT.mp4", help="The MP4 file to make.")],
    bitrate: Annotated[
        str | None, typer.Option(help="Rate of the whole video track, e.g. 200k.", show_default=False)
    ] = None,
    crf: Annotated[
        float | None,
        typer.Option(
            help="Constant quality instead: 1 to 70 (h265, h264: 10 to 51), lower is finer.",
            show_default=False,
        ),
    ] = None,
    quality: Annotated[
        float | None,
        typer.Option(
            metavar="LPIPS",
            help="Constant distance from the source instead, in LPIPS-Alex, e.g. 0.15; lower is finer.",
            show_default=False,
        ),
    ] = None,
    max_rate: Annotated[
        str | None,
        typer.Option(
            help="Largest rate with the sound, e.g. 400k, for clients on a line of that rate.",
            show_default=False,
        ),
    ] = None,
    buffer: Annotated[
        float | None, typer.Option(help="Seconds of --max-rate that a client buffers.", show_default="4")
    ] = None,
    gop_seconds: Annotated[float, typer.Option(help="Longest GOP.")] = 4.0,
    preset: Annotated[str, typer.Option(help="fast, medium or slow.")] = "medium",
    anchor_interval: Annotated[
        str, typer.Option(metavar="FRAMES|off", help="Anchors inside a GOP: a multiple of 32, or off.")
    ] = "32",
    tune: Annotated[str, typer.Option(help="What SVT-AV1 aims at: vq, psnr or ssim.")] = "vq",
    generator: Annotated[
        Path | None,
        typer.Option(
            metavar="SIZE|FILE",
            help="Generator: small, medium, large, or an ONNX file.",
            show_default="medium",
        ),
    ] = None,
    prompts: Annotated[
        str,
        typer.Option(
            help="What prompts are fitted to: gop, all its frames; keyframe, its own picture alone; "
            "blind: the keyframe is generated everywhere alike; none: nothing is."
        ),
    ] = "gop",
    mode: Annotated[
        str,
        typer.Option(
            help="enhance: a stream that any player shows whole, refined by prompts; "
            "replace: keyframes are in prompts only."
        ),
    ] = "enhance",
    codec: Annotated[str, typer.Option(help="av1, h265 or h264.")] = "av1",
    legacy_keyframe: Annotated[
        int | None,
        typer.Option(
            metavar="BYTES",
            help="With --mode replace: a keyframe of so many bytes for players without prompts.",
            show_default="grey",
        ),
    ] = None,
    scale: Annotated[
        str,
        typer.Option(
            metavar="auto|SCALE",
            help="Width and height that are coded, of the source's, e.g. 2/3; auto: medium and slow try "
            "smaller ones where a rate is low.",
        ),
    ] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what exists already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Encode a video with generated keyframes and anchors."""
    from hybridprompt.encode.pipeline import encode_file
    from hybridprompt.encode.settings import EncodeSettings
    from hybridprompt.evaluate.methods import parse_scale

    settings = EncodeSettings(
        bitrate_kbps=None if bitrate is None else parse_rate(bitrate),
        crf=crf,
        quality=quality,
        max_kbps=None if max_rate is None else parse_rate(max_rate),
        buffer_seconds=buffer,
        gop_seconds=gop_seconds,
        preset=preset,  # type: ignore[arg-type]  # checked by EncodeSettings
        anchor_interval=parse_interval(anchor_interval),
        tune=tune,  # type: ignore[arg-type]  # checked by EncodeSettings
        generator=generator,
        prompts=prompts,  # type: ignore[arg-type]  # checked by EncodeSettings
        mode=mode,  # type: ignore[arg-type]  # checked by EncodeSettings
        codec=codec,  # type: ignore[arg-type]  # checked by EncodeSettings
        legacy_keyframe_bytes=legacy_keyframe,
        scale=None if scale.strip().lower() == "auto" else parse_scale(scale),
        overwrite=overwrite,
    )
    with _live_progress() as progress:
        summary = encode_file(input_path, output, settings, progress=progress)
    _show_summary(summary, output, as_json)


def enhance(
    input_path: Annotated[Path, typer.Argument(metavar="INPUT", help="A file with AV1 video.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT.mp4", help="The file to make.")],
    reference: Annotated[
        Path | None,
        typer.Option(metavar="SOURCE", help="What INPUT was made from: prompts are judged against it."),
    ] = None,
    preset: Annotated[str, typer.Option(help="fast, medium or slow: effort of the judging.")] = "medium",
    anchor_interval: Annotated[
        str, typer.Option(metavar="FRAMES|off", help="Anchors inside a GOP (with --reference).")
    ] = "32",
    generator: Annotated[
        Path | None,
        typer.Option(
            metavar="SIZE|FILE",
            help="Generator: small, medium, large, or an ONNX file.",
            show_default="medium",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what exists already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Add prompts to an AV1 file without encoding it again."""
    from hybridprompt.encode.enhance import enhance_file
    from hybridprompt.encode.settings import PRESETS

    if preset not in PRESETS:
        raise ConfigError(f"preset is {preset!r}, expected one of {', '.join(PRESETS)}")
    with _live_progress() as progress:
        summary = enhance_file(
            input_path,
            output,
            reference=reference,
            preset=preset,
            anchor_interval=parse_interval(anchor_interval),
            generator_path=generator,
            overwrite=overwrite,
            progress=progress,
        )
    _show_summary(summary, output, as_json)
    if not summary.anchors:
        report("no picture was generated: the file plays as it did")
