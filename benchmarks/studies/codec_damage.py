"""Figure 2: what a codec does to a picture as the rate falls.

    python benchmarks/studies/codec_damage.py [CLIP] [--at 6] [--preset 6] [--output docs/figures]

Codes one picture as a keyframe with SVT-AV1 and x265 at a series of falling rates.  Prints per encode
the bits per pixel, LPIPS-Alex, PSNR-Y and how much of the source's high-frequency energy is left in the
two finest bands of a Laplacian pyramid (1: all; more than 1: artefacts), and draws crops side by side
over the curves.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from figures import (
    FIGURES,
    Distances,
    clip_path,
    code_with_svt,
    new_figure,
    save_csv,
    save_figure,
    source_picture,
)
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from hybridprompt.video.peer_encoder import PeerSettings, decoded_pictures, encode_peer_file, track_bytes
from hybridprompt.video.picture import Picture

SVT_CRFS = (20.0, 30.0, 40.0, 48.0, 56.0, 63.0, 68.0)
X265_CRFS = (18.0, 24.0, 30.0, 36.0, 42.0, 47.0, 51.0)
CROP_RATES = (0.17, 0.08, 0.03)
"""Bits per pixel: crops are of the encodes nearest to them."""

CROP_SIZE = 160
_COLUMNS = ("codec", "crf", "bytes", "bits_per_pixel", "LPIPS-Alex", "PSNR-Y", "band_1", "band_2")
_COLOURS = {"SVT-AV1": "#0072b2", "x265": "#009e73"}


@dataclass(frozen=True)
class Point:
    """One encode.  energies: of the finest and the second band, as shares of the source's."""

    codec: str
    crf: float
    size_bytes: int
    bits_per_pixel: float
    lpips: float
    psnr: float
    energies: tuple[float, float]
    picture: Picture

    def row(self) -> tuple[object, ...]:
        return (
            self.codec,
            f"{self.crf:g}",
            self.size_bytes,
            f"{self.bits_per_pixel:.4f}",
            f"{self.lpips:.4f}",
            f"{self.psnr:.2f}",
            *(f"{energy:.3f}" for energy in self.energies),
        )


def code_with_x265(picture: Picture, crf: float) -> tuple[int, Picture]:
    """A keyframe of x265: its size in bytes, and what it decodes to."""
    settings = PeerSettings(
        codec="x265", width=picture.width, height=picture.height, frame_rate=1 / picture.time_base,
        crf=crf, preset="medium", gop_length=1, color=picture.color,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.mp4"
        encode_peer_file([picture], settings, path)
        (decoded,) = decoded_pictures(path, picture.width, picture.height, picture.color)
        return track_bytes(path), decoded.copied()


def laplacian_energies(luma: NDArray[np.uint8]) -> tuple[float, float]:
    """Mean energy of the two finest bands of a Laplacian pyramid (Burt and Adelson's 5-tap filter)."""
    energies = []
    image = luma.astype(np.float32)
    for _ in range(2):
        low = _blurred(image)
        energies.append(float(np.mean((image - low) ** 2)))
        image = low[::2, ::2]
    return energies[0], energies[1]


def _blurred(image: NDArray[np.float32]) -> NDArray[np.float32]:
    for axis in (0, 1):
        width = [(2, 2) if a == axis else (0, 0) for a in (0, 1)]
        padded = np.pad(image, width, mode="reflect")
        length = image.shape[axis]
        taps = (0.0625, 0.25, 0.375, 0.25, 0.0625)
        parts = (padded.take(range(i, i + length), axis) * tap for i, tap in enumerate(taps))
        image = np.sum(list(parts), axis=0, dtype=np.float32)
    return image


def measure(source: Picture, preset: int) -> list[Point]:
    """Code the picture at all rates with both codecs."""
    distances = Distances(source)
    whole = laplacian_energies(source.y)
    points = []
    for codec, crfs in (("SVT-AV1", SVT_CRFS), ("x265", X265_CRFS)):
        for crf in crfs:
            if codec == "x265":
                size, decoded = code_with_x265(source, crf)
            else:
                data, decoded, _ = code_with_svt(source, crf, preset)
                size = len(data)
            left = laplacian_energies(decoded.y)
            points.append(
                Point(
                    codec,
                    crf,
                    size,
                    8 * size / source.y.size,
                    distances.lpips(decoded),
                    distances.psnr(decoded),
                    (left[0] / whole[0], left[1] / whole[1]),
                    decoded,
                )
            )
    return points


def busiest(luma: NDArray[np.uint8], size: int) -> tuple[int, int]:
    """Top and left of the window with the most high-frequency energy: there is most to lose."""
    band = (luma - _blurred(luma.astype(np.float32))) ** 2
    sums = np.pad(band.cumsum(0, dtype=np.float64).cumsum(1), ((1, 0), (1, 0)))
    windows = (sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size] + sums[:-size, :-size])[
        ::16, ::16
    ]
    row, column = np.unravel_index(int(windows.argmax()), windows.shape)
    return int(row) * 16, int(column) * 16


