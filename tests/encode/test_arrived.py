"""Strengths of later anchors by what has arrived there of the earlier ones' generation."""

from fractions import Fraction

import numpy as np
import pytest
from encode_media import TICK, scene
from numpy.typing import NDArray

from hybridprompt.encode.arrived import measured_anchors, share_arrived
from hybridprompt.encode.gate import AnchorDecision
from hybridprompt.encode.gop import Gop, find_candidates
from hybridprompt.errors import CodecError, GeneratorError
from hybridprompt.generator.base import Planes, strength_plane
from hybridprompt.generator.fake import FakeGenerator
from hybridprompt.prompt.sections import parse_sections
from hybridprompt.prompt.syntax import decode_prompt
from hybridprompt.video.av1_encoder import Av1Settings, encode_gop
from hybridprompt.video.picture import Picture

WIDTH, HEIGHT = 320, 136


def changes(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 6, (100, 150)).astype(np.float32)


def test_the_share_is_that_of_every_block() -> None:
    whole = changes(1)
    arrived = whole.copy()
    arrived[:64, 64:128] *= 0.25
    arrived[64:, :64] = 0
    # Blocks at the edges are cut.
    arrived[64:, 128:] = -whole[64:, 128:]
    assert share_arrived(arrived, whole) == pytest.approx(np.array([[1, 0.25, 1], [0, 1, 0]]), abs=1e-5)


def test_what_else_changed_does_not_count() -> None:
    whole = changes(1)
    noisy = 0.5 * whole + changes(2)
    assert np.abs(share_arrived(noisy, whole)[:1, :2] - 0.5).max() < 0.06
    assert share_arrived(2 * whole, whole).max() == 1


def test_where_nothing_would_be_added_nothing_has_arrived() -> None:
    assert not share_arrived(changes(1), np.zeros((100, 150), np.float32)).any()


class Grain(FakeGenerator):
    """Adds the same grain to every picture; a brightness would come along in intra prediction."""

    def generate(
        self, planes: Planes, *, quantiser: int, strengths: NDArray[np.float32], block_size: int
    ) -> Planes:
        y, u, v = planes
        grain = np.random.default_rng(3).normal(0, 9, y.shape)
        grain *= strength_plane(strengths, block_size, y.shape[1], y.shape[0])
        return np.clip(np.rint(y + grain), 0, 255).astype(np.uint8), u.copy(), v.copy()


def half_replaced(count: int) -> list[Picture]:
    """A texture that stays; from the eighth picture on its right half is another one."""
    still, other = (scene(1, WIDTH, HEIGHT, seed=seed)[0] for seed in (1, 2))
    pictures = []
    for index in range(count):
        y = still.y.copy()
        if index >= 8:
            y[:, WIDTH // 2 :] = other.y[:, WIDTH // 2 :]
        pictures.append(Picture(y, still.u, still.v, index, TICK).copied())
    return pictures


@pytest.fixture(scope="module")
def gop() -> Gop:
    pictures = half_replaced(72)
    settings = Av1Settings(
        width=WIDTH, height=HEIGHT, frame_rate=Fraction(30), time_base=TICK, preset=10, crf=50.0
    )

    def source(frame: int) -> Picture:
        raise AssertionError("there is no source")

    return Gop(encode_gop(pictures, settings), None, TICK, source)


def gate_of(anchor: AnchorDecision) -> np.ndarray:
    gate = parse_sections(decode_prompt(anchor.prompt_bytes)).gate
    assert gate is not None
    return gate.strengths()


def test_strength_is_lower_where_generation_has_arrived(gop: Gop) -> None:
    candidates = find_candidates(gop, 32)
    anchors = measured_anchors(gop, Grain(), candidates, WIDTH, HEIGHT)
    assert [(a.packet, a.frame, a.quantiser) for a in anchors] == [
        (c.packet, c.frame, c.base_q_idx) for c in candidates
    ]
    first, later = map(gate_of, anchors)
    assert (first == 1).all()
    assert later.shape == (3, 5)
    assert (later[:, :2] <= 0.5).all()
    assert (later[:, 3:] >= 0.875).all()
    assert anchors[0].coverage == pytest.approx(1)
    # The last row of blocks is cut to an eighth.
    shares = np.array([64, 64, 8])[:, None] / (136 * 5)
    assert anchors[1].coverage == pytest.approx(float((later * shares).sum()))


def test_a_keyframe_by_itself(gop: Gop) -> None:
    (anchor,) = measured_anchors(gop, FakeGenerator(), find_candidates(gop, 32)[:1], WIDTH, HEIGHT)
    assert (gate_of(anchor) == 1).all()


def test_a_generator_that_fails_is_told(gop: Gop) -> None:
    class Failing(FakeGenerator):
        def generate(self, planes: Planes, **_: object) -> Planes:
            raise GeneratorError("no")

    with pytest.raises(GeneratorError, match="no"):
        measured_anchors(gop, Failing(), find_candidates(gop, 32), WIDTH, HEIGHT)


def test_pictures_of_another_size_are_told(gop: Gop) -> None:
    with pytest.raises(CodecError, match="another size"):
        measured_anchors(gop, FakeGenerator(), find_candidates(gop, 32), WIDTH + 8, HEIGHT)


def test_packets_that_end_early_are_told(gop: Gop) -> None:
    candidates = find_candidates(gop, 32)
    cut = Gop(gop.packets[:20], None, TICK, gop.source)
    with pytest.raises(CodecError, match="show no picture"):
        measured_anchors(cut, FakeGenerator(), candidates, WIDTH, HEIGHT)
