"""Small synthetic pictures and files for the tests of hybridprompt.video."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from hybridprompt.video.picture import ColorInfo, Picture

RATE = Fraction(30)
TICK = Fraction(1, 30)


def pictures(
    count: int,
    width: int = 96,
    height: int = 64,
    *,
    pts: list[int] | None = None,
    time_base: Fraction = TICK,
    color: ColorInfo | None = None,
    seed: int = 1,
) -> list[Picture]:
    """A smooth random texture that moves two pixels right and one down per picture."""
    rng = np.random.default_rng(seed)
    rows, columns = height // 8 + count // 8 + 2, width // 8 + count // 4 + 2
    texture = np.kron(rng.integers(16, 236, (rows, columns)), np.ones((8, 8))).astype(np.uint8)
    chroma = np.kron(rng.integers(40, 216, (rows, columns)), np.ones((8, 8))).astype(np.uint8)
    half = (height + 1) // 2, (width + 1) // 2
    made = []
    for index in range(count):
        y = texture[index : index + height, 2 * index : 2 * index + width]
        u = chroma[: half[0], index : index + half[1]]
        v = chroma[index // 2 : index // 2 + half[0], : half[1]]
        time = index if pts is None else pts[index]
        made.append(Picture(y, u, v, time, time_base, color or ColorInfo()))
    return made


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(float) - b.astype(float)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def write_clip(
    path: Path,
    clip: list[Picture],
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    rotation: float | None = None,
    hflip: bool = False,
    audio: str | None = None,
    audio_seconds: float = 1.0,
    color: ColorInfo | None = None,
    movflags: str = "",
    rate: Fraction = RATE,
) -> Path:
    """Write a clip with PyAV directly, independently of the code under test."""
    container_options = {"movflags": movflags} if movflags else {}
    with av.open(str(path), "w", container_options=container_options) as output:
        stream = output.add_stream(codec, rate=rate, options=options or {"crf": "4", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = clip[0].width, clip[0].height, pix_fmt
        stream.codec_context.time_base = stream.time_base = clip[0].time_base
        if color is not None:
            context = stream.codec_context
            context.colorspace, context.color_primaries = color.matrix, color.primaries
            context.color_trc, context.color_range = color.transfer, 2 if color.full_range else 1
        if rotation is not None:
            stream.set_display_rotation(rotation, hflip=hflip)
        sound = None if audio is None else _add_audio(output, audio)
        for picture in clip:
            frame = picture.to_frame()
            if pix_fmt != "yuv420p":
                pts, time_base = frame.pts, frame.time_base
                frame = frame.reformat(format=pix_fmt)
                frame.pts, frame.time_base = pts, time_base
            if color is not None:
                frame.colorspace, frame.color_primaries = color.matrix, color.primaries
                frame.color_trc, frame.color_range = color.transfer, 2 if color.full_range else 1
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if sound is not None:
            _write_tone(output, sound, audio_seconds)
    return path


def write_audio_only(path: Path, codec: str = "aac") -> Path:
    with av.open(str(path), "w") as output:
        _write_tone(output, _add_audio(output, codec), 0.5)
    return path


def _add_audio(output: av.container.OutputContainer, codec: str) -> av.AudioStream:
    return output.add_stream(codec, rate=48000, layout="stereo")


def _write_tone(output: av.container.OutputContainer, stream: av.AudioStream, seconds: float) -> None:
    total = round(48000 * seconds)
    tone = (0.3 * np.sin(np.arange(total) * 2 * np.pi * 440 / 48000)).astype(np.float32)
    for start in range(0, total, 1024):
        piece = np.stack([tone[start : start + 1024]] * 2)
        frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))
