"""A still as a learned latent, against stills of AV1 with a generator, and of other codecs, at equal bytes.

    python benchmarks/studies/learned_still.py train runs/corpus --steps 8000 --out runs/learned_still.pt
    python benchmarks/studies/learned_still.py compare runs/corpus [CLIP ...] --weights runs/learned_still.pt

The latent is what a picture would be coded as if a prompt were all there is of it: an encoder network, a
quantiser with a step per channel and rate, static tables of integer probabilities, and a decoder network of
about the medium generator's operations.  Each value's table is chosen by its channel and by the magnitudes of
values that were decoded before it (left, above, both corners above).  The range coder is constriction's; the
bytes are those it writes, and what it reads back is what gets decoded.

`compare` takes held-out photos of the corpus and a picture from the second half of each clip; distances of
whole pictures at fixed rates in bit per pixel, interpolated over log rate; "beyond" is where a codec has no
point on both sides.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from statistics import fmean
from typing import Any

import av
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import find_clips
from figures import FIGURES, save_csv, source_picture
from latents import TOP, Counts, RateModel, code_values, contexts_of, read_values

from hybridprompt.encode.still_encoder import encode_still
from hybridprompt.evaluate.colour import yuv420_to_rgb
from hybridprompt.evaluate.loss import GeneratorLoss, LossWeights
from hybridprompt.evaluate.perceptual import Dists, Lpips
from hybridprompt.generator.base import Planes
from hybridprompt.generator.network import ResidualBlock
from hybridprompt.generator.onnx_generator import OnnxGenerator
from hybridprompt.generator.registry import load_chosen
from hybridprompt.train.samples import SampleStore, even_samples, split_planes
from hybridprompt.video.picture import Picture, picture_from_frame
from hybridprompt.video.scaling import scaled
from hybridprompt.video.source import VideoSource

CHANNELS = 32
RATES = 4
LAMBDAS = (6.0, 3.0, 1.5, 0.75)
TARGETS = (0.02, 0.04, 0.08)
METRICS = ("LPIPS-Alex", "LPIPS-VGG", "DISTS")
Point = tuple[float, tuple[float, ...]]
Coder = Callable[[Picture, float], tuple[int, Planes]]


class LearnedStill(nn.Module):
    """Encoder to a latent of CHANNELS values for 16 x 16 pixels, and decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(96, 96, 3, padding=1), nn.ReLU(), ResidualBlock(96), ResidualBlock(96),
            nn.Conv2d(96, 128, 2, stride=2), nn.ReLU(), ResidualBlock(128), ResidualBlock(128),
            nn.Conv2d(128, CHANNELS, 3, padding=1),
        )  # fmt: skip
        self.deep = nn.Sequential(
            nn.Conv2d(CHANNELS + 1, 160, 3, padding=1), nn.ReLU(), ResidualBlock(160), ResidualBlock(160),
            nn.Conv2d(160, 96 * 4, 1), nn.PixelShuffle(2), nn.ReLU(), ResidualBlock(96), ResidualBlock(96),
            nn.Conv2d(96, 32 * 4, 1), nn.PixelShuffle(2), ResidualBlock(32),
            nn.Conv2d(32, 24, 3, padding=1),
        )  # fmt: skip
        # Log of the quantiser's step per rate and channel.
        self.log_step = nn.Parameter(torch.linspace(-2.5, -3.5, RATES)[:, None].repeat(1, CHANNELS))
        self.rate = RateModel(CHANNELS)

    def analyse(self, y: torch.Tensor, uv: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
        """Values to round, (N, CHANNELS, H/16, W/16), of planes whose sizes are multiples of 16."""
        x = torch.cat([F.pixel_unshuffle(y, 8), F.pixel_unshuffle(uv, 4)], 1) - 0.5
        values: torch.Tensor = self.encoder(x).float()
        return values / self.log_step[rate].exp()[..., None, None]

    def synthesise(self, values: torch.Tensor, rate: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scaled = values * self.log_step[rate].exp()[..., None, None]
        told = (rate.float() / (RATES - 1) - 0.5)[:, None, None, None].expand(-1, 1, *values.shape[2:])
        planes = self.deep(torch.cat([scaled, told], 1)).float() + 0.5
        return F.pixel_shuffle(planes[:, :16], 4), F.pixel_shuffle(planes[:, 16:], 2)


def train(corpus: Path, out: Path, steps: int, seed: int) -> None:
    torch.manual_seed(seed)
    network = LearnedStill().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    samples = SampleStore(corpus / "train")
    rng, torch_rng = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    loss = GeneratorLoss(LossWeights(vgg_every=2), torch.device("cpu"), torch_rng, alex_dtype=torch.bfloat16)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.9, 0.99))
    lambdas = torch.tensor(LAMBDAS)
    started = saved = time.monotonic()
    shown: list[tuple[float, ...]] = []
    for step in range(steps):
        for group in optimiser.param_groups:
            cosine = 0.5 + 0.5 * math.cos(math.pi * step / steps)
            group["lr"] = 1e-3 * min((step + 1) / 200, 1) * (0.02 + 0.98 * cosine)
        y, uv = samples.batch(rng, 8, 192).source
        rate = torch.randint(RATES, (len(y),), generator=torch_rng)
        with torch.autocast("cpu", torch.bfloat16):
            values = network.analyse(y, uv, rate)
            rounded = values.detach().round()
            noise = torch.rand(values.shape, generator=torch_rng) - 0.5
            made = network.synthesise(values + (rounded - values).detach(), rate)
        bpp = network.rate.bits(values + noise, contexts_of(rounded)) / (y.shape[2] * y.shape[3])
        distortion = loss(made, (y, uv), step)
        total = distortion.total + (lambdas[rate] * bpp).mean()
        optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        by_rate = (float(bpp.detach()[rate == r].mean()) for r in range(RATES))
        shown.append((distortion.alex, distortion.pixel, *by_rate))
        if (step + 1) % 100 == 0:
            means = " ".join(f"{value:.4f}" for value in np.nanmean(np.array(shown), 0))
            seconds = (time.monotonic() - started) / (step + 1)
            print(f"step {step + 1}: alex, L1, bpp by rate {means}, {seconds:.3f} s", flush=True)
            shown.clear()
        if time.monotonic() - saved > 120 or step + 1 == steps:
            tables = integer_tables(network, samples) if step + 1 == steps else None
            temporary = out.with_suffix(".partial")
            torch.save({"network": network.state_dict(), "step": step + 1, "tables": tables}, temporary)
            os.replace(temporary, out)
            saved = time.monotonic()


