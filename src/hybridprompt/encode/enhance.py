"""Adds prompts to an AV1 file that already exists, without encoding it again."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import count
from pathlib import Path

from hybridprompt.decode.headers import starts_gop
from hybridprompt.encode.arrived import measured_anchors
from hybridprompt.encode.gate import AnchorDecision, GopDecision, GopGate, make_adapter_fitter, make_fitter
from hybridprompt.encode.gop import Gop, can_carry, find_candidates
from hybridprompt.encode.judge import Judge, make_judge
from hybridprompt.encode.pipeline import load_generator, mean_distances
from hybridprompt.encode.plan import MAX_GOP_FRAMES
from hybridprompt.encode.progress import Distances, EncodeSummary, ProgressCallback, ProgressMeter
from hybridprompt.encode.settings import PRESETS, PresetName, check_anchor_interval
from hybridprompt.errors import BitstreamError, CodecError, ConfigError, MediaError
from hybridprompt.generator.base import Generator
from hybridprompt.prompt.carriage import attach, detach, extract
from hybridprompt.prompt.sections import has_still
from hybridprompt.prompt.syntax import MAGIC, decode_prompt
from hybridprompt.video.av1_decoder import Av1Decoder
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.packet_reader import PacketReader
from hybridprompt.video.picture import Picture
from hybridprompt.video.remux import copy_with
from hybridprompt.video.source import VideoSource

logger = logging.getLogger(__name__)

BLIND_QUANTISERS, BLIND_LATER_QUANTISERS = range(125, 226), range(135, 256)
"""base_q_idx of keyframes and of later anchors that are generated with no source to compare with: what
training has met, and coarser."""


class _AlignedSource:
    """Pictures of the reference by the time they are shown at, read once, front to back."""

    def __init__(self, source: VideoSource) -> None:
        step = 1 / source.average_rate if source.average_rate else Fraction(1, 30)
        self._tolerance = float(step) / 2
        self._path = source.path
        self._origin = float(source.start_pts * source.time_base)
        self._pictures = source.frames()
        self._current = self._following = next(self._pictures, None)

    def take(self, times: Mapping[int, float]) -> dict[int, Picture]:
        """The pictures nearest to ``times``: seconds from the start, never before those asked for earlier.

        Raises MediaError where there is none within half a frame.
        """
        return {key: self._nearest(wanted) for key, wanted in sorted(times.items(), key=lambda item: item[1])}

    def _nearest(self, wanted: float) -> Picture:
        while self._following is not None and self._seconds(self._following) <= wanted:
            self._current, self._following = self._following, next(self._pictures, None)
        near = [picture for picture in (self._current, self._following) if picture is not None]
        best = min(near, key=lambda picture: abs(self._seconds(picture) - wanted), default=None)
        if best is None or abs(self._seconds(best) - wanted) > self._tolerance:
            raise MediaError(f"{self._path}: has no picture at {wanted:.3f} s, where the video shows one")
        return best

    def _seconds(self, picture: Picture) -> float:
        return (picture.pts_seconds or 0.0) - self._origin


@dataclass
class _FileGop:
    """A GOP of the file.

    first: index of its first packet.  packets: without prompts, at most MAX_GOP_FRAMES of them, so that one
    endless GOP does not fill the memory.  frames, size_bytes and end count all.
    """

    first: int
    packets: list[CodedPacket] = field(default_factory=list)
    frames: int = 0
    size_bytes: int = 0
    end: int = 0

    def append(self, packet: CodedPacket) -> None:
        if len(self.packets) < MAX_GOP_FRAMES:
            self.packets.append(packet)
        self.frames += 1
        self.size_bytes += len(packet.data)
        self.end = max(self.end, packet.pts + packet.duration)


def _without_prompts(packet: CodedPacket, path: Path) -> bytes:
    try:
        return detach(packet.data)
    except BitstreamError as error:
        # FFmpeg would write such a packet with a wrong size, and all that follows with it.
        raise MediaError(
            f"{path}: the packet with pts {packet.pts} is damaged ({error}), cannot be copied"
        ) from error


def _has_still(unit: bytes) -> bool:
    if MAGIC not in unit:
        return False
    try:
        prompt_bytes = extract(unit)
        return prompt_bytes is not None and has_still(decode_prompt(prompt_bytes))
    except BitstreamError:
        # What players cannot read either is replaced.
        return False


def _gops(reader: PacketReader) -> Iterator[_FileGop]:
    """The file's GOPs that can be decoded on their own; what comes before the first keyframe is left out."""
    gop: _FileGop | None = None
    for index, packet in enumerate(reader.packets()):
        if _has_still(packet.data):
            raise MediaError(
                f"{reader.path}: the keyframe with pts {packet.pts} is in its prompt only (mode replace), "
                "which new prompts would take away: such a file cannot be enhanced"
            )
        bare = replace(packet, data=_without_prompts(packet, reader.path))
        if starts_gop(bare, reader.extradata):
            if gop is not None:
                yield gop
            gop = _FileGop(index)
        if gop is not None:
            gop.append(bare)
    if gop is not None:
        yield gop


