"""Makes training pictures as the decoder will meet them.

A photo becomes a short pan-and-zoom video, is coded by SVT-AV1 in random access at a low rate, and the
decoded keyframe and the base picture of the next mini-GOP are kept with their sources and their actual
base_q_idx.  That matters: in a real stream SVT-AV1 gives keyframes a far finer quantiser than the CRF says,
and temporal filtering changes them.  Clips are cut into pieces and coded the same way.

A sample is one ``.npz`` file: ``source`` and ``coded``, (3H/2, W) uint8 planes as PyAV's ``yuv420p`` arrays,
and ``base_q_idx``, ``is_key``.
"""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from PIL import Image

from hybridprompt.bitstream.obu import HeaderTracker
from hybridprompt.errors import ConfigError, HybridPromptError, MediaError
from hybridprompt.video.files import open_input, reason
from hybridprompt.video.picture import picture_from_frame
from hybridprompt.video.scheduling import ordinary_priority

logger = logging.getLogger(__name__)

FRAMES = 33
"""Length of one piece: a keyframe and one whole mini-GOP of 32 pictures."""

DEFAULT_TUNE = 1
"""SVT-AV1's number of what `hybridprompt encode` asks of it: PSNR."""

_MIN_SIDE = 64

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png"}
CLIP_SUFFIXES = {".mp4", ".mkv", ".webm", ".mov"}


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One short video to code: where it comes from and how."""

    path: Path
    seed: int
    crf: int
    preset: int
    split: str
    tune: int = DEFAULT_TUNE
    """SVT-AV1's number."""
    start_frame: int | None = None
    """First frame in the clip; None for a photo."""

    @property
    def name(self) -> str:
        key = f"{self.path.name}:{self.seed}:{self.crf}:{self.preset}:{self.tune}:{self.start_frame}"
        return hashlib.sha256(key.encode()).hexdigest()[:20]


