"""The video track of a file, as pictures: AV1 through the decoding pipeline, anything else through FFmpeg."""

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np

from hybridprompt.decode.injection import GeneratorLookup, GopDecoding, GopPicture
from hybridprompt.decode.pipeline import decode_packets, usable_cores
from hybridprompt.decode.warnings import DecodeWarning
from hybridprompt.errors import MediaError
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.packet_reader import PacketReader
from hybridprompt.video.picture import ColorInfo, Picture
from hybridprompt.video.source import VideoSource

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


class Av1Track:
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
        self._reader = reader = PacketReader(path)
        self._workers = workers
        self._decoding = GopDecoding(
            reader.time_base,
            reader.extradata,
            generators,
            threads=max(1, usable_cores() // workers),
            on_warning=on_warning,
        )
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
        for decoded in decode_packets(
            self._packets(first_pts, end_pts), self._decoding, workers=self._workers
        ):
            pts = decoded.picture.pts
            assert pts is not None
            if first_pts <= pts < end_pts:
                yield replace(decoded, picture=self._turned(decoded.picture))

    def _packets(self, first_pts: float, end_pts: float) -> Iterator[CodedPacket]:
        """Yield packets from the keyframe before first_pts on; AV1 files hold them in display order."""
        for packet in self._packets_from(first_pts):
            if packet.pts >= end_pts:
                return
            yield packet

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


def _quarter_turns(reader: PacketReader) -> int:
    try:
        return reader.rotation // 90
    except MediaError as error:
        # Decoding will say so, and goes on after the damage.
        _log.debug("%s", error)
        return 0
