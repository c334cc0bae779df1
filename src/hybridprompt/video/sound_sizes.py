"""What the sound takes that `Mp4Writer` carries beside a video, before it is written."""

import io
import os
from dataclasses import dataclass
from fractions import Fraction
from typing import Self, cast

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer

from hybridprompt.errors import MediaError
from hybridprompt.video.audio import AudioTrack
from hybridprompt.video.files import FFMPEG_FAILURES, reason


@dataclass
class _Counter:
    """Takes packets as a container does, and keeps nothing of them but their times and sizes."""

    packets: list[tuple[float, int]]

    def mux(self, packet: "av.Packet[AudioStream]") -> None:
        # Of equal rationals equal floats: what ends at a time and what starts there agree on it.
        self.packets.append((float((packet.dts or 0) * packet.time_base), packet.size))


class SoundSizes:
    """Times and bytes of the packets of a sound track."""

    def __init__(self, packets: list[tuple[float, int]]) -> None:
        """packets: (seconds from the start of the file that is written, bytes)."""
        packets = sorted(packets)
        self._times_seconds = np.array([time for time, _ in packets])
        self._bytes_before = np.concatenate([[0], np.cumsum([size for _, size in packets], dtype=np.int64)])

    @classmethod
    def measure(cls, path: str | os.PathLike[str], origin_seconds: Fraction) -> Self | None:
        """What the sound of a file takes, by the bytes that an Mp4Writer with the same origin writes.

        None where it carries none.  Reads the whole file, and transcodes what has to be.  Raises MediaError.
        """
        track = AudioTrack.open(path, origin_seconds, None)
        if track is None:
            return None
        counter = _Counter([])
        try:
            # For the track to know what it is muxed into; nothing is written.
            with av.open(io.BytesIO(), mode="w", format="mp4") as output:
                track.add_to(output)
                track.write_until(cast(OutputContainer, counter), None)
        except FFMPEG_FAILURES as error:
            raise MediaError(f"{path}: its sound cannot be carried along ({reason(error)})") from error
        finally:
            track.close()
        return cls(counter.packets) if counter.packets else None

    def bytes_between(self, start_seconds: float, end_seconds: float) -> int:
        """Bytes of the packets that start at ``start_seconds`` or later, and before ``end_seconds``."""
        start, end = np.searchsorted(self._times_seconds, [start_seconds, end_seconds])
        return int(self._bytes_before[end] - self._bytes_before[start])

    def kbps(self, seconds: float) -> float:
        """Mean rate over so many seconds, or from the first packet to the last if that is longer; else 0."""
        seconds = max(seconds, float(self._times_seconds[-1] - self._times_seconds[0]))
        return float(self._bytes_before[-1]) / 125 / seconds if seconds > 0 else 0.0
