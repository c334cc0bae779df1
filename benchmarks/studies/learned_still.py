"""A learned latent as the still of a `replace` keyframe, beside AV1 stills that are generated from.

    python benchmarks/studies/learned_still.py prepare [CLIP ...] --out runs/learned_still/pictures
    python benchmarks/studies/learned_still.py train FOLDER [FOLDER ...] --out runs/learned_still/network.pt
        [--seconds 150] [--batch 30] [--size 256] [--device cuda] [--eager]
    python benchmarks/studies/learned_still.py refine runs/learned_still/network.pt
        --pictures runs/learned_still/pictures --out runs/learned_still/refined.npz
        [--bits 0.018 0.04 0.088] [--steps 150] [--seconds 60] [--device cuda]
    python benchmarks/studies/learned_still.py compare runs/learned_still/network.pt
        [--refined runs/learned_still/refined.npz] [--bits 0.02 0.04 0.08] [--png FOLDER] [CLIP ...]

`train` learns from the sources of unpacked corpora (folders of samples), `refine` then fits the integers of
the pictures that `prepare` takes from the clips, with the decoder as it is; both want a GPU, and neither
PyAV nor constriction.  `compare` codes the same pictures, decodes their bytes, and measures them where
`still_scale.py` measures stills: its table is beside the new one, docs/figures/learned_still.csv.  Bytes are
one of the level, then those of the range coder: the hyper-latent, and the latent in its four passes, with
probabilities from integers only.  A picture's size is known from the stream.  Where a latent was
refined, all three distances took part in that, as none does when AV1 codes a still.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from learned_still_network import (
    HYPER,
    HYPER_STRIDE,
    LEVELS,
    ONE,
    PARTS,
    SCALE_STEP,
    SMALLEST,
    TABLES,
    LearnedStill,
    Prior,
    count_gmac,
    padded,
)
from learned_still_training import BITS, STEPS, Refiner, Training, TrainSettings, load_network, refine
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

if TYPE_CHECKING:
    from still_scale import Coded, Rows

    from hybridprompt.video.picture import Picture

_MODES = "decoder", "decoder, refined"
"""What is in the table in the place of generators."""

_ONE_BITS = 20
_MORE = 8
"""Values beyond those that a table's scale makes likely."""

_WORD_BYTES = 4
_FIRST_PARTS = -64
"""The level, in parts, of a byte of 0."""

Code = Callable[[NDArray[np.int32], int], NDArray[np.int32]]
"""Codes values with a table, and returns them; a decoder knows better than the values it is given."""


def pictures(clips: Sequence[Path]) -> Iterator[tuple[str, Picture]]:
    """The pictures that still_scale.py takes, by the names of their clips."""
    from common import find_clips

    from hybridprompt.video.source import VideoSource

    for clip in find_clips(list(clips)):
        source = VideoSource(clip.path)
        yield clip.name, next(source.frames((source.duration_seconds or 0.0) * 0.75)).copied()


def prepare(clips: Sequence[Path], out: Path) -> None:
    """Write the pictures for `refine`."""
    from hybridprompt.evaluate.compare import matrix_name

    out.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures(clips):
        path = out / f"{name}.npz"
        np.savez_compressed(
            path,
            y=picture.y,
            uv=np.stack([picture.u, picture.v]),
            matrix=np.array(matrix_name(picture)),
            full_range=np.array(picture.color.full_range),
        )
        print(f"{path}: {picture.width}x{picture.height}, {path.stat().st_size} bytes")


@dataclass(frozen=True, eq=False)
class Quantised:
    """A picture's integers: latent (LATENT, h, w) less its means, hyper-latent (HYPER, h', w'), level."""

    latent: NDArray[np.int32]
    hyper: NDArray[np.int32]
    parts: int

    def same(self, other: Quantised) -> bool:
        pairs = (self.latent, other.latent), (self.hyper, other.hyper)
        return self.parts == other.parts and all(np.array_equal(a, b) for a, b in pairs)


