"""Where GOPs begin."""

from fractions import Fraction

import numpy as np
import pytest
from encode_media import TICK, scene, scenes

from hybridprompt.encode.plan import MAX_GOP_FRAMES, max_frames, split_at, split_gops
from hybridprompt.video.picture import Picture


def starts(pictures: list[Picture], gop_frames: int = 1000, gop_seconds: float = 100.0) -> list[int]:
    gops = list(split_gops(pictures, gop_frames=gop_frames, gop_seconds=gop_seconds))
    assert [p for gop in gops for p in gop] == pictures
    return [gop[0].pts or 0 for gop in gops]


def from_luma(lumas: list[np.ndarray]) -> list[Picture]:
    chroma = np.full((lumas[0].shape[0] // 2, lumas[0].shape[1] // 2), 128, np.uint8)
    return [
        Picture(np.clip(luma, 16, 235).astype(np.uint8), chroma, chroma, i, TICK)
        for i, luma in enumerate(lumas)
    ]


@pytest.mark.parametrize("size", [(160, 96), (640, 360), (96, 161)])
def test_gops_begin_at_scene_cuts(size: tuple[int, int]) -> None:
    width, height = size
    assert starts(scenes(30, 25, 40, 20, width=width, height=height)) == [0, 30, 55, 95]


def test_a_black_picture_between_scenes_is_one_cut() -> None:
    pictures = scenes(30, 30)
    pictures[30] = Picture(np.full_like(pictures[0].y, 16), pictures[30].u, pictures[30].v, 30, TICK)
    assert starts(pictures) == [0, 30]


@pytest.mark.parametrize("speed", [0, 1, 3, 8])
def test_pans_have_no_cuts(speed: int) -> None:
    assert starts(scene(60, 320, 180, speed=speed)) == [0]


@pytest.mark.parametrize("length", [10, 20, 40])
def test_fades_have_no_cuts(length: int) -> None:
    luma = scene(1, 320, 180)[0].y.astype(float)
    shares = np.concatenate([np.zeros(10), np.linspace(0, 1, length), np.ones(10)])
    assert starts(from_luma([16 + share * (luma - 16) for share in shares])) == [0]


def test_dissolves_have_no_cuts() -> None:
    a, b = (scene(1, 320, 180, seed=s, brightness=o)[0].y.astype(float) for s, o in ((1, -30), (2, 30)))
    shares = np.concatenate([np.zeros(10), np.linspace(0, 1, 15), np.ones(10)])
    assert starts(from_luma([a + share * (b - a) for share in shares])) == [0]


def test_a_flash_makes_at_most_one_gop() -> None:
    pictures = scene(40)
    flash = np.full_like(pictures[0].y, 230)
    pictures[20] = Picture(flash, pictures[20].u, pictures[20].v, 20, TICK)
    assert len(starts(pictures)) <= 2


def test_strobe_light_does_not_make_tiny_gops() -> None:
    pictures = scene(64)
    for i in range(0, 64, 2):
        pictures[i] = Picture(np.full_like(pictures[i].y, 230), pictures[i].u, pictures[i].v, i, TICK)
    assert all(b - a >= 8 for a, b in zip(starts(pictures), starts(pictures)[1:], strict=False))


def test_noise_has_no_cuts() -> None:
    rng = np.random.default_rng(0)
    assert starts(from_luma([rng.normal(128, 30, (96, 160)) for _ in range(30)])) == [0]


def test_long_scenes_are_cut_evenly() -> None:
    assert starts(scene(50), gop_frames=20) == [0, 20, 40]


def test_a_cut_right_after_a_full_gop_counts() -> None:
    assert starts(scenes(23, 30), gop_frames=20) == [0, 20, 23, 43]


def test_variable_frame_rates_are_cut_by_time() -> None:
    times = [0, 1, 2, 10, 40, 70, 99, 100, 101, 200]
    pictures = [
        Picture(p.y, p.u, p.v, t, Fraction(1, 100)) for p, t in zip(scene(10, speed=0), times, strict=True)
    ]
    assert starts(pictures, gop_seconds=1.0) == [0, 100, 200]


def test_single_picture_and_none() -> None:
    assert starts(scene(1)) == [0]
    assert starts([]) == []


def test_length_is_bounded() -> None:
    assert max_frames(4, 30, 1920, 1080) == 120
    assert max_frames(4, 29.97, 1280, 720) == 120
    assert max_frames(20, 240, 64, 64) == MAX_GOP_FRAMES
    assert max_frames(0.5, 0.2, 64, 64) == 1
    assert 1 <= max_frames(20, 60, 15360, 8640) < 20


def test_split_at_given_starts() -> None:
    pictures = scene(20)

    def lengths(starts: list[int], chosen: list[Picture]) -> list[int]:
        return [len(gop) for gop in split_at(chosen, starts)]

    assert lengths([0, 5, 12], pictures) == [5, 7, 8]
    # Pictures that are missing the second time: in the middle, a whole GOP, at the end.
    assert lengths([0, 5, 12], pictures[:3] + pictures[6:]) == [3, 6, 8]
    assert lengths([0, 5, 12], pictures[:5] + pictures[12:]) == [5, 0, 8]
    assert lengths([0, 5, 12], pictures[:4]) == [4, 0, 0]
    assert lengths([0], pictures) == [20]