def draw(source: Picture, points: list[Point]) -> Figure:
    """Crops of falling rate in a row per codec, and the curves below."""
    size = min(CROP_SIZE, source.height, source.width)
    top, left = busiest(source.y, size)
    figure = new_figure(9.0, 8.0)
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.75, 1))
    axes = upper.subplots(2, len(CROP_RATES) + 1)
    for row, codec in enumerate(_COLOURS):
        mine = [p for p in points if p.codec == codec]
        chosen = [
            min(mine, key=lambda p, rate=rate: abs(math.log(p.bits_per_pixel / rate))) for rate in CROP_RATES
        ]
        shown = [(source, "source, the same crop")] + [
            (p.picture, f"{codec}, {p.bits_per_pixel:.3f} bit/pixel\nLPIPS {p.lpips:.3f}, {p.psnr:.1f} dB")
            for p in chosen
        ]
        for one, (picture, caption) in zip(axes[row], shown, strict=True):
            one.imshow(picture.to_rgb()[top : top + size, left : left + size], interpolation="nearest")
            one.set_title(caption, fontsize=8)
            one.set_axis_off()
    curves = lower.subplots(1, 3)
    labels = ("high-frequency energy left", "LPIPS-Alex (lower is better)", "PSNR-Y, dB (higher is better)")
    for one, label in zip(curves, labels, strict=True):
        one.set_xscale("log")
        one.set_xlabel("bit/pixel")
        one.set_title(label, fontsize=9)
        one.grid(alpha=0.3)
        one.set_xticks([0.01, 0.03, 0.1, 0.3, 1, 3])
        one.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        one.xaxis.set_minor_locator(NullLocator())
    for codec, colour in _COLOURS.items():
        mine = [p for p in points if p.codec == codec]
        rates = [p.bits_per_pixel for p in mine]
        style = {"color": colour, "marker": "o", "markersize": 3.5}
        curves[0].plot(rates, [p.energies[0] for p in mine], **style, label=f"{codec}, finest band")
        curves[0].plot(
            rates, [p.energies[1] for p in mine], **style, linestyle="--", label=f"{codec}, second band"
        )
        curves[1].plot(rates, [p.lpips for p in mine], **style, label=codec)
        curves[2].plot(rates, [p.psnr for p in mine], **style, label=codec)
    for one in curves:
        one.legend(fontsize=7)
        low, high = min(p.bits_per_pixel for p in points), max(p.bits_per_pixel for p in points)
        one.set_xlim(low / 1.2, high * 1.2)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clip", nargs="?", type=Path)
    parser.add_argument("--at", type=float, default=6.0, help="seconds into the clip")
    parser.add_argument("--preset", type=int, default=6, help="of SVT-AV1")
    parser.add_argument("--output", type=Path, default=FIGURES)
    arguments = parser.parse_args()
    clip = clip_path(arguments.clip)
    source = source_picture(clip, arguments.at)
    points = measure(source, arguments.preset)
    table = Table(title=f"{clip.stem} at {arguments.at:g} s, {source.width}x{source.height}")
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column == "codec" else "right")
    for point in points:
        table.add_row(*map(str, point.row()))
    Console(width=110).print(table)
    save_figure(draw(source, points), arguments.output / "codec_damage.png")
    save_csv(arguments.output / "codec_damage.csv", _COLUMNS, [p.row() for p in points])


if __name__ == "__main__":
    main()
