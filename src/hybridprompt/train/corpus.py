"""Makes training pictures as the decoder will meet them.

A photo becomes a short pan-and-zoom video, is coded by SVT-AV1 in random access at a low rate, and the
decoded keyframe and the base picture of the next mini-GOP are kept with their sources and their actual
base_q_idx.  That matters: in a real stream SVT-AV1 gives keyframes a far finer quantiser than the CRF says,
and temporal filtering changes them.  Clips are cut into pieces and coded the same way.

An anchor inside a GOP is predicted from generated pictures, so its base picture has some of their detail.
With a generator given, the base picture is kept a second time, decoded after the keyframe was generated.

Coded streams can be kept: see `streams`.

A sample is one ``.npz`` file: ``source`` and ``coded``, (3H/2, W) uint8 planes as PyAV's ``yuv420p`` arrays,
and ``base_q_idx``, ``is_key``.
"""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from PIL import Image

from hybridprompt.bitstream.obu import HeaderTracker
from hybridprompt.errors import ConfigError, HybridPromptError, MediaError
from hybridprompt.generator.base import Generator, Planes
from hybridprompt.generator.registry import load_chosen
from hybridprompt.train.sample_files import save_arrays, stack_planes
from hybridprompt.train.streams import load_stream, save_stream
from hybridprompt.video.av1_decoder import Av1Decoder
from hybridprompt.video.av1_encoder import LAMBDAS, Av1Settings, CodedPacket, encode_gop
from hybridprompt.video.files import open_input, reason
from hybridprompt.video.picture import Picture, picture_from_frame

logger = logging.getLogger(__name__)

FRAMES = 33
"""Length of one piece: a keyframe and one whole mini-GOP of 32 pictures."""

DEFAULT_TUNE = 0
"""SVT-AV1's number of what `hybridprompt encode` asks of it: visual quality."""

_RATE = Fraction(30)
_STRENGTHS = 0.5, 2.0
_KEPT = 0, FRAMES - 1
"""Of the pictures of a piece, those that become samples."""

_Frames = Sequence[int]

_KEY_LAMBDA = 0.5
"""As `hybridprompt encode` has it, or tries it first."""

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
    generator: Path | None = None
    """What generates keyframes for the third sample, as `load_chosen` takes it; None leaves that out."""

    @property
    def name(self) -> str:
        return self._digest("" if self.generator is None else f":{self.generator.name}")

    @property
    def coded_name(self) -> str:
        """What its stream is kept by, which no generator has a part in."""
        return self._digest("")

    def _digest(self, more: str) -> str:
        key = f"{self.path.name}:{self.seed}:{self.crf}:{self.preset}:{self.tune}:{self.start_frame}"
        return hashlib.sha256((key + more).encode()).hexdigest()[:20]


def _even(value: float) -> int:
    return max(int(value) // 8 * 8, _MIN_SIDE)


def render_photo(path: Path, rng: np.random.Generator, frames: _Frames = range(FRAMES)) -> list[np.ndarray]:
    """Render ``frames`` of a pan-and-zoom video of a photo as RGB pictures (H, W, 3) uint8."""
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
    for index in frames:
        zoom = 1 + zoom_rate * index
        x = min(max(x0 + speed[0] * index, 0), max(width - out_w * zoom, 0))
        y = min(max(y0 + speed[1] * index, 0), max(height - out_h * zoom, 0))
        picture = image.transform(
            (out_w, out_h), Image.Transform.AFFINE, (zoom, 0, x, 0, zoom, y), Image.Resampling.BICUBIC
        )
        pictures.append(np.asarray(picture))
    return pictures


def _picture(array: np.ndarray, index: int) -> Picture:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), "yuv420p")
    frame.pts, frame.time_base = index, 1 / _RATE
    return picture_from_frame(frame)


def _photo_arrays(piece: Piece, frames: _Frames) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(piece.seed)
    arrays = {}
    for index, picture in zip(frames, render_photo(piece.path, rng, frames), strict=True):
        frame = av.VideoFrame.from_ndarray(picture, "rgb24")
        arrays[index] = frame.reformat(format="yuv420p", dst_colorspace="ITU709").to_ndarray()
    return arrays


