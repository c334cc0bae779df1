"""The decode operator: against arithmetic, decoders whose effect is known, and the real one."""

import subprocess
import sys
from collections.abc import Collection, Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from encode_media import TICK, scene
from operator_media import inner, tensors

from hybridprompt.encode.gop import Candidate, Gop, find_candidates
from hybridprompt.encode.operator.decode_operator import DecodeOperator
from hybridprompt.encode.operator.decoders import Av1AnchorDecoder, Injection
from hybridprompt.encode.operator.fidelity import agreement, measure_fidelity
from hybridprompt.encode.operator.frame_map import FrameMap, cell_grid, even_part
from hybridprompt.encode.operator.patterns import Waves
from hybridprompt.encode.operator.probe import ProbeSettings, probe
from hybridprompt.encode.operator.sampling import box_mean
from hybridprompt.errors import CodecError, ConfigError
from hybridprompt.generator.base import Planes
from hybridprompt.prompt.carriage import attach
from hybridprompt.prompt.gate import GateMap
from hybridprompt.prompt.sections import build_prompt
from hybridprompt.prompt.syntax import encode_prompt
from hybridprompt.video.av1_encoder import Av1Settings, encode_gop
from hybridprompt.video.picture import Picture

WIDTH, HEIGHT = 192, 128
SPEED = (2, 1)
"""Samples per frame to the left and up: where the pixels of a frame come from."""


