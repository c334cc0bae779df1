"""Fitting strengths: the optimiser on known responses, and through real decodes."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from encode_media import TICK, LumaJudge, scene

pytest.importorskip("torch")

from hybridprompt.encode import fit
from hybridprompt.encode.fit import (
    Response,
    StrengthFitter,
    Supervision,
    block_indices,
    difference,
    quantise,
)
from hybridprompt.encode.fit_loss import FitLoss
from hybridprompt.encode.gate import GopDecision, GopGate, make_fitter
from hybridprompt.encode.gop import Gop
from hybridprompt.encode.settings import PRESETS, FitSettings
from hybridprompt.evaluate.weights import have_metric_weights
from hybridprompt.generator.base import Planes, strength_plane
from hybridprompt.generator.fake import FakeGenerator
from hybridprompt.prompt.sections import parse_sections
from hybridprompt.prompt.syntax import decode_prompt
from hybridprompt.video.av1_encoder import Av1Settings, CodedPacket, encode_gop
from hybridprompt.video.picture import Picture

WIDTH, HEIGHT = 256, 128
SHAPE = (2, 4)
needs_weights = pytest.mark.skipif(not have_metric_weights(), reason="the weights of LPIPS are not installed")
SHORT = FitSettings(steps=40, joint_steps=20, crops=2, crop_size=128, frames=4)


def textured(seed: int) -> Planes:
    rng = np.random.default_rng(seed)
    y = np.clip(
        120 + np.kron(rng.normal(0, 25, (32, 64)), np.ones((4, 4))) + rng.normal(0, 12, (HEIGHT, WIDTH)),
        0,
        255,
    )
    chroma = np.full((HEIGHT // 2, WIDTH // 2), 128, np.uint8)
    return y.astype(np.uint8), chroma, chroma.copy()


def smoothed(planes: Planes) -> Planes:
    """Means of blocks of 4: the detail is gone."""
    y = planes[0].reshape(HEIGHT // 4, 4, WIDTH // 4, 4).mean((1, 3))
    return np.kron(y, np.ones((4, 4))).astype(np.uint8), planes[1], planes[2]


def half_textured(seed: int) -> Planes:
    """Detail in the left half alone."""
    y, u, v = textured(seed)
    y[:, WIDTH // 2 :] = smoothed((y, u, v))[0][:, WIDTH // 2 :]
    return y, u, v


def in_place() -> np.ndarray:
    return block_indices(np.zeros((2, HEIGHT, WIDTH), np.float16), 6, SHAPE)


def known_case(start: float = 0.5) -> tuple[Supervision, Response]:
    """The response adds detail, which the left half of the source has and the right half has not.

    (Detail of the wrong sign would not do: to these networks texture is as good as its negative.)
    """
    source = half_textured(1)
    base = smoothed(source)
    change = difference(textured(1), base)
    response = Response(
        np.zeros(SHAPE, np.float32),
        np.full(SHAPE, start, np.float32),
        {0: change},
        {0: in_place()},
    )
    return Supervision({0: base}, {0: source}), response


@needs_weights
def test_strengths_go_where_they_help() -> None:
    frames, response = known_case()
    (fitted,) = StrengthFitter(SHORT).fit(frames, [response], 40)
    assert fitted.shape == SHAPE
    assert fitted[:, :2].min() > 0.8
    assert fitted[:, 2:].max() < 0.2
    assert fitted.min() >= 0


@needs_weights
def test_strengths_stay_within_their_bounds() -> None:
    source = textured(1)
    base = smoothed(source)
    # A third of what is missing: three times as much would be right.
    third = tuple((c // 3).astype(np.int16) for c in difference(source, base))
    response = Response(np.zeros(SHAPE, np.float32), np.ones(SHAPE, np.float32), {0: third}, {0: in_place()})
    frames = Supervision({0: base}, {0: source})
    (fitted,) = StrengthFitter(SHORT, max_strength=1.5).fit(frames, [response], 40)
    assert fitted.max() == pytest.approx(1.5)
    (further,) = StrengthFitter(SHORT).fit(frames, [response], 40)
    assert further.mean() > 1.6


@needs_weights
def test_fit_counts_from_the_strengths_that_were_decoded() -> None:
    frames, response = known_case()
    source, base = frames.sources[0], frames.decoded[0]
    # The same frame, decoded with the left half at strength 1 already: it stays.
    half = base[0].copy()
    half[:, : WIDTH // 2] = source[0][:, : WIDTH // 2]
    at = np.repeat(np.array([[1, 1, 0, 0]], np.float32), 2, 0)
    (fitted,) = StrengthFitter(SHORT).fit(
        Supervision({0: (half, *base[1:])}, frames.sources), [replace(response, strengths=at, start=at)], 30
    )
    assert np.abs(fitted - at).max() < 0.25


@needs_weights
def test_same_seed_same_strengths() -> None:
    frames, response = known_case()
    first, again = (StrengthFitter(SHORT).fit(frames, [response], 8)[0] for _ in range(2))
    (other,) = StrengthFitter(replace(SHORT, seed=2)).fit(frames, [response], 8)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@needs_weights
def test_frames_that_nothing_reaches_leave_the_start() -> None:
    frames, response = known_case(start=0.25)
    (fitted,) = StrengthFitter(SHORT).fit(frames, [replace(response, changes={}, blocks={})], 10)
    assert (fitted == 0.25).all()


def test_blocks_follow_the_displacement() -> None:
    displacement = np.zeros((2, HEIGHT, WIDTH), np.float16)
    assert in_place().shape == (HEIGHT // 2, WIDTH // 2)
    assert np.array_equal(
        in_place()[[0, 31, 32, 63]][:, [0, 31, 32, 127]], [[0, 0, 1, 3]] * 2 + [[4, 4, 5, 7]] * 2
    )
    displacement[0] = 64
    moved = block_indices(displacement, 6, SHAPE)
    assert np.array_equal(moved[0, [0, 32, 64, 127]], [1, 2, 3, 3])
    displacement[0], displacement[1] = -1000, 1000
    assert (block_indices(displacement, 6, SHAPE) == 4).all()


def test_strengths_become_levels() -> None:
    strengths = np.array([[0, 0.1, 0.13, 1, 1.9, 3, -1]], np.float32)
    assert quantise(strengths, 4, 9).tolist() == [[0, 0, 1, 4, 8, 8, 0]]


# --------------------------------------------------------------------------------------- through real decodes


class Sharpener:
    """Gives one picture's planes back where the gate lets it, at any strength."""

    name = "sharpener"
    identity = b"sharpens"

    def __init__(self, change: np.ndarray) -> None:
        self.change = change

    def generate(self, planes: Planes, *, quantiser: int, strengths: np.ndarray, block_size: int) -> Planes:
        y, u, v = planes
        gate = strength_plane(strengths, block_size, y.shape[1], y.shape[0])
        return np.clip(np.rint(y + gate * self.change), 0, 255).astype(np.uint8), u.copy(), v.copy()


