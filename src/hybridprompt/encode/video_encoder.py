"""Encodes the GOPs of one video: bases towards a target, prompts decided beside them, corrections."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import islice

from hybridprompt.bitstream.nal import NalCodec
from hybridprompt.encode.alternation import decide
from hybridprompt.encode.av1_replace import Av1ReplaceEncoder
from hybridprompt.encode.base import BaseEncoder, BaseGop, held
from hybridprompt.encode.blocks import BLOCK_LOG2
from hybridprompt.encode.buffer import RateBuffer
from hybridprompt.encode.gop import can_name
from hybridprompt.encode.judge import Judge, LpipsJudge
from hybridprompt.encode.nal_base import NalBaseEncoder, svt_crf
from hybridprompt.encode.plan import max_frames, split_at, split_gops
from hybridprompt.encode.progress import ProgressMeter
from hybridprompt.encode.rate_control import ANALYSIS_CRFS, STEERED_CRF_RANGE, GopAnalysis, coarser_crf
from hybridprompt.encode.scale import LEAST_CRF, best_scale
from hybridprompt.encode.settings import DEFAULT_BUFFER_SECONDS, EncodeSettings
from hybridprompt.encode.spool import PacketSpool
from hybridprompt.encode.targets import (
    CrfTarget,
    GopResult,
    QualityTarget,
    RateTarget,
    Target,
    usual_prompt_bytes,
)
from hybridprompt.errors import ConfigError, MediaError
from hybridprompt.generator.base import Generator
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.picture import Picture
from hybridprompt.video.sound_sizes import SoundSizes
from hybridprompt.video.source import VideoSource

logger = logging.getLogger(__name__)

_MIN_HALVED_SIDE = 128
_BUFFER_REPEATS = 6
_BUFFER_MARGIN = 0.98
"""Share of the room in the buffer that is aimed at."""


def make_base_encoder(
    source: VideoSource, settings: EncodeSettings, judge: Callable[[], Judge], generator: Generator
) -> BaseEncoder:
    """What encodes GOPs in the codec and mode of the settings.  Raises ConfigError for unfit sizes."""
    if settings.mode == "replace" and not can_name(source.width, source.height):
        raise ConfigError(
            f"{source.path}: pictures of {source.width}x{source.height} cannot have prompts, "
            "which mode replace needs: expected 16 to 16384 each way"
        )
    if settings.codec != "av1":
        return NalBaseEncoder(source, settings, judge, codec=NalCodec(settings.codec), generator=generator)
    if settings.mode == "replace":
        return Av1ReplaceEncoder(source, settings, judge, generator=generator)
    return BaseEncoder(source, settings, judge)


@dataclass
class VideoEncoder:
    """State of one run."""

    source: VideoSource
    settings: EncodeSettings
    generator: Generator
    judging: Future[Judge]
    """Getting ready beside the analysis: torch takes its time to load."""
    meter: ProgressMeter
    sound: SoundSizes | None = None
    """What is carried beside the video and counts for the maximum rate."""
    results: dict[int, GopResult] = field(default_factory=dict)
    durations: dict[int, float] = field(default_factory=dict)
    sound_bytes: dict[int, int] = field(default_factory=dict)
    """Of the sound while a GOP plays."""
    starts: list[int] | None = None
    """First pts of every GOP, once a first reading has told them."""

    def __post_init__(self) -> None:
        fit = self.settings.effort.fit
        self._most_prompt_bytes = usual_prompt_bytes(
            self.source.width,
            self.source.height,
            BLOCK_LOG2 if fit is None else fit.block_log2,
            with_adapter=self.settings.effort.adapter is not None,
        )
        self.base = make_base_encoder(self.source, self.settings, self.judging.result, self.generator)
        limit, seconds = self.settings.max_kbps, self.settings.buffer_seconds
        self.buffer = None if limit is None else RateBuffer(limit, seconds or DEFAULT_BUFFER_SECONDS)

    @property
    def judge(self) -> Judge:
        return self.judging.result()

    def target(self) -> Target:
        """What the settings aim at; a rate takes an analysis of the whole video."""
        settings = self.settings
        if settings.bitrate_kbps is not None:
            analyses = self.analyse()
            return RateTarget(self.base, settings.bitrate_kbps, analyses, self._most_prompt_bytes)
        if settings.quality is not None:
            if not isinstance(self.judge, LpipsJudge):
                raise ConfigError("a quality is a distance in LPIPS; its weights are not installed")
            return QualityTarget(self.base, settings.quality)
        assert settings.crf is not None
        codec = settings.codec
        return CrfTarget(settings.crf if codec == "av1" else svt_crf(settings.crf, NalCodec(codec)))

    def gops(self) -> Iterator[list[Picture]]:
        source = self.source
        if self.starts is not None:
            # A damaged source may look a little different each time it is decoded; its GOPs must not.
            return split_at(source.frames(), self.starts)
        limit = max_frames(self.settings.gop_seconds, float(source.average_rate), source.width, source.height)
        return split_gops(source.frames(), gop_frames=limit, gop_seconds=self.settings.gop_seconds)

    def analyse(self) -> list[GopAnalysis]:
        """Learn how bytes spread over the GOPs, with SVT-AV1 at its fastest and at half size."""
        sizes: list[tuple[int, int]] = []
        starts: list[int] = []
        done = end = 0
        with ThreadPoolExecutor(len(ANALYSIS_CRFS)) as pool:
            for pictures in self.gops():
                small = [picture.halved() for picture in pictures] if self._halves else pictures

                def size(crf: float, small: list[Picture] = small) -> int:
                    return self.base.analysis_bytes(small, crf, threads=1)

                fine, coarse = pool.map(size, ANALYSIS_CRFS)
                sizes.append((fine, coarse))
                starts.append(_pts(pictures[0]))
                end = self._end(pictures)
                done += len(pictures)
                self.meter.update("analyse", done)
        if not starts:
            raise MediaError(f"{self.source.path}: holds no picture that can be decoded")
        self.starts = starts
        for gop, span in enumerate(zip(starts, [*starts[1:], end], strict=True)):
            self._plays(gop, *span)
        return [GopAnalysis(*pair, self.durations[gop]) for gop, pair in enumerate(sizes)]

    @property
    def _halves(self) -> bool:
        return min(self.source.width, self.source.height) >= _MIN_HALVED_SIDE

    def _end(self, pictures: list[Picture]) -> int:
        """Pts at which the last picture ends, as long as nothing follows."""
        return _pts(pictures[-1]) + max(1, round(1 / (self.source.average_rate * self.source.time_base)))

    def _plays(self, gop: int, start: int, end: int) -> None:
        """Take note of the pts at which a GOP starts and ends."""
        time_base, origin = self.source.time_base, self.source.start_pts
        self.durations[gop] = float((end - start) * time_base)
        if self.sound is not None:
            # The first GOP waits for what primes the sound's decoder, too.
            start_seconds = float((start - origin) * time_base) if gop else -math.inf
            self.sound_bytes[gop] = self.sound.bytes_between(start_seconds, float((end - origin) * time_base))

    def best_scale(self, target: RateTarget) -> Fraction:
        """The scale that serves the rate best; found only after the analysis.  1 without LPIPS to judge."""
        assert self.starts is not None
        count = len(self.starts)
        chosen = {0, count // 3, 2 * count // 3}

        def tried() -> Iterator[tuple[list[Picture], float]]:
            crf = None
            for index, pictures in enumerate(islice(self.gops(), max(chosen) + 1)):
                crf = target.crf_for(0, pictures) if crf is None else crf
                if crf < LEAST_CRF or not isinstance(self.judge, LpipsJudge):
                    return
                if index in chosen and pictures:
                    yield pictures, crf

        return best_scale(self.base, tried())

    def decide(self, base: BaseGop) -> GopResult:
        return decide(base, self.base, self.generator)

    def encode_all(self, target: Target, spool: PacketSpool) -> None:
        """Encode every GOP; while one's prompts are decided, the base of the next is encoded beside it."""
        done = 0
        gops = enumerate(self.gops())
        decided: tuple[int, GopResult] | None = None
        with ThreadPoolExecutor(1) as pool:
            try:
                following = pool.submit(self._next_base, gops, target)
                while (found := following.result()) is not None:
                    index, base = found
                    if decided is not None:
                        # Not before: a base must not depend on which of the two ends first.
                        self._record(*decided, target)
                    following = pool.submit(self._next_base, gops, target)
                    result = self.decide(base)
                    self._keep(index, result, spool)
                    decided = index, result
                    done += len(base.pictures)
                    self.meter.update("encode", done)
                if decided is not None:
                    self._record(*decided, target)
            except BaseException:
                self.base.cancelled.set()
                raise

    def _next_base(
        self, gops: Iterator[tuple[int, list[Picture]]], target: Target
    ) -> tuple[int, BaseGop] | None:
        index, pictures = next(gops, (0, None))
        if pictures is None:
            return None
        if not pictures:
            raise MediaError(f"{self.source.path}: GOP {index} has no picture when read a second time")
        # An analysis knows better: a GOP lasts until the next one starts.
        if index not in self.durations:
            self._plays(index, _pts(pictures[0]), self._end(pictures))
        base = target.settled(index, self.base.best(pictures, target.crf_for(index, pictures)))
        other = self.base.other_still(base)
        if other is not None:
            base = target.settled(index, other)
        base = self._within_buffer(index, base, target)
        target.expect(index, base)
        return index, base

    def _within_buffer(self, index: int, base: BaseGop, target: Target) -> BaseGop:
        """Encode a GOP again, coarser, until the client's buffer has room for it."""
        if self.buffer is None:
            return base
        seconds = self.durations[index]
        # Not known yet, and a GOP of many anchors may take more than those before.
        beside = 2 * self._most_prompt_bytes + self.sound_bytes.get(index, 0)
        room = max(self.buffer.room(index, seconds) - beside, 1.0)
        wanted = base.crf
        for _ in range(_BUFFER_REPEATS):
            if base.size_bytes <= room or base.crf >= STEERED_CRF_RANGE[1]:
                break
            crf = coarser_crf(base.crf, _BUFFER_MARGIN * room / base.size_bytes)
            # A still that is held may be most of the bytes, and then nothing gets smaller.
            base = self.base.again(base, crf, hold_still=False)
        self.buffer.record(index, base.size_bytes + beside, seconds)
        if base.crf > wanted:
            target.limited(index)
        return base

    def _keep(self, index: int, result: GopResult, spool: PacketSpool) -> None:
        spool.put(index, result.packets)
        # The packets are on disk now.
        self.results[index] = replace(result, packets=())

    def _record(self, index: int, result: GopResult, target: Target) -> None:
        target.record(index, result)
        self._most_prompt_bytes = max(self._most_prompt_bytes, result.prompt_bytes)
        if self.buffer is not None:
            size_bytes = result.base_bytes + result.prompt_bytes + self.sound_bytes.get(index, 0)
            self.buffer.record(index, size_bytes, self.durations[index])

    def _overflows(self) -> dict[int, float]:
        """GOPs that the buffer has no room for, and by how many bytes."""
        return {} if self.buffer is None else self.buffer.overflows()

    def buffer_note(self) -> str | None:
        """What a user should know where the buffer has no room."""
        over = len(self._overflows())
        if not over:
            return None
        return f"{over} of {len(self.results)} GOPs are more than the maximum rate and the buffer allow"

    def correct(self, target: Target, spool: PacketSpool) -> None:
        """Encode single GOPs again until the target is met or the preset's allowance is spent."""
        allowance = max(2, math.ceil(len(self.results) * 0.34 * (self.settings.effort.passes - 1)))
        done = 0
        tried: set[tuple[int, float]] = set()
        for _ in range(allowance):
            change = target.correction()
            if change is None or change in tried:
                return
            tried.add(change)
            gop, crf = change
            error, over, kept = target.error(), self._overflows(), self.results[gop]
            pictures = self._pictures_of(gop, spool)
            if pictures is None:
                logger.warning("%s: reads differently each time, it is not corrected", self.source.path)
                return
            result = self.decide(self.base.encode(pictures, crf, held(kept.variant, crf - kept.crf)))
            self._record(gop, result, target)
            helps = target.error() < error
            # Nor may a GOP that has too little room already take more.
            fits = all(excess <= over.get(i, 0.0) for i, excess in self._overflows().items())
            if helps and fits:
                self._keep(gop, result, spool)
            else:
                self._record(gop, kept, target)
                if helps:
                    target.limited(gop)
            done += len(pictures)
            self.meter.update("correct", done)

    def finished(self, spool: PacketSpool) -> Iterator[CodedPacket]:
        """The packets of the file."""
        has_prompts = any(result.decision.anchors for result in self.results.values())
        for number, packet in enumerate(spool.packets()):
            data = self.base.marked(packet.data) if number == 0 and has_prompts else packet.data
            if len(data) > len(packet.data):
                first = self.results[0]
                added = len(data) - len(packet.data)
                self.results[0] = replace(first, prompt_bytes=first.prompt_bytes + added)
            yield replace(packet, data=data)

    def _pictures_of(self, gop: int, spool: PacketSpool) -> list[Picture] | None:
        """Read the pictures of a GOP again; None where the source does not give the same ones."""
        pts = sorted(spool.pts(gop))
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
