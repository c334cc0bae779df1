"""Matched crops of source, peer and ours: one place where we gain most and one where we lose most."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from hybridprompt.errors import HybridPromptError
from hybridprompt.evaluate.report.hull import Pair, pairs
from hybridprompt.evaluate.report.load import Record, Run
from hybridprompt.evaluate.report.metrics import PRIMARY
from hybridprompt.video.picture import Picture
from hybridprompt.video.writers import encode_png

if TYPE_CHECKING:
    import torch

    from hybridprompt.evaluate.perceptual import Lpips

Pictures = Callable[[Record, list[int]], "Mapping[int, Picture] | None"]
"""Pictures of a record by frame index in display order; None where they are not kept any more."""

SIDE = 256
"""Width and height of a crop in pixels, less where pictures are smaller."""

_CELL = 16
_FRAMES = 2


@dataclass(frozen=True)
class Crop:
    """One place in one frame.  difference: mean local LPIPS there of ours less that of the peer."""

    kind: Literal["gain", "loss"]
    pair: Pair
    frame: int
    left: int
    top: int
    width: int
    height: int
    difference: float
    source_png: bytes
    peer_png: bytes
    ours_png: bytes


@dataclass(frozen=True)
class Crops:
    """notes: why there are none of some clips."""

    crops: Sequence[Crop]
    notes: Sequence[str]


def find_crops(run: Run, pictures: Pictures | None, source: Pictures | None) -> Crops:
    """Two crops per clip, at its lowest rate at which both sides have a result.

    Looked at are the frames whose LPIPS-Alex differs most in either direction.  Never raises for missing
    pictures or metric weights: a note says what is missing.
    """
    if pictures is None or source is None:
        return Crops([], ["No crops: the decoded pictures are not available."])
    from hybridprompt.evaluate.weights import have_metric_weights

    if not have_metric_weights():
        return Crops([], ["No crops: the weights of LPIPS are not installed."])
    from hybridprompt.evaluate.perceptual import Lpips

    lpips = Lpips("alex")
    crops: list[Crop] = []
    notes: list[str] = []
    for clip in run.clips:
        try:
            crops += _crops_of_clip(run, clip, pictures, source, lpips)
        except _NoCropsError as reason:
            notes.append(f"{clip}: no crops ({reason}).")
        except HybridPromptError as error:
            notes.append(f"{clip}: no crops ({error}).")
    return Crops(crops, notes)


class _NoCropsError(Exception):
    """Why a clip has no crops; never leaves this module."""


def _crops_of_clip(run: Run, clip: str, pictures: Pictures, source: Pictures, lpips: Lpips) -> list[Crop]:
    found = [pair for pair in pairs(run) if pair.clip == clip]
    if not found:
        raise _NoCropsError("no result of ours with a peer beside it")
    # Of several methods of ours at the lowest rate, the best.
    pair = min(found, key=lambda p: (p.target_kbps, p.ours.metrics.get(PRIMARY, np.inf), p.ours.method))
    frames = frames_to_look_at(pair)
    if not frames:
        raise _NoCropsError(f"no frames in which both have {PRIMARY}")
    sides = [source(pair.ours, frames), pictures(pair.peer, frames), pictures(pair.ours, frames)]
    kept = [side for side in sides if side is not None]
    frames = [f for f in frames if all(f in side for side in kept)]
    if len(kept) < 3 or not frames:
        raise _NoCropsError("the decoded pictures are not available")
    original, peer, ours = kept
    gains: list[tuple[float, int, int, int]] = []
    losses: list[tuple[float, int, int, int]] = []
    for frame in frames:
        sizes = {(side[frame].width, side[frame].height) for side in kept}
        if len(sizes) > 1:
            raise _NoCropsError(f"pictures of different sizes: {sorted(sizes)}")
        difference = _difference_map(original[frame], peer[frame], ours[frame], lpips)
        for sign, out in ((1, gains), (-1, losses)):
            value, top, left = _lowest_window(sign * difference, _side(original[frame]))
            out.append((sign * value, frame, top, left))
    chosen: list[tuple[Literal["gain", "loss"], tuple[float, int, int, int]]] = [
        ("gain", min(gains)),
        ("loss", max(losses)),
    ]
    return [
        _cut(kind, pair, place, original[place[1]], peer[place[1]], ours[place[1]]) for kind, place in chosen
    ]


def frames_to_look_at(pair: Pair, count: int = _FRAMES) -> list[int]:
    """Frames where ours gains most, and where it loses most, ``count`` of each, in rising order."""
    peer = dict(pair.peer.per_frame.get(PRIMARY, ()))
    both = [(value - peer[f], f) for f, value in pair.ours.per_frame.get(PRIMARY, ()) if f in peer]
    both.sort()
    return sorted({frame for _, frame in (*both[:count], *both[-count:])})


def _side(picture: Picture) -> tuple[int, int]:
    """Height and width of a crop in cells of the map."""
    return min(SIDE, picture.height) // _CELL or 1, min(SIDE, picture.width) // _CELL or 1


def _difference_map(source: Picture, peer: Picture, ours: Picture, lpips: Lpips) -> NDArray[np.float64]:
    """Local LPIPS of ours less that of the peer, per cell of 16x16 pixels."""
    import torch

    from hybridprompt.evaluate.compare import picture_to_rgb

    with torch.inference_mode():
        target = lpips.features(_padded(picture_to_rgb(source)))
        total = np.zeros((-(-source.height // _CELL), -(-source.width // _CELL)))
        for sign, picture in ((-1, peer), (1, ours)):
            maps = lpips.distance_maps(lpips.features(_padded(picture_to_rgb(picture))), target)
            for stage in maps:
                total += sign * _at_cells(stage[0], total.shape)
    return total


def _padded(rgb: torch.Tensor) -> torch.Tensor:
    # AlexNet's pooling needs a few positions.
    import torch.nn.functional as F

    height, width = rgb.shape[-2:]
    return F.pad(rgb, (0, max(64 - width, 0), 0, max(64 - height, 0)), mode="replicate")


def _at_cells(stage: torch.Tensor, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """A stage's map, sampled at or averaged over the cells of the picture."""
    import torch.nn.functional as F

    rows, columns = shape
    cells = F.interpolate(stage[None, None], (rows, columns), mode="area")
    return cells[0, 0].numpy().astype(np.float64)


