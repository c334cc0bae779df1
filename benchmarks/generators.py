"""Quality against cost of generators: held-out coded pictures, and time for one 1080p picture.

    python benchmarks/generators.py FILE.onnx [FILE.onnx ...] --corpus runs/corpus [--pictures 24]
        [--key FINEST COARSEST] [--inter FINEST COARSEST] [--from base|generated] [--gated] [--whole]
        [--csv FILE]

The pictures are the held-out ones, evenly chosen, generated at full strength; LPIPS-Alex and PSNR-Y are
of whole pictures, LPIPS-VGG and DISTS of their central 256 pixels, or with --whole of whole ones, too.  The
generators take turns at the time.

--key and --inter leave out keyframes, and other pictures, whose base_q_idx is outside: streams of 100 to 400
kbit/s have 110 to 200, and 135 to 235.

--from generated takes only pictures that were predicted from a generated keyframe, a corpus's third of a
piece; --from base only the others, in which nothing was generated yet.

With --gated every block of 64 has the one of several strengths, 0 to 2, that brings it nearest in LPIPS-Alex,
which is nearer to how an encoder uses a generator: one that dares too little is not at a disadvantage.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from common import percent
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from hybridprompt.encode.judge import LpipsJudge
from hybridprompt.evaluate.colour import yuv420_to_rgb
from hybridprompt.evaluate.perceptual import Dists, Lpips
from hybridprompt.evaluate.sampling import sample_frames
from hybridprompt.generator.base import Planes
from hybridprompt.generator.network import count_gmac
from hybridprompt.generator.onnx_generator import OnnxGenerator
from hybridprompt.generator.registry import load_file
from hybridprompt.generator.torch_weights import config_of, read_onnx
from hybridprompt.train.sample_files import Sample, split_planes
from hybridprompt.train.samples import SampleStore
from hybridprompt.video.picture import Picture

METRICS = ("LPIPS-Alex", "LPIPS-VGG", "DISTS", "PSNR-Y")
BLOCK = 64
STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0)
PREDICTED_FROM_GENERATED = "-2.npz"
"""How the names of such samples end; see `hybridprompt.train.corpus`."""
ORIGINS = ("base", "generated")
COLUMNS = ("generator", "GMAC", "bytes", "seconds", *METRICS)


def gmac_of(path: Path) -> float:
    """Multiply-accumulates of a 1080p picture, in units of 10^9, from the shapes of a file's weights."""
    return count_gmac(config_of(read_onnx(path, integers=True)), 1920, 1080)


