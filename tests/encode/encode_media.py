"""Synthetic videos, fake judges and plain decoders for the encoder's tests."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from hybridprompt.encode.judge import block_means
from hybridprompt.generator.base import Planes, strength_plane
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.packet_reader import PacketReader
from hybridprompt.video.picture import Picture

TICK = Fraction(1, 30)


def scene(
    count: int,
    width: int = 160,
    height: int = 96,
    *,
    seed: int = 1,
    first: int = 0,
    brightness: int = 0,
    speed: int = 2,
    step: int = 1,
) -> list[Picture]:
    """A rough texture that moves right and down; pts in frames of 1/30 s, `step` of them apart."""
    rng = np.random.default_rng(seed)
    rows, columns = (height + count) // 4 + 2, (width + speed * count) // 4 + 2
    texture = rng.integers(40, 190, (rows, columns)).astype(np.float64).repeat(4, 0).repeat(4, 1)
    texture += rng.normal(0, 6, texture.shape)
    texture = np.clip(texture + brightness, 16, 235).astype(np.uint8)
    u = np.full(((height + 1) // 2, (width + 1) // 2), 100 + 8 * seed, np.uint8)
    v = np.full_like(u, 150 - 8 * seed)
    return [
        Picture(texture[i : i + height, speed * i : speed * i + width], u, v, first + i * step, TICK).copied()
        for i in range(count)
    ]


def scenes(*lengths: int, width: int = 160, height: int = 96) -> list[Picture]:
    """Scenes of different texture and brightness, cut hard."""
    out: list[Picture] = []
    for index, length in enumerate(lengths):
        brightness = (-40, 30, -10, 50)[index % 4]
        out += scene(length, width, height, seed=index + 1, first=len(out), brightness=brightness)
    return out


def write_source(
    path: Path,
    pictures: Sequence[Picture],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    audio_seconds: float = 0.0,
    rate: Fraction = Fraction(30),
) -> Path:
    """Write a nearly lossless file with PyAV alone; odd sizes want codec="ffv1" and .mkv."""
    options = {"crf": "2", "preset": "ultrafast"} if codec == "libx264" else {}
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = pictures[0].width, pictures[0].height, pix_fmt
        stream.codec_context.time_base = stream.time_base = pictures[0].time_base
        sound = output.add_stream("aac", rate=48000, layout="mono") if audio_seconds else None
        for picture in pictures:
            frame = picture.to_frame()
            if pix_fmt != "yuv420p":
                pts = frame.pts
                frame = frame.reformat(format=pix_fmt)
                frame.pts, frame.time_base = pts, picture.time_base
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if sound is not None:
            for start in range(0, round(48000 * audio_seconds), 1024):
                tone = (0.3 * np.sin((start + np.arange(1024)) / 17)).astype(np.float32)
                piece = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
                piece.sample_rate, piece.pts, piece.time_base = 48000, start, Fraction(1, 48000)
                output.mux(sound.encode(piece))
            output.mux(sound.encode(None))
    return path


def packets_of(path: Path) -> list[CodedPacket]:
    return list(PacketReader(path))


def audio_packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(p) for p in container.demux(audio=0) if p.size]


class LumaJudge:
    """Mean absolute luma difference per block: what a fake generator does to it can be computed by hand."""

    name = "luma difference"

    def __init__(self) -> None:
        self.prepared = 0

    def prepare(self, source: Picture) -> object:
        self.prepared += 1
        return source.y.astype(np.float64)

    def distance_map(self, picture: Picture, reference: object, block_size: int) -> np.ndarray:
        assert isinstance(reference, np.ndarray)
        difference = np.abs(picture.y.astype(np.float64) - reference)
        return block_means(difference, picture.height, picture.width, block_size)


class Oracle:
    """Knows the source: generates the picture of it that is nearest to the base.

    reach: share of the way there that strength 1 goes.
    """

    name = "oracle"
    identity = b"oracle!!"

    def __init__(self, sources: list[Picture], reach: float = 1.0) -> None:
        self.sources = sources
        self.reach = reach
        self.calls = 0

    def generate(self, planes: Planes, *, quantiser: int, strengths: np.ndarray, block_size: int) -> Planes:
        self.calls += 1
        base = planes[0].astype(int)
        source = min(self.sources, key=lambda s: np.abs(s.y[::2, ::2] - base[::2, ::2]).sum())
        share = self.reach * strength_plane(strengths, block_size, base.shape[1], base.shape[0])
        y = np.rint(base + share * (source.y.astype(int) - base)).astype(np.uint8)
        return y, planes[1].copy(), planes[2].copy()