def _clip_arrays(piece: Piece, frames: _Frames) -> dict[int, np.ndarray]:
    assert piece.start_frame is not None
    arrays: dict[int, np.ndarray] = {}
    with av.open(str(piece.path)) as container:
        for index, frame in enumerate(container.decode(video=0), -piece.start_frame):
            if index in frames:
                width, height = frame.width // 8 * 8, frame.height // 8 * 8
                if min(width, height) < _MIN_SIDE:
                    raise MediaError(f"pictures of {frame.width}x{frame.height} are too small to learn from")
                y, u, v = picture_from_frame(frame, copy=False).planes
                u, v = (c[: height // 2, : width // 2] for c in (u, v))
                arrays[index] = stack_planes(y[:height, :width], u, v)
            if index == FRAMES - 1:
                break
    return arrays


def _encode(arrays: Mapping[int, np.ndarray], piece: Piece) -> list[CodedPacket]:
    settings = Av1Settings(
        width=arrays[0].shape[1],
        height=arrays[0].shape[0] * 2 // 3,
        frame_rate=_RATE,
        time_base=1 / _RATE,
        crf=piece.crf,
        preset=piece.preset,
        picture_lambdas=replace(LAMBDAS, key=_KEY_LAMBDA),
        extra=(("tune", str(piece.tune)),),
    )
    return encode_gop((_picture(array, index) for index, array in arrays.items()), settings)


def _decode(
    packets: Sequence[CodedPacket], generate: Callable[[Planes], Planes] | None = None
) -> dict[int, np.ndarray]:
    """Decode a keyframe, overwritten where ``generate`` is given, and the last picture."""
    decoded = {}
    with Av1Decoder(time_base=1 / _RATE) as decoder:
        for index, packet in enumerate(packets):
            for frame in decoder.decode(packet.data, packet.pts):
                if index == 0 and generate is not None:
                    frame.overwrite(*generate(frame.picture.planes))
                if frame.pts in _KEPT:
                    decoded[frame.pts] = stack_planes(*frame.picture.planes)
    return decoded


@lru_cache(maxsize=2)
def _generator(choice: Path) -> Generator:
    return load_chosen(choice)


def make_piece(piece: Piece, streams: Path | None = None) -> Iterator[dict[str, np.ndarray]]:
    """Code one piece and yield its samples.

    streams: a folder where its stream is kept; one that is there already is not coded again.  Raises what
    the encoder, the decoder and the generator raise, ConfigError for a broken stream, and MediaError for
    one that is not of this piece.
    """
    kept = streams / f"{piece.coded_name}.npz" if streams is not None else None
    packets = load_stream(kept) if kept is not None and kept.exists() else None
    frames = range(FRAMES) if packets is None else _KEPT
    arrays = (_photo_arrays if piece.start_frame is None else _clip_arrays)(piece, frames)
    if len(arrays) < len(frames):
        return
    if packets is None:
        packets = _encode(arrays, piece)
        if kept is not None:
            save_stream(kept, packets)
    tracker = HeaderTracker()
    quantisers = {}
    for packet in packets:
        if shown := [header for header in tracker.parse(packet.data) if header.shown]:
            quantisers[packet.pts] = shown[0].base_q_idx

    def sample(index: int, coded: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "source": arrays[index],
            "coded": coded,
            "base_q_idx": np.array(quantisers[index]),
            "is_key": np.array(index == 0),
        }

    decoded = _decode(packets)
    if not all(
        index in quantisers and index in decoded and decoded[index].shape == arrays[index].shape
        for index in _KEPT
    ):
        raise MediaError(f"{kept}: is not the stream of {piece.path.name}")
    yield sample(0, decoded[0])
    yield sample(FRAMES - 1, decoded[FRAMES - 1])
    if piece.generator is None:
        return
    generator = _generator(piece.generator)
    strength = np.random.default_rng(piece.seed + 1).uniform(*_STRENGTHS)

    def generate(planes: Planes) -> Planes:
        gate = np.full((1, 1), strength, np.float32)
        return generator.generate(planes, quantiser=quantisers[0], strengths=gate, block_size=1 << 14)

    yield sample(FRAMES - 1, _decode(packets, generate)[FRAMES - 1])


def _work(job: tuple[Piece, str, Path | None]) -> str | None:
    piece, folder, streams = job
    out = Path(folder) / piece.split
    out.mkdir(parents=True, exist_ok=True)
    if (out / f"{piece.name}-0.npz").exists():
        return None
    try:
        for index, sample in enumerate(make_piece(piece, streams)):
            save_arrays(out / f"{piece.name}-{index}.npz", sample)
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
        cuts = []
        for index in range(starts):
            start = int(index * max(half - FRAMES, 1) / max(starts - 1, 1))
            crf = int(rng.integers(crf_range[0], crf_range[1] + 1))
            cuts.append(("train", crf, start))
        cuts.append(("validation", sum(crf_range) // 2, half + 8))
        pieces += [
            Piece(path=path, seed=start, crf=crf, preset=preset, split=split, start_frame=start)
            for split, crf, start in cuts
        ]
    return pieces


def _clip_length(path: Path) -> int:
    with open_input(path) as container:
        if not container.streams.video:
            raise MediaError(f"{path}: has no video track")
        try:
            return container.streams.video[0].frames or sum(1 for _ in container.decode(video=0))
        except av.FFmpegError as error:
            raise MediaError(f"{path}: {reason(error)}") from error


def make_corpus(
    pieces: Iterable[Piece], folder: Path, *, workers: int, seed: int = 0, streams: Path | None = None
) -> list[str]:
    """Code all pieces into ``folder``; existing samples are kept.  Returns the errors, one line each.

    streams: as in `make_piece`.  The held-out pieces come first, so that a run which trains while the corpus
    grows is always validated on the same pictures.
    """
    if streams is not None:
        streams.mkdir(parents=True, exist_ok=True)
    jobs = [(piece, str(folder), streams) for piece in pieces]
    np.random.default_rng(seed).shuffle(jobs)
    jobs.sort(key=lambda job: job[0].split != "validation")
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        errors = [error for error in pool.imap_unordered(_work, jobs) if error]
    for error in errors:
        logger.warning("skipped %s", error)
    return errors
