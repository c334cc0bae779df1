"""Updates of the generator's weights in the prompt, against the same bytes spent otherwise.

    python benchmarks/studies/prompt_adapter.py [CLIP ...] [--generator FILE.onnx] [--steps 150] [--crf 56]

A keyframe from the second half of each clip is coded with SVT-AV1 and generated everywhere at strength 1:
  gains        with a gain and an offset for every output channel of every convolution: the adapter of prompts
  rank 1 (1/4) with updates of rank 1 of the convolutions at a quarter of the resolution
  rank 1       with updates of rank 1 of all convolutions
  gate         as it is, each block of 32 with the strength from 0 to 2 that brings it nearest in LPIPS-Alex
The updates are fitted to the picture by gradient descent (rounded from the start, straight through), with
the sum of their magnitudes as the price of their bits.  Those of rank 1 are coded with integer tables and
constriction's range coder.  The generator computes in floats.  Changes are against a finer keyframe of as
many bytes, generated at strength 1: interpolated over the logarithm of bytes between keyframes of several
CRFs.  With --differences: what coding gains as differences from those of the keyframe 4 seconds before would
save.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import constriction
import numpy as np
import torch
from numpy.typing import NDArray
from pictures import Measure, keyframe, levels, padded_planes
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.func import functional_call

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import find_clips
from figures import FIGURES, save_csv, source_picture

import hybridprompt
from hybridprompt.encode.adapter_fit import AdapterFitter, Pair
from hybridprompt.encode.fit_loss import FitLoss
from hybridprompt.encode.judge import LpipsJudge
from hybridprompt.encode.settings import GATE_LEVELS, GATE_UNIT, AdapterSettings
from hybridprompt.evaluate.perceptual import quick_dtype
from hybridprompt.generator.network import ALIGNMENT, GeneratorNetwork
from hybridprompt.generator.registry import DEFAULT_GENERATOR
from hybridprompt.generator.torch_weights import network_of
from hybridprompt.prompt.adapter_coding import MAX_VALUE, encode_values
from hybridprompt.prompt.gate_coding import encode_indices
from hybridprompt.video.picture import Picture
from hybridprompt.video.source import VideoSource

SHIPPED = Path(hybridprompt.__file__).parent / "generator" / "weights"
CRFS = (40.0, 46.0, 52.0, 56.0, 60.0, 64.0)
METRICS = ("LPIPS-Alex", "LPIPS-VGG", "DISTS")
KINDS = ("gains", "rank 1 (1/4)", "rank 1")
BLOCK = 32
SECONDS = 4.0
STEP = 0.25
"""Of the quantiser: an update of 1 is as large as a weight of its layer usually is."""

TOP = 15
TABLES = 16
Values = list[NDArray[np.int32]]


def tables() -> list[NDArray[np.float32]]:
    """Laplace distributions of integers from -TOP to TOP, in units of 2**-16."""
    found = []
    for index in range(TABLES):
        scale = 0.1 * 1.45**index
        shares = np.exp(-np.abs(np.arange(-TOP, TOP + 1)) / scale) + 1e-3
        units = np.floor(shares / shares.sum() * (65536 - 2 * TOP - 1)).astype(np.int64) + 1
        units[TOP] += 65536 - units.sum()
        found.append((units / 65536).astype(np.float32))
    return found


def code(values: Values) -> bytes:
    """One byte for each list of values tells its table; then the range coder's words."""
    shares, coder, heads = tables(), constriction.stream.queue.RangeEncoder(), []
    for part in values:
        costs = [-np.log2(table[part + TOP]).sum() for table in shares]
        heads.append(int(np.argmin(costs)))
        model = constriction.stream.model.Categorical(shares[heads[-1]], perfect=False)
        coder.encode((part + TOP).astype(np.int32), model)
    words: NDArray[np.uint32] = coder.get_compressed()
    return bytes(heads) + words.astype(">u4").tobytes().rstrip(b"\0")


def read(data: bytes, sizes: list[int]) -> Values:
    """What `code` wrote."""
    heads, rest = data[: len(sizes)], data[len(sizes) :]
    words = np.frombuffer(rest + bytes(-len(rest) % 4), ">u4").astype(np.uint32)
    shares, coder = tables(), constriction.stream.queue.RangeDecoder(words)
    return [
        coder.decode(constriction.stream.model.Categorical(shares[head], perfect=False), size) - TOP
        for head, size in zip(heads, sizes, strict=True)
    ]


