"""Do generators make the same pictures in another runtime?

    python benchmarks/studies/runtimes.py --corpus runs/corpus [--generator small medium large FILE ...]
        [--pictures 6] [--side 192] [--csv FILE]

Held-out coded pictures of a corpus, their central parts, at full strength: by ONNX Runtime, and by onnx's own
evaluator, which others wrote, in NumPy, from the operators' definitions.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from figures import save_csv
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from rich.console import Console
from rich.table import Table

from hybridprompt.generator.base import Planes
from hybridprompt.generator.onnx_generator import OnnxGenerator
from hybridprompt.generator.registry import GENERATOR_SIZES, load_chosen
from hybridprompt.train.sample_files import Sample
from hybridprompt.train.samples import coded_planes, even_samples

_COLUMNS = ("generator", "pictures", "samples", "changed", "differing", "largest")
_BLOCK = 16
_INTEGER_OPSET = 21


def in_reference(weights: bytes, planes: Planes, quantiser: int) -> list[NDArray[np.int64]]:
    """The generated planes by onnx's evaluator."""
    model = onnx.load_model_from_string(weights)
    # It has the integers' operators from this version on; what they do has not changed since 17.
    model.opset_import[0].version = _INTEGER_OPSET
    height, width = planes[0].shape
    feeds = {name: plane[None, None] for name, plane in zip("yuv", planes, strict=True)}
    told = np.full((1, 1, 1, 1), quantiser / 255, np.float32)
    gate = np.ones((1, 1, height // 4, width // 4), np.float32)
    evaluator = ReferenceEvaluator(model)
    made = evaluator.run(["y_out", "u_out", "v_out"], feeds | {"quantiser": told, "strength": gate})
    return [np.asarray(plane)[0, 0].astype(np.int64) for plane in made]


def compare(generator: OnnxGenerator, samples: list[Sample], side: int) -> tuple[int, int, int, int]:
    """Samples; how many generating changes; in how many the runtimes differ, by how much at most."""
    total = changed = differing = largest = 0
    for sample in samples:
        planes = coded_planes(sample, side)
        gate = np.ones([-(-length // _BLOCK) for length in planes[0].shape], np.float32)
        ours = generator.generate(planes, quantiser=sample.base_q_idx, strengths=gate, block_size=_BLOCK)
        others = in_reference(generator.weights, planes, sample.base_q_idx)
        for base, mine, other in zip(planes, ours, others, strict=True):
            difference = np.abs(mine.astype(np.int64) - other)
            total += base.size
            changed += int(np.count_nonzero(mine != base))
            differing += int(np.count_nonzero(difference))
            largest = max(largest, int(difference.max()))
    return total, changed, differing, largest


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--generator", nargs="+", type=Path, default=[Path(size) for size in GENERATOR_SIZES])
    parser.add_argument("--pictures", type=int, default=6)
    parser.add_argument("--side", type=int, default=192)
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    samples = even_samples(args.corpus / "validation", args.pictures)
    rows = []
    for choice in args.generator:
        generator = load_chosen(choice)
        total, changed, differing, largest = compare(generator, samples, args.side)
        rows.append((generator.name, len(samples), total, changed, differing, largest))
    table = Table(*_COLUMNS)
    for row in rows:
        table.add_row(*map(str, row))
    Console().print(table)
    if args.csv:
        save_csv(args.csv, _COLUMNS, rows)


if __name__ == "__main__":
    main()
