"""What a generated keyframe costs the pictures that are coded against it, and what it gains them.

    python benchmarks/studies/misalignment.py [CLIP ...] [--codec h265] [--seconds 4] [--kbps 200 120]

An encoder that predicts from a generated keyframe (closed loop) spends residual on detail that looks right
and is at the wrong place: the misalignment of perception and precision.  One GOP of each clip, from the
middle of its length on, at the first rate (clips of 900 lines and more) or the second, with keyframes of
equal size (as near as quarters of a CRF come):
  own          the codec's own keyframe, in an ordinary encode
  own, given   the same picture, given as the others are: what giving one costs by itself
  still        a coded AV1 still of as many bytes
  blind        that still, generated at strength 1 everywhere
  end to end   the same with strengths fitted on frames of the whole GOP, by real decodes, before anything is
               coded against it; with --alternations fitted again on what was
  source       the source's own picture, at the price of the still: the bound
Closed loop, the others are coded against that picture.  Open loop, they are coded against the still, and the
client puts the other picture in its place.  First all at the CRF of the ordinary encode, then all at its
total bytes: what a keyframe saves or costs is then spent on, or taken from, the other pictures.

Distances are of frames after the keyframe, two in each quarter of the GOP, which are not among those that
supervise; changes are against "own".  A codec has one table and one figure (docs/figures/misalignment_CODEC);
rows of other clips in the table are kept.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import Clip, data_folder, find_clips, percent
from figures import FIGURES, new_figure, save_csv, save_figure
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from hybridprompt.decode.still import still_header
from hybridprompt.encode.base import BaseEncoder, BaseGop, GivenKeyframe
from hybridprompt.encode.gate import GopGate, make_fitter
from hybridprompt.encode.given_keyframe import STILL_CRF_OFFSET
from hybridprompt.encode.judge import LpipsJudge
from hybridprompt.encode.rate_control import STEERED_CRF_RANGE, crf_at, relative_log_bytes
from hybridprompt.encode.settings import PRESETS, CodecName, EncodeSettings
from hybridprompt.encode.trials import Choice, Trials
from hybridprompt.encode.video_encoder import make_base_encoder
from hybridprompt.evaluate.compare import psnr_y
from hybridprompt.evaluate.sampling import sample_frames
from hybridprompt.generator.base import Generator, Planes, identity_of
from hybridprompt.generator.registry import load_shipped
from hybridprompt.prompt.gate import GateMap
from hybridprompt.prompt.sections import parse_sections
from hybridprompt.prompt.syntax import decode_prompt, encode_prompt
from hybridprompt.video.source import VideoSource

# The second half of Big Buck Bunny's clip has a cut, behind which no keyframe counts.
CLIPS = ("sam2_dog_720p", "sam2_cups_720p", "acrobatics_994p30", "sam2_default_juggle_720p")
SAME_CRF, SAME_BYTES = "same CRF", "same total bytes"

_FIRST_CRF = 60.0
_RATE_ENCODES = 6
_TOLERANCE = 0.006
_QUARTERS = 4
_FRAMES_PER_QUARTER = 2
_COLUMNS = (
    "clip", "kbps", "compared_at", "keyframe", "loop", "crf", "key_bytes", "inter_bytes", "inter_percent",
    "total_percent", "first_bytes", "inter_q1", "inter_q2", "inter_q3", "inter_q4", "key_lpips", "key_psnr",
    "lpips", "lpips_percent", "psnr", "psnr_change", "lpips_q1", "lpips_q2", "lpips_q3", "lpips_q4",
    "psnr_q1", "psnr_q2", "psnr_q3", "psnr_q4",
)  # fmt: skip
_PRINTED = (
    "keyframe", "loop", "key_bytes", "inter_bytes", "inter_percent", "total_percent", "first_bytes",
    "key_lpips", "key_psnr", "lpips", "lpips_percent", "psnr", "psnr_change",
)  # fmt: skip
_SUMMARY = (
    "inter_percent", "total_percent", "inter_q1", "inter_q2", "inter_q3", "inter_q4", "lpips_percent",
    "lpips_q1", "lpips_q2", "lpips_q3", "lpips_q4", "psnr_change", "psnr_q1", "psnr_q2", "psnr_q3", "psnr_q4",
)  # fmt: skip


class Handing:
    """A generator that hands out one picture, whatever it is asked for."""

    name = "handing"

    def __init__(self, planes: Planes) -> None:
        self._planes = planes
        self.identity = identity_of(b"".join(plane.tobytes() for plane in planes))

    def generate(
        self, planes: Planes, *, quantiser: int, strengths: NDArray[np.float32], block_size: int
    ) -> Planes:
        """See Generator.generate."""
        return self._planes


@dataclass(frozen=True)
class Keyframe:
    """What a client has for a keyframe: what the generator makes of the still.

    gate: None leaves the still as it is.  quantiser: what the generator is told.  is_own: the codec's own
    picture, so that it takes the bytes of that.
    """

    name: str
    generator: Generator
    gate: GateMap | None = None
    quantiser: int = 0
    is_own: bool = False

    @property
    def choices(self) -> dict[int, Choice]:
        return {} if self.gate is None else {0: Choice(self.quantiser, self.gate)}


@dataclass(frozen=True)
class Row:
    """One line of the table; quarters: by distance from the keyframe."""

    compared_at: str
    keyframe: str
    loop: str
    crf: float
    key_bytes: int
    inter_bytes: tuple[int, ...]
    first_bytes: int
    key_lpips: float
    key_psnr: float
    lpips: tuple[float, ...]
    psnr: tuple[float, ...]

    @property
    def inter(self) -> int:
        return sum(self.inter_bytes)

    @property
    def total(self) -> int:
        return self.key_bytes + self.inter

    def values(self, clip: str, kbps: float, own: Row) -> tuple[str, ...]:
        """As the columns of the table; own: what is compared with."""
        return (
            clip, f"{kbps:.1f}", self.compared_at, self.keyframe, self.loop, f"{self.crf:.2f}",
            str(self.key_bytes), str(self.inter), percent(self.inter, own.inter).removesuffix(" %"),
            percent(self.total, own.total).removesuffix(" %"), str(self.first_bytes),
            *map(str, self.inter_bytes), f"{self.key_lpips:.4f}", f"{self.key_psnr:.2f}",
            f"{fmean(self.lpips):.4f}", percent(fmean(self.lpips), fmean(own.lpips)).removesuffix(" %"),
            f"{fmean(self.psnr):.2f}", f"{fmean(self.psnr) - fmean(own.psnr):+.2f}",
            *(f"{value:.4f}" for value in self.lpips), *(f"{value:.2f}" for value in self.psnr),
        )  # fmt: skip


class Study:
    """One GOP of one clip, coded by one codec."""

    def __init__(self, clip: Clip, codec: CodecName, seconds: float, share: float, kbps: float) -> None:
        self.source = VideoSource(clip.path)
        start = share * float(self.source.duration_seconds or 0)
        count = round(seconds * float(self.source.average_rate))
        self.pictures = [picture.copied() for picture in islice(self.source.frames(start), count)]
        if len(self.pictures) < 16:
            raise SystemExit(f"{clip.path}: has {len(self.pictures)} pictures from {start:g} s on")
        self.codec: CodecName = codec
        self.size = self.pictures[0].width, self.pictures[0].height
        self.judge = LpipsJudge()
        self.generator = load_shipped(threads=2)
        self.wanted_bytes = kbps * 125 * len(self.pictures) / float(self.source.average_rate)
        fit = PRESETS["medium"].fit
        assert fit is not None
        self.fit = fit
        supervising = {
            frame + d for frame in sample_frames(len(self.pictures), fit.frames) for d in (-1, 0, 1)
        }
        self.frames = [
            [free[i] for i in sample_frames(len(free), _FRAMES_PER_QUARTER)]
            for quarter in range(_QUARTERS)
            if (free := [f for f in self._frames_of(quarter) if f not in supervising])
        ]
        self.measured = [0, *chain.from_iterable(self.frames)]
        self._encoders: dict[bytes | None, BaseEncoder] = {}
        self.references = {f: self.judge.prepare(self.pictures[f]) for f in self.measured}

    def _frames_of(self, quarter: int) -> range:
        count = len(self.pictures)
        return range(max(1, quarter * count // _QUARTERS), (quarter + 1) * count // _QUARTERS)

    def encoder(self, generator: Generator | None) -> BaseEncoder:
        """An encoder whose keyframes the generator makes, None for the codec's own."""
        key = None if generator is None else generator.identity
        if key not in self._encoders:
            settings = EncodeSettings(
                crf=40, preset="medium", codec=self.codec, mode="enhance" if generator is None else "replace"
            )
            self._encoders[key] = make_base_encoder(
                self.source, settings, lambda: self.judge, generator or self.generator
            )
        return self._encoders[key]

    def distances(self, planes: Planes, frame: int) -> tuple[float, float]:
        """LPIPS-Alex and PSNR-Y of a picture in a frame's place."""
        source, (y, u, v) = self.pictures[frame], planes
        picture = replace(source, y=y, u=u, v=v)
        # One block that holds the picture: its mean is the distance.
        lpips = self.judge.distance_map(picture, self.references[frame], 1 << 15).mean()
        return float(lpips), psnr_y(picture, source)

    def rows(self, alternations: int) -> Iterator[Row]:
        """Everything the table compares, the ordinary encode first."""
        plain = self.encoder(None)
        factor = PRESETS["medium"].key_lambda_factors[0]
        own = meet(lambda crf: plain.encode(self.pictures, crf, factor), _FIRST_CRF, self.wanted_bytes)
        shown = Trials(plain.gop(own), self.generator, self.judge)
        nothing = Keyframe("own", self.generator, is_own=True)
        yield self.row(SAME_CRF, nothing, "", own, own, shown)
        given = Keyframe("own, given", Handing(shown.planes({}, [0])[0]), self._everywhere, is_own=True)
        source = Keyframe("source", Handing(self.pictures[0].planes), self._everywhere)
        offset = self.still_offset(own)
        still_crf = own.crf + STILL_CRF_OFFSET + offset

        def encode(keyframe: Keyframe, crf: float) -> BaseGop:
            variant = GivenKeyframe(still_crf - STILL_CRF_OFFSET - crf, keyframe.gate)
            return self.encoder(keyframe.generator).encode(self.pictures, crf, variant)

        still = Keyframe("still", self.generator)
        base = encode(still, own.crf)
        assert base.still is not None
        blind = Keyframe("blind", self.generator, self._everywhere, still_header(base.still).base_q_idx)
        fitted = self.fitted(base)
        bases: dict[str, BaseGop] = {}
        keyframes = [given, still, blind, fitted, source]
        for keyframe in keyframes:
            bases[keyframe.name] = base if keyframe is still else encode(keyframe, own.crf)
            yield self.given_row(SAME_CRF, keyframe, "closed", bases[keyframe.name], own)
            if keyframe not in (given, still):
                yield self.given_row(SAME_CRF, keyframe, "open", base, own)
        for number in range(alternations):
            fitted = replace(self.fitted(bases[fitted.name]), name=f"end to end, again {number + 1}")
            bases[fitted.name] = encode(fitted, own.crf)
            keyframes.insert(-1, fitted)
            yield self.given_row(SAME_CRF, fitted, "closed", bases[fitted.name], own)
        yield self.row(SAME_BYTES, nothing, "", own, own, shown)
        for keyframe in keyframes:
            size_bytes = own.size_bytes - self.key_bytes(keyframe, base, own)
            met = meet(
                lambda crf, keyframe=keyframe: encode(keyframe, crf),
                own.crf,
                size_bytes,
                measured=inter_bytes,
                first=bases[keyframe.name],
            )
            base = met if keyframe is still else base
            yield self.given_row(SAME_BYTES, keyframe, "closed", met, own)
            if keyframe not in (given, still) and not keyframe.name.startswith("end to end, again"):
                yield self.given_row(SAME_BYTES, keyframe, "open", base, own)

    @property
    def _everywhere(self) -> GateMap:
        return GateMap.uniform(*self.size)

    def still_offset(self, own: BaseGop) -> float:
        """Offset of the CRF of a still that, with prompt and stub, takes what an encode's keyframe does."""
        encoder = self.encoder(self.generator)
        wanted = math.log(len(own.packets[0].data))
        sizes: dict[float, float] = {}

        def size(offset: float) -> float:
            if offset not in sizes:
                alone = encoder.encode(self.pictures[:1], own.crf, GivenKeyframe(offset))
                sizes[offset] = math.log(alone.size_bytes)
            return sizes[offset]

        low, high = -40.0, 28.0
        while high - low > 0.25:
            middle = round((low + high) * 2) / 4
            low, high = (middle, high) if size(middle) > wanted else (low, middle)
        return min(sizes, key=lambda offset: abs(size(offset) - wanted))

    def fitted(self, base: BaseGop) -> Keyframe:
        """The still of a GOP with strengths that serve the GOP best, as it is coded."""
        gop = self.encoder(self.generator).gop(base)
        started = time.perf_counter()
        decision = GopGate(
            gop, self.generator, self.judge, PRESETS["medium"], None, make_fitter(self.fit)
        ).decide()
        print(f"  fitted in {time.perf_counter() - started:.0f} s", flush=True)
        if not decision.anchors:
            return Keyframe("end to end", self.generator)
        content = parse_sections(decode_prompt(decision.anchors[0].prompt_bytes))
        return Keyframe("end to end", self.generator, content.gate, content.quantiser or 0)

    def given_row(self, compared_at: str, keyframe: Keyframe, loop: str, base: BaseGop, own: BaseGop) -> Row:
        """Measure a GOP that the client plays with this keyframe."""
        gop = self.encoder(keyframe.generator).gop(base)
        return self.row(compared_at, keyframe, loop, base, own, Trials(gop, keyframe.generator, self.judge))

    def key_bytes(self, keyframe: Keyframe, base: BaseGop, own: BaseGop) -> int:
        """What a keyframe takes, with its prompt and the stub."""
        packet = own.packets[0].data if keyframe.is_own else base.packets[0].data
        if keyframe.is_own or keyframe.gate is None:
            return len(packet)
        gop = self.encoder(keyframe.generator).gop(base)
        trials = Trials(gop, keyframe.generator, self.judge)
        return len(gop.carry(packet, encode_prompt(trials.prompt(0, keyframe.choices[0]))))

    def row(
        self, compared_at: str, keyframe: Keyframe, loop: str, base: BaseGop, own: BaseGop, trials: Trials
    ) -> Row:
        """Decode and measure."""
        shown = trials.planes(keyframe.choices, self.measured)
        found = {frame: self.distances(planes, frame) for frame, planes in shown.items()}
        number = {pts: n for n, pts in enumerate(sorted(packet.pts for packet in base.packets))}
        spent = [
            sum(len(p.data) for p in base.packets[1:] if number[p.pts] in self._frames_of(quarter))
            for quarter in range(_QUARTERS)
        ]
        lpips, psnr = (
            tuple(fmean(found[frame][metric] for frame in quarter) for quarter in self.frames)
            for metric in (0, 1)
        )
        return Row(
            compared_at, keyframe.name, loop, base.crf, self.key_bytes(keyframe, base, own), tuple(spent),
            len(base.packets[1].data), *found[0], lpips, psnr,
        )  # fmt: skip