class LowRank(nn.Module):
    """Updates of rank 1 of a network's convolutions, rounded to integers."""

    def __init__(self, network: GeneratorNetwork, kind: str, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.network = network
        layers = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}
        if kind == "rank 1 (1/4)":
            layers = {n: m for n, m in layers.items() if n.split(".")[0] in ("stem", "tail", "head")}
        self.layers = layers
        self.values = nn.ParameterList()
        for layer in layers.values():
            self.values.append(torch.zeros(len(layer.weight)))
            # A product of two zeros would never learn.
            self.values.append(torch.randn(layer.weight[0].numel()))

    def rounded(self) -> list[torch.Tensor]:
        """Integers, with gradients as if they were not rounded."""
        found = []
        for value in self.values:
            scaled = value / STEP
            found.append(scaled + (scaled.round().clamp(-TOP, TOP) - scaled).detach())
        return found

    def generate(self, coded: Pair, told: torch.Tensor, values: list[torch.Tensor]) -> Pair:
        """Generate with updates of the weights."""
        adapted = {}
        for index, (name, layer) in enumerate(self.layers.items()):
            first, second = (STEP * value for value in values[2 * index : 2 * index + 2])
            usual = layer.weight.detach().square().mean().sqrt()
            adapted[f"{name}.weight"] = layer.weight + usual * (first[:, None] * second[None]).view_as(
                layer.weight
            )
        planes: Pair = functional_call(self.network, adapted, (*coded, told))
        return planes


