"""The video track of a file as pictures: through the pipeline if it may have prompts, else through FFmpeg."""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from hybridprompt.decode.carriage import NAL_CODECS, PacketCarriage
from hybridprompt.decode.generation import GeneratorLookup
from hybridprompt.decode.gop import GopPicture
from hybridprompt.decode.injection import GopDecoding
from hybridprompt.decode.nal_gop import NalDecoding
from hybridprompt.decode.pipeline import decode_packets, usable_cores
from hybridprompt.decode.warnings import DecodeWarning
from hybridprompt.errors import BitstreamError, CodecError, MediaError
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.packet_reader import PacketReader
from hybridprompt.video.picture import ColorInfo, Picture
from hybridprompt.video.source import VideoSource

_PIXEL_FORMATS: Final = ("yuv420p", "yuvj420p")

_log = logging.getLogger(__name__)


class Track(Protocol):
    """Sizes are those of the pictures as displayed; pts count in units of `time_base`."""

    width: int
    height: int
    duration_seconds: float | None
    average_rate: Fraction
    time_base: Fraction
    color: ColorInfo
    sample_aspect_ratio: Fraction
    start_pts: int

    def pictures(self, first_pts: float, end_pts: float) -> Iterator[GopPicture]:
        """Yield the pictures with first_pts <= pts < end_pts in display order, reading the file anew."""


class _PacketTrack(ABC):
    """What the tracks share that are decoded by the pipeline."""

    def __init__(self, reader: PacketReader, *, workers: int) -> None:
        self._reader = reader
        self._workers = workers
        self._quarter_turns = _quarter_turns(reader)
        sideways = self._quarter_turns % 2 == 1
        self.width, self.height = (reader.height, reader.width) if sideways else (reader.width, reader.height)
        self.duration_seconds: float | None = reader.duration_seconds
        self.average_rate: Fraction = reader.average_rate
        self.time_base: Fraction = reader.time_base
        self.color: ColorInfo = reader.color
        self.sample_aspect_ratio: Fraction = (
            1 / reader.sample_aspect_ratio if sideways else reader.sample_aspect_ratio
        )
        self.start_pts: int = reader.start_pts

    def pictures(self, first_pts: float, end_pts: float) -> Iterator[GopPicture]:
        for decoded in self._decoded(self._packets(first_pts, end_pts)):
            pts = decoded.picture.pts
            assert pts is not None
            if pts >= end_pts:
                return
            if first_pts <= pts:
                yield replace(decoded, picture=self._turned(decoded.picture))

    @abstractmethod
    def _decoded(self, packets: Iterator[CodedPacket]) -> Iterator[GopPicture]:
        """Decode packets into pictures in display order."""

    @abstractmethod
    def _packets(self, first_pts: float, end_pts: float) -> Iterator[CodedPacket]:
        """Yield packets from the keyframe before first_pts on, with all that are shown before end_pts."""

    def _packets_from(self, first_pts: float) -> Iterator[CodedPacket]:
        if first_pts > self.start_pts:
            seconds = math.floor(first_pts - self.start_pts) * float(self.time_base)
            packets = self._reader.packets(seconds)
            try:
                found = next(packets, None)
            except MediaError as error:
                _log.debug("reads from the front, as the file cannot seek: %s", error)
                found = None
            # A damaged or missing index may lead past the place.
            if found is not None and found.pts <= first_pts:
                return chain((found,), packets)
        return self._reader.packets()

    def _turned(self, picture: Picture) -> Picture:
        if self._quarter_turns == 0:
            return picture
        y, u, v = (np.rot90(plane, self._quarter_turns) for plane in picture.planes)
        return replace(picture, y=y, u=u, v=v)


class Av1Track(_PacketTrack):
    """AV1, with the detail that its prompts generate; `generators` None plays the base.

    Raises MediaError when the file holds no AV1 video.
    """

    def __init__(
        self,
        path: Path,
        *,
        generators: GeneratorLookup | None,
        workers: int,
        on_warning: Callable[[DecodeWarning], None],
    ) -> None:
        reader = PacketReader(path)
        super().__init__(reader, workers=workers)
        self._decoding = GopDecoding(
            reader.time_base,
            reader.extradata,
            generators,
            threads=_threads(workers),
            on_warning=on_warning,
        )

    def _decoded(self, packets: Iterator[CodedPacket]) -> Iterator[GopPicture]:
        return decode_packets(packets, self._decoding, workers=self._workers)

    def _packets(self, first_pts: float, end_pts: float) -> Iterator[CodedPacket]:
        """AV1 files hold packets in display order."""
        for packet in self._packets_from(first_pts):
            if packet.pts >= end_pts:
                return
            yield packet


