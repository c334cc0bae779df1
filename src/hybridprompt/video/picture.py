"""Pictures as 8-bit 4:2:0 planes, and their way from and to PyAV frames."""

from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Final

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from hybridprompt.errors import CodecError

Plane = NDArray[np.uint8]

UNSPECIFIED: Final = 2
BT709: Final = 1
BT601_625: Final = 5
BT601_525: Final = 6
BT2020: Final = 9
PQ: Final = 16
HLG: Final = 18

# Pixel formats whose planes are already what Picture holds; the "j" only says full range.
_NATIVE_FORMATS: Final = frozenset({"yuv420p", "yuvj420p"})
_AVCOL_RANGE_MPEG: Final = 1
_AVCOL_RANGE_JPEG: Final = 2
_SD_HEIGHT_LIMIT: Final = 576
_GREY: Final = 128
_SWS_BY_MATRIX: Final = {
    BT709: Colorspace.ITU709,
    4: Colorspace.FCC,
    BT601_625: Colorspace.ITU601,
    BT601_525: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    BT2020: Colorspace.BT2020,
    10: Colorspace.BT2020,
}


@dataclass(frozen=True)
class ColorInfo:
    """Meaning of the samples, as code points of ITU-T H.273 (2 = unspecified).

    FFmpeg's AVCOL_* values and AV1's sequence header use the same numbers.
    """

    matrix: int = UNSPECIFIED
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    full_range: bool = False

    @property
    def hdr(self) -> str | None:
        """Say in words why this is not standard dynamic range; None if it is."""
        if self.transfer == PQ:
            return "HDR (PQ, SMPTE ST 2084)"
        if self.transfer == HLG:
            return "HDR (HLG, ARIB STD-B67)"
        if self.primaries == BT2020 or self.matrix in (BT2020, 10):
            return "wide gamut (BT.2020)"
        return None

    def resolved_matrix(self, height: int) -> int:
        """Return the matrix to convert with: the tagged one, else BT.601 up to 576 lines and BT.709 above."""
        if self.matrix in _SWS_BY_MATRIX:
            return self.matrix
        return BT601_525 if height <= _SD_HEIGHT_LIMIT else BT709

    def sws_colorspace(self, height: int) -> Colorspace:
        """Return PyAV's name of `resolved_matrix`."""
        return _SWS_BY_MATRIX[self.resolved_matrix(height)]


