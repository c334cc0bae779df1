"""Trains the network of a learned still, and fits the latents of given pictures; needs torch, but no PyAV.

The loss is that of `hybridprompt.evaluate.loss` with nothing read back from the device, plus a price for
bits.  A step draws its own crops and all its random numbers on the device: on CUDA it is captured once as a
graph and replayed.  Every level has a price of its own, which a slow controller moves until the level has
its bits for each pixel: eight times as many at the beginning, when pixels count most, so that the latent
learns to carry something before it learns to save.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import cast

import numpy as np
import torch
from learned_still_network import (
    HARD,
    LEVELS,
    PARTS,
    STRAIGHT_THROUGH,
    LearnedStill,
    Planes,
    Rounding,
    at_level,
    laplace_bits,
    padded,
)

from hybridprompt.evaluate.colour import Matrix, yuv420_to_rgb
from hybridprompt.evaluate.loss import band_loss, mean_distance, pixel_loss
from hybridprompt.evaluate.perceptual import quick_dtype
from hybridprompt.train.captured import (
    PHASES,
    SCALES,
    DeviceDists,
    DeviceLpips,
    view_weights,
)
from hybridprompt.train.resident import crop_places
from hybridprompt.train.sample_files import load_sample, sample_paths

BITS = (0.015, 0.03, 0.06, 0.11, 0.2)
"""For each pixel of a crop, by level."""

TERMS = ("alex", "vgg", "dists", "pixel", "band")
PIXEL = 1.5
"""What pixels count, after the beginning; the others count 1."""

_LATE_SIZE = 160
_PIXELS_FIRST = 0.15
"""Share of the time in which pixels count more, and no more after it."""
_EARLY_PIXEL = 10.0
_BITS_FALL = 0.3
"""Share of the time in which levels come down to their bits."""
_EARLY_BITS = 8.0
_PRICES_MOVE = 0.85
_PRICE_STEP = 0.006
_MEAN_FROM = 0.3
"""Share of the time after which the moving average of the weights begins."""
_MEAN_STEP = 0.003
_CLIP_NORM = 1.0
_TILE = 256
_SOFTEST, _SHARPEST = 3.0, 10.0
_LATENT_RATE = 0.015
_PICTURE_PRICE_STEP = 0.03
_LOG_EVERY = 200
_SAVE_SECONDS = 60.0
_STEPS_AHEAD = 10

STEPS = range((LEVELS - 1) * PARTS + PARTS // 2, -PARTS // 2 - 1, -1)
"""Levels in parts, fine to coarse, somewhat beyond those that were learnt."""


class Distance:
    """The terms of the loss for N crops of ``size`` luma pixels, best a multiple of the three scales.

    AlexNet sees a third of them at each scale, in phases that change; VGG16 a part of the first half.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        quick = quick_dtype(device)
        self.alex = DeviceLpips("alex", device, quick)
        self.vgg = DeviceLpips("vgg", device, quick)
        self.dists = DeviceDists(device, quick)
        self.size, self.device = size, device
        self.views = [
            torch.stack([view_weights(size, start, scale) for start in range(PHASES + 1)]).to(device)
            for scale in SCALES
        ]
        self.late = torch.arange(min(_LATE_SIZE, size), device=device)

    def __call__(
        self, made: Planes, source: Planes, matrix: Matrix = "bt709", full_range: bool = False
    ) -> dict[str, torch.Tensor]:
        pictures = [yuv420_to_rgb(*p, matrix=matrix, full_range=full_range) for p in (made, source)]
        alex = []
        for third, views in enumerate(self.views[: len(pictures[0])]):
            rows, columns = views.index_select(0, torch.randint(len(views), (2,), device=self.device))
            pair = [rows @ picture[third :: len(self.views)] @ columns.T for picture in pictures]
            alex.append(mean_distance(self.alex, *pair))
        starts = torch.randint(self.size - len(self.late) + 1, (2, 1), device=self.device)
        rows, columns = self.late + starts
        half = min(len(pictures[0]) // 2 + 1, len(pictures[0]))
        crops = [picture[:half].index_select(2, rows).index_select(3, columns) for picture in pictures]
        return {
            "alex": torch.stack(alex).mean(),
            "vgg": mean_distance(self.vgg, *crops),
            "dists": mean_distance(self.dists, *crops),
            "pixel": pixel_loss(made, source),
            "band": band_loss(made[0], source[0]),
        }


def weighed(terms: dict[str, torch.Tensor], pixel: torch.Tensor | float) -> torch.Tensor:
    """The loss without bits; pixel: what pixels count."""
    return terms["alex"] + terms["vgg"] + terms["dists"] + terms["band"] + pixel * terms["pixel"]


class Crops:
    """The sources of a corpus, in the memory of a device; raises SystemExit where none is large enough."""

    def __init__(self, folders: Sequence[Path], size: int, device: torch.device) -> None:
        paths = [path for folder in folders for path in sample_paths(folder)]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda path: load_sample(path).source, paths))
        sources = [s for s in found if s.shape[0] * 2 // 3 >= size and s.shape[1] >= size]
        if not sources:
            raise SystemExit(f"{', '.join(map(str, folders))}: no sample is as large as {size} pixels")
        self.count, self.size, self.device = len(sources), size, device
        shapes = [(s.shape[0] * 2 // 3, s.shape[1]) for s in sources]
        starts = np.cumsum([0, *(s.size for s in sources[:-1])])
        table = np.concatenate([starts[:, None], np.array(shapes)], 1).astype(np.int64)
        self._table = torch.from_numpy(table).to(device)
        self._samples = torch.from_numpy(np.concatenate([s.ravel() for s in sources])).to(device)

    def draw(self, count: int) -> Planes:
        """Crops at random even places of random samples, half of them mirrored."""
        chosen = torch.randint(self.count, (count,), device=self.device)
        table = self._table.index_select(0, chosen)
        room = (table[:, 1:] - self.size) // 2 + 1
        places = (torch.rand(room.shape, device=self.device) * room).long() * 2
        mirrored = torch.randint(2, (count, 1), device=self.device)
        luma, chroma = crop_places(torch.cat([table, places, mirrored], 1), self.size)
        return self._samples[luma].float() / 255, self._samples[chroma].float() / 255


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """bits: for each pixel, by level; batch: a multiple of LEVELS and of 3; steps: at most, 0 for no end."""

    folders: tuple[Path, ...]
    out: Path
    seconds: float
    device: torch.device
    bits: tuple[float, ...] = BITS
    batch: int = 30
    size: int = 256
    rate: float = 4e-4
    steps: int = 0
    eager: bool = False


class Training:
    """All that a step changes lies on the device; `step` is what is captured, or called as it is."""

    def __init__(self, settings: TrainSettings) -> None:
        device, self.settings = settings.device, settings
        torch.manual_seed(1)
        cuda = device.type == "cuda"
        network = LearnedStill(quick=cuda)
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parameters = list(self.network.parameters())
        self.means = [p.detach().clone() for p in self.parameters]
        self.rate = torch.tensor(settings.rate, device=device)
        self.optimiser = torch.optim.Adam(
            self.parameters, lr=self.rate, betas=(0.9, 0.99), fused=True, capturable=cuda
        )
        self.crops = Crops(settings.folders, settings.size, device)
        self.distance = Distance(settings.size, device)
        self.level = (torch.arange(settings.batch, device=device) % LEVELS).float()
        self.targets = torch.tensor(settings.bits, device=device)
        # A small part of what a bit is about worth, so that nothing is priced away at first.
        self.least = (0.01 / self.targets).log()
        self.log_price = self.least.clone()
        self.progress = torch.zeros((), device=device)
        self.sums = torch.zeros(len(TERMS) + LEVELS + 1, device=device)

    def step(self) -> None:
        """One step, at the share of the time that `progress` says."""
        settings, progress = self.settings, self.progress
        source = self.crops.draw(settings.batch)
        latent = self.network.amplified(self.network.analyse(source), self.level)
        decoded, _, _, bits = self.network.rounded(
            latent, self.network.hyper(latent), self.level, STRAIGHT_THROUGH
        )
        terms = self.distance(self.network.synthesise(decoded, self.level), source)
        per_pixel = (bits / settings.size**2).view(-1, LEVELS)
        pixel = PIXEL + (_EARLY_PIXEL - PIXEL) * (1 - progress / _PIXELS_FIRST).clamp_min(0)
        loss: torch.Tensor = weighed(terms, pixel) + (self.log_price.exp() * per_pixel).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad.nan_to_num_(0.0, 0.0, 0.0)
        torch.nn.utils.clip_grad_norm_(self.parameters, _CLIP_NORM)
        warm, cosine = (progress / 0.02).clamp(0.01, 1), 0.51 + 0.49 * torch.cos(math.pi * progress)
        self.rate.copy_(settings.rate * warm * cosine)
        self.optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.means, self.parameters, _MEAN_STEP)
            found = per_pixel.mean(0)
            aim = self.targets * torch.exp(math.log(_EARLY_BITS) * (1 - progress / _BITS_FALL).clamp_min(0))
            change = (found / aim).clamp_min(1e-6).log().clamp(-1, 1) * (progress < _PRICES_MOVE)
            price = self.log_price + _PRICE_STEP * change.nan_to_num(0.0)
            self.log_price.copy_(torch.maximum(price, self.least).clamp_max(math.log(100)))
            one = torch.ones_like(found[:1])
            self.sums.add_(torch.cat([torch.stack([terms[name] for name in TERMS]), found, one]))

    def replayed(self) -> Callable[[], None]:
        """The step as a graph, after steps that count as any other."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(5):
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        self.optimiser.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        return graph.replay

    def run(self) -> None:
        """Train for the seconds of the settings, and write checkpoints."""
        settings = self.settings
        cuda = settings.device.type == "cuda"
        begin = saved = time.monotonic()
        step = self.replayed() if cuda and not settings.eager else self.step
        taken, spent, settled, early = 0, 0.0, 0.0, True
        while spent < settings.seconds and not (settings.steps and taken >= settings.steps):
            self.progress.fill_(spent / settings.seconds)
            step()
            taken += 1
            if cuda and taken % _STEPS_AHEAD == 0:
                torch.cuda.synchronize()
            spent = time.monotonic() - begin
            if early:
                early = spent < _MEAN_FROM * settings.seconds
                self._forget_mean()
            if taken == _STEPS_AHEAD:
                settled = spent
            if taken == 5 * _STEPS_AHEAD:
                print(f"{(spent - settled) / (taken - _STEPS_AHEAD):.4f} s a step", flush=True)
            if taken % _LOG_EVERY == 0:
                self._tell(taken, spent)
            if time.monotonic() - saved > _SAVE_SECONDS:
                self.save(taken)
                saved = time.monotonic()
        self._tell(taken, spent)
        self.save(taken)

    @torch.no_grad()
    def _forget_mean(self) -> None:
        torch._foreach_copy_(self.means, self.parameters)

    def _tell(self, taken: int, spent: float) -> None:
        *means, count = self.sums.tolist()
        self.sums.zero_()
        values = [mean / max(count, 1) for mean in means]
        terms = ", ".join(f"{name} {value:.4f}" for name, value in zip(TERMS, values, strict=False))
        bits = " ".join(f"{value:.4f}" for value in values[len(TERMS) :])
        prices = " ".join(f"{value:.2f}" for value in self.log_price.exp().tolist())
        print(f"step {taken}, {spent:.1f} s: {terms}; bits {bits}; prices {prices}", flush=True)

    def save(self, taken: int) -> None:
        """Write the mean weights as float16, and the prices."""
        names = [name for name, _ in self.network.named_parameters()]
        state = {n: m.half().contiguous().cpu() for n, m in zip(names, self.means, strict=True)}
        partial = self.settings.out.with_name(f".{self.settings.out.name}.partial")
        self.settings.out.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"network": state, "log_price": self.log_price.cpu(), "steps": taken}, partial)
        partial.replace(self.settings.out)


def load_network(path: Path, device: torch.device, *, quick: bool) -> tuple[LearnedStill, torch.Tensor]:
    """The network of a checkpoint, frozen, and the logarithms of the prices of its levels."""
    saved = torch.load(path, map_location=device, weights_only=True)
    network = LearnedStill(quick=quick)
    network.load_state_dict({name: value.float() for name, value in saved["network"].items()})
    network.to(device, memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload]
    return network, saved["log_price"]


@dataclass(frozen=True)
class Prepared:
    """A picture on a device, with repeated edges up to whole strides, and how it becomes RGB."""

    name: str
    planes: Planes
    pixels: int
    matrix: Matrix
    full_range: bool


def _prepared(path: Path, device: torch.device) -> Prepared:
    with np.load(path) as data:
        planes = padded(data["y"], data["uv"], device)
        return Prepared(
            path.stem, planes, data["y"].size, cast(Matrix, str(data["matrix"])), bool(data["full_range"])
        )


def soft(sharpness: float) -> Rounding:
    """Rounding that lets gradients through, the harder the sharper (Agustsson and Theis 2020)."""

    def seen(x: torch.Tensor) -> torch.Tensor:
        middle = x.floor() + 0.5
        return middle + 0.5 * torch.tanh(sharpness * (x - middle)) / math.tanh(sharpness / 2)

    return Rounding(seen, lambda x, scale: laplace_bits(seen(x), scale))


def _tiles(planes: Planes, top: int, left: int) -> Planes:
    """As many squares of one picture as fit side by side, the first at an even place, as a batch."""
    rows, columns = (n // _TILE for n in planes[0].shape[-2:])
    found = []
    for plane, half in zip(planes, (1, 2), strict=True):
        side = _TILE // half
        whole = plane[0, :, top // half :, left // half :][:, : rows * side, : columns * side]
        parts = whole.reshape(-1, rows, side, columns, side).permute(1, 3, 0, 2, 4)
        found.append(parts.reshape(rows * columns, -1, side, side))
    return found[0], found[1]


class Refiner:
    """Fits the latents of pictures with a frozen network."""

    def __init__(self, checkpoint: Path, device: torch.device, steps: int) -> None:
        self.device, self.steps = device, steps
        self.network, self.log_price = load_network(checkpoint, device, quick=device.type == "cuda")
        self.distance = Distance(_TILE, device)

    def _level_for(self, latent: torch.Tensor, target: float) -> int:
        """The finest level, in parts, whose bits are not more than the target; the coarsest if none is."""
        low, high = 0, len(STEPS) - 1
        while low < high:
            middle = (low + high) // 2
            level = torch.tensor([STEPS[middle] / PARTS], device=self.device)
            amplified = self.network.amplified(latent, level)
            bits = self.network.rounded(amplified, self.network.hyper(amplified), level, HARD)[3]
            low, high = (middle + 1, high) if float(bits) > target else (low, middle)
        return STEPS[low]

    def _loss(
        self, picture: Prepared, decoded: torch.Tensor, level: torch.Tensor, rng: np.random.Generator
    ) -> torch.Tensor:
        top, left = (2 * int(rng.integers(n % _TILE // 2 + 1)) for n in picture.planes[0].shape[-2:])
        both = self.network.synthesise(decoded, level), picture.planes
        tiles = [_tiles(planes, top, left) for planes in both]
        # VGG16 sees the first half only, and AlexNet every third at one scale: let these be others each time.
        order = torch.from_numpy(rng.permutation(len(tiles[0][0]))).to(self.device)
        made, source = ((luma[order], chroma[order]) for luma, chroma in tiles)
        return weighed(self.distance(made, source, picture.matrix, picture.full_range), PIXEL)

    @torch.no_grad()
    def _hard(
        self, picture: Prepared, latent: torch.Tensor, hyper: torch.Tensor, level: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, str]:
        """The integers of a latent, and what they give, in words."""
        decoded, whole, seen, bits = self.network.rounded(latent, hyper, level, HARD)
        torch.manual_seed(2)
        rng = np.random.default_rng(2)
        loss = fmean(float(self._loss(picture, decoded, level, rng)) for _ in range(4))
        return whole, seen, f"{float(bits) / picture.pixels:.4f} bit, loss {loss:.4f}"

    def refine(self, picture: Prepared, bits: float) -> dict[str, np.ndarray]:
        """The integers of a picture that is to have so many bits for each of its pixels."""
        begin = time.monotonic()
        network, target = self.network, bits * picture.pixels
        with torch.no_grad():
            start = network.analyse(picture.planes)
            parts = self._level_for(start, target)
            level = torch.tensor([parts / PARTS], device=self.device)
            latent = network.amplified(start, level)
            hyper = network.hyper(latent)
            log_price = at_level(self.log_price[:, None], level).flatten()
        _, _, before = self._hard(picture, latent, hyper, level)
        latent, hyper = latent.clone().requires_grad_(), hyper.clone().requires_grad_()
        optimiser = torch.optim.Adam([latent, hyper], lr=_LATENT_RATE, betas=(0.9, 0.99))
        rng = np.random.default_rng(1)
        for step in range(self.steps):
            share = step / self.steps
            optimiser.param_groups[0]["lr"] = _LATENT_RATE * (0.55 + 0.45 * math.cos(math.pi * share))
            rounding = soft(_SOFTEST * (_SHARPEST / _SOFTEST) ** share)
            decoded, _, _, cost = network.rounded(latent, hyper, level, rounding)
            loss = self._loss(picture, decoded, level, rng)
            optimiser.zero_grad(set_to_none=True)
            (loss + log_price.exp() * cost / picture.pixels).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            log_price = log_price + _PICTURE_PRICE_STEP * (cost.detach() / target).log().clamp(-1, 1)
        whole, seen, after = self._hard(picture, latent, hyper, level)
        seconds = time.monotonic() - begin
        print(f"{picture.name} at {bits:g}: {before} -> {after}, {seconds:.1f} s", flush=True)
        name = f"{picture.name}/{bits:g}"
        return {
            f"{name}/latent": whole[0].cpu().numpy().astype(np.int16),
            f"{name}/hyper": seen[0].cpu().numpy().astype(np.int16),
            f"{name}/parts": np.array(parts),
        }


def refine(refiner: Refiner, folder: Path, out: Path, bits: Sequence[float], seconds: float) -> None:
    """Refine pictures, as many as the seconds allow, and write their integers."""
    begin = time.monotonic()
    found: dict[str, np.ndarray] = {}
    prepared = [_prepared(path, refiner.device) for path in sorted(folder.glob("*.npz"))]
    for rate, picture in product(bits, prepared):
        if time.monotonic() - begin > seconds:
            print(f"no time for {picture.name} at {rate:g}")
            continue
        found |= refiner.refine(picture, rate)
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out, **found)  # type: ignore[arg-type]
