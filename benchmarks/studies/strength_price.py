"""How dear strength is to be where gates are searched for, and how strong later anchors may be.

    python benchmarks/studies/strength_price.py CLIP ... [--price 0.04 0.02 0.01 0] [--later 2 2,4]
        [--generator small|medium|FILE] [--preset fast] [--share 0.5] [--seconds 4] [--kbps 200 120]
        [--csv FILE]

One GOP of each clip, coded and measured as `prompt_ablation.py` does: prompts that a preset searches for, by
every price with every set of levels that later anchors may take (in quarters of strength 1).  Changes against
the base, and their means over the clips; "strengths" has the mean strength of each anchor.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from pathlib import Path

from figures import FIGURES, save_csv
from prompt_ablation import METRICS, Changes, Study, gop_parser
from rich.console import Console
from rich.table import Table

from hybridprompt.encode.gate import GopGate
from hybridprompt.encode.judge import LpipsJudge
from hybridprompt.encode.settings import PRESETS
from hybridprompt.generator.registry import load_chosen

_COLUMNS = ("clip", "kbps", "price", "later", "anchors", *METRICS, "psnr_y", "prompt_bytes", "strengths")
_INTERVAL = 32


def levels(text: str) -> tuple[int, ...]:
    """Levels that are separated by commas."""
    return tuple(int(level) for level in text.split(","))


def main() -> None:
    parser = gop_parser("The price of strength, by real decodes.")
    parser.add_argument("--price", nargs="+", type=float, default=[0.04, 0.02, 0.01, 0.0])
    parser.add_argument("--later", nargs="+", type=levels, default=[(2,), (2, 4)])
    parser.add_argument("--generator", type=Path, default=Path("medium"))
    parser.add_argument("--preset", choices=list(PRESETS), default="fast")
    parser.add_argument("--csv", type=Path, default=FIGURES / "strength_price.csv")
    arguments = parser.parse_args()
    generator, judge = load_chosen(arguments.generator, threads=2), LpipsJudge()
    console = Console(width=150)
    rows: list[list[str]] = []
    found = Changes()
    for path in arguments.clips:
        study = Study(path, arguments.share, arguments.seconds, arguments.kbps)
        base = study.base()
        for price, later in itertools.product(arguments.price, arguments.later):
            started = time.perf_counter()
            preset = replace(PRESETS[arguments.preset], strength_price=price, later_levels=later)
            anchors = GopGate(study.gop, generator, judge, preset, _INTERVAL).decide().anchors
            shown = study.played("searched", generator, anchors, time.perf_counter() - started)
            names = f"{price:g}", ",".join(map(str, later))
            changes = found.add(names, shown, base)
            strengths = " ".join(f"{anchor.coverage:.2f}" for anchor in anchors)
            psnr, size = f"{shown.psnr - base.psnr:+.2f}", str(shown.size_bytes)
            rows.append(
                [study.name, f"{study.kbps:.1f}", *names, str(len(anchors)), *changes, psnr, size, strengths]
            )
            console.print(*rows[-1])
        save_csv(arguments.csv, _COLUMNS, rows)
    table = Table("price", "later", *METRICS)
    for names, means in found.means():
        table.add_row(*names, *means)
        rows.append(["mean", "", *names, "", *means, "", "", ""])
    console.print(table)
    save_csv(arguments.csv, _COLUMNS, rows)


if __name__ == "__main__":
    main()
