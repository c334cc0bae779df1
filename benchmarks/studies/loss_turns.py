"""What it costs, and saves, that LPIPS-VGG and DISTS take turns when prompts are fitted.

    python benchmarks/studies/loss_turns.py CLIP ... [--share 0.5] [--seconds 4] [--kbps 200 120]
                                            [--steps 1.0 0.7]

One GOP of each clip, coded at or below the first rate (clips of more than 900 lines) or the second, decided
with preset medium and, for each share of the steps, with these losses:
  turns  what the encoder does: one of the two in every third step, which counts twice
  both   both of them in every third step
Changes against the base in LPIPS-Alex (whole pictures), LPIPS-VGG and DISTS (twelve tiles) of frames beside
those that the encoder judges, and the seconds that deciding took.
"""

from __future__ import annotations

import time
from copy import copy
from dataclasses import replace
from statistics import fmean

import numpy as np
import torch
from figures import FIGURES, save_csv
from numpy.typing import NDArray
from prompt_ablation import Study, gop_parser
from rich.console import Console
from rich.table import Table
from two_networks import Whole

from hybridprompt.encode import descent
from hybridprompt.encode.fit_loss import FitLoss
from hybridprompt.encode.gate import GopGate, make_adapter_fitter, make_fitter
from hybridprompt.encode.judge import LpipsJudge
from hybridprompt.encode.settings import PRESETS, Preset
from hybridprompt.generator.registry import load_shipped

_SHOWN_FRAMES = 6
COLUMNS = ("clip", "loss", "steps", "alex", "vgg", "dists", "seconds")


class BothLosses(FitLoss):
    """The same terms on every third step, each at its own weight."""

    def __init__(self, device: torch.device, seed: int, *, share: float = 1.0, part: int = 0) -> None:
        super().__init__(device, seed, share=share, part=part)
        with_lpips, with_dists = self._turns
        both = copy(with_lpips)
        both.dists = with_dists.dists
        both.weights = replace(with_lpips.weights, vgg=1.0, dists=1.0)
        self._turns = both, both


LOSSES = {"turns": FitLoss, "both": BothLosses}


def main() -> None:
    parser = gop_parser("LPIPS-VGG and DISTS in turns, and both at once.")
    parser.add_argument("--steps", nargs="+", type=float, default=[1.0])
    arguments = parser.parse_args()
    generator = load_shipped(threads=2)
    table, rows = Table(*COLUMNS), []
    changes: dict[tuple[str, float], list[NDArray[np.float64]]] = {}
    for path in arguments.clips:
        study = Study(path, arguments.share, arguments.seconds, arguments.kbps)
        whole = Whole(study, generator, frames=_SHOWN_FRAMES, tiled=True)
        base = np.array(whole.distances(()))
        for share in arguments.steps:
            for name, loss in LOSSES.items():
                descent.FitLoss = loss  # type: ignore[misc]
                effort = _shortened(share)
                fitters = make_fitter(effort.fit), make_adapter_fitter(effort.adapter, generator)
                started = time.perf_counter()
                decision = GopGate(study.gop, generator, LpipsJudge(), effort, 32, *fitters).decide()
                seconds = time.perf_counter() - started
                change = 100 * (whole.distances(decision.anchors) / base - 1)
                changes.setdefault((name, share), []).append(change)
                rows.append((study.name, name, f"{share:g}", *_signed(change), f"{seconds:.0f}"))
                save_csv(FIGURES / "loss_turns.csv", COLUMNS, rows)
    for (name, share), found in changes.items():
        seconds = fmean(float(row[-1]) for row in rows if row[1:3] == (name, f"{share:g}"))
        rows.append(("mean", name, f"{share:g}", *_signed(np.mean(found, 0)), f"{seconds:.0f}"))
    save_csv(FIGURES / "loss_turns.csv", COLUMNS, rows)
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)


def _shortened(share: float) -> Preset:
    """Preset medium with a share of its steps."""
    effort = PRESETS["medium"]
    assert effort.fit is not None
    assert effort.adapter is not None
    fit, adapter = (
        replace(s, steps=round(share * s.steps), joint_steps=round(share * s.joint_steps))
        for s in (effort.fit, effort.adapter)
    )
    return replace(effort, fit=fit, adapter=adapter)


def _signed(change: NDArray[np.float64]) -> list[str]:
    return [f"{value:+.2f}" for value in change]


if __name__ == "__main__":
    main()
