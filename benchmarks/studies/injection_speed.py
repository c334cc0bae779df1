"""What replacing keyframes costs a client, for AV1, H.265 and H.264 side by side.

    python benchmarks/studies/injection_speed.py [CLIP] [--frames 192] [--rate 200] [--repeats 5]

Codes the clip's beginning with SVT-AV1, x265 and x264 at the same average bitrate, closed GOPs of 48, and
decodes it with two GOPs in parallel, one decoder and one thread each: plainly, and with every keyframe
replaced by a picture that is ready.  No generator runs, so this is the cost of the injection alone.  Codecs
and methods take turns.  Printed are pictures per second, plain -> injected, of wall-clock time and of
processor time, which other programs disturb less (medians), and the ratios of the latter, round by round.

"exact": keyframes replaced by themselves must change no sample of any picture (H.264: hidden samples
included), and replaced by others must be shown as these.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Literal

import av
import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import OUT, data_folder

from hybridprompt.bitstream.codec_config import length_size_of, parameter_sets
from hybridprompt.bitstream.h264_pcm import replace_idr
from hybridprompt.bitstream.nal import NalCodec
from hybridprompt.decode.nal_injection import H264InjectingDecoder, HevcInjectingDecoder
from hybridprompt.evaluate.compare import psnr_y
from hybridprompt.generator.base import Planes
from hybridprompt.video.av1_decoder import Av1Decoder
from hybridprompt.video.h264_decoder import H264Decoder
from hybridprompt.video.hevc_decoder import HevcDecoder
from hybridprompt.video.packet_decoder import DecodedFrame
from hybridprompt.video.peer_encoder import PeerCodec, PeerSettings, encode_peer_file
from hybridprompt.video.picture import Picture
from hybridprompt.video.source import VideoSource

GOP = 48
Name = Literal["AV1", "H.265", "H.264"]
PEERS: dict[Name, PeerCodec] = {"AV1": "svt-av1", "H.265": "x265", "H.264": "x264"}
PRESETS = {"AV1": "8", "H.265": "fast", "H.264": "medium"}
Packets = list[tuple[bytes, int]]
Consume = Callable[[DecodedFrame], None]


@dataclass(frozen=True)
class Stream:
    """A coded clip: packets of each GOP in decoding order, with their pts in units of time_base."""

    name: Name
    extradata: bytes | None
    time_base: Fraction
    gops: list[Packets]

    @property
    def size_bytes(self) -> int:
        return sum(len(data) for gop in self.gops for data, _ in gop)

    @property
    def pictures(self) -> int:
        return sum(map(len, self.gops))


def coded(clip: Path, name: Name, frames: int, rate_kbps: float) -> Stream:
    """Encode, or take the files of an earlier run.

    x264 and x265 meet a bitrate well enough.  SVT-AV1 does not on so few pictures: of its CRFs, the finest
    one that stays below is searched, or one that comes within a quarter.
    """
    if name != "AV1":
        return _coded(clip, name, frames, 35, (("bitrate", f"{rate_kbps:g}"),))
    frame_rate = VideoSource(clip).average_rate
    fine, coarse = 50, 70
    best = _coded(clip, name, frames, coarse, ())
    while coarse - fine > 1 and rate_kbps_of(best, frame_rate) < 0.75 * rate_kbps:
        middle = (fine + coarse) // 2
        stream = _coded(clip, name, frames, middle, ())
        if rate_kbps_of(stream, frame_rate) > rate_kbps:
            fine = middle
        else:
            coarse, best = middle, stream
    return best


def rate_kbps_of(stream: Stream, frame_rate: Fraction) -> float:
    return 8 * stream.size_bytes * float(frame_rate) / stream.pictures / 1000


def _coded(clip: Path, name: Name, frames: int, crf: float, extra: tuple[tuple[str, str], ...]) -> Stream:
    source = VideoSource(clip)
    width, height = source.width // 2 * 2, source.height // 2 * 2
    label = "-".join((clip.stem, name, str(frames), f"{crf:g}", *(value for _, value in extra)))
    path = OUT / f"injection-{label}.mp4"
    if not path.exists():
        OUT.mkdir(parents=True, exist_ok=True)
        settings = PeerSettings(
            codec=PEERS[name],
            width=width,
            height=height,
            frame_rate=source.average_rate,
            crf=crf,
            preset=PRESETS[name],
            gop_length=GOP,
            color=source.color,
            extra=extra,
        )
        encode_peer_file(islice(source.frames(), frames), settings, path)
    gops: list[Packets] = []
    with av.open(str(path)) as container:
        track = container.streams.video[0]
        for packet in container.demux(track):
            if packet.size:
                if packet.is_keyframe:
                    gops.append([])
                gops[-1].append((bytes(packet), packet.pts or 0))
        assert track.time_base is not None
        return Stream(name, track.codec_context.extradata, track.time_base, gops)


def plain_frames(stream: Stream, gop: Packets, *, cropped: bool = True) -> Iterator[DecodedFrame]:
    """What an ordinary player does."""
    decoder: Av1Decoder | HevcDecoder | H264Decoder
    if stream.name == "AV1":
        decoder = Av1Decoder(stream.extradata, time_base=stream.time_base)
    else:
        kind = HevcDecoder if stream.name == "H.265" else H264Decoder
        decoder = kind(stream.extradata, time_base=stream.time_base, cropped=cropped)
    for data, pts in gop:
        yield from decoder.decode(data, pts)
    yield from decoder.flush()


def injected_frames(stream: Stream, gop: Packets, keyframe: Planes) -> Iterator[DecodedFrame]:
    """The same with another keyframe."""
    if stream.name == "AV1":
        with Av1Decoder(stream.extradata, time_base=stream.time_base) as av1:
            for index, (data, pts) in enumerate(gop):
                frames = av1.decode(data, pts)
                if index == 0:
                    frames[0].overwrite(*keyframe)
                yield from frames
        return
    kind = HevcInjectingDecoder if stream.name == "H.265" else H264InjectingDecoder
    with kind(stream.extradata, time_base=stream.time_base) as decoder:
        for index, (data, pts) in enumerate(gop):
            yield from decoder.decode(data, pts, (lambda base: keyframe) if index == 0 else None)
        yield from decoder.flush()


def speed(stream: Stream, frames: Callable[[Packets], Iterator[DecodedFrame]]) -> tuple[float, float]:
    """Pictures per second of wall-clock time, two GOPs at a time, and of the processor's."""

    def consume(gop: Packets) -> int:
        return sum(1 for frame in frames(gop) if frame.picture.planes)

    start, start_cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(2) as pool:
        count = sum(pool.map(consume, stream.gops))
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    if count != stream.pictures:
        raise SystemExit(f"{stream.name}: {count} pictures from {stream.pictures} packets")
    return count / seconds, count / cpu_seconds