def _even(value: float) -> int:
    return max(int(value) // 8 * 8, _MIN_SIDE)


def render_photo(path: Path, rng: np.random.Generator) -> list[np.ndarray]:
    """Render a pan-and-zoom video of a photo as FRAMES RGB pictures (H, W, 3) uint8."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    # Downscaling hides the photo's own coding artefacts.
    shrink = rng.uniform(0.55, 0.9)
    width, height = _even(image.width * shrink), _even(image.height * shrink)
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    out_w, out_h = min(_even(width * 0.94), 1024), min(_even(height * 0.94), 576)
    still = rng.random() < 0.3
    speed = rng.uniform(-1, 1, 2) * (0.0 if still else 3.0)
    zoom_rate = 0.0 if still else rng.uniform(-0.0015, 0.0015)
    x0, y0 = rng.uniform(0, width - out_w), rng.uniform(0, height - out_h)
    pictures = []
    for index in range(FRAMES):
        zoom = 1 + zoom_rate * index
        x = min(max(x0 + speed[0] * index, 0), max(width - out_w * zoom, 0))
        y = min(max(y0 + speed[1] * index, 0), max(height - out_h * zoom, 0))
        picture = image.transform(
            (out_w, out_h), Image.Transform.AFFINE, (zoom, 0, x, 0, zoom, y), Image.Resampling.BICUBIC
        )
        pictures.append(np.asarray(picture))
    return pictures


def _photo_frames(piece: Piece) -> list[av.VideoFrame]:
    rng = np.random.default_rng(piece.seed)
    frames = []
    for picture in render_photo(piece.path, rng):
        frame = av.VideoFrame.from_ndarray(picture, "rgb24")
        frames.append(frame.reformat(format="yuv420p", dst_colorspace="ITU709"))
    return frames


def _clip_frames(piece: Piece) -> list[av.VideoFrame]:
    assert piece.start_frame is not None
    frames = []
    with av.open(str(piece.path)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index >= piece.start_frame:
                width, height = frame.width // 8 * 8, frame.height // 8 * 8
                if min(width, height) < _MIN_SIDE:
                    raise MediaError(f"pictures of {frame.width}x{frame.height} are too small to learn from")
                y, u, v = picture_from_frame(frame, copy=False).planes
                chroma = np.concatenate([c[: height // 2, : width // 2].reshape(-1, width) for c in (u, v)])
                array = np.ascontiguousarray(np.concatenate([y[:height, :width], chroma]))
                frames.append(av.VideoFrame.from_ndarray(array, "yuv420p"))
            if len(frames) == FRAMES:
                break
    return frames


def _encode(frames: list[av.VideoFrame], piece: Piece) -> list[av.Packet[av.stream.Stream]]:
    encoder = av.CodecContext.create("libsvtav1", "w")
    encoder.width, encoder.height, encoder.pix_fmt = frames[0].width, frames[0].height, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 30), Fraction(30)
    encoder.options = {
        "preset": str(piece.preset),
        "crf": str(piece.crf),
        "g": "400",
        "svtav1-params": f"keyint=400:scd=0:lp=1:tune={piece.tune}",
    }
    with ordinary_priority():
        encoder.open()
    packets = []
    for index, frame in enumerate(frames):
        frame.pts, frame.time_base = index, Fraction(1, 30)
        packets += encoder.encode(frame)
    return packets + encoder.encode(None)


def make_piece(piece: Piece) -> Iterator[dict[str, np.ndarray]]:
    """Code one piece and yield its samples."""
    frames = _photo_frames(piece) if piece.start_frame is None else _clip_frames(piece)
    if len(frames) < FRAMES:
        return
    tracker = HeaderTracker()
    quantisers = {}
    decoder = cast(VideoCodecContext, av.CodecContext.create("libdav1d", "r"))
    decoder.thread_count = 1
    decoded: dict[int | None, av.VideoFrame] = {}
    for packet in _encode(frames, piece):
        shown = [header for header in tracker.parse(bytes(packet)) if header.shown]
        if packet.pts is not None and shown:
            quantisers[packet.pts] = shown[0].base_q_idx
        decoded |= {frame.pts: frame for frame in decoder.decode(packet)}
    decoded |= {frame.pts: frame for frame in decoder.decode(None)}
    for index in (0, FRAMES - 1):
        yield {
            "source": frames[index].to_ndarray(),
            "coded": decoded[index].to_ndarray(),
            "base_q_idx": np.array(quantisers[index]),
            "is_key": np.array(index == 0),
        }


def _work(job: tuple[Piece, str]) -> str | None:
    piece, folder = job
    out = Path(folder) / piece.split
    out.mkdir(parents=True, exist_ok=True)
    if (out / f"{piece.name}-0.npz").exists():
        return None
    try:
        for index, sample in enumerate(make_piece(piece)):
            temporary = out / f".{piece.name}-{index}.tmp.npz"
            np.savez(temporary, **sample)  # type: ignore[arg-type]
            os.replace(temporary, out / f"{piece.name}-{index}.npz")
    except (HybridPromptError, av.FFmpegError, OSError, ValueError, KeyError) as error:
        return f"{piece.path.name}: {error}"
    return None


def plan_photos(
    folder: Path, *, repeats: int, crf_range: tuple[int, int], preset: int, seed: int, holdout: int
) -> list[Piece]:
    """Plan ``repeats`` pieces of every photo under ``folder``; every ``holdout``-th is for validation.

    Raises ConfigError.
    """
    if repeats < 1 or holdout < 2:
        raise ConfigError(f"repeats = {repeats}, holdout = {holdout}: expected at least 1 and 2")
    photos = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not photos:
        raise ConfigError(f"{folder}: no photos found ({', '.join(sorted(IMAGE_SUFFIXES))} expected)")
    rng = np.random.default_rng(seed)
    pieces = []
    for index, path in enumerate(photos):
        split = "validation" if index % holdout == holdout - 1 else "train"
        for _ in range(repeats if split == "train" else 1):
            crf = int(rng.integers(crf_range[0], crf_range[1] + 1))
            pieces.append(
                Piece(path=path, seed=int(rng.integers(1 << 31)), crf=crf, preset=preset, split=split)
            )
    return pieces


def plan_clips(
    folder: Path, *, starts: int, crf_range: tuple[int, int], preset: int, seed: int
) -> list[Piece]:
    """Plan pieces of every clip: ``starts`` of its first half for training, one of its second to validate.

    Raises MediaError for a clip that cannot be read.
    """
    pieces = []
    rng = np.random.default_rng(seed)
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in CLIP_SUFFIXES):
        total = _clip_length(path)
        half = total // 2
        for index in range(starts):
            start = int(index * max(half - FRAMES, 1) / max(starts - 1, 1))
            crf = int(rng.integers(crf_range[0], crf_range[1] + 1))
            pieces.append(Piece(path=path, seed=0, crf=crf, preset=preset, split="train", start_frame=start))
        middle = sum(crf_range) // 2
        pieces.append(
            Piece(path=path, seed=0, crf=middle, preset=preset, split="validation", start_frame=half + 8)
        )
    return pieces


def _clip_length(path: Path) -> int:
    with open_input(path) as container:
        if not container.streams.video:
            raise MediaError(f"{path}: has no video track")
        try:
            return container.streams.video[0].frames or sum(1 for _ in container.decode(video=0))
        except av.FFmpegError as error:
            raise MediaError(f"{path}: {reason(error)}") from error


def make_corpus(pieces: Iterable[Piece], folder: Path, *, workers: int, seed: int = 0) -> list[str]:
    """Code all pieces into ``folder``; existing samples are kept.  Returns the errors, one line each.

    The held-out pieces come first, so that a run which trains while the corpus grows is always validated on
    the same pictures.
    """
    jobs = [(piece, str(folder)) for piece in pieces]
    np.random.default_rng(seed).shuffle(jobs)
    jobs.sort(key=lambda job: job[0].split != "validation")
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        errors = [error for error in pool.imap_unordered(_work, jobs) if error]
    for error in errors:
        logger.warning("skipped %s", error)
    return errors
