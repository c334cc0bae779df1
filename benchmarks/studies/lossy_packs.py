"""What a packed corpus teaches: how near a generator comes to sources as AVIF stills keep them.

    python benchmarks/studies/lossy_packs.py runs/corpus [runs/corpus ...] [--generator medium]
        [--qualities 70 76 85 92] [--pictures 20] [--finest 125 165] [--csv FILE]

Held-out pictures of the corpora, their central 384 pixels, as they are and as `hybridprompt pack-corpus`
keeps them: the change of LPIPS-Alex and DISTS that the generator brings at full strength.  Where it is small,
training on such a pack rewards a generator that dares little.
"""

from __future__ import annotations

import argparse
import io
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import percent
from figures import save_csv

from hybridprompt.evaluate.colour import yuv420_to_rgb
from hybridprompt.evaluate.perceptual import Dists, Lpips
from hybridprompt.generator.onnx_generator import OnnxGenerator
from hybridprompt.generator.registry import load_chosen
from hybridprompt.train.packed import CODED_EXTRA_QUALITY, encode_still
from hybridprompt.train.sample_files import Sample
from hybridprompt.train.samples import SampleStore, coded_planes, whole_picture

SIDE = 384
_BLOCK = 32
_SPEED = 8
_COLUMNS = ("quality", "pictures", "alex_base", "alex_change", "dists_base", "dists_change")


def kept(sample: Sample, quality: int) -> Sample:
    """A sample as a pack of a quality keeps it."""

    def through(plane: np.ndarray, quality: int) -> np.ndarray:
        still = encode_still(np.ascontiguousarray(plane), quality, _SPEED)
        return np.asarray(Image.open(io.BytesIO(still)).convert("L"))

    return replace(
        sample,
        source=through(sample.source, quality),
        coded=through(sample.coded, quality + CODED_EXTRA_QUALITY),
    )


def distances(sample: Sample, generator: OnnxGenerator, alex: Lpips, dists: Dists) -> list[float]:
    """LPIPS-Alex of the coded and of the generated picture, then DISTS of both."""
    batch = whole_picture(sample, SIDE)
    planes = coded_planes(sample, SIDE)
    gate = np.ones([-(-length // _BLOCK) for length in planes[0].shape], np.float32)
    made = generator.generate(planes, quantiser=sample.base_q_idx, strengths=gate, block_size=_BLOCK)
    luma, chroma = torch.from_numpy(made[0])[None, None], torch.from_numpy(np.stack(made[1:]))[None]
    target = yuv420_to_rgb(*batch.source)
    pictures = [yuv420_to_rgb(*batch.coded), yuv420_to_rgb(luma.float() / 255, chroma.float() / 255)]
    return [float(metric(picture, target)) for metric in (alex, dists) for picture in pictures]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", type=Path, nargs="+")
    parser.add_argument("--generator", type=Path)
    parser.add_argument("--qualities", type=int, nargs="+", default=[70, 76, 85, 92])
    parser.add_argument("--pictures", type=int, default=20)
    parser.add_argument("--finest", type=int, nargs=2, default=(125, 165))
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    held_out = SampleStore(*(corpus / "validation" for corpus in args.corpora), finest=tuple(args.finest))
    places = np.linspace(0, len(held_out.samples) - 1, args.pictures)
    samples = [held_out.samples[int(place)] for place in places]
    generator, alex, dists = load_chosen(args.generator, threads=2), Lpips("alex"), Dists()
    rows: list[tuple[object, ...]] = []
    table = Table(*_COLUMNS)
    for quality in (None, *args.qualities):
        chosen = samples if quality is None else [kept(sample, quality) for sample in samples]
        found = [distances(sample, generator, alex, dists) for sample in chosen]
        base, made, dists_base, dists_made = np.mean(found, 0).tolist()
        changes = percent(made, base), percent(dists_made, dists_base)
        name = "as it is" if quality is None else quality
        rows.append((name, len(found), f"{base:.4f}", changes[0], f"{dists_base:.4f}", changes[1]))
        table.add_row(*map(str, rows[-1]))
    Console().print(table)
    if args.csv:
        save_csv(args.csv, _COLUMNS, rows)


if __name__ == "__main__":
    main()
