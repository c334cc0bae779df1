"""Reading any video FFmpeg can decode as 8-bit 4:2:0 pictures."""

import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from hybridprompt.errors import CodecError, MediaError
from hybridprompt.video.files import FFMPEG_FAILURES, open_input, reason
from hybridprompt.video.orientation import display_matrix, oriented, swaps_axes
from hybridprompt.video.picture import BT709, ColorInfo, Picture, color_of_frame, picture_from_frame
from hybridprompt.video.scaling import scaled
from hybridprompt.video.tone_map import ToneMapper

MAX_SIDE: Final = 16384
MAX_PIXELS: Final = 16384 * 8704
MAX_DAMAGED_IN_A_ROW: Final = 64
_FALLBACK_RATE: Final = Fraction(30)

_log = logging.getLogger(__name__)


class VideoSource:
    """The best video track of a file, as pictures with their original timestamps.

    Pictures are 8-bit 4:2:0, turned the way the file's display matrix says; odd sizes are kept. Bit depth and
    subsampling are converted, matrix and range tags are kept. HDR and BT.2020 (`hdr` names them) are
    tone-mapped to BT.709 unless tone_map is False, in which case samples and tags stay as they are.
    Interlaced video is delivered as stored (`interlaced` says so).

    Opening decodes the first picture; every call of `frames` reads the file anew. threads: of the decoder,
    0 for one per core. size: (width, height) that pictures are scaled to, by Lanczos, with the sample aspect
    ratio that keeps their shape. Raises MediaError for everything that is not a decodable video.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        tone_map: bool = True,
        threads: int = 0,
        size: tuple[int, int] | None = None,
    ) -> None:
        self.path = Path(path)
        self._size: tuple[int, int] | None = None
        self._tone_map = tone_map
        self._threads = threads
        with open_input(self.path) as container:
            stream = self._video_stream(container)
            self.has_audio: bool = any(track.codec_context is not None for track in container.streams.audio)
            self.duration_seconds: float | None = _duration_seconds(container, stream)
            self.frame_count: int | None = stream.frames or None
            self.average_rate: Fraction = stream.average_rate or stream.guessed_rate or _FALLBACK_RATE
            self.time_base: Fraction = stream.time_base or 1 / self.average_rate
            first = next(self._decoded(container, stream), None)
            if first is None:
                raise MediaError(f"{self.path}: holds no picture that can be decoded")
            aspect = stream.sample_aspect_ratio
        self._check_size(first.width, first.height)
        self._coded_size = (first.width, first.height)
        self._matrix = display_matrix(first)
        picture = self._picture(first, None)
        self.width: int = picture.width
        self.height: int = picture.height
        self.hdr: str | None = color_of_frame(first).hdr
        mapped = self._tone_map and self.hdr is not None
        self.color: ColorInfo = ColorInfo(BT709, BT709, BT709) if mapped else picture.color
        self.start_pts: int = first.pts if first.pts is not None else 0
        self.interlaced: bool = first.interlaced_frame
        swapped = self._matrix is not None and swaps_axes(self._matrix)
        self.sample_aspect_ratio: Fraction = _aspect(aspect, swapped)
        if size is not None:
            self._size = size
            shape = self.sample_aspect_ratio * self.width / self.height
            # A guess by the height would come out otherwise at another one.
            self.color = replace(self.color, matrix=self.color.resolved_matrix(self.height))
            self.width, self.height = size
            self.sample_aspect_ratio = shape * self.height / self.width
        self._has_timestamps = first.pts is not None
        if self.interlaced:
            _log.warning("%s: interlaced video, delivered without deinterlacing", self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Files are open only while `frames` is being iterated; a generator closes its own.
        return None

    def __iter__(self) -> Iterator[Picture]:
        return self.frames()

    def __repr__(self) -> str:
        return f"VideoSource({self.path.name!r}, {self.width}x{self.height}, {self.average_rate} Hz)"

    def frames(
        self, start_seconds: float | None = None, duration_seconds: float | None = None
    ) -> Iterator[Picture]:
        """Yield the pictures in display order, with pts that strictly increase, in units of time_base.

        start_seconds counts from the first picture of the file; both limits are optional. Missing or repeated
        timestamps are replaced by the previous one plus one frame. Raises MediaError when too much is
        damaged.
        """
        start = None if start_seconds is None else self.start_pts + start_seconds / float(self.time_base)
        end = None
        if duration_seconds is not None:
            end = (self.start_pts if start is None else start) + duration_seconds / float(self.time_base)
        count = 0
        for picture in self._pictures_from(start):
            assert picture.pts is not None
            if end is not None and picture.pts >= end - 0.5:
                return
            count += 1
            yield picture
        whole = start is None and end is None
        if whole and self.frame_count and count < self.frame_count:
            _log.warning("%s: %d of %d pictures could be decoded", self.path, count, self.frame_count)

    def _pictures_from(self, start: float | None) -> Iterator[Picture]:
        if start is None or start <= self.start_pts:
            yield from self._sequence(None)
            return
        if self._has_timestamps:
            pictures = self._sequence(int(start))
            first = next(pictures, None)
            # A seek may land too late (damaged index); reading from the front then finds the place.
            if first is not None and first.pts is not None and first.pts <= start + 0.5:
                if first.pts >= start - 0.5:
                    yield first
                yield from _not_before(pictures, start)
                return
        yield from _not_before(self._sequence(None), start)

    def _sequence(self, seek_to: int | None) -> Iterator[Picture]:
        step = max(1, round(1 / (self.average_rate * self.time_base)))
        previous: int | None = None
        mapper = None
        with open_input(self.path) as container:
            stream = self._video_stream(container)
            if seek_to is not None:
                try:
                    container.seek(seek_to, stream=stream, backward=True)
                except FFMPEG_FAILURES as error:
                    _log.debug("%s: cannot seek (%s)", self.path, reason(error))
            for frame in self._decoded(container, stream):
                if self._tone_map and color_of_frame(frame).hdr is not None:
                    mapper = mapper or ToneMapper()
                picture = self._picture(frame, mapper)
                pts = picture.pts
                if pts is None or (previous is not None and pts <= previous):
                    pts = self.start_pts if previous is None else previous + step
                previous = pts
                picture = replace(picture, pts=pts, time_base=self.time_base)
                yield picture if self._size is None else self._scaled(picture, self._size)

    def _scaled(self, picture: Picture, size: tuple[int, int]) -> Picture:
        try:
            return replace(scaled(picture, *size), color=self.color)
        except CodecError as error:
            raise MediaError(f"{self.path}: {error}") from error

    def _video_stream(self, container: InputContainer) -> VideoStream:
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
            kinds: list[str] = sorted({track.type for track in container.streams}) or ["nothing"]
            raise MediaError(f"{self.path}: has no video track, only {', '.join(kinds)}")
        if stream.codec_context is None:
            raise MediaError(f"{self.path}: FFmpeg has no decoder for its video track")
        self._check_size(stream.codec_context.width, stream.codec_context.height)
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        stream.thread_type = "AUTO"
        stream.thread_count = self._threads
        return stream

    def _check_size(self, width: int, height: int) -> None:
        if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
            raise MediaError(
                f"{self.path}: pictures of {width}x{height} are too large, expected at most "
                f"{MAX_SIDE} a side and {MAX_PIXELS} pixels"
            )

    def _decoded(self, container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
        damaged = in_a_row = 0
        for packet in self._demuxed(container, stream):
            try:
                frames = stream.decode(packet)
                in_a_row = 0
            except FFMPEG_FAILURES as error:
                damaged += 1
                in_a_row += 1
                if in_a_row > MAX_DAMAGED_IN_A_ROW:
                    raise MediaError(
                        f"{self.path}: {in_a_row} damaged packets in a row, gave up ({reason(error)})"
                    ) from error
                continue
            yield from frames
        if damaged:
            _log.warning("%s: %d damaged packets were skipped", self.path, damaged)

    def _demuxed(
        self, container: InputContainer, stream: VideoStream
    ) -> "Iterator[av.Packet[VideoStream] | None]":
        try:
            yield from container.demux(stream)
        except FFMPEG_FAILURES as error:
            _log.warning("%s: the file breaks off or is damaged (%s)", self.path, reason(error))
            yield None  # flushes the decoder, as the end of the file would have done

    def _picture(self, frame: av.VideoFrame, mapper: "ToneMapper | None") -> Picture:
        if (frame.width, frame.height) != self._coded_size:
            _log.debug("%s: picture of %dx%d scaled", self.path, frame.width, frame.height)
        try:
            if mapper is not None:
                frame = mapper.map(frame)
            picture = picture_from_frame(frame, copy=False, size=self._coded_size)
        except (CodecError, *FFMPEG_FAILURES) as error:
            raise MediaError(f"{self.path}: {reason(error)}") from error
        if self._matrix is None:
            return picture.copied()
        y, u, v = (oriented(plane, self._matrix) for plane in picture.planes)
        return Picture(y, u, v, picture.pts, picture.time_base, picture.color).copied()


def _not_before(pictures: Iterator[Picture], start: float) -> Iterator[Picture]:
    return (picture for picture in pictures if picture.pts is not None and picture.pts >= start - 0.5)


def _duration_seconds(container: InputContainer, stream: VideoStream) -> float | None:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else None


def _aspect(aspect: Fraction | None, swapped: bool) -> Fraction:
    if not aspect or aspect <= 0:
        return Fraction(1)
    return 1 / aspect if swapped else aspect
