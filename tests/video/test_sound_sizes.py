"""Sizes of sound that is carried along, against what a file then holds."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from hybridprompt.video.audio import AudioTrack
from hybridprompt.video.sound_sizes import SoundSizes


def write_sound(path: Path, codec: str, layout: str = "stereo", seconds: float = 1.5) -> Path:
    rng = np.random.default_rng(1)
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=48000, layout=layout)
        channels = stream.codec_context.channels
        for start in range(0, round(48000 * seconds), 1024):
            # Louder and louder, for packets of different sizes.
            wave = (rng.normal(0, 1, (1, 1024 * channels)) * (500 + start / 10)).astype(np.int16)
            piece = av.AudioFrame.from_ndarray(wave, format="s16", layout=layout)
            piece.sample_rate, piece.pts, piece.time_base = 48000, start, Fraction(1, 48000)
            output.mux(stream.encode(piece))
        output.mux(stream.encode(None))
    return path


def carried(source: Path, path: Path, origin: Fraction) -> list[tuple[float, int]]:
    track = AudioTrack.open(source, origin, None)
    assert track is not None
    with av.open(str(path), "w", format="mp4") as output:
        track.add_to(output)
        track.write_until(output, None)
    track.close()
    with av.open(str(path)) as container:
        return [(float(p.dts * p.time_base), p.size) for p in container.demux(audio=0) if p.size]


@pytest.mark.parametrize("origin", [Fraction(0), Fraction(1, 2)])
@pytest.mark.parametrize(
    ("name", "codec", "layout"),
    [("aac.mp4", "aac", "stereo"), ("flac.mkv", "flac", "mono"), ("pcm.mkv", "pcm_s16le", "stereo")],
)
def test_sizes_are_those_of_the_file(
    tmp_path: Path, name: str, codec: str, layout: str, origin: Fraction
) -> None:
    """Copied, and transcoded."""
    source = write_sound(tmp_path / name, codec, layout)
    expected = carried(source, tmp_path / "out.mp4", origin)
    found = SoundSizes.measure(source, origin)
    assert found is not None
    total = sum(size for _, size in expected)
    assert len({size for _, size in expected}) > 2
    assert found.bytes_between(-np.inf, np.inf) == total
    edges = [-np.inf, 0.25, 0.6, 0.61, np.inf]
    parts = [found.bytes_between(a, b) for a, b in pairwise(edges)]
    assert sum(parts) == total
    for part, (start, end) in zip(parts, pairwise(edges), strict=True):
        at = [size for time, size in expected if start <= time < end]
        # A container may round times.
        assert part == pytest.approx(sum(at), abs=max(size for _, size in expected))
    assert found.kbps(100.0) == pytest.approx(total / 12_500)
    assert found.kbps(0.0) == pytest.approx(total / 125 / (1.5 - float(origin)), rel=0.08)


def test_packets_belong_to_the_time_they_start_in() -> None:
    sound = SoundSizes([(1.0, 20), (0.0, 1), (0.5, 300)])
    assert [sound.bytes_between(*span) for span in ((0.0, 0.5), (0.5, 1.0), (1.0, 9.0))] == [1, 300, 20]
    assert sound.bytes_between(2.0, 3.0) == 0
    assert sound.kbps(0.0) == pytest.approx(321 / 125)
    assert SoundSizes([(3.0, 100)]).kbps(0.0) == 0.0


def test_without_sound_there_is_nothing_to_measure(tmp_path: Path) -> None:
    path = tmp_path / "silent.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=30)
        stream.width = stream.height = 64
        output.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        output.mux(stream.encode(None))
    assert SoundSizes.measure(path, Fraction(0)) is None
