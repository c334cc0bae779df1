"""Gradient descent of fits: parts of batches, side by side, and what is left of that outside."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from hybridprompt.evaluate.weights import have_metric_weights

torch = pytest.importorskip("torch")
if not have_metric_weights():
    pytest.skip("metric weights are not installed", allow_module_level=True)

from hybridprompt.encode.descent import Pace, Pair, descend  # noqa: E402

PACE = Pace(steps=20, rate=0.08, last_share=0.1)


def source(crops: int) -> Pair:
    rng = torch.Generator().manual_seed(5)
    return torch.rand(1, 1, 64, 64, generator=rng).expand(crops, -1, -1, -1), torch.full(
        (crops, 2, 32, 32), 0.5
    )


def fit(crops: int = 4, seed: int = 1, price: float = 0.0, **options: object) -> tuple[float, list[int]]:
    """Find by how much a picture was darkened, 0.3; return that, and how many crops were asked for."""
    level = torch.zeros(1, requires_grad=True)
    asked: list[int] = []

    def batch(count: int, rng: torch.Generator) -> tuple[Pair, Pair]:
        asked.append(count)
        luma, chroma = source(count)
        noise = 0.01 * torch.rand(1, generator=rng)
        return (luma * 0.7 + level * luma + noise, chroma), (luma, chroma)

    descend([level], batch, lambda: price * level.sum(), PACE, crops=crops, seed=seed, **options)  # type: ignore[arg-type]
    return float(level.detach()), asked


def test_it_finds_what_lowers_the_loss() -> None:
    found, asked = fit()
    assert found == pytest.approx(0.3, abs=0.03)
    assert asked == [2] * 2 * PACE.steps


@pytest.mark.parametrize(("crops", "parts"), [(1, {1}), (3, {1, 2}), (5, {2, 3})])
def test_any_number_of_crops_is_divided(crops: int, parts: set[int]) -> None:
    found, asked = fit(crops)
    assert set(asked) == parts
    assert sum(asked) == crops * PACE.steps
    assert found == pytest.approx(0.3, abs=0.03)


def test_a_seed_decides() -> None:
    assert fit(seed=1)[0] == fit(seed=1)[0] != fit(seed=2)[0]


def test_price_and_bounds_count() -> None:
    assert fit(price=100.0)[0] < -0.5
    bounded = torch.zeros(1, requires_grad=True)

    def batch(count: int, rng: torch.Generator) -> tuple[Pair, Pair]:
        luma, chroma = source(count)
        return (luma * 0.7 + bounded * luma, chroma), (luma, chroma)

    def confine() -> None:
        bounded.clamp_(-1, 0.2)

    descend([bounded], batch, lambda: 0 * bounded.sum(), PACE, crops=2, seed=1, confine=confine)
    assert float(bounded.detach()) == pytest.approx(0.2)


def test_a_price_is_a_share_of_the_loss() -> None:
    """Where there is nothing to lose, nothing is paid."""
    level = torch.full((1,), 0.1, requires_grad=True)

    def batch(count: int, rng: torch.Generator) -> tuple[Pair, Pair]:
        luma, chroma = source(count)
        return (luma + 0 * level, chroma), (luma, chroma)

    descend([level], batch, lambda: 100 * level.sum(), PACE, crops=2, seed=1)
    assert float(level.detach()) == pytest.approx(0.1, abs=1e-6)


def test_parameters_that_a_batch_leaves_out_stay() -> None:
    used, unused = torch.zeros(1, requires_grad=True), torch.ones(1, requires_grad=True)

    def batch(count: int, rng: torch.Generator) -> tuple[Pair, Pair]:
        luma, chroma = source(count)
        return (luma * 0.7 + used * luma, chroma), (luma, chroma)

    descend([used, unused], batch, lambda: 0 * used.sum(), PACE, crops=2, seed=1)
    assert float(unused.detach()) == 1
    assert float(used.detach()) == pytest.approx(0.3, abs=0.03)


def test_other_threads_keep_their_threads() -> None:
    before = torch.get_num_threads()
    fit()
    assert torch.get_num_threads() == before
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == before


def test_errors_come_through() -> None:
    def broken(count: int, rng: torch.Generator) -> tuple[Pair, Pair]:
        raise ValueError("no such frame")

    level = torch.zeros(1, requires_grad=True)
    with pytest.raises(ValueError, match="no such frame"):
        descend([level], broken, level.sum, PACE, crops=2, seed=1)
