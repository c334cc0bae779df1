"""How much of a result is the base stream's, and how much the prompts': LPIPS-Alex of both and the peer's.

    python benchmarks/studies/base_and_prompts.py [CONFIG.toml]

Takes the results of an evaluation that has run (configs/evaluate_results.toml unless another is named),
decodes HybridPrompt's encodes again as an ordinary player shows them, and compares that with the source on
the frames of the evaluation; the rest is in the results.  The peer is the SVT-AV1 variant and scale that is
best in LPIPS-Alex.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import percent
from figures import FIGURES, save_csv

from hybridprompt.decode.video_file import VideoFile
from hybridprompt.encode.method import make_method
from hybridprompt.evaluate.compare import picture_to_rgb
from hybridprompt.evaluate.perceptual import Lpips
from hybridprompt.evaluate.records import Record, ResultStore
from hybridprompt.evaluate.runner import Evaluation
from hybridprompt.evaluate.settings import load_settings
from hybridprompt.evaluate.summary import best_baseline
from hybridprompt.video.picture import Picture

METRIC = "LPIPS-Alex"
DEFAULT = Path(__file__).parents[2] / "configs" / "evaluate_results.toml"


def base_pictures(path: Path, frames: list[int], like: Picture) -> dict[int, Picture]:
    """What an ordinary player shows."""
    with VideoFile(path, base=True) as video:
        return {i: replace(p.picture.copied(), color=like.color) for i, p in enumerate(video) if i in frames}


def mean_distance(lpips: Lpips, shown: Mapping[int, Picture], sources: Mapping[int, Picture]) -> float:
    """Mean LPIPS-Alex of the frames, as the evaluation measures it."""
    with torch.inference_mode():
        return fmean(
            float(lpips(picture_to_rgb(picture), picture_to_rgb(sources[frame])))
            for frame, picture in shown.items()
        )


def main() -> None:
    config = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT
    evaluation = Evaluation(load_settings(config, {}), make_method)
    settings = evaluation.settings
    records: list[Record] = [
        record for record in ResultStore(settings.output).current if record["error"] is None
    ]
    ours = [record for record in records if record["method"].startswith("hybridprompt")]
    if not ours:
        sys.exit(f"{settings.output} has no results of HybridPrompt: run `hybridprompt evaluate {config}`")
    lpips, pictures, cache = Lpips("alex"), evaluation.stored_pictures(), evaluation.open_cache()
    rows: list[tuple[str, str, str, float, float, float]] = []
    for record in ours:
        frames = list(record["settings"]["light_frames"])
        sources = pictures.source(record, frames)
        entry = cache.get(record["settings"]["encode_key"])
        peer = best_baseline(records, record["clip"], record["target_kbps"], METRIC)
        if sources is None or entry is None or peer is None:
            continue
        base = base_pictures(entry.path, frames, sources[frames[0]])
        distances = peer, mean_distance(lpips, base, sources), record["metrics"][METRIC]
        rows.append((record["method"], record["clip"], f"{record['target_kbps']:g}", *distances))
    means = [
        (method, "mean", "", *(fmean(row[i] for row in rows if row[0] == method) for i in (3, 4, 5)))
        for method in dict.fromkeys(row[0] for row in rows)
    ]
    table = Table("method", "clip", "kbit/s", "peer", "base", "with prompts", title=METRIC)
    for method, clip, rate, peer, *distances in [*rows, *means]:
        changed = (f"{distance:.4f} ({percent(distance, peer)})" for distance in distances)
        table.add_row(method, clip, rate, f"{peer:.4f}", *changed)
    Console().print(table)
    names = ("method", "clip", "target_kbps", "peer", "base", "with_prompts")
    save_csv(FIGURES / "base_and_prompts.csv", names, [(*r[:3], *(round(v, 5) for v in r[3:])) for r in rows])


if __name__ == "__main__":
    main()
