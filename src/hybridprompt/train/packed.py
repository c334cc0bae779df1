"""Packs a corpus into one small file, to carry it to the machine that trains on it, and unpacks it there.

A sample is cut to one crop at a random place, and its source and its coded picture become AVIF stills of
one plane: luma, and chroma below it, as in the sample.  They are lossy, the coded picture's less so.  A crop
of 256 pixels takes some 15 kB at quality 76 of the 200 that it has as a sample.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, features

from hybridprompt.errors import ConfigError
from hybridprompt.train.sample_files import (
    Sample,
    crop_planes,
    load_sample,
    sample_paths,
    save_arrays,
    stack_planes,
)

SPLITS = ("train", "validation")
_NAME = re.compile(r"(train|validation)/[0-9A-Za-z_][0-9A-Za-z_.-]{0,79}\.npz")
_MAX_SIDE = 1 << 11
_MAX_MEMBER_BYTES = 3 * _MAX_SIDE**2
_MAX_SAMPLES = 1 << 18
_GRID = 16

CODED_EXTRA_QUALITY = 5
"""By which a coded picture's AVIF quality is above its source's: it has less to lose."""

_ENTRY_BYTES = 150
"""Of a member beside its data and its name, which is there twice; rather too many."""

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    LookupError,
    TypeError,
    # Of an encrypted member, of one in an unknown compression, and of JSON that is too deep.
    RuntimeError,
    zipfile.BadZipFile,
    Image.DecompressionBombError,
)
"""What reading a file that is no pack may raise."""


@dataclass(frozen=True, kw_only=True)
class PackSettings:
    """crop: luma pixels of the largest crop's side, a multiple of 16; quality: AVIF's, of the source.

    The coded picture's is CODED_EXTRA_QUALITY higher.  What a low quality takes off a source, a network
    trained on it does not learn to generate.  speed: of AVIF's encoder, 0 to 10.  ``finest`` as in
    `samples.SampleStore`.
    """

    crop: int = 320
    quality: int = 92
    speed: int = 8
    finest: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if self.crop % _GRID or not _GRID <= self.crop <= _MAX_SIDE:
            raise ConfigError(f"crop = {self.crop}: expected a multiple of {_GRID}, up to {_MAX_SIDE}")
        if not 1 <= self.quality <= 95 or not 0 <= self.speed <= 10:
            raise ConfigError(
                f"quality = {self.quality}, speed = {self.speed}: expected from 1 to 95, and from 0 to 10"
            )
        if not all(0 <= limit <= 256 for limit in self.finest):
            raise ConfigError(f"finest = {self.finest}: expected from 0 to 256")


def encode_still(plane: np.ndarray, quality: int, speed: int) -> bytes:
    """One plane (H, W) uint8 as a grey AVIF still; quality from 1 to 100, speed from 0 to 10."""
    out = io.BytesIO()
    # Pillow asks for colours; of grey, both conversions leave the levels as they are.
    picture = Image.fromarray(plane).convert("RGB")
    picture.save(out, "AVIF", quality=quality, speed=speed, subsampling="4:0:0")
    return out.getvalue()


def _crop(sample: Sample, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    height, width = (min(size, length) // _GRID * _GRID for length in (sample.height, sample.width))
    top, left = (
        int(rng.integers(0, (length - mine) // 2 + 1)) * 2
        for length, mine in ((sample.height, height), (sample.width, width))
    )

    def cut(array: np.ndarray) -> np.ndarray:
        return stack_planes(*crop_planes(array, top, left, height, width))

    return cut(sample.source), cut(sample.coded)


def _encode(job: tuple[Path, int, PackSettings]) -> tuple[bytes, bytes, int, bool] | None:
    path, seed, settings = job
    sample = load_sample(path)
    small = min(sample.width, sample.height) < _GRID
    if small or not sample.is_coarse(settings.finest):
        return None
    source, coded = _crop(sample, settings.crop, np.random.default_rng(seed))
    stills = (
        encode_still(source, settings.quality, settings.speed),
        encode_still(coded, settings.quality + CODED_EXTRA_QUALITY, settings.speed),
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
        yield pool.imap(function, jobs)


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

    The file is written under a temporary name.  Raises ConfigError where no sample fits or one is broken.
    """
    _need_avif()
    rng = np.random.default_rng(seed)
    found = [
        (f"{split}/{index}_{path.name}", path)
        for split in SPLITS
        for index, folder in enumerate(corpora)
        for path in sample_paths(folder / split)
    ]
    if not found:
        raise ConfigError(f"{', '.join(map(str, corpora))}: no training samples")
    for name, path in found:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{path}: a name of up to 70 letters, digits, '_', '-' and '.' is needed to pack it"
            )
    order = rng.permutation(len(found))
    jobs = [(found[i][1], int(rng.integers(1 << 31)), settings) for i in order]
    temporary = output.with_name(f".{output.name}.partial")
    count = used = 0
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
                header = json.dumps({"base_q_idx": base_q_idx, "is_key": is_key})
                members = {"source": source, "coded": coded, "json": header.encode()}
                used += sum(len(data) + 2 * len(name) + _ENTRY_BYTES for data in members.values())
                if max_bytes is not None and used > max_bytes:
                    break
                for kind, data in members.items():
                    archive.writestr(f"{name}.{kind}", data)
                count += 1
        if not count:
            raise ConfigError(f"{', '.join(map(str, corpora))}: no sample is small and coarse enough to pack")
        os.replace(temporary, output)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _need_avif() -> None:
    if not features.check("avif"):
        raise ConfigError("this build of Pillow has no AVIF; install the wheel of 11.3 or later")


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    info = archive.getinfo(name)
    # What is stored as it is cannot grow beyond the file that it comes from.
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise ValueError(f"{name} is compressed")
    if info.file_size > _MAX_MEMBER_BYTES:
        raise ValueError(f"{name} is larger than {_MAX_MEMBER_BYTES} bytes")
    return archive.read(info)


