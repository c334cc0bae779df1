"""How well the probed decode operator predicts what a real decoder does with another anchor.

    python benchmarks/studies/operator_fidelity.py CLIP ... [--codec av1 hevc h264] [--share 0.5] [--bands 3]
                                                   [--changes source generated] [--time-all]

Codes one GOP of each clip with SVT-AV1, x265 and x264, from --share of its length on, and probes its anchors:
the keyframe and, but for H.264, a later picture that its mini-GOP predicts from (AV1's is hidden, HEVC's is
decoded ahead).  Replaces each by the source picture ("source") and by what the shipped generator makes of the
base picture at full strength ("generated"; the quantiser it is told is AV1's, or that of AV1 of as many
bytes); and compares the real change of the frames after it with the predicted one.  Explained is
1 - |predicted - real|^2 / |real|^2.  Halved is what twice the real change explains where the anchor changes
by half: below 1, decoding is not linear, whatever the operator.

Distances count from the packet that codes the anchor; a later one is shown some frames on.  Probing time is
that for the frames of one anchor that are compared, in wall time and in CPU time of the process; --time-all
also probes every frame of the GOP from its keyframe, and prints the time of that.  Each codec has a table and
a figure; rows of other GOPs in the table (another clip, length or parameters) are kept.
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
from tempfile import TemporaryDirectory
from typing import Literal, get_args

import av
import numpy as np
from figures import FIGURES, new_figure, save_csv, save_figure
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from hybridprompt.bitstream.nal import NalCodec
from hybridprompt.encode.gop import Gop, find_candidates
from hybridprompt.encode.nal_base import svt_crf, told_quantiser
from hybridprompt.encode.operator.decoders import AnchorDecoder, Av1AnchorDecoder, Injection
from hybridprompt.encode.operator.fidelity import Fidelity, agreement, measure_fidelity
from hybridprompt.encode.operator.nal_decoders import NalAnchorDecoder
from hybridprompt.encode.operator.probe import ProbeSettings, probe
from hybridprompt.generator.base import Planes
from hybridprompt.generator.registry import load_shipped
from hybridprompt.prompt.gate import GateMap
from hybridprompt.video.av1_encoder import Av1Settings, CodedPacket, encode_gop
from hybridprompt.video.peer_encoder import PeerCodec, PeerSettings, encode_peer_file
from hybridprompt.video.picture import Picture
from hybridprompt.video.source import VideoSource

Codec = Literal["av1", "hevc", "h264"]
ENCODERS: dict[Codec, PeerCodec] = {"av1": "svt-av1", "hevc": "x265", "h264": "x264"}
# They cost about the same rate.
CRFS: dict[Codec, float] = {"av1": 63, "hevc": 41, "h264": 41}
PRESETS: dict[Codec, str] = {"av1": "8", "hevc": "medium", "h264": "medium"}
DISTANCES = (1, 4, 9, 20, 33, 60, 90, 110)
LATER = 32
"""Frame from which on a later anchor is looked for."""

_GOP_COLUMNS = ("clip", "frames", "params")
_FIDELITY_COLUMNS = (
    "kbps", "anchor", "change", "bands", "distance", "corr_y", "explained_y", "halved_y", "real_rms_y",
    "corr_uv", "explained_uv", "probe_wall_s", "probe_cpu_s",
)  # fmt: skip
_COLUMNS = _GOP_COLUMNS + _FIDELITY_COLUMNS


@dataclass(frozen=True)
class Coding:
    """How a GOP is coded.  params: of the encoder's own library."""

    codec: Codec
    crf: float
    preset: str
    params: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Anchor:
    """The packet that codes it, the frame that shows it, and what the generator is told of its quantiser."""

    packet: int
    frame: int
    quantiser: int


@dataclass(frozen=True)
class Coded:
    """One GOP.  rate_kbps: what it came to; sources: of the anchors, by frame."""

    name: str
    coding: Coding
    size: tuple[int, int]
    rate_kbps: float
    decoder: AnchorDecoder
    anchors: list[Anchor]
    sources: dict[int, Picture]


