"""The method ``frame-by-frame``: the generator on every decoded frame of the SVT-AV1 base.

It stands for purely neural enhancement, which pays for every frame what HybridPrompt pays for few.  Because
it is so slow, only some frames are generated, and its speed is extrapolated from them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from hybridprompt.decode.headers import HeaderHistory
from hybridprompt.errors import BitstreamError, CodecError
from hybridprompt.evaluate.methods import MethodName, Reference
from hybridprompt.evaluate.peers import PeerMethod
from hybridprompt.evaluate.rates import Grid
from hybridprompt.generator.base import Generator
from hybridprompt.generator.registry import load_chosen
from hybridprompt.video.av1_decoder import Av1Decoder
from hybridprompt.video.packet_reader import PacketReader
from hybridprompt.video.picture import Picture

_BLOCK = 64
_STRENGTH = 1.0

_PROGRAM = """
import json, sys
from hybridprompt.evaluate.frame_by_frame import generation_speed
print(json.dumps(dict(generation_speed(sys.argv[1], int(sys.argv[2]), sys.argv[3]), peak=peak())))
"""


def generated_pictures(path: Path, generator: Generator, frames: frozenset[int]) -> Iterator[Picture]:
    """Decode an AV1 file; the pictures at ``frames`` come generated at full strength, the others as decoded.

    Nothing is written back into the decoder.  Raises MediaError, CodecError, GeneratorError.
    """
    reader = PacketReader(path)
    history = HeaderHistory(reader.extradata)
    shown = 0
    with Av1Decoder(reader.extradata, time_base=reader.time_base, threads=2) as decoder:
        for packet in reader:
            history.append(packet.data)
            for frame in decoder.decode(packet.data, packet.pts):
                picture = frame.picture
                if shown in frames:
                    picture = _generated(picture, generator, _quantiser(history))
                yield picture.copied()
                shown += 1


def _quantiser(history: HeaderHistory) -> int:
    try:
        return history.last_shown().base_q_idx
    except BitstreamError as error:
        raise CodecError(f"the quantiser of a frame cannot be read ({error})") from error


def _generated(picture: Picture, generator: Generator, quantiser: int) -> Picture:
    rows, columns = (-(-size // _BLOCK) for size in picture.y.shape)
    strengths = np.full((rows, columns), _STRENGTH, np.float32)
    y, u, v = generator.generate(picture.planes, quantiser=quantiser, strengths=strengths, block_size=_BLOCK)
    return replace(picture, y=y, u=u, v=v)


@lru_cache(maxsize=2)
def _load(choice: Path | None) -> Generator:
    return load_chosen(choice, threads=2)


@dataclass(frozen=True)
class FrameByFrameMethod:
    """Implements `methods.Method`; its files are those of ``base``."""

    name: MethodName
    base: PeerMethod
    generator: Path | None
    max_frames: int

    # What needs pictures that follow each other would need all of them generated.
    metrics: frozenset[str] | None = frozenset({"LPIPS-Alex", "LPIPS-VGG", "DISTS", "PSNR-Y", "MS-SSIM"})

    @property
    def suffix(self) -> str:
        return self.base.suffix

    @property
    def grid(self) -> Grid:
        return self.base.grid

    @property
    def max_encodes(self) -> int:
        return self.base.max_encodes

    def first_index(self, reference: Reference, target_kbps: float) -> int:
        return self.base.first_index(reference, target_kbps)

    def finer(self, index: int) -> None:
        return None

    def encode_settings(self, reference: Reference) -> dict[str, Any]:
        return self.base.encode_settings(reference)

    def result_settings(self) -> dict[str, Any]:
        return {
            "generator": _load(self.generator).identity.hex(),
            "strength": _STRENGTH,
            "generated_frames_at_most": self.max_frames,
        }

    def encode(self, reference: Reference, parameter: float, path: Path) -> None:
        self.base.encode(reference, parameter, path)

    def decode(self, reference: Reference, path: Path, frames: frozenset[int]) -> Iterator[Picture]:
        for picture in generated_pictures(path, _load(self.generator), frames):
            yield replace(picture, color=reference.color)

    def speed_program(self, path: Path) -> tuple[str, list[str]]:
        return _PROGRAM, [str(path), str(self.max_frames), str(self.generator or "")]


def generation_speed(path: str, count: int, generator: str) -> dict[str, float]:
    """Decode and generate the first ``count`` frames; return the figures that `speed` reads.

    The rate is that of these frames; a whole clip would take the same time for every frame of it.
    """
    started = time.perf_counter()
    loaded = _load(Path(generator) if generator else None)
    first, done = 0.0, 0
    for done, _ in enumerate(generated_pictures(Path(path), loaded, frozenset(range(count))), 1):
        first = first or time.perf_counter()
        if done == count:
            break
    ended = time.perf_counter()
    return {"fps": done / (ended - started), "first": first - started, "extrapolated_from": done}
