"""Small AV1 streams with prompts for the fake generator, and a decoder of them that is as plain as can be."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from hybridprompt.generator.fake import FakeGenerator
from hybridprompt.prompt.carriage import attach, extract
from hybridprompt.prompt.gate import GateMap, grid_shape
from hybridprompt.prompt.sections import build_prompt
from hybridprompt.prompt.syntax import Prompt, decode_prompt, encode_prompt
from hybridprompt.video.av1_encoder import Av1Settings, CodedPacket, encode_gop
from hybridprompt.video.container import Mp4Writer
from hybridprompt.video.picture import Picture

WIDTH, HEIGHT = 158, 90
TICK = Fraction(1, 30)
GOP_LENGTH = 17
ANCHORS = (0, 8)
"""Packets of each GOP that carry prompts; at 8, SVT-AV1 shows a frame that it decoded before."""

Planes = tuple[np.ndarray, np.ndarray, np.ndarray]


class Lookup:
    """Knows the given generators and no others."""

    def __init__(self, *generators: FakeGenerator) -> None:
        self.known = {generator.identity: generator for generator in generators}

    def find(self, identity: bytes) -> FakeGenerator | None:
        return self.known.get(identity)


def a_prompt(
    *, strength: int = 3, generator_id: bytes = b"fakefake", size: tuple[int, int] | None = None
) -> Prompt:
    """A prompt whose gate leaves the left column of blocks alone."""
    width, height = size or (WIDTH, HEIGHT)
    indices = np.full(grid_shape(width, height, 5), strength, np.uint8)
    indices[:, 0] = 0
    return build_prompt(generator_id, width, height, 90, GateMap(5, 4, indices))


def moving_pictures(count: int, *, first: int = 0, seed: int = 0) -> list[Picture]:
    rng = np.random.default_rng(seed)
    texture = np.kron(rng.integers(40, 200, (40, 60)), np.ones((8, 8))).astype(np.uint8)
    flat = np.full(((HEIGHT + 1) // 2, WIDTH // 2), 110 + 10 * seed, np.uint8)
    return [
        Picture(texture[i : i + HEIGHT, 2 * i : 2 * i + WIDTH], flat, flat + 30, first + i, TICK)
        for i in range(count)
    ]


def base_packets(gops: int) -> list[list[CodedPacket]]:
    """GOPs without prompts."""
    settings = Av1Settings(width=WIDTH, height=HEIGHT, frame_rate=1 / TICK, time_base=TICK, crf=40, preset=10)
    return [
        encode_gop(moving_pictures(GOP_LENGTH, first=GOP_LENGTH * k, seed=k), settings) for k in range(gops)
    ]


def with_prompt(packet: CodedPacket, prompt_bytes: bytes | None = None) -> CodedPacket:
    data = attach(packet.data, encode_prompt(a_prompt()) if prompt_bytes is None else prompt_bytes)
    return replace(packet, data=data)


def prompted(gop: list[CodedPacket]) -> list[CodedPacket]:
    return [with_prompt(packet) if index in ANCHORS else packet for index, packet in enumerate(gop)]


def flat(gops: list[list[CodedPacket]]) -> list[CodedPacket]:
    return [packet for gop in gops for packet in gop]


def write_mp4(path: Path, packets: list[CodedPacket]) -> Path:
    with Mp4Writer(path, time_base=TICK, frame_rate=1 / TICK) as writer:
        for packet in packets:
            writer.write(packet)
        writer.commit()
    return path


def planes_of(frame: av.VideoFrame) -> Planes:
    """Copies of the visible samples."""
    y, u, v = (
        np.frombuffer(bytes(plane), np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width].copy()
        for plane in frame.planes
    )
    return y, u, v


def reference_decode(packets: list[CodedPacket], generator: FakeGenerator | None = None) -> list[Planes]:
    """Decode packet by packet in one thread with PyAV alone; with a generator, overwrite at every prompt."""
    context = av.CodecContext.create("libdav1d", "r")
    context.thread_count = 1
    context.options = {"max_frame_delay": "1"}
    decoded = []
    for packet in packets:
        (frame,) = context.decode(av.Packet(packet.data))
        prompt_bytes = extract(packet.data)
        if generator is not None and prompt_bytes is not None:
            assert decode_prompt(prompt_bytes) == a_prompt()
            strengths = np.ones(grid_shape(WIDTH, HEIGHT, 5), np.float32)
            strengths[:, 0] = 0
            generated = generator.generate(planes_of(frame), quantiser=90, strengths=strengths, block_size=32)
            for plane, samples in zip(frame.planes, generated, strict=True):
                rows = np.zeros((plane.height, plane.line_size), np.uint8)
                rows[:, : plane.width] = samples
                plane.update(rows.tobytes())
        decoded.append(planes_of(frame))
    return decoded


def ffmpeg_decode(path: Path) -> list[Planes]:
    """What an ordinary player shows."""
    with av.open(str(path)) as container:
        return [planes_of(frame) for frame in container.decode(video=0)]


def assert_same(found: list[Planes], expected: list[Planes]) -> None:
    assert len(found) == len(expected)
    for index, (a, b) in enumerate(zip(found, expected, strict=True)):
        for name, plane, other in zip("yuv", a, b, strict=True):
            assert np.array_equal(plane, other), f"plane {name} of picture {index} differs"
