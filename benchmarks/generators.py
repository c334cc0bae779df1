"""Quality against cost of generators: held-out coded pictures, and time for one 1080p picture.

    python benchmarks/generators.py FILE.onnx [FILE.onnx ...] --corpus runs/corpus [--pictures 24]

The pictures are the held-out ones, evenly chosen, generated at full strength; LPIPS-Alex and PSNR-Y are
of whole pictures, LPIPS-VGG and DISTS of their central 256 pixels.  The generators take turns at the time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from common import percent
from rich.console import Console
from rich.table import Table

from hybridprompt.evaluate.colour import yuv420_to_rgb
from hybridprompt.evaluate.perceptual import Dists, Lpips
from hybridprompt.generator.base import Planes
from hybridprompt.generator.onnx_generator import OnnxGenerator
from hybridprompt.generator.registry import load_file
from hybridprompt.train.samples import Sample, even_samples, split_planes

METRICS = ("LPIPS-Alex", "LPIPS-VGG", "DISTS", "PSNR-Y")


def seconds_per_picture(
    generators: list[OnnxGenerator], width: int, height: int, repeats: int
) -> list[float]:
    """Median seconds of one picture of noise for each generator, which take turns."""
    rng = np.random.default_rng(0)

    def noise(*shape: int) -> np.ndarray:
        return rng.integers(0, 256, shape).astype(np.uint8)

    planes = noise(height, width), noise(height // 2, width // 2), noise(height // 2, width // 2)
    gate = np.ones((-(-height // 64), -(-width // 64)), np.float32)
    times: list[list[float]] = [[] for _ in generators]
    for turn in range(repeats + 1):
        for generator, mine in zip(generators, times, strict=True):
            started = time.perf_counter()
            generator.generate(planes, quantiser=180, strengths=gate, block_size=64)
            if turn:
                mine.append(time.perf_counter() - started)
    return [statistics.median(mine) for mine in times]


def _planes(array: np.ndarray) -> Planes:
    y, uv = split_planes(array)
    return y, uv[0], uv[1]


def _rgb(planes: Planes) -> torch.Tensor:
    y, u, v = (torch.from_numpy(np.array(plane)).float() / 255 for plane in planes)
    return yuv420_to_rgb(y[None, None], torch.stack([u, v])[None])


def _centre(rgb: torch.Tensor, size: int = 256) -> torch.Tensor:
    top, left = (rgb.shape[-2] - size) // 2, (rgb.shape[-1] - size) // 2
    return rgb[..., max(top, 0) :, max(left, 0) :][..., :size, :size]


class Measure:
    """The four metrics of a picture against its source."""

    def __init__(self) -> None:
        self.alex, self.vgg, self.dists = Lpips("alex"), Lpips("vgg"), Dists()

    @torch.inference_mode()
    def __call__(self, picture: Planes, source: Planes) -> list[float]:
        rgb, target = _rgb(picture), _rgb(source)
        error = float(np.mean((picture[0].astype(np.float64) - source[0]) ** 2))
        return [
            float(self.alex(rgb, target)),
            float(self.vgg(_centre(rgb), _centre(target))),
            float(self.dists(_centre(rgb), _centre(target))),
            10 * float(np.log10(255**2 / max(error, 1e-6))),
        ]


def quality(generator: OnnxGenerator | None, samples: list[Sample], measure: Measure) -> list[float]:
    """Means over the samples; of the coded pictures themselves where there is no generator."""
    rows = []
    for sample in samples:
        planes = _planes(sample.coded)
        if generator is not None:
            gate = np.ones((-(-sample.height // 64), -(-sample.width // 64)), np.float32)
            planes = generator.generate(planes, quantiser=sample.base_q_idx, strengths=gate, block_size=64)
        rows.append(measure(planes, _planes(sample.source)))
    return [float(value) for value in np.mean(rows, 0)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--corpus", type=Path, default=Path("runs/corpus"))
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    generators = [load_file(path, threads=arguments.threads) for path in arguments.files]
    seconds = seconds_per_picture(generators, 1920, 1080, arguments.repeats)
    samples = even_samples(arguments.corpus / "validation", arguments.pictures)
    measure = Measure()
    base = quality(None, samples, measure)
    table = Table(
        title=f"{len(samples)} held-out pictures; seconds of one 1080p picture, {arguments.threads} threads"
    )
    for column in ("generator", "bytes", "seconds", *METRICS):
        table.add_column(column, justify="left" if column == "generator" else "right")
    table.add_row("none (base)", "", "", *(f"{value:.4f}" for value in base))
    for path, generator, cost in zip(arguments.files, generators, seconds, strict=True):
        found = quality(generator, samples, measure)
        cells = [f"{v:.4f} ({percent(v, b)})" for v, b in zip(found[:3], base[:3], strict=True)]
        cells.append(f"{found[3]:.2f} ({found[3] - base[3]:+.2f} dB)")
        table.add_row(path.stem, str(path.stat().st_size), f"{cost:.3f}", *cells)
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