@dataclass(frozen=True)
class Result:
    """One frame of one anchor; the times are for all frames of it.  halved: of luma."""

    coded: Coded
    anchor: Anchor
    change: str
    bands: int
    halved: float
    wall_seconds: float
    cpu_seconds: float
    fidelity: Fidelity

    def row(self) -> tuple[str, ...]:
        luma, chroma = self.fidelity.luma, self.fidelity.chroma
        params = ":".join(map("=".join, self.coded.coding.params))
        return (
            self.coded.name, str(self.coded.decoder.frame_count), params, f"{self.coded.rate_kbps:.0f}",
            str(self.anchor.frame), self.change, str(self.bands), str(self.fidelity.distance),
            f"{luma.correlation:.3f}", f"{luma.explained:.3f}", f"{self.halved:.3f}",
            f"{luma.real_rms:.2f}", f"{chroma.correlation:.3f}", f"{chroma.explained:.3f}",
            f"{self.wall_seconds:.1f}", f"{self.cpu_seconds:.1f}",
        )  # fmt: skip


def code(path: Path, share: float, frames: int, coding: Coding) -> Coded:
    """Code a GOP of a clip."""
    source = VideoSource(path)
    start = share * (source.duration_seconds or 0)
    pictures = [p.copied() for p in itertools.islice(source.frames(start_seconds=start), frames)]
    size = source.width, source.height
    decoder: AnchorDecoder
    if coding.codec == "av1":
        packets = code_av1(pictures, source, coding)
        decoder = Av1AnchorDecoder(packets=packets, size=size, time_base=source.time_base)
        gop = Gop(packets, None, source.time_base, pictures.__getitem__)
        anchors = [Anchor(c.packet, c.frame, c.base_q_idx) for c in find_candidates(gop, LATER)[:2]]
    else:
        packets, time_base, extradata = code_nal(pictures, source, coding)
        kind = NalCodec.H265 if coding.codec == "hevc" else NalCodec.H264
        told = told_quantiser(svt_crf(coding.crf, kind))
        decoder = NalAnchorDecoder(
            codec=kind, packets=packets, size=size, time_base=time_base, extradata=extradata
        )
        anchors = [Anchor(0, 0, told), *(later_anchors(packets, told)[:1] if coding.codec == "hevc" else [])]
    seconds = len(pictures) / source.average_rate
    rate = float(Fraction(8 * sum(len(p.data) for p in packets), 1000) / seconds)
    sources = {a.frame: pictures[a.frame] for a in anchors}
    return Coded(path.stem, coding, size, rate, decoder, anchors, sources)


def code_av1(pictures: list[Picture], source: VideoSource, coding: Coding) -> list[CodedPacket]:
    settings = Av1Settings(
        width=source.width, height=source.height, frame_rate=source.average_rate,
        time_base=source.time_base, crf=coding.crf, preset=int(coding.preset), threads=2, color=source.color,
        extra=coding.params,
    )  # fmt: skip
    return encode_gop(pictures, settings)


def code_nal(
    pictures: list[Picture], source: VideoSource, coding: Coding
) -> tuple[list[CodedPacket], Fraction, bytes | None]:
    """Code with x264 or x265: packets in decoding order, their time base, and the codec configuration."""
    settings = PeerSettings(
        codec=ENCODERS[coding.codec], width=source.width, height=source.height,
        frame_rate=source.average_rate, crf=coding.crf, preset=coding.preset, gop_length=len(pictures),
        color=source.color, extra=coding.params,
    )  # fmt: skip
    with TemporaryDirectory() as folder:
        path = Path(folder) / "gop.mp4"
        encode_peer_file(pictures, settings, path)
        with av.open(str(path)) as container:
            track = container.streams.video[0]
            assert track.time_base is not None
            packets = [
                CodedPacket(bytes(p), p.pts or 0, p.dts or 0, p.duration or 1, p.is_keyframe)
                for p in container.demux(track)
                if p.size
            ]
            return packets, track.time_base, track.codec_context.extradata


