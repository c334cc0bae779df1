"""Playing a file: the public way to its pictures."""

import contextlib
import logging
import math
import os
import weakref
from collections.abc import Generator as PythonGenerator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hybridprompt.decode.generators import LazyGenerators
from hybridprompt.decode.pipeline import default_workers, usable_cores
from hybridprompt.decode.tracks import Av1Track, NalTrack, OtherTrack, Track
from hybridprompt.decode.warnings import DecodeWarning, WarningCollector
from hybridprompt.errors import ConfigError, MediaError
from hybridprompt.generator.base import Generator
from hybridprompt.video.packet_decoder import Closing
from hybridprompt.video.picture import ColorInfo, Picture, Plane

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, slots=True)
class DecodedPicture:
    """One decoded picture.

    y is (H, W) uint8; u and v are (ceil(H/2), ceil(W/2)) uint8: read-only views, not always contiguous, that
    stay valid as long as they are kept. `pts` counts in units of `time_base`, `pts_seconds` from the first
    picture of the file. `is_anchor`: a generated picture. `is_keyframe` is only known of AV1, and of H.264
    and H.265 with prompts (IDR pictures).
    """

    y: Plane
    u: Plane
    v: Plane
    pts: int
    pts_seconds: float
    time_base: Fraction
    color: ColorInfo
    is_keyframe: bool = False
    is_anchor: bool = False

    @property
    def width(self) -> int:
        return int(self.y.shape[1])

    @property
    def height(self) -> int:
        return int(self.y.shape[0])

    @property
    def picture(self) -> Picture:
        """The same samples as the value that writers and encoders take."""
        return Picture(self.y, self.u, self.v, self.pts, self.time_base, self.color)

    def to_rgb(self) -> NDArray[np.uint8]:
        """Return (H, W, 3) uint8 RGB, full range, converted with the tagged (or guessed) matrix and range."""
        return self.picture.to_rgb()

    def __repr__(self) -> str:
        kind = ", anchor" if self.is_anchor else ""
        return f"DecodedPicture({self.width}x{self.height}, {self.pts_seconds:.3f} s{kind})"


class VideoFile(Closing):
    """A video file to take pictures from; AV1, H.264 and H.265 with prompts are played with generated detail.

    Files without prompts and of other codecs are decoded as they are; H.264 and H.265 have prompts if their
    first keyframe has one. base: ignore prompts, apart from stills, which the stream itself does not hold.
    generators: further generators, or paths of their ONNX files, beside the shipped ones. workers: GOPs
    decoded at a time (default: one per core, at most four); memory does not grow with the length of GOP or
    file.

    Raises MediaError when the file holds no video that can be decoded, GeneratorError for an unfit generator
    file, ConfigError for less than one worker.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        base: bool = False,
        generators: Iterable[Generator | str | os.PathLike[str]] = (),
        workers: int | None = None,
    ) -> None:
        self.path = Path(path)
        self._workers = default_workers() if workers is None else workers
        if self._workers < 1:
            raise ConfigError(f"{self._workers} decoding workers, expected at least 1")
        self._collector = WarningCollector(str(self.path))
        self._running: weakref.WeakSet[PythonGenerator[DecodedPicture]] = weakref.WeakSet()
        self._closed = False
        self._position_seconds: float | None = None
        given = [Path(g) if isinstance(g, str | os.PathLike) else g for g in generators]
        lookup = None if base else LazyGenerators(given, threads=usable_cores())
        self._track: Track = self._opened(lookup)

    def _opened(self, lookup: LazyGenerators | None) -> Track:
        for kind in (Av1Track, NalTrack):
            try:
                return kind(self.path, generators=lookup, workers=self._workers, on_warning=self._warn)
            except MediaError as error:
                _log.debug("not played as %s: %s", kind.__name__, error)
        return OtherTrack(self.path)

    def close(self) -> None:
        """End all iterations over the pictures, with their threads. Pictures stay valid."""
        self._closed = True
        for pictures in list(self._running):
            # ValueError: another thread is in it right now, and its own loop will end it.
            with contextlib.suppress(ValueError):
                pictures.close()

    def __repr__(self) -> str:
        return f"VideoFile({self.path.name!r}, {self.width}x{self.height}, {float(self.average_rate):g} Hz)"

    @property
    def width(self) -> int:
        """Width of the pictures in luma samples, as displayed."""
        return self._track.width

    @property
    def height(self) -> int:
        """Height of the pictures in luma samples, as displayed."""
        return self._track.height

    @property
    def duration_seconds(self) -> float | None:
        """What the container says; None where it does not."""
        return self._track.duration_seconds

    @property
    def average_rate(self) -> Fraction:
        """Pictures per second."""
        return self._track.average_rate

    @property
    def time_base(self) -> Fraction:
        """Unit of the pictures' pts in seconds."""
        return self._track.time_base

    @property
    def color(self) -> ColorInfo:
        return self._track.color

    @property
    def sample_aspect_ratio(self) -> Fraction:
        """Width of a sample to its height, as displayed."""
        return self._track.sample_aspect_ratio

    @property
    def warnings(self) -> tuple[DecodeWarning, ...]:
        """What went wrong so far without stopping the decoding; times count from the first picture.

        Some hundreds at most, however damaged the file is: `decode.warnings.WarningCollector`.
        """
        return self._collector.found

    def seek(self, seconds: float) -> None:
        """Make the next iterations over this object begin with the first picture at or after `seconds`.

        Raises ConfigError for a negative time.
        """
        self._position_seconds = _checked_seconds("position", seconds)

    def __iter__(self) -> Iterator[DecodedPicture]:
        return self.pictures(self._position_seconds)

    def pictures(
        self, start_seconds: float | None = None, duration_seconds: float | None = None
    ) -> PythonGenerator[DecodedPicture]:
        """Yield pictures in display order; by default all of them. Every call reads the file anew.

        start_seconds counts from the first picture of the file. Closing the generator, or leaving a loop over
        it, ends the decoding. Raises MediaError when the file cannot be read any more, ConfigError for
        negative times.
        """
        if self._closed:
            raise MediaError(f"{self.path}: the video file is closed")
        start = _checked_seconds("start", start_seconds or 0.0)
        duration = math.inf
        if duration_seconds is not None:
            duration = _checked_seconds("duration", duration_seconds)
        pictures = self._pictures(start, start + duration)
        self._running.add(pictures)
        return pictures

    def _pictures(self, start_seconds: float, end_seconds: float) -> PythonGenerator[DecodedPicture]:
        track = self._track
        # Half a tick of tolerance: times in seconds are seldom exact.
        first_pts, end_pts = (
            track.start_pts + seconds / float(track.time_base) - 0.5
            for seconds in (start_seconds, end_seconds)
        )
        for decoded in track.pictures(first_pts, end_pts):
            picture = decoded.picture
            assert picture.pts is not None
            yield DecodedPicture(
                *picture.planes,
                pts=picture.pts,
                pts_seconds=float((picture.pts - track.start_pts) * track.time_base),
                time_base=track.time_base,
                color=picture.color,
                is_keyframe=decoded.is_keyframe,
                is_anchor=decoded.is_anchor,
            )

    def _warn(self, warning: DecodeWarning) -> None:
        if warning.pts_seconds is not None and self._track.start_pts:
            offset = float(self._track.start_pts * self.time_base)
            warning = replace(warning, pts_seconds=round(warning.pts_seconds - offset, 6))
        self._collector.add(warning)


def _checked_seconds(name: str, seconds: float) -> float:
    if not 0 <= seconds < math.inf:
        raise ConfigError(f"{name} is {seconds} s, expected 0 or more")
    return seconds