def fit(updates: LowRank, coded: Pair, source: Pair, told: torch.Tensor, settings: AdapterSettings) -> Values:
    """Fit the updates to one picture as AdapterFitter does its own; returns integers."""
    rng = torch.Generator().manual_seed(settings.seed)
    loss = FitLoss(torch.device("cpu"), settings.seed)
    rate, crop = settings.rate * STEP, settings.crop_size
    optimiser = torch.optim.Adam(updates.values.parameters(), lr=rate)
    height, width = coded[0].shape[2:]
    for step in range(settings.steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * (0.05 + 0.95 * (0.5 + 0.5 * math.cos(math.pi * step / settings.steps)))
        places = [
            # The network sees the whole picture at one phase of its grid.
            [
                ALIGNMENT * int(torch.randint((size - crop) // ALIGNMENT + 1, (1,), generator=rng))
                for size in (height, width)
            ]
            for _ in range(settings.crops)
        ]

        def crops(planes: Pair, places: list[list[int]] = places) -> Pair:
            luma = [planes[0][:, :, y : y + crop, x : x + crop] for y, x in places]
            half = crop // 2
            chroma = [planes[1][:, :, y // 2 : y // 2 + half, x // 2 : x // 2 + half] for y, x in places]
            return torch.cat(luma), torch.cat(chroma)

        values = updates.rounded()
        with torch.autocast("cpu", quick_dtype(torch.device("cpu"))):
            made = updates.generate(crops(coded), told.expand(settings.crops, 1, 1, 1), values)
        total = loss((made[0].float(), made[1].float()), crops(source), step).total
        total = total + settings.price * sum(value.abs().sum() for value in values)
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    integers = [value.detach().round().numpy().astype(np.int32) for value in updates.rounded()]
    # The second factor of an update that is nothing.
    for first, second in zip(integers[::2], integers[1::2], strict=True):
        second *= bool(first.any())
    return integers


@dataclass(frozen=True)
class Point:
    """What a prompt gives: its name, bytes in all, distances."""

    name: str
    size: int
    distances: tuple[float, ...]


def gated(network: GeneratorNetwork, coded: Pair, told: torch.Tensor, picture: Picture) -> tuple[int, Pair]:
    """Bytes of the gate, and the planes with the nearest strength of every block."""
    judge = LpipsJudge()
    reference = judge.prepare(picture)
    shape = -(-picture.height // BLOCK), -(-picture.width // BLOCK)
    cells = coded[0].shape[2] // 4, coded[0].shape[3] // 4

    def made(strengths: NDArray[np.float32]) -> Pair:
        spread = torch.from_numpy(strengths).repeat_interleave(BLOCK // 4, 0).repeat_interleave(BLOCK // 4, 1)
        with torch.inference_mode():
            planes: Pair = network(*coded, told, spread[None, None, : cells[0], : cells[1]])
        return planes

    maps = []
    for index in range(GATE_LEVELS):
        shown = levels(made(np.full(shape, index / GATE_UNIT, np.float32)), picture.planes)
        maps.append(judge.distance_map(Picture(*shown), reference, BLOCK))
    indices = np.argmin(maps, 0).astype(np.uint8)
    return len(encode_indices(indices, GATE_LEVELS)), made((indices / GATE_UNIT).astype(np.float32))


def study(
    picture: Picture, network: GeneratorNetwork, args: argparse.Namespace, measure: Measure
) -> tuple[list[Point], list[Point]]:
    """Keyframes of several CRFs generated at strength 1, and one with each kind of prompt."""
    source, settings = picture.planes, AdapterSettings(steps=args.steps)
    plain, prompted = [], []
    for crf in sorted({*CRFS, args.crf}):
        size, base_q_idx, planes = keyframe(picture, crf)
        coded, told = padded_planes(planes), torch.full((1, 1, 1, 1), base_q_idx / 255)
        with torch.inference_mode():
            made = network(*coded, told)
        plain.append(Point(f"CRF {crf:g}", size, measure(levels(made, planes), source)))
        if crf != args.crf:
            continue
        gate_bytes, made = gated(network, coded, told, picture)
        prompted.append(Point("gate", size + gate_bytes, measure(levels(made, planes), source)))
        for kind in KINDS:
            started = time.monotonic()
            if kind == "gains":
                fitter = AdapterFitter(network, settings)
                gains = fitter.fit(planes, source, base_q_idx)
                added = len(encode_values(gains))
                with torch.inference_mode():
                    made = fitter.generate(coded, base_q_idx, fitter.adapted.split(gains))
            else:
                updates = LowRank(network, kind, seed=1)
                values = fit(updates, coded, padded_planes(source), told, settings)
                data = code(values)
                read_back = read(data, [len(part) for part in values])
                assert all(np.array_equal(a, b) for a, b in zip(read_back, values, strict=True))
                added = len(data)
                with torch.inference_mode():
                    made = updates.generate(coded, told, [torch.from_numpy(v).float() for v in read_back])
            prompted.append(Point(kind, size + added, measure(levels(made, planes), source)))
            print(f"  {kind}: {added} bytes, {time.monotonic() - started:.0f} s", flush=True)
    return plain, prompted


def differences(path: Path, network: GeneratorNetwork, args: argparse.Namespace) -> tuple[int, int, int]:
    """Bytes of a keyframe's gains, and of their difference from those of the one 4 seconds before: fitted as
    they are, and fitted from those on.
    """
    seconds = 0.75 * (VideoSource(path).duration_seconds or 0.0)
    fitter = AdapterFitter(network, AdapterSettings(steps=args.steps, joint_steps=args.steps))
    pictures = [source_picture(path, max(seconds - back, 0.0)) for back in (SECONDS, 0.0)]
    coded = [keyframe(picture, args.crf) for picture in pictures]
    before, after = (
        fitter.fit(planes, picture.planes, base_q_idx)
        for picture, (_, base_q_idx, planes) in zip(pictures, coded, strict=True)
    )
    _, base_q_idx, planes = coded[1]
    onward = fitter.refine(before, planes, pictures[1].planes, base_q_idx, ())

    def size(values: NDArray[np.int8]) -> int:
        if np.abs(values).max() > MAX_VALUE:
            print("  some differences are beyond what can be coded, and cut short")
        return len(encode_values(np.clip(values, -MAX_VALUE, MAX_VALUE)))

    return size(after), size(after - before), size(onward - before)


def load_network(file: Path | None = None) -> GeneratorNetwork:
    """A generator's file, or the default one, in torch; it does not learn."""
    return network_of((file or SHIPPED / f"{DEFAULT_GENERATOR}.onnx").read_bytes())


def at_bytes(plain: list[Point], size: int) -> list[float]:
    """Distances of a keyframe of so many bytes, which must be within those that there are."""
    points = sorted(plain, key=lambda point: point.size)
    if not points[0].size <= size <= points[-1].size:
        raise ValueError(f"{size} bytes are beyond {points[0].size} to {points[-1].size}")
    sizes = [math.log(point.size) for point in points]
    return [
        math.exp(np.interp(math.log(size), sizes, [math.log(p.distances[i]) for p in points]))
        for i in range(len(METRICS))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--generator", type=Path)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--crf", type=float, default=56.0)
    parser.add_argument(
        "--differences",
        action="store_true",
        help="only the bytes of gains, and of their changes between GOPs",
    )
    args = parser.parse_args()
    network, measure = load_network(args.generator), Measure()
    if args.differences:
        for clip in find_clips(args.clips):
            plain, less, onward = differences(clip.path, network, args)
            print(
                f"{clip.name}: {plain} bytes, as a difference {less}, fitted from there on {onward}",
                flush=True,
            )
        return
    gains: dict[str, list[list[float]]] = {}
    rows: list[tuple[object, ...]] = []
    for clip in find_clips(args.clips):
        name = clip.name
        seconds = 0.75 * (VideoSource(clip.path).duration_seconds or 0.0)
        picture = source_picture(clip.path, seconds)
        print(name, flush=True)
        plain, prompted = study(picture, network, args, measure)
        (base,) = (point.size for point in plain if point.name == f"CRF {args.crf:g}")
        for point in (*plain, *prompted):
            rows.append((name, point.name, point.size, *(round(d, 5) for d in point.distances)))
        for point in prompted:
            same = at_bytes(plain, point.size)
            changes = [100 * (a / b - 1) for a, b in zip(point.distances, same, strict=True)]
            more = 100 * (point.size / base - 1)
            gains.setdefault(point.name, []).append([point.size - base, more, *changes])
            print(f"  {point.name}: {', '.join(f'{c:+.1f}' for c in changes)} %", flush=True)
    table = Table("prompt", "pictures", "bytes", "of the keyframe, %", *(f"{m}, %" for m in METRICS))
    for name, values in gains.items():
        size, more, *changes = (fmean(column) for column in zip(*values, strict=True))
        cells = (f"{change:+.1f}" for change in changes)
        table.add_row(name, str(len(values)), f"{size:.0f}", f"{more:.1f}", *cells)
    Console(width=120).print(table)
    save_csv(FIGURES / "prompt_adapter.csv", ("picture", "prompt", "bytes", *METRICS), rows)


if __name__ == "__main__":
    main()
