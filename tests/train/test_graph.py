"""The two layouts of the network as an ONNX graph compute the same."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from train_media import TINY, TINY_DEEP, TINY_SLIM, lively  # noqa: E402

from hybridprompt.generator.network import NetworkConfig  # noqa: E402
from hybridprompt.generator.onnx_generator import OnnxGenerator  # noqa: E402
from hybridprompt.train.graph import build, build_for_bytes  # noqa: E402


@pytest.mark.parametrize("size", [(64, 128), (72, 104), (8, 8), (1, 3)])
@pytest.mark.parametrize("config", [TINY, TINY_DEEP, TINY_SLIM], ids=["two levels", "three levels", "slim"])
def test_bytes_give_the_same_picture(config: NetworkConfig, size: tuple[int, int]) -> None:
    network = lively(config)
    height, width = size
    half = -(-height // 2), -(-width // 2)
    rng = np.random.default_rng(3)
    planes = tuple(rng.integers(0, 256, shape).astype(np.uint8) for shape in (size, half, half))
    gate = rng.choice(np.float32([0, 0.125, 0.5, 1]), (-(-height // 8), -(-width // 8)))
    gate[-1, -1] = gate[0, 0] = 1

    def made(model: "onnx.ModelProto") -> np.ndarray:
        generator = OnnxGenerator(model.SerializeToString())
        # Of the quantisers, bytes hold this one exactly.
        found = generator.generate(planes, quantiser=255, strengths=gate, block_size=8)
        return np.concatenate([plane.ravel() for plane in found]).astype(int)

    difference = np.abs(made(build_for_bytes(network)) - made(build(network)))
    # Beyond the border there is gray, to one of 127.5 and to the other of 128; changes are in steps of 0.4.
    assert difference.max() <= 1
    assert difference.sum() <= 0.15 * difference.size + 2
    assert np.abs(made(build(network)) - np.concatenate([plane.ravel() for plane in planes])).mean() > 0.9


@pytest.mark.parametrize("quantiser", [100, 255])
def test_the_quantiser_and_its_square_count_in_bytes_too(quantiser: int) -> None:
    """From one quantiser to another both change by the same."""
    network = lively(TINY)
    planes = tuple(np.full(shape, 90, np.uint8) for shape in ((64, 64), (32, 32), (32, 32)))
    changes = []
    for model in (build(network), build_for_bytes(network)):
        generator = OnnxGenerator(model.SerializeToString())
        low, high = (
            generator.generate(planes, quantiser=q, strengths=np.ones((1, 1), np.float32), block_size=64)[0]
            for q in (0, quantiser)
        )
        changes.append(high.astype(int) - low)
    assert np.abs(changes[0]).mean() > 1
    assert np.abs(changes[0] - changes[1]).max() <= 2


def test_changes_end_at_what_a_byte_holds() -> None:
    network = lively(TINY)
    with torch.no_grad():
        network.head.bias[:] = 2.0
    planes = tuple(np.full(shape, 90, np.uint8) for shape in ((64, 64), (32, 32), (32, 32)))
    generator = OnnxGenerator(build_for_bytes(network).SerializeToString())
    made = generator.generate(planes, quantiser=100, strengths=np.ones((1, 1), np.float32), block_size=64)
    # 127 steps of 0.4 levels.
    assert all((plane == 90 + 51).all() for plane in made)


def test_nothing_is_computed_on_planes_of_floats_before_the_network() -> None:
    model = build_for_bytes(lively(TINY))
    first = next(index for index, node in enumerate(model.graph.node) if node.op_type == "Conv")
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"SpaceToDepth", "DepthToSpace", "Cast"}
    assert [node.op_type for node in model.graph.node[:first]].count("DequantizeLinear") == 1
