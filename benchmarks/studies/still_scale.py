"""How a prompt should hold a picture: AV1 stills of fewer samples, refined by generators, and other stills.

    python benchmarks/studies/still_scale.py [CLIP ...] [--bits 0.02 0.04 0.08] [--scales 1 2/3 1/2]
                                             [--stills AV1 HEVC AVIF] [--generator FILE ...] [--gated]

The picture in the middle of the second half of each clip, at so many bits for each of its pixels:
  AVIF   libaom by Pillow, speed 4
  HEVC   x265, preset slow
  AV1    as `encode.still_encoder` codes stills, at each scale, brought to full size by Lanczos
and each AV1 still again after every generator, everywhere at strength 1; with --gated, also with the best of
five strengths for every block of 64 samples, by LPIPS-Alex.  Without --generator that is the shipped one.
Distances are interpolated (log over log) between the two stills next to the bytes; those of VGG16 are of the
central part of the picture.  Rows of other clips, stills and generators that are in the table already are
kept.  Quantisers end: where the coarsest still has too many bytes, there is no row.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import find_clips, percent
from figures import FIGURES, at_bytes, save_csv
from still_corpus import smaller_still

from hybridprompt.decode.still import DecodedStill, decode_still
from hybridprompt.encode.judge import LpipsJudge, MapArray
from hybridprompt.evaluate.compare import picture_to_rgb
from hybridprompt.evaluate.perceptual import Dists, Lpips
from hybridprompt.generator.base import Generator, Planes
from hybridprompt.generator.registry import load_chosen, load_shipped
from hybridprompt.video.peer_encoder import PeerSettings, decoded_pictures, encode_peer_file, track_bytes
from hybridprompt.video.picture import Picture
from hybridprompt.video.source import VideoSource

BASE = "AV1 1/2"
"""What others are compared with: the one that reaches all rates."""

METRICS = ("LPIPS-Alex", "LPIPS-VGG", "DISTS")
COLUMNS = ("clip", "bits_per_pixel", "still", "generator", *METRICS)
STILLS = ("AV1", "HEVC", "AVIF")
TABLE = FIGURES / "still_scale.csv"
_CENTRE = 384
_BLOCK = 64
_STRENGTHS = 0.0, 0.5, 1.0, 1.5, 2.0
_QUANTISERS = tuple(crf / 2 for crf in range(40, 127))
"""Of AV1, fine to coarse; encode_still brings them to where stills are good.  Beyond 63 nothing changes."""

_HEVC = tuple(crf / 2 for crf in range(40, 103))
_AVIF = tuple(range(80, -1, -1))


Maker = Callable[[Picture, DecodedStill], Planes]
"""Makes what is shown of a picture's still."""


@dataclass(frozen=True)
class Coded:
    """A still: its bytes, and what is shown of it, as RGB (1, 3, H, W), by the generator's name."""

    size_bytes: int
    shown: Callable[[], dict[str, torch.Tensor]]


def av1(picture: Picture, scale: Fraction, makers: Mapping[str, Maker], crf: float) -> Coded:
    """An AV1 still of fewer samples, alone and as made of it."""
    still = smaller_still(picture, scale, crf)

    def shown() -> dict[str, torch.Tensor]:
        decoded = decode_still(still, picture.width, picture.height)
        found = {"none": decoded.planes}
        for name, make in makers.items():
            found[name] = make(picture, decoded)
        return {name: picture_to_rgb(replace(picture, y=y, u=u, v=v)) for name, (y, u, v) in found.items()}

    return Coded(len(still.data), shown)


def generated(generator: Generator, still: DecodedStill, strengths: NDArray[np.float32]) -> Planes:
    """What a generator makes of a still, with strengths for blocks of 64 samples."""
    return generator.generate(
        still.planes, quantiser=still.base_q_idx, strengths=strengths, block_size=_BLOCK
    )


