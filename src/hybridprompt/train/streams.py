"""Coded streams of a corpus's pieces, kept: from them and the same photos and clips the same corpus is made
elsewhere without coding anything, in a fraction of the time.

What has to be carried there are some 30 kB for a piece whose samples take 5 MB, beside its source.  A file
has the packets' bytes one after the other, their sizes and their times, as NumPy arrays.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hybridprompt.errors import ConfigError
from hybridprompt.train.sample_files import save_arrays
from hybridprompt.video.av1_encoder import CodedPacket

_MAX_BYTES = 64 << 20
_MAX_PACKETS = 1 << 12


def save_stream(path: Path, packets: Sequence[CodedPacket]) -> None:
    """Write packets under a temporary name first, the first of them a keyframe's."""
    save_arrays(
        path,
        {
            "data": np.frombuffer(b"".join(packet.data for packet in packets), np.uint8),
            "sizes": np.array([len(packet.data) for packet in packets]),
            "times": np.array([packet.pts for packet in packets]),
        },
    )


def load_stream(path: Path) -> list[CodedPacket]:
    """Read what `save_stream` wrote.  Raises ConfigError for anything else."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"larger than {_MAX_BYTES} bytes")
        with np.load(path) as file:
            # What is not compressed is no larger than the file; `data` is looked at before it is read.
            if any(member.compress_type != zipfile.ZIP_STORED for member in file.zip.infolist()):
                raise ValueError("compressed")
            data, sizes, times = (file[name] for name in ("data", "sizes", "times"))
        if not (data.dtype == np.uint8 and sizes.dtype == times.dtype == np.int64 and data.ndim == 1):
            raise ValueError(f"arrays of {data.dtype}, {sizes.dtype} and {times.dtype}")
        fits = sizes.ndim == 1 and sizes.shape == times.shape and 0 < len(sizes) <= _MAX_PACKETS
        if not fits or sizes.min() < 1 or sizes.max() > len(data) or sizes.sum() != len(data):
            raise ValueError("sizes that do not fit")
    except (OSError, EOFError, LookupError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigError(f"{path}: not a kept stream: {error}") from error
    ends = np.cumsum(sizes).tolist()
    return [
        CodedPacket(data[end - size : end].tobytes(), pts=time, dts=time, duration=1, is_keyframe=index == 0)
        for index, (end, size, time) in enumerate(zip(ends, sizes.tolist(), times.tolist(), strict=True))
    ]
