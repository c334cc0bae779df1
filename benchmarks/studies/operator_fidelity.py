"""How well the probed decode operator predicts what a real decoder does with another anchor.

    python benchmarks/studies/operator_fidelity.py [CLIP ...] [--share 0.5] [--crf 63] [--bands 0 3]

Codes one GOP of each clip with SVT-AV1, from --share of its length on; probes the keyframe and, hidden, the
base picture of a mini-GOP; replaces each by the source picture ("source") and by what the shipped generator
makes of the base picture at full strength ("generated"); and compares the real change of the frames after it
with the predicted one.  Explained is 1 - |predicted - real|^2 / |real|^2.  Distances count from the packet
that codes the anchor; a hidden one is shown later.  Probing time is that for all the frames of one anchor, in
wall time and in CPU time of the process.  Rows of other clips in the table are kept.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from figures import FIGURES, new_figure, save_csv, save_figure
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from hybridprompt.encode.gate import Candidate, Gop, find_candidates
from hybridprompt.encode.operator.decoders import Av1AnchorDecoder, Injection
from hybridprompt.encode.operator.fidelity import Fidelity, measure_fidelity
from hybridprompt.encode.operator.probe import ProbeSettings, probe
from hybridprompt.generator.registry import load_shipped
from hybridprompt.prompt.sections import GateMap
from hybridprompt.video.av1_encoder import Av1Settings, encode_gop
from hybridprompt.video.picture import Picture
from hybridprompt.video.source import VideoSource

DISTANCES = (1, 4, 9, 20, 33, 60, 90, 110)
_COLUMNS = (
    "clip", "kbps", "anchor", "change", "bands", "distance", "corr_y", "explained_y", "real_rms_y",
    "corr_uv", "explained_uv", "probe_wall_s", "probe_cpu_s",
)  # fmt: skip


@dataclass(frozen=True)
class Coded:
    """One GOP.  rate_kbps: what it came to; sources: of the anchors, by frame."""

    name: str
    rate_kbps: float
    decoder: Av1AnchorDecoder
    anchors: list[Candidate]
    sources: dict[int, Picture]


@dataclass(frozen=True)
class Result:
    """One frame of one anchor; the times are for all frames of it."""

    coded: Coded
    anchor: Candidate
    change: str
    bands: int
    wall_seconds: float
    cpu_seconds: float
    fidelity: Fidelity

    def row(self) -> tuple[object, ...]:
        luma, chroma = self.fidelity.luma, self.fidelity.chroma
        return (
            self.coded.name, f"{self.coded.rate_kbps:.0f}", self.anchor.frame, self.change, self.bands,
            self.fidelity.distance, f"{luma.correlation:.3f}", f"{luma.explained:.3f}",
            f"{luma.real_rms:.2f}", f"{chroma.correlation:.3f}", f"{chroma.explained:.3f}",
            f"{self.wall_seconds:.1f}", f"{self.cpu_seconds:.1f}",
        )  # fmt: skip


def code(path: Path, share: float, frames: int, crf: float, preset: int) -> Coded:
    """Code a GOP of a clip."""
    source = VideoSource(path)
    start = share * (source.duration_seconds or 0)
    pictures = [p.copied() for p in itertools.islice(source.frames(start_seconds=start), frames)]
    settings = Av1Settings(
        width=source.width, height=source.height, frame_rate=source.average_rate,
        time_base=source.time_base, crf=crf, preset=preset, threads=2, color=source.color,
    )  # fmt: skip
    packets = encode_gop(pictures, settings)
    seconds = len(pictures) / source.average_rate
    rate = float(Fraction(8 * sum(len(p.data) for p in packets), 1000) / seconds)
    decoder = Av1AnchorDecoder(
        packets=packets, size=(source.width, source.height), time_base=source.time_base
    )
    anchors = find_candidates(Gop(packets, None, source.time_base, pictures.__getitem__), 32)[:2]
    return Coded(path.stem, rate, decoder, anchors, {a.frame: pictures[a.frame] for a in anchors})


def changes(coded: Coded, anchor: Candidate, names: list[str]) -> Iterator[tuple[str, Injection]]:
    """The real changes of an anchor."""
    if "source" in names:
        yield "source", lambda base: coded.sources[anchor.frame].planes
    if "generated" in names:
        generator = load_shipped(threads=2)
        gate = GateMap.uniform(*coded.decoder.size)
        yield (
            "generated",
            lambda base: generator.generate(
                base, quantiser=anchor.base_q_idx, strengths=gate.strengths(), block_size=gate.block_size
            ),
        )


def measure(coded: Coded, bands: list[int], names: list[str]) -> Iterator[Result]:
    """Probe each anchor, and compare; distances count from the packet that codes it."""
    for anchor in coded.anchors:
        frames = [anchor.packet + d for d in DISTANCES if anchor.packet + d < coded.decoder.frame_count]
        for count in bands:
            wall, cpu = time.perf_counter(), time.process_time()
            maps = list(probe(coded.decoder, anchor.packet, frames, ProbeSettings(bands=count)))
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            for name, injection in changes(coded, anchor, names):
                for one in measure_fidelity(coded.decoder, anchor.packet, maps, injection):
                    yield Result(coded, anchor, name, count, wall, cpu, one)


def kept(path: Path, results: list[Result]) -> list[dict[str, str]]:
    """Rows of the table: the new ones, after those of other clips that an earlier run has written."""
    names = {result.coded.name for result in results}
    rows: list[dict[str, str]] = []
    if path.exists():
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["clip"] not in names]
    return rows + [dict(zip(_COLUMNS, map(str, r.row()), strict=True)) for r in results]


def draw(rows: list[dict[str, str]]) -> Figure:
    """Correlation and explained energy of luma over the distance, for the source as change."""
    figure = new_figure(9.0, 3.8)
    axes = figure.subplots(1, 2)
    curves: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for row in rows:
        if row["change"] == "source":
            curves.setdefault((row["clip"], row["anchor"], row["bands"]), []).append(row)
    colours = {key: f"C{i}" for i, key in enumerate(dict.fromkeys(key[:2] for key in curves))}
    for (clip, anchor, bands), mine in curves.items():
        x = [int(row["distance"]) for row in mine]
        for axis, column in zip(axes, ("corr_y", "explained_y"), strict=True):
            axis.plot(
                x,
                [float(row[column]) for row in mine],
                color=colours[clip, anchor],
                linestyle="-" if int(bands) else "--",
                marker="o",
                markersize=3,
                label=f"{clip}, anchor {anchor}, {bands} bands",
            )
    for axis, label in zip(axes, ("correlation", "explained energy"), strict=True):
        axis.set_xlabel("frames from the anchor's packet")
        axis.set_title(f"{label} of the luma change", fontsize=9)
        axis.grid(alpha=0.3)
        axis.set_ylim(-0.5, 1.02)
    axes[1].legend(fontsize=6)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="where in the clip the GOP begins")
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--crf", type=float, default=63.0)
    parser.add_argument("--preset", type=int, default=8, help="of SVT-AV1")
    parser.add_argument("--bands", nargs="+", type=int, default=[0, 3])
    parser.add_argument("--changes", nargs="+", default=["source"], choices=["source", "generated"])
    parser.add_argument("--output", type=Path, default=FIGURES)
    arguments = parser.parse_args()
    console = Console(width=130)
    for clip in arguments.clips:
        coded = code(clip, arguments.share, arguments.frames, arguments.crf, arguments.preset)
        table = Table(title=f"{coded.name}, {coded.rate_kbps:.1f} kbit/s: predicted against real change")
        for column in _COLUMNS:
            table.add_column(column, justify="left" if column in ("clip", "change") else "right")
        results = []
        for result in measure(coded, arguments.bands, arguments.changes):
            results.append(result)
            table.add_row(*map(str, result.row()))
            print(*result.row(), flush=True)
        console.print(table)
        rows = kept(arguments.output / "operator_fidelity.csv", results)
        save_figure(draw(rows), arguments.output / "operator_fidelity.png")
        save_csv(arguments.output / "operator_fidelity.csv", _COLUMNS, [list(r.values()) for r in rows])


if __name__ == "__main__":
    main()