@pytest.fixture(scope="module")
def still() -> list[Picture]:
    y, u, v = smoothed(textured(3))
    return [Picture(y, u, v, i, TICK) for i in range(20)]


@pytest.fixture(scope="module")
def packets(still: list[Picture]) -> list[CodedPacket]:
    return encode_gop(
        still,
        Av1Settings(width=WIDTH, height=HEIGHT, frame_rate=Fraction(30), time_base=TICK, crf=30, preset=10),
    )


def decide(
    still: list[Picture], packets: list[CodedPacket], generator: object, fit: FitSettings = SHORT
) -> GopDecision:
    detailed = half_textured(3)
    gop = Gop(packets, None, TICK, lambda f: replace(still[f], y=detailed[0]))
    preset = PRESETS["medium"]
    return GopGate(gop, generator, LumaJudge(), preset, 32, StrengthFitter(fit)).decide()


@needs_weights
@pytest.mark.parametrize("frames", [4, 0])
def test_fitted_prompts_bring_the_detail_back(still, packets, frames: int) -> None:
    missing = textured(3)[0].astype(int) - smoothed(textured(3))[0]
    # Half of it, so that strength 2 is right, and in the right half none.
    decision = decide(still, packets, Sharpener(missing / 2), replace(SHORT, frames=frames, block_log2=5))
    (anchor,) = decision.anchors
    gate = parse_sections(decode_prompt(anchor.prompt_bytes)).gate
    assert gate.block_size == 32
    assert gate.strengths()[:, :4].mean() > 1.2
    assert gate.strengths()[:, 4:].mean() < 0.3
    assert decision.distance < 0.8 * decision.base_distance
    assert anchor.coverage == pytest.approx(gate.strengths().mean())


