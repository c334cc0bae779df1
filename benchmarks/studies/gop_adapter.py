"""What gains and offsets of the generator's channels bring to a whole GOP, beside gates.

    python benchmarks/studies/gop_adapter.py [CLIP ...] [--crf 60] [--steps 150] [--kind gains]

The GOP of four seconds from the middle of each clip is coded as the encoder does, at one CRF, and shown by
real decodes:
  blind           the keyframe generated everywhere at strength 1
  fast            with the anchors and gates that preset fast decides
  adapted         as blind, by the generator with updates fitted to the keyframe; see prompt_adapter.py
  adapted, fast   as fast, by that generator, for later anchors too
Distances are means of six frames that no gate was judged by, against the same stream without prompts;
LPIPS-VGG and DISTS are of the central 640 pixels of three of them.  The generator computes in float32.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from figures import FIGURES, save_csv
from harm import Meter, Shown, Study
from numpy.typing import NDArray
from pictures import levels, padded_planes
from prompt_adapter import KINDS, Adapter, Values, code, fit, load_network, make_loss
from rich.console import Console
from rich.table import Table
from torch.func import functional_call

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import find_clips

from hybridprompt.evaluate.compare import METRICS
from hybridprompt.evaluate.loss import GeneratorLoss
from hybridprompt.generator.base import Planes, strength_plane
from hybridprompt.generator.network import GeneratorNetwork
from hybridprompt.video.source import VideoSource

SECONDS = 4.0
COLUMNS = ("clip", "stream", "kbps", "prompt_bytes", *METRICS)


@dataclass(frozen=True)
class TorchGenerator:
    """A generator in torch, with updates of its weights."""

    network: GeneratorNetwork
    weights: dict[str, torch.Tensor]
    name: str
    identity: bytes

    def generate(
        self, planes: Planes, *, quantiser: int, strengths: NDArray[np.float32], block_size: int
    ) -> Planes:
        """As Generator.generate says."""
        coded = padded_planes(planes)
        height, width = coded[0].shape[2:]
        gate = torch.from_numpy(strength_plane(strengths, block_size, width, height)[::4, ::4].copy())
        told = torch.full((1, 1, 1, 1), quantiser / 255)
        with torch.inference_mode():
            made = functional_call(self.network, self.weights, (*coded, told, gate[None, None]))
        return levels(made, planes)


def study_clip(
    path: Path, network: GeneratorNetwork, args: argparse.Namespace, loss: GeneratorLoss, meter: Meter
) -> tuple[float, dict[str, Shown]]:
    """Rate of the base, and what each stream shows."""
    source = VideoSource(path)
    start = max((source.duration_seconds or 0.0) / 2, 0.0)
    pictures = [picture.copied() for picture in source.frames(start, SECONDS)]
    plain = Study(source, pictures, args.crf, TorchGenerator(network, {}, "plain", b"--plain-"))
    keyframe = plain.gop.candidates(None)[0]
    planes = plain.decoded((), {0: pictures[0]})[0].planes
    told = torch.full((1, 1, 1, 1), keyframe.base_q_idx / 255)
    adapter = Adapter(network, args.kind, seed=1)
    values: Values = fit(
        adapter, padded_planes(planes), padded_planes(pictures[0].planes), told, args.steps, loss
    )
    size = len(code(values))
    weights = adapter.weights([torch.from_numpy(value).float() for value in values])
    detached = {name: weight.detach() for name, weight in weights.items()}
    adapted = plain.with_generator(TorchGenerator(network, detached, "adapted", b"-adapted"))
    frames = plain.measured([plain.gate("fast")])
    decisions = {
        "base": (plain, ()),
        "blind": (plain, (plain.blind(),)),
        "fast": (plain, plain.gate("fast").decide().anchors),
        "adapted": (adapted, (adapted.blind(),)),
        "adapted, fast": (adapted, adapted.gate("fast").decide().anchors),
    }
    streams = {name: which.decoded(anchors, frames) for name, (which, anchors) in decisions.items()}
    means = meter.measure(frames, streams)
    return plain.kbps, {
        name: Shown(name, "", which.prompt_bytes(anchors) + (size if which is adapted else 0), means[name])
        for name, (which, anchors) in decisions.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--crf", type=float, default=60.0)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--kind", choices=KINDS, default="gains")
    args = parser.parse_args()
    network, loss = load_network(), make_loss()
    meter = Meter()
    table = Table("clip", "stream", "kbit/s", "prompt bytes", *METRICS)
    rows: list[tuple[object, ...]] = []
    changes: dict[str, list[list[float]]] = {}
    for clip in find_clips(args.clips):
        kbps, shown = study_clip(clip.path, network, args, loss, meter)
        base = shown["base"]
        for stream, one in shown.items():
            rows.append((clip.name, stream, f"{kbps:.1f}", one.prompt_bytes, *one.values.values()))
            cells = one.changes(base) if one is not base else [f"{base.values[m]:.4f}" for m in METRICS]
            table.add_row(clip.name, stream, f"{kbps:.1f}", str(one.prompt_bytes), *cells)
            print(clip.name, stream, one.prompt_bytes, *cells, flush=True)
            if one is not base:
                relative = [100 * (one.values[m] / base.values[m] - 1) for m in METRICS[:3]]
                changes.setdefault(stream, []).append([float(one.prompt_bytes), *relative])
        table.add_section()
    for stream, values in changes.items():
        size, *means = (fmean(column) for column in zip(*values, strict=True))
        table.add_row("mean", stream, "", f"{size:.0f}", *(f"{mean:+.1f} %" for mean in means), "")
    Console(width=140).print(table)
    save_csv(FIGURES / "gop_adapter.csv", COLUMNS, rows)


if __name__ == "__main__":
    main()
