"""Makes training samples of stills: photos and frames, coded with fewer samples and brought to full size.

    python benchmarks/studies/still_corpus.py FOLDER --photos DIR ... --clips DIR ...
        [--repeats 4] [--starts 10]
        [--scales 1/2 2/3] [--crf 48 63] [--seed 3] [--holdout 12]

What `hybridprompt train` takes as a corpus.  Stills are coded as `encode.still_encoder` does and scaled as a
decoder does; every photo is scaled down first, which hides its own coding, and cut to at most 1280x720.  Of
clips the first halves are for training and two frames of the second for validation.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from hybridprompt.decode.still import decode_still
from hybridprompt.encode.still_encoder import encode_still
from hybridprompt.errors import HybridPromptError
from hybridprompt.prompt.sections import Still
from hybridprompt.train.corpus import CLIP_SUFFIXES, IMAGE_SUFFIXES
from hybridprompt.train.sample_files import save_arrays, stack_planes
from hybridprompt.video.picture import Picture, picture_from_frame
from hybridprompt.video.scaling import scaled, scaled_size
from hybridprompt.video.source import VideoSource

_SHRINK = 0.55, 0.9
_LARGEST = 1280, 720
_LEAST_PIXELS = 150_000
_SECOND_HALF = 0.6, 0.9
_GRID = 16


@dataclass(frozen=True)
class Task:
    """One sample: of a photo, or of a frame at a share of a clip; everything random comes from the seed."""

    path: Path
    split: str
    seed: int
    share: float | None = None

    @property
    def name(self) -> str:
        return f"{self.path.stem[:40]}-{self.seed}.npz"


def plan(arguments: argparse.Namespace) -> Iterator[Task]:
    """All samples, those for validation among them."""
    seeds = iter(range(arguments.seed * 1_000_000, (arguments.seed + 1) * 1_000_000))
    photos = [p for folder in arguments.photos for p in files(folder, IMAGE_SUFFIXES)]
    for index, path in enumerate(photos):
        held_out = index % arguments.holdout == arguments.holdout - 1
        for _ in range(1 if held_out else arguments.repeats):
            yield Task(path, "validation" if held_out else "train", next(seeds))
    for path in (p for folder in arguments.clips for p in files(folder, CLIP_SUFFIXES)):
        for share in np.linspace(0.02, 0.48, arguments.starts):
            yield Task(path, "train", next(seeds), float(share))
        for share in _SECOND_HALF:
            yield Task(path, "validation", next(seeds), share)


def files(folder: Path, suffixes: set[str]) -> list[Path]:
    """Files of these kinds, in order."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)


def photo(path: Path, rng: np.random.Generator) -> Picture | None:
    """A part of a photo, scaled down; None of one that is too small."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    if image.width * image.height < _LEAST_PIXELS:
        return None
    shrink = rng.uniform(*_SHRINK)
    width, height = (int(side * shrink) for side in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    size = [min(side, most) // _GRID * _GRID for side, most in zip((width, height), _LARGEST, strict=True)]
    left, top = (
        int(rng.integers(0, side - mine + 1)) for side, mine in zip((width, height), size, strict=True)
    )
    cut = np.asarray(image.crop((left, top, left + size[0], top + size[1])))
    frame = av.VideoFrame.from_ndarray(cut, "rgb24").reformat(format="yuv420p", dst_colorspace="ITU709")
    frame.pts, frame.time_base = 0, Fraction(1, 30)
    return picture_from_frame(frame)


def smaller_still(picture: Picture, scale: Fraction, crf: float) -> Still:
    """An AV1 still of fewer samples, or as many."""
    small = scaled(picture, *scaled_size(picture.width, picture.height, scale)) if scale < 1 else picture
    still, _ = encode_still(small, crf, preset=5, tune=0)
    return still


def stacked(picture: Picture) -> NDArray[np.uint8]:
    """Planes as training has them, of whole multiples of what the network takes."""
    width, height = picture.width // _GRID * _GRID, picture.height // _GRID * _GRID
    y, u, v = picture.planes
    return stack_planes(y[:height, :width], *(c[: height // 2, : width // 2] for c in (u, v)))


def sample(
    task: Task, scales: list[Fraction], crfs: tuple[int, int]
) -> dict[str, NDArray[np.generic]] | None:
    """The arrays of a sample; None where there is nothing to make one of."""
    rng = np.random.default_rng(task.seed)
    if task.share is None:
        picture = photo(task.path, rng)
    else:
        source = VideoSource(task.path)
        picture = next(source.frames((source.duration_seconds or 0.0) * task.share), None)
    if picture is None:
        return None
    scale, crf = scales[int(rng.integers(len(scales)))], float(rng.integers(crfs[0], crfs[1] + 1))
    decoded = decode_still(smaller_still(picture, scale, crf), picture.width, picture.height)
    y, u, v = decoded.planes
    return {
        "source": stacked(picture),
        "coded": stacked(Picture(y, u, v, 0, picture.time_base, picture.color)),
        "base_q_idx": np.array(decoded.base_q_idx),
        "is_key": np.array(True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photos", nargs="+", type=Path, default=[])
    parser.add_argument("--clips", nargs="+", type=Path, default=[])
    parser.add_argument("--repeats", type=int, default=4, help="samples of every photo")
    parser.add_argument("--starts", type=int, default=10, help="samples of every clip")
    parser.add_argument("--scales", nargs="+", type=Fraction, default=[Fraction(1, 2), Fraction(2, 3)])
    parser.add_argument("--crf", nargs=2, type=int, default=(48, 63))
    parser.add_argument("--holdout", type=int, default=12, help="every so-many-th photo is for validation")
    parser.add_argument("--seed", type=int, default=3)
    arguments = parser.parse_args()
    for split in ("train", "validation"):
        (arguments.folder / split).mkdir(parents=True, exist_ok=True)
    # Those for validation first, so that training can begin before all are there.
    for task in track(sorted(plan(arguments), key=lambda task: task.split != "validation")):
        path = arguments.folder / task.split / task.name
        try:
            arrays = None if path.exists() else sample(task, arguments.scales, tuple(arguments.crf))
        except (HybridPromptError, av.FFmpegError, OSError, ValueError) as error:
            print(f"skipped {task.path.name}: {error}")
            continue
        if arrays is not None:
            save_arrays(path, arrays)


if __name__ == "__main__":
    main()
