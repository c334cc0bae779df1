"""What deciding the prompts of a GOP takes an encoder, beyond encoding the base: seconds by what is done.

    python benchmarks/studies/decide_time.py CLIP ... [--preset medium] [--share 0.5] [--seconds 4]
                                             [--kbps 200 120] [--repeats 1]

One GOP of each clip, coded at or below the first rate (clips of more than 900 lines) or the second:
  base      one encode of the base, of several that the encoder makes for its rate
  keyframe  fitting an adapter to the keyframe
  frames    fitting it to frames of the whole GOP
  strengths fitting the strengths of all anchors
  rest      decodes of the GOP with prompts, their distances from the source, probes
  decide    all but the base
Medians of the repeats.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from statistics import median
from typing import Any

from figures import FIGURES, save_csv
from prompt_ablation import Study, gop_parser
from rich.console import Console
from rich.table import Table

from hybridprompt.encode.base import BaseEncoder
from hybridprompt.encode.gate import GopGate, make_adapter_fitter, make_fitter
from hybridprompt.encode.judge import LpipsJudge
from hybridprompt.encode.settings import PRESETS, EncodeSettings
from hybridprompt.generator.registry import load_shipped

STAGES = ("keyframe", "frames", "strengths")
COLUMNS = ("clip", "size", "pictures", "kbps", "base", *STAGES, "rest", "decide")


def decide(study: Study, preset: str) -> dict[str, float]:
    """Seconds of every stage of one decision, and of the base."""
    spent: dict[str, float] = defaultdict(float)

    def watch(owner: object, method: str, stage: str) -> None:
        inner: Callable[..., Any] = getattr(owner, method)

        @wraps(inner)
        def watched(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return inner(*arguments, **named)
            finally:
                spent[stage] += time.perf_counter() - started

        setattr(owner, method, watched)

    encoder = BaseEncoder(study.source, EncodeSettings(bitrate_kbps=study.kbps), LpipsJudge)
    effort = PRESETS[preset]  # type: ignore[index]  # argparse knows the names
    started = time.perf_counter()
    encoder.encode(study.pictures, study.crf, effort.key_lambda_factors[0])
    base = time.perf_counter() - started
    generator = load_shipped(threads=2)
    fitter, adapter_fitter = make_fitter(effort.fit), make_adapter_fitter(effort.adapter, generator)
    if fitter is not None:
        watch(fitter, "fit", "strengths")
    if adapter_fitter is not None:
        watch(adapter_fitter, "fit", "keyframe")
        watch(adapter_fitter, "refine", "frames")
    started = time.perf_counter()
    GopGate(study.gop, generator, LpipsJudge(), effort, 32, fitter, adapter_fitter).decide()
    whole = time.perf_counter() - started
    stages = {stage: spent[stage] for stage in STAGES}
    return {"base": base, **stages, "rest": whole - sum(stages.values()), "decide": whole}


def main() -> None:
    parser = gop_parser("Seconds that deciding the prompts of a GOP takes.")
    parser.add_argument("--preset", choices=list(PRESETS), default="medium")
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    table, rows = Table(*COLUMNS), []
    for path in arguments.clips:
        study = Study(path, arguments.share, arguments.seconds, arguments.kbps)
        runs = [decide(study, arguments.preset) for _ in range(arguments.repeats)]
        seconds = [f"{median(run[stage] for run in runs):.1f}" for stage in runs[0]]
        size = "x".join(map(str, study.size))
        rows.append((study.name, size, str(len(study.pictures)), f"{study.kbps:.0f}", *seconds))
        table.add_row(*rows[-1])
        save_csv(FIGURES / "decide_time.csv", COLUMNS, rows)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