def collect(frames: Iterator[DecodedFrame]) -> dict[int | None, Picture]:
    return {frame.pts: frame.picture.copied() for frame in frames}


def exactness(stream: Stream, other: Planes) -> tuple[str, str]:
    """Check the first GOP; return what came out, and H.264's price of unknown hidden samples."""
    gop = stream.gops[0]
    plain = collect(plain_frames(stream, gop))
    first = gop[0][1]
    own = plain[first].planes
    remark = ""
    if stream.name == "H.264":
        visible = collect(injected_frames(stream, gop, own))
        own = next(plain_frames(stream, gop, cropped=False)).picture.copied().planes
        low = min(psnr_y(visible[pts], plain[pts]) for pts in plain)
        remark = f"H.264, hidden rows of the keyframe repeated instead of decoded: worst picture {low:.1f} dB"
    again = collect(injected_frames(stream, gop, own))
    shown = collect(injected_frames(stream, gop, other))
    differing = sum(not same(again[pts].planes, plain[pts].planes) for pts in plain)
    right = "shown" if same(shown[first].planes, other) else "NOT SHOWN"
    return f"{len(plain) - differing} of {len(plain)}, other {right}", remark


def same(a: Planes, b: Planes) -> bool:
    return all(np.array_equal(p, q) for p, q in zip(a, b, strict=True))


def step_ms(stream: Stream, other: Planes, repeats: int) -> float:
    """Fewest milliseconds of the injection step itself: the splice, or the overwriting."""
    data, pts = stream.gops[0][0]
    times = []
    if stream.name == "H.264":
        sets = parameter_sets(stream.extradata, codec=NalCodec.H264)
        length_size = length_size_of(stream.extradata, codec=NalCodec.H264)
        for _ in range(repeats):
            start = time.perf_counter()
            replace_idr(data, other, parameter_sets=sets, length_size=length_size)
            times.append(time.perf_counter() - start)
    else:
        frame = next(plain_frames(stream, [(data, pts)]))
        for _ in range(repeats):
            start = time.perf_counter()
            frame.overwrite(*other)
            times.append(time.perf_counter() - start)
    return 1000 * min(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clip", nargs="?", type=Path, default=data_folder() / "clips" / "bbb_1080p24.mp4")
    parser.add_argument("--frames", type=int, default=192)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.frames < 2 * GOP or arguments.repeats < 1 or arguments.rate <= 0:
        parser.error(f"frames are at least {2 * GOP}, repeats at least 1, the rate is above 0")
    streams = [coded(arguments.clip, name, arguments.frames, arguments.rate) for name in PEERS]
    # A picture of other content than any keyframe: the first one, upside down.
    base = next(iter(VideoSource(arguments.clip).frames()))
    flipped = replace(base, y=base.y[::-1], u=base.u[::-1], v=base.v[::-1]).copied().planes
    plain: dict[str, list[tuple[float, float]]] = {stream.name: [] for stream in streams}
    injected: dict[str, list[tuple[float, float]]] = {stream.name: [] for stream in streams}
    for _ in range(arguments.repeats):
        for stream in streams:
            plain[stream.name].append(speed(stream, lambda gop, s=stream: plain_frames(s, gop)))
            injected[stream.name].append(
                speed(stream, lambda gop, s=stream: injected_frames(s, gop, flipped))
            )
    table = Table(title=f"{arguments.clip.name}, {arguments.frames} pictures, medians of {arguments.repeats}")
    for column in ("codec", "kbit/s", "wall clock", "processor", "ratios", "step, ms", "exact, first GOP"):
        table.add_column(column, justify="left" if column == "codec" else "right")
    remarks = []
    frame_rate = VideoSource(arguments.clip).average_rate
    for stream in streams:
        exact, remark = exactness(stream, flipped)
        remarks.append(remark)
        runs, runs_injected = plain[stream.name], injected[stream.name]
        wall, cpu = (statistics.median(values) for values in zip(*runs, strict=True))
        wall_injected, cpu_injected = (statistics.median(v) for v in zip(*runs_injected, strict=True))
        ratios = sorted(i[1] / p[1] for i, p in zip(runs_injected, runs, strict=True))
        table.add_row(
            stream.name,
            f"{rate_kbps_of(stream, frame_rate):.0f}",
            f"{wall:.0f} -> {wall_injected:.0f}",
            f"{cpu:.1f} -> {cpu_injected:.1f}",
            " ".join(f"{ratio:.2f}" for ratio in ratios),
            f"{step_ms(stream, flipped, 20):.1f}",
            exact,
        )
    console = Console(width=120)
    console.print(table)
    for remark in filter(None, remarks):
        console.print(remark)


if __name__ == "__main__":
    main()
