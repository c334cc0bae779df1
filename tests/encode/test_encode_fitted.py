"""A whole encode with the shipped generator, LPIPS and real fits, played as a client plays it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from encode_media import TICK, write_source

from hybridprompt.decode.video_file import VideoFile
from hybridprompt.encode.pipeline import encode_file
from hybridprompt.encode.settings import PRESETS, EncodeSettings
from hybridprompt.evaluate.sampling import sample_frames
from hybridprompt.evaluate.weights import have_metric_weights
from hybridprompt.prompt.carriage import extract
from hybridprompt.prompt.sections import parse_sections
from hybridprompt.prompt.syntax import decode_prompt
from hybridprompt.video.packet_reader import PacketReader
from hybridprompt.video.picture import Picture

pytestmark = pytest.mark.skipif(not have_metric_weights(), reason="the weights of LPIPS are not installed")

COUNT, WIDTH, HEIGHT = 40, 320, 192
KBPS = 18.0


def landscape() -> list[Picture]:
    """Detail at all scales, as nature has it, that moves on slowly."""
    rng = np.random.default_rng(11)
    side = 512
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    spectrum = np.exp(2j * np.pi * rng.random(frequency.shape)) / np.maximum(frequency, 1 / side) ** 1.7
    field = np.fft.irfft2(spectrum, (side, side))
    whole = np.clip(120 + 45 * field / field.std(), 16, 235).astype(np.uint8)
    u, v = (np.full((HEIGHT // 2, WIDTH // 2), level, np.uint8) for level in (120, 134))
    return [Picture(whole[40 : 40 + HEIGHT, i : i + WIDTH], u, v, i, TICK).copied() for i in range(COUNT)]


def test_what_was_measured_is_what_plays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And counted: the rate is that of the file, prompts included."""
    from hybridprompt.encode.judge import LpipsJudge

    medium = PRESETS["medium"]
    assert medium.fit is not None
    assert medium.adapter is not None
    short = replace(
        medium,
        svt_preset=9,
        tries_scales=False,
        fit=replace(medium.fit, steps=12, joint_steps=6),
        adapter=replace(medium.adapter, steps=10, joint_steps=4),
    )
    monkeypatch.setitem(PRESETS, "medium", short)
    pictures = landscape()
    source = write_source(tmp_path / "source.mp4", pictures)
    coded = tmp_path / "coded.mp4"
    summary = encode_file(source, coded, EncodeSettings(bitrate_kbps=KBPS, preset="medium"))
    seconds = COUNT / 30
    size_bytes = sum(len(packet.data) for packet in PacketReader(coded))
    assert summary.rate_kbps == pytest.approx(size_bytes * 8 / 1000 / seconds)
    # A few thousand bytes in all: what prompts take is not known before.
    assert summary.rate_kbps == pytest.approx(KBPS, rel=0.1)
    distances = summary.distances
    assert distances is not None
    assert distances.decoded < 0.8 * distances.base

    prompts = [prompt for packet in PacketReader(coded) if (prompt := extract(packet.data)) is not None]
    assert len(prompts) == summary.anchors > 0
    gates = [parse_sections(decode_prompt(prompt)).gate for prompt in prompts]
    # Fitted, not searched for.
    assert {gate.block_size for gate in gates} == {32}

    judge = LpipsJudge()
    frames = set(sample_frames(COUNT, short.sample_frames))
    shown = []
    with VideoFile(coded) as video:
        for index, decoded in enumerate(video):
            if index in frames:
                reference = judge.prepare(pictures[index])
                shown.append(float(judge.distance_map(decoded.picture, reference, 1 << 15).mean()))
        assert not video.warnings
    # The source went through a nearly lossless codec.
    assert np.mean(shown) == pytest.approx(distances.decoded, rel=0.02)