def inter_bytes(base: BaseGop) -> int:
    """Of all packets but the keyframe's."""
    return sum(len(packet.data) for packet in base.packets[1:])


def meet(
    encode: Callable[[float], BaseGop],
    crf: float,
    size_bytes: float,
    *,
    measured: Callable[[BaseGop], int] = lambda base: base.size_bytes,
    first: BaseGop | None = None,
) -> BaseGop:
    """Of a few encodes, from a CRF on, the one that is nearest to a size; first: the one at that CRF."""
    tried: dict[float, BaseGop] = {}

    def error(base: BaseGop) -> float:
        return math.log(measured(base) / size_bytes)

    for _ in range(_RATE_ENCODES):
        tried[crf] = first if first is not None and crf == first.crf else encode(crf)
        miss = error(tried[crf])
        if abs(miss) < _TOLERANCE:
            break
        crf = min(max(crf_at(relative_log_bytes(crf) - miss), STEERED_CRF_RANGE[0]), STEERED_CRF_RANGE[1])
        if crf in tried:
            break
    return min(tried.values(), key=lambda base: abs(error(base)))


def kept(path: Path, rows: list[tuple[str, ...]]) -> list[dict[str, str]]:
    """Rows of the table: the new ones, after those of other clips that an earlier run has written."""
    new = [dict(zip(_COLUMNS, row, strict=True)) for row in rows]
    clips = {row["clip"] for row in new}
    old: list[dict[str, str]] = []
    if path.exists():
        with path.open(newline="") as file:
            old = [row for row in csv.DictReader(file) if row["clip"] not in clips]
    return old + new


