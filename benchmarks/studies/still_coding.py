"""How to code the still of a prompt: SVT-AV1's options for one picture, at equal bytes.

    python benchmarks/studies/still_coding.py [CLIP ...]

The picture in the middle of each clip, preset 5; each option at several CRFs, its distances interpolated (log
over log) at the bytes that plain tune 0 takes at CRF 47.  "above" and "below": base_q_idx modulo 4 is 2 or 3,
or 0 or 1: Note [Bytes of a still] in `encode.still_encoder`.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import find_clips, percent
from figures import FIGURES, at_bytes, save_csv

from hybridprompt.decode.still import decode_still
from hybridprompt.encode.still_encoder import code_still
from hybridprompt.evaluate.compare import picture_to_rgb
from hybridprompt.evaluate.perceptual import Dists, Lpips
from hybridprompt.video.picture import Picture
from hybridprompt.video.source import VideoSource

CRFS = tuple(40 + quarter / 4 for quarter in range(64))
BOOST = (("enable-variance-boost", "1"),)
CURVE = (*BOOST, ("variance-boost-curve", "1"))
OPTIONS: dict[str, tuple[int, tuple[tuple[str, str], ...], bool]] = {
    "tune 0, above": (0, (), True),
    "tune 0, below": (0, (), False),
    "tune 1": (1, (), True),
    "tune 0, below, boost": (0, BOOST, False),
    "tune 0, above, boost": (0, BOOST, True),
    "tune 0, above, boost, curve": (0, CURVE, True),
    "tune 0, above, boost, curve, strength 3": (0, (*CURVE, ("variance-boost-strength", "3")), True),
}
METRICS = ("LPIPS-Alex", "LPIPS-VGG", "DISTS")
REFERENCE_CRF = 47.0


def code(
    picture: Picture, crf: float, tune: int, extra: tuple[tuple[str, str], ...]
) -> tuple[int, int, Picture]:
    """Bytes of a still, its base_q_idx, and what it decodes to."""
    still = code_still(picture, crf, preset=5, tune=tune, threads=2, extra=extra)
    decoded = decode_still(still, picture.width, picture.height)
    y, u, v = decoded.planes
    return len(still.data), decoded.base_q_idx, replace(picture, y=y, u=u, v=v)


def around(
    picture: Picture, target: int, tune: int, extra: tuple[tuple[str, str], ...], above: bool
) -> list[tuple[int, Picture]]:
    """The stills of one kind that are next to a number of bytes, above and below it."""
    fits: dict[bool, tuple[int, Picture]] = {}
    low, high = 0, len(CRFS) - 1
    while low <= high:
        middle = (low + high) // 2
        for index in range(middle, min(middle + 4, len(CRFS))):
            size_bytes, q_index, shown = code(picture, CRFS[index], tune, extra)
            if (q_index % 4 >= 2) == above:
                break
        fits[size_bytes > target] = size_bytes, shown
        low, high = (middle + 1, high) if size_bytes > target else (low, middle - 1)
    return list(fits.values())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", nargs="*", type=Path)
    networks = [
        Lpips("alex", dtype=torch.bfloat16),
        Lpips("vgg", dtype=torch.bfloat16),
        Dists(dtype=torch.bfloat16),
    ]
    table = Table("clip", "option", "bytes", *METRICS, "change")
    rows: list[tuple[object, ...]] = []
    for clip in find_clips(parser.parse_args().clips):
        source = VideoSource(clip.path)
        picture = next(source.frames((source.duration_seconds or 0.0) / 2))
        original = picture_to_rgb(picture)
        target = code(picture, REFERENCE_CRF, 0, ())[0]
        first: list[float] = []
        for name, (tune, extra, above) in OPTIONS.items():
            points = []
            for size_bytes, shown in around(picture, target, tune, extra, above):
                with torch.inference_mode():
                    rgb = picture_to_rgb(shown)
                    points.append((size_bytes, *(float(network(rgb, original)) for network in networks)))
            found = at_bytes(points, target)
            first = first or found
            change = " / ".join(percent(a, b) for a, b in zip(found, first, strict=True))
            table.add_row(clip.name, name, str(target), *(f"{value:.4f}" for value in found), change)
            rows.append((clip.name, name, target, *(round(value, 5) for value in found)))
        table.add_section()
    Console(width=150).print(table)
    save_csv(FIGURES / "still_coding.csv", ("clip", "option", "bytes", *METRICS), rows)


if __name__ == "__main__":
    main()
