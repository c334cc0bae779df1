"""Small real AV1 streams for the tests, and FFmpeg's reading of their headers."""

import io
import os
import re
from fractions import Fraction
from functools import cache

import av
import av.logging
import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("SVT_LOG", "1")  # errors only

WIDTH, HEIGHT, FRAMES = 192, 128, 20


def synthetic_picture(index: int) -> NDArray[np.uint8]:
    """A drifting pattern, (3H/2, W) uint8 yuv420p."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    luma = 128 + 60 * np.sin((x + 3 * index) / 7) * np.cos((y - 2 * index) / 11) + 30 * np.sin(x * y / 900)
    chroma = np.full((HEIGHT // 2, WIDTH), 128) + (index % 7)
    return np.concatenate([luma, chroma]).clip(0, 255).astype(np.uint8)


@cache
def svt_stream(parameters: str = "", crf: int = 50) -> tuple[bytes, ...]:
    """Encode `FRAMES` synthetic pictures with SVT-AV1; return the temporal units in decoding order."""
    encoder = av.CodecContext.create("libsvtav1", "w")
    encoder.width, encoder.height, encoder.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 30), Fraction(30, 1)
    joined = ":".join(["keyint=240", "lp=1", *([parameters] if parameters else [])])
    encoder.options = {"preset": "12", "crf": str(crf), "svtav1-params": joined}
    packets = []
    for index in range(FRAMES):
        frame = av.VideoFrame.from_ndarray(synthetic_picture(index), "yuv420p")
        frame.pts = index
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    return tuple(bytes(packet) for packet in packets)


def decode(units: tuple[bytes, ...]) -> list[NDArray[np.uint8]]:
    """Decode with libdav1d; all pictures in output order."""
    decoder = av.CodecContext.create("libdav1d", "r")
    decoder.thread_count = 1
    packets = [*(av.Packet(unit) for unit in units), None]
    return [frame.to_ndarray() for packet in packets for frame in decoder.decode(packet)]


class HeaderTrace:
    """FFmpeg's `trace_headers` filter: its own reading of every header."""

    def __init__(self) -> None:
        # The filter wants a stream to learn the codec from; nothing is written to it.
        container = av.open(io.BytesIO(), "w", format="ivf")
        stream = container.add_stream("libsvtav1", rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        self._filter = av.BitStreamFilterContext("trace_headers", stream)

    def feed(self, unit: bytes, *, may_fail: bool = False) -> dict[str, list[int]]:
        """Return the values of every syntax element, by name, in reading order."""
        values: dict[str, list[int]] = {}
        for line in self._lines(unit, may_fail=may_fail):
            if match := re.match(r"\d+\s+(\w+)\S*\s+.*= (-?\d+)$", line):
                values.setdefault(match[1], []).append(int(match[2]))
        return values

    def header_bits(self, unit: bytes, *, may_fail: bool = False) -> list[dict[str, int]]:
        """Return per frame that is coded (not shown again) where its header's elements are.

        First bits by name, relative to the OBU's payload; of an array's elements, the last one's. "end" is
        the length of the header.
        """
        frames = []
        elements: dict[str, int] = {}
        payload = end = 0
        for line in self._lines(unit, may_fail=may_fail):
            if match := re.match(r"(\d+)\s+(\w+)\S*\s+([01]+) = ", line):
                first = int(match[1])
                end = first + len(match[3])
                if match[2] == "obu_size":
                    payload, elements = end, {}
                elements[match[2]] = first - payload
            elif re.match(r"Frame \d+:  size", line):
                frames.append(elements | {"end": end - payload})
        return frames

    def _lines(self, unit: bytes, *, may_fail: bool) -> list[str]:
        level = av.logging.get_level()
        av.logging.set_level(av.logging.TRACE)
        try:
            with av.logging.Capture() as lines:
                try:
                    self._filter.filter(av.Packet(unit))
                except av.FFmpegError:
                    if not may_fail:
                        raise
        finally:
            av.logging.set_level(level)
        return [line.strip() for _, _, line in lines]
