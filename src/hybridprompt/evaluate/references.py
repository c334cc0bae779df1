"""References: what all methods encode, a clip or a piece of it, cut losslessly into the cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from hybridprompt.errors import MediaError
from hybridprompt.evaluate.cache import EncodeCache, digest_of, file_digest
from hybridprompt.evaluate.methods import Reference
from hybridprompt.video.peer_encoder import write_lossless
from hybridprompt.video.picture import Picture
from hybridprompt.video.source import VideoSource


def open_reference(path: Path, seconds: float, cache: EncodeCache, *, start_share: float = 0.0) -> Reference:
    """The reference of a clip: the clip itself, or a piece of it in the cache, losslessly.

    seconds: length of the piece; 0 for all that follows its start.  start_share: where it begins, as a share
    of the clip's duration.  Raises MediaError.
    """
    source = VideoSource(path)
    cut_of = {"clip": file_digest(path), "size": path.stat().st_size, "seconds": seconds}
    digest = digest_of(cut_of | ({"start_share": start_share} if start_share else {}))
    if seconds == 0 and start_share == 0:
        return _described(source, path, digest, _pts_span(source.frames()))

    def cut(target: Path) -> dict[str, Any]:
        span = _Span()
        pictures = span.watch(source.frames(_start_seconds(source, start_share), seconds or None))
        write_lossless(pictures, target, source.average_rate)
        return {"frames": span.frames, "first": span.first, "last": span.last}

    key = digest_of({"reference": digest, "coding": "ffv1"})
    entry = cache.get_or_make(key, ".mkv", cut)
    span = _Span(entry.info["frames"], entry.info["first"], entry.info["last"])
    return _described(source, entry.path, digest, span)


def _start_seconds(source: VideoSource, share: float) -> float | None:
    if share == 0:
        return None
    if source.duration_seconds is None:
        raise MediaError(f"{source.path}: its duration is not known, so a share of it cannot be left out")
    return share * source.duration_seconds


@dataclass
class _Span:
    """How many pictures there are, and the pts of the first and the last."""

    frames: int = 0
    first: int = 0
    last: int = 0

    def watch(self, pictures: Iterator[Picture]) -> Iterator[Picture]:
        for picture in pictures:
            assert picture.pts is not None
            self.first = picture.pts if self.frames == 0 else self.first
            self.last = picture.pts
            self.frames += 1
            yield picture


def _pts_span(pictures: Iterator[Picture]) -> _Span:
    span = _Span()
    for _ in span.watch(pictures):
        pass
    return span


def _described(source: VideoSource, path: Path, digest: str, span: _Span) -> Reference:
    if not span.frames:
        raise MediaError(f"{source.path}: holds no picture that can be decoded")
    return Reference(
        name=source.path.stem,
        path=path,
        digest=digest,
        width=source.width,
        height=source.height,
        frames=span.frames,
        frame_rate=source.average_rate,
        duration_seconds=float(
            (span.last - span.first) * source.time_base + 1 / Fraction(source.average_rate)
        ),
        color=source.color,
    )
