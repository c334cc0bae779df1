"""AV1 decoding with dav1d, and injection of other pixels into its reference pictures.

Note [Keyframe injection]: a VideoFrame does not copy what dav1d decoded; its planes are the very buffers
that dav1d keeps as reference picture. Writing into them after the picture came out and before the next packet
goes in changes what all following frames predict from, in an unmodified decoder. Three things make that
exact: `max_frame_delay=1` (with more, dav1d already decodes following frames; tile and row threads are
fine), film grain synthesis off (it would hand out a copy), and a shown frame (hidden references never
come out).
Entropy contexts and motion vectors are not touched: they come from the packets.

`max_frame_delay=1` has a second reason: with more, dav1d's threads may release a packet, which belongs to a
Python object, while `close` waits for them and holds the GIL: a deadlock.
"""

from collections.abc import Sequence
from fractions import Fraction
from types import TracebackType
from typing import Final, Self, cast

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.codeccontext import VideoCodecContext

from hybridprompt.errors import CodecError
from hybridprompt.video.picture import Picture, Plane, picture_from_frame, plane_views

MAX_PIXELS: Final = 16384 * 8704  # the largest AV1 level's picture area, 142.6 million


class DecodedFrame:
    """One shown frame, still shared with the decoder that made it."""

    def __init__(self, frame: av.VideoFrame) -> None:
        self._frame = frame
        self._picture: Picture | None = None

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
        return self._frame.format.name == "yuv420p"

    @property
    def picture(self) -> Picture:
        """The picture, as views of the decoder's buffers (8-bit 4:2:0) or converted (anything else).

        After `overwrite` the views show the new samples. Copy it (`Picture.copied`) to keep the old ones.
        """
        if self._picture is None:
            self._picture = picture_from_frame(self._frame, copy=False)
        return self._picture

    def overwrite(self, y: Plane, u: Plane, v: Plane) -> None:
        """Replace the samples of this picture, also as the decoder's reference: Note [Keyframe injection].

        y is (H, W) uint8, u and v are (ceil(H/2), ceil(W/2)) uint8. Call it before the next packet is
        decoded. Raises CodecError when the stream is not 8-bit 4:2:0 or a shape is wrong.
        """
        if not self.can_overwrite:
            raise CodecError(
                f"picture with pts {self.pts} has pixel format {self._frame.format.name}: "
                "only 8-bit 4:2:0 (yuv420p) can be overwritten"
            )
        targets = plane_views(self._frame)
        for name, source, target in zip("yuv", (y, u, v), targets, strict=True):
            if source.shape != target.shape or source.dtype != np.uint8:
                raise CodecError(
                    f"plane {name} to inject at pts {self.pts} is {source.shape} {source.dtype}, "
                    f"expected {target.shape} uint8"
                )
        for source, target in zip((y, u, v), targets, strict=True):
            np.copyto(target, source)


class Av1Decoder:
    """Decodes one AV1 stream packet by packet; a shown picture comes out of the call that its packet goes in.

    extradata: av1C or a sequence header OBU, needed only where packets lack in-band headers. time_base: unit
    of the pts in seconds. threads: dav1d's tile and row threads. Not safe to share between Python threads;
    several decoders in several threads run in parallel.
    """

    def __init__(
        self, extradata: bytes | None = None, *, time_base: Fraction = Fraction(1, 90000), threads: int = 1
    ) -> None:
        if threads < 1:
            raise CodecError(f"AV1 decoder got {threads} threads, expected at least 1")
        self._time_base = time_base
        self._context: VideoCodecContext | None = None
        context = cast(VideoCodecContext, av.CodecContext.create("libdav1d", "r"))
        if extradata:
            context.extradata = extradata
        context.thread_count = threads
        context.options = {
            "max_frame_delay": "1",
            # Hands film grain out as side data instead of applying it to a copy of the reference.
            "export_side_data": "film_grain",
            "max_pixels": str(MAX_PIXELS),
        }
        try:
            context.open()
        except av.error.FFmpegError as error:
            raise CodecError(f"AV1 decoder refuses its extradata: {error}") from error
        self._context = context

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def decode(self, packet: bytes, pts: int) -> list[DecodedFrame]:
        """Decode one temporal unit; normally returns its one shown frame.

        Raises CodecError for damaged data. The decoder stays usable, but only from the next keyframe on.
        """
        unit = av.Packet(packet)
        unit.pts, unit.time_base = pts, self._time_base
        if not packet:
            # FFmpeg takes an empty packet for the end of the stream.
            raise CodecError(f"AV1 packet with pts {pts} is empty")
        return self._run(unit, f"AV1 packet with pts {pts} ({len(packet)} bytes) cannot be decoded")

    def flush(self) -> list[DecodedFrame]:
        """Return what is still inside (normally nothing), and make the decoder ready for another keyframe."""
        frames = self._run(None, "AV1 decoder cannot be flushed")
        if self._context is not None:
            self._context.flush_buffers()
        return frames

    def close(self) -> None:
        """Release the decoder; frames that came out stay valid."""
        self._context = None

    def _run(self, unit: "av.Packet[av.stream.Stream] | None", failure: str) -> list[DecodedFrame]:
        if self._context is None:
            raise CodecError("the AV1 decoder is closed")
        try:
            frames: Sequence[av.VideoFrame] = self._context.decode(unit)
        except (av.error.FFmpegError, MemoryError) as error:
            raise CodecError(f"{failure}: {error}") from error
        for frame in frames:
            frame.time_base = self._time_base
        return [DecodedFrame(frame) for frame in frames]
