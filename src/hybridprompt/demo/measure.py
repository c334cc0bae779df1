"""What the demo measures: perceptual distances on sampled frames, and the speed of decoding."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hybridprompt.decode.video_file import VideoFile
from hybridprompt.evaluate.compare import Comparer, FrameScores, picture_to_rgb
from hybridprompt.evaluate.perceptual import Dists, Lpips
from hybridprompt.video.picture import Picture
from hybridprompt.video.source import VideoSource

TILE = 256
"""LPIPS-VGG and DISTS are taken on tiles of this size: whole 1080p pictures take minutes and gigabytes."""

_TILE_GRID = (2, 2)


@dataclass(frozen=True)
class Method:
    """One way of showing the clip: a file, played with or without its prompts."""

    name: str
    path: Path
    base: bool = False
    generator: Path | None = None

    def open(self) -> VideoFile:
        generators = () if self.generator is None else (self.generator,)
        return VideoFile(self.path, base=self.base, generators=generators)


@dataclass(frozen=True)
class Playback:
    """A decoded method: some of its pictures by frame index, and how fast it was."""

    pictures: Mapping[int, Picture]
    frame_count: int
    seconds: float

    @property
    def frames_per_second(self) -> float:
        return self.frame_count / max(self.seconds, 1e-9)


def play(method: Method, keep: Sequence[int]) -> Playback:
    """Decode a method from end to end; keep copies of the frames ``keep``.

    Raises MediaError, GeneratorError.
    """
    kept: dict[int, Picture] = {}
    count = 0
    with method.open() as video:
        started = time.monotonic()
        for index, decoded in enumerate(video):
            count += 1
            if index in keep:
                kept[index] = decoded.picture.copied()
        return Playback(kept, count, time.monotonic() - started)


def source_pictures(path: Path, keep: Sequence[int]) -> dict[int, Picture]:
    """The source's pictures at the frames ``keep``.  Raises MediaError."""
    return {i: p.copied() for i, p in enumerate(VideoSource(path).frames()) if i in keep}


def score(
    source: Mapping[int, Picture],
    methods: Mapping[str, Mapping[int, Picture]],
    tiled: Sequence[int],
) -> list[FrameScores]:
    """LPIPS-Alex and PSNR-Y of every frame; LPIPS-VGG and DISTS on tiles of the frames ``tiled``."""
    frames = sorted(source)
    comparer = Comparer(range(len(frames)), ())
    found = comparer.compare(
        [source[f] for f in frames],
        {name: [pictures[f] for f in frames] for name, pictures in methods.items()},
    )
    scores = [FrameScores(frames[s.frame], s.method, s.values) for s in found]
    metrics = _TiledMetrics()
    for frame in tiled:
        pictures = {name: shown[frame] for name, shown in methods.items()}
        scores += metrics.scores(frame, source[frame], pictures)
    return scores


class _TiledMetrics:
    def __init__(self) -> None:
        self._vgg, self._dists = Lpips("vgg"), Dists()

    @torch.inference_mode()
    def scores(self, frame: int, source: Picture, methods: Mapping[str, Picture]) -> list[FrameScores]:
        target = tiles(picture_to_rgb(source))
        vgg, dists = self._vgg.features(target), self._dists.features(target)
        out = []
        for name, picture in methods.items():
            shown = tiles(picture_to_rgb(picture))
            values = {
                "LPIPS-VGG": float(self._vgg.distance(self._vgg.features(shown), vgg).mean()),
                "DISTS": float(self._dists.distance(self._dists.features(shown), dists).mean()),
            }
            out.append(FrameScores(frame, name, values))
        return out


def tiles(rgb: torch.Tensor) -> torch.Tensor:
    """Cut evenly spread square tiles out of a picture (1, 3, H, W); less where it is small."""
    height, width = rgb.shape[-2:]
    size = min(TILE, height, width)
    tops = _offsets(height, size, _TILE_GRID[0])
    lefts = _offsets(width, size, _TILE_GRID[1])
    return torch.cat([rgb[..., t : t + size, x : x + size] for t in tops for x in lefts])


def _offsets(length: int, size: int, count: int) -> list[int]:
    """Starts of ``count`` pieces in the middles of equal parts; fewer where they would overlap."""
    count = max(1, min(count, length // size))
    return [int(np.clip((i + 0.5) * length / count - size / 2, 0, length - size)) for i in range(count)]