def changes(rows: list[dict[str, str]], compared_at: str) -> dict[tuple[str, str], dict[str, list[float]]]:
    """By keyframe and loop, of every column that is summed up, the change against "own" in each clip.

    In percent, of PSNR in dB.
    """
    mine = [row for row in rows if row["compared_at"] == compared_at]
    own = {row["clip"]: row for row in mine if row["keyframe"] == "own"}
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in mine:
        columns = found.setdefault((row["keyframe"], row["loop"]), {name: [] for name in _SUMMARY})
        for name in _SUMMARY:
            value, reference = float(row[name]), float(own[row["clip"]][name])
            if name.startswith("psnr_q"):
                value -= reference
            elif "_q" in name:
                value = 100 * (value / reference - 1)
            columns[name].append(value)
    return found


def summary(rows: list[dict[str, str]], compared_at: str, codec: str) -> Table:
    """Means of the clips."""
    count = len({row["clip"] for row in rows})
    title = (
        f"{codec}, {compared_at}: change against the own keyframe, %, of PSNR in dB; mean of {count} clips"
    )
    table = Table("keyframe", "loop", title=title)
    for name in _SUMMARY:
        table.add_column(name.replace("_percent", "").replace("_change", ""), justify="right")
    for (keyframe, loop), columns in changes(rows, compared_at).items():
        digits = {name: 2 if name.startswith("psnr") else 1 for name in _SUMMARY}
        table.add_row(keyframe, loop, *(f"{fmean(columns[n]):+.{digits[n]}f}" for n in _SUMMARY))
    return table