@cache
def _table(index: int) -> tuple[int, Any]:
    """The largest value of a table, and its model for constriction, of values from 0 to twice as many.

    It counts in units of 2^-20.  The tables would be part of a decoder's file.
    """
    import constriction

    scale = SMALLEST * math.exp(SCALE_STEP * index)
    largest = math.ceil(14 * scale) + _MORE
    sizes = np.arange(largest + 1)
    tails = 0.5 * np.exp(-(sizes + 0.5) / scale)
    half = -np.diff(tails)
    one = 1 << _ONE_BITS
    counts = np.maximum(np.rint(half * one), 1).astype(np.int64)
    centre = one - 2 * int(counts.sum())
    # Multiples of 2^-20 are exact in floating point, so constriction makes the same of them everywhere.
    shares = np.concatenate([counts[::-1], [centre], counts]) / one
    return largest, constriction.stream.model.Categorical(shares, perfect=False)


def _by_tables(values: NDArray[np.int32], indices: NDArray[np.int64], code: Code) -> NDArray[np.int32]:
    """Code values of one dimension, those of one table after those of another: few calls of the coder."""
    found = np.empty_like(values)
    for index in range(TABLES):
        chosen = indices == index
        if chosen.any():
            found[chosen] = code(values[chosen], index)
    return found