@dataclass
class _Enhancer:
    """Decides the prompts of a file's GOPs."""

    reader: PacketReader
    generator: Generator
    judge: Judge | None
    aligned: _AlignedSource | None
    preset: PresetName
    anchor_interval: int | None
    decisions: list[tuple[GopDecision, int]] = field(default_factory=list)
    unfit: int = 0
    """GOPs whose pictures cannot be replaced."""

    def anchors(self, gop: _FileGop) -> tuple[AnchorDecision, ...]:
        pictures: dict[int, Picture] = {}
        reader = self.reader
        coded = Gop(gop.packets, reader.extradata, reader.time_base, pictures.__getitem__)
        try:
            size = self._size(coded)
            if size is None:
                self.unfit += 1
                return ()
            if self.aligned is None or self.judge is None:
                return self._blind(coded, *size)
            effort = PRESETS[self.preset]
            gate = GopGate(
                coded,
                self.generator,
                self.judge,
                effort,
                self.anchor_interval,
                make_fitter(effort.fit),
                make_adapter_fitter(effort.adapter, self.generator),
            )
            times = {
                frame: float((gop.packets[frame].pts - reader.start_pts) * reader.time_base)
                for frame in gate.wanted_frames()
            }
            pictures.update(self.aligned.take(times))
            decision = gate.decide()
        except (BitstreamError, CodecError) as error:
            logger.warning(
                "%s: the GOP at pts %d gets no prompts: %s", reader.path, gop.packets[0].pts, error
            )
            self.unfit += 1
            return ()
        self.decisions.append((decision, gop.frames))
        return decision.anchors

    def _size(self, gop: Gop) -> tuple[int, int] | None:
        """Width and height of a GOP's pictures; None if they cannot be replaced."""
        with Av1Decoder(gop.extradata, time_base=gop.time_base) as decoder:
            frames = decoder.decode(gop.packets[0].data, gop.packets[0].pts)
            if not can_carry(frames):
                return None
            return frames[0].picture.width, frames[0].picture.height

    def _blind(self, gop: Gop, width: int, height: int) -> tuple[AnchorDecision, ...]:
        keyframe = replace(gop, packets=gop.packets[:1])
        found = find_candidates(keyframe, None)
        if not found or found[0].base_q_idx not in BLIND_QUANTISERS:
            return ()
        try:
            candidates = find_candidates(gop, self.anchor_interval)
            later = [c for c in candidates[1:] if c.base_q_idx in BLIND_LATER_QUANTISERS]
            return measured_anchors(gop, self.generator, [found[0], *later], width, height)
        except (BitstreamError, CodecError) as error:
            logger.warning(
                "%s: the GOP at pts %d gets a prompt for its keyframe only: %s",
                self.reader.path,
                gop.packets[0].pts,
                error,
            )
            return measured_anchors(keyframe, self.generator, found, width, height)

    def distances(self) -> Distances | None:
        if not self.decisions or self.judge is None:
            return None
        return mean_distances(self.judge, self.decisions)


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

    reference: the source it was made from, same size and times; every anchor is then judged by real
    decodes.  Without it keyframes are generated everywhere, and later anchors the less, the more of that has
    arrived there (`arrived`), where quantisers are what the generator knows.  Prompts that are already there
    are replaced.  Film grain, more than 8 bits and frames that cannot be decoded leave a GOP without prompts.
    Raises MediaError, also for packets that are no AV1 at all, GeneratorError and ConfigError.
    """
    started = time.monotonic()
    input_path, output_path = Path(input_path), Path(output_path)
    if preset not in PRESETS:
        raise ConfigError(f"preset is {preset!r}, expected one of {', '.join(PRESETS)}")
    check_anchor_interval(anchor_interval)
    if output_path.exists() and not overwrite:
        raise MediaError(f"{output_path}: exists already, and overwriting was not asked for")
    if input_path.exists() and output_path.exists() and input_path.samefile(output_path):
        raise ConfigError(f"{output_path}: input and output are the same file")
    reader = PacketReader(input_path)
    aligned = None if reference is None else _aligned(reader, VideoSource(reference))
    judge = None if aligned is None else make_judge(PRESETS[preset].judge_scale)
    chosen = generator or load_generator(generator_path)
    enhancer = _Enhancer(reader, chosen, judge, aligned, preset, anchor_interval)
    rate = float(reader.average_rate or 30)
    meter = ProgressMeter(progress, round((reader.duration_seconds or 0.0) * rate))
    prompts: dict[int, bytes] = {}
    frames = base_bytes = prompt_bytes = gops = end = 0
    for gop in _gops(reader):
        for anchor in enhancer.anchors(gop):
            data = gop.packets[anchor.packet].data
            prompts[gop.first + anchor.packet] = anchor.prompt_bytes
            prompt_bytes += len(attach(data, anchor.prompt_bytes)) - len(data)
        frames, gops = frames + gop.frames, gops + 1
        base_bytes, end = base_bytes + gop.size_bytes, max(end, gop.end)
        meter.update("encode", frames)

    indices = count()

    def with_prompt(packet: CodedPacket) -> bytes:
        data = _without_prompts(packet, input_path)
        prompt = prompts.get(next(indices))
        return data if prompt is None else attach(data, prompt)

    meter.update("write", frames)
    copy_with(input_path, output_path, with_prompt, overwrite=overwrite)
    return EncodeSummary(
        frames=frames,
        duration_seconds=float((end - reader.start_pts) * reader.time_base) if frames else 0.0,
        gops=gops,
        anchors=len(prompts),
        base_bytes=base_bytes,
        prompt_bytes=prompt_bytes,
        target_kbps=None,
        crfs=(),
        distances=enhancer.distances(),
        elapsed_seconds=time.monotonic() - started,
        notes=_notes(enhancer, gops, len(prompts)),
    )


def _notes(enhancer: _Enhancer, gops: int, anchors: int) -> tuple[str, ...]:
    notes = []
    if enhancer.unfit:
        notes.append(
            f"{enhancer.unfit} of {gops} GOPs cannot carry prompts: film grain, not 8-bit 4:2:0, "
            "smaller than 16 pixels, or damaged"
        )
    if not anchors:
        notes.append("no anchor gained anything; no prompts were added")
    return tuple(notes)


def _aligned(reader: PacketReader, source: VideoSource) -> _AlignedSource:
    if (source.width, source.height) != (reader.width, reader.height):
        raise ConfigError(
            f"{source.path}: is {source.width}x{source.height}, the video is {reader.width}x{reader.height}; "
            "the reference must have the video's size"
        )
    if rotation := _rotation(reader):
        raise ConfigError(
            f"{reader.path}: is turned by {rotation} degrees when played; "
            "such a video cannot be compared with a reference"
        )
    return _AlignedSource(source)


def _rotation(reader: PacketReader) -> int:
    try:
        return reader.rotation
    except MediaError as error:
        # It begins with pictures that cannot be decoded; what follows may be fine.
        logger.debug("%s", error)
        return 0