def make_map(width: int, height: int, *, bands: int = 3, seed: int = 0) -> FrameMap:
    """A map with nothing regular about it."""
    rng = np.random.default_rng(seed)

    def numbers(low: float, high: float, *shape: int) -> np.ndarray:
        return rng.uniform(low, high, shape).astype(np.float16)

    return FrameMap(
        frame=7,
        displacement=numbers(-9, 9, 2, height, width),
        gain_y=numbers(0, 1, height, width),
        gain_uv=numbers(0, 1, height // 2, width // 2),
        factors_y=numbers(-0.2, 1.3, bands, *cell_grid(height, width)),
        factors_uv=numbers(-0.2, 1.3, bands, 2, *cell_grid(height // 2, width // 2)),
    )


def plain_map(displacement: tuple[float, float], gain: float = 1.0) -> FrameMap:
    """The same displacement everywhere, in a picture of 32x24."""
    made = make_map(32, 24, bands=1)
    shift = np.broadcast_to(np.array(displacement, np.float16)[:, None, None], (2, 24, 32))
    return replace(
        made,
        displacement=shift.copy(),
        gain_y=np.full_like(made.gain_y, gain),
        gain_uv=np.full_like(made.gain_uv, gain),
        factors_y=np.ones_like(made.factors_y),
        factors_uv=np.ones_like(made.factors_uv),
    )


def noise(width: int, height: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(height, width, generator=generator, dtype=torch.float64)
    return y, torch.randn(2, height // 2, width // 2, generator=generator, dtype=torch.float64)


class ShiftDecoder:
    """Frame t is frame 0 from t * speed away, at some contrast, plus what the anchor has no part in."""

    def __init__(self, *, size: tuple[int, int] = (256, 128), speed: int = 2, gain: float = 1.0) -> None:
        self._size = size
        self._speed = speed
        self._gain = gain
        rng = np.random.default_rng(3)
        width, height = size
        shapes = ((height, width), ((height + 1) // 2, (width + 1) // 2))
        self._base = tuple(rng.integers(60, 190, shapes[p > 0]).astype(np.uint8) for p in range(3))
        self._residual = tuple(rng.integers(-5, 6, shapes[p > 0]) for p in range(3))
        self.calls = 0

    @property
    def frame_count(self) -> int:
        return 60

    def decode(
        self, anchor: int, frames: Collection[int], injection: Injection | None
    ) -> Iterator[tuple[int, Planes]]:
        self.calls += 1
        planes = self._base if injection is None else injection(self._base)
        for frame in sorted(frames):
            yield frame, tuple(self._moved(p, plane, frame) for p, plane in enumerate(planes))

    def _moved(self, p: int, plane: np.ndarray, frame: int) -> np.ndarray:
        shift = self._speed * frame // (2 if p else 1)
        columns = np.clip(np.arange(plane.shape[1]) + shift, 0, plane.shape[1] - 1)
        out = 128 + self._gain * (plane[:, columns].astype(np.float64) - 128) + self._residual[p]
        return np.clip(np.rint(out), 0, 255).astype(np.uint8)


def rough_chroma(pictures: list[Picture]) -> list[Picture]:
    """Give the chroma the texture of the luma, so that it moves too."""
    out = []
    for picture in pictures:
        quarter = picture.y.reshape(HEIGHT // 2, 2, WIDTH // 2, 2).mean((1, 3))
        u, v = ((quarter / 2 + offset).astype(np.uint8) for offset in (60, 70))
        out.append(replace(picture, u=u, v=v))
    return out


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return rough_chroma(scene(41, WIDTH, HEIGHT, speed=SPEED[0]))


@pytest.fixture(scope="module")
def decoder(pictures: list[Picture]) -> Av1AnchorDecoder:
    settings = Av1Settings(
        width=WIDTH, height=HEIGHT, frame_rate=Fraction(30), time_base=TICK, crf=50, preset=10
    )
    return Av1AnchorDecoder(packets=encode_gop(pictures, settings), size=(WIDTH, HEIGHT), time_base=TICK)


@pytest.fixture(scope="module")
def maps(decoder: Av1AnchorDecoder) -> list[FrameMap]:
    return list(probe(decoder, 0, [0, 1, 8, 20, 40]))


@pytest.fixture(scope="module")
def hidden(decoder: Av1AnchorDecoder) -> Candidate:
    """The base picture of the second mini-GOP."""
    gop = Gop(decoder.packets, None, TICK, lambda _: pytest.fail("no source is needed"))
    return find_candidates(gop, 16)[1]


@pytest.fixture
def restored(pictures: list[Picture]) -> Injection:
    """Puts the source in place of the keyframe's base picture."""
    return lambda base: pictures[0].planes


def centre(values: np.ndarray) -> np.ndarray:
    """Without the borders that the moving picture has come in from: they have no place in the keyframe."""
    return values[..., 32:-48, 32:-88]


# The operator, against arithmetic.


@pytest.mark.parametrize("size", [(32, 24), (52, 36), (16, 18)])
@pytest.mark.parametrize("bands", [1, 3])
def test_the_adjoint_is_exact(size: tuple[int, int], bands: int) -> None:
    operator = DecodeOperator(make_map(*size, bands=bands))
    x, z = noise(*size, seed=1), noise(*size, seed=2)
    assert inner(operator(*x), z) == pytest.approx(inner(x, operator.adjoint(*z)), rel=1e-12)


def test_gradients_are_the_adjoint() -> None:
    operator = DecodeOperator(make_map(32, 24))
    x, z = noise(32, 24, seed=1), noise(32, 24, seed=2)
    for plane in x:
        plane.requires_grad_()
    torch.autograd.backward(operator(*x), z)
    for plane, expected in zip(x, operator.adjoint(*z), strict=True):
        torch.testing.assert_close(plane.grad, expected)


def test_the_operator_is_linear() -> None:
    operator = DecodeOperator(make_map(32, 24))
    a, b = noise(32, 24, seed=1), noise(32, 24, seed=2)
    together = operator(*(300 * p - 70 * q for p, q in zip(a, b, strict=True)))
    for whole, p, q in zip(together, operator(*a), operator(*b), strict=True):
        torch.testing.assert_close(whole, 300 * p - 70 * q, rtol=1e-10, atol=1e-10)


def test_whole_samples_are_taken_from_where_they_are() -> None:
    """x grows to the right, y down; beyond the picture its edge goes on; chroma moves by half."""
    y, uv = noise(32, 24)
    out_y, out_uv = DecodeOperator(plain_map((6, -4), gain=0.5))(y, uv)
    rows, columns = np.clip(np.arange(24) - 4, 0, 23), np.clip(np.arange(32) + 6, 0, 31)
    torch.testing.assert_close(out_y, 0.5 * y[rows][:, columns])
    rows, columns = np.clip(np.arange(12) - 2, 0, 11), np.clip(np.arange(16) + 3, 0, 15)
    torch.testing.assert_close(out_uv, 0.5 * uv[:, rows][:, :, columns])


def test_factors_are_for_octaves_and_cells() -> None:
    """Without the finest octave a chessboard vanishes and a flat change stays; other cells keep both."""
    made = replace(
        plain_map((0, 0)),
        factors_y=np.ones((3, *cell_grid(24, 32)), np.float16),
        factors_uv=np.ones((3, 2, *cell_grid(12, 16)), np.float16),
    )
    made.factors_y[0, 1, 2] = 0
    chessboard = torch.tensor((-1.0) ** np.add.outer(np.arange(24), np.arange(32)))
    out, _ = DecodeOperator(made)(10 + chessboard, torch.zeros(2, 12, 16, dtype=torch.float64))
    torch.testing.assert_close(out[8:16, 16:24], torch.full((8, 8), 10.0, dtype=torch.float64))
    out[8:16, 16:24] += chessboard[8:16, 16:24]
    torch.testing.assert_close(out, 10 + chessboard)


def test_prediction_starts_from_what_was_decoded() -> None:
    operator = DecodeOperator(plain_map((0, 0), gain=0.5))
    anchor, base, decoded = (noise(32, 24, seed=s) for s in range(3))
    predicted = operator.predict(anchor, base=base, decoded=decoded)
    for p, k, b, f in zip(predicted, anchor, base, decoded, strict=True):
        torch.testing.assert_close(p, f + 0.5 * (k - b))


# The probe, with a decoder whose effect is known.


@pytest.mark.parametrize(("gain", "speed"), [(1.0, 2), (0.5, 2), (0.8, -4)])
def test_a_known_shift_is_found_over_many_periods(gain: float, speed: int) -> None:
    decoder = ShiftDecoder(gain=gain, speed=speed)
    for found in probe(decoder, 0, [0, 3, 40]):
        columns = slice(176, 240) if speed < 0 else slice(16, 160)
        inside = np.s_[8:-8, columns]
        x, y = found.displacement.astype(np.float64)
        # Levels are rounded: at 80 of them, in 24 samples, that is some 0.03 samples in the phase.
        assert np.abs(x - speed * found.frame)[inside].max() < 0.2
        assert np.abs(y)[inside].max() < 0.2
        assert found.gain_y[inside].mean(dtype=np.float64) == pytest.approx(gain, abs=0.03)
        cells = found.factors_y[:, 2:-2, columns.start // 8 : columns.stop // 8].astype(np.float64)
        np.testing.assert_allclose(cells.mean((1, 2)), 1, atol=0.1)


def test_frames_come_in_order_and_only_those() -> None:
    assert [found.frame for found in probe(ShiftDecoder(), 2, {9, 2, 5})] == [2, 5, 9]


def test_bands_cost_two_decodes() -> None:
    counts = []
    for bands in (0, 3):
        decoder = ShiftDecoder()
        (found,) = probe(decoder, 0, [1], ProbeSettings(bands=bands))
        assert len(found.factors_y) == max(bands, 1)
        counts.append(decoder.calls)
    assert counts == [5, 7]


# Everything, with the real decoder.


def test_motion_is_found_in_a_real_stream(maps: list[FrameMap]) -> None:
    for found in maps[:3]:
        expected = [s * found.frame for s in SPEED]
        assert np.median(centre(found.displacement), axis=(1, 2)) == pytest.approx(expected, abs=0.15)


def test_at_the_anchor_the_operator_is_the_identity(maps: list[FrameMap]) -> None:
    found = maps[0]
    assert np.abs(found.displacement).max() < 0.05
    assert min(found.gain_y.min(), found.gain_uv.min()) > 0.98
    y, uv = noise(WIDTH, HEIGHT)
    out_y, out_uv = DecodeOperator(found)(y, uv)
    assert agreement(out_y.numpy(), y.numpy()).explained > 0.99
    assert agreement(out_uv.numpy(), uv.numpy()).explained > 0.99


def test_real_changes_are_predicted(
    decoder: Av1AnchorDecoder, maps: list[FrameMap], restored: Injection
) -> None:
    found = list(measure_fidelity(decoder, 0, maps, restored))
    assert [one.distance for one in found] == [0, 1, 8, 20, 40]
    # Measured: 0.984, 0.956, 0.850 and 0.693 in luma, 0.911, 0.960, 0.867 and 0.703 in chroma.
    for one, luma, chroma in zip(
        found, (0.999, 0.97, 0.93, 0.8, 0.63), (0.999, 0.88, 0.93, 0.8, 0.63), strict=True
    ):
        assert one.luma.correlation > luma
        assert one.chroma.correlation > chroma
        assert one.luma.explained > luma**2 - 0.03
        assert one.chroma.explained > chroma**2 - 0.03


def test_gains_per_band_tell_what_coarse_waves_cannot(
    decoder: Av1AnchorDecoder, maps: list[FrameMap], restored: Injection
) -> None:
    """Measured explained energy of chroma: 0.756 and 0.481, without them 0.655 and 0.062."""
    alone = probe(decoder, 0, [20, 40], ProbeSettings(bands=0))
    without = list(measure_fidelity(decoder, 0, alone, restored))
    found = list(measure_fidelity(decoder, 0, maps[3:], restored))
    for one, other in zip(found, without, strict=True):
        assert one.chroma.explained > other.chroma.explained + 0.05
        assert one.luma.explained > other.luma.explained - 0.06


def test_prediction_is_nearer_to_the_real_frame(
    decoder: Av1AnchorDecoder, maps: list[FrameMap], pictures: list[Picture]
) -> None:
    plain = {f: tensors(p) for f, p in decoder.decode(0, [0, 8], None)}
    real = {f: tensors(p) for f, p in decoder.decode(0, [8], lambda base: pictures[0].planes)}
    predicted = DecodeOperator(maps[2]).predict(tensors(pictures[0].planes), base=plain[0], decoded=plain[8])
    for p, r, before in zip(predicted, real[8], plain[8], strict=True):
        assert ((p - r) ** 2).mean() < 0.5 * ((before - r) ** 2).mean()


def test_a_hidden_anchor_is_probed(decoder: Av1AnchorDecoder, hidden: Candidate) -> None:
    """Pictures before it is shown come from it, too: from behind."""
    at, shown = hidden.packet, hidden.frame
    assert shown >= at + 4
    found = {one.frame: one for one in probe(decoder, at, [at, shown, shown + 4])}
    assert np.abs(found[shown].displacement).max() < 0.1
    assert found[shown].gain_y.min() > 0.95
    for frame in (at, shown + 4):
        sure = found[frame].gain_y > 0.7
        assert sure.mean() > 0.1
        median = [np.median(axis[sure]) for axis in found[frame].displacement]
        assert median == pytest.approx([s * (frame - shown) for s in SPEED], abs=0.3)

    def brighter(base: Planes) -> Planes:
        bumps = 12 * np.sin(np.arange(WIDTH) / 3) * np.sin(np.arange(HEIGHT) / 4)[:, None]
        return np.clip(base[0] + bumps, 0, 255).astype(np.uint8), base[1], base[2]

    for one in measure_fidelity(decoder, at, found.values(), brighter):
        assert one.luma.correlation > 0.98
        assert one.luma.explained > 0.96


def test_prompts_of_the_packets_are_ignored(decoder: Av1AnchorDecoder, restored: Injection) -> None:
    prompt = build_prompt(b"fakefake", WIDTH, HEIGHT, 90, GateMap.uniform(WIDTH, HEIGHT))
    carried = attach(decoder.packets[3].data, encode_prompt(prompt))
    packets = [*decoder.packets[:3], replace(decoder.packets[3], data=carried), *decoder.packets[4:]]
    for injection in (None, restored):
        plain, prompted = (
            dict(one.decode(0, [3, 4], injection)) for one in (decoder, replace(decoder, packets=packets))
        )
        for frame in (3, 4):
            for a, b in zip(plain[frame], prompted[frame], strict=True):
                np.testing.assert_array_equal(a, b)


# Bad input.


@pytest.mark.parametrize(("anchor", "frames"), [(-1, [3]), (41, [41]), (0, []), (5, [4, 9]), (0, [3, 41])])
def test_anchors_and_frames_that_are_not_there(
    decoder: Av1AnchorDecoder, anchor: int, frames: list[int]
) -> None:
    with pytest.raises(ConfigError, match=r"anchor is packet|frames are"):
        probe(decoder, anchor, frames)
    with pytest.raises(ConfigError, match=r"anchor is packet|frames are"):
        decoder.decode(anchor, frames, None)


def test_a_picture_that_was_shown_before_is_no_anchor(decoder: Av1AnchorDecoder, hidden: Candidate) -> None:
    """The base picture is shown when its time comes, and here again: somebody has its buffer already."""
    at = hidden.frame
    broken = replace(decoder, packets=[*decoder.packets[: at + 1], *decoder.packets[at:]])
    with pytest.raises(CodecError, match="shown before"):
        list(probe(broken, at + 1, [at + 1]))


@pytest.mark.parametrize("size", [(255, 64), (256, 63), (255, 63)])
def test_maps_are_of_the_even_part(size: tuple[int, int]) -> None:
    (found,) = probe(ShiftDecoder(size=size), 0, [3])
    assert (found.width, found.height) == (size[0] // 2 * 2, size[1] // 2 * 2)
    x, y = found.displacement.astype(np.float64)
    assert np.abs(x - 6)[8:-8, 16:160].max() < 0.2
    assert np.abs(y)[8:-8, 16:160].max() < 0.2


def test_even_part_of_planes() -> None:
    planes = tuple(np.zeros(shape, np.uint8) for shape in ((7, 10), (4, 5), (4, 5)))
    assert [plane.shape for plane in even_part(planes)] == [(6, 10), (3, 5), (3, 5)]


def test_maps_of_odd_sizes_and_unnameable_pictures_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected sizes"):
        Av1AnchorDecoder(packets=[], size=(191, 8), time_base=TICK)
    with pytest.raises(ConfigError, match="even sizes"):
        make_map(33, 24)


def test_the_size_must_be_the_real_one(decoder: Av1AnchorDecoder) -> None:
    wrong = replace(decoder, size=(WIDTH + 2, HEIGHT))
    with pytest.raises(CodecError, match="cannot be replaced"):
        list(probe(wrong, 0, [1]))
    with pytest.raises(CodecError, match="expected 194x128"):
        list(wrong.decode(0, [1], None))


def test_planes_must_fit() -> None:
    operator = DecodeOperator(make_map(32, 24))
    y, uv = noise(32, 24)
    for wrong in ((y[:-2], uv), (y, uv[:1]), (y[None], uv), (y.int(), uv.int()), (y, uv.float())):
        for method in (operator, operator.adjoint):
            with pytest.raises(ConfigError, match="planes"):
                method(*wrong)


def test_maps_must_fit_together() -> None:
    made = make_map(32, 24)
    for name in ("gain_y", "gain_uv", "factors_y", "factors_uv", "displacement"):
        with pytest.raises(ConfigError, match="shape"):
            replace(made, **{name: getattr(made, name)[..., :-2]})


@pytest.mark.parametrize(
    "wrong",
    [{"smoothing": 4}, {"bands": -1}, {"bands": 9}, {"texture_deviation": 0}, {"workers": 0}],
)
def test_settings_out_of_range(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        ProbeSettings(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"fine_period": 2}, {"fine_period": 128}, {"amplitude": 128}, {"amplitude": 0}]
)
def test_waves_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        Waves(**wrong)


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("shape", [(3, 20, 31), (7, 9), (2, 5, 40)])
def test_box_means_are_of_what_lies_within(shape: tuple[int, ...], size: int) -> None:
    planes = torch.from_numpy(np.random.default_rng(0).normal(size=shape))
    expected = np.empty(shape)
    margin = size // 2
    for row in range(shape[-2]):
        for column in range(shape[-1]):
            rows = slice(max(row - margin, 0), row + margin + 1)
            columns = slice(max(column - margin, 0), column + margin + 1)
            expected[..., row, column] = planes[..., rows, columns].numpy().mean((-2, -1))
    assert np.allclose(box_mean(planes, size).numpy(), expected, atol=1e-12)


def test_agreement_by_hand() -> None:
    real = np.array([1.0, -1, 2, -2])
    half = agreement(real / 2, real)
    assert (half.correlation, half.explained) == (pytest.approx(1), pytest.approx(0.75))
    assert (half.real_rms, half.predicted_rms) == (pytest.approx(2.5**0.5), pytest.approx(2.5**0.5 / 2))
    assert np.isnan(agreement(real, real * 0).explained)
    with pytest.raises(ConfigError, match="shape"):
        agreement(real[:3], real)
    with pytest.raises(ConfigError, match="no maps"):
        list(measure_fidelity(ShiftDecoder(), 0, [], lambda base: base))


def test_the_gate_needs_no_torch() -> None:
    code = "import hybridprompt.encode.gate, hybridprompt.encode.operator.decoders, sys; "
    subprocess.run([sys.executable, "-c", code + "sys.exit('torch' in sys.modules)"], check=True)
