"""Colour conversion against FFmpeg's swscale."""

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace

torch = pytest.importorskip("torch")

from hybridprompt.evaluate.colour import yuv420_to_rgb  # noqa: E402

MATRICES = {"bt601": Colorspace.ITU601, "bt709": Colorspace.ITU709, "bt2020": Colorspace.BT2020}


def planes(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Smooth, so that it hardly matters where chroma samples sit and how they are interpolated."""
    y, x = np.mgrid[:height, :width]
    cy, cx = np.mgrid[: (height + 1) // 2, : (width + 1) // 2]
    luma = 125 + 50 * np.sin(x / 6) * np.cos(y / 9)
    u, v = 128 + 25 * np.sin(cx / 17), 128 - 25 * np.cos(cy / 19)
    a, b, c = (np.rint(p).astype(np.uint8) for p in (luma, u, v))
    return a, b, c


def swscale_rgb(y: np.ndarray, u: np.ndarray, v: np.ndarray, matrix: str, full_range: bool) -> np.ndarray:
    frame = av.VideoFrame(y.shape[1], y.shape[0], "yuv420p")
    for plane, samples in zip(frame.planes, (y, u, v), strict=True):
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[:, : plane.width] = samples
        plane.update(rows.tobytes())
    rgb = frame.reformat(
        format="gbrp12le",  # the 8-bit conversion is a coarse table
        src_colorspace=MATRICES[matrix],
        src_color_range=ColorRange.JPEG if full_range else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        interpolation="BICUBIC",
    )
    g, b, r = (
        np.frombuffer(bytes(p), np.uint16).reshape(p.height, p.line_size // 2)[:, : p.width]
        for p in rgb.planes
    )
    return np.stack([r, g, b]) / 4095 * 255


def torch_rgb(y: np.ndarray, u: np.ndarray, v: np.ndarray, **options: object) -> np.ndarray:
    luma = torch.from_numpy(y)[None, None].float() / 255
    chroma = torch.from_numpy(np.stack([u, v]))[None].float() / 255
    return (yuv420_to_rgb(luma, chroma, **options)[0] * 255).numpy()


@pytest.mark.parametrize("size", [(64, 80), (67, 101)])
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", list(MATRICES))
def test_conversion_agrees_with_swscale(matrix: str, full_range: bool, size: tuple[int, int]) -> None:
    picture = planes(*size)
    expected = swscale_rgb(*picture, matrix, full_range)
    found = torch_rgb(*picture, matrix=matrix, full_range=full_range)
    assert found.shape == (3, *size)
    difference = np.abs(found - expected)
    # Chroma is sited elsewhere by half a sample and rounded; a wrong matrix is off by more than four levels.
    assert difference.mean() < 0.8
    assert difference.max() < 3.0
    other = "bt601" if matrix != "bt601" else "bt709"
    assert np.abs(torch_rgb(*picture, matrix=other, full_range=full_range) - expected).max() > 4.0


@pytest.mark.parametrize(
    ("y", "full_range", "expected"), [(16, False, 0), (235, False, 255), (0, True, 0), (255, True, 255)]
)
def test_black_and_white(y: int, full_range: bool, expected: int) -> None:
    picture = np.full((4, 6), y, np.uint8), np.full((2, 3), 128, np.uint8), np.full((2, 3), 128, np.uint8)
    found = torch_rgb(*picture, full_range=full_range)
    assert np.abs(found - expected).max() < 0.01


def test_values_beyond_the_gamut_are_clipped() -> None:
    picture = np.full((4, 4), 250, np.uint8), np.full((2, 2), 255, np.uint8), np.full((2, 2), 0, np.uint8)
    found = torch_rgb(*picture)
    assert found.min() >= 0
    assert found.max() <= 255


def test_gradient_reaches_luma_and_chroma() -> None:
    y = torch.full((1, 1, 5, 7), 0.5, requires_grad=True)
    uv = torch.full((1, 2, 3, 4), 0.5, requires_grad=True)
    yuv420_to_rgb(y, uv).sum().backward()
    assert (y.grad > 0).all()
    assert (uv.grad.abs() > 0).all()
