"""What SVT-AV1's own knobs do to base and generated pictures at the same bytes, on the first GOP of clips.

    python benchmarks/svt_tunes.py CLIP [CLIP ...] [--variants default,vq] [--frames 5]

Each variant's CRF is searched until the GOP's bytes are within 2 % of the clip's rate, or as near as quarter
steps get in four encodes.  Distances are the gate's own (LPIPS-Alex of sampled frames from real decodes).
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from itertools import islice
from pathlib import Path

from common import Clip, find_clips, percent
from rich.console import Console
from rich.table import Table

from hybridprompt.encode.gate import GopGate
from hybridprompt.encode.gop import Gop
from hybridprompt.encode.judge import make_judge
from hybridprompt.encode.rate_control import quantise_crf
from hybridprompt.encode.settings import PRESETS
from hybridprompt.generator.registry import load_shipped
from hybridprompt.video.av1_encoder import Av1Settings, CodedPacket, encode_gop
from hybridprompt.video.picture import Picture
from hybridprompt.video.source import VideoSource

VARIANTS: dict[str, tuple[tuple[str, str], ...]] = {
    "default": (),
    "vq": (("tune", "0"),),
    "ssim": (("tune", "2"),),
    "variance boost": (("enable-variance-boost", "1"),),
    "flatter quantisers": (("qp-scale-compress-strength", "3"),),
    "sharper": (("sharpness", "4"),),
    "ac bias": (("ac-bias", "1.0"),),
}
GOP_SECONDS = 4
_SLOPE = -0.17
"""Log of the bytes per CRF at these rates."""


def _matched(
    source: VideoSource, pictures: list[Picture], extra: tuple[tuple[str, str], ...], target: float
) -> tuple[list[CodedPacket], float, int]:
    """Packets whose bytes are nearest to the target, their CRF and their bytes."""
    crf, tried = 64.0, dict[float, tuple[list[CodedPacket], int]]()
    for _ in range(4):
        settings = Av1Settings(
            width=source.width,
            height=source.height,
            frame_rate=source.average_rate,
            time_base=source.time_base,
            crf=crf,
            preset=PRESETS["fast"].svt_preset,
            threads=2,
            color=source.color,
            extra=extra,
        )
        packets = encode_gop(pictures, settings)
        tried[crf] = packets, sum(len(p.data) for p in packets)
        miss = math.log(tried[crf][1] / target)
        crf = quantise_crf(crf - miss / _SLOPE)
        if abs(miss) < 0.02 or crf in tried:
            break
    best = min(tried, key=lambda c: abs(math.log(tried[c][1] / target)))
    return tried[best][0], best, tried[best][1]


def study(clip: Clip, variants: list[str], frames: int, table: Table) -> None:
    """Add a row for every variant."""
    source = VideoSource(clip.path)
    pictures = list(islice(source.frames(), round(GOP_SECONDS * float(source.average_rate))))
    target = clip.rate_kbps * 125 * len(pictures) / float(source.average_rate)
    judge, generator = make_judge(1), load_shipped(threads=2)
    effort = replace(PRESETS["fast"], sample_frames=frames)
    for name in variants:
        packets, crf, size = _matched(source, pictures, VARIANTS[name], target)
        gop = Gop(packets, None, source.time_base, pictures.__getitem__)
        found = GopGate(gop, generator, judge, effort, 32).decide()
        table.add_row(
            clip.name,
            name,
            f"{crf:g}",
            percent(size, target),
            f"{100 * len(packets[0].data) / size:.0f} %",
            f"{found.base_distance:.4f}",
            f"{found.distance:.4f}",
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--frames", type=int, default=5)
    arguments = parser.parse_args()
    table = Table(title=f"First GOP ({GOP_SECONDS} s), preset fast")
    for column in ("clip", "variant", "CRF", "bytes", "keyframe's share", "base LPIPS-Alex", "generated"):
        table.add_column(column, justify="left" if column in ("clip", "variant") else "right")
    for clip in find_clips(arguments.clips):
        study(clip, arguments.variants.split(","), arguments.frames, table)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
