from fractions import Fraction

import av
import numpy as np
import pytest
from video_media import pictures

from hybridprompt.errors import CodecError
from hybridprompt.video.picture import ColorInfo, Picture, picture_from_frame, plane_views


@pytest.mark.parametrize(("width", "height"), [(96, 64), (97, 65), (33, 18)])
def test_frame_round_trip_is_exact(width: int, height: int) -> None:
    color = ColorInfo(5, 5, 6, full_range=True)
    picture = pictures(2, width, height, color=color, pts=[3, 7])[1]
    back = picture_from_frame(picture.to_frame())
    for a, b in zip(picture.planes, back.planes, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (back.pts, back.time_base, back.color) == (7, Fraction(1, 30), color)


def test_view_shares_memory_and_copy_does_not() -> None:
    frame = pictures(1)[0].to_frame()
    view, copy = picture_from_frame(frame, copy=False), picture_from_frame(frame, copy=True)
    plane_views(frame)[0][0, 0] ^= 255
    assert view.y[0, 0] == plane_views(frame)[0][0, 0]
    assert copy.y[0, 0] != view.y[0, 0]


def test_mismatched_planes_are_refused() -> None:
    plane = np.zeros((10, 10), np.uint8)
    with pytest.raises(CodecError, match=r"plane u has shape \(10, 10\), expected \(5, 5\)"):
        Picture(plane, plane, plane)


@pytest.mark.parametrize(("matrix", "kr", "kb"), [(1, 0.2126, 0.0722), (6, 0.299, 0.114)])
@pytest.mark.parametrize("full_range", [False, True])
def test_rgb_follows_matrix_and_range(matrix: int, kr: float, kb: float, full_range: bool) -> None:
    # H.273 equations for a saturated color, computed here independently of swscale.
    red, green, blue = 200.0, 60.0, 90.0
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    cb, cr = (blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr))
    y, u, v = (luma, cb + 128, cr + 128)
    if not full_range:
        y, u, v = 16 + luma * 219 / 255, 128 + cb * 224 / 255, 128 + cr * 224 / 255
    planes = (np.full(shape, round(x), np.uint8) for shape, x in (((16, 16), y), ((8, 8), u), ((8, 8), v)))
    rgb = Picture(*planes, color=ColorInfo(matrix, 1, 1, full_range)).to_rgb()
    assert np.abs(rgb[8, 8].astype(float) - (red, green, blue)).max() <= 3


def test_ten_bit_is_rounded_to_eight() -> None:
    frame = av.VideoFrame(32, 16, "yuv420p10le")
    for plane, level in zip(frame.planes, (400, 512, 600), strict=True):
        np.frombuffer(memoryview(plane), np.uint16)[:] = level
    picture = picture_from_frame(frame)
    assert [int(np.median(p)) for p in picture.planes] == [100, 128, 150]


def test_rgb_frames_become_limited_range_bt709() -> None:
    frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 255, np.uint8), "rgb24")
    picture = picture_from_frame(frame)
    assert picture.color.matrix == 1
    assert int(np.median(picture.y)) == 235


def test_hdr_is_named() -> None:
    assert ColorInfo(9, 9, 16).hdr == "HDR (PQ, SMPTE ST 2084)"
    assert "HLG" in str(ColorInfo(9, 9, 18).hdr)
    assert ColorInfo(1, 1, 1).hdr is None


@pytest.mark.parametrize(("size", "half"), [((64, 48), (32, 24)), ((67, 45), (32, 22)), ((2, 3), (2, 2))])
def test_halved(size: tuple[int, int], half: tuple[int, int]) -> None:
    width, height = size
    chroma = ((height + 1) // 2, (width + 1) // 2)
    y = np.tile(np.linspace(0, 250, width), (height, 1)).astype(np.uint8)
    small = Picture(y, np.full(chroma, 90, np.uint8), np.full(chroma, 160, np.uint8), 7).halved()
    assert (small.width, small.height, small.pts) == (*half, 7)
    assert abs(float(small.y.mean()) - float(y.mean())) < 3
    assert (int(np.median(small.u)), int(np.median(small.v))) == (90, 160)