def draw(rows: list[dict[str, str]], codec: str) -> Figure:
    """Bytes at the same CRF, distances at the same total bytes, and those by distance from the keyframe."""
    figure = new_figure(12.0, 4.2)
    bars, bytes_bars, lines = figure.subplots(1, 3)
    clips = list(dict.fromkeys(row["clip"] for row in rows))
    at_crf, at_bytes = changes(rows, SAME_CRF), changes(rows, SAME_BYTES)
    closed = {key: found for key, found in at_crf.items() if key[1] == "closed"}
    # The source gains ten times as much as all else.
    compared = {key: found for key, found in at_bytes.items() if key[1] and key[0] != "source"}
    draw_bars(bars, closed, "inter_percent", clips)
    bars.set_title(f"{codec}: bytes of the other pictures, closed loop,\nsame CRF, change in %", fontsize=9)
    draw_bars(bytes_bars, compared, "lpips_percent", clips)
    bytes_bars.set_title("LPIPS-Alex at the same total bytes,\nchange in %", fontsize=9)
    bytes_bars.legend(fontsize=6)
    colours = {name: f"C{n}" for n, name in enumerate(dict.fromkeys(key[0] for key in compared))}
    for (name, loop), found in compared.items():
        means = [fmean(found[f"lpips_q{quarter + 1}"]) for quarter in range(_QUARTERS)]
        style = "-" if loop == "closed" else "--"
        quarters = [1 + quarter for quarter in range(_QUARTERS)]
        lines.plot(
            quarters, means, style, color=colours[name], marker="o", markersize=3, label=f"{name}, {loop}"
        )
    lines.axhline(0, color="black", linewidth=0.8)
    lines.set_xticks([1, 2, 3, 4])
    lines.set_xlabel("quarter of the GOP")
    lines.set_title("LPIPS-Alex by distance from the keyframe,\nsame total bytes, change in %", fontsize=9)
    lines.legend(fontsize=6)
    for axes in (bars, bytes_bars, lines):
        axes.grid(alpha=0.3)
    return figure


