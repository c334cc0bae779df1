"""Keeps coded packets on disk until the whole video is decided."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import Self

from hybridprompt.errors import MediaError
from hybridprompt.video.av1_encoder import CodedPacket


@dataclass(frozen=True)
class _Entry:
    offset: int
    size_bytes: int
    pts: int
    dts: int
    duration: int
    is_keyframe: bool


class PacketSpool:
    """GOPs of packets in one temporary file without a name; a GOP may be replaced.

    Raises MediaError when there is no place for it or the disk is full.
    """

    def __init__(self) -> None:
        try:
            self._file = tempfile.TemporaryFile(prefix="hybridprompt-")  # noqa: SIM115 (closed by __exit__)
        except OSError as error:
            raise MediaError(f"temporary file for packets: {error.strerror or error}") from error
        self._gops: dict[int, list[_Entry]] = {}
        self._end = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def put(self, gop: int, packets: Sequence[CodedPacket]) -> None:
        """Store a GOP, or replace it."""
        entries = []
        try:
            self._file.seek(self._end)
            for packet in packets:
                entries.append(
                    _Entry(
                        self._end,
                        len(packet.data),
                        packet.pts,
                        packet.dts,
                        packet.duration,
                        packet.is_keyframe,
                    )
                )
                self._file.write(packet.data)
                self._end += len(packet.data)
            self._file.flush()
        except OSError as error:
            raise MediaError(f"temporary file for packets: {error.strerror or error}") from error
        self._gops[gop] = entries

    def pts(self, gop: int) -> list[int]:
        """Times of a GOP's packets."""
        return [entry.pts for entry in self._gops[gop]]

    def length(self, gop: int) -> int:
        """Number of a GOP's packets."""
        return len(self._gops[gop])

    def packets(self) -> Iterator[CodedPacket]:
        """All packets in order; each picture lasts until the next one is shown.

        dts are the times of display order, as much earlier for all as the most delayed picture needs.
        """
        entries = [entry for gop in sorted(self._gops) for entry in self._gops[gop]]
        times = sorted(entry.pts for entry in entries)
        following = dict(pairwise(times))
        lead = max((time - entry.pts for time, entry in zip(times, entries, strict=True)), default=0)
        for time, entry in zip(times, entries, strict=True):
            self._file.seek(entry.offset)
            data = self._file.read(entry.size_bytes)
            duration = max(following.get(entry.pts, entry.pts + entry.duration) - entry.pts, 1)
            yield CodedPacket(data, entry.pts, time - lead, duration, entry.is_keyframe)
