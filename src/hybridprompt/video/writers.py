"""Writing pictures: YUV4MPEG2, a visually lossless H.264 file, or a folder of PNG files.

All writers follow the `PictureWriter` protocol: `write` pictures in display order, then `commit`; as context
managers they abort when left without it.
"""

import contextlib
import os
import sys
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Protocol, Self

import av
import numpy as np
from av.container import OutputContainer
from av.video.stream import VideoStream

from hybridprompt.errors import ConfigError, MediaError
from hybridprompt.video.files import FFMPEG_FAILURES, PartialFile, close_quietly, reason
from hybridprompt.video.picture import Picture, tag_colors

_VIDEO_FORMATS: Final = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}


class PictureWriter(Protocol):
    """Takes pictures in display order. All methods raise MediaError when the target cannot be written."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def write(self, picture: Picture) -> None: ...

    def commit(self) -> None:
        """Finish: from here on the result is there under its name."""

    def abort(self) -> None:
        """Give up: nothing half-written is left behind. Does nothing after `commit`."""


class _AbortOnExit:
    """Context manager half of a PictureWriter."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def abort(self) -> None:
        raise NotImplementedError


class Y4mWriter(_AbortOnExit):
    """YUV4MPEG2 (4:2:0, 8 bit): to a file, or to standard output for "-", or to a pipe or device by its name.

    The format has one constant frame rate and no timestamps: pictures are written one after the other at
    frame_rate, whatever their pts; resample variable frame rates before. Raises MediaError, also when the
    reader of a pipe has gone, or when the picture size changes.
    """

    def __init__(
        self, target: str | os.PathLike[str], *, frame_rate: Fraction, overwrite: bool = False
    ) -> None:
        if frame_rate <= 0:
            raise ConfigError(f"frame rate is {frame_rate}, expected more than 0")
        self._name = "standard output" if os.fspath(target) == "-" else os.fspath(target)
        self._rate = frame_rate
        self._size: tuple[int, int] | None = None
        self._partial: PartialFile | None = None
        self._file: BinaryIO | None
        try:
            if os.fspath(target) == "-":
                self._file = sys.stdout.buffer
            elif Path(target).exists() and not Path(target).is_file() and not Path(target).is_dir():
                self._file = open(target, "wb")  # noqa: SIM115 (closed by commit and abort)
            else:
                self._partial = PartialFile(target, overwrite=overwrite)
                self._file = open(self._partial.path, "wb")  # noqa: SIM115
        except OSError as error:
            raise MediaError(f"{self._name}: cannot be written ({reason(error)})") from error

    def write(self, picture: Picture) -> None:
        if self._file is None:
            raise MediaError(f"{self._name}: is closed already")
        size = picture.width, picture.height
        try:
            if self._size is None:
                self._size = size
                self._file.write(self._header(picture))
            if size != self._size:
                raise MediaError(f"{self._name}: picture of {size}, expected {self._size}")
            self._file.write(b"FRAME\n")
            for plane in picture.planes:
                self._file.write(np.ascontiguousarray(plane).data)
        except OSError as error:
            self.abort()
            raise self._failure(error) from error

    def commit(self) -> None:
        if self._file is None:
            return
        try:
            self._file.flush()
            if self._file is not sys.stdout.buffer:
                self._file.close()
        except OSError as error:
            self.abort()
            raise self._failure(error) from error
        self._file = None
        if self._partial is not None:
            self._partial.commit()

    def abort(self) -> None:
        if self._file is not None and self._file is not sys.stdout.buffer:
            # Closing flushes, and may hit the very error that led here.
            with contextlib.suppress(OSError):
                self._file.close()
        self._file = None
        if self._partial is not None:
            self._partial.discard()

    def _failure(self, error: OSError) -> MediaError:
        if isinstance(error, BrokenPipeError):
            return MediaError(f"{self._name}: the program that read it has ended")
        return MediaError(f"{self._name}: cannot be written ({reason(error)})")

    def _header(self, picture: Picture) -> bytes:
        rate = self._rate.limit_denominator(1 << 30)
        color_range = "FULL" if picture.color.full_range else "LIMITED"
        return (
            f"YUV4MPEG2 W{picture.width} H{picture.height} F{rate.numerator}:{rate.denominator} "
            f"Ip A1:1 C420mpeg2 XCOLORRANGE={color_range}\n"
        ).encode()


