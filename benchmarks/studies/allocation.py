"""What a choice per GOP could gain: of its quantiser, and of its keyframe's share of the bytes.

    python benchmarks/studies/allocation.py [CLIP ...] [--kbps 200 120] [--gop-seconds 4] [--crfs 54 58 62 66]

Codes every GOP of whole clips, without prompts, with every factor of the keyframe's Lagrange multiplier that
preset medium tries, at several CRFs, and measures LPIPS-Alex of some frames (docs/figures/allocation.csv).
Between the CRFs, logarithms of bytes and distances go along straight lines.  At the first rate for clips of
more than 900 lines, the second for others:
  quantiser  mean distance with the CRF that suits each GOP best (equal slopes of distance over bytes: the
             convex hull), against one CRF for all, at the same bytes
  factor     distance with the factor that is chosen at one CRF by what bytes are worth, as the encoder does,
             and with the best one, against the usual one, each at the same bytes
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import fmean
from typing import Final

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import find_clips
from figures import FIGURES, save_csv
from rich.console import Console
from rich.table import Table

from hybridprompt.encode.base import BaseEncoder
from hybridprompt.encode.judge import make_judge
from hybridprompt.encode.plan import max_frames, split_gops
from hybridprompt.encode.settings import PRESETS, EncodeSettings
from hybridprompt.encode.worth import at_equal_bytes
from hybridprompt.video.source import VideoSource

COLUMNS = ("clip", "lines", "gop", "frames", "seconds", "factor", "crf", "bytes", "LPIPS-Alex")
_FILE = FIGURES / "allocation.csv"
_LARGE: Final = 900
_GRID: Final = 1 / 16


@dataclass(frozen=True)
class Point:
    """One encode of a GOP."""

    clip: str
    lines: int
    gop: int
    frames: int
    seconds: float
    factor: float
    crf: float
    size_bytes: int
    distance: float


def measure(clip: Path, crfs: Sequence[float], gop_seconds: float) -> list[Point]:
    """All encodes of all GOPs of a clip."""
    source, judge = VideoSource(clip), make_judge(1)
    encoder = BaseEncoder(source, EncodeSettings(crf=60, preset="medium"), lambda: judge)
    rate = float(source.average_rate)
    longest = max_frames(gop_seconds, rate, source.width, source.height)
    points = []
    for gop, pictures in enumerate(split_gops(source.frames(), gop_frames=longest, gop_seconds=gop_seconds)):
        for factor in PRESETS["medium"].key_lambda_factors:
            for crf in crfs:
                base = encoder.encode(pictures, crf, factor)
                told = clip.stem, source.height, gop, len(pictures), len(pictures) / rate, factor, crf
                points.append(Point(*told, base.size_bytes, encoder.distance(base)))
    return points


class Curve:
    """Bytes and distance of a GOP with one factor, by CRF."""

    def __init__(self, points: Sequence[Point]) -> None:
        ordered = sorted(points, key=lambda point: point.crf)
        self.frames, self.seconds = ordered[0].frames, ordered[0].seconds
        self.crfs = np.arange(ordered[0].crf, ordered[-1].crf + _GRID / 2, _GRID)
        known = [point.crf for point in ordered]
        logs = [[math.log(value) for value in (p.size_bytes, p.distance)] for p in ordered]
        self.bytes, self.distances = (
            np.exp(np.interp(self.crfs, known, values)) for values in zip(*logs, strict=True)
        )

    def distance_at(self, size_bytes: float) -> float:
        """Distance where the GOP takes so many bytes; beyond the CRFs, that of the nearest."""
        logs = np.interp(math.log(size_bytes), np.log(self.bytes[::-1]), np.log(self.distances[::-1]))
        return math.exp(logs)


def best_quantisers(curves: Sequence[Curve], target_bytes: float) -> tuple[float, float, list[float]]:
    """Mean distance with one CRF for all, and with the best ones, at the same bytes; the latter CRFs."""
    frames = np.array([curve.frames for curve in curves])

    def mean(at: Sequence[int]) -> float:
        return float(np.average([c.distances[i] for c, i in zip(curves, at, strict=True)], weights=frames))

    def size(at: Sequence[int]) -> float:
        return float(sum(c.bytes[i] for c, i in zip(curves, at, strict=True)))

    same = min(range(len(curves[0].crfs)), key=lambda i: abs(size([i] * len(curves)) - target_bytes))
    low, high = 1e-12, 1e3
    for _ in range(60):
        price = math.sqrt(low * high)
        at = [int((c.frames * c.distances + price * c.bytes).argmin()) for c in curves]
        low, high = (price, high) if size(at) > size([same] * len(curves)) else (low, price)
    return mean([same] * len(curves)), mean(at), [float(c.crfs[i]) for c, i in zip(curves, at, strict=True)]


def factors(gop: Sequence[Point], target_bytes: float) -> tuple[float, float]:
    """Change of the distance against the usual factor, as shares: as chosen, and with the best one."""
    curves = {f: Curve([p for p in gop if p.factor == f]) for f in {point.factor for point in gop}}
    usual = curves[PRESETS["medium"].key_lambda_factors[0]]
    nearest = int(np.abs(usual.bytes - target_bytes).argmin())
    costs = {
        f: at_equal_bytes(float(c.distances[nearest]), round(c.bytes[nearest])) for f, c in curves.items()
    }
    chosen = min(costs, key=costs.__getitem__)
    found = {factor: curve.distance_at(target_bytes) for factor, curve in curves.items()}
    before = usual.distance_at(target_bytes)
    return found[chosen] / before - 1, min(found.values()) / before - 1


def tell(points: Sequence[Point], kbps: Sequence[float]) -> Table:
    """What the encodes say."""
    usual = PRESETS["medium"].key_lambda_factors[0]
    table = Table("clip", "GOPs", "quantiser", "CRFs", "factor as chosen", "best factor")
    clips = list(dict.fromkeys(point.clip for point in points))
    groups = [(name, [p for p in points if p.clip == name]) for name in clips]
    sizes = {
        "all large": [p for p in points if p.lines > _LARGE],
        "all small": [p for p in points if p.lines <= _LARGE],
    }
    groups += [(name, found) for name, found in sizes.items() if len({p.clip for p in found}) > 1]
    for name, found in groups:
        rate = 125 * kbps[0 if found[0].lines > _LARGE else 1]
        gops = [
            [p for p in found if (p.clip, p.gop) == key]
            for key in dict.fromkeys((p.clip, p.gop) for p in found)
        ]
        curves = [Curve([p for p in gop if p.factor == usual]) for gop in gops]
        same, best, crfs = best_quantisers(curves, sum(rate * curve.seconds for curve in curves))
        chosen, possible = zip(*(factors(gop, rate * gop[0].seconds) for gop in gops), strict=True)
        cells = [f"{100 * share:+.1f} %" for share in (best / same - 1, fmean(chosen), fmean(possible))]
        spread = (
            " ".join(f"{crf:.1f}" for crf in crfs) if len(crfs) < 6 else f"{min(crfs):.1f} to {max(crfs):.1f}"
        )
        table.add_row(name, str(len(gops)), cells[0], spread, *cells[1:])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description="What a choice per GOP could gain.")
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--kbps", nargs=2, type=float, default=[200, 120])
    parser.add_argument("--gop-seconds", type=float, default=4)
    parser.add_argument("--crfs", nargs="+", type=float, default=[54, 58, 62, 66])
    parser.add_argument("--known", action="store_true", help="read the encodes of the last run")
    arguments = parser.parse_args()
    points: list[Point] = []
    if arguments.known:
        with _FILE.open(newline="") as file:
            for clip, *numbers in list(csv.reader(file))[1:]:
                lines, gop, frames, seconds, factor, crf, size_bytes, distance = map(float, numbers)
                told = clip, int(lines), int(gop), int(frames), seconds, factor, crf, int(size_bytes)
                points.append(Point(*told, distance))
    else:
        for clip in find_clips(arguments.clips):
            points += measure(clip.path, arguments.crfs, arguments.gop_seconds)
            save_csv(_FILE, COLUMNS, [[str(value) for value in astuple(point)] for point in points])
    Console(width=140).print(tell(points, arguments.kbps))


if __name__ == "__main__":
    main()
