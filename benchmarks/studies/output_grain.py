"""What noise does that a player adds to the pictures it shows, as AV1's film grain would: LPIPS and DISTS.

    python benchmarks/studies/output_grain.py [CONFIG.toml]

Takes the encodes of preset medium from an evaluation that has run (configs/evaluate_results.toml unless
another is named), the middle rate of each clip, and adds Gaussian noise to the luma of three frames: white,
and blurred over 3 samples each way.  LPIPS-VGG and DISTS are of the frame in the middle.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from base_and_prompts import DEFAULT
from common import percent
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from hybridprompt.decode.video_file import VideoFile
from hybridprompt.encode.method import make_method
from hybridprompt.evaluate.compare import picture_to_rgb
from hybridprompt.evaluate.perceptual import Dists, Lpips
from hybridprompt.evaluate.records import Record, ResultStore
from hybridprompt.evaluate.runner import Evaluation
from hybridprompt.evaluate.settings import load_settings
from hybridprompt.video.picture import Picture

LEVELS = (0, 2, 4)
BLURRED_LEVELS = (3, 5)


def noisy(picture: Picture, noise: NDArray[np.float32]) -> Picture:
    """A picture with noise, in levels, on its luma."""
    luma = np.clip(np.rint(picture.y + noise), 0, 255).astype(np.uint8)
    return replace(picture, y=luma)


def white(shape: tuple[int, int]) -> NDArray[np.float32]:
    """Gaussian noise of deviation 1, the same every time."""
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def blurred(shape: tuple[int, int]) -> NDArray[np.float32]:
    """The same, blurred by 1/4, 1/2, 1/4 each way, of deviation 1."""
    noise = white(shape)
    for axis in (0, 1):
        noise = (np.roll(noise, 1, axis) + 2 * noise + np.roll(noise, -1, axis)) / 4
    return noise / noise.std()


def middle_rates(records: list[Record]) -> list[Record]:
    """Of each clip the record in the middle."""
    by_clip: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda r: r["target_kbps"]):
        by_clip.setdefault(record["clip"], []).append(record)
    return [group[len(group) // 2] for group in by_clip.values()]


def main() -> None:
    config = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT
    evaluation = Evaluation(load_settings(config, {}), make_method)
    found = [r for r in ResultStore(evaluation.settings.output).current if r["error"] is None]
    records = middle_rates([r for r in found if r["method"] == "hybridprompt-medium"])
    if not records:
        sys.exit(f"no results of preset medium: run `hybridprompt evaluate {config}`")
    pictures, cache = evaluation.stored_pictures(), evaluation.open_cache()
    alex, vgg, dists = Lpips("alex"), Lpips("vgg", dtype=torch.bfloat16), Dists(dtype=torch.bfloat16)
    table = Table("clip", "noise", "LPIPS-Alex", "LPIPS-VGG", "DISTS")
    for record in records:
        frames = list(record["settings"]["light_frames"])[1:4]
        sources, entry = pictures.source(record, frames), cache.get(record["settings"]["encode_key"])
        if sources is None or entry is None:
            continue
        with VideoFile(entry.path) as video:
            shown = {i: p.picture.copied() for i, p in enumerate(video) if i in frames}
        shape = shown[frames[0]].y.shape
        kinds = [("white", white(shape), LEVELS), ("blurred", blurred(shape), BLURRED_LEVELS)]
        before: list[float] = []
        for kind, noise, levels in kinds:
            for level in levels:
                pairs = [
                    (
                        picture_to_rgb(replace(noisy(shown[i], level * noise), color=sources[i].color)),
                        picture_to_rgb(sources[i]),
                    )
                    for i in frames
                ]
                with torch.inference_mode():
                    means = [fmean(float(alex(*pair)) for pair in pairs)]
                    means += [float(metric(*pairs[1])) for metric in (vgg, dists)]
                before = before or means
                cells = [f"{now:.4f} ({percent(now, then)})" for now, then in zip(means, before, strict=True)]
                table.add_row(record["clip"], f"{kind}, {level} levels", *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