def later_anchors(packets: list[CodedPacket], quantiser: int) -> list[Anchor]:
    """Pictures that are coded first of a mini-GOP: those before them in decoding order are shown before."""
    times = sorted(packet.pts for packet in packets)
    frames = [times.index(packet.pts) for packet in packets]
    return [
        Anchor(index, frame, quantiser)
        for index, frame in enumerate(frames)
        if frame >= LATER and max(frames[:index]) < index < frame
    ]


def changes(coded: Coded, anchor: Anchor, names: list[str]) -> Iterator[tuple[str, Injection]]:
    """The real changes of an anchor."""
    if "source" in names:
        yield "source", lambda base: coded.sources[anchor.frame].planes
    if "generated" in names:
        generator = load_shipped(threads=2)
        gate = GateMap.uniform(*coded.size)
        yield (
            "generated",
            lambda base: generator.generate(
                base, quantiser=anchor.quantiser, strengths=gate.strengths(), block_size=gate.block_size
            ),
        )


def halved(decoder: AnchorDecoder, packet: int, frames: list[int], injection: Injection) -> dict[int, float]:
    """How much of each frame's luma change is explained by twice that for half the change of the anchor."""

    def half(base: Planes) -> Planes:
        y, u, v = (
            np.rint((plane.astype(np.float32) + made) / 2).astype(np.uint8)
            for plane, made in zip(base, injection(base), strict=True)
        )
        return y, u, v

    decodes = [decoder.decode(packet, frames, one) for one in (None, half, injection)]
    out = {}
    for (frame, plain), (_, less), (_, more) in zip(*decodes, strict=True):
        y, y_less, y_more = (planes[0].astype(np.float32) for planes in (plain, less, more))
        out[frame] = agreement(2 * (y_less - y), y_more - y).explained
    return out


def measure(coded: Coded, bands: list[int], names: list[str]) -> Iterator[Result]:
    """Probe each anchor, and compare; distances count from the packet that codes it."""
    for anchor in coded.anchors:
        frames = [anchor.packet + d for d in DISTANCES if anchor.packet + d < coded.decoder.frame_count]
        by_name = {
            name: (injection, halved(coded.decoder, anchor.packet, frames, injection))
            for name, injection in changes(coded, anchor, names)
        }
        for count in bands:
            wall, cpu = time.perf_counter(), time.process_time()
            maps = list(probe(coded.decoder, anchor.packet, frames, ProbeSettings(bands=count)))
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            for name, (injection, halves) in by_name.items():
                for one in measure_fidelity(coded.decoder, anchor.packet, maps, injection):
                    yield Result(coded, anchor, name, count, halves[one.frame], wall, cpu, one)


def kept(path: Path, results: list[Result]) -> list[dict[str, str]]:
    """Rows of the table: the new ones, after those of other GOPs that an earlier run has written."""
    new = [dict(zip(_COLUMNS, result.row(), strict=True)) for result in results]
    gops = {tuple(row[column] for column in _GOP_COLUMNS) for row in new}
    rows: list[dict[str, str]] = []
    if path.exists():
        with path.open(newline="") as file:
            rows = [
                row
                for row in csv.DictReader(file)
                if tuple(row[column] for column in _GOP_COLUMNS) not in gops
            ]
    return rows + new


