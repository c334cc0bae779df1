"""The shipped generators in more than one runtime: what is seen must not depend on who computes it."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from onnx.reference import ReferenceEvaluator  # noqa: E402
from onnx.reference.ops.op_conv import Conv  # noqa: E402

from hybridprompt.generator.network import GeneratorNetwork, count_gmac  # noqa: E402
from hybridprompt.generator.onnx_generator import OnnxGenerator  # noqa: E402
from hybridprompt.generator.registry import GENERATOR_SIZES, load_shipped  # noqa: E402
from hybridprompt.generator.torch_weights import config_of, read_onnx  # noqa: E402
from hybridprompt.train.export import export  # noqa: E402

WEIGHTS = Path(__file__).parents[2] / "src" / "hybridprompt" / "generator" / "weights"
GMAC_LIMITS = {"small": 8, "medium": 25, "large": 60}
HEIGHT, WIDTH, BLOCK = 40, 56, 8

sizes = pytest.mark.parametrize("size", GENERATOR_SIZES)


def coded_picture() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Smooth shapes with coarse steps, as a low rate leaves them."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    luma = 120 + 60 * np.sin(x / 9) * np.cos(y / 7) + 20 * (x > 30)
    chroma = luma[::2, ::2] / 2 + 60
    return tuple(  # type: ignore[return-value]
        (plane // 6 * 6).astype(np.uint8) for plane in (luma, chroma, 255 - chroma)
    )


def feeds() -> dict[str, np.ndarray]:
    y, u, v = coded_picture()
    return {
        "y": y[None, None],
        "u": u[None, None],
        "v": v[None, None],
        "quantiser": np.full((1, 1, 1, 1), 150 / 255, np.float32),
        "strength": np.ones((1, 1, HEIGHT // 4, WIDTH // 4), np.float32),
    }


def in_onnx_runtime(weights: bytes) -> list[np.ndarray]:
    gate = np.ones((HEIGHT // BLOCK, WIDTH // BLOCK), np.float32)
    made = OnnxGenerator(weights).generate(coded_picture(), quantiser=150, strengths=gate, block_size=BLOCK)
    return [plane.astype(int) for plane in made]


class ExactConv(Conv):
    """Its convolution with sums in float64: in float32, a large network's would depend on their order.

    That order differs between processors, and ONNX Runtime's sums of integers are exact.
    """

    op_domain = ""

    def _run(self, x, w, b, **attributes):  # type: ignore[no-untyped-def]
        (sums,) = super()._run(*(array.astype(np.float64) for array in (x, w, b)), **attributes)
        return (sums.astype(np.float32),)


# By its name the evaluator finds what it is in place of.
ExactConv.__name__ = "Conv"


def in_reference(weights: bytes) -> list[np.ndarray]:
    """onnx's own evaluator: NumPy, written by others than ONNX Runtime, from the operators' definitions."""
    model = onnx.load_model_from_string(weights)
    # It has the integers' operators from this version on; what they do has not changed since 17.
    model.opset_import[0].version = 21
    outputs = ReferenceEvaluator(model, new_ops=[ExactConv]).run(["y_out", "u_out", "v_out"], feeds())
    return [plane[0, 0].astype(int) for plane in outputs]


@pytest.fixture
def float32(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[GeneratorNetwork, bytes]:
    """A shipped generator's weights in torch and in a float32 file."""
    weights = read_onnx(WEIGHTS / f"{GENERATOR_SIZES[request.param]}.onnx", integers=True)
    network = GeneratorNetwork(config_of(weights))
    network.load_state_dict(weights)
    torch.save({"network": weights, "config": network.config.as_dict(), "step": 0}, tmp_path / "ema.pt")
    export(tmp_path / "ema.pt", tmp_path / "float32.onnx")
    return network.eval(), (tmp_path / "float32.onnx").read_bytes()


@pytest.mark.parametrize("float32", GENERATOR_SIZES, indirect=True)
def test_three_runtimes_agree_to_a_level_in_float32(float32: tuple[GeneratorNetwork, bytes]) -> None:
    network, weights = float32
    y, u, v = coded_picture()
    with torch.no_grad():
        out_y, out_uv = network(
            torch.from_numpy(y)[None, None].float() / 255,
            torch.from_numpy(np.stack([u, v]))[None].float() / 255,
            torch.full((1, 1, 1, 1), 150 / 255),
        )
    planes = (out_y[0, 0], out_uv[0, 0], out_uv[0, 1])
    expected = [(plane * 255).round().clamp(0, 255).numpy().astype(int) for plane in planes]
    assert any((a != b).any() for a, b in zip(expected, (y, u, v), strict=True))
    for found in (in_onnx_runtime(weights), in_reference(weights)):
        for plane, wanted in zip(found, expected, strict=True):
            difference = np.abs(plane - wanted)
            assert difference.max() <= 1
            assert np.count_nonzero(difference) <= 4


@sizes
def test_reference_agrees_with_onnx_runtime_in_integers(size: str) -> None:
    """Sums of integers are exact; a rounding at a tie may still go either way, and levels follow from it."""
    weights = (WEIGHTS / f"{GENERATOR_SIZES[size]}.onnx").read_bytes()
    for plane, wanted in zip(in_onnx_runtime(weights), in_reference(weights), strict=True):
        difference = np.abs(plane - wanted)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.015


@sizes
def test_cost_is_what_the_size_allows(size: str) -> None:
    config = config_of(read_onnx(WEIGHTS / f"{GENERATOR_SIZES[size]}.onnx", integers=True))
    assert count_gmac(config, 1920, 1080) <= GMAC_LIMITS[size]


def test_sizes_are_in_order_and_older_ones_still_load() -> None:
    small, medium, large = (
        (WEIGHTS / f"{GENERATOR_SIZES[size]}.onnx").stat().st_size for size in ("small", "medium", "large")
    )
    assert small < 0.7 * medium
    assert medium < 0.7 * large
    assert load_shipped("generator_s2").name == "generator_s2"
