"""What the H.264 and H.265 decoders share: FFmpeg's own software decoders, packet by packet."""

from collections.abc import Sequence
from fractions import Fraction
from types import TracebackType
from typing import ClassVar, Self, cast

import av
from av.video.codeccontext import VideoCodecContext

from hybridprompt.errors import CodecError
from hybridprompt.video.av1_decoder import MAX_PIXELS, DecodedFrame
from hybridprompt.video.files import reason


class NalDecoder:
    """Decodes one stream packet by packet.

    extradata: avcC or hvcC, then packets have NAL unit lengths; or parameter sets in Annex B, or None where
    they are in band. time_base: unit of the pts in seconds. threads: on the slices (or wavefronts) of one
    picture; frame threads would decode ahead of an injection. cropped: False returns the whole coded
    picture, hidden samples included. Not safe to share between Python threads; several decoders in several
    threads run in parallel.
    """

    codec_name: ClassVar[str]
    label: ClassVar[str]

    def __init__(
        self,
        extradata: bytes | None = None,
        *,
        time_base: Fraction = Fraction(1, 90000),
        threads: int = 1,
        cropped: bool = True,
    ) -> None:
        if threads < 1:
            raise CodecError(f"{self.label} decoder got {threads} threads, expected at least 1")
        self._time_base = time_base
        self._context: VideoCodecContext | None = None
        context = cast(VideoCodecContext, av.CodecContext.create(self.codec_name, "r"))
        if extradata:
            context.extradata = extradata
        context.thread_type = "SLICE"
        context.thread_count = threads
        context.options = {"max_pixels": str(MAX_PIXELS), "apply_cropping": str(int(cropped))}
        try:
            context.open()
        except (av.error.FFmpegError, MemoryError) as error:
            raise CodecError(f"{self.label} decoder refuses its extradata: {reason(error)}") from error
        self._context = context

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def decode(self, packet: bytes, pts: int) -> list[DecodedFrame]:
        """Decode one access unit; return the pictures that come out now.

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
            raise CodecError(f"{failure}: {reason(error)}") from error
        for frame in frames:
            frame.time_base = self._time_base
        return [DecodedFrame(frame) for frame in frames]
