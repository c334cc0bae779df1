"""What an adapter costs a client: milliseconds for a 1080p picture, medians.

    python benchmarks/studies/adapter_time.py [GENERATOR ...] [--repeats 15] [--threads 2]

For each generator (small, medium, or an ONNX file), in turns, with a new adapter every time:
  section   decoding the section of the prompt
  apply     changing scales and biases in the generator's file, and starting it in ONNX Runtime
  first     generating the first picture with it, and second the next one
  plain     generating a picture without an adapter
The adapters are random, of values as large as fitted ones are.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from hybridprompt.generator.adapter import AdaptableModel
from hybridprompt.generator.base import Planes
from hybridprompt.generator.onnx_generator import OnnxGenerator
from hybridprompt.generator.registry import load_chosen
from hybridprompt.prompt.sections import Adapter, decode_adapter, encode_adapter

WIDTH, HEIGHT, BLOCK = 1920, 1080, 64
SPREAD = 1.1
"""Scale of the Laplace distribution: some half of the values are then 0."""

STAGES = ("section", "apply", "first", "second", "plain")


def timed(generator: OnnxGenerator, planes: Planes) -> float:
    """Milliseconds of one picture at strength 1."""
    strengths = np.ones((-(-HEIGHT // BLOCK), -(-WIDTH // BLOCK)), np.float32)
    started = time.perf_counter()
    generator.generate(planes, quantiser=150, strengths=strengths, block_size=BLOCK)
    return 1000 * (time.perf_counter() - started)


def turn(generator: OnnxGenerator, planes: Planes, rng: np.random.Generator) -> tuple[int, list[float]]:
    """Bytes of a section, and milliseconds of every stage."""
    count = 2 * sum(AdaptableModel(generator.weights).layer_channels)
    values = np.clip(np.rint(rng.laplace(0, SPREAD, count)), -15, 15).astype(np.int8)
    payload = encode_adapter(Adapter(values))
    started = time.perf_counter()
    adapter = decode_adapter(payload)
    decoded = time.perf_counter()
    adapted = generator.adapted(adapter.values)
    applied = time.perf_counter()
    stages = [1000 * (decoded - started), 1000 * (applied - decoded)]
    return len(payload), [*stages, timed(adapted, planes), timed(adapted, planes), timed(generator, planes)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("generators", nargs="*", type=Path, default=[Path("small"), Path("medium")])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    rng = np.random.default_rng(1)
    y = rng.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
    planes = y, y[::2, ::2].copy(), y[1::2, 1::2].copy()
    generators = [load_chosen(choice, threads=args.threads) for choice in args.generators]
    # Not counted: the first use imports a library, and warms up.
    for generator in generators:
        turn(generator, planes, rng)
    found = {generator.name: [] for generator in generators}
    for _ in range(args.repeats):
        for generator in generators:
            found[generator.name].append(turn(generator, planes, rng))
    table = Table("generator", "bytes", *(f"{stage}, ms" for stage in STAGES))
    for name, turns in found.items():
        stages = (f"{median(column):.1f}" for column in zip(*(ms for _, ms in turns), strict=True))
        table.add_row(name, f"{median(size for size, _ in turns):.0f}", *stages)
    Console().print(table)


if __name__ == "__main__":
    main()