@dataclass(frozen=True, eq=False)
class Picture:
    """One progressive picture in 8-bit 4:2:0.

    y is (H, W) uint8; u and v are (ceil(H/2), ceil(W/2)) uint8. The planes may be views with any row
    stride, also of a buffer that a decoder still references: treat them as read-only.

    Raises CodecError when the planes do not fit together.
    """

    y: Plane
    u: Plane
    v: Plane
    pts: int | None = None
    time_base: Fraction = Fraction(1, 90000)
    color: ColorInfo = field(default_factory=ColorInfo)

    def __post_init__(self) -> None:
        if self.y.ndim != 2 or 0 in self.y.shape:
            raise CodecError(f"luma plane has shape {self.y.shape}, expected (H, W) with H, W > 0")
        expected = chroma_shape(self.width, self.height)
        for name, plane in (("y", self.y), ("u", self.u), ("v", self.v)):
            if plane.dtype != np.uint8:
                raise CodecError(f"plane {name} has type {plane.dtype}, expected uint8")
            if name != "y" and plane.shape != expected:
                raise CodecError(
                    f"plane {name} has shape {plane.shape}, expected {expected} beside luma {self.y.shape}"
                )

    def __repr__(self) -> str:
        return f"Picture({self.width}x{self.height}, pts={self.pts}, time_base={self.time_base})"

    @property
    def width(self) -> int:
        return int(self.y.shape[1])

    @property
    def height(self) -> int:
        return int(self.y.shape[0])

    @property
    def planes(self) -> tuple[Plane, Plane, Plane]:
        return self.y, self.u, self.v

    @property
    def pts_seconds(self) -> float | None:
        return None if self.pts is None else float(self.pts * self.time_base)

    def copied(self) -> "Picture":
        """Return the same picture in memory of its own (contiguous planes)."""
        y, u, v = (np.array(plane, order="C") for plane in self.planes)
        return Picture(y, u, v, self.pts, self.time_base, self.color)

    def to_frame(self) -> av.VideoFrame:
        """Return a new yuv420p frame with this picture's samples, time and color tags."""
        frame = av.VideoFrame(self.width, self.height, "yuv420p")
        for source, target in zip(self.planes, plane_views(frame), strict=True):
            np.copyto(target, source)
        frame.pts = self.pts
        frame.time_base = self.time_base
        tag_colors(frame, self.color)
        return frame

    def halved(self) -> "Picture":
        """Return the picture at half its width and height, rounded down to even sizes of at least 2."""
        width, height = (max(size // 4 * 2, 2) for size in (self.width, self.height))
        frame = self.to_frame().reformat(width=width, height=height, interpolation="BILINEAR", threads=1)
        y, u, v = plane_views(frame)
        return Picture(y, u, v, self.pts, self.time_base, self.color).copied()

    def to_rgb(self) -> NDArray[np.uint8]:
        """Return (H, W, 3) uint8 RGB, full range, converted with the tagged (or guessed) matrix and range."""
        colorspace = self.color.sws_colorspace(self.height)
        source_range = ColorRange.JPEG if self.color.full_range else ColorRange.MPEG
        rgb = self.to_frame().reformat(
            format="rgb24",
            src_colorspace=colorspace,
            src_color_range=source_range,
            dst_color_range=ColorRange.JPEG,
            interpolation="BICUBIC",
            threads=1,
        )
        return np.asarray(rgb.to_ndarray(), np.uint8)


def grey(like: Picture) -> Picture:
    """Return a picture of one grey, with the size, time and colors of another."""
    y, u, v = (np.full(plane.shape, _GREY, np.uint8) for plane in like.planes)
    return replace(like, y=y, u=u, v=v)


def chroma_shape(width: int, height: int) -> tuple[int, int]:
    """Return the shape (rows, columns) of a 4:2:0 chroma plane."""
    return (height + 1) // 2, (width + 1) // 2


def plane_views(frame: av.VideoFrame) -> tuple[Plane, Plane, Plane]:
    """Return writable views of the three planes of an 8-bit 4:2:0 frame; they keep the frame alive."""
    rows, columns = chroma_shape(frame.width, frame.height)
    shapes = ((frame.height, frame.width), (rows, columns), (rows, columns))
    views = []
    for plane, (height, width) in zip(frame.planes, shapes, strict=True):
        stride = plane.line_size
        if stride < width:
            raise CodecError(f"frame has a row stride of {stride} bytes, expected at least {width}")
        samples = np.frombuffer(memoryview(plane), np.uint8)[: stride * height]
        views.append(samples.reshape(height, stride)[:, :width])
    y, u, v = views
    return y, u, v


def color_of_frame(frame: av.VideoFrame) -> ColorInfo:
    """Return the color tags of a frame; RGB and gray have no matrix that would survive the conversion."""
    full_range = frame.color_range == _AVCOL_RANGE_JPEG or frame.format.name.startswith("yuvj")
    if frame.format.is_rgb or frame.format.has_palette:
        matrix, full_range = BT709, False
    else:
        matrix = _known(frame.colorspace)
    return ColorInfo(matrix, _known(frame.color_primaries), _known(frame.color_trc), full_range)


def tag_colors(target: av.VideoFrame | VideoCodecContext, color: ColorInfo) -> None:
    """Write color tags into a frame, or into a codec context for its stream (metadata only)."""
    target.colorspace, target.color_primaries = color.matrix, color.primaries
    target.color_trc = color.transfer
    target.color_range = _AVCOL_RANGE_JPEG if color.full_range else _AVCOL_RANGE_MPEG


def picture_from_frame(
    frame: av.VideoFrame,
    copy: bool = True,
    *,
    size: tuple[int, int] | None = None,
) -> Picture:
    """Convert a frame of any pixel format to a Picture.

    Bit depths above 8 are rounded, other subsamplings and RGB converted (RGB to limited range BT.709);
    matrix and range of YUV are kept. With copy=False, a frame that is 8-bit 4:2:0 already is only viewed:
    the planes then share the decoder's buffer. size is (width, height) to scale to.
    """
    color = color_of_frame(frame)
    pts, time_base = frame.pts, frame.time_base or Fraction(1, 90000)
    resize = size is not None and size != (frame.width, frame.height)
    if frame.format.name not in _NATIVE_FORMATS or resize:
        frame, copy = _to_yuv420p(frame, color, size), False
    y, u, v = plane_views(frame)
    picture = Picture(y, u, v, pts, time_base, color)
    return picture.copied() if copy else picture


def _to_yuv420p(frame: av.VideoFrame, color: ColorInfo, size: tuple[int, int] | None) -> av.VideoFrame:
    width, height = size or (frame.width, frame.height)
    rgb = frame.format.is_rgb or frame.format.has_palette
    target_range = ColorRange.JPEG if color.full_range else ColorRange.MPEG
    colorspace = color.sws_colorspace(frame.height)
    try:
        return frame.reformat(
            width=width,
            height=height,
            format="yuv420p",
            src_colorspace=None if rgb else colorspace,
            dst_colorspace=colorspace,
            src_color_range=ColorRange.JPEG if rgb else target_range,
            dst_color_range=target_range,
            interpolation="BICUBIC",
            threads=1,
        )
    except (av.error.FFmpegError, ValueError) as error:
        raise CodecError(f"cannot convert pixel format {frame.format.name} to yuv420p: {error}") from error


def _known(code: int) -> int:
    # 0 is "RGB" for the matrix and reserved elsewhere: neither can describe YUV samples.
    return code if code > 0 else UNSPECIFIED