def _read_still(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with Image.open(io.BytesIO(_read(archive, name)), formats=["AVIF"]) as picture:
        if picture.width > _MAX_SIDE or picture.height > _MAX_SIDE * 3 // 2:
            raise ValueError(f"{name} is of {picture.width}x{picture.height} pixels")
        return np.asarray(picture.convert("L"))


def _unpack_some(job: tuple[Path, Path, Sequence[str]]) -> None:
    pack_file, folder, names = job
    with zipfile.ZipFile(pack_file) as archive:
        for name in names:
            _unpack_one(archive, pack_file, folder, name)


def _unpack_one(archive: zipfile.ZipFile, pack_file: Path, folder: Path, name: str) -> None:
    try:
        source, coded = (_read_still(archive, f"{name}.{kind}") for kind in ("source", "coded"))
        header = json.loads(_read(archive, f"{name}.json"))
        base_q_idx, is_key = int(header["base_q_idx"]), bool(header["is_key"])
        even = source.shape[0] % 3 == 0 and source.shape[1] % 2 == 0
        if source.shape != coded.shape or not even or not 0 <= base_q_idx <= 255:
            raise ValueError(f"{name}: pictures of {source.shape}, {coded.shape}, base_q_idx {base_q_idx}")
    except _UNREADABLE as error:
        raise ConfigError(f"{pack_file}: not a packed corpus: {error}") from error
    save_arrays(
        folder / name,
        {
            "source": source,
            "coded": coded,
            "base_q_idx": np.array(base_q_idx),
            "is_key": np.array(is_key),
        },
    )


def unpack(pack_file: Path, folder: Path, *, workers: int = 1) -> int:
    """Make samples of a pack in ``folder``, as `hybridprompt corpus` leaves them; returns how many.

    Raises ConfigError for a file that is no pack.
    """
    _need_avif()
    try:
        with zipfile.ZipFile(pack_file) as archive:
            names = [n.removesuffix(".json") for n in archive.namelist() if n.endswith(".json")]
    except _UNREADABLE as error:
        raise ConfigError(f"{pack_file}: not a packed corpus: {error}") from error
    if not 0 < len(names) <= _MAX_SAMPLES or not all(_NAME.fullmatch(name) for name in names):
        raise ConfigError(f"{pack_file}: not a packed corpus")
    for split in SPLITS:
        (folder / split).mkdir(parents=True, exist_ok=True)
    # Each worker reads the list of members as often as it gets a share of them.
    share = max(-(-len(names) // (4 * workers)), 1)
    jobs = [(pack_file, folder, names[i : i + share]) for i in range(0, len(names), share)]
    with _mapped(_unpack_some, jobs, workers) as done:
        for _ in done:
            pass
    return len(names)
