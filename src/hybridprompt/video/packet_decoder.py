"""What all decoders here share: FFmpeg's, fed packet by packet, and frames that are still the decoder's own.

Note [Keyframe injection] in `av1_decoder` says what overwriting such a frame does.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from types import TracebackType
from typing import ClassVar, Final, Self, cast

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.codeccontext import VideoCodecContext

from hybridprompt.errors import CodecError
from hybridprompt.video.picture import Picture, Plane, chroma_shape, picture_from_frame, plane_views

MAX_PIXELS: Final = 16384 * 8704  # the largest AV1 level's picture area, 142.6 million
_OVERWRITABLE: Final = ("yuv420p", "yuvj420p")  # the "j" only says full range
_NO_CROP: Final = (0, 0, 0, 0)


class DecodedFrame:
    """One shown frame, still shared with the decoder that made it."""

    def __init__(self, frame: av.VideoFrame) -> None:
        self._frame = frame
        self._picture: Picture | None = None
        self._crop = _NO_CROP

    def __repr__(self) -> str:
        frame = self._frame
        return f"DecodedFrame({frame.width}x{frame.height} {frame.format.name}, pts={self.pts})"

    @property
    def pts(self) -> int | None:
        return self._frame.pts

    @property
    def is_keyframe(self) -> bool:
        return bool(self._frame.key_frame)

    @property
    def has_film_grain(self) -> bool:
        """Whether the stream asks for film grain here; the pictures are always without it."""
        return Type.FILM_GRAIN_PARAMS in self._frame.side_data

    @property
    def can_overwrite(self) -> bool:
        return self._frame.format.name in _OVERWRITABLE

    def hide(self, left: int, right: int, top: int, bottom: int) -> None:
        """Take samples at the edges for hidden ones: numbers of luma samples, even in 4:2:0.

        `picture` is without them; `overwrite` gives them the nearest visible sample. Raises CodecError where
        nothing would be left.
        """
        frame = self._frame
        if min(left, right, top, bottom) < 0 or left + right >= frame.width or top + bottom >= frame.height:
            raise CodecError(
                f"{left} + {right} columns and {top} + {bottom} rows are hidden of a picture of "
                f"{frame.width}x{frame.height}"
            )
        self._crop = left, right, top, bottom
        self._picture = None

    @property
    def picture(self) -> Picture:
        """The picture, as views of the decoder's buffers (8-bit 4:2:0) or converted (anything else).

        After `overwrite` the views show the new samples. Copy it (`Picture.copied`) to keep the old ones.
        """
        if self._picture is None:
            whole = picture_from_frame(self._frame, copy=False)
            y, u, v = (self._visible(plane, index) for index, plane in enumerate(whole.planes))
            self._picture = replace(whole, y=y, u=u, v=v)
        return self._picture

    def overwrite(self, y: Plane, u: Plane, v: Plane) -> None:
        """Replace the samples of this picture, also as the decoder's reference: Note [Keyframe injection].

        y is (H, W) uint8, u and v are (ceil(H/2), ceil(W/2)) uint8; with or without the samples that `hide`
        names. Call it before the next packet is decoded. Raises CodecError when the stream is not 8-bit 4:2:0
        or a shape is wrong.
        """
        if not self.can_overwrite:
            raise CodecError(
                f"picture with pts {self.pts} has pixel format {self._frame.format.name}: "
                "only 8-bit 4:2:0 (yuv420p) can be overwritten"
            )
        targets = plane_views(self._frame)
        for index, (source, target) in enumerate(zip((y, u, v), targets, strict=True)):
            visible = self._visible(target, index).shape
            if source.shape not in (target.shape, visible) or source.dtype != np.uint8:
                raise CodecError(
                    f"plane {'yuv'[index]} to inject at pts {self.pts} is {source.shape} {source.dtype}, "
                    f"expected {visible} uint8"
                )
        for index, (source, target) in enumerate(zip((y, u, v), targets, strict=True)):
            if source.shape != target.shape:
                rows, columns = self._window(index)
                hidden = (
                    (rows.start, target.shape[0] - rows.stop),
                    (columns.start, target.shape[1] - columns.stop),
                )
                source = np.pad(source, hidden, mode="edge")
            np.copyto(target, source)

    def _window(self, index: int) -> tuple[slice, slice]:
        """The visible rows and columns of a plane (0: luma)."""
        left, right, top, bottom = self._crop
        width, height = self._frame.width - left - right, self._frame.height - top - bottom
        if index == 0:
            return slice(top, top + height), slice(left, left + width)
        rows, columns = chroma_shape(width, height)
        return slice(top // 2, top // 2 + rows), slice(left // 2, left // 2 + columns)

    def _visible(self, plane: Plane, index: int) -> Plane:
        rows, columns = self._window(index)
        return plane[rows, columns]


class Closing(ABC):
    """Context manager half of what is to be closed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Release what is held; does nothing the second time."""


class PacketDecoder(Closing):
    """Decodes one stream packet by packet.

    extradata: the container's codec configuration, needed only where packets lack in-band headers. time_base:
    unit of the pts in seconds. threads: within one picture; what works ahead would be too late for an
    injection. options: FFmpeg's, for this decoder. Not safe to share between Python threads; several decoders
    in several threads run in parallel. Raises CodecError when the extradata is refused.
    """

    codec_name: ClassVar[str]
    label: ClassVar[str]
    thread_type: ClassVar[str | None] = None

    def __init__(
        self, extradata: bytes | None, *, time_base: Fraction, threads: int, options: Mapping[str, str]
    ) -> None:
        if threads < 1:
            raise CodecError(f"{self.label} decoder got {threads} threads, expected at least 1")
        self._time_base = time_base
        self._context: VideoCodecContext | None = None
        context = cast(VideoCodecContext, av.CodecContext.create(self.codec_name, "r"))
        if extradata:
            context.extradata = extradata
        if self.thread_type is not None:
            context.thread_type = self.thread_type
        context.thread_count = threads
        context.options = {"max_pixels": str(MAX_PIXELS), **options}
        try:
            context.open()
        except (av.error.FFmpegError, MemoryError) as error:
            raise CodecError(f"{self.label} decoder refuses its extradata: {error}") from error
        self._context = context

    def decode(self, packet: bytes, pts: int) -> list[DecodedFrame]:
        """Decode one temporal or access unit; return the pictures that come out now.

        Raises CodecError for damaged data. The decoder stays usable, but only from the next keyframe on.
        """
        if not packet:
            # FFmpeg takes an empty packet for the end of the stream.
            raise CodecError(f"{self.label} packet with pts {pts} is empty")
        unit = av.Packet(packet)
        unit.pts, unit.time_base = pts, self._time_base
        return self._run(unit, f"{self.label} packet with pts {pts} ({len(packet)} bytes) cannot be decoded")

    def flush(self) -> list[DecodedFrame]:
        """Return what is still inside, and make the decoder ready for another keyframe."""
        frames = self._run(None, f"{self.label} decoder cannot be flushed")
        if self._context is not None:
            self._context.flush_buffers()
        return frames

    def close(self) -> None:
        """Release the decoder; frames that came out stay valid."""
        self._context = None

    def _run(self, unit: "av.Packet[av.stream.Stream] | None", failure: str) -> list[DecodedFrame]:
        if self._context is None:
            raise CodecError(f"the {self.label} decoder is closed")
        try:
            frames: Sequence[av.VideoFrame] = self._context.decode(unit)
        except (av.error.FFmpegError, MemoryError) as error:
            raise CodecError(f"{failure}: {error}") from error
        for frame in frames:
            frame.time_base = self._time_base
        return [DecodedFrame(frame) for frame in frames]