def seconds_per_picture(
    generators: list[OnnxGenerator], width: int, height: int, repeats: int
) -> list[float]:
    """Median seconds of one picture of noise for each generator, which take turns."""
    rng = np.random.default_rng(0)

    def noise(*shape: int) -> np.ndarray:
        return rng.integers(0, 256, shape).astype(np.uint8)

    planes = noise(height, width), noise(height // 2, width // 2), noise(height // 2, width // 2)
    gate = np.ones((-(-height // BLOCK), -(-width // BLOCK)), np.float32)
    times: list[list[float]] = [[] for _ in generators]
    for turn in range(repeats + 1):
        for generator, mine in zip(generators, times, strict=True):
            started = time.perf_counter()
            generator.generate(planes, quantiser=180, strengths=gate, block_size=BLOCK)
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
    """The four metrics of pictures against one source; whole: of LPIPS-VGG and DISTS, too."""

    def __init__(self, source: Planes, *, whole: bool) -> None:
        self._luma = source[0].astype(np.float64)
        self._whole = whole
        with torch.inference_mode():
            self._wanted = [
                metric.features(one) for metric, one in zip(_networks(), self._seen(source), strict=True)
            ]

    def _seen(self, picture: Planes) -> list[torch.Tensor]:
        """What each network sees of a picture, as RGB."""
        rgb = _rgb(picture)
        part = rgb if self._whole else _centre(rgb)
        return [rgb, part, part]

    @torch.inference_mode()
    def __call__(self, picture: Planes) -> list[float]:
        distances = [
            float(metric.distance(metric.features(one), wanted))
            for metric, one, wanted in zip(_networks(), self._seen(picture), self._wanted, strict=True)
        ]
        error = float(np.mean((picture[0] - self._luma) ** 2))
        return [*distances, 10 * float(np.log10(255**2 / max(error, 1e-6)))]


@cache
def _networks() -> tuple[Lpips | Dists, ...]:
    """The networks of the distances, in the order of METRICS."""
    return Lpips("alex"), Lpips("vgg"), Dists()


def nearest_strengths(generator: OnnxGenerator, sample: Sample, judge: LpipsJudge) -> NDArray[np.float32]:
    """Of every block the strength that brings it nearest to the source."""
    coded = _planes(sample.coded)
    reference = judge.prepare(Picture(*_planes(sample.source)))
    shape = -(-sample.height // BLOCK), -(-sample.width // BLOCK)
    maps = [judge.distance_map(Picture(*coded), reference, BLOCK)]
    for strength in STRENGTHS[1:]:
        gate = np.full(shape, strength, np.float32)
        made = generator.generate(coded, quantiser=sample.base_q_idx, strengths=gate, block_size=BLOCK)
        maps.append(judge.distance_map(Picture(*made), reference, BLOCK))
    return np.array(STRENGTHS, np.float32)[np.argmin(maps, 0)]


def qualities(
    generators: list[OnnxGenerator], samples: list[Sample], *, gated: bool = False, whole: bool = False
) -> list[list[float]]:
    """Means of the four metrics over the samples: of the coded pictures, then of each generator's."""
    rows = []
    judge = LpipsJudge() if gated else None
    for sample in samples:
        coded, measure = _planes(sample.coded), Measure(_planes(sample.source), whole=whole)
        pictures = [coded]
        for generator in generators:
            gate = np.ones((-(-sample.height // BLOCK), -(-sample.width // BLOCK)), np.float32)
            if judge is not None:
                gate = nearest_strengths(generator, sample, judge)
            pictures.append(
                generator.generate(coded, quantiser=sample.base_q_idx, strengths=gate, block_size=BLOCK)
            )
        rows.append([measure(picture) for picture in pictures])
    return [[float(value) for value in mean] for mean in np.mean(rows, 0)]


@dataclass(frozen=True)
class Result:
    """What was found of one generator; metrics in the order of METRICS."""

    name: str
    gmac: float
    size_bytes: int
    seconds: float
    metrics: list[float]

    def as_row(self, base: list[float]) -> list[str]:
        changes = [f"{v:.4f} ({percent(v, b)})" for v, b in zip(self.metrics[:3], base[:3], strict=True)]
        psnr = f"{self.metrics[3]:.2f} ({self.metrics[3] - base[3]:+.2f} dB)"
        return [self.name, f"{self.gmac:.1f}", str(self.size_bytes), f"{self.seconds:.3f}", *changes, psnr]


def write_csv(path: Path, base: list[float], results: list[Result]) -> None:
    """Write what `studies/quality_against_gmac.py` draws; the first row is the base."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerow(["base", 0, 0, 0, *(f"{value:.5f}" for value in base)])
        for r in results:
            numbers = (f"{value:.5f}" for value in r.metrics)
            writer.writerow([r.name, f"{r.gmac:.2f}", r.size_bytes, f"{r.seconds:.4f}", *numbers])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--corpus", type=Path, default=Path("runs/corpus"))
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    for name in ("--key", "--inter"):
        parser.add_argument(name, type=int, nargs=2, default=(0, 255), metavar=("FINEST", "COARSEST"))
    parser.add_argument(
        "--from", dest="origin", choices=ORIGINS, help="what the pictures were predicted from"
    )
    parser.add_argument("--gated", action="store_true", help="every block has its nearest strength")
    parser.add_argument("--whole", action="store_true", help="all metrics of whole pictures")
    parser.add_argument("--csv", type=Path, help="write the numbers there, too")
    arguments = parser.parse_args()
    generators = [load_file(path, threads=arguments.threads) for path in arguments.files]
    seconds = seconds_per_picture(generators, 1920, 1080, arguments.repeats)
    folder = arguments.corpus / "validation"
    limits = {True: arguments.key, False: arguments.inter}
    within = [
        sample
        for sample in SampleStore(folder).samples
        if limits[sample.is_key][0] <= sample.base_q_idx <= limits[sample.is_key][1]
        and arguments.origin in (None, ORIGINS[sample.name.endswith(PREDICTED_FROM_GENERATED)])
    ]
    samples = [within[i] for i in sample_frames(len(within), min(arguments.pictures, len(within)))]
    base, *found = qualities(generators, samples, gated=arguments.gated, whole=arguments.whole)
    results = [
        Result(path.stem, gmac_of(path), path.stat().st_size, cost, metrics)
        for path, cost, metrics in zip(arguments.files, seconds, found, strict=True)
    ]
    how = "".join(
        f", {what}"
        for what, asked in (
            (f"from {arguments.origin}", arguments.origin is not None),
            ("gated", arguments.gated),
            ("whole", arguments.whole),
        )
        if asked
    )
    table = Table(
        title=f"{len(samples)} held-out pictures{how}; seconds of one 1080p picture, "
        f"{arguments.threads} threads"
    )
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "generator" else "right")
    table.add_row("none (base)", "", "", "", *(f"{value:.4f}" for value in base))
    for result in results:
        table.add_row(*result.as_row(base))
    Console(width=150).print(table)
    if arguments.csv is not None:
        write_csv(arguments.csv, base, results)


if __name__ == "__main__":
    main()
