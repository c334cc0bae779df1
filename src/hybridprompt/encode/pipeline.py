"""Encodes a video file: GOP by GOP base encode, prompts decided by real decodes, rate control, one MP4."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from hybridprompt.bitstream.obu import ObuType
from hybridprompt.encode.gate import AnchorDecision, Gop, GopDecision, GopGate
from hybridprompt.encode.judge import Judge, make_judge
from hybridprompt.encode.plan import max_frames, split_at, split_gops
from hybridprompt.encode.progress import Distances, EncodeSummary, ProgressCallback, ProgressMeter
from hybridprompt.encode.rate_control import ANALYSIS_CRFS, GopAnalysis, RateControl, quantise_crf, svt_quality
from hybridprompt.encode.settings import RATE_TOLERANCE, SVT_TUNES, EncodeSettings, FitSettings
from hybridprompt.encode.spool import PacketSpool
from hybridprompt.errors import ConfigError, MediaError
from hybridprompt.generator.base import Generator
from hybridprompt.generator.registry import load_chosen
from hybridprompt.prompt.carriage import attach
from hybridprompt.video.av1_encoder import Av1Settings, CodedPacket, encode_gop
from hybridprompt.video.mp4_writer import Mp4Writer
from hybridprompt.video.picture import Picture
from hybridprompt.video.source import VideoSource

if TYPE_CHECKING:
    from hybridprompt.encode.fit import StrengthFitter

logger = logging.getLogger(__name__)

_ANALYSIS_PRESET = 12
_TEMPORAL_DELIMITER = bytes([ObuType.TEMPORAL_DELIMITER << 3 | 0b010, 0])
_MIN_HALVED_SIDE = 128
_FIRST_REPEATS, _LAST_REPEATS = 2, 3
_FAR_OFF = 1.0
"""Difference in CRF from which on the first GOP of several is worth another encode."""

_NEAR, _NEAR_OF_MANY = 0.004, 0.015
"""Relative error of a whole video's rate that its last GOP is not encoded again for; of several quick GOPs."""

_FITTED_PROMPT_BYTES, _SEARCHED_PROMPT_BYTES = 450.0, 150.0
"""Of a GOP, until some are known."""


@dataclass(frozen=True)
class _BaseGop:
    """A GOP as SVT-AV1 coded it, and its sources."""

    pictures: list[Picture]
    packets: list[CodedPacket]
    crf: float

    @property
    def size_bytes(self) -> int:
        return sum(len(packet.data) for packet in self.packets)


@dataclass(frozen=True)
class _GopResult:
    packets: Sequence[CodedPacket]
    base_bytes: int
    prompt_bytes: int
    decision: GopDecision
    crf: float


def attach_prompts(packets: Sequence[CodedPacket], anchors: Sequence[AnchorDecision]) -> list[CodedPacket]:
    """Put every anchor's prompt into its packet."""
    prompts = {anchor.packet: anchor.prompt_bytes for anchor in anchors}
    return [
        replace(packet, data=attach(packet.data, prompts[index])) if index in prompts else packet
        for index, packet in enumerate(packets)
    ]


