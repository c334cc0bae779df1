"""Reading AV1, H.264 and H.265 packets from containers, without decoding."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Final

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from hybridprompt.errors import MediaError
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.files import FFMPEG_FAILURES, open_input, reason
from hybridprompt.video.picture import UNSPECIFIED, ColorInfo

MAX_GOP_PACKETS: Final = 3000
MAX_GOP_BYTES: Final = 64 << 20
_FALLBACK_RATE: Final = Fraction(30)
_FIRST_PACKETS: Final = 8
_SEEK_BACK_SECONDS: Final = (0, 0, 4, 20, 100)
"""How much further back seeking is tried, from one attempt to the next."""

_NAMES: Final = {"av1": "AV1", "h264": "H.264", "hevc": "H.265"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GopPackets:
    """The packets from one keyframe up to the next, in file order. index counts GOPs of the file from 0."""

    index: int
    packets: tuple[CodedPacket, ...]

    @property
    def pts(self) -> int:
        return self.packets[0].pts

    @property
    def size_bytes(self) -> int:
        return sum(len(packet.data) for packet in self.packets)

    def __repr__(self) -> str:
        return (
            f"GopPackets({self.index}, {len(self.packets)} packets, {self.size_bytes} bytes, pts={self.pts})"
        )


class PacketReader:
    """The video track of a file, packet by packet, if it is of one of some codecs.

    codecs: "av1", "h264" and "hevc", by their FFmpeg names; `codec` is the one found. Packets come in file
    order, that is in decoding order; AV1's is the display order, too. dts is the pts where the container has
    none. Every iteration reads the file anew, so several may run at once. AV1 packets from MP4 have no
    temporal delimiter OBU, as AV1-in-ISOBMFF asks; those from other containers may. Raises MediaError when
    the file cannot be read or holds no such video.
    """

    def __init__(self, path: str | os.PathLike[str], codecs: tuple[str, ...] = ("av1",)) -> None:
        self.path = Path(path)
        self._codecs = codecs
        with open_input(self.path) as container:
            stream = video_stream(container, self.path, codecs)
            context = stream.codec_context
            self.codec: str = context.codec.canonical_name
            self.width: int = context.width
            self.height: int = context.height
            self.pixel_format: str | None = context.pix_fmt
            self.extradata: bytes | None = context.extradata
            self.color = ColorInfo(
                context.colorspace or UNSPECIFIED,
                context.color_primaries or UNSPECIFIED,
                context.color_trc or UNSPECIFIED,
                context.color_range == 2,
            )
            self.average_rate: Fraction = stream.average_rate or stream.guessed_rate or _FALLBACK_RATE
            self.time_base: Fraction = stream.time_base or 1 / self.average_rate
            self.sample_aspect_ratio: Fraction = stream.sample_aspect_ratio or Fraction(1)
            self.packet_count: int | None = stream.frames or None
            self.start_pts: int = stream.start_time or 0
            self.has_audio: bool = bool(container.streams.audio)
            self.duration_seconds: float | None = None
            if stream.duration:
                self.duration_seconds = float(stream.duration * self.time_base)
            elif container.duration:
                self.duration_seconds = container.duration / av.time_base

    def __repr__(self) -> str:
        return f"PacketReader({self.path.name!r}, {self.width}x{self.height})"

    @cached_property
    def rotation(self) -> int:
        """Degrees (0, 90, 180, 270) by which a player turns the picture counterclockwise.

        Only a decoded picture tells, so the first access decodes one.
        """
        with open_input(self.path) as container:
            try:
                frame = next(container.decode(self._stream(container)), None)
            except FFMPEG_FAILURES as error:
                raise MediaError(
                    f"{self.path}: its first picture cannot be decoded ({reason(error)})"
                ) from error
        return 0 if frame is None else round(frame.rotation / 90) * 90 % 360

    @cached_property
    def has_times(self) -> bool:
        """Whether the container says when pictures are shown, as raw streams and AVI do not."""
        with open_input(self.path) as container:
            if container.format.name == "avi":
                # FFmpeg makes times up from the order of decoding.
                return False
            try:
                packets = (packet for packet in container.demux(self._stream(container)) if packet.size)
                return all(packet.pts is not None for packet in islice(packets, _FIRST_PACKETS))
            except FFMPEG_FAILURES:
                return False

    def __iter__(self) -> Iterator[CodedPacket]:
        return self.packets()

    def packets(self, start_seconds: float | None = None) -> Iterator[CodedPacket]:
        """Yield packets in file order, from the last keyframe at or before start_seconds of the video on.

        Where the container's index leads elsewhere, the keyframe may be an earlier one. Raises MediaError
        where the file cannot seek.
        """
        if start_seconds is not None and start_seconds > 0:
            target = self.start_pts + round(start_seconds / self.time_base)
            with open_input(self.path) as container:
                found = self._sought(container, target)
                if found is not None:
                    yield from found
                    return
        with open_input(self.path) as container:
            yield from self._demuxed(container, self._stream(container))

    def _sought(self, container: InputContainer, target: int) -> Iterator[CodedPacket] | None:
        """Packets from a keyframe at or before a time on; None where seeking leads to none."""
        stream = self._stream(container)
        place = target
        for back_seconds in _SEEK_BACK_SECONDS:
            try:
                container.seek(place, stream=stream, backward=True)
            except FFMPEG_FAILURES as error:
                seconds = float((target - self.start_pts) * self.time_base)
                raise MediaError(f"{self.path}: cannot seek to {seconds} s ({reason(error)})") from error
            packets = self._demuxed(container, stream)
            if self.codec == "av1":
                return packets
            # Not every container seeks to keyframes; and seeking goes by decoding times, which are earlier
            # than those at which pictures are shown.
            keyframe = next((packet for packet in packets if packet.is_keyframe), None)
            if keyframe is not None and keyframe.pts <= target:
                return chain((keyframe,), packets)
            place = min(place, place if keyframe is None else keyframe.dts) - 1
            place -= round(back_seconds / self.time_base)
        return None

    def _demuxed(self, container: InputContainer, stream: VideoStream) -> Iterator[CodedPacket]:
        step = max(1, round(1 / (self.average_rate * self.time_base)))
        following = self.start_pts
        try:
            for packet in container.demux(stream):
                if packet.size:
                    coded = _coded(packet, following, step)
                    following = coded.pts + max(coded.duration, 1)
                    yield coded
        except FFMPEG_FAILURES as error:
            _log.warning("%s: the file breaks off or is damaged (%s)", self.path, reason(error))

    def keyframe_pts(self) -> list[int]:
        """Return the pts of all keyframes: from the index where MP4 has one, else by reading all packets."""
        with open_input(self.path) as container:
            stream = self._stream(container)
            # The index holds decoding times, which for AV1 are presentation times.
            if self.codec == "av1" and "mp4" in container.format.name and len(stream.index_entries):
                return [entry.timestamp for entry in stream.index_entries if entry.is_keyframe]
        return [packet.pts for packet in self.packets() if packet.is_keyframe]

    def _stream(self, container: InputContainer) -> VideoStream:
        return video_stream(container, self.path, self._codecs)

    def iter_gops(self, start_seconds: float | None = None) -> Iterator[GopPackets]:
        """Yield one GOP after the other, each from a keyframe to the packet before the next keyframe.

        Packets before the first keyframe cannot be decoded and are left out. With start_seconds, the first
        GOP is the one that holds that time, and index counts from it. Raises MediaError for a GOP of more
        than MAX_GOP_PACKETS packets or MAX_GOP_BYTES bytes.
        """
        gop: list[CodedPacket] = []
        index = size_bytes = orphans = 0
        for packet in self.packets(start_seconds):
            if packet.is_keyframe and gop:
                yield GopPackets(index, tuple(gop))
                index, gop, size_bytes = index + 1, [], 0
            if not gop and not packet.is_keyframe:
                orphans += 1
                continue
            gop.append(packet)
            size_bytes += len(packet.data)
            if len(gop) > MAX_GOP_PACKETS or size_bytes > MAX_GOP_BYTES:
                raise MediaError(
                    f"{self.path}: GOP {index} has {len(gop)} packets and {size_bytes} bytes or more, "
                    f"expected at most {MAX_GOP_PACKETS} and {MAX_GOP_BYTES}"
                )
        if orphans:
            _log.warning("%s: %d packets before the first keyframe were left out", self.path, orphans)
        if gop:
            yield GopPackets(index, tuple(gop))


def video_stream(container: InputContainer, path: Path, codecs: Sequence[str]) -> VideoStream:
    """Return the best video track if it is of one of the codecs (FFmpeg's names). Raises MediaError."""
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
        known = " or ".join(_NAMES.get(codec, codec) for codec in codecs)
        raise MediaError(f"{path}: has no video track, expected {known} video")
    name = "an unknown codec" if stream.codec_context is None else stream.codec_context.codec.canonical_name
    if name not in codecs:
        raise MediaError(f"{path}: its video is {name}, expected {' or '.join(codecs)}")
    return stream


def av1_stream(container: InputContainer, path: Path) -> VideoStream:
    """Return the best video track if it is AV1. Raises MediaError otherwise."""
    return video_stream(container, path, ("av1",))


def _coded(packet: "av.Packet[VideoStream]", following: int, step: int) -> CodedPacket:
    pts = packet.pts if packet.pts is not None else packet.dts if packet.dts is not None else following
    dts = packet.dts if packet.dts is not None else pts
    return CodedPacket(bytes(packet), pts, dts, packet.duration or step, packet.is_keyframe)