def draw(rows: list[dict[str, str]], codec: Codec) -> Figure:
    """Correlation and explained energy of luma over the distance."""
    figure = new_figure(13.0, 4.2)
    axes = figure.subplots(1, 2)
    curves: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        if row["change"] != "source" and not int(row["bands"]):
            continue
        key = tuple(row[column] for column in (*_GOP_COLUMNS, "anchor", "change", "bands"))
        curves.setdefault(key, []).append(row)
    colours = {key: f"C{i % 10}" for i, key in enumerate(dict.fromkeys(key[:-2] for key in curves))}
    for (clip, frames, params, anchor, change, bands), mine in curves.items():
        x = [int(row["distance"]) for row in mine]
        label = f"{clip}, {frames} frames, {params + ', ' if params else ''}anchor {anchor}, {bands} bands"
        if change != "source":
            label += f", {change}"
        for axis, column in zip(axes, ("corr_y", "explained_y"), strict=True):
            axis.plot(
                x,
                [float(row[column]) for row in mine],
                color=colours[clip, frames, params, anchor],
                linestyle=":" if change != "source" else "-" if int(bands) else "--",
                marker="o",
                markersize=3,
                label=label,
            )
    for axis, label in zip(axes, ("correlation", "explained energy"), strict=True):
        axis.set_xlabel("frames from the anchor's packet")
        axis.set_title(f"{codec}: {label} of the luma change", fontsize=9)
        axis.grid(alpha=0.3)
        axis.set_ylim(-0.5, 1.02)
    figure.legend(*axes[1].get_legend_handles_labels(), fontsize=7, loc="outside right upper")
    return figure


def run(coded: Coded, bands: list[int], names: list[str], output: Path, console: Console) -> None:
    """Measure one GOP; print its table, and bring the codec's table and figure up to date."""
    codec, gop = coded.coding.codec, coded.decoder.frame_count
    table = Table(title=f"{coded.name}, {codec}, {gop} frames, {coded.rate_kbps:.1f} kbit/s")
    for column in _FIDELITY_COLUMNS:
        table.add_column(column, justify="left" if column == "change" else "right")
    results = []
    for result in measure(coded, bands, names):
        results.append(result)
        row = result.row()[len(_GOP_COLUMNS) :]
        table.add_row(*row)
        print(coded.name, codec, *row, flush=True)
    console.print(table)
    path = output / f"operator_fidelity_{codec}.csv"
    rows = kept(path, results)
    save_figure(draw(rows, codec), path.with_suffix(".png"))
    save_csv(path, _COLUMNS, [[row.get(column, "") for column in _COLUMNS] for row in rows])


def time_all(coded: Coded, bands: list[int], console: Console) -> None:
    """Print what it takes to probe every frame of the GOP from its keyframe."""
    frames = range(coded.decoder.frame_count)
    for count in bands:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in probe(coded.decoder, 0, frames, ProbeSettings(bands=count)):
            pass
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        console.print(
            f"{coded.name}, {coded.coding.codec}: {len(frames)} frames, {count} bands: probed in {wall:.1f} s"
            f" ({cpu:.1f} s of CPU time)"
        )


def parameter(text: str) -> tuple[str, str]:
    """A name and a value from "name=value"."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r}, expected name=value")
    return name, value


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    codecs: tuple[Codec, ...] = get_args(Codec)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--codec", nargs="+", choices=codecs, default=codecs, help="all three by default")
    parser.add_argument("--share", type=float, default=0.5, help="where in the clip the GOP begins")
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--crf", type=float, help=f"by default {CRFS}")
    parser.add_argument("--preset", help=f"of the encoder, by default {PRESETS}")
    parser.add_argument("--params", nargs="+", type=parameter, default=[], help="more of it: name=value")
    parser.add_argument("--bands", nargs="+", type=int, default=[0, 3])
    parser.add_argument("--changes", nargs="+", default=["source"], choices=["source", "generated"])
    parser.add_argument("--time-all", action="store_true", help="time probing of every frame, too")
    parser.add_argument("--output", type=Path, default=FIGURES)
    arguments = parser.parse_args()
    if len(arguments.codec) > 1 and (arguments.crf or arguments.preset or arguments.params):
        parser.error("--crf, --preset and --params are for one codec")
    console = Console(width=140)
    for clip, codec in itertools.product(arguments.clips, arguments.codec):
        crf = CRFS[codec] if arguments.crf is None else arguments.crf
        coding = Coding(codec, crf, arguments.preset or PRESETS[codec], tuple(arguments.params))
        coded = code(clip, arguments.share, arguments.frames, coding)
        run(coded, arguments.bands, arguments.changes, arguments.output, console)
        if arguments.time_all:
            time_all(coded, arguments.bands, console)


if __name__ == "__main__":
    main()