def everywhere(generator: Generator) -> Maker:
    """Generates at strength 1."""

    def make(picture: Picture, still: DecodedStill) -> Planes:
        shape = -(-picture.height // _BLOCK), -(-picture.width // _BLOCK)
        return generated(generator, still, np.ones(shape, np.float32))

    return make


def gated(generator: Generator, judge: LpipsJudge) -> Maker:
    """Generates every block at the strength that is nearest to the source, by itself."""

    def make(picture: Picture, still: DecodedStill) -> Planes:
        reference = judge.prepare(picture)

        def distances(planes: Planes) -> MapArray:
            y, u, v = planes
            return judge.distance_map(replace(picture, y=y, u=u, v=v), reference, _BLOCK)

        found = [distances(still.planes)]
        for strength in _STRENGTHS[1:]:
            alike = np.full(found[0].shape, strength, np.float32)
            found.append(distances(generated(generator, still, alike)))
        best = np.array(_STRENGTHS, np.float32)[np.stack(found).argmin(0)]
        return generated(generator, still, best)

    return make


def hevc(picture: Picture, folder: Path, crf: float) -> Coded:
    """One picture of x265."""
    path = folder / f"{crf:g}.mp4"
    settings = PeerSettings(
        codec="x265", width=picture.width, height=picture.height, frame_rate=Fraction(30), crf=crf,
        preset="slow", gop_length=1, color=picture.color,
    )  # fmt: skip
    encode_peer_file([replace(picture, pts=0)], settings, path)

    def shown() -> dict[str, torch.Tensor]:
        (decoded,) = decoded_pictures(path, picture.width, picture.height, picture.color)
        return {"none": picture_to_rgb(decoded)}

    return Coded(track_bytes(path), shown)


def avif(picture: Picture, quality: float) -> Coded:
    """What libaom makes of the picture; the bytes are those of its coded data, without the file around it."""
    rgb = picture_to_rgb(picture)[0].permute(1, 2, 0)
    out = io.BytesIO()
    whole = Image.fromarray((rgb * 255).round().clamp(0, 255).byte().numpy())
    whole.save(out, "AVIF", quality=int(quality), speed=4, subsampling="4:2:0", codec="aom", max_threads=2)
    data = out.getvalue()

    def shown() -> dict[str, torch.Tensor]:
        with Image.open(io.BytesIO(data)) as opened:
            levels = torch.from_numpy(np.array(opened.convert("RGB")))
        return {"none": levels.permute(2, 0, 1)[None].float() / 255}

    return Coded(len(data) - data.index(b"mdat") - 4, shown)


def around(code: Callable[[float], Coded], steps: Sequence[float], target: int) -> list[Coded]:
    """The stills that are next to a number of bytes, above and below it, of steps from fine to coarse.

    Empty where the target is out of reach.
    """
    fits: dict[bool, Coded] = {}
    low, high = 0, len(steps) - 1
    while low <= high:
        middle = (low + high) // 2
        coded = code(steps[middle])
        above = coded.size_bytes > target
        fits[above] = coded
        low, high = (middle + 1, high) if above else (low, middle - 1)
    return list(fits.values()) if len(fits) == 2 else []


class Meter:
    """Distances from a source, RGB (1, 3, H, W)."""

    def __init__(self) -> None:
        self._alex = Lpips("alex", dtype=torch.bfloat16)
        self._central = Lpips("vgg", dtype=torch.bfloat16), Dists(dtype=torch.bfloat16)

    def __call__(self, rgb: torch.Tensor, source: torch.Tensor) -> list[float]:
        height, width = source.shape[-2:]
        side = min(_CENTRE, height, width)
        rows, columns = (slice((n - side) // 2, (n + side) // 2) for n in (height, width))
        with torch.inference_mode():
            pair = [picture[..., rows, columns] for picture in (rgb, source)]
            return [float(self._alex(rgb, source)), *(float(network(*pair)) for network in self._central)]


def distances(
    found: Sequence[Coded], target: int, measure: Callable[[torch.Tensor], list[float]]
) -> dict[str, list[float]]:
    """By generator, the distances at the bytes, interpolated between two stills."""
    points: dict[str, list[list[float]]] = defaultdict(list)
    for coded in found:
        for name, rgb in coded.shown().items():
            points[name].append([coded.size_bytes, *measure(rgb)])
    return {name: at_bytes(rows, target) for name, rows in points.items()}


Rows = dict[tuple[str, str, str, str], list[float]]
"""LPIPS-Alex, LPIPS-VGG and DISTS by clip, bits a pixel, still and generator."""


def known_rows(path: Path) -> Rows:
    """What a table holds; nothing where there is none."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {
            (row["clip"], row["bits_per_pixel"], row["still"], row["generator"]): [
                float(row[m]) for m in METRICS
            ]
            for row in csv.DictReader(file)
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--bits", nargs="+", type=float, default=[0.02, 0.04, 0.08])
    parser.add_argument(
        "--scales", nargs="+", type=Fraction, default=[Fraction(1), Fraction(2, 3), Fraction(1, 2)]
    )
    parser.add_argument("--stills", nargs="+", choices=STILLS, default=list(STILLS))
    parser.add_argument("--generator", nargs="+", type=Path, default=[])
    parser.add_argument("--gated", action="store_true")
    parser.add_argument("--again", action="store_true", help="measure what is in the table, too")
    arguments = parser.parse_args()
    generators: list[Generator] = [load_chosen(path, threads=2) for path in arguments.generator]
    generators = generators or [load_shipped(threads=2)]
    makers = {generator.name: everywhere(generator) for generator in generators}
    if arguments.gated:
        judge = LpipsJudge()
        makers |= {f"{generator.name}, gated": gated(generator, judge) for generator in generators}
    meter, rows = Meter(), known_rows(TABLE)
    for clip in find_clips(arguments.clips):
        source = VideoSource(clip.path)
        picture = next(source.frames((source.duration_seconds or 0.0) * 0.75)).copied()
        original = picture_to_rgb(picture)
        with TemporaryDirectory() as folder:
            coders: dict[str, tuple[Callable[[float], Coded], Sequence[float]]] = {}
            if "AV1" in arguments.stills:
                for scale in arguments.scales:
                    coders[f"AV1 {scale}"] = partial(av1, picture, scale, makers), _QUANTISERS
            if "HEVC" in arguments.stills:
                coders["HEVC"] = partial(hevc, picture, Path(folder)), _HEVC
            if "AVIF" in arguments.stills:
                coders["AVIF"] = partial(avif, picture), _AVIF
            for bits, (name, (code, steps)) in product(arguments.bits, coders.items()):
                shown = ["none", *makers] if name.startswith("AV1") else ["none"]
                if not arguments.again and all((clip.name, f"{bits:g}", name, s) in rows for s in shown):
                    continue
                target = round(bits * picture.width * picture.height / 8)
                found = distances(around(code, steps, target), target, partial(meter, source=original))
                for generator, values in found.items():
                    rows[clip.name, f"{bits:g}", name, generator] = values
                save_csv(TABLE, COLUMNS, [(*key, *(f"{v:.5f}" for v in rows[key])) for key in sorted(rows)])
    show(rows)


def show(rows: Rows) -> None:
    """Means of the changes against the base at the same bits, over the clips that reach them."""
    table = Table("bits", "still", "generator", "clips", "change of " + " / ".join(METRICS))
    for bits, still, generator in sorted({key[1:] for key in rows}):
        pairs = [
            (values, rows[clip, bits, BASE, "none"])
            for (clip, *kind), values in rows.items()
            if kind == [bits, still, generator] and (clip, bits, BASE, "none") in rows
        ]
        if pairs:
            logs = [[math.log(a / b) for a, b in zip(*pair, strict=True)] for pair in pairs]
            changes = [percent(math.exp(fmean(log)), 1.0) for log in zip(*logs, strict=True)]
            table.add_row(bits, still, generator, str(len(pairs)), " / ".join(changes))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
