"""`hybridprompt decode`: play a file into another file, a pipe or a folder of pictures."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from hybridprompt.cli.common import progress_bar, report
from hybridprompt.errors import ConfigError, MediaError

# PyAV and NumPy take a while to import, and "--help" shall not wait for them.
if TYPE_CHECKING:
    from hybridprompt.decode.video_file import VideoFile
    from hybridprompt.video.writers import PictureWriter

_VIDEO_SUFFIXES: Final = (".mp4", ".m4v", ".mov", ".mkv")
_PROGRESS_STEP: Final = 8


def decode(
    input_path: Annotated[Path, typer.Argument(metavar="INPUT", help="Any video file.")],
    output: Annotated[
        str | None,
        typer.Argument(
            metavar="[OUTPUT]",
            help="A .y4m, .mp4 or .mkv file (the latter visually lossless H.264), or - for Y4M to stdout.",
            show_default=False,
        ),
    ] = None,
    frames: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write PNG files to this folder.", show_default=False)
    ] = None,
    base: Annotated[
        bool, typer.Option("--base", help="Ignore prompts: show what the codec decodes.")
    ] = False,
    start: Annotated[float | None, typer.Option(metavar="SECONDS", min=0, help="Begin here.")] = None,
    duration: Annotated[float | None, typer.Option(metavar="SECONDS", min=0, help="Stop after this.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="GOPs decoded at a time.", show_default="one per core, at most 4"),
    ] = None,
    generator: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A further generator (ONNX); may come more than once."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what exists already.")] = False,
) -> None:
    """Decode a video, with the detail its prompts generate."""
    if output is None and frames is None:
        raise ConfigError("nothing to write: give OUTPUT or --frames DIR")
    from hybridprompt.decode.video_file import VideoFile

    began = time.monotonic()
    with VideoFile(input_path, base=base, generators=generator or (), workers=workers) as video:
        count, anchors = 0, 0
        with contextlib.ExitStack() as stack:
            writers = [stack.enter_context(w) for w in _writers(video, output, frames, overwrite)]
            bar = stack.enter_context(progress_bar())
            length = duration if duration is not None else video.duration_seconds
            task = bar.add_task("decoding", total=length and length * float(video.average_rate))
            for picture in video.pictures(start, duration):
                for writer in writers:
                    writer.write(picture.picture)
                count += 1
                anchors += picture.is_anchor
                if count % _PROGRESS_STEP == 0:
                    bar.update(task, completed=count)
            if count == 0:
                raise MediaError(f"{input_path}: no picture could be decoded{_where(start, duration)}")
            for writer in writers:
                writer.commit()
    seconds = time.monotonic() - began
    report(f"{count} pictures, {anchors} generated, in {seconds:.1f} s ({count / seconds:.0f}/s)")


def _writers(
    video: "VideoFile", output: str | None, frames: Path | None, overwrite: bool
) -> "Iterator[PictureWriter]":
    from hybridprompt.video.writers import PngDirWriter, VideoWriter, Y4mWriter

    if output is not None:
        suffix = Path(output).suffix.lower()
        is_pipe = output == "-" or (Path(output).exists() and not Path(output).is_file())
        if not is_pipe and Path(output).exists() and Path(output).samefile(video.path):
            raise ConfigError(f"{output}: is the input itself")
        if is_pipe or suffix == ".y4m":
            yield Y4mWriter(output, frame_rate=video.average_rate, overwrite=overwrite)
        elif suffix in _VIDEO_SUFFIXES:
            yield VideoWriter(
                output,
                frame_rate=video.average_rate,
                sample_aspect_ratio=video.sample_aspect_ratio,
                overwrite=overwrite,
            )
        else:
            raise ConfigError(
                f"{output}: unknown file type, expected .y4m, {', '.join(_VIDEO_SUFFIXES)} or -"
            )
    if frames is not None:
        yield PngDirWriter(frames, overwrite=overwrite)


def _where(start: float | None, duration: float | None) -> str:
    if start is None and duration is None:
        return ""
    return f" from {start or 0:g} s" + ("" if duration is None else f" for {duration:g} s")