class NalTrack(_PacketTrack):
    """H.264 or H.265 with the pictures that its prompts generate; `generators` None plays the base.

    The first keyframe's packet has to carry a prompt: that is the rule of the format (docs/bitstream.md), by
    which such a file is known without reading on. Raises MediaError for every other file.
    """

    def __init__(
        self,
        path: Path,
        *,
        generators: GeneratorLookup | None,
        workers: int,
        on_warning: Callable[[DecodeWarning], None],
    ) -> None:
        reader = PacketReader(path, tuple(NAL_CODECS))
        self._decoding = NalDecoding(
            reader.time_base,
            reader.extradata,
            generators,
            codec=NAL_CODECS[reader.codec],
            threads=_threads(workers),
            on_warning=on_warning,
        )
        if reader.pixel_format not in _PIXEL_FORMATS:
            raise MediaError(f"{path}: its pictures are {reader.pixel_format}, expected 8-bit 4:2:0")
        if not _has_prompt(reader, self._decoding):
            raise MediaError(f"{path}: its first keyframe carries no prompt")
        if not reader.has_times:
            # Pictures are put into display order by their times.
            _log.warning("%s: prompts are not used, as packets have no times; put it into MP4", path)
            raise MediaError(f"{path}: its packets have no times")
        super().__init__(reader, workers=workers)

    def _decoded(self, packets: Iterator[CodedPacket]) -> Iterator[GopPicture]:
        return decode_packets(packets, self._decoding, workers=self._workers)

    def _packets(self, first_pts: float, end_pts: float) -> Iterator[CodedPacket]:
        """Packets are in decoding order, so only a keyframe says that nothing shown earlier will follow.

        Even then pictures may, which precede it in display order: they come right after it.
        """
        beyond: CodedPacket | None = None
        for packet in self._packets_from(first_pts):
            if beyond is not None:
                if packet.pts > beyond.pts:
                    return
                yield beyond
                beyond = None
            if packet.is_keyframe and packet.pts >= end_pts:
                beyond = packet
            else:
                yield packet


class OtherTrack:
    """Any other codec. Raises MediaError when the file holds no video that can be decoded."""

    def __init__(self, path: Path) -> None:
        self._source = source = VideoSource(path, tone_map=False)
        self.width: int = source.width
        self.height: int = source.height
        self.duration_seconds: float | None = source.duration_seconds
        self.average_rate: Fraction = source.average_rate
        self.time_base: Fraction = source.time_base
        self.color: ColorInfo = source.color
        self.sample_aspect_ratio: Fraction = source.sample_aspect_ratio
        self.start_pts: int = source.start_pts

    def pictures(self, first_pts: float, end_pts: float) -> Iterator[GopPicture]:
        seconds = float(self.time_base)
        # VideoSource rounds to the nearest picture itself.
        start = max(0.0, (math.ceil(first_pts) - self.start_pts) * seconds)
        duration = None if end_pts == math.inf else (math.ceil(end_pts) - self.start_pts) * seconds - start
        for index, picture in enumerate(self._source.frames(start or None, duration)):
            yield GopPicture(picture, index, is_keyframe=False, is_anchor=False)


def _threads(workers: int) -> int:
    return max(1, usable_cores() // workers)


def _has_prompt(reader: PacketReader, decoding: NalDecoding) -> bool:
    """Say whether the first keyframe carries a prompt, and the stream can be decoded at all."""
    keyframe = next((packet for packet in reader.packets() if packet.is_keyframe), None)
    if keyframe is None:
        return False
    try:
        decoding.new_decoder().close()
        carriage = PacketCarriage.of(reader.codec, reader.extradata)
    except (BitstreamError, CodecError) as error:
        raise MediaError(f"{reader.path}: {error}") from error
    try:
        return carriage.extract(keyframe.data) is not None
    except BitstreamError:
        # A damaged one is one, too: decoding will say so.
        return True


def _quarter_turns(reader: PacketReader) -> int:
    try:
        return reader.rotation // 90
    except MediaError as error:
        # Decoding will say so, and goes on after the damage.
        _log.debug("%s", error)
        return 0
