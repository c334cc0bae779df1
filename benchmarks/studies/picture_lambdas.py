"""What Lagrange multipliers by kind of picture are worth in LPIPS-Alex, at equal bytes, without any prompt.

    python benchmarks/studies/picture_lambdas.py [CLIP ...] [--crf 64] [--seconds 4] [--tune vq]

Codes one GOP of each clip, from the middle of its length on, with SVT-AV1 at one CRF and the factors below,
and compares LPIPS-Alex of some frames with plain SVT-AV1's.  Bytes differ by some percent, so distances are
compared along the line that two further plain encodes, a CRF step finer and coarser, give in logarithms.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import find_clips
from figures import FIGURES, save_csv
from rich.console import Console
from rich.table import Table

from hybridprompt.encode.base import BaseEncoder, BaseGop
from hybridprompt.encode.judge import make_judge
from hybridprompt.encode.settings import EncodeSettings
from hybridprompt.video.av1_encoder import LAMBDAS, PictureLambdas
from hybridprompt.video.source import VideoSource

PLAIN = PictureLambdas()
VARIANTS: dict[str, tuple[float, PictureLambdas]] = {
    "keyframe 0.75": (0.75, PLAIN),
    "keyframe 0.5": (0.5, PLAIN),
    "keyframe 0.25": (0.25, PLAIN),
    "others": (1.0, LAMBDAS),
    "keyframe 0.5, others": (0.5, LAMBDAS),
}


@dataclass(frozen=True)
class Row:
    clip: str
    variant: str
    size_bytes: int
    distance: float
    change: float
    """Of the distance against plain SVT-AV1's at the same bytes, as a share."""


def measure(clip: Path, crf: float, seconds: float, tune: str) -> list[Row]:
    """All variants on one clip."""
    source = VideoSource(clip)
    settings = EncodeSettings(crf=crf, preset="medium", tune=tune)  # type: ignore[arg-type]
    judge = make_judge(1)
    start = float(source.duration_seconds or 0) / 2
    pictures = list(islice(source.frames(start), round(seconds * float(source.average_rate))))
    if not pictures:
        sys.exit(f"{clip} has no picture at {start:g} s")

    def encode(at: float, key: float, lambdas: PictureLambdas) -> tuple[BaseGop, float]:
        encoder = BaseEncoder(source, settings, lambda: judge, lambdas)
        base = encoder.encode(pictures, at, key)
        return base, encoder.distance(base)

    plain = [encode(crf + step, 1.0, PLAIN) for step in (-1.0, 0.0, 1.0)]
    sizes = [math.log(base.size_bytes) for base, _ in plain]
    distances = [math.log(distance) for _, distance in plain]
    slope = (distances[2] - distances[0]) / (sizes[2] - sizes[0])
    rows = [Row(clip.stem, "plain", plain[1][0].size_bytes, plain[1][1], 0.0)]
    for name, (key, lambdas) in VARIANTS.items():
        base, distance = encode(crf, key, lambdas)
        expected = distances[1] + slope * (math.log(base.size_bytes) - sizes[1])
        rows.append(Row(clip.stem, name, base.size_bytes, distance, distance / math.exp(expected) - 1))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--crf", type=float, default=64.0)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--tune", default="vq")
    arguments = parser.parse_args()
    console = Console()
    rows: list[Row] = []
    for clip in find_clips(arguments.clips):
        found = measure(clip.path, arguments.crf, arguments.seconds, arguments.tune)
        rows += found
        for row in found:
            console.print(f"{row.clip} {row.variant}: {row.size_bytes} bytes, {row.distance:.4f}", end=" ")
            console.print(f"({100 * row.change:+.1f} % at equal bytes)")
    table = Table("clip", *VARIANTS, title="LPIPS-Alex against plain SVT-AV1 at equal bytes")
    for clip in [*dict.fromkeys(row.clip for row in rows), "mean"]:
        changes = [
            fmean(r.change for r in rows if r.variant == name and clip in (r.clip, "mean"))
            for name in VARIANTS
        ]
        table.add_row(clip, *(f"{100 * change:+.1f} %" for change in changes))
    console.print(table)
    names = ("clip", "variant", "bytes", "lpips_alex", "change_at_equal_bytes")
    lines = [(r.clip, r.variant, r.size_bytes, round(r.distance, 5), round(r.change, 4)) for r in rows]
    save_csv(FIGURES / "picture_lambdas.csv", names, lines)


if __name__ == "__main__":
    main()
