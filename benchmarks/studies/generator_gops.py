"""What generators bring to GOPs: the same streams with each, by real decodes.

    python benchmarks/studies/generator_gops.py CLIP ... --generator small medium [FILE ...]
        [--prompts blind fast] [--share 0.5] [--seconds 4] [--kbps 200 120] [--csv FILE]

One GOP of each clip, coded and measured as `prompt_ablation.py` does, its prompts by their names there; all
generators have the same streams.  Changes against the base, and their means over the clips.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
from figures import FIGURES, save_csv
from prompt_ablation import Shown, Study, gop_parser, percent
from rich.console import Console
from rich.table import Table

from hybridprompt.generator.registry import load_chosen

_METRICS = ("alex", "vgg", "dists")
_COLUMNS = ("clip", "kbps", "prompt", "generator", "anchors", *_METRICS, "psnr_y", "seconds")


def _row(study: Study, generator: str, shown: Shown, base: Shown) -> list[str]:
    changes = [percent(getattr(shown, name), getattr(base, name)) for name in _METRICS]
    return [
        study.name,
        f"{study.kbps:.1f}",
        shown.prompt,
        generator,
        str(shown.anchors),
        *changes,
        f"{shown.psnr - base.psnr:+.2f}",
        f"{shown.seconds:.0f}",
    ]


def main() -> None:
    parser = gop_parser("Generators on GOPs of real streams.")
    parser.add_argument("--generator", nargs="+", type=Path, default=[Path("small"), Path("medium")])
    parser.add_argument("--prompts", nargs="+", default=["blind", "fast"])
    parser.add_argument("--csv", type=Path, default=FIGURES / "generator_gops.csv")
    arguments = parser.parse_args()
    generators = [load_chosen(choice, threads=2) for choice in arguments.generator]
    console = Console(width=150)
    rows: list[list[str]] = []
    found: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    for path in arguments.clips:
        study = Study(path, arguments.share, arguments.seconds, arguments.kbps)
        base = study.base()
        for generator in generators:
            for shown in study.compared(generator, arguments.prompts):
                rows.append(_row(study, generator.name, shown, base))
                console.print(*rows[-1])
                found[shown.prompt, generator.name].append(
                    [100 * (getattr(shown, name) / getattr(base, name) - 1) for name in _METRICS]
                )
        save_csv(arguments.csv, _COLUMNS, rows)
    table = Table("prompt", "generator", *_METRICS)
    for (prompt, name), values in found.items():
        means = [f"{value:+.1f}" for value in np.mean(values, 0)]
        table.add_row(prompt, name, *means)
        rows.append(["mean", "", prompt, name, "", *means, "", ""])
    console.print(table)
    save_csv(arguments.csv, _COLUMNS, rows)


if __name__ == "__main__":
    main()
