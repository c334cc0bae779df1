"""What the studies share: source pictures, distances, and figures small enough for the repository."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from matplotlib import rc_context, rcParamsDefault
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from hybridprompt.decode.headers import HeaderHistory
from hybridprompt.evaluate.compare import picture_to_rgb, psnr_y
from hybridprompt.evaluate.perceptual import Lpips
from hybridprompt.video.av1_decoder import Av1Decoder
from hybridprompt.video.av1_encoder import Av1Settings, PictureLambdas, encode_gop
from hybridprompt.video.files import PartialFile
from hybridprompt.video.picture import Picture
from hybridprompt.video.source import VideoSource

FIGURES = Path(__file__).parents[2] / "docs" / "figures"
DEFAULT_CLIP = "acrobatics_994p30.mp4"
MAX_BYTES = 200_000

_TICK = Fraction(1, 30)
_DPI_STEPS = (110, 95, 80, 68, 58, 50)


def clip_path(name: Path | None) -> Path:
    """The clip that was named, or the default one of the data folder (HYBRIDPROMPT_DATA)."""
    path = name or Path(os.environ.get("HYBRIDPROMPT_DATA", "../shared/data")) / "clips" / DEFAULT_CLIP
    if not path.exists():
        sys.exit(f"no clip {path}: name one, or set HYBRIDPROMPT_DATA to the folder with clips/")
    return path


def source_picture(path: Path, seconds: float) -> Picture:
    """The picture of a clip at a time, with both sizes made even."""
    picture = next(VideoSource(path).frames(start_seconds=seconds), None)
    if picture is None:
        sys.exit(f"{path}: has no picture at {seconds:g} s")
    height, width = picture.height // 2 * 2, picture.width // 2 * 2
    planes = (picture.y[:height, :width], *(c[: height // 2, : width // 2] for c in (picture.u, picture.v)))
    return replace(Picture(*planes), pts=0, time_base=_TICK, color=picture.color)


def code_with_svt(
    picture: Picture, crf: float, preset: int, *, tune: int = 1, lambdas: PictureLambdas | None = None
) -> tuple[bytes, Picture, int]:
    """A keyframe of SVT-AV1, tuned for PSNR unless told: its bytes, what it decodes to, its base_q_idx."""
    settings = Av1Settings(
        width=picture.width, height=picture.height, frame_rate=1 / _TICK, time_base=_TICK,
        crf=crf, preset=preset, threads=2, color=picture.color, extra=(("tune", str(tune)),),
        picture_lambdas=lambdas or PictureLambdas(),
    )  # fmt: skip
    (packet,) = encode_gop([picture], settings)
    history = HeaderHistory(None)
    history.append(packet.data)
    with Av1Decoder(None, time_base=_TICK) as decoder:
        (frame, *_) = (*decoder.decode(packet.data, 0), *decoder.flush())
        decoded = replace(frame.picture.copied(), color=picture.color)
    return packet.data, decoded, history.last_shown().base_q_idx


class Distances:
    """PSNR-Y and LPIPS-Alex to one source picture."""

    def __init__(self, source: Picture) -> None:
        self._source = source
        self._lpips = Lpips("alex")
        self._target = self._lpips.features(picture_to_rgb(source))

    def psnr(self, picture: Picture) -> float:
        return psnr_y(picture, self._source)

    def lpips(self, picture: Picture) -> float:
        return float(self._lpips.distance(self._lpips.features(picture_to_rgb(picture)), self._target))

    def lpips_map(self, picture: Picture, cell: int) -> NDArray[np.float64]:
        """Local LPIPS-Alex per cell of pixels; its mean is the distance."""
        import torch.nn.functional as F

        shape = -(-picture.height // cell), -(-picture.width // cell)
        maps = self._lpips.distance_maps(self._lpips.features(picture_to_rgb(picture)), self._target)
        total = np.zeros(shape)
        for stage in maps:
            total += F.interpolate(stage[None], shape, mode="area")[0, 0].numpy()
        return total


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches."""
    with rc_context({k: v for k, v in rcParamsDefault.items() if k != "backend"}):
        figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG of less than 200 kB: with 256 colours where that helps, and fewer pixels until it fits."""
    for dpi in _DPI_STEPS:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi)
        buffer.seek(0)
        with Image.open(buffer) as image:
            pixels = image.convert("RGB")
        for image in (pixels, _with_palette(pixels)):
            data = io.BytesIO()
            image.save(data, format="PNG", optimize=True)
            if data.tell() < MAX_BYTES:
                write_file(path, data.getvalue())
                return
    sys.exit(f"{path}: does not fit into {MAX_BYTES} bytes")


def _with_palette(pixels: Image.Image) -> Image.Image:
    """The picture in 256 colours, where rare ones (thin lines beside photographs) have their place too."""
    rgb = np.asarray(pixels)
    colours, counts = np.unique(rgb.reshape(-1, 3) // 8, axis=0, return_counts=True)
    weighted = np.repeat(colours * 8 + 4, np.ceil(counts**0.3).astype(int), axis=0).astype(np.uint8)
    found = Image.fromarray(weighted[None]).quantize(254, method=Image.Quantize.MEDIANCUT, kmeans=2)
    # Paper and letters stay what they are, though Pillow's search for the nearest colour is not exact.
    palette = Image.new("P", (1, 1))
    palette.putpalette([*(found.getpalette() or [])[: 254 * 3], 0, 0, 0, 255, 255, 255])
    indices = np.array(pixels.quantize(palette=palette, dither=Image.Dither.NONE))
    indices[(rgb == 0).all(2)], indices[(rgb == 255).all(2)] = 254, 255
    out = Image.fromarray(indices, "P")
    out.putpalette(palette.getpalette() or [])
    return out


def at_bytes(points: Iterable[Sequence[float]], size_bytes: float) -> list[float]:
    """Values at a number of bytes, log over log, between points of (bytes, values ...)."""
    sizes, *columns = np.log(np.array(sorted(points))).T
    return [float(np.exp(np.interp(np.log(size_bytes), sizes, values))) for values in columns]


def save_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write the numbers of a figure."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_file(path, text.getvalue().encode())


def write_file(path: Path, data: bytes) -> None:
    """Write a file under a temporary name and rename it; its folder is made.  Raises MediaError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = PartialFile(path, overwrite=True)
    try:
        partial.path.write_bytes(data)
        partial.commit()
    finally:
        partial.discard()
