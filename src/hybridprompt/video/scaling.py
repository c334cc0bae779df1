"""Scaling pictures."""

from fractions import Fraction

from av.video.reformatter import Interpolation

from hybridprompt.errors import CodecError
from hybridprompt.video.files import FFMPEG_FAILURES, reason
from hybridprompt.video.picture import Picture, plane_views


def scaled_size(width: int, height: int, scale: Fraction) -> tuple[int, int]:
    """Even sizes nearest to the scaled ones."""
    return max(2, 2 * round(width * scale / 2)), max(2, 2 * round(height * scale / 2))


def scaled(picture: Picture, width: int, height: int) -> Picture:
    """Scale a picture by swscale's Lanczos filter, with full chroma precision. Raises CodecError."""
    flags = Interpolation.LANCZOS | Interpolation.ACCURATE_RND
    try:
        frame = picture.to_frame().reformat(width=width, height=height, interpolation=flags, threads=1)
    except FFMPEG_FAILURES as error:
        raise CodecError(f"cannot scale {picture} to {width}x{height} ({reason(error)})") from error
    y, u, v = plane_views(frame)
    return Picture(y, u, v, picture.pts, picture.time_base, picture.color).copied()