def _lowest_window(values: NDArray[np.float64], size: tuple[int, int]) -> tuple[float, int, int]:
    """Mean, top and left (pixels) of the window of ``size`` cells with the lowest mean."""
    rows, columns = size
    sums = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    windows = (
        sums[rows:, columns:] - sums[:-rows, columns:] - sums[rows:, :-columns] + sums[:-rows, :-columns]
    )
    row, column = np.unravel_index(int(windows.argmin()), windows.shape)
    return float(windows[row, column]) / (rows * columns), int(row) * _CELL, int(column) * _CELL


def _cut(
    kind: Literal["gain", "loss"],
    pair: Pair,
    place: tuple[float, int, int, int],
    source: Picture,
    peer: Picture,
    ours: Picture,
) -> Crop:
    difference, frame, top, left = place
    height, width = min(SIDE, source.height), min(SIDE, source.width)
    # The last cell may be a part of one.
    top, left = min(top, source.height - height) // 2 * 2, min(left, source.width - width) // 2 * 2
    pngs = [encode_png(_crop(picture, top, left, height, width)) for picture in (source, peer, ours)]
    return Crop(kind, pair, frame, left, top, width, height, difference, *pngs)


def _crop(picture: Picture, top: int, left: int, height: int, width: int) -> Picture:
    """A part of a picture; top and left are even."""
    matrix = picture.color.resolved_matrix(picture.height)
    luma = picture.y[top : top + height, left : left + width]
    half_top, half_left = top // 2, left // 2
    rows, columns = (height + 1) // 2, (width + 1) // 2
    u, v = (
        plane[half_top : half_top + rows, half_left : half_left + columns] for plane in (picture.u, picture.v)
    )
    # An untagged matrix is guessed from the height: that of the whole picture counts.
    return Picture(luma, u, v, picture.pts, picture.time_base, replace(picture.color, matrix=matrix))
