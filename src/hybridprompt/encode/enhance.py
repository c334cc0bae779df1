"""Adds prompts to an AV1 file that already exists, without encoding it again."""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from hybridprompt.encode.gate import (
    BLOCK_LOG2,
    AnchorDecision,
    Gop,
    GopDecision,
    GopGate,
    actual_quantisers,
)
from hybridprompt.encode.judge import make_judge
from hybridprompt.encode.pipeline import load_generator
from hybridprompt.encode.progress import Distances, EncodeSummary, ProgressCallback, ProgressMeter
from hybridprompt.encode.settings import PRESETS, PresetName
from hybridprompt.errors import ConfigError, MediaError
from hybridprompt.generator.base import Generator
from hybridprompt.prompt.carriage import attach, detach
from hybridprompt.prompt.sections import GateMap, build_prompt
from hybridprompt.prompt.syntax import encode_prompt
from hybridprompt.video.av1_decoder import Av1Decoder
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.packet_reader import PacketReader
from hybridprompt.video.picture import Picture
from hybridprompt.video.remux import copy_with
from hybridprompt.video.source import VideoSource

logger = logging.getLogger(__name__)

BLIND_QUANTISERS = range(100, 226)
"""Without a source to compare with, keyframes of these base_q_idx are generated: where the generator was trained."""


class _AlignedSource:
    """Pictures of the reference by the time they are shown at, read once, front to back."""

    def __init__(self, source: VideoSource, tolerance_seconds: float) -> None:
        self._pictures = source.frames()
        self._tolerance = tolerance_seconds
        self._origin = float(source.start_pts * source.time_base)
        self._held: deque[tuple[float, Picture]] = deque()
        self._path = source.path

    def take(self, times: Sequence[float]) -> list[Picture]:
        """The pictures nearest to ``times`` (seconds from the start, increasing).  Raises MediaError."""
        while (not self._held or self._held[-1][0] < times[-1] + self._tolerance) and (
            picture := next(self._pictures, None)
        ) is not None:
            self._held.append(((picture.pts_seconds or 0.0) - self._origin, picture))
        while self._held and self._held[0][0] < times[0] - self._tolerance:
            self._held.popleft()
        stamps = [stamp for stamp, _ in self._held]
        out = []
        for wanted in times:
            at = bisect_left(stamps, wanted)
            near = [i for i in (at - 1, at) if 0 <= i < len(stamps)]
            best = min(near, key=lambda i: abs(stamps[i] - wanted), default=None)
            if best is None or abs(stamps[best] - wanted) > self._tolerance:
                raise MediaError(f"{self._path}: has no picture at {wanted:.3f} s, where the video shows one")
            out.append(self._held[best][1])
        return out


def _blind_decision(gop: Gop, generator: Generator) -> tuple[AnchorDecision, ...]:
    quantiser = actual_quantisers(gop).get(0)
    if quantiser is None or quantiser not in BLIND_QUANTISERS:
        return ()
    with Av1Decoder(gop.extradata, time_base=gop.time_base) as decoder:
        frames = decoder.decode(gop.packets[0].data, gop.packets[0].pts)
        if len(frames) != 1 or not frames[0].can_overwrite or frames[0].has_film_grain:
            return ()
        width, height = frames[0].picture.width, frames[0].picture.height
    gate = GateMap.uniform(width, height, block_log2=BLOCK_LOG2)
    prompt = build_prompt(generator.identity, width, height, quantiser, gate)
    return (AnchorDecision(0, encode_prompt(prompt), 1.0, quantiser),)


def _can_carry(gop: Gop) -> bool:
    """Whether the stream's pictures can be replaced at all: 8-bit 4:2:0 without film grain."""
    with Av1Decoder(gop.extradata, time_base=gop.time_base) as decoder:
        frames = decoder.decode(gop.packets[0].data, gop.packets[0].pts)
    return len(frames) == 1 and frames[0].can_overwrite and not frames[0].has_film_grain


def _gops(reader: PacketReader) -> Iterator[tuple[list[CodedPacket], list[int]]]:
    """Packets of each GOP without prompts, and the bytes that their old prompts took."""
    for gop in reader.iter_gops():
        bare = [replace(packet, data=detach(packet.data)) for packet in gop.packets]
        yield bare, [len(a.data) - len(b.data) for a, b in zip(gop.packets, bare, strict=True)]