class VideoWriter(_AbortOnExit):
    """A visually lossless H.264 file (.mp4, .m4v, .mov, .mkv): x264 at CRF 12, preset veryfast.

    Timestamps (and so variable frame rates) and color tags are kept. H.264 in 4:2:0 needs even sizes: an
    odd width or height grows by one repeated column or row. Appears under its name with `commit`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        frame_rate: Fraction,
        crf: float = 12,
        sample_aspect_ratio: Fraction = Fraction(1),
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() not in _VIDEO_FORMATS:
            raise MediaError(f"{path}: unknown file type, expected one of {', '.join(_VIDEO_FORMATS)}")
        if frame_rate <= 0:
            raise ConfigError(f"frame rate is {frame_rate}, expected more than 0")
        self._rate, self._crf, self._aspect = frame_rate, crf, sample_aspect_ratio
        self._output: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._size = (0, 0)
        self._partial = PartialFile(path, overwrite=overwrite)

    def write(self, picture: Picture) -> None:
        if picture.pts is None:
            raise MediaError(f"{self.path}: a picture without pts cannot be written")
        try:
            if self._stream is None:
                self._start(picture)
            assert self._output is not None
            assert self._stream is not None
            if (picture.width, picture.height) != self._size:
                raise MediaError(
                    f"{self.path}: picture of {picture.width}x{picture.height}, "
                    f"expected {self._size[0]}x{self._size[1]}"
                )
            self._output.mux(self._stream.encode(_even(picture).to_frame()))
        except FFMPEG_FAILURES as error:
            self.abort()
            raise MediaError(f"{self.path}: cannot be written ({reason(error)})") from error

    def commit(self) -> None:
        if self._output is None or self._stream is None:
            self.abort()
            raise MediaError(f"{self.path}: no picture was written")
        try:
            self._output.mux(self._stream.encode(None))
            self._output.close()
        except FFMPEG_FAILURES as error:
            self.abort()
            raise MediaError(f"{self.path}: cannot be written ({reason(error)})") from error
        self._partial.commit()

    def abort(self) -> None:
        if self._output is not None:
            close_quietly(self._output)
        self._output = self._stream = None
        self._partial.discard()

    def _start(self, first: Picture) -> None:
        container_format = _VIDEO_FORMATS[self.path.suffix.lower()]
        options = {} if container_format == "matroska" else {"movflags": "+faststart"}
        self._output = av.open(
            f"file:{self._partial.path}", mode="w", format=container_format, container_options=options
        )
        self._size = first.width, first.height
        stream = self._output.add_stream(
            "libx264", rate=self._rate, options={"crf": f"{self._crf:g}", "preset": "veryfast"}
        )
        even = _even(first)
        stream.width, stream.height, stream.pix_fmt = even.width, even.height, "yuv420p"
        context = stream.codec_context
        context.time_base = stream.time_base = first.time_base
        context.sample_aspect_ratio = self._aspect
        tag_colors(context, first.color)
        self._stream = stream


class PngDirWriter(_AbortOnExit):
    """A folder of RGB files frame_000001.png, frame_000002.png, ...; created if it does not exist.

    YUV becomes RGB with each picture's own matrix and range. Every file appears whole or not at all; `abort`
    removes those that this writer has made. Existing frame_*.png raise MediaError unless overwrite.
    """

    def __init__(self, directory: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        self.directory = Path(directory)
        self._overwrite = overwrite
        self._files: list[PartialFile] = []
        self._committed = False
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            taken = next(self.directory.glob("frame_*.png"), None)
        except OSError as error:
            raise MediaError(f"{directory}: no folder can be made there ({reason(error)})") from error
        if taken is not None and not overwrite:
            raise MediaError(f"{taken}: exists already, and overwriting was not asked for")

    def write(self, picture: Picture) -> None:
        path = self.directory / f"frame_{len(self._files) + 1:06d}.png"
        file = PartialFile(path, overwrite=self._overwrite)
        self._files.append(file)
        try:
            file.path.write_bytes(encode_png(picture))
            file.commit()
        except FFMPEG_FAILURES as error:
            raise MediaError(f"{path}: cannot be written ({reason(error)})") from error
        finally:
            file.discard()

    def commit(self) -> None:
        self._committed = True

    def abort(self) -> None:
        if not self._committed:
            for file in self._files:
                file.undo()
            self._files.clear()


def encode_png(picture: Picture) -> bytes:
    """Return the picture as an RGB PNG file."""
    context = av.CodecContext.create("png", "w")
    context.width, context.height, context.pix_fmt = picture.width, picture.height, "rgb24"
    context.time_base = Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(picture.to_rgb(), "rgb24")
    frame.pts = 0
    packets = [*context.encode(frame), *context.encode(None)]
    return b"".join(bytes(packet) for packet in packets)


def _even(picture: Picture) -> Picture:
    # Chroma planes of odd sizes are rounded up already, so only luma lacks a column or row.
    right, bottom = picture.width % 2, picture.height % 2
    if not right and not bottom:
        return picture
    y = np.pad(picture.y, ((0, bottom), (0, right)), mode="edge")
    return Picture(y, picture.u, picture.v, picture.pts, picture.time_base, picture.color)
