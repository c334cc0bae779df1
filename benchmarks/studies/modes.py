"""HybridPrompt's modes and codecs against the codecs themselves, at the same bytes.

    hybridprompt evaluate configs/evaluate_modes.toml
    python benchmarks/studies/modes.py [CONFIG.toml]

Takes the results of an evaluation that has run and prints, for each of our methods, clip by clip and as
means, the values and their changes against x265, x264 and the best SVT-AV1 (in LPIPS-Alex) of the same clip
and rate.  "Mean" is of the values, "mean of changes" of the clips' changes in percent.  Clips where one of
the two could not reach the rate are left out of that comparison.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import percent
from figures import FIGURES, save_csv

from hybridprompt.evaluate.records import Record, ResultStore
from hybridprompt.evaluate.settings import load_settings

DEFAULT = Path(__file__).parents[2] / "configs" / "evaluate_modes.toml"
RELATIVE = ("LPIPS-Alex", "LPIPS-VGG", "DISTS")
ABSOLUTE = ("VMAF", "PSNR-Y")
PEERS = ("x265", "x264", "svt-av1")


def peer_of(records: Sequence[Record], ours: Record, family: str) -> Record | None:
    """The best of a family, in LPIPS-Alex, for the same clip and rate."""
    found = [
        r
        for r in records
        if r["family"] == family
        and (r["clip"], r["target_kbps"]) == (ours["clip"], ours["target_kbps"])
        and "LPIPS-Alex" in r["metrics"]
    ]
    return min(found, key=lambda r: r["metrics"]["LPIPS-Alex"], default=None)


def changes(pairs: Sequence[tuple[Record, Record]]) -> list[str]:
    """Ours against the peers', of the means."""
    out = []
    for metric in RELATIVE:
        ours = fmean(a["metrics"][metric] for a, _ in pairs)
        peer = fmean(b["metrics"][metric] for _, b in pairs)
        out.append(f"{peer:.4f} -> {ours:.4f} ({percent(ours, peer)})")
    for metric in ABSOLUTE:
        change = fmean(a["metrics"][metric] - b["metrics"][metric] for a, b in pairs)
        out.append(f"{change:+.2f}")
    return out


def main() -> None:
    config = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT
    settings = load_settings(config, {})
    records: list[Record] = [r for r in ResultStore(settings.output).current if r["error"] is None]
    methods = [m for m in map(str, settings.methods) if m.startswith("hybridprompt")]
    rows = []
    for family in PEERS:
        title = f"against {'the best ' if family == 'svt-av1' else ''}{family}"
        table = Table("method", "clip", "kbit/s: peer -> ours", *RELATIVE, *ABSOLUTE, title=title)
        for method in methods:
            own = [r for r in records if r["method"] == method]
            pairs = [(r, peer) for r in own if (peer := peer_of(records, r, family)) is not None]
            if not pairs:
                continue
            for a, b in pairs:
                rates = f"{b['actual_kbps']:.1f} -> {a['actual_kbps']:.1f}"
                table.add_row(method.removeprefix("hybridprompt-"), a["clip"], rates, *changes([(a, b)]))
                values = [round(r["metrics"][m], 4) for r in (b, a) for m in (*RELATIVE, *ABSOLUTE)]
                rows.append((family, method, a["clip"], b["method"], *values))
            rates = " -> ".join(f"{fmean(p[i]['actual_kbps'] for p in pairs):.1f}" for i in (1, 0))
            table.add_row(
                method.removeprefix("hybridprompt-"),
                f"mean of {len(pairs)}",
                rates,
                *changes(pairs),
                style="bold",
            )
            of_changes = [
                f"{100 * fmean(a['metrics'][m] / b['metrics'][m] - 1 for a, b in pairs):+.1f} %"
                for m in RELATIVE
            ]
            table.add_row(
                method.removeprefix("hybridprompt-"),
                "mean of changes",
                "",
                *of_changes,
                "",
                "",
                end_section=True,
            )
        Console(width=190).print(table)
    names = [f"{who}_{m}" for who in ("peer", "ours") for m in (*RELATIVE, *ABSOLUTE)]
    save_csv(FIGURES / "modes.csv", ("family", "method", "clip", "peer", *names), rows)


if __name__ == "__main__":
    main()