def enhance_file(
    input_path: str | Path,
    output_path: str | Path,
    *,
    reference: str | Path | None = None,
    preset: PresetName = "medium",
    anchor_interval: int | None = 32,
    generator: Generator | None = None,
    generator_path: Path | None = None,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
) -> EncodeSummary:
    """Add prompts to an AV1 file; its video packets stay as they are but for the prompts' metadata OBUs.

    reference: the source it was made from, same size and times; every anchor is then judged by real decodes.
    Without it only keyframes are generated, everywhere, where their quantiser is one that the generator knows.
    Prompts that are already there are replaced.  Raises MediaError, CodecError, BitstreamError, ConfigError.
    """
    started = time.monotonic()
    input_path, output_path = Path(input_path), Path(output_path)
    if output_path.exists() and not overwrite:
        raise MediaError(f"{output_path}: exists (use --overwrite to replace it)")
    if input_path.exists() and output_path.exists() and input_path.samefile(output_path):
        raise ConfigError(f"{output_path}: input and output are the same file")
    reader = PacketReader(input_path)
    aligned = None if reference is None else _aligned(reader, VideoSource(reference))
    judge = make_judge(PRESETS[preset].judge_scale) if aligned is not None else None
    chosen = generator or load_generator(generator_path)
    rate = float(reader.average_rate or 30)
    meter = ProgressMeter(progress, round((reader.duration_seconds or 0.0) * rate))
    prompts: dict[int, bytes] = {}
    decisions: list[tuple[GopDecision, int]] = []
    frames = base_bytes = prompt_bytes = gops = 0
    origin: int | None = None
    end = 0
    for packets, _ in _gops(reader):
        origin = packets[0].pts if origin is None else origin
        gop = Gop(packets, reader.extradata, reader.time_base, _no_source)
        if aligned is not None and judge is not None and _can_carry(gop):
            times = [float((p.pts - origin) * reader.time_base) for p in packets]
            gop = replace(gop, source=aligned.take(times).__getitem__)
            decision = GopGate(gop, chosen, judge, PRESETS[preset], anchor_interval).decide()
            decisions.append((decision, len(packets)))
            anchors = decision.anchors
        else:
            anchors = _blind_decision(gop, chosen)
        for anchor in anchors:
            packet = packets[anchor.frame]
            prompts[packet.pts] = anchor.prompt_bytes
            prompt_bytes += len(attach(packet.data, anchor.prompt_bytes)) - len(packet.data)
        frames, gops = frames + len(packets), gops + 1
        base_bytes += sum(len(p.data) for p in packets)
        end = max(end, *(p.pts + p.duration for p in packets))
        meter.update("encode", frames)

    def with_prompt(packet: CodedPacket) -> bytes:
        data = detach(packet.data)
        prompt = prompts.get(packet.pts)
        return data if prompt is None else attach(data, prompt)

    meter.update("write", frames)
    copy_with(input_path, output_path, with_prompt, overwrite=overwrite)
    distances = None
    if decisions and judge is not None:
        weights = np.array([n for _, n in decisions], np.float64)
        base = float(np.average([d.base_distance for d, _ in decisions], weights=weights))
        after = float(np.average([d.distance for d, _ in decisions], weights=weights))
        distances = Distances(judge.name, base, after)
    return EncodeSummary(
        frames=frames,
        duration_seconds=float((end - (origin or 0)) * reader.time_base),
        gops=gops,
        anchors=len(prompts),
        base_bytes=base_bytes,
        prompt_bytes=prompt_bytes,
        target_kbps=None,
        crfs=(),
        distances=distances,
        elapsed_seconds=time.monotonic() - started,
        notes=() if prompts else ("no anchor gained anything; the file is as it was",),
    )


def _no_source(frame: int) -> Picture:
    raise AssertionError(f"frame {frame} of a source that was not given")


def _aligned(reader: PacketReader, source: VideoSource) -> _AlignedSource:
    if (source.width, source.height) != (reader.width, reader.height):
        raise ConfigError(
            f"{source.path}: is {source.width}x{source.height}, the video is {reader.width}x{reader.height}; "
            "the reference must have the video's size"
        )
    step = 1 / source.average_rate if source.average_rate else Fraction(1, 30)
    return _AlignedSource(source, float(step) / 2)