@needs_weights
def test_a_generator_that_harms_is_left_out(still, packets) -> None:
    # An offset, which is wrong everywhere.
    decision = decide(still, packets, Sharpener(np.full((HEIGHT, WIDTH), -40)))
    assert decision.anchors == ()
    assert decision.distance == decision.base_distance


@needs_weights
def test_odd_sizes_are_fitted() -> None:
    pictures = [replace(p, pts=i) for i, p in enumerate(scene(1, 97, 65) * 10)]
    settings = Av1Settings(width=97, height=65, frame_rate=Fraction(30), time_base=TICK, crf=30, preset=10)
    coded = encode_gop(pictures, settings)
    gop = Gop(
        coded,
        None,
        TICK,
        lambda f: replace(pictures[f], y=np.clip(pictures[f].y + 8.0, 0, 255).astype(np.uint8)),
    )
    fitter = StrengthFitter(replace(SHORT, block_log2=5))
    decision = GopGate(gop, FakeGenerator(8), LumaJudge(), PRESETS["medium"], None, fitter).decide()
    (anchor,) = decision.anchors
    gate = parse_sections(decode_prompt(anchor.prompt_bytes)).gate
    # A search has blocks of 64.
    assert gate.block_size == 32
    assert gate.indices.shape == (3, 4)
    assert decision.distance < 0.8 * decision.base_distance


def test_frames_that_a_fit_wants_are_announced(still, packets) -> None:
    asked: set[int] = set()

    def source(frame: int) -> Picture:
        asked.add(frame)
        return still[frame]

    gop = Gop(packets, None, TICK, source)
    gate = GopGate(gop, FakeGenerator(8), LumaJudge(), PRESETS["medium"], 32, StrengthFitter(SHORT))
    wanted = set(gate.wanted_frames())
    if have_metric_weights():
        gate.decide()
        assert asked <= wanted
    fitted = GopGate(gop, FakeGenerator(8), LumaJudge(), PRESETS["fast"], 32, StrengthFitter(SHORT))
    searched = GopGate(gop, FakeGenerator(8), LumaJudge(), PRESETS["fast"], 32)
    assert set(fitted.wanted_frames()) > set(searched.wanted_frames())


def test_a_large_picture_is_fitted_on_fewer_frames(monkeypatch) -> None:
    frames = list(range(0, 20, 2))
    size = (WIDTH, HEIGHT)
    assert fit.affordable_frames(frames, [0], size, fit.sample_bytes(1)) == frames
    monkeypatch.setattr(fit, "MAX_FIT_BYTES", 4 * WIDTH * HEIGHT * fit.sample_bytes(1))
    fewer = fit.affordable_frames(frames, [0], size, fit.sample_bytes(1))
    assert len(fewer) == 4
    assert 0 in fewer
    assert set(fewer) <= set(frames)
    monkeypatch.setattr(fit, "MAX_FIT_BYTES", 1)
    assert fit.affordable_frames(frames, [0], size, 7) == [0]


def test_no_fitter_without_weights_or_wish(monkeypatch) -> None:
    assert make_fitter(None) is None
    if have_metric_weights():
        assert make_fitter(SHORT) is not None
    monkeypatch.setattr("hybridprompt.evaluate.weights.have_metric_weights", lambda: False)
    assert make_fitter(SHORT) is None


@needs_weights
def test_prompts_are_fitted_to_all_three_networks() -> None:
    """Texture of the right kind in another place counts, too: the loss has DISTS beside both LPIPS."""
    import torch

    planes = torch.rand(2, 1, 128, 128), torch.rand(2, 2, 64, 64)
    moved = planes[0].flip(3), planes[1]
    device = torch.device("cpu")
    with_lpips, with_dists = FitLoss(device, 1)(planes, moved, 0), FitLoss(device, 1)(planes, moved, 3)
    assert min(with_lpips.alex, with_lpips.vgg or 0, with_dists.alex, with_dists.dists or 0) > 0
    assert with_lpips.dists is None
    assert with_dists.vgg is None
    assert FitLoss(device, 1, part=1)(planes, moved, 0).dists is not None
    same = FitLoss(device, 1)(planes, planes, 0)
    assert float(same.total) < 1e-3
