"""A learned latent in the prompt, against the same bytes spent on the codec's keyframe.

    python benchmarks/studies/prompt_latent.py train runs/corpus --start GENERATOR.onnx --steps 6000
    python benchmarks/studies/prompt_latent.py compare runs/prompt_latent.pt runs/corpus [CLIP ...]

An encoder network sees the source and the base picture; its quantised output, some values for 16 x 16 pixels,
is coded with integer tables and added to what the generator's body works on.  The generator goes on learning
beside it.  One network serves several rates.  `compare` codes keyframes with SVT-AV1 at several CRFs and asks
at equal bytes: a coarser keyframe, generated with a latent, or a finer one, generated without?  Distances
without a latent are interpolated over the logarithm of bytes; both use the networks of this training, and the
shipped generator is told beside them.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from fractions import Fraction
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
import torch.nn.functional as F
from latents import TOP, Counts, RateModel, code_values, contexts_of, read_values
from learned_still import Measure, held_out_pictures, padded_planes
from rich.console import Console
from rich.table import Table
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from figures import FIGURES, save_csv

from hybridprompt.bitstream.obu import HeaderTracker
from hybridprompt.evaluate.loss import GeneratorLoss, LossWeights
from hybridprompt.generator.base import Planes
from hybridprompt.generator.network import GeneratorNetwork, ResidualBlock
from hybridprompt.train.samples import Batch, SampleStore
from hybridprompt.train.teacher import config_of, read_weights
from hybridprompt.video.av1_decoder import Av1Decoder
from hybridprompt.video.av1_encoder import Av1Settings, PictureLambdas, encode_gop
from hybridprompt.video.picture import Picture

CHANNELS = 12
LAMBDAS = (4.0, 2.0, 1.0)
"""Of bit per pixel, one for each rate."""

RATES = len(LAMBDAS)
FREE_STEPS = 1500
"""Bits cost nothing for so many steps, and are priced more and more for as many."""

FINEST = 130, 256
"""Of keyframes to learn from, as in `samples.SampleStore`: those of real streams, and no other pictures."""
CRFS = (24.0, 28.0, 32.0, 36.0, 40.0, 44.0, 48.0, 52.0, 56.0, 60.0)
SHOWN_CRFS = (32.0, 40.0, 48.0)
METRICS = ("LPIPS-Alex", "LPIPS-VGG", "DISTS")


class LatentGenerator(nn.Module):
    """A generator whose body gets a latent, and the encoder that makes it."""

    def __init__(self, generator: GeneratorNetwork) -> None:
        super().__init__()
        self.generator = generator
        body = generator.config.body_channels
        self.encoder = nn.Sequential(
            nn.Conv2d(192, 96, 3, padding=1),
            nn.ReLU(),
            ResidualBlock(96),
            nn.Conv2d(96, 128, 2, stride=2),
            nn.ReLU(),
            ResidualBlock(128),
            nn.Conv2d(128, CHANNELS, 3, padding=1),
        )
        self.inject = nn.Sequential(nn.Conv2d(CHANNELS, body * 4, 3, padding=1), nn.PixelShuffle(2))
        self.log_step = nn.Parameter(torch.linspace(-2.5, -3.5, RATES)[:, None].repeat(1, CHANNELS))
        self.rate = RateModel(CHANNELS)
        nn.init.normal_(self.inject[0].weight, std=0.05)
        nn.init.zeros_(self.inject[0].bias)

    def analyse(self, batch: Batch, rate: torch.Tensor) -> torch.Tensor:
        """Values to round, (N, CHANNELS, H/16, W/16), of planes whose sizes are multiples of 16."""
        stacks = [
            torch.cat([F.pixel_unshuffle(y, 8), F.pixel_unshuffle(uv, 4)], 1)
            for y, uv in (batch.source, batch.coded)
        ]
        values: torch.Tensor = self.encoder(
            torch.cat([(stacks[0] - stacks[1]) * 4, stacks[1] - 0.5], 1)
        ).float()
        return values / self.log_step[rate].exp()[..., None, None]

    def generate(
        self, batch: Batch, values: torch.Tensor | None, rate: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Planes with a latent, or without."""
        g = self.generator
        y, uv = batch.coded
        planes = torch.cat([F.pixel_unshuffle(y, 4), F.pixel_unshuffle(uv, 2)], 1)
        told = batch.quantiser.expand(-1, 1, planes.shape[2], planes.shape[3])
        skip = F.relu(g.stem(torch.cat([planes - 0.5, told, told * told], 1)))
        deep = F.relu(g.down(skip))
        if values is not None:
            deep = deep + self.inject(values * self.log_step[rate].exp()[..., None, None])
        residual = g.head(g.tail(skip + F.pixel_shuffle(g.up(g.body(deep)), 2)))
        return y + F.pixel_shuffle(residual[:, :16], 4), uv + F.pixel_shuffle(residual[:, 16:], 2)


