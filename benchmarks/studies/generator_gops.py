"""What generators bring to GOPs: the same streams with each, by real decodes.

    python benchmarks/studies/generator_gops.py CLIP ... --generator small medium [FILE ...]
        [--prompts blind fast] [--share 0.5] [--seconds 4] [--kbps 200 120] [--csv FILE]

One GOP of each clip, coded and measured as `prompt_ablation.py` does, its prompts by their names there; all
generators have the same streams.  Changes against the base, and their means over the clips.
"""

from __future__ import annotations

from pathlib import Path

from figures import FIGURES, save_csv
from prompt_ablation import METRICS, Changes, Shown, Study, gop_parser
from rich.console import Console
from rich.table import Table

from hybridprompt.generator.registry import load_chosen

_COLUMNS = ("clip", "kbps", "prompt", "generator", "anchors", *METRICS, "psnr_y", "seconds")


def _row(study: Study, generator: str, shown: Shown, base: Shown, changes: list[str]) -> list[str]:
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
    found = Changes()
    for path in arguments.clips:
        study = Study(path, arguments.share, arguments.seconds, arguments.kbps)
        base = study.base()
        for generator in generators:
            for shown in study.compared(generator, arguments.prompts):
                changes = found.add((shown.prompt, generator.name), shown, base)
                rows.append(_row(study, generator.name, shown, base, changes))
                console.print(*rows[-1])
        save_csv(arguments.csv, _COLUMNS, rows)
    table = Table("prompt", "generator", *METRICS)
    for (prompt, name), means in found.means():
        table.add_row(prompt, name, *means)
        rows.append(["mean", "", prompt, name, "", *means, "", ""])
    console.print(table)
    save_csv(arguments.csv, _COLUMNS, rows)


if __name__ == "__main__":
    main()
