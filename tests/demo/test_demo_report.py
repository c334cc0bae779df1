"""The table, the sentences, and the picture."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from demo_media import moving_pictures
from rich.console import Console

from hybridprompt.demo.report import DemoReport, Row, relative_gain, sentences, table
from hybridprompt.demo.side_by_side import Moment, Panel, draw, most_different, panel_size
from hybridprompt.video.picture import Picture

PEER = Row("AV1", 10_100, 202.0, {"LPIPS-Alex": 0.20, "DISTS": 0.10, "PSNR-Y": 33.0}, 3.0, 300.0)
OURS = Row("ours", 10_000, 200.0, {"LPIPS-Alex": 0.18, "DISTS": 0.11, "PSNR-Y": 33.01}, 30.0, 200.0)
REPORT = DemoReport(
    "clip.mp4", 1920, 1080, 240, {}, [15], [15], 4, 120, PEER, replace(OURS, name="base"), OURS
)


def test_gains_know_which_way_is_better() -> None:
    assert relative_gain(REPORT, "LPIPS-Alex") == pytest.approx(0.1)
    assert relative_gain(REPORT, "DISTS") == pytest.approx(-0.1)
    assert relative_gain(REPORT, "PSNR-Y") > 0


def test_losses_are_told_like_gains() -> None:
    text = "\n".join(sentences(REPORT))
    assert "better than AV1 in LPIPS-Alex (-10.0%)" in text
    assert "worse than AV1 in DISTS (+10.0%)" in text
    assert "level with AV1 in PSNR-Y" in text


def test_fewer_bytes_of_the_peer_are_told() -> None:
    text = "\n".join(sentences(replace(REPORT, peer=replace(PEER, size_bytes=9_000))))
    assert "10.0% fewer" in text
    ours = REPORT.ours.size_bytes
    for fewer, told in ((0.0009, False), (0.0011, True)):
        peer = replace(PEER, size_bytes=round(ours * (1 - fewer)))
        text = "\n".join(sentences(replace(REPORT, peer=peer)))
        assert ("fewer" in text) == told


def test_coarse_steps_are_told() -> None:
    text = "\n".join(sentences(replace(REPORT, peer=replace(PEER, size_bytes=10_500))))
    assert "5.0% more" in text


def test_no_anchor_is_told() -> None:
    assert any("No anchor" in s for s in sentences(replace(REPORT, anchor_count=0)))


def test_the_table_has_every_number() -> None:
    console = Console(file=io.StringIO(), width=160)
    console.print(table(REPORT))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for expected in ("10,100", "202.0", "0.1800", "33.01", "-10.0%", "+0.01 dB", "DISTS ↓ (tiles)", "300"):
        assert expected in text


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1920, 1080), (640, 360)), ((1080, 1920), (360, 640)), ((320, 180), (320, 180))],
)
def test_panels_keep_the_shape(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert panel_size(*size) == expected


def test_the_crop_is_where_most_differs() -> None:
    a = np.full((200, 320), 100, np.uint8)
    b = a.copy()
    b[128:160, 208:240] = 60
    top, left = most_different(a, b, (64, 48))
    assert top <= 128 < 160 <= top + 48
    assert left <= 208 < 240 <= left + 64


def test_a_crop_of_the_whole_picture_is_allowed() -> None:
    a = np.zeros((32, 48), np.uint8)
    assert most_different(a, a, (48, 32)) == (0, 0)


def test_crops_are_drawn_one_to_one(tmp_path: Path) -> None:
    from PIL import Image

    source, peer, _ = moving_pictures(3, 800, 480)
    changed = peer.y.copy()
    changed[64:400, 96:700] = 235
    ours = Picture(changed, peer.u, peer.v, peer.pts, peer.time_base)
    moment = Moment(Panel(source, "source"), Panel(peer, "peer"), Panel(ours, "ours"))
    draw([moment, moment], tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as opened:
        drawn = np.asarray(opened.convert("RGB"))
    width, height = panel_size(800, 480)
    assert drawn.shape == (4 * (30 + height + 8), 3 * width + 4 * 8, 3)
    top, left = most_different(peer.y, changed, (width, height))
    crop = ours.to_rgb()[top : top + height, left : left + width]
    panel_top = (30 + height + 8) + 30
    panel_left = 8 + 2 * (width + 8)
    got = drawn[panel_top : panel_top + height, panel_left : panel_left + width]
    assert np.abs(got.astype(int) - crop).max() <= 1
