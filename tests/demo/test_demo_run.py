"""The demo from end to end, on a small clip and with a small untrained generator."""

import json
from pathlib import Path

import pytest
import torch
from demo_media import RATE, moving_pictures

from hybridprompt.demo.clip import Clip
from hybridprompt.demo.measure import score, tiles
from hybridprompt.demo.run import DemoSettings, run_demo
from hybridprompt.errors import ConfigError
from hybridprompt.evaluate.compare import mean_scores
from hybridprompt.evaluate.weights import have_metric_weights
from hybridprompt.generator.network import GeneratorNetwork, NetworkConfig
from hybridprompt.train.export import export
from hybridprompt.video.writers import Y4mWriter

needs_weights = pytest.mark.skipif(
    not have_metric_weights(), reason="the weights of LPIPS and DISTS are not installed"
)


@pytest.fixture
def small_generator(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    network = GeneratorNetwork(NetworkConfig(stem_channels=8, body_channels=8, body_blocks=1, tail_blocks=1))
    state = {"config": network.config.as_dict(), "network": network.state_dict()}
    torch.save(state, tmp_path / "ema.pt")
    export(tmp_path / "ema.pt", tmp_path / "small.onnx")
    return tmp_path / "small.onnx"


@pytest.mark.slow
@needs_weights
def test_the_demo_leaves_everything_it_promises(tmp_path: Path, small_generator: Path) -> None:
    with Y4mWriter(tmp_path / "clip.y4m", frame_rate=RATE) as writer:
        for picture in moving_pictures(40, 320, 192):
            writer.write(picture)
        writer.commit()
    told: list[str] = []
    settings = DemoSettings(seconds=1.0, bitrate_kbps=150, generator=small_generator)
    out = tmp_path / "out"
    report = run_demo(Clip(tmp_path / "clip.y4m", "made here"), out, settings, tell=told.append)

    assert sorted(p.name for p in out.iterdir()) == [
        "av1.mp4",
        "hybridprompt.mp4",
        "report.json",
        "side_by_side.png",
    ]
    assert report.frame_count == 30
    assert report.peer.size_bytes >= report.ours.size_bytes
    assert report.ours.size_bytes == report.base.size_bytes + report.prompt_bytes
    for row in (report.peer, report.base, report.ours):
        assert set(row.metrics) == {"LPIPS-Alex", "LPIPS-VGG", "DISTS", "PSNR-Y"}
    if report.anchor_count == 0:
        assert report.ours.metrics == report.base.metrics
    assert json.loads((out / "report.json").read_text())["settings"]["bitrate_kbps"] == 150
    assert told


@needs_weights
def test_every_method_gets_its_own_scores() -> None:
    pictures = dict(enumerate(moving_pictures(4, 96, 96)))
    late = {i: pictures[min(i + 1, 3)] for i in pictures}
    scores = score(pictures, {"same": pictures, "late": late}, [1])
    means = mean_scores(scores)
    assert means["same"]["PSNR-Y"] == 100
    for metric in ("LPIPS-Alex", "LPIPS-VGG", "DISTS"):
        assert means["same"][metric] == pytest.approx(0, abs=1e-4)
        assert means["late"][metric] > 0.01
    assert {s.frame for s in scores if "DISTS" in s.values} == {1}


def test_tiles_are_spread_evenly() -> None:
    rows = torch.arange(1080.0).view(1, 1, -1, 1).expand(1, 3, -1, 1920)
    assert tiles(rows).shape == (4, 3, 256, 256)
    assert tiles(rows)[:, 0, 0, 0].tolist() == [142.0] * 2 + [682.0] * 2
    assert tiles(torch.zeros(1, 3, 100, 500)).shape == (2, 3, 100, 100)


@pytest.mark.parametrize("settings", [{"seconds": 0}, {"bitrate_kbps": 1}, {"preset": "slowest"}])
def test_unfit_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        DemoSettings(**settings)  # type: ignore[arg-type]
