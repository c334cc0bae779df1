"""Encoding with the codecs that HybridPrompt is measured against, as an ordinary user of each would.

x264, x265, libvpx's VP9 and SVT-AV1, all at constant quality with closed GOPs of one length and no keyframes
at scene cuts. Pictures are numbered at a constant frame rate, so the bytes do not depend on timestamps.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Final, Literal, get_args

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.container import OutputContainer
from av.video.stream import VideoStream

from hybridprompt.errors import CodecError, ConfigError, MediaError
from hybridprompt.video.av1_encoder import Av1Settings, encode_stream
from hybridprompt.video.files import FFMPEG_FAILURES, PartialFile, close_quietly, open_input, reason
from hybridprompt.video.mp4_writer import Mp4Writer
from hybridprompt.video.picture import ColorInfo, Picture, tag_colors
from hybridprompt.video.scaling import scaled as scaled
from hybridprompt.video.source import VideoSource

PeerCodec = Literal["svt-av1", "x265", "x264", "vp9"]

CRF_RANGES: Final[dict[PeerCodec, tuple[float, float]]] = {
    "svt-av1": (1.0, 70.0),
    "x265": (0.0, 51.0),
    "x264": (0.0, 51.0),
    "vp9": (0.0, 63.0),
}
_LIBRARIES: Final = {"x265": "libx265", "x264": "libx264", "vp9": "libvpx-vp9"}
_VP9_LAG: Final = 25
_H264_SEI: Final = 6


@dataclass(frozen=True, kw_only=True)
class PeerSettings:
    """Settings of one encode by a peer.

    width, height: coded size; x264 and x265 take even ones only. crf: in the codec's own scale (CRF_RANGES);
    VP9 takes whole numbers only. bitrate_kbps: of VP9 alone, makes it constrained quality, where crf is the
    finest quality that the rate may buy. preset: the number of SVT-AV1's or VP9's (`cpu-used`), the name of
    x264's or x265's. gop_length: pictures from one keyframe to the next. extra: further parameters of the
    codec's own library.

    Raises ConfigError.
    """

    codec: PeerCodec
    width: int
    height: int
    frame_rate: Fraction
    crf: float
    preset: str
    gop_length: int
    bitrate_kbps: float | None = None
    threads: int = 2
    color: ColorInfo = field(default_factory=ColorInfo)
    extra: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.codec not in get_args(PeerCodec):
            raise ConfigError(f"codec is {self.codec!r}, expected one of {', '.join(get_args(PeerCodec))}")
        low, high = CRF_RANGES[self.codec]
        if not low <= self.crf <= high:
            raise ConfigError(f"CRF of {self.codec} is {self.crf:g}, expected {low:g} to {high:g}")
        if self.codec == "vp9" and self.crf % 1:
            raise ConfigError(f"CRF of vp9 is {self.crf:g}, expected a whole number")
        if self.codec in ("x264", "x265") and (self.width % 2 or self.height % 2):
            raise ConfigError(f"{self.codec} cannot code {self.width}x{self.height}, expected even sizes")
        if self.bitrate_kbps is not None and (self.codec != "vp9" or self.bitrate_kbps <= 0):
            raise ConfigError(f"bitrate of {self.codec} is {self.bitrate_kbps}: only VP9 takes one, above 0")
        if self.gop_length < 1 or self.threads < 1:
            raise ConfigError(f"gop_length {self.gop_length}, threads {self.threads}: expected at least 1")


def encode_peer_file(pictures: Iterable[Picture], settings: PeerSettings, path: Path) -> None:
    """Encode pictures of the coded size into an MP4 file, which replaces one that is there.

    Raises CodecError, MediaError.
    """
    if settings.codec == "svt-av1":
        _encode_svt(pictures, settings, path)
    else:
        _encode_by_ffmpeg(pictures, settings, path)


def track_bytes(path: Path) -> int:
    """Every byte of a file's video track: its packets, and H.264's and HEVC's parameter sets beside them.

    AV1 and VP9 have their headers in the packets. Raises MediaError.
    """
    with open_input(path) as container:
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream) or stream.codec_context is None:
            raise MediaError(f"{path}: has no video track")
        beside = stream.codec_context.name in ("h264", "hevc")
        extra = len(stream.codec_context.extradata or b"") if beside else 0
        return extra + sum(packet.size for packet in container.demux(stream) if packet.size)


def write_lossless(pictures: Iterable[Picture], path: Path, frame_rate: Fraction) -> int:
    """Write pictures losslessly (FFV1 in a Matroska file), with their times and color tags; return how many.

    Replaces a file that is there. Raises MediaError, CodecError.
    """
    count = 0
    partial = PartialFile(path, overwrite=True)
    output: OutputContainer | None = None
    try:
        output = av.open(f"file:{partial.path}", mode="w", format="matroska")
        stream: VideoStream | None = None
        for picture in pictures:
            if stream is None:
                stream = output.add_stream("ffv1", rate=frame_rate, options={"level": "3"})
                _describe(stream, picture.width, picture.height, picture.time_base, picture.color)
            output.mux(stream.encode(picture.to_frame()))
            count += 1
        if stream is None:
            raise CodecError(f"{path}: there is no picture to write")
        output.mux(stream.encode(None))
        output.close()
        output = None
        partial.commit()
    except FFMPEG_FAILURES as error:
        raise MediaError(f"{path}: cannot be written ({reason(error)})") from error
    finally:
        if output is not None:
            close_quietly(output)
        partial.discard()
    return count


def fitted(picture: Picture, width: int, height: int) -> Picture:
    """Bring a picture to the coded size: scaled by Lanczos, or padded where a column or row lacks."""
    right, bottom = width - picture.width, height - picture.height
    if (right, bottom) == (0, 0):
        return picture
    if right in (0, 1) and bottom in (0, 1):
        y = np.pad(picture.y, ((0, bottom), (0, right)), mode="edge")
        chroma = []
        for plane in (picture.u, picture.v):
            rows, columns = (height + 1) // 2 - plane.shape[0], (width + 1) // 2 - plane.shape[1]
            chroma.append(np.pad(plane, ((0, rows), (0, columns)), mode="edge"))
        return replace(picture, y=y, u=chroma[0], v=chroma[1])
    return scaled(picture, width, height)


def restored(picture: Picture, width: int, height: int) -> Picture:
    """Undo `fitted` on a decoded picture: cropped where it was padded, else scaled by Lanczos."""
    if picture.width - width in (0, 1) and picture.height - height in (0, 1):
        rows, columns = (height + 1) // 2, (width + 1) // 2
        return replace(
            picture,
            y=picture.y[:height, :width],
            u=picture.u[:rows, :columns],
            v=picture.v[:rows, :columns],
        )
    return scaled(picture, width, height)


def decoded_pictures(path: Path, width: int, height: int, color: ColorInfo) -> Iterator[Picture]:
    """Decode a peer's file; pictures come at the given size, with the source's color tags."""
    for picture in VideoSource(path, tone_map=False).frames():
        yield replace(restored(picture, width, height), color=color)


def _encode_svt(pictures: Iterable[Picture], settings: PeerSettings, path: Path) -> None:
    time_base = 1 / settings.frame_rate
    av1 = Av1Settings(
        width=settings.width,
        height=settings.height,
        frame_rate=settings.frame_rate,
        time_base=time_base,
        crf=settings.crf,
        preset=int(settings.preset),
        threads=settings.threads,
        color=settings.color,
        extra=settings.extra,
    )
    numbered = (replace(p, pts=i, time_base=time_base) for i, p in enumerate(pictures))
    writer = Mp4Writer(
        path, time_base=time_base, frame_rate=settings.frame_rate, color=settings.color, overwrite=True
    )
    with writer:
        for packet in encode_stream(numbered, av1, settings.gop_length):
            writer.write(packet)
        writer.commit()


def _encode_by_ffmpeg(pictures: Iterable[Picture], settings: PeerSettings, path: Path) -> None:
    partial = PartialFile(path, overwrite=True)
    output: OutputContainer | None = None
    try:
        output = av.open(f"file:{partial.path}", mode="w", format="mp4")
        stream = _add_stream(output, settings)
        plain = _packets(stream, pictures, 1 / settings.frame_rate)
        for packet in _without_text(plain, stream) if settings.codec == "x264" else plain:
            output.mux(packet)
        output.close()
        output = None
        partial.commit()
    except FFMPEG_FAILURES as error:
        raise CodecError(f"{settings.codec} failed ({reason(error)})") from error
    finally:
        if output is not None:
            close_quietly(output)
        partial.discard()


def _add_stream(output: OutputContainer, settings: PeerSettings) -> VideoStream:
    stream = output.add_stream(
        _LIBRARIES[settings.codec], rate=settings.frame_rate, options=_options(settings)
    )
    assert isinstance(stream, VideoStream)
    _describe(stream, settings.width, settings.height, 1 / settings.frame_rate, settings.color)
    context = stream.codec_context
    context.gop_size, context.thread_count = settings.gop_length, settings.threads
    # PyAV's default, threads on slices, makes x264 cut every picture into slices, which costs it bytes.
    context.thread_type = "FRAME"
    # Without this PyAV asks VP9 for FFmpeg's default rate, and constant quality wants none.
    context.bit_rate = round((settings.bitrate_kbps or 0) * 1000)
    return stream


def _options(settings: PeerSettings) -> dict[str, str]:
    gop = str(settings.gop_length)
    if settings.codec == "vp9":
        return {
            "crf": f"{settings.crf:g}",
            "deadline": "good",
            "cpu-used": settings.preset,
            "row-mt": "1",
            "auto-alt-ref": "1",
            "lag-in-frames": str(_VP9_LAG),
            **dict(settings.extra),
        }
    params = {"keyint": gop, "min-keyint": gop, "scenecut": "0", "open-gop": "0"}
    if settings.codec == "x265":
        params |= {"log-level": "none", "info": "0", "pools": str(settings.threads)}
    params |= dict(settings.extra)
    joined = ":".join(f"{key}={value}" for key, value in params.items())
    return {"crf": f"{settings.crf:g}", "preset": settings.preset, f"{settings.codec}-params": joined}


def _describe(stream: VideoStream, width: int, height: int, time_base: Fraction, color: ColorInfo) -> None:
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    context = stream.codec_context
    context.time_base = stream.time_base = time_base
    tag_colors(context, color)


def _packets(
    stream: VideoStream, pictures: Iterable[Picture], time_base: Fraction
) -> "Iterator[av.Packet[VideoStream]]":
    """Encode pictures, numbered in units of time_base."""
    for number, picture in enumerate(pictures):
        yield from stream.encode(replace(picture, pts=number, time_base=time_base).to_frame())
    yield from stream.encode(None)


def _without_text(
    packets: "Iterable[av.Packet[VideoStream]]", stream: VideoStream
) -> "Iterator[av.Packet[VideoStream]]":
    """Remove the messages (SEI) that no decoder needs: x264's is 600 bytes of its settings."""
    dropping: BitStreamFilterContext | None = None
    for packet in packets:
        # The filter wants the parameter sets, which are there once the encoder has started.
        dropping = dropping or BitStreamFilterContext(f"filter_units=remove_types={_H264_SEI}", stream)
        for kept in dropping.filter(packet):
            kept.stream = stream
            yield kept


def library_versions() -> dict[str, str]:
    """Versions of what encodes here: PyAV's wheel fixes those of the encoders in it."""
    version = ".".join(map(str, av.library_versions["libavcodec"]))
    return {"av": av.__version__, "libavcodec": version}
