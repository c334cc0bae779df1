"""Encodes a video file: what comes in, one `VideoEncoder` at the right size, one MP4."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from hybridprompt.encode.gate import GopDecision
from hybridprompt.encode.judge import Judge, make_judge
from hybridprompt.encode.progress import Distances, EncodeSummary, ProgressCallback, ProgressMeter
from hybridprompt.encode.settings import EncodeSettings
from hybridprompt.encode.spool import PacketSpool
from hybridprompt.encode.targets import RateTarget
from hybridprompt.encode.video_encoder import VideoEncoder
from hybridprompt.errors import ConfigError, MediaError
from hybridprompt.generator.base import Generator
from hybridprompt.generator.registry import load_chosen
from hybridprompt.video.mp4_writer import Mp4Writer
from hybridprompt.video.scaling import scaled_size
from hybridprompt.video.sound_sizes import SoundSizes
from hybridprompt.video.source import VideoSource

logger = logging.getLogger(__name__)


def load_generator(choice: Path | None) -> Generator:
    """The generator to encode with: a size by its name, a file, or the default."""
    return load_chosen(choice, threads=2)


def encode_file(
    input_path: str | Path,
    output_path: str | Path,
    settings: EncodeSettings,
    *,
    progress: ProgressCallback | None = None,
    generator: Generator | None = None,
) -> EncodeSummary:
    """Encode any video that FFmpeg reads to an MP4 with prompts; sound is carried along.

    Timestamps are kept.  Nothing is left at ``output_path`` unless the encode succeeds.  ``progress`` is
    called after every GOP, from this thread.  Raises MediaError, CodecError, GeneratorError, ConfigError.
    """
    started = time.monotonic()
    input_path, output_path = Path(input_path), Path(output_path)
    if output_path.suffix.lower() not in (".mp4", ".m4v"):
        raise ConfigError(f"{output_path}: an encode writes MP4; name it .mp4")
    if input_path.exists() and output_path.exists() and input_path.samefile(output_path):
        raise ConfigError(f"{output_path}: input and output are the same file")
    source = VideoSource(input_path)
    full_size = source.width, source.height
    if settings.scale is not None and settings.scale != 1:
        source = VideoSource(input_path, size=scaled_size(*full_size, settings.scale))
    notes = _notes(source)
    origin = Fraction(source.start_pts) * source.time_base
    sound = None
    if settings.max_kbps is not None and source.has_audio:
        sound = SoundSizes.measure(input_path, origin)
        notes += _check_sound(sound, source, settings)
    writer = Mp4Writer(
        output_path,
        time_base=source.time_base,
        frame_rate=source.average_rate,
        color=source.color,
        sample_aspect_ratio=source.sample_aspect_ratio,
        audio_from=input_path if source.has_audio else None,
        origin_seconds=origin,
        overwrite=settings.overwrite,
    )
    with writer, PacketSpool() as spool, ThreadPoolExecutor(1) as helper:
        chosen = generator or load_generator(settings.generator)
        total = source.frame_count or round((source.duration_seconds or 0) * float(source.average_rate))
        judging = helper.submit(make_judge, settings.effort.judge_scale)

        def encoder_of(source: VideoSource) -> VideoEncoder:
            return VideoEncoder(source, settings, chosen, judging, ProgressMeter(progress, total), sound)

        encoder = encoder_of(source)
        target = encoder.target()
        if settings.chooses_scale and isinstance(target, RateTarget) and not source.interlaced:
            scale = encoder.best_scale(target)
            if scale != 1:
                source = VideoSource(input_path, size=scaled_size(*full_size, scale))
                writer.sample_aspect_ratio = source.sample_aspect_ratio
                notes.append(f"coded at {source.width}x{source.height}: nearer to the source at this rate")
                encoder = encoder_of(source)
                target = encoder.target()
        encoder.encode_all(target, spool)
        if not encoder.results:
            raise MediaError(f"{input_path}: holds no picture that can be decoded")
        encoder.correct(target, spool)
        of_keyframes = encoder.base.note(len(encoder.results))
        notes += [note for note in (target.note(), encoder.buffer_note(), of_keyframes) if note is not None]
        lengths = [spool.length(i) for i in sorted(encoder.results)]
        encoder.meter.update("write", sum(lengths))
        duration_seconds = 0.0
        stored = encoder.base.start_file(writer)
        for packet in encoder.finished(spool):
            writer.write(replace(packet, data=stored(packet.data)))
            duration_seconds += float(packet.duration * source.time_base)
        writer.commit()
    return _summary(encoder, lengths, duration_seconds, time.monotonic() - started, notes)


def _summary(
    encoder: VideoEncoder,
    lengths: Sequence[int],
    duration_seconds: float,
    elapsed_seconds: float,
    notes: Sequence[str],
) -> EncodeSummary:
    """What a finished encode made; ``lengths`` are the numbers of frames of its GOPs."""
    results = [encoder.results[i] for i in sorted(encoder.results)]
    still_bytes = sum(r.still_bytes for r in results)
    return EncodeSummary(
        frames=sum(lengths),
        duration_seconds=duration_seconds,
        gops=len(results),
        anchors=sum(len(r.decision.anchors) for r in results),
        base_bytes=sum(r.base_bytes for r in results) - still_bytes,
        prompt_bytes=sum(r.prompt_bytes for r in results) + still_bytes,
        target_kbps=encoder.settings.bitrate_kbps,
        crfs=tuple(encoder.base.told_crf(r.crf) for r in results),
        distances=mean_distances(
            encoder.judge, [(r.decision, length) for r, length in zip(results, lengths, strict=True)]
        ),
        elapsed_seconds=elapsed_seconds,
        notes=tuple(notes),
    )


def mean_distances(judge: Judge, decisions: Sequence[tuple[GopDecision, int]]) -> Distances:
    """Mean of GOPs' distances, weighted by their numbers of frames."""
    total = sum(length for _, length in decisions)
    base = sum(d.base_distance * length for d, length in decisions) / total
    decoded = sum(d.distance * length for d, length in decisions) / total
    return Distances(judge.name, base, decoded)


def _check_sound(sound: SoundSizes | None, source: VideoSource, settings: EncodeSettings) -> list[str]:
    """Notes on what the sound leaves of the maximum rate.  Raises ConfigError where that is nothing."""
    assert settings.max_kbps is not None
    if sound is None:
        return []
    kbps = sound.kbps(source.duration_seconds or 0.0)
    if kbps >= settings.max_kbps:
        raise ConfigError(
            f"maximum rate is {settings.max_kbps:g} kbit/s, expected more than the {kbps:.1f} "
            f"of the sound in {source.path}"
        )
    left = settings.max_kbps - kbps
    if settings.bitrate_kbps is None or settings.bitrate_kbps <= left:
        return []
    return [f"the sound takes {kbps:.1f} kbit/s of the maximum rate: {left:.1f} are left for the video"]


def _notes(source: VideoSource) -> list[str]:
    notes = []
    if source.hdr is not None:
        notes.append(f"the input is {source.hdr}; it was tone-mapped to SDR BT.709, 8 bit")
    if source.interlaced:
        notes.append("the input is interlaced; it was encoded as stored, without deinterlacing")
    for note in notes:
        logger.warning("%s: %s", source.path, note)
    return notes
