"""The search for a peer of the same bytes, on made-up rate curves and on a real encode."""

import math
from pathlib import Path

import pytest
from demo_media import RATE, moving_pictures
from hypothesis import given
from hypothesis import strategies as st

from hybridprompt.demo.peer import SAME, TOLERANCE, PeerEncode, encode_peer, match_bytes, write_peer
from hybridprompt.video.av1_encoder import CRF_STEP, CodedPacket
from hybridprompt.video.packet_reader import PacketReader
from hybridprompt.video.source import VideoSource
from hybridprompt.video.writers import Y4mWriter


class Curve:
    """An encoder whose bytes fall exponentially with CRF."""

    def __init__(self, at_50: float, slope: float) -> None:
        self.at_50, self.slope = at_50, slope
        self.asked: list[float] = []

    def size(self, crf: float) -> int:
        return round(self.at_50 * math.exp(self.slope * (crf - 50)))

    def __call__(self, crf: float) -> PeerEncode:
        self.asked.append(crf)
        return PeerEncode(crf, [CodedPacket(bytes(self.size(crf)), 0, 0, 1, True)], 1.0)


@given(
    at_50=st.floats(20_000, 400_000),
    slope=st.floats(-0.08, -0.02),
    target_crf=st.floats(40, 65),
    away=st.floats(-8, 8),
)
def test_the_peer_has_as_many_bytes_and_few_more(
    at_50: float, slope: float, target_crf: float, away: float
) -> None:
    curve = Curve(at_50, slope)
    target = curve.size(target_crf)
    found = match_bytes(curve, target, target_crf + away)
    least = target * (1 - SAME)
    assert least <= found.size_bytes
    # A quarter step of a steep curve is more than the tolerance; then the next coarser CRF is too small.
    assert found.size_bytes <= target * (1 + TOLERANCE) or curve.size(found.crf + CRF_STEP) < least
    assert len(curve.asked) == len(set(curve.asked))


@pytest.mark.parametrize(("fewer", "crf"), [(0.0, 50), (0.0009, 50), (0.0011, 49.75)])
def test_a_few_bytes_are_no_reason_for_a_finer_peer(fewer: float, crf: float) -> None:
    curve = Curve(1_000_000, -0.2)
    assert match_bytes(curve, math.floor(1_000_000 / (1 - fewer)), 50).crf == crf


def test_a_steep_curve_ends_at_the_nearest_finer_step() -> None:
    curve = Curve(100_000, -0.4)
    target = curve.size(50.1)
    assert match_bytes(curve, target, 55).crf == 50


@pytest.mark.parametrize(("target", "first", "crf"), [(10**9, 10, 1.0), (1, 60, 70.0)])
def test_out_of_reach_gives_the_nearest(target: int, first: float, crf: float) -> None:
    curve = Curve(100_000, -0.05)
    assert match_bytes(curve, target, first).crf == crf


def test_a_real_peer_is_written_as_ordinary_av1(tmp_path: Path) -> None:
    with Y4mWriter(tmp_path / "in.y4m", frame_rate=RATE) as writer:
        for picture in moving_pictures(12):
            writer.write(picture)
        writer.commit()
    source = VideoSource(tmp_path / "in.y4m")
    peer = encode_peer(source, 50, svt_preset=12, gop_seconds=0.2, tune="vq")
    write_peer(peer, source, tmp_path / "peer.mp4")
    packets = list(PacketReader(tmp_path / "peer.mp4").packets())
    assert len(packets) == 12
    assert [i for i, p in enumerate(packets) if p.is_keyframe] == [0, 6]
    assert peer.size_bytes >= sum(len(p.data) for p in packets)
