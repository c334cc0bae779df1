"""Low-rank updates of the generator's weights in the prompt, against the same bytes spent otherwise.

    python benchmarks/studies/prompt_adapter.py [CLIP ...] [--generator FILE.onnx] [--steps 150] [--crf 56]

A keyframe from the second half of each clip is coded with SVT-AV1 and generated everywhere at strength 1:
  gains        with a gain and an offset for every output channel of every convolution
  rank 1 (1/4) with updates of rank 1 of the convolutions at a quarter of the resolution
  rank 1       with updates of rank 1 of all convolutions
  gate         as it is, each block of 32 with the strength from 0 to 2 that brings it nearest in LPIPS-Alex
The updates are fitted to the picture by gradient descent (rounded from the start, straight through), with
the sum of their magnitudes as the price of their bits, and coded with integer tables and constriction's range
coder; what is read back is what is used.  Changes are against a finer keyframe of as many bytes, generated at
strength 1: interpolated over the logarithm of bytes between keyframes of several CRFs.
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
from hybridprompt.encode.judge import LpipsJudge
from hybridprompt.encode.settings import GATE_LEVELS, GATE_UNIT
from hybridprompt.evaluate.loss import GeneratorLoss, LossWeights
from hybridprompt.evaluate.perceptual import quick_dtype
from hybridprompt.generator.network import ALIGNMENT, GeneratorNetwork
from hybridprompt.generator.registry import DEFAULT_GENERATOR
from hybridprompt.generator.torch_weights import config_of, read_onnx
from hybridprompt.prompt.gate_coding import encode_indices
from hybridprompt.video.picture import Picture
from hybridprompt.video.source import VideoSource

SHIPPED = Path(hybridprompt.__file__).parent / "generator" / "weights"
CRFS = (40.0, 46.0, 52.0, 56.0, 60.0, 64.0)
METRICS = ("LPIPS-Alex", "LPIPS-VGG", "DISTS")
KINDS = ("gains", "rank 1 (1/4)", "rank 1")
BLOCK = 32
CROP, CROPS = 192, 4
STEP = 0.25
"""Of the quantiser: an update of 1 is as large as a weight of its layer usually is."""

TOP = 15
TABLES = 16
PRICE = 2e-6
"""Of one unit of magnitude, in the loss."""

Values = list[NDArray[np.int32]]
Pair = tuple[torch.Tensor, torch.Tensor]


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


class Adapter(nn.Module):
    """Updates of a network's convolutions."""

    def __init__(self, network: GeneratorNetwork, kind: str, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.network = network
        layers = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}
        if kind == "rank 1 (1/4)":
            layers = {n: m for n, m in layers.items() if n.split(".")[0] in ("stem", "tail", "head")}
        self.kind, self.layers = kind, layers
        self.values = nn.ParameterList()
        for layer in layers.values():
            weight = layer.weight
            self.values.append(torch.zeros(len(weight)))
            # A product of two zeros would never learn.
            second = torch.zeros(len(weight)) if kind == "gains" else torch.randn(weight[0].numel())
            self.values.append(second)

    def rounded(self) -> list[torch.Tensor]:
        """Integers, with gradients as if they were not rounded."""
        found = []
        for value in self.values:
            scaled = value / STEP
            found.append(scaled + (scaled.round().clamp(-TOP, TOP) - scaled).detach())
        return found

    def weights(self, values: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Weights and biases of the adapted network."""
        adapted = {}
        for index, (name, layer) in enumerate(self.layers.items()):
            first, second = (STEP * value for value in values[2 * index : 2 * index + 2])
            usual = layer.weight.detach().square().mean().sqrt()
            if self.kind == "gains":
                assert layer.bias is not None
                adapted[f"{name}.weight"] = layer.weight * (1 + 0.5 * first)[:, None, None, None]
                adapted[f"{name}.bias"] = layer.bias + 0.2 * usual * second
            else:
                update = (first[:, None] * second[None]).view_as(layer.weight)
                adapted[f"{name}.weight"] = layer.weight + usual * update
        return adapted

    def generate(self, coded: Pair, told: torch.Tensor, values: list[torch.Tensor]) -> Pair:
        planes: Pair = functional_call(self.network, self.weights(values), (*coded, told))
        return planes


def fit(
    adapter: Adapter, coded: Pair, source: Pair, told: torch.Tensor, steps: int, loss: GeneratorLoss
) -> Values:
    """Fit the updates to one picture; returns integers."""
    rng = torch.Generator().manual_seed(1)
    loss.rng = torch.Generator().manual_seed(1)
    optimiser = torch.optim.Adam(adapter.values.parameters(), lr=0.03)
    height, width = coded[0].shape[2:]
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 0.03 * (0.05 + 0.95 * (0.5 + 0.5 * math.cos(math.pi * step / steps)))
        places = [
            # The network sees the whole picture at one phase of its grid.
            [
                ALIGNMENT * int(torch.randint((size - CROP) // ALIGNMENT + 1, (1,), generator=rng))
                for size in (height, width)
            ]
            for _ in range(CROPS)
        ]

        def crops(planes: Pair, places: list[list[int]] = places) -> Pair:
            luma = [planes[0][:, :, y : y + CROP, x : x + CROP] for y, x in places]
            half = CROP // 2
            chroma = [planes[1][:, :, y // 2 : y // 2 + half, x // 2 : x // 2 + half] for y, x in places]
            return torch.cat(luma), torch.cat(chroma)

        values = adapter.rounded()
        with torch.autocast("cpu", quick_dtype(torch.device("cpu"))):
            made = adapter.generate(crops(coded), told.expand(CROPS, 1, 1, 1), values)
        total = loss((made[0].float(), made[1].float()), crops(source), step).total
        total = total + PRICE * sum(value.abs().sum() for value in values)
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    integers = [value.detach().round().numpy().astype(np.int32) for value in adapter.rounded()]
    if adapter.kind != "gains":
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
    picture: Picture,
    network: GeneratorNetwork,
    args: argparse.Namespace,
    tools: tuple[Measure, GeneratorLoss],
) -> tuple[list[Point], list[Point]]:
    """Keyframes of several CRFs generated at strength 1, and one with each kind of prompt."""
    measure, loss = tools
    source = picture.planes
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
            adapter = Adapter(network, kind, seed=1)
            values = fit(adapter, coded, padded_planes(source), told, args.steps, loss)
            data = code(values)
            read_back = read(data, [len(part) for part in values])
            assert all(np.array_equal(a, b) for a, b in zip(read_back, values, strict=True))
            with torch.inference_mode():
                made = adapter.generate(coded, told, [torch.from_numpy(v).float() for v in read_back])
            found = measure(levels(made, planes), source)
            prompted.append(Point(kind, size + len(data), found))
            print(f"  {kind}: {len(data)} bytes, {time.monotonic() - started:.0f} s", flush=True)
    return plain, prompted


def load_network(file: Path | None = None) -> GeneratorNetwork:
    """A generator's file, or the default one, in torch; it does not learn."""
    weights = read_onnx(file or SHIPPED / f"{DEFAULT_GENERATOR}.onnx", integers=True)
    network = GeneratorNetwork(config_of(weights))
    network.load_state_dict(weights)
    return network.requires_grad_(False)


def make_loss() -> GeneratorLoss:
    """The loss of fitting prompts."""
    cpu = torch.device("cpu")
    terms = LossWeights(dists=1.0, vgg_every=3, vgg_crops=2, vgg_size=128)
    return GeneratorLoss(terms, cpu, torch.Generator(), alex_dtype=quick_dtype(cpu))


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
    args = parser.parse_args()
    network, loss = load_network(args.generator), make_loss()
    tools = Measure(), loss
    gains: dict[str, list[list[float]]] = {}
    rows: list[tuple[object, ...]] = []
    for clip in find_clips(args.clips):
        name = clip.name
        seconds = 0.75 * (VideoSource(clip.path).duration_seconds or 0.0)
        picture = source_picture(clip.path, seconds)
        print(name, flush=True)
        plain, prompted = study(picture, network, args, tools)
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
