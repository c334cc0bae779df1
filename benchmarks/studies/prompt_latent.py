"""A quantised spatial latent in the prompt, beside an adapter and a finer keyframe of as many bytes.

    python benchmarks/studies/prompt_latent.py [CLIP ...] [--steps 150] [--methods adapter "latent 2" ...]

Takes the keyframe of one GOP of each clip, coded at the target rate as `prompt_ablation.py` does, and
generates it everywhere at strength 1:
  blind        as it is
  adapter      with an adapter: a gain and an offset for every output channel of every convolution
  latent K     with K planes of integers, one for a square of --cell luma samples, each enlarged bilinearly
               and added to the features after the generator's body (at 1/8) along a direction: an integer
               for every channel, fitted with it
  gate         with a strength from 0 to 2, in quarters, for every block of 32
  flat         with --flat: a latent with every plane at its mean, without what differs between places
  finer        with nothing, but with keyframes of a lower CRF, as the encoder would code them
and with several of these, fitted together: "adapter + latent K", "adapter + gate", and so on.
All are fitted to the picture alone by the same descent as adapters of the product: in floats, rounded from
the start and straight through, all integers at the price of their bits, which is what bytes of the keyframe
are worth.  Bytes are of real sections: planes and directions as the adapter's integers are coded, or planes
as gates are, where that is shorter.

--start tells the directions to begin with: "random", "features" (the principal ones of the picture's own
features after the body) or "gradient" (those of the loss's gradient in the squares, by some steps more).  The
planes begin at 0.  Results are added to docs/figures/prompt_latent.csv as they come; --table only prints what
is there: changes against the coded keyframe, against the adapter, and against a finer keyframe of as many
bytes, beside which there is an adapter wherever the method has one.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from figures import FIGURES
from numpy.typing import NDArray
from pictures import levels, padded_planes
from prompt_ablation import Study
from rich.console import Console
from rich.table import Table
from torch import nn

from hybridprompt.decode.injection import GopDecoding, decode_gop
from hybridprompt.encode.base import BaseEncoder
from hybridprompt.encode.descent import Pace, Pair, descend
from hybridprompt.encode.fit_loss import FitLoss, random_below
from hybridprompt.encode.gop import Gop, find_candidates
from hybridprompt.encode.judge import LpipsJudge
from hybridprompt.encode.prompt_rate import AdapterRate, GateRate
from hybridprompt.encode.settings import GATE_LEVELS, GATE_UNIT, PRESETS, AdapterSettings, EncodeSettings
from hybridprompt.encode.worth import WORTH_OF_BYTES
from hybridprompt.evaluate.compare import picture_to_rgb, psnr_y
from hybridprompt.evaluate.perceptual import Dists, Lpips, quick_dtype
from hybridprompt.generator.adapted_network import AdaptedNetwork
from hybridprompt.generator.base import Planes
from hybridprompt.generator.network import ALIGNMENT, GeneratorNetwork
from hybridprompt.generator.registry import load_shipped
from hybridprompt.generator.torch_weights import network_of
from hybridprompt.prompt.adapter_coding import MAX_VALUE, decode_values, encode_values
from hybridprompt.prompt.gate_coding import decode_indices, encode_indices
from hybridprompt.prompt.sections import Adapter, encode_adapter
from hybridprompt.video.picture import Picture

_FINER: Final = (1.0, 3.0)
"""How much lower the CRFs of finer keyframes are."""

_METRICS: Final = ("LPIPS-Alex", "LPIPS-VGG", "DISTS", "PSNR-Y")
_ALIKE: Final = ("steps", "worth", "seed")
_OPTIONS: Final = ("start", "cell", *_ALIKE)
_COLUMNS: Final = (
    *("clip", "method", *_OPTIONS, "keyframe_bytes", "prompt_bytes"),
    *_METRICS,
    *("nonzero", "seconds"),
)
_DEFAULTS: Final = (
    *("adapter", "latent 1", "latent 2", "latent 4"),
    *("adapter + latent 1", "adapter + latent 2", "adapter + latent 4", "adapter + gate"),
)
_UNIT: Final = 0.02
"""What a plane's 1 adds along a direction's 1, of the usual (root mean square) feature."""

_DIRECTION: Final = 5.0
"""Root mean square of the integers of a direction to begin with."""

_GRADIENT_STEPS: Final = 24
_SMALL: Final = 1.0
_LAST_RATE_SHARE: Final = 0.05
_HEAD: Final = 3
"""Bytes of a latent that tell how many planes there are, of which squares, in which code, and how long it is;
those of a gate are as many.
"""

_BLOCK: Final = 32
_GATE_RATE: Final = 0.08

_CACHE: Final = Path("out/benchmarks/prompt_latent")


@dataclass(frozen=True)
class Keyframe:
    """A coded keyframe: its bytes, base_q_idx, and what it decodes to."""

    size_bytes: int
    base_q_idx: int
    planes: Planes


@dataclass(frozen=True)
class Method:
    """What a prompt holds."""

    adapter: bool
    gate: bool
    planes: int

    @classmethod
    def of(cls, name: str) -> Method:
        parts = name.split(" + ")
        planes = [int(part.removeprefix("latent ")) for part in parts if part.startswith("latent ")]
        if len(parts) != ("adapter" in parts) + ("gate" in parts) + len(planes) or len(planes) > 1:
            raise SystemExit(f"no method {name!r}")
        return cls("adapter" in parts, "gate" in parts, sum(planes))


@dataclass(frozen=True)
class Integers:
    """What is sent: the adapter (count,), the gate's indices (rows, columns), of the latent the directions
    (K, channels) and the planes (K, rows, columns).
    """

    adapter: NDArray[np.int8]
    gate: NDArray[np.uint8]
    directions: NDArray[np.int8]
    planes: NDArray[np.int8]

    def coded(self) -> tuple[int, Integers]:
        """Bytes of the sections, and what is read back."""
        size, read = 0, self
        if self.adapter.any():
            size += len(encode_adapter(Adapter(self.adapter)))
        if self.gate.size:
            size += _HEAD + len(encode_indices(self.gate, GATE_LEVELS))
        if self.planes.any():
            data = encode_values(self.directions.ravel())
            directions = decode_values(data, self.directions.size).reshape(self.directions.shape)
            plain, grid = encode_values(self.planes.ravel()), self.planes.reshape(-1, self.planes.shape[2])
            smooth = encode_indices((grid + MAX_VALUE).astype(np.uint8), 2 * MAX_VALUE + 1)
            if len(plain) <= len(smooth):
                planes = decode_values(plain, self.planes.size)
            else:
                planes = decode_indices(smooth, 2 * MAX_VALUE + 1, grid.shape).astype(np.int8) - MAX_VALUE
            size += _HEAD + len(data) + min(len(plain), len(smooth))
            read = replace(self, directions=directions, planes=planes.reshape(self.planes.shape))
            assert np.array_equal(read.planes, self.planes)
            assert np.array_equal(read.directions, self.directions)
        return size, read


@contextmanager
def plus(body: nn.Module, added: torch.Tensor | None) -> Iterator[None]:
    """Something, (N, channels, H/8, W/8), is added to the features after a network's body."""
    if added is None:
        yield
        return
    handle = body.register_forward_hook(lambda module, given, features: features + added)
    try:
        yield
    finally:
        handle.remove()


