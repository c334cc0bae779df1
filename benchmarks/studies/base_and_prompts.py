"""How much of a result is the base stream's, and how much the prompts': LPIPS-Alex of both and the peer's.

    python benchmarks/studies/base_and_prompts.py [CONFIG.toml]

Takes the results of an evaluation that has run (configs/evaluate_results.toml unless another is named),
decodes HybridPrompt's encodes again as an ordinary player shows them and as ours does, and compares both with
the source on the frames of the evaluation.  The peer is the SVT-AV1 variant and scale that is best in
LPIPS-Alex.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
from figures import FIGURES, save_csv
from rich.console import Console
from rich.table import Table

from hybridprompt.decode.video_file import VideoFile
from hybridprompt.encode.judge import Judge, make_judge
from hybridprompt.encode.method import make_method
from hybridprompt.evaluate.records import Record, ResultStore
from hybridprompt.evaluate.runner import Evaluation
from hybridprompt.evaluate.settings import load_settings
from hybridprompt.video.picture import Picture

DEFAULT = Path(__file__).parents[2] / "configs" / "evaluate_results.toml"


def base_pictures(path: Path, frames: list[int], like: Picture) -> dict[int, Picture]:
    """What an ordinary player shows."""
    with VideoFile(path, base=True) as video:
        return {i: replace(p.picture.copied(), color=like.color) for i, p in enumerate(video) if i in frames}


def mean_distance(judge: Judge, shown: Mapping[int, Picture], sources: Mapping[int, Picture]) -> float:
    """Mean LPIPS-Alex of the frames."""
    block = 1 << 12
    return fmean(
        float(np.mean(judge.distance_map(picture, judge.prepare(sources[frame]), block)))
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
    judge, pictures = make_judge(1), evaluation.stored_pictures()
    rows = []
    for record in ours:
        frames = list(record["settings"]["light_frames"])
        sources, decoded = pictures.source(record, frames), pictures.decoded(record, frames)
        entry = evaluation.open_cache().get(record["settings"]["encode_key"])
        peers = [
            r["metrics"]["LPIPS-Alex"]
            for r in records
            if r["method"].startswith("svt-av1")
            and (r["clip"], r["target_kbps"]) == (record["clip"], record["target_kbps"])
        ]
        if sources is None or decoded is None or entry is None or not peers:
            continue
        base = base_pictures(entry.path, frames, sources[frames[0]])
        row = (min(peers), mean_distance(judge, base, sources), mean_distance(judge, decoded, sources))
        rows.append((record["method"], record["clip"], record["target_kbps"], *row))
    table = Table("method", "clip", "kbit/s", "peer", "base", "with prompts", title="LPIPS-Alex")
    for method, clip, rate, peer, base_distance, distance in rows:
        table.add_row(
            method, clip, f"{rate:g}", f"{peer:.4f}",
            f"{base_distance:.4f} ({100 * (base_distance / peer - 1):+.1f} %)",
            f"{distance:.4f} ({100 * (distance / peer - 1):+.1f} %)",
        )  # fmt: skip
    for method in dict.fromkeys(row[0] for row in rows):
        peer, base_distance, distance = (fmean(r[i] for r in rows if r[0] == method) for i in (3, 4, 5))
        table.add_row(
            method, "mean", "", f"{peer:.4f}",
            f"{base_distance:.4f} ({100 * (base_distance / peer - 1):+.1f} %)",
            f"{distance:.4f} ({100 * (distance / peer - 1):+.1f} %)",
        )  # fmt: skip
    Console().print(table)
    names = ("method", "clip", "target_kbps", "peer", "base", "with_prompts")
    save_csv(FIGURES / "base_and_prompts.csv", names, [(*r[:3], *(round(v, 5) for v in r[3:])) for r in rows])


if __name__ == "__main__":
    main()
