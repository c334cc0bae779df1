"""Carrying the sound of one file into an MP4: copied where possible, else transcoded to AAC."""

import logging
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Final, Self

import av
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer

from hybridprompt.video.files import FFMPEG_FAILURES, open_input, reason

COPIED_CODECS: Final = frozenset({"aac", "mp3", "ac3", "eac3", "opus", "flac", "alac"})
_AAC_RATES: Final = frozenset(
    {8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000}
)
_AAC_BITRATE_PER_CHANNEL: Final = 64000

_log = logging.getLogger(__name__)


class AudioTrack:
    """The best audio track of a file, written packet by packet beside video.

    origin_seconds of the file becomes time 0; sound before it and from end_seconds on (both in the file's
    time) is left out, to the precision of one packet.
    """

    def __init__(
        self,
        container: InputContainer,
        stream: AudioStream,
        path: Path,
        origin_seconds: Fraction,
        end_seconds: Fraction | None,
    ) -> None:
        self._container, self._source, self._path = container, stream, path
        self._origin, self._end = origin_seconds, end_seconds
        self._target: AudioStream | None = None
        self._packets: Iterator[av.Packet[AudioStream]] | None = None
        self._next: av.Packet[AudioStream] | None = None

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], origin_seconds: Fraction, end_seconds: Fraction | None
    ) -> Self | None:
        """Open the best audio track of a file; None if there is none that can be used."""
        path = Path(path)
        container = open_input(path)
        stream = container.streams.best("audio")
        if not isinstance(stream, AudioStream) or stream.codec_context is None:
            container.close()
            return None
        return cls(container, stream, path, origin_seconds, end_seconds)

    @property
    def is_copied(self) -> bool:
        """Whether the packets are copied rather than transcoded."""
        return self._source.codec_context.codec.canonical_name in COPIED_CODECS

    def add_to(self, output: OutputContainer) -> None:
        """Add a track to an output that has not been started."""
        if self.is_copied:
            self._target = output.add_stream_from_template(self._source, opaque=True)
            self._packets = self._copied()
        else:
            context = self._source.codec_context
            rate = context.sample_rate if context.sample_rate in _AAC_RATES else 48000
            layout, channels = ("mono", 1) if context.channels == 1 else ("stereo", 2)
            bitrate = _AAC_BITRATE_PER_CHANNEL * channels
            self._target = output.add_stream("aac", rate=rate, layout=layout, bit_rate=bitrate)
            self._packets = self._transcoded(AudioResampler("fltp", layout, rate))
        self._target.metadata.update(self._source.metadata)

    def write_until(self, output: OutputContainer, seconds: Fraction | None) -> None:
        """Mux the packets that start up to this time of the output; None for all that are left."""
        assert self._packets is not None
        while True:
            packet = self._next or next(self._packets, None)
            self._next = packet
            if packet is None:
                return
            if seconds is not None and (packet.dts or 0) * packet.time_base > seconds:
                return
            self._next = None
            output.mux(packet)

    def close(self) -> None:
        self._packets = self._next = None
        self._container.close()

    def _wanted(self) -> Iterator["av.Packet[AudioStream]"]:
        # Sound that does not matter must not stop the video: a damaged rest is left out.
        try:
            for packet in self._container.demux(self._source):
                if not packet.size or packet.pts is None:
                    continue
                start = packet.pts * packet.time_base
                if self._end is not None and start >= self._end:
                    return
                # The packet that ends at the origin primes the decoder; an edit list keeps it unheard.
                if self._origin <= 0 or start + (packet.duration or 0) * packet.time_base >= self._origin:
                    yield packet
        except FFMPEG_FAILURES as error:
            _log.warning("%s: its sound breaks off (%s)", self._path, reason(error))

    def _copied(self) -> Iterator["av.Packet[AudioStream]"]:
        assert self._target is not None
        for packet in self._wanted():
            offset = round(self._origin / packet.time_base)
            assert packet.pts is not None
            packet.pts -= offset
            packet.dts = packet.pts if packet.dts is None else packet.dts - offset
            packet.stream = self._target
            yield packet

    def _transcoded(self, resampler: AudioResampler) -> Iterator["av.Packet[AudioStream]"]:
        assert self._target is not None
        encoder = self._target
        written = 0
        for packet in self._wanted():
            try:
                frames = packet.decode()
            except FFMPEG_FAILURES as error:
                _log.warning("%s: a damaged audio packet was skipped (%s)", self._path, reason(error))
                continue
            for frame in frames:
                for piece in resampler.resample(frame):
                    written += 1
                    if piece.pts is not None and piece.time_base is not None:
                        piece.pts -= round(self._origin / piece.time_base)
                    yield from encoder.encode(piece)
        for piece in resampler.resample(None):
            yield from encoder.encode(piece)
        if written:
            yield from encoder.encode(None)