def draw_bars(
    axes: Axes, found: Mapping[tuple[str, str], Mapping[str, list[float]]], column: str, clips: list[str]
) -> None:
    """A bar for each mean, and a dot for each clip."""
    labels = [f"{keyframe},\n{loop}" for keyframe, loop in found]
    values = [columns[column] for columns in found.values()]
    places = range(len(labels))
    axes.barh(places, [fmean(each) for each in values], color="0.8")
    for n, clip in enumerate(clips):
        axes.plot([each[n] for each in values], places, "o", markersize=4, label=clip)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(places, labels, fontsize=7)
    axes.invert_yaxis()


def run(clip: Clip, codec: CodecName, arguments: argparse.Namespace, console: Console) -> None:
    """Measure one clip; print its tables, and bring the codec's table and figure up to date."""
    kbps = arguments.kbps[0] if clip.height >= 900 else arguments.kbps[-1]
    study = Study(clip, codec, arguments.seconds, arguments.share, kbps)
    own: Row | None = None
    rows = []
    seconds = len(study.pictures) / float(study.source.average_rate)
    for row in study.rows(arguments.alternations):
        own = own or row
        rows.append(row.values(clip.name, own.total / 125 / seconds, own))
        print(*rows[-1], flush=True)
    for compared_at in (SAME_CRF, SAME_BYTES):
        table = Table(title=f"{clip.name}, {codec}, {rows[0][1]} kbit/s, {compared_at}")
        for column in _PRINTED:
            justify = "left" if column in ("keyframe", "loop") else "right"
            table.add_column(column, justify=justify)  # type: ignore[arg-type]
        for values in rows:
            by_name = dict(zip(_COLUMNS, values, strict=True))
            if by_name["compared_at"] == compared_at:
                table.add_row(*(by_name[column] for column in _PRINTED))
        console.print(table)
    path = arguments.output / f"misalignment_{codec}.csv"
    all_rows = kept(path, rows)
    save_csv(path, _COLUMNS, [[row[column] for column in _COLUMNS] for row in all_rows])
    save_figure(draw(all_rows, codec), path.with_suffix(".png"))
    for compared_at in (SAME_CRF, SAME_BYTES):
        console.print(summary(all_rows, compared_at, codec))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", nargs="*", type=Path, help=f"by default {', '.join(CLIPS)}")
    parser.add_argument("--codec", default="h265", choices=("h265", "h264", "av1"))
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--share", type=float, default=0.5, help="where in the clip the GOP begins")
    parser.add_argument("--kbps", type=float, nargs=2, default=[200.0, 120.0])
    parser.add_argument("--alternations", type=int, default=0, help="of fitting and coding, closed loop")
    parser.add_argument("--output", type=Path, default=FIGURES)
    arguments = parser.parse_args()
    paths = arguments.clips or [data_folder() / "clips" / f"{name}.mp4" for name in CLIPS]
    console = Console(width=190)
    for clip in find_clips(paths):
        run(clip, arguments.codec, arguments, console)


if __name__ == "__main__":
    main()
