"""Samples of a training corpus and their files, without torch.

A sample's file is what `corpus` says.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hybridprompt.errors import ConfigError


@dataclass(frozen=True)
class Sample:
    """One coded picture and its source, as (3H/2, W) uint8 ``yuv420p`` arrays."""

    name: str
    source: np.ndarray
    coded: np.ndarray
    base_q_idx: int
    is_key: bool

    @property
    def width(self) -> int:
        return int(self.source.shape[1])

    @property
    def height(self) -> int:
        return int(self.source.shape[0] * 2 // 3)

    def is_coarse(self, finest: tuple[int, int]) -> bool:
        """Whether it is no finer than ``finest``: base_q_idx of keyframes, of other pictures."""
        return self.base_q_idx >= finest[not self.is_key]


def split_planes(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split a (3H/2, W) array into luma (H, W) and chroma (2, H/2, W/2) views."""
    height, width = array.shape[0] * 2 // 3, array.shape[1]
    return array[:height], array[height:].reshape(2, height // 2, width // 2)


def stack_planes(luma: np.ndarray, *chroma: np.ndarray) -> np.ndarray:
    """The opposite of `split_planes`: one (3H/2, W) array, a copy; chroma in one array or two."""
    return np.concatenate([luma, *(planes.reshape(-1, luma.shape[1]) for planes in chroma)])


def crop_planes(
    array: np.ndarray, top: int, left: int, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Luma (height, width) and chroma (2, height/2, width/2) of a part of an array, views; all even."""
    luma, chroma = split_planes(array)
    rows, columns = (slice(first // 2, (first + size) // 2) for first, size in ((top, height), (left, width)))
    return luma[top : top + height, left : left + width], chroma[:, rows, columns]


def sample_paths(folder: Path) -> list[Path]:
    """Files of the samples of a split, without those that are being written."""
    return [path for path in sorted(folder.glob("*.npz")) if not path.name.startswith(".")]


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as one ``.npz`` file, a sample's for `load_sample`, under a temporary name first."""
    temporary = path.with_name(f".{path.stem}.tmp.npz")
    try:
        np.savez(temporary, **arrays)  # type: ignore[arg-type]
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_sample(path: Path) -> Sample:
    """Read one sample.  Raises ConfigError for anything else."""
    try:
        with np.load(path) as data:
            sample = Sample(
                path.name, data["source"], data["coded"], int(data["base_q_idx"]), bool(data["is_key"])
            )
    except (zipfile.BadZipFile, zlib.error, LookupError, TypeError, ValueError, OSError, EOFError) as error:
        raise ConfigError(f"{path}: not a training sample: {error}") from error
    shapes = sample.source.shape, sample.coded.shape
    even = len(shapes[0]) == 2 and shapes[0][0] % 3 == 0 and shapes[0][1] % 2 == 0
    bytes_only = sample.source.dtype == sample.coded.dtype == np.uint8
    if shapes[0] != shapes[1] or not even or not bytes_only:
        raise ConfigError(f"{path}: not a training sample: pictures of {shapes[0]} and {shapes[1]}")
    return sample