def _walk(
    prior: Prior,
    parts: int,
    shape: tuple[int, int],
    code: Code,
    hyper: NDArray[np.int32],
    difference: Callable[[torch.Tensor], torch.Tensor],
) -> tuple[Quantised, torch.Tensor]:
    """Code a still; hyper (HYPER, h', w') and difference, of a latent's means, are what there is to code.

    Returns what was coded, and the latent as decoded, (1, LATENT, h, w) float32.
    """
    bias, scales = prior.hyper_at(parts)
    indices = scales[0].expand(hyper.shape).numpy().ravel()
    coded = _by_tables(hyper.ravel(), indices, code).reshape(hyper.shape)
    differences = []

    def choose(mean: torch.Tensor, index: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        values = difference(mean)[mask].numpy().astype(np.int32)
        tables = index.clamp(0, TABLES - 1)[mask].numpy()
        settled = torch.zeros_like(mean)
        settled[mask] = torch.from_numpy(_by_tables(values, tables, code)).long()
        differences.append(settled)
        return mean + settled * ONE

    features = prior.features(torch.from_numpy(coded).long()[None] * ONE + bias, shape)
    latent = prior.settle(features, choose)
    whole = torch.stack(differences).sum(0)[0].numpy().astype(np.int32)
    return Quantised(whole, coded, parts), (latent.double() / ONE).float()


def _encode(
    prior: Prior,
    parts: int,
    hyper: NDArray[np.int32],
    shape: tuple[int, int],
    difference: Callable[[torch.Tensor], torch.Tensor],
) -> tuple[bytes, Quantised]:
    import constriction

    encoder = constriction.stream.queue.RangeEncoder()

    def code(values: NDArray[np.int32], index: int) -> NDArray[np.int32]:
        largest, model = _table(index)
        cut = values.clip(-largest, largest).astype(np.int32)
        encoder.encode(cut + np.int32(largest), model)
        return cut

    quantised, _ = _walk(prior, parts, shape, code, hyper, difference)
    words: NDArray[np.uint32] = encoder.get_compressed()
    return bytes([parts - _FIRST_PARTS]) + words.astype(">u4").tobytes().rstrip(b"\0"), quantised


def encode_latent(
    prior: Prior, latent: torch.Tensor, hyper: torch.Tensor, parts: int
) -> tuple[bytes, Quantised]:
    """Round and code an amplified latent (1, LATENT, h, w) and its hyper-latent, with a prior of integers."""

    def difference(mean: torch.Tensor) -> torch.Tensor:
        return (latent.double() - mean.double() / ONE).round().long()

    rounded = hyper.round()[0].numpy().astype(np.int32)
    return _encode(prior, parts, rounded, (latent.shape[2], latent.shape[3]), difference)


def encode_quantised(prior: Prior, quantised: Quantised) -> tuple[bytes, Quantised]:
    """Code integers that were found elsewhere, with a prior of integers."""
    latent = torch.from_numpy(quantised.latent).long()[None]
    _, height, width = quantised.latent.shape
    return _encode(prior, quantised.parts, quantised.hyper, (height, width), lambda _: latent)


def decode_latent(prior: Prior, data: bytes, shape: tuple[int, int]) -> tuple[torch.Tensor, Quantised]:
    """The latent (1, LATENT, h, w), in float32, and the integers that a still's bytes hold."""
    import constriction

    body = data[1:] + bytes(-(len(data) - 1) % _WORD_BYTES)
    decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(body, ">u4").astype(np.uint32))

    def code(values: NDArray[np.int32], index: int) -> NDArray[np.int32]:
        largest, model = _table(index)
        found: NDArray[np.int32] = decoder.decode(model, len(values))
        return found - np.int32(largest)

    nothing = np.zeros((HYPER, *(-(-n // HYPER_STRIDE) for n in shape)), np.int32)
    quantised, latent = _walk(prior, data[0] + _FIRST_PARTS, shape, code, nothing, torch.zeros_like)
    return latent, quantised


class LatentCoder:
    """Codes one picture; every still that is shown was decoded from its bytes."""

    def __init__(self, network: LearnedStill, picture: Picture) -> None:
        self.network, self.picture = network, picture
        self.prior = network.prior.integers()
        planes = padded(picture.y, np.stack([picture.u, picture.v]), torch.device("cpu"))
        self.latent = network.analyse(planes)
        self.shape = self.latent.shape[2], self.latent.shape[3]
        self.at = cache(self._at)

    def _at(self, parts: float) -> Coded:
        latent = self.network.amplified(self.latent, torch.tensor([parts / PARTS]))
        return self._coded(*encode_latent(self.prior, latent, self.network.hyper(latent), int(parts)))

    def refined(self, path: Path, name: str) -> list[Coded]:
        """What `refine` found for the picture of that name."""
        found = []
        with np.load(path) as data:
            for key in data.files:
                kind = key.rpartition("/")[0]
                if key.endswith("/parts") and kind.rpartition("/")[0] == name:
                    latent, hyper = (data[f"{kind}/{n}"].astype(np.int32) for n in ("latent", "hyper"))
                    quantised = Quantised(latent, hyper, int(data[key]))
                    found.append(self._coded(*encode_quantised(self.prior, quantised)))
        return found

    def _coded(self, data: bytes, quantised: Quantised) -> Coded:
        from still_scale import Coded

        from hybridprompt.evaluate.compare import picture_to_rgb

        def shown() -> dict[str, torch.Tensor]:
            latent, decoded = decode_latent(self.prior, data, self.shape)
            if not decoded.same(quantised):
                raise SystemExit("a latent is not what its bytes decode to")
            planes = self.network.synthesise(latent, torch.tensor([decoded.parts / PARTS]))
            y, uv = ((plane[0] * 255).round().clamp(0, 255).byte().numpy() for plane in planes)
            height, width = self.picture.height, self.picture.width
            u, v = uv[:, : height // 2, : width // 2]
            return {"latent": picture_to_rgb(replace(self.picture, y=y[0, :height, :width], u=u, v=v))}

        return Coded(len(data), shown)


def compare(
    checkpoint: Path, clips: Sequence[Path], bits: Sequence[float], refined: Path | None, png: Path | None
) -> None:
    """Measure latents at the bits, and write the table; with PNGs of the first picture in a folder."""
    from figures import FIGURES, at_bytes, save_csv
    from still_scale import COLUMNS, TABLE, Meter, around, distances, known_rows

    from hybridprompt.evaluate.compare import picture_to_rgb

    table = FIGURES / "learned_still.csv"
    network, _ = load_network(checkpoint, torch.device("cpu"), quick=False)
    meter, rows = Meter(), known_rows(table)
    for name, picture in pictures(clips):
        original = picture_to_rgb(picture)
        coder = LatentCoder(network, picture)
        fitted = coder.refined(refined, name) if refined else []
        points = [(c.size_bytes, *meter(c.shown()["latent"], original)) for c in fitted]
        stills = {f"{name}_refined_{coded.size_bytes}": coded for coded in fitted}
        for rate in bits:
            target = round(rate * picture.width * picture.height / 8)
            found = around(coder.at, STEPS, target)
            stills |= {f"{name}_{coded.size_bytes}": coded for coded in found[-1:]}
            for values in distances(found, target, partial(meter, source=original)).values():
                rows[name, f"{rate:g}", "latent", _MODES[0]] = values
            if points and min(points)[0] <= target <= max(points)[0]:
                rows[name, f"{rate:g}", "latent", _MODES[1]] = at_bytes(points, target)
        save_csv(table, COLUMNS, [(*key, *(f"{v:.5f}" for v in rows[key])) for key in sorted(rows)])
        if png:
            _save_png(png / f"{name}.png", original)
            for stem, coded in stills.items():
                _save_png(png / f"{stem}.png", coded.shown()["latent"])
            png = None
    show(rows, known_rows(TABLE))


def _save_png(path: Path, rgb: torch.Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = (rgb[0].permute(1, 2, 0) * 255).round().byte().numpy()
    Image.fromarray(levels).save(path)


def _peers(known: Rows, clip: str, bits: str) -> dict[str, list[float]]:
    """Other stills of a picture; of AV1 the scale that is nearest by LPIPS-Alex, for every generator."""
    found: dict[str, list[float]] = {}
    for (its_clip, its_bits, still, generator), values in known.items():
        if (its_clip, its_bits) == (clip, bits):
            name = still.split(" ")[0] + ("" if generator == "none" else f" + {generator}")
            found[name] = min(found.get(name, values), values)
    return found


def show(rows: Rows, known: Rows) -> None:
    """Means of the changes of latents against other stills at the same bits, over clips that reach them."""
    from common import percent
    from rich.console import Console
    from rich.table import Table
    from still_scale import METRICS

    changes: dict[tuple[str, str, str], list[list[float]]] = defaultdict(list)
    for (clip, bits, _, mode), values in rows.items():
        for name, others in _peers(known, clip, bits).items():
            changes[bits, mode, name].append([math.log(a / b) for a, b in zip(values, others, strict=True)])
    table = Table("bits", "latent", "against", "clips", "change of " + " / ".join(METRICS))
    for (bits, mode, name), logs in sorted(changes.items()):
        means = [percent(math.exp(fmean(log)), 1.0) for log in zip(*logs, strict=True)]
        table.add_row(bits, mode, name, str(len(logs)), " / ".join(means))
    Console(width=120).print(table)


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("prepare")
    command.add_argument("clips", nargs="*", type=Path)
    command.add_argument("--out", type=Path, required=True)
    command = commands.add_parser("train")
    command.add_argument("folders", nargs="+", type=Path)
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--seconds", type=float, default=150.0)
    command.add_argument("--bits", nargs=LEVELS, type=float, default=BITS, help="for each pixel, by level")
    command.add_argument("--batch", type=int, default=30, help=f"a multiple of {3 * LEVELS}")
    command.add_argument("--size", type=int, default=256, help="of crops, a multiple of 64")
    command.add_argument("--rate", type=float, default=4e-4)
    command.add_argument("--steps", type=int, default=0)
    command.add_argument("--eager", action="store_true", help="do without a graph")
    command.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    command = commands.add_parser("refine")
    command.add_argument("checkpoint", type=Path)
    command.add_argument("--pictures", type=Path, required=True)
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--bits", nargs="+", type=float, default=[0.018, 0.04, 0.088])
    command.add_argument("--steps", type=int, default=150)
    command.add_argument("--seconds", type=float, default=60.0, help="begin no picture after them")
    command.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    command = commands.add_parser("compare")
    command.add_argument("checkpoint", type=Path)
    command.add_argument("clips", nargs="*", type=Path)
    command.add_argument("--refined", type=Path)
    command.add_argument("--bits", nargs="+", type=float, default=[0.02, 0.04, 0.08])
    command.add_argument("--png", type=Path, help="folder for pictures of the first clip")
    return parser.parse_args()


def main() -> None:
    arguments = _parsed()
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    if arguments.command == "prepare":
        prepare(arguments.clips, arguments.out)
        return
    decoder, prior = count_gmac(1920, 1080)
    print(f"GMAC at 1920x1080: decoder {decoder:.1f}, entropy model {prior:.1f}", flush=True)
    if arguments.command == "train":
        options = {key: value for key, value in vars(arguments).items() if key != "command"}
        options |= {"folders": tuple(options["folders"]), "bits": tuple(options["bits"])}
        Training(TrainSettings(**options)).run()
    elif arguments.command == "refine":
        refiner = Refiner(arguments.checkpoint, arguments.device, arguments.steps)
        refine(refiner, arguments.pictures, arguments.out, arguments.bits, arguments.seconds)
    else:
        compare(arguments.checkpoint, arguments.clips, arguments.bits, arguments.refined, arguments.png)


if __name__ == "__main__":
    main()
