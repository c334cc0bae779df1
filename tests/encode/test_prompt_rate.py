"""The rate of prompts in the loss of their fits, against what the coder really makes of them."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hybridprompt.encode.prompt_rate import AdapterRate, GateRate  # noqa: E402
from hybridprompt.prompt.adapter_coding import MAX_VALUE, encode_values, magnitude_costs  # noqa: E402
from hybridprompt.prompt.binary_coding import bit_costs  # noqa: E402
from hybridprompt.prompt.gate_coding import _code, encode_indices  # noqa: E402

UNIT, LEVELS = 4, 9


def smooth_gate(seed: int, noise: float) -> np.ndarray:
    """Indices (31, 55) as fits make them: large areas, and something between."""
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.integers(0, LEVELS, (4, 7)), np.ones((8, 8)))[:31, :55]
    off = rng.integers(-2, 3, coarse.shape) * (rng.random(coarse.shape) < noise)
    return np.clip(coarse + off, 0, LEVELS - 1).astype(np.uint8)


def sparse_adapter(seed: int, share: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.laplace(0, 1.5, 1776) * (rng.random(1776) < share)
    return np.clip(np.rint(values), -MAX_VALUE, MAX_VALUE).astype(np.int8)


@pytest.mark.parametrize("noise", [0.0, 0.2, 0.7])
def test_bits_of_gates_are_those_of_the_coder(noise: float) -> None:
    indices = smooth_gate(3, noise)
    estimated = float(GateRate(UNIT, LEVELS)(torch.from_numpy(indices / np.float32(UNIT))))
    real = 8 * len(encode_indices(indices, LEVELS))
    assert 0.85 * real - 60 < estimated < 1.05 * real


@pytest.mark.parametrize("share", [0.02, 0.2, 0.9])
def test_bits_of_adapters_are_those_of_the_coder(share: float) -> None:
    values = sparse_adapter(4, share)
    layers = [torch.from_numpy(part.astype(np.float32)) for part in np.split(values, [500, 800])]
    estimated = float(AdapterRate()([layers[0].reshape(2, 250), *layers[1:]]))
    real = 8 * len(encode_values(values))
    assert 0.85 * real - 60 < estimated < 1.05 * real


def test_gradients_lead_to_fewer_real_bits() -> None:
    indices = smooth_gate(5, 0.3)
    strengths = torch.from_numpy(indices / np.float32(UNIT)).requires_grad_()
    values = torch.from_numpy(sparse_adapter(6, 0.3).astype(np.float32)).requires_grad_()
    gate_rate, adapter_rate = GateRate(UNIT, LEVELS), AdapterRate()
    optimizer = torch.optim.Adam([{"params": [strengths], "lr": 0.02}, {"params": [values], "lr": 0.1}])
    for _ in range(60):
        optimizer.zero_grad()
        (gate_rate(strengths) + adapter_rate([values])).backward()
        optimizer.step()
    fewer = np.clip(np.rint(strengths.detach().numpy() * UNIT), 0, LEVELS - 1).astype(np.uint8)
    assert len(encode_indices(fewer, LEVELS)) < 0.85 * len(encode_indices(indices, LEVELS))
    smaller = np.rint(values.detach().numpy()).astype(np.int8)
    assert len(encode_values(smaller)) < 0.5 * len(encode_values(sparse_adapter(6, 0.3)))


@pytest.mark.parametrize("shape", [(9, 14), (1, 20), (20, 1), (1, 1), (2, 2)])
def test_every_index_costs_what_the_models_say(shape: tuple[int, int]) -> None:
    """Edges too; the indices are so that no bit is left out for want of room."""
    indices = np.random.default_rng(8).integers(3, 6, shape).astype(np.uint8)
    indices[0, 0] = 0
    bits = bit_costs(11, lambda bit: _code(indices, LEVELS, bit))
    total = 0.0

    def coded(context: int, value: int) -> int:
        nonlocal total
        total += bits[context, value]
        return value

    _code(indices, LEVELS, coded)
    assert float(GateRate(UNIT, LEVELS)(torch.from_numpy(indices / np.float32(UNIT)))) == pytest.approx(total)


def test_costs_grow_with_what_is_rare() -> None:
    costs = magnitude_costs(sparse_adapter(7, 0.05))
    assert costs.shape == (1776, MAX_VALUE + 1)
    assert (costs[:, 0] < 1).mean() > 0.9
    assert (np.diff(costs, axis=1) > -1e-9).all(axis=1).mean() > 0.5
    assert np.isfinite(costs).all()
