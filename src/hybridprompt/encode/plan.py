"""Cuts a video into GOPs: at scene cuts, and evenly where no cut comes for longer than the GOP length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hybridprompt.video.picture import Picture

MAX_GOP_FRAMES = 600
MAX_GOP_BYTES = 2 << 30
"""Two GOPs are held in memory: one is encoded while the other's prompts are decided."""

_MIN_SCENE_FRAMES = 8
_THUMBNAIL = 64
_HISTOGRAM_BINS = 32


def _thumbnail(luma: NDArray[np.uint8]) -> NDArray[np.float32]:
    step_y, step_x = max(luma.shape[0] // _THUMBNAIL, 1), max(luma.shape[1] // _THUMBNAIL, 1)
    # Two offset grids averaged: cheap, and less jumpy than one point per cell.
    a = luma[::step_y, ::step_x][:_THUMBNAIL, :_THUMBNAIL].astype(np.float32)
    b = luma[step_y // 2 :: step_y, step_x // 2 :: step_x][: a.shape[0], : a.shape[1]]
    out = a.copy()
    out[: b.shape[0], : b.shape[1]] = (a[: b.shape[0], : b.shape[1]] + b) / 2
    return out


def _histogram(thumbnail: NDArray[np.float32]) -> NDArray[np.float64]:
    counts, _ = np.histogram(thumbnail, _HISTOGRAM_BINS, (0, 256))
    return counts / thumbnail.size


@dataclass
class SceneCutDetector:
    """Tells, picture by picture, whether a new scene starts.

    A cut changes both what is where (mean absolute difference of thumbnails) and the tones (histogram
    distance), and much more than the pictures before it did; motion changes the first alone, fades neither at
    once.
    """

    difference_threshold: float = 18.0
    histogram_threshold: float = 0.28
    ratio_threshold: float = 3.0
    tone_ratio_threshold: float = 1.2
    _last: NDArray[np.float32] | None = None
    _usual: float = 0.0
    _recent: list[float] = field(default_factory=list)

    def push(self, luma: NDArray[np.uint8]) -> bool:
        """luma: (H, W) uint8.  Returns True when this picture starts a scene (never for the first)."""
        thumbnail = _thumbnail(luma)
        last, self._last = self._last, thumbnail
        if last is None or last.shape != thumbnail.shape:
            return False
        difference = float(np.abs(thumbnail - last).mean())
        tones = float(np.abs(_histogram(thumbnail) - _histogram(last)).sum()) / 2
        usual = float(np.mean(self._recent)) if self._recent else 0.0
        # Motion leaves the tones alone, so where they change the usual difference matters less.
        ratio = self.tone_ratio_threshold if tones > self.histogram_threshold else self.ratio_threshold
        threshold = self.difference_threshold * (1.0 if tones > self.histogram_threshold else 2.5)
        is_cut = difference > max(threshold, ratio * usual + 4)
        if is_cut:
            self._recent.clear()
        else:
            self._recent = [*self._recent[-7:], difference]
        return is_cut


def max_frames(gop_seconds: float, frame_rate: float, width: int, height: int) -> int:
    """Longest GOP in frames: the asked length, bounded by what fits in memory."""
    by_memory = int(MAX_GOP_BYTES / (width * height * 1.5))
    return max(1, min(round(gop_seconds * frame_rate), MAX_GOP_FRAMES, by_memory))


def split_gops(
    pictures: Iterable[Picture], *, gop_frames: int, gop_seconds: float
) -> Iterator[list[Picture]]:
    """Yield the pictures of one GOP after the other; memory holds one GOP.

    A GOP ends before a scene cut, after ``gop_frames`` pictures, or when it would last longer than
    ``gop_seconds`` (variable frame rate).  Of cuts in quick succession (flashes) only the first counts.
    """
    detector = SceneCutDetector()
    gop: list[Picture] = []
    since_cut = 0
    for picture in pictures:
        is_cut = detector.push(picture.y) and since_cut >= _MIN_SCENE_FRAMES
        since_cut = 1 if is_cut else since_cut + 1
        start = gop[0].pts_seconds if gop else None
        now = picture.pts_seconds
        too_long = start is not None and now is not None and now - start >= gop_seconds - 1e-6
        if gop and (len(gop) >= gop_frames or too_long or is_cut):
            yield gop
            gop = []
        gop.append(picture)
    if gop:
        yield gop


def split_at(pictures: Iterable[Picture], starts: Sequence[int]) -> Iterator[list[Picture]]:
    """Yield the GOPs that begin at the pts ``starts``, one list for each: empty where no picture came."""
    gop: list[Picture] = []
    index = 0
    for picture in pictures:
        assert picture.pts is not None
        while index + 1 < len(starts) and picture.pts >= starts[index + 1]:
            yield gop
            index, gop = index + 1, []
        gop.append(picture)
    yield gop
    for _ in starts[index + 1 :]:
        yield []
