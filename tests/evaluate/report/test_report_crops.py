"""Crops: where the methods differ most, and what happens without pictures."""

import base64
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from report_records import record, write_run

from hybridprompt.errors import MediaError
from hybridprompt.evaluate.report.build import write_report
from hybridprompt.evaluate.report.crops import SIDE, find_crops, frames_to_look_at
from hybridprompt.evaluate.report.hull import pairs
from hybridprompt.evaluate.report.load import Record, load_run
from hybridprompt.evaluate.weights import have_metric_weights
from hybridprompt.video.picture import Picture

WIDTH, HEIGHT = 640, 320

needs_weights = pytest.mark.skipif(not have_metric_weights(), reason="the weights of LPIPS are not installed")


def run_folder(tmp_path: Path) -> Path:
    peer = record("dog", "svt-av1", LPIPS_Alex=0.2, size=(WIDTH, HEIGHT))
    ours = record("dog", "ours", family="hybridprompt", LPIPS_Alex=0.1, size=(WIDTH, HEIGHT))
    peer["per_frame"] = {"LPIPS-Alex": [[1, 0.2], [3, 0.2], [5, 0.2], [7, 0.2], [9, 0.2]]}
    ours["per_frame"] = {"LPIPS-Alex": [[1, 0.1], [3, 0.15], [5, 0.2], [7, 0.25], [9, 0.3]]}
    return write_run(tmp_path, [peer, ours])


def textured() -> Picture:
    rng = np.random.default_rng(1)
    chroma = np.full((HEIGHT // 2, WIDTH // 2), 128, np.uint8)
    return Picture(rng.integers(60, 196, (HEIGHT, WIDTH)).astype(np.uint8), chroma, chroma)


def flattened(picture: Picture, left: int) -> Picture:
    """The picture with a 256 pixels wide stripe of gray."""
    y = picture.y.copy()
    y[:, left : left + 256] = 128
    return replace(picture, y=y)


def source(record: Record, frames: list[int]) -> Mapping[int, Picture]:
    return {frame: textured() for frame in frames}


def pictures(record: Record, frames: list[int]) -> Mapping[int, Picture]:
    """The peer is flat on the left, ours on the right."""
    return {
        frame: flattened(textured(), 0 if record.method == "svt-av1" else WIDTH - 256) for frame in frames
    }


def test_frames_are_those_that_differ_most(tmp_path: Path) -> None:
    (pair,) = pairs(load_run(run_folder(tmp_path)))
    assert frames_to_look_at(pair, 1) == [1, 9]
    assert frames_to_look_at(pair, 2) == [1, 3, 7, 9]
    assert frames_to_look_at(pair, 9) == [1, 3, 5, 7, 9]


@needs_weights
def test_the_largest_gain_and_loss_are_found(tmp_path: Path) -> None:
    found = find_crops(load_run(run_folder(tmp_path)), pictures, source)
    assert found.notes == []
    gain, loss = found.crops
    assert (gain.kind, loss.kind) == ("gain", "loss")
    assert gain.left < 64
    assert loss.left > WIDTH - 256 - 64
    assert gain.difference < -0.05
    assert loss.difference > 0.05
    assert gain.frame in (1, 3, 7, 9)
    (frame,) = av.CodecContext.create("png", "r").decode(av.Packet(gain.source_png))
    assert (frame.width, frame.height) == (SIDE, SIDE)


@needs_weights
def test_crops_are_part_of_the_page(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    html = write_report(folder, pictures=pictures, source=source).read_text(encoding="utf-8")
    assert "largest gain" in html
    assert "largest loss" in html
    shown = re.findall(r'<img src="data:image/png;base64,([^"]+)"', html)
    crop = find_crops(load_run(folder), pictures, source).crops[0]
    assert base64.b64encode(crop.ours_png).decode() in shown


@needs_weights
def test_pictures_smaller_than_a_crop_are_shown_whole(tmp_path: Path) -> None:
    def small(record: Record, frames: list[int]) -> Mapping[int, Picture]:
        plane = np.full((20, 25), 128, np.uint8)
        return {f: Picture(textured().y[:39, :50], plane, plane) for f in frames}

    crop = find_crops(load_run(run_folder(tmp_path)), small, small).crops[0]
    assert (crop.left, crop.top, crop.width, crop.height) == (0, 0, 50, 39)


@needs_weights
def test_missing_pictures_are_told(tmp_path: Path) -> None:
    run = load_run(run_folder(tmp_path))
    assert find_crops(run, None, source).notes == ["No crops: the decoded pictures are not available."]
    assert find_crops(run, lambda record, frames: None, source).notes == [
        "dog: no crops (the decoded pictures are not available)."
    ]

    def broken(record: Record, frames: list[int]) -> Mapping[int, Picture]:
        raise MediaError("the file is gone")

    assert find_crops(run, broken, source).notes == ["dog: no crops (the file is gone)."]

    def other_size(record: Record, frames: list[int]) -> Mapping[int, Picture]:
        plane = np.zeros((8, 8), np.uint8)
        return {frame: Picture(np.zeros((16, 16), np.uint8), plane, plane) for frame in frames}

    (note,) = find_crops(run, other_size, source).notes
    assert "pictures of different sizes" in note


@needs_weights
def test_clips_without_a_pair_or_frames_are_told(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "a", [record("dog", "svt-av1", LPIPS_Alex=0.1)]))
    assert find_crops(run, pictures, source).notes == [
        "dog: no crops (no result of ours with a peer beside it)."
    ]
    bare = [record("dog", "svt-av1", PSNR_Y=30), record("dog", "ours", family="hybridprompt", PSNR_Y=30)]
    run = load_run(write_run(tmp_path / "b", bare))
    assert find_crops(run, pictures, source).notes == [
        "dog: no crops (no frames in which both have LPIPS-Alex)."
    ]
