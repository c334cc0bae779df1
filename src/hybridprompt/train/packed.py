"""Packs a corpus into one small file, to carry it to the machine that trains on it, and unpacks it there.

A sample is cut to one crop at a random place, and its source and its coded picture become AVIF stills of
one plane: luma, and chroma below it, as in the sample.  They are lossy, the coded picture's less so.  A crop
of 256 pixels takes some 15 kB of the 200 that it has as a sample.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from hybridprompt.errors import ConfigError
from hybridprompt.train.samples import Sample, load_sample, split_planes

SPLITS = ("train", "validation")
_NAME = re.compile(r"(train|validation)/[0-9A-Za-z_.-]{1,80}\.npz")
_MAX_MEMBER_BYTES = 16 << 20
_MAX_SIDE = 1 << 13
_GRID = 16
_Job = TypeVar("_Job")
_Result = TypeVar("_Result")
_UNREADABLE = OSError, ValueError, zipfile.BadZipFile, zlib.error, Image.DecompressionBombError


@dataclass(frozen=True, kw_only=True)
class PackSettings:
    """crop: luma pixels of the largest crop's side, a multiple of 16; quality: AVIF's, of the source.

    The coded picture's is 5 higher.  ``finest`` as in `samples.SampleStore`.
    """

    crop: int = 320
    quality: int = 78
    speed: int = 6
    finest: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if self.crop % _GRID or not _GRID <= self.crop <= _MAX_SIDE:
            raise ConfigError(f"crop = {self.crop}: expected a multiple of {_GRID}, up to {_MAX_SIDE}")
        if not 1 <= self.quality <= 95 or not 0 <= self.speed <= 10:
            raise ConfigError(
                f"quality = {self.quality}, speed = {self.speed}: expected from 1 to 95, and from 0 to 10"
            )


def _still(plane: np.ndarray, quality: int, speed: int) -> bytes:
    out = io.BytesIO()
    # A grey picture in AVIF is its luma: no conversion of colours takes part.
    picture = Image.fromarray(plane).convert("RGB")
    picture.save(out, "AVIF", quality=quality, speed=speed, subsampling="4:0:0")
    return out.getvalue()


def _crop(sample: Sample, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    side = [min(size, length) // _GRID * _GRID for length in (sample.height, sample.width)]
    top, left = (
        int(rng.integers(0, (length - mine) // 2 + 1)) * 2
        for length, mine in zip((sample.height, sample.width), side, strict=True)
    )

    def cut(array: np.ndarray) -> np.ndarray:
        luma, chroma = split_planes(array)
        y = luma[top : top + side[0], left : left + side[1]]
        uv = chroma[:, top // 2 : (top + side[0]) // 2, left // 2 : (left + side[1]) // 2]
        return np.concatenate([y, uv.reshape(-1, side[1])])

    return cut(sample.source), cut(sample.coded)


def _encode(job: tuple[Path, int, PackSettings]) -> tuple[bytes, bytes, int, bool] | None:
    path, seed, settings = job
    sample = load_sample(path)
    small = min(sample.width, sample.height) < _GRID
    if small or sample.base_q_idx < settings.finest[not sample.is_key]:
        return None
    source, coded = _crop(sample, settings.crop, np.random.default_rng(seed))
    stills = (
        _still(source, settings.quality, settings.speed),
        _still(coded, settings.quality + 5, settings.speed),
    )
    return *stills, sample.base_q_idx, sample.is_key


@contextmanager
def _mapped(
    function: Callable[[_Job], _Result], jobs: Sequence[_Job], workers: int
) -> Iterator[Iterator[_Result]]:
    """Results in the order of the jobs; of one worker, from this process."""
    if workers == 1:
        yield map(function, jobs)
        return
    # What is left to do when the block ends is given up.
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield pool.imap(function, jobs, chunksize=8)


def pack(
    corpora: Sequence[Path],
    output: Path,
    settings: PackSettings,
    *,
    max_bytes: int | None = None,
    workers: int = 1,
    seed: int = 1,
) -> int:
    """Pack samples of both splits in random order until they take ``max_bytes``; returns how many.

    The file is written under a temporary name.  Raises ConfigError where there is no sample, or a broken one.
    """
    rng = np.random.default_rng(seed)
    found = [
        (f"{split}/{index}_{path.name}", path)
        for split in SPLITS
        for index, folder in enumerate(corpora)
        for path in sorted((folder / split).glob("*.npz"))
        if not path.name.startswith(".")
    ]
    if not found:
        raise ConfigError(f"{', '.join(map(str, corpora))}: no training samples")
    for name, path in found:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{path}: a name of letters, digits, '_', '-' and '.' is needed to pack it")
    order = rng.permutation(len(found))
    jobs = [(found[i][1], int(rng.integers(1 << 31)), settings) for i in order]
    temporary = output.with_name(f".{output.name}.partial")
    count = 0
    try:
        with (
            _mapped(_encode, jobs, workers) as all_packed,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
        ):
            for place, packed in enumerate(all_packed):
                if packed is None:
                    continue
                name = found[order[place]][0]
                source, coded, base_q_idx, is_key = packed
                size = len(source) + len(coded) + 4 * len(name) + 1000
                if max_bytes is not None and temporary.stat().st_size + size > max_bytes:
                    break
                archive.writestr(f"{name}.source", source)
                archive.writestr(f"{name}.coded", coded)
                header = {"base_q_idx": base_q_idx, "is_key": is_key}
                archive.writestr(f"{name}.json", json.dumps(header))
                count += 1
        os.replace(temporary, output)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > _MAX_MEMBER_BYTES:
        raise ValueError(f"{name} is larger than {_MAX_MEMBER_BYTES >> 20} MiB")
    return archive.read(name)


def _read_still(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with Image.open(io.BytesIO(_read(archive, name)), formats=["AVIF"]) as picture:
        if max(picture.size) > _MAX_SIDE * 3 // 2:
            raise ValueError(f"{name} is of {picture.width}x{picture.height} pixels")
        return np.asarray(picture.convert("L"))


def _unpack_one(job: tuple[Path, Path, str]) -> None:
    pack_file, folder, name = job
    try:
        with zipfile.ZipFile(pack_file) as archive:
            source, coded = (_read_still(archive, f"{name}.{kind}") for kind in ("source", "coded"))
            header = json.loads(_read(archive, f"{name}.json"))
            base_q_idx, is_key = int(header["base_q_idx"]), bool(header["is_key"])
        if source.shape != coded.shape or source.shape[0] % 3 or not 0 <= base_q_idx <= 255:
            raise ValueError(f"{name}: pictures of {source.shape}, {coded.shape}, base_q_idx {base_q_idx}")
    except (*_UNREADABLE, LookupError, TypeError, RecursionError) as error:
        raise ConfigError(f"{pack_file}: not a packed corpus: {error}") from error
    path = folder / name
    temporary = path.with_name(f".{path.name}.tmp.npz")
    np.savez(
        temporary,
        source=source,
        coded=coded,
        base_q_idx=np.array(base_q_idx),
        is_key=np.array(is_key),
    )
    os.replace(temporary, path)


def unpack(pack_file: Path, folder: Path, *, workers: int = 1) -> int:
    """Make samples of a pack in ``folder``, as `hybridprompt corpus` leaves them; returns how many.

    Raises ConfigError for a file that is no pack.
    """
    try:
        with zipfile.ZipFile(pack_file) as archive:
            names = [n.removesuffix(".json") for n in archive.namelist() if n.endswith(".json")]
    except _UNREADABLE as error:
        raise ConfigError(f"{pack_file}: not a packed corpus: {error}") from error
    if not names or not all(_NAME.fullmatch(name) for name in names):
        raise ConfigError(f"{pack_file}: not a packed corpus")
    for split in SPLITS:
        (folder / split).mkdir(parents=True, exist_ok=True)
    with _mapped(_unpack_one, [(pack_file, folder, name) for name in names], workers) as done:
        for _ in done:
            pass
    return len(names)