def straight(value: torch.Tensor) -> torch.Tensor:
    """Integers, with gradients as if they were not rounded."""
    return value + (value.round().clamp(-MAX_VALUE, MAX_VALUE) - value).detach()


class Fitter:
    """Fits prompts to one keyframe."""

    def __init__(
        self, network: GeneratorNetwork, keyframe: Keyframe, source: Planes, args: argparse.Namespace
    ) -> None:
        self.network, self.settings = network, AdapterSettings(steps=args.steps, seed=args.seed)
        self.start, self.cell, self.speed = args.start, args.cell, args.speed
        self._bit_price = args.worth / keyframe.size_bytes / 8
        self._adapted = AdaptedNetwork(network)
        self._coded, self._source = padded_planes(keyframe.planes), padded_planes(source)
        self._like, self._told = keyframe.planes, keyframe.base_q_idx / 255
        height, width = self._coded[0].shape[2:]
        self._grid = -(-height // self.cell), -(-width // self.cell)
        self._eighths = height // ALIGNMENT, width // ALIGNMENT
        features = self._features()
        self._feature_unit = _UNIT * float(features.square().mean().sqrt())
        self._principal = features - features.mean(1, keepdim=True)
        self._gradient: torch.Tensor | None = None

    def _features(self) -> torch.Tensor:
        """Those after the body, (channels, count), of the whole picture."""
        found: list[torch.Tensor] = []
        handle = self.network.body.register_forward_hook(lambda module, given, out: found.append(out))
        with torch.inference_mode():
            self.network(*self._coded, torch.full((1, 1, 1, 1), self._told))
        handle.remove()
        return found[0][0].flatten(1).clone()

    def field(self, directions: torch.Tensor, planes: torch.Tensor) -> torch.Tensor:
        """What is added to the features of the whole picture, (channels, H/8, W/8)."""
        rows, columns = self._eighths
        wide = F.interpolate(planes[None], scale_factor=self.cell // ALIGNMENT, mode="bilinear")[0]
        wide = wide[:, :rows, :columns]
        return self._feature_unit * torch.einsum("kc,krs->crs", directions, wide)

    def spread(self, strengths: torch.Tensor) -> torch.Tensor:
        """Strengths of blocks for the whole picture, (1, H/4, W/4)."""
        rows, columns = (2 * side for side in self._eighths)
        wide = strengths.repeat_interleave(_BLOCK // 4, 0).repeat_interleave(_BLOCK // 4, 1)
        return wide[None, :rows, :columns]

    def generate(
        self,
        coded: Pair,
        adapter: Sequence[torch.Tensor],
        strength: torch.Tensor | None,
        added: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `AdapterFitter.generate`, in float32 where nothing learns."""
        told = torch.full((len(coded[0]), 1, 1, 1), self._told)
        quick = quick_dtype(torch.device("cpu")) is torch.bfloat16 and torch.is_grad_enabled()
        with torch.autocast("cpu", torch.bfloat16, enabled=quick), plus(self._adapted.own().body, added):
            y, uv = self._adapted(*coded, told, strength, adapter=adapter)
        return y.float(), uv.float()

    def shown(self, integers: Integers | None, *, flat: bool = False) -> Planes:
        """The whole picture with what was sent, in float32; None is blind.  flat: planes at their means."""
        adapter: list[torch.Tensor] = []
        strength = added = None
        with torch.inference_mode():
            if integers is not None and integers.adapter.size:
                adapter = self._adapted.split(integers.adapter)
            if integers is not None and integers.planes.size:
                parts = integers.directions, integers.planes
                directions, planes = (torch.from_numpy(part.astype(np.float32)) for part in parts)
                if flat:
                    planes = planes.mean((1, 2), keepdim=True).expand_as(planes)
                added = self.field(directions, planes)[None]
            if integers is not None and integers.gate.size:
                strength = self.spread(torch.from_numpy(integers.gate.astype(np.float32) / GATE_UNIT))[None]
            made = self.generate(self._coded, adapter, strength, added)
        return levels(made, self._like)

    def _places(self, crops: int, rng: torch.Generator) -> list[tuple[int, int]]:
        """Crops within the picture as it is coded, on the network's grid, in luma samples."""
        side = self.settings.crop_size
        return [
            (
                ALIGNMENT * random_below((self._like[0].shape[0] - side) // ALIGNMENT + 1, rng),
                ALIGNMENT * random_below((self._like[0].shape[1] - side) // ALIGNMENT + 1, rng),
            )
            for _ in range(crops)
        ]

    def _cut(self, planes: Iterable[torch.Tensor], places: list[tuple[int, int]]) -> list[torch.Tensor]:
        """Crops of planes (1, channels, rows, columns) of any resolution."""
        found = []
        for plane in planes:
            scale = self._coded[0].shape[2] // plane.shape[2]
            side = self.settings.crop_size // scale
            parts = [plane[:, :, y // scale :, x // scale :][:, :, :side, :side] for y, x in places]
            found.append(torch.cat(parts))
        return found

    def _batch(
        self,
        adapter: Sequence[torch.Tensor],
        strength: torch.Tensor | None,
        field: torch.Tensor | None,
        crops: int,
        rng: torch.Generator,
    ) -> tuple[Pair, Pair]:
        places = self._places(crops, rng)
        coded, wanted = self._cut(self._coded, places), self._cut(self._source, places)
        given = [None if part is None else self._cut([part[None]], places)[0] for part in (strength, field)]
        y, uv = self.generate((coded[0], coded[1]), adapter, given[0], given[1])
        return (y.clamp(0, 1), uv.clamp(0, 1)), (wanted[0], wanted[1])

    def _gradients(self) -> torch.Tensor:
        """Of the loss by what is added in each square, (channels, squares)."""
        if self._gradient is None:
            channels = self.network.config.body_channels
            free = torch.zeros(channels, *self._grid, requires_grad=True)
            loss = FitLoss(torch.device("cpu"), self.settings.seed + 100)
            total = torch.zeros(channels, *self._grid)
            for step in range(_GRADIENT_STEPS):
                field = self.field(torch.eye(channels), free)
                predicted, wanted = self._batch([], None, field, self.settings.crops, loss.rng)
                total += torch.autograd.grad(loss(predicted, wanted, step).total, free)[0]
            self._gradient = total.flatten(1)
        return self._gradient

    def _directions(self, count: int) -> torch.Tensor:
        channels = self.network.config.body_channels
        if self.start == "random":
            rng = torch.Generator().manual_seed(self.settings.seed)
            return _SMALL * torch.randn(count, channels, generator=rng)
        seen = self._principal if self.start == "features" else self._gradients()
        found: torch.Tensor = torch.linalg.eigh(seen @ seen.T).eigenvectors.T.flip(0)[:count]
        return found / found.square().mean(1, keepdim=True).sqrt() * _DIRECTION

    def fit(self, method: Method) -> Integers:
        """Fit what the method sends, all of it together."""
        settings = self.settings
        nothing = np.zeros(self._adapted.adapter_length, np.int8)
        adapter = [v.requires_grad_() for v in self._adapted.split(nothing)] if method.adapter else []
        blocks = [-(-side * ALIGNMENT // _BLOCK) if method.gate else 0 for side in self._eighths]
        gate = torch.zeros(*blocks, requires_grad=True)
        planes = torch.zeros(method.planes, *self._grid, requires_grad=True)
        directions = self._directions(method.planes).requires_grad_()
        gate_rate, rates = GateRate(GATE_UNIT, GATE_LEVELS), (AdapterRate(), AdapterRate())

        def strengths() -> torch.Tensor:
            scaled = GATE_UNIT * (1 + _GATE_RATE / settings.rate * gate)
            return (scaled + (scaled.round().clamp(0, GATE_LEVELS - 1) - scaled).detach()) / GATE_UNIT

        def sent() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
            latent = [directions, self.speed * planes] if method.planes else []
            return [straight(value) for value in adapter], [straight(value) for value in latent]

        def batch(crops: int, rng: torch.Generator) -> tuple[Pair, Pair]:
            changes, latent = sent()
            strength = self.spread(strengths()) if method.gate else None
            field = self.field(latent[0], latent[1]) if latent else None
            return self._batch(changes, strength, field, crops, rng)

        def price() -> torch.Tensor:
            bits = [rate(values) for rate, values in zip(rates, sent(), strict=True) if values]
            if method.gate:
                bits.append(gate_rate(strengths()))
            total: torch.Tensor = self._bit_price * torch.stack(bits).sum()
            return total

        fitted = [
            *adapter,
            *([gate] if method.gate else []),
            *([planes, directions] if method.planes else []),
        ]
        pace = Pace(steps=settings.steps, rate=settings.rate, last_share=_LAST_RATE_SHARE)
        descend(fitted, batch, price, pace, crops=settings.crops, seed=settings.seed)

        def integers(value: torch.Tensor) -> NDArray[np.int8]:
            return straight(value).detach().round().numpy().astype(np.int8)

        return Integers(
            np.concatenate([np.zeros(0, np.int8), *(integers(value).ravel() for value in adapter)]),
            (GATE_UNIT * strengths()).detach().round().numpy().astype(np.uint8),
            integers(directions),
            integers(self.speed * planes),
        )


def keyframes(path: Path) -> tuple[list[Keyframe], Planes]:
    """The keyframe at the target rate and finer ones, and the source; kept for the next time."""
    kept = _CACHE / f"{path.stem}.npz"
    if not kept.exists():
        study = Study(path, 0.5, 4.0, [200.0, 120.0])
        encoder = BaseEncoder(study.source, EncodeSettings(crf=64.0, preset="medium"), LpipsJudge)
        factor = PRESETS["medium"].key_lambda_factors[0]
        gops = [
            study.gop,
            *(encoder.gop(encoder.encode(study.pictures, study.crf - less, factor)) for less in _FINER),
        ]
        arrays: dict[str, NDArray[np.generic]] = {}
        for index, gop in enumerate(gops):
            arrays |= _arrays(index, gop, study)
        for name, plane in zip("yuv", study.pictures[0].planes, strict=True):
            arrays[f"source_{name}"] = np.array(plane)
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez(kept, **arrays)  # type: ignore[arg-type]
    with np.load(kept) as file:

        def planes(name: str) -> Planes:
            return file[f"{name}_y"], file[f"{name}_u"], file[f"{name}_v"]

        found = [
            Keyframe(int(file[f"{index}"][0]), int(file[f"{index}"][1]), planes(f"{index}"))
            for index in range(1 + len(_FINER))
        ]
        return found, planes("source")


def _arrays(index: int, gop: Gop, study: Study) -> dict[str, NDArray[np.generic]]:
    shown = next(iter(decode_gop(gop.packets[:1], GopDecoding(study.source.time_base))))
    numbers = len(gop.packets[0].data), find_candidates(gop, None)[0].base_q_idx
    planes = zip("yuv", shown.picture.planes, strict=True)
    return {f"{index}": np.array(numbers)} | {f"{index}_{name}": np.array(plane) for name, plane in planes}


class Distances:
    """Distances from one source picture, in bfloat16, whose features are kept."""

    def __init__(self, source: Planes) -> None:
        half = torch.bfloat16
        self._networks: list[Lpips | Dists] = [
            Lpips("alex", dtype=half),
            Lpips("vgg", dtype=half),
            Dists(dtype=half),
        ]
        self._source = Picture(*source)
        with torch.inference_mode():
            self._wanted = [network.features(picture_to_rgb(self._source)) for network in self._networks]

    def __call__(self, planes: Planes) -> tuple[float, ...]:
        """In the order of _METRICS."""
        picture = Picture(*planes)
        found = []
        with torch.inference_mode():
            for network, wanted in zip(self._networks, self._wanted, strict=True):
                found.append(float(network.distance(network.features(picture_to_rgb(picture)), wanted)))
        return *found, psnr_y(picture, self._source)


def study_clip(path: Path, network: GeneratorNetwork, args: argparse.Namespace) -> Iterable[list[object]]:
    """Rows of the CSV."""
    coded, source = keyframes(path)
    measure = Distances(source)

    def row(
        method: str,
        keyframe: Keyframe,
        planes: Planes,
        size: int | str,
        nonzero: object = "",
        took: float = 0,
    ) -> list[object]:
        options = [args.start, args.cell, args.steps, args.worth, args.seed]
        if "latent" not in method:
            options[:2] = "", ""
        if method in ("coded", "blind", "finer"):
            options[2:] = "", "", ""
        return [
            *(path.stem, method, *options, keyframe.size_bytes, size),
            *(f"{distance:.5f}" for distance in measure(planes)),
            *(nonzero, f"{took:.0f}"),
        ]

    base = coded[0]
    fitter = Fitter(network, base, source, args)
    if not args.skip_plain:
        yield row("coded", base, base.planes, 0)
        yield row("blind", base, fitter.shown(None), 0)
        for finer in coded[1:]:
            yield row("finer", finer, Fitter(network, finer, source, args).shown(None), 0)
    for name in args.methods:
        started = time.process_time()
        sent = fitter.fit(Method.of(name))
        size, read = sent.coded()
        took = time.process_time() - started
        nonzero = f"{np.count_nonzero(sent.planes)}/{sent.planes.size}" if sent.planes.size else ""
        yield row(name, base, fitter.shown(read), size, nonzero, took)
        if args.flat and sent.planes.size:
            yield row(f"{name}, flat", base, fitter.shown(read, flat=True), "")


def worth(rows: list[dict[str, str]], metric: str) -> float:
    """How much the log of a distance, or PSNR in dB, changes with the log of the keyframe's bytes."""
    blind = next(r for r in rows if r["method"] == "blind")
    value = float if metric == "PSNR-Y" else lambda text: math.log(float(text))
    points = [
        (
            math.log(float(r["keyframe_bytes"]) / float(blind["keyframe_bytes"])),
            value(r[metric]) - value(blind[metric]),
        )
        for r in rows
        if r["method"] == "finer"
    ]
    return sum(x * y for x, y in points) / sum(x * x for x, _ in points)


def changes(
    row: dict[str, str], against: dict[str, str], slopes: dict[str, float], paid: float
) -> list[float]:
    """In percent, PSNR in dB, against another row whose keyframe is as much larger as ``paid`` says."""
    found = []
    for metric in _METRICS:
        a, b, more = float(row[metric]), float(against[metric]), slopes[metric] * math.log1p(paid)
        found.append(a - b - more if metric == "PSNR-Y" else 100 * (a / (b * math.exp(more)) - 1))
    return found


def print_table(path: Path) -> None:
    """What the CSV holds."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = Table("clip", "method", "bytes", "coded", "adapter", "same bytes")
    means: dict[str, list[list[list[float]]]] = {}
    nothing = dict.fromkeys(_METRICS, 0.0)
    for clip in dict.fromkeys(row["clip"] for row in rows):
        own = [row for row in rows if row["clip"] == clip]
        slopes = {metric: worth(own, metric) for metric in _METRICS}
        coded, blind = (next(r for r in own if r["method"] == name) for name in ("coded", "blind"))
        key = float(coded["keyframe_bytes"])
        for row in own:
            if row["method"] in ("coded", "finer"):
                continue
            adapter = next(
                (r for r in own if all(r[c] == row[c] for c in _ALIKE) and r["method"] == "adapter"), None
            )
            size = float(row["prompt_bytes"] or "nan")
            more = row["method"] != "adapter"
            beside = adapter if more and row["method"].startswith("adapter") else blind
            cells = [
                [size, 100 * size / key],
                changes(row, coded, nothing, 0),
                changes(row, adapter, nothing, 0) if more and adapter else [],
                changes(row, beside, slopes, (size - float(beside["prompt_bytes"])) / key) if beside else [],
            ]
            name = " ".join([row["method"], *(row[column] for column in _OPTIONS if row[column])])
            means.setdefault(name, []).append(cells)
            table.add_row(clip, name, *(as_text(cell) for cell in cells))
    for name, found in means.items():
        columns = [
            [fmean(values) for values in zip(*cells, strict=True)] for cells in zip(*found, strict=True)
        ]
        table.add_row(f"mean of {len(found)}", name, *(as_text(column) for column in columns))
    Console(width=190).print(table)


def as_text(cell: list[float]) -> str:
    """Two numbers are bytes and their share of the keyframe's."""
    if not cell or math.isnan(cell[-1]):
        return ""
    if len(cell) == 2:
        return f"{cell[0]:.0f} ({cell[1]:.1f} %)"
    return " / ".join(
        [*(f"{change:+.1f}" for change in cell[:3]), *(f"{change:+.2f}" for change in cell[3:])]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--steps", type=int, default=AdapterSettings().steps)
    parser.add_argument("--methods", nargs="+", default=list(_DEFAULTS))
    parser.add_argument("--start", choices=("random", "features", "gradient"), default="gradient")
    parser.add_argument("--cell", type=int, default=64, help="luma samples of a square's side: 64, 32")
    parser.add_argument(
        "--worth",
        type=float,
        default=WORTH_OF_BYTES,
        help="of the keyframe's bytes, which is the price of prompts",
    )
    parser.add_argument("--speed", type=float, default=1.0, help="of the planes, beside the adapter's rate")
    parser.add_argument("--seed", type=int, default=AdapterSettings().seed)
    parser.add_argument("--skip-plain", action="store_true", help="leave coded, blind and finer out")
    parser.add_argument("--flat", action="store_true", help="measure latents with planes at their means, too")
    parser.add_argument("--table", action="store_true", help="only print what there is")
    parser.add_argument("--out", type=Path, default=FIGURES / "prompt_latent.csv")
    args = parser.parse_args()
    if args.table:
        print_table(args.out)
        return
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    torch.set_num_threads(1)
    network = network_of(load_shipped().weights)
    folder = Path(os.environ.get("HYBRIDPROMPT_DATA", "../shared/data")) / "clips"
    fresh = not args.out.exists()
    with args.out.open("a", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        if fresh:
            table.writerow(_COLUMNS)
        for clip in args.clips or sorted(folder.glob("*.mp4")):
            for row in study_clip(clip, network, args):
                table.writerow(row)
                file.flush()
                print(*row)
                sys.stdout.flush()
    print_table(args.out)


if __name__ == "__main__":
    main()