@torch.no_grad()
def integer_tables(network: LearnedStill, samples: SampleStore, batches: int = 100) -> torch.Tensor:
    """Tables of every rate, (RATES, CHANNELS, contexts, values), from training pictures."""
    tables = []
    for r in range(RATES):
        rng, counts = np.random.default_rng(0), Counts(CHANNELS)
        for _ in range(batches):
            y, uv = samples.batch(rng, 4, 192).source
            counts.add(network.analyse(y, uv, torch.full((len(y),), r)).round())
        tables.append(counts.tables())
    return torch.stack(tables)


def _pad(plane: NDArray[np.uint8], multiple: int) -> torch.Tensor:
    height, width = plane.shape
    grown = np.pad(plane, ((0, -height % multiple), (0, -width % multiple)), "edge")
    return torch.from_numpy(grown)[None, None].float() / 255


def padded_planes(planes: Planes) -> tuple[torch.Tensor, torch.Tensor]:
    """Luma and chroma in [0, 1], edges repeated to multiples of 16 and 8."""
    return _pad(planes[0], 16), torch.cat([_pad(plane, 8) for plane in planes[1:]], 1)


@torch.no_grad()
def learned(
    network: LearnedStill, tables: torch.Tensor, planes: Planes, *, check: bool
) -> list[tuple[int, Planes]]:
    """Bytes and decoded planes at every rate."""
    height, width = planes[0].shape
    y, uv = padded_planes(planes)
    points = []
    for r in range(RATES):
        rate = torch.tensor([r])
        values = network.analyse(y, uv, rate).round().clamp(-TOP, TOP)
        integers = values[0].numpy().astype(np.int32)
        data = code_values(integers, tables[r])
        if check:
            read = read_values(data, (integers.shape[1], integers.shape[2]), tables[r])
            assert np.array_equal(read, integers)
        made_y, made_uv = network.synthesise(values, rate)
        made = [(p * 255).round().clamp(0, 255).byte().numpy() for p in (made_y[0, 0], *made_uv[0])]
        u, v = (plane[: (height + 1) // 2, : (width + 1) // 2] for plane in made[1:])
        points.append((len(data), (made[0][:height, :width], u, v)))
    return points


def _generated(generator: OnnxGenerator, planes: Planes, quantiser: int) -> Planes:
    gate = np.ones((1, 1), np.float32)
    return generator.generate(planes, quantiser=quantiser, strengths=gate, block_size=1 << 14)


def av1(picture: Picture, crf: float, generator: OnnxGenerator | None = None) -> tuple[int, Planes]:
    """A still as mode replace codes it, and generated where a generator is given."""
    still, decoded = encode_still(picture, crf, preset=5, tune=0)
    planes = decoded.planes
    if generator is not None:
        planes = _generated(generator, planes, decoded.base_q_idx)
    return len(still.data), planes


def small_av1(picture: Picture, crf: float, generator: OnnxGenerator) -> tuple[int, Planes]:
    """A still of half the size, brought back by Lanczos's filter, and generated."""
    width, height = (size // 4 * 2 for size in (picture.width, picture.height))
    small = scaled(picture, width, height)
    still, decoded = encode_still(small, crf, preset=5, tune=0)
    y, u, v = decoded.planes
    back = scaled(replace(small, y=y, u=u, v=v), picture.width, picture.height)
    return len(still.data), _generated(generator, back.planes, decoded.base_q_idx)


def hevc(picture: Picture, crf: float) -> tuple[int, Planes]:
    """A still of x265."""
    encoder: Any = av.CodecContext.create("libx265", "w")
    encoder.width, encoder.height, encoder.pix_fmt = picture.width, picture.height, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 30), Fraction(30)
    parameters = f"crf={crf:g}:keyint=1:log-level=none:info=0"
    encoder.options = {"preset": "slow", "tune": "ssim", "x265-params": parameters}
    packets = [*encoder.encode(picture.to_frame()), *encoder.encode(None)]
    data = b"".join(map(bytes, packets))
    decoder: Any = av.CodecContext.create("hevc", "r")
    (frame,) = [*decoder.decode(av.Packet(data)), *decoder.decode(None)]
    return len(data), picture_from_frame(frame).planes


def avif(picture: Picture, quality: float) -> tuple[int, Planes]:
    """An AVIF file of libaom, as Pillow writes it."""
    shown = picture.to_frame().reformat(format="rgb24", src_colorspace="ITU709").to_ndarray()
    file = io.BytesIO()
    Image.fromarray(shown).save(file, "AVIF", quality=int(quality), subsampling="4:2:0", speed=4)
    frame = av.VideoFrame.from_ndarray(np.asarray(Image.open(file).convert("RGB")), "rgb24")
    frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
    return len(file.getvalue()), picture_from_frame(frame).planes


class Measure:
    """Distances of pictures, in bfloat16."""

    def __init__(self) -> None:
        half = torch.bfloat16
        self.networks = [Lpips("alex", dtype=half), Lpips("vgg", dtype=half), Dists(dtype=half)]

    def __call__(self, planes: Planes, source: Planes) -> tuple[float, ...]:
        def rgb(found: Planes) -> torch.Tensor:
            y, u, v = (torch.from_numpy(np.array(plane)).float() / 255 for plane in found)
            return yuv420_to_rgb(y[None, None], torch.stack([u, v])[None])

        with torch.inference_mode():
            pair = rgb(planes), rgb(source)
            return tuple(float(network(*pair)) for network in self.networks)


def held_out_pictures(corpus: Path | None, clips: list[Path], photos: int) -> list[tuple[str, Picture]]:
    """A picture from the second half of each clip, and of a corpus its held-out photos; of even sizes."""
    found: list[tuple[str, Picture]] = []
    for clip in find_clips(clips):
        seconds = 0.75 * (VideoSource(clip.path).duration_seconds or 0.0)
        found.append((clip.name, source_picture(clip.path, seconds)))
    if corpus is None:
        return found
    large = [s for s in even_samples(corpus / "validation", 10_000) if s.is_key and s.width >= 900]
    for sample in large[:: max(len(large) // photos, 1)][:photos]:
        y, uv = split_planes(sample.source)
        found.append((sample.name[:8], Picture(y, uv[0], uv[1], pts=0, time_base=Fraction(1, 30))))
    return found


def at_rate(points: list[Point], target: float) -> tuple[float, ...] | None:
    """Distances at a rate, interpolated over its logarithm; None outside the points."""
    points = sorted(points)
    rates = [math.log(rate) for rate, _ in points]
    wanted = math.log(target)
    if not rates[0] <= wanted <= rates[-1]:
        return None
    columns = np.array([distances for _, distances in points]).T
    return tuple(float(np.interp(wanted, rates, column)) for column in columns)


def compare(weights: Path | None, corpus: Path, clips: list[Path], photos: int) -> None:
    network, tables = LearnedStill(), torch.empty(0)
    if weights is not None:
        state = torch.load(weights, weights_only=True)
        network.load_state_dict(state["network"])
        tables = state["tables"]
    generator, measure = load_chosen(threads=2), Measure()
    codecs: dict[str, tuple[Coder, tuple[float, ...]]] = {
        "AV1 (SVT-AV1, as in replace)": (av1, (34, 42, 48, 54, 60, 65, 69)),
        "AV1 + generator": (lambda p, q: av1(p, q, generator), (34, 42, 48, 54, 60, 65, 69)),
        "AV1 at 1/2 + generator": (lambda p, q: small_av1(p, q, generator), (20, 28, 36, 44, 52, 60)),
        "HEVC (x265 slow)": (hevc, (28, 32, 36, 40, 44, 48)),
        "AVIF (libaom)": (avif, (50, 40, 30, 20, 12, 6, 2)),
    }
    found: dict[tuple[str, float], list[tuple[float, ...]]] = {}
    rows: list[tuple[object, ...]] = []
    for number, (name, picture) in enumerate(held_out_pictures(corpus, clips, photos)):
        pixels = picture.width * picture.height
        source = picture.planes
        curves: dict[str, list[Point]] = {}
        if weights is not None:
            curves["learned latent"] = [
                (8 * size / pixels, measure(planes, source))
                for size, planes in learned(network, tables, source, check=number == 0)
            ]
        for codec, (code, qualities) in codecs.items():
            made = [code(picture, quality) for quality in qualities]
            curves[codec] = [(8 * size / pixels, measure(planes, source)) for size, planes in made]
        for codec, points in curves.items():
            for target in TARGETS:
                distances = at_rate(points, target)
                rows.append((name, codec, target, *(distances or ("beyond",) * 3)))
                if distances is not None:
                    found.setdefault((codec, target), []).append(distances)
        ranges = {codec: [round(rate, 4) for rate, _ in points] for codec, points in curves.items()}
        print(name, ranges, flush=True)
    table = Table("codec", "bit per pixel", "pictures", *METRICS)
    for (codec, target), values in sorted(found.items(), key=lambda item: (item[0][1], item[0][0])):
        means = (f"{fmean(column):.4f}" for column in zip(*values, strict=True))
        table.add_row(codec, f"{target}", str(len(values)), *means)
    Console(width=120).print(table)
    save_csv(FIGURES / "learned_still.csv", ("picture", "codec", "bit per pixel", *METRICS), rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train")
    training.add_argument("corpus", type=Path)
    training.add_argument("--steps", type=int, default=8000)
    training.add_argument("--seed", type=int, default=1)
    training.add_argument("--out", type=Path, default=Path("runs/learned_still.pt"))
    comparing = commands.add_parser("compare")
    comparing.add_argument("--weights", type=Path, help="of a training; without, the latent is left out")
    comparing.add_argument("corpus", type=Path)
    comparing.add_argument("clips", nargs="*", type=Path)
    comparing.add_argument("--photos", type=int, default=8)
    args = parser.parse_args()
    if args.command == "train":
        train(args.corpus, args.out, args.steps, args.seed)
    else:
        compare(args.weights, args.corpus, args.clips, args.photos)


if __name__ == "__main__":
    main()