def _generator(start: Path) -> GeneratorNetwork:
    weights = read_weights(start, torch.device("cpu"), integers=True)
    generator = GeneratorNetwork(config_of(weights))
    generator.load_state_dict(weights)
    return generator


def train(corpus: Path, start: Path, out: Path, *, steps: int, seed: int, peak: float) -> None:
    torch.manual_seed(seed)
    network = LatentGenerator(_generator(start)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    samples = SampleStore(corpus / "train", finest=FINEST)
    rng, torch_rng = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    loss = GeneratorLoss(LossWeights(), torch.device("cpu"), torch_rng, alex_dtype=torch.bfloat16)
    # The generator is trained already, the rest is not.
    known = list(network.generator.parameters())
    own = {id(p) for p in known}
    groups = [
        {"params": known, "share": 0.3},
        {"params": [p for p in network.parameters() if id(p) not in own], "share": 1.0},
    ]
    optimiser = torch.optim.Adam(groups, lr=peak, betas=(0.9, 0.99))
    lambdas = torch.tensor(LAMBDAS)
    started = saved = time.monotonic()
    shown: list[tuple[float, ...]] = []
    for step in range(steps):
        cosine = 0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        for group in optimiser.param_groups:
            group["lr"] = peak * group["share"] * min((step + 1) / 200, 1) * cosine
        batch = samples.batch(rng, 8, 192)
        rate = torch.randint(RATES, (8,), generator=torch_rng)
        # Every fourth step is without a latent, so that the generator does not forget how.
        alone = step % 4 == 3
        with torch.autocast("cpu", torch.bfloat16):
            values = network.analyse(batch, rate)
            rounded = values.detach().round()
            noise = torch.rand(values.shape, generator=torch_rng) - 0.5
            # Not rounded at first, and bits cost nothing: a latent that is zero from the start stays so.
            passed = values if step < FREE_STEPS else values + (rounded - values).detach()
            made = network.generate(batch, None if alone else passed, rate)
        # Steps without a latent have the terms of VGG16 as often as the others.
        distortion = loss((made[0].float(), made[1].float()), batch.source, step // 4 if alone else step)
        total, bpp = distortion.total, torch.zeros(len(rate))
        if not alone:
            bpp = network.rate.bits(values + noise, contexts_of(rounded)) / 192**2
            priced = min(max(step / FREE_STEPS - 1, 0), 1)
            total = total + priced * (lambdas[rate] * bpp).mean()
            by_rate = (float(bpp.detach()[rate == r].mean()) for r in range(RATES))
            shown.append((distortion.alex, distortion.pixel, *by_rate))
        optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimiser.step()
        if (step + 1) % 100 == 0:
            means = " ".join(f"{value:.5f}" for value in np.nanmean(np.array(shown), 0))
            seconds = (time.monotonic() - started) / (step + 1)
            print(f"step {step + 1}: alex, L1, bpp by rate {means}, {seconds:.3f} s", flush=True)
            shown.clear()
        if time.monotonic() - saved > 120 or step + 1 == steps:
            tables = integer_tables(network, samples) if step + 1 == steps else None
            state = {"network": network.state_dict(), "step": step + 1, "tables": tables}
            temporary = out.with_suffix(".partial")
            torch.save(state, temporary)
            os.replace(temporary, out)
            saved = time.monotonic()


@torch.no_grad()
def integer_tables(network: LatentGenerator, samples: SampleStore, batches: int = 100) -> torch.Tensor:
    """Tables of every rate, (RATES, CHANNELS, contexts, values), from training pictures."""
    tables = []
    for r in range(RATES):
        rng, counts = np.random.default_rng(0), Counts(CHANNELS)
        for _ in range(batches):
            batch = samples.batch(rng, 4, 192)
            counts.add(network.analyse(batch, torch.full((4,), r)).round())
        tables.append(counts.tables())
    return torch.stack(tables)


def keyframe(picture: Picture, crf: float) -> tuple[int, int, Planes]:
    """A keyframe as the encoder codes it: bytes, base_q_idx, and what it decodes to."""
    settings = Av1Settings(
        width=picture.width,
        height=picture.height,
        frame_rate=Fraction(30),
        time_base=Fraction(1, 30),
        crf=crf,
        preset=5,
        threads=2,
        color=picture.color,
        picture_lambdas=PictureLambdas(key=0.5),
        extra=(("tune", "0"),),
    )
    (packet,) = encode_gop([picture], settings)
    header = next(header for header in HeaderTracker().parse(packet.data) if header.shown)
    with Av1Decoder(time_base=Fraction(1, 30)) as decoder:
        (frame,) = decoder.decode(packet.data, packet.pts)
        y, u, v = (plane.copy() for plane in frame.picture.planes)
    return len(packet.data), header.base_q_idx, (y, u, v)


def levels(made: tuple[torch.Tensor, torch.Tensor], like: Planes) -> Planes:
    """Planes in levels, cut to the sizes of others."""
    parts = [(p * 255).round().clamp(0, 255).byte().numpy() for p in (made[0][0, 0], *made[1][0])]
    y, u, v = (part[: p.shape[0], : p.shape[1]] for part, p in zip(parts, like, strict=True))
    return y, u, v


@torch.no_grad()
def compare(weights: Path, corpus: Path, start: Path, clips: list[Path], photos: int) -> None:
    state = torch.load(weights, weights_only=True)
    shipped = _generator(start)
    network = LatentGenerator(GeneratorNetwork(shipped.config))
    network.load_state_dict(state["network"])
    tables, measure = state["tables"], Measure()
    gains: dict[tuple[float, int], list[list[float]]] = {}
    rows: list[tuple[object, ...]] = []
    for number, (name, picture) in enumerate(held_out_pictures(corpus, clips, photos)):
        source = picture.planes
        points: list[tuple[int, tuple[float, ...]]] = []
        with_latent: list[tuple[float, int, int, tuple[float, ...]]] = []
        for crf in CRFS:
            size, base_q_idx, planes = keyframe(picture, crf)
            told = torch.full((1, 1, 1, 1), base_q_idx / 255)
            batch = Batch(padded_planes(planes), padded_planes(source), told)
            alone = measure(levels(network.generate(batch, None, torch.tensor([0])), planes), source)
            points.append((size, alone))
            rows.append((name, crf, "without", size, *(round(value, 5) for value in alone)))
            if crf not in SHOWN_CRFS:
                continue
            plain = measure(levels(shipped(*batch.coded, told), planes), source)
            rows.append((name, crf, "shipped", size, *(round(value, 5) for value in plain)))
            for r in range(RATES):
                rate = torch.tensor([r])
                values = network.analyse(batch, rate).round().clamp(-TOP, TOP)
                integers = values[0].numpy().astype(np.int32)
                data = code_values(integers, tables[r])
                if number == 0:
                    read = read_values(data, (integers.shape[1], integers.shape[2]), tables[r])
                    assert np.array_equal(read, integers)
                found = measure(levels(network.generate(batch, values, rate), planes), source)
                with_latent.append((crf, r, size + len(data), found))
                rows.append(
                    (name, crf, f"latent {r}", size + len(data), *(round(value, 5) for value in found))
                )
        points.sort()
        sizes = [math.log(size) for size, _ in points]
        for crf, r, size, found in with_latent:
            same = [
                math.exp(np.interp(math.log(size), sizes, [math.log(d[i]) for _, d in points]))
                for i in range(3)
            ]
            gains.setdefault((crf, r), []).append(
                [100 * (mine / other - 1) for mine, other in zip(found, same, strict=True)]
            )
        print(name, [(crf, r, size) for crf, r, size, _ in with_latent], flush=True)
    table = Table("CRF", "rate", "pictures", *(f"{metric}, %" for metric in METRICS))
    for (crf, r), values in sorted(gains.items()):
        means = (f"{fmean(column):+.1f}" for column in zip(*values, strict=True))
        table.add_row(f"{crf:g}", str(r), str(len(values)), *means)
    Console(width=120).print(table)
    save_csv(FIGURES / "prompt_latent.csv", ("picture", "CRF", "prompt", "bytes", *METRICS), rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train")
    training.add_argument("corpus", type=Path)
    training.add_argument("--start", type=Path, required=True, help="weights of a generator")
    training.add_argument("--steps", type=int, default=6000)
    training.add_argument("--rate", type=float, default=6e-4)
    training.add_argument("--seed", type=int, default=1)
    training.add_argument("--out", type=Path, default=Path("runs/prompt_latent.pt"))
    comparing = commands.add_parser("compare")
    comparing.add_argument("weights", type=Path)
    comparing.add_argument("corpus", type=Path)
    comparing.add_argument("clips", nargs="*", type=Path)
    comparing.add_argument("--start", type=Path, required=True)
    comparing.add_argument("--photos", type=int, default=8)
    args = parser.parse_args()
    if args.command == "train":
        train(args.corpus, args.start, args.out, steps=args.steps, seed=args.seed, peak=args.rate)
    else:
        compare(args.weights, args.corpus, args.start, args.clips, args.photos)


if __name__ == "__main__":
    main()
