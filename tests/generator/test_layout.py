"""Weights as they lie in files that take bytes, and in torch."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from hybridprompt.errors import GeneratorError
from hybridprompt.generator import layout
from hybridprompt.generator.onnx_weights import ConvolutionFile

SHAPES = {"stem": (6, 26, 3, 3), "up": (24, 5, 1, 1), "deep.up": (16, 4, 1, 1), "body.0.first": (5, 5, 3, 3)}


@pytest.mark.parametrize("name", SHAPES)
def test_what_goes_into_a_file_comes_back(name: str) -> None:
    rng = np.random.default_rng(1)
    weight, bias = rng.normal(size=SHAPES[name]), rng.normal(size=SHAPES[name][0])
    stored = layout.to_file(name, weight, bias)
    assert (stored[0].shape == weight.shape) == (name != "stem")
    assert np.array_equal(stored[0], weight) == (name == "body.0.first")
    for mine, wanted in zip(layout.to_torch(name, *stored), (weight, bias), strict=True):
        assert np.allclose(mine, wanted, atol=1e-12)


def test_the_stem_sums_the_same_from_bytes() -> None:
    """Of samples and a quantiser that both kinds can hold."""
    rng = np.random.default_rng(2)
    weight, bias = rng.normal(size=(4, 26, 3, 3)), rng.normal(size=4)
    samples, quantiser, square = rng.integers(0, 256, (24, 3, 3)), 51 / 127, 90 / 127
    flat = np.ones((3, 3))
    in_torch = np.stack([*(samples / 255 - 0.5), quantiser * flat, square * flat])
    conditions = [128 + 51 * flat, 128 + 90 * flat] * layout.CONDITION_COPIES
    in_bytes = (np.stack([*samples, *conditions]) - layout.BYTE_MIDDLE) * layout.BYTE_STEP
    stored_weight, stored_bias = layout.to_file("stem", weight, bias)
    wanted = np.einsum("oihw,ihw->o", weight, in_torch) + bias
    assert np.allclose(np.einsum("oihw,ihw->o", stored_weight, in_bytes) + stored_bias, wanted)


def test_places_of_a_block_come_first() -> None:
    # Of channel c and place p, torch has number 4 c + p.
    numbers = np.arange(12)
    assert layout.channels_to_file("up", numbers).tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]


@pytest.mark.parametrize(
    ("name", "shape"), [("stem", (4, 26, 3, 3)), ("stem", (4, 8, 3, 3)), ("up", (6, 3, 1, 1))]
)
def test_files_that_lie_about_their_layout_are_a_generator_error(name: str, shape: tuple[int, ...]) -> None:
    tensors = [
        numpy_helper.from_array(np.ones(shape, np.float32), f"{name}.weight"),
        numpy_helper.from_array(np.ones(shape[0], np.float32), f"{name}.bias"),
    ]
    planes = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, shape[1], 8, 8])
    made = helper.make_tensor_value_info("made", TensorProto.FLOAT, None)
    node = helper.make_node("Conv", ["x", f"{name}.weight", f"{name}.bias"], ["made"])
    model = helper.make_model(helper.make_graph([node], "one", [planes], [made], tensors))
    assert len(ConvolutionFile(model.SerializeToString()).convolutions) == 1
    helper.set_model_props(model, {layout.LAYOUT_KEY: layout.BYTE_LAYOUT})
    with pytest.raises(GeneratorError, match="convolution"):
        ConvolutionFile(model.SerializeToString())