def make_fitter(settings: FitSettings | None) -> StrengthFitter | None:
    """What fits strengths; None where that is not asked for, or the metric weights are not installed."""
    from hybridprompt.evaluate.weights import have_metric_weights

    if settings is None or not have_metric_weights():
        return None
    import torch

    from hybridprompt.encode.fit import StrengthFitter

    return StrengthFitter(settings, device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def load_generator(choice: Path | None) -> Generator:
    """The generator to encode with: a size by its name, a file, or the default."""
    return load_chosen(choice, threads=2)


@dataclass
class _Encoder:
    """State of one run."""

    source: VideoSource
    settings: EncodeSettings
    generator: Generator
    judging: Future[Judge]
    """Getting ready beside the analysis: torch takes its time to load."""
    meter: ProgressMeter
    results: dict[int, _GopResult] = field(default_factory=dict)
    cancelled: Event = field(default_factory=Event)
    """Ends base encodes that go on in another thread."""
    starts: list[int] | None = None
    """First pts of every GOP, once a first reading has told them."""

    @property
    def judge(self) -> Judge:
        return self.judging.result()

    def gops(self) -> Iterator[list[Picture]]:
        source = self.source
        if self.starts is not None:
            # A damaged source may look a little different each time it is decoded; its GOPs must not.
            return split_at(source.frames(), self.starts)
        limit = max_frames(self.settings.gop_seconds, float(source.average_rate), source.width, source.height)
        return split_gops(source.frames(), gop_frames=limit, gop_seconds=self.settings.gop_seconds)

    def av1_settings(self, crf: float, *, preset: int, threads: int) -> Av1Settings:
        source = self.source
        crf, lambda_factor = svt_quality(crf)
        return Av1Settings(
            width=source.width,
            height=source.height,
            frame_rate=source.average_rate,
            time_base=source.time_base,
            crf=crf,
            preset=preset,
            threads=threads,
            lambda_factor=lambda_factor,
            color=source.color,
            extra=(("tune", str(SVT_TUNES[self.settings.tune])),),
        )

    def analyse(self) -> list[GopAnalysis]:
        """Learn how bytes spread over the GOPs, with SVT-AV1 at its fastest and at half size."""
        sizes: list[tuple[int, int]] = []
        starts: list[int] = []
        done = end = 0
        with ThreadPoolExecutor(len(ANALYSIS_CRFS)) as pool:
            for pictures in self.gops():
                small = [picture.halved() for picture in pictures] if self._halves else pictures

                def size(crf: float, small: list[Picture] = small) -> int:
                    return self._size(small, crf, threads=1)

                fine, coarse = pool.map(size, ANALYSIS_CRFS)
                sizes.append((fine, coarse))
                starts.append(_pts(pictures[0]))
                end = _pts(pictures[-1]) + self._frame_ticks
                done += len(pictures)
                self.meter.update("analyse", done)
        self.starts = starts
        spans = zip(starts, [*starts[1:], end], strict=True)
        seconds = [float((stop - start) * self.source.time_base) for start, stop in spans]
        return [GopAnalysis(*pair, duration) for pair, duration in zip(sizes, seconds, strict=True)]

    @property
    def _halves(self) -> bool:
        return min(self.source.width, self.source.height) >= _MIN_HALVED_SIDE

    def _size(self, pictures: list[Picture], crf: float, *, threads: int) -> int:
        """Bytes of a GOP at the analysis's preset."""
        settings = replace(
            self.av1_settings(crf, preset=_ANALYSIS_PRESET, threads=threads),
            width=pictures[0].width,
            height=pictures[0].height,
        )
        return sum(len(packet.data) for packet in encode_gop(pictures, settings))

    @property
    def _frame_ticks(self) -> int:
        return max(1, round(1 / (self.source.average_rate * self.source.time_base)))

    def encode_base(self, pictures: list[Picture], crf: float) -> _BaseGop:
        """Encode one GOP by SVT-AV1."""
        settings = self.av1_settings(crf, preset=self.settings.effort.svt_preset, threads=2)
        # MP4 holds no temporal delimiters, and every byte counts.
        packets = [
            replace(packet, data=packet.data.removeprefix(_TEMPORAL_DELIMITER))
            for packet in encode_gop(pictures, settings, cancelled=self.cancelled)
        ]
        return _BaseGop(pictures, packets, crf)

    def decide(self, base: _BaseGop) -> _GopResult:
        """Decide a GOP's prompts."""
        gate = GopGate(
            Gop(base.packets, None, self.source.time_base, base.pictures.__getitem__),
            self.generator,
            self.judge,
            self.settings.effort,
            self.settings.anchor_interval,
            make_fitter(self.settings.effort.fit),
        )
        decision = gate.decide()
        prompted = attach_prompts(base.packets, decision.anchors)
        prompt_bytes = sum(len(packet.data) for packet in prompted) - base.size_bytes
        return _GopResult(prompted, base.size_bytes, prompt_bytes, decision, base.crf)

    def encode_all(self, control: RateControl | None, spool: PacketSpool) -> None:
        """Encode every GOP; while one's prompts are decided, the base of the next is encoded beside it."""
        done = 0
        gops = enumerate(self.gops())
        decided: tuple[int, _GopResult] | None = None
        with ThreadPoolExecutor(1) as pool:
            try:
                following = pool.submit(self._next_base, gops, control)
                while (found := following.result()) is not None:
                    index, base = found
                    # Not before: what a base is encoded to must not depend on which of the two ends first.
                    self._record(decided, control)
                    following = pool.submit(self._next_base, gops, control)
                    result = self.decide(base)
                    self._keep(index, result, spool)
                    decided = index, self.results[index]
                    done += len(base.pictures)
                    self.meter.update("encode", done)
                self._record(decided, control)
            except BaseException:
                self.cancelled.set()
                raise

    def _next_base(
        self, gops: Iterator[tuple[int, list[Picture]]], control: RateControl | None
    ) -> tuple[int, _BaseGop] | None:
        index, pictures = next(gops, (0, None))
        if pictures is None:
            return None
        if not pictures:
            raise MediaError(f"{self.source.path}: GOP {index} has no picture when read a second time")
        if control is None:
            assert self.settings.crf is not None
            return index, self.encode_base(pictures, self.settings.crf)
        if index == 0:
            probe_crf = quantise_crf(control.common_crf())
            control.probe(index, probe_crf, self._size(pictures, probe_crf, threads=2))
        base = self.encode_base(pictures, control.crf_for_gop(index))
        control.expect(index, base.crf, base.size_bytes)
        return index, self._settled(index, base, control)

    def _settled(self, index: int, base: _BaseGop, control: RateControl) -> _BaseGop:
        """Encode a GOP again where that pays: the first if the model was off, which only it can show, and the
        last until the whole video meets its rate, which only it still can.
        """
        last = index == len(control.analyses) - 1
        quick = self.settings.effort.fit is None
        near = _NEAR_OF_MANY if quick and index else _NEAR
        tried = {base.crf: base}
        for _ in range(_LAST_REPEATS if last else _FIRST_REPEATS):
            wanted = control.crf_for_gop(index)
            settled = abs(control.error) <= near if last else abs(wanted - base.crf) <= _FAR_OFF
            if wanted in tried or settled or (index and not last):
                break
            base = tried[wanted] = self.encode_base(base.pictures, wanted)
            control.expect(index, base.crf, base.size_bytes)
        if last:

            def error(candidate: _BaseGop) -> float:
                control.expect(index, candidate.crf, candidate.size_bytes)
                return abs(control.error)

            base = min(tried.values(), key=error)
            control.expect(index, base.crf, base.size_bytes)
        return base

    def _keep(self, index: int, result: _GopResult, spool: PacketSpool) -> None:
        spool.put(index, result.packets)
        # The packets are on disk now.
        self.results[index] = replace(result, packets=())

    def _record(self, decided: tuple[int, _GopResult] | None, control: RateControl | None) -> None:
        if decided is not None and control is not None:
            index, result = decided
            control.record(index, result.crf, result.base_bytes, result.prompt_bytes)

    def correct(self, control: RateControl, spool: PacketSpool) -> None:
        """Encode single GOPs again until the rate is met or the preset's allowance is spent."""
        allowance = max(1, math.ceil(len(self.results) * 0.34 * (self.settings.effort.passes - 1)))
        done = 0
        tried: set[tuple[int, float]] = set()
        for _ in range(allowance):
            change = control.correction(RATE_TOLERANCE)
            if change is None or change in tried:
                return
            tried.add(change)
            gop, crf = change
            before = abs(control.error)
            kept = control.spent[gop]
            pictures = self._pictures_of(gop, spool)
            if pictures is None:
                logger.warning("%s: reads differently each time, its rate is not corrected", self.source.path)
                return
            result = self.decide(self.encode_base(pictures, crf))
            control.record(gop, result.crf, result.base_bytes, result.prompt_bytes)
            if abs(control.error) < before:
                self._keep(gop, result, spool)
            else:
                control.record(gop, *kept)
            done += len(pictures)
            self.meter.update("correct", done)

    def _pictures_of(self, gop: int, spool: PacketSpool) -> list[Picture] | None:
        """Read the pictures of a GOP again; None where the source does not give the same ones."""
        pts = spool.pts(gop)
        seconds = float((pts[0] - self.source.start_pts) * self.source.time_base)
        step = float(1 / self.source.average_rate)
        # The second attempt is for a container whose index leads astray.
        for start_seconds in (max(seconds - 2 * step, 0.0), None):
            following = (p for p in self.source.frames(start_seconds) if _pts(p) >= pts[0])
            pictures = list(islice(following, len(pts)))
            if [_pts(picture) for picture in pictures] == pts:
                return pictures
        return None


def _pts(picture: Picture) -> int:
    assert picture.pts is not None
    return picture.pts


def encode_file(
    input_path: str | Path,
    output_path: str | Path,
    settings: EncodeSettings,
    *,
    progress: ProgressCallback | None = None,
    generator: Generator | None = None,
) -> EncodeSummary:
    """Encode any video that FFmpeg reads to an MP4 of AV1 with prompts; sound is carried along.

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
    notes = _notes(source)
    origin = Fraction(source.start_pts) * source.time_base
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
        encoder = _Encoder(source, settings, chosen, judging, ProgressMeter(progress, total))
        control = None
        if settings.bitrate_kbps is not None:
            analyses = encoder.analyse()
            duration = sum(a.duration_seconds for a in analyses)
            fits = settings.effort.fit is not None
            control = RateControl(
                settings.bitrate_kbps * 125 * duration,
                analyses,
                _FITTED_PROMPT_BYTES if fits else _SEARCHED_PROMPT_BYTES,
            )
        encoder.encode_all(control, spool)
        if control is not None:
            encoder.correct(control, spool)
            if abs(control.error) > RATE_TOLERANCE:
                notes.append(
                    f"the rate is {100 * control.error:+.1f} % off its target: "
                    + (
                        "the video is too short to steer"
                        if abs(control.error) < 0.2
                        else "out of AV1's reach here"
                    )
                )
        frames = sum(spool.length(i) for i in encoder.results)
        encoder.meter.update("write", frames)
        duration_seconds = 0.0
        for packet in spool.packets():
            writer.write(packet)
            duration_seconds += float(packet.duration * source.time_base)
        writer.commit()
        results = [encoder.results[i] for i in sorted(encoder.results)]
        return EncodeSummary(
            frames=frames,
            duration_seconds=duration_seconds,
            gops=len(results),
            anchors=sum(len(r.decision.anchors) for r in results),
            base_bytes=sum(r.base_bytes for r in results),
            prompt_bytes=sum(r.prompt_bytes for r in results),
            target_kbps=settings.bitrate_kbps,
            crfs=tuple(r.crf for r in results),
            distances=mean_distances(
                encoder.judge,
                [(r.decision, spool.length(i)) for i, r in sorted(encoder.results.items())],
            ),
            elapsed_seconds=time.monotonic() - started,
            notes=tuple(notes),
        )


def mean_distances(judge: Judge, decisions: Sequence[tuple[GopDecision, int]]) -> Distances:
    """Mean of GOPs' distances, weighted by their numbers of frames."""
    total = sum(length for _, length in decisions)
    base = sum(d.base_distance * length for d, length in decisions) / total
    decoded = sum(d.distance * length for d, length in decisions) / total
    return Distances(judge.name, base, decoded)


def _notes(source: VideoSource) -> list[str]:
    notes = []
    if source.hdr is not None:
        notes.append(f"the input is {source.hdr}; it was tone-mapped to SDR BT.709, 8 bit")
    if source.interlaced:
        notes.append("the input is interlaced; it was encoded as stored, without deinterlacing")
    for note in notes:
        logger.warning("%s: %s", source.path, note)
    return notes
