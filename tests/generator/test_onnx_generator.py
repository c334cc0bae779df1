"""The generator in ONNX Runtime, on small exported networks with random weights."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from hybridprompt.errors import GeneratorError  # noqa: E402
from hybridprompt.generator import registry  # noqa: E402
from hybridprompt.generator.base import strength_plane  # noqa: E402
from hybridprompt.generator.fake import FakeGenerator  # noqa: E402
from hybridprompt.generator.network import GeneratorNetwork, NetworkConfig, count_gmac  # noqa: E402
from hybridprompt.generator.onnx_generator import (  # noqa: E402
    GRID_KEY,
    MARGIN_KEY,
    OnnxGenerator,
)
from hybridprompt.train.export import export  # noqa: E402

Planes = tuple[np.ndarray, np.ndarray, np.ndarray]

# As deep as the shipped one: depth alone decides how far the network sees.
CONFIG = NetworkConfig(stem_channels=8, body_channels=16)
# As the small one.
SLIM = NetworkConfig(stem_channels=8, body_channels=16, body_hidden=(8, 8), tail_hidden=(4,), seen_channels=4)
# As the large one.
DEEP = NetworkConfig(stem_channels=8, body_channels=16, body_blocks=3, deep_channels=16, deep_blocks=2)


def random_network(config: NetworkConfig = CONFIG, seed: int = 0) -> GeneratorNetwork:
    """Weights large enough that every output depends visibly on all that its receptive field holds."""
    torch.manual_seed(seed)
    network = GeneratorNetwork(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("weight"):
                fan_in = parameter[0].numel()
                parameter.normal_(0, (0.6 if name == "head.weight" else 2.0) / fan_in**0.5)
    return network


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(CONFIG, tmp_path_factory.mktemp("generator"))


def exported(config: NetworkConfig, folder: Path) -> Path:
    state = {"network": random_network(config).state_dict(), "config": config.as_dict(), "step": 0}
    torch.save(state, folder / "ema.pt")
    export(folder / "ema.pt", folder / "tiny.onnx")
    return folder / "tiny.onnx"


Made = tuple[NetworkConfig, OnnxGenerator]


@pytest.fixture(scope="module", params=[CONFIG, SLIM, DEEP], ids=["two levels", "slim", "three levels"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    path = exported(request.param, tmp_path_factory.mktemp("made"))
    return request.param, OnnxGenerator(path.read_bytes())


@pytest.fixture(scope="module")
def generator(weights_file: Path) -> OnnxGenerator:
    return OnnxGenerator(weights_file.read_bytes(), name="tiny")


def picture(width: int, height: int, seed: int = 1) -> Planes:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 256, (height, width)).astype(np.uint8)
    u, v = rng.integers(0, 256, (2, (height + 1) // 2, (width + 1) // 2)).astype(np.uint8)
    return y, u, v


def gate(width: int, height: int, block: int, value: float = 1.0) -> np.ndarray:
    return np.full((-(-height // block), -(-width // block)), value, np.float32)


def torch_generate(
    planes: Planes, quantiser: int, strength: np.ndarray, config: NetworkConfig = CONFIG
) -> Planes:
    """Run the torch network over the whole picture, padded by its edges; strength is per luma pixel."""
    y, u, v = planes
    height, width = y.shape
    ph, pw = -(-height // 8) * 8, -(-width // 8) * 8

    def padded(plane: np.ndarray, h: int, w: int) -> np.ndarray:
        return np.pad(plane, ((0, h - plane.shape[0]), (0, w - plane.shape[1])), "edge")

    luma = torch.from_numpy(padded(y, ph, pw)).float()[None, None] / 255
    chroma = torch.from_numpy(np.stack([padded(c, ph // 2, pw // 2) for c in (u, v)])).float()[None] / 255
    quarter = torch.from_numpy(padded(strength, ph, pw)[::4, ::4].copy())[None, None]
    with torch.no_grad():
        told = torch.full((1, 1, 1, 1), quantiser / 255)
        out_y, out_uv = random_network(config)(luma, chroma, told, quarter)
    planes8 = [(p * 255).round().clamp(0, 255).numpy().astype(np.uint8) for p in (out_y[0, 0], *out_uv[0])]
    return planes8[0][:height, :width], *(p[: u.shape[0], : u.shape[1]] for p in planes8[1:])


def assert_close(found: Planes, expected: Planes) -> None:
    for a, b in zip(found, expected, strict=True):
        difference = np.abs(a.astype(int) - b)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("size", [(128, 64), (101, 67), (16, 16), (17, 16), (250, 1), (8, 8)])
def test_whole_picture_is_what_torch_computes(made: Made, size: tuple[int, int]) -> None:
    config, generator = made
    planes = picture(*size)
    before = tuple(p.copy() for p in planes)
    found = generator.generate(planes, quantiser=120, strengths=gate(*size, 32), block_size=32)
    assert_close(found, torch_generate(planes, 120, np.ones(planes[0].shape, np.float32), config))
    assert any((a != b).any() for a, b in zip(found, planes, strict=True))
    assert all((a == b).all() for a, b in zip(before, planes, strict=True))
    assert [p.shape for p in found] == [p.shape for p in planes]


def test_quantiser_matters(generator: OnnxGenerator) -> None:
    planes = picture(64, 64)
    coarse, fine = (
        generator.generate(planes, quantiser=q, strengths=gate(64, 64, 64), block_size=64) for q in (40, 220)
    )
    assert (coarse[0] != fine[0]).mean() > 0.1


@pytest.mark.parametrize("size", [(128, 96), (101, 67)])
def test_no_strength_leaves_the_picture_alone(generator: OnnxGenerator, size: tuple[int, int]) -> None:
    planes = picture(*size)
    found = generator.generate(planes, quantiser=120, strengths=gate(*size, 32, 0.0), block_size=32)
    for a, b in zip(found, planes, strict=True):
        assert np.array_equal(a, b)
        assert not np.shares_memory(a, b)


@pytest.mark.parametrize(
    ("size", "block", "on"),
    [
        ((384, 320), 32, [(4, 5), (5, 6)]),
        ((384, 320), 32, [(0, 0)]),
        ((384, 320), 64, [(4, 5)]),
        ((361, 299), 32, [(9, 11), (4, 5)]),
        ((361, 299), 32, [(3, 2), (3, 8)]),
        ((824, 744), 8, [(47, 53)]),
    ],
)
def test_only_gated_blocks_change_and_they_do_as_in_the_whole_picture(
    made: Made, size: tuple[int, int], block: int, on: list[tuple[int, int]]
) -> None:
    config, generator = made
    planes = picture(*size)
    width, height = size
    strengths = gate(*size, block, 0.0)
    for number, (row, column) in enumerate(on):
        strengths[row, column] = (1.0, 0.5)[number % 2]
    found = generator.generate(planes, quantiser=150, strengths=strengths, block_size=block)
    per_pixel = strength_plane(strengths, block, width, height)
    assert_close(found, torch_generate(planes, 150, per_pixel, config))
    outside = per_pixel == 0
    assert np.array_equal(found[0][outside], planes[0][outside])
    assert (found[0] != planes[0])[~outside].mean() > 0.5
    # Blocks begin at even positions, so chroma samples belong to one block each.
    outside = outside[::2, ::2]
    for a, b in zip(found[1:], planes[1:], strict=True):
        assert np.array_equal(a[outside], b[outside])


@pytest.mark.parametrize(
    ("config", "margin"),
    [
        (NetworkConfig(stem_channels=4, body_channels=8), 64),
        (NetworkConfig(stem_channels=4, body_channels=8, seen_channels=2, tail_hidden=(2,)), 64),
        (NetworkConfig(stem_channels=4, body_channels=8, body_blocks=4, tail_blocks=2), 104),
        (NetworkConfig(stem_channels=4, body_channels=8, deep_channels=8, deep_blocks=1), 112),
        (NetworkConfig(stem_channels=8, body_channels=8, body_blocks=3, deep_channels=8, deep_blocks=2), 160),
    ],
)
def test_margin_holds_the_receptive_field(config: NetworkConfig, margin: int) -> None:
    """A block's gradient tells which samples it depends on, wherever it lies on the network's grid."""
    network = random_network(config).double()
    assert config.margin == margin
    farthest = 0
    for first in (208, 216, 220):
        last = first + 8
        torch.manual_seed(1)
        y = torch.rand(1, 1, 432, 432, dtype=torch.double, requires_grad=True)
        uv = torch.full((1, 2, 216, 216), 0.5, dtype=torch.double, requires_grad=True)
        out_y, out_uv = network(y, uv, torch.full((1, 1, 1, 1), 0.5, dtype=torch.double))
        inside, half = slice(first, last), slice(first // 2, last // 2)
        (out_y[..., inside, inside].sum() + out_uv[..., half, half].sum()).backward()
        rows = y.grad[0, 0].abs().sum(1).nonzero()
        chroma_rows = 2 * uv.grad[0].abs().sum((0, 2)).nonzero()
        top = min(int(rows.min()), int(chroma_rows.min()))
        bottom = max(int(rows.max()), int(chroma_rows.max()) + 1)
        farthest = max(farthest, first - top, bottom - last + 1)
    assert margin // 2 < farthest <= margin


def test_files_without_a_grid_have_the_usual_one(made: Made) -> None:
    config, generator = made
    assert (generator.grid, generator.margin) == (config.grid, config.margin)


@pytest.mark.parametrize(
    "given",
    [
        {GRID_KEY: "eight"},
        {GRID_KEY: "0"},
        {GRID_KEY: "12"},
        {GRID_KEY: "128"},
        {MARGIN_KEY: "-1"},
        {MARGIN_KEY: "1" + "0" * 30},
    ],
)
def test_impossible_grids_are_a_generator_error(weights_file: Path, given: dict[str, str]) -> None:
    model = onnx.load(weights_file)
    onnx.helper.set_model_props(model, given)
    with pytest.raises(GeneratorError, match="grid"):
        OnnxGenerator(model.SerializeToString())


@pytest.mark.parametrize("block", [8, 20, 64])
def test_strengths_of_a_part_of_the_positions_are_those_of_all(block: int) -> None:
    strengths = np.random.default_rng(1).random((3, 4)).astype(np.float32)
    whole = strength_plane(strengths, block, 4 * block - 5, 3 * block - 2)
    assert np.array_equal(strength_plane(strengths, block, 4 * block - 5, 3 * block - 2, 4), whole[::4, ::4])


def test_fake_and_real_generators_read_the_gate_alike(generator: OnnxGenerator) -> None:
    planes = picture(101, 67)
    strengths = gate(101, 67, 32, 0.0)
    strengths[2, 3] = strengths[0, 1] = 1
    real = generator.generate(planes, quantiser=150, strengths=strengths, block_size=32)[0] != planes[0]
    dim = planes[0] // 2, planes[1], planes[2]
    fake = FakeGenerator(9).generate(dim, quantiser=150, strengths=strengths, block_size=32)[0] != dim[0]
    assert not (real & ~fake).any()
    assert real[fake].mean() > 0.5


def test_too_large_a_picture_is_refused(generator: OnnxGenerator) -> None:
    wide = np.broadcast_to(np.zeros((1, 1), np.uint8), (8193, 8193))
    half = np.broadcast_to(np.zeros((1, 1), np.uint8), (4097, 4097))
    with pytest.raises(GeneratorError, match="too large"):
        generator.generate(
            (wide, half, half), quantiser=0, strengths=np.ones((1, 1), np.float32), block_size=256
        )


# ------------------------------------------------------------------------------------------------ files


def test_identity_is_the_hash_of_the_file(weights_file: Path, generator: OnnxGenerator) -> None:
    assert generator.identity == hashlib.sha256(weights_file.read_bytes()).digest()[:8]
    assert generator.name == "tiny"


def test_broken_bytes_are_a_generator_error(weights_file: Path) -> None:
    data = weights_file.read_bytes()
    for broken in (b"", b"no ONNX at all", data[: len(data) // 2], bytes(1000)):
        with pytest.raises(GeneratorError):
            OnnxGenerator(broken)


def _model(inputs: list[str], outputs: list[str], kind: int) -> bytes:
    from onnx import TensorProto, helper

    shape = [1, 1, None, None]
    sources = [
        helper.make_tensor_value_info(n, TensorProto.UINT8 if len(n) == 1 else 1, shape) for n in inputs
    ]
    nodes = [helper.make_node("Cast", [inputs[0]], [name], to=kind) for name in outputs]
    targets = [helper.make_tensor_value_info(name, kind, shape) for name in outputs]
    graph = helper.make_graph(nodes, "other", sources, targets)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return model.SerializeToString()


INPUTS = ["y", "u", "v", "quantiser", "strength"]


def test_other_networks_are_refused() -> None:
    with pytest.raises(GeneratorError, match="inputs"):
        OnnxGenerator(_model(["y"], ["y_out", "u_out", "v_out"], 2))
    with pytest.raises(GeneratorError, match="outputs"):
        OnnxGenerator(_model(INPUTS, ["y_out", "u_out"], 2))
    with pytest.raises(GeneratorError, match="outputs"):
        OnnxGenerator(_model(INPUTS, ["y_out", "u_out", "v_out"], 1))


def test_planes_of_a_wrong_shape_are_a_generator_error() -> None:
    generator = OnnxGenerator(_model(INPUTS, ["y_out", "u_out", "v_out"], 2))
    with pytest.raises(GeneratorError, match="plane of"):
        generator.generate(picture(64, 64), quantiser=9, strengths=gate(64, 64, 64), block_size=64)


def test_export_depends_on_the_weights_alone(weights_file: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.onnx"
    result = export(weights_file.parent / "ema.pt", again)
    assert result.largest <= 1
    assert result.samples > 100_000
    assert again.read_bytes() == weights_file.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["again.onnx"]


@pytest.mark.parametrize("data", [b"", b"garbage", b"PK\x05\x06" + bytes(18)])
def test_export_of_a_broken_file_is_a_generator_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "ema.pt").write_bytes(data)
    with pytest.raises(GeneratorError, match="not the weights"):
        export(tmp_path / "ema.pt", tmp_path / "out.onnx")
    with pytest.raises(GeneratorError, match="not the weights"):
        export(tmp_path / "missing.pt", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_registry_finds_generators_by_identity(
    weights_file: Path, generator: OnnxGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "tiny.onnx").write_bytes(weights_file.read_bytes())
    (tmp_path / "weights" / "notes.txt").write_text("not a generator")
    monkeypatch.setattr(registry.resources, "files", lambda package: tmp_path)
    registry._shipped_weights.cache_clear()
    try:
        assert registry.shipped_names() == ["tiny"]
        fake = FakeGenerator()
        found = registry.GeneratorRegistry([fake])
        assert found.find(fake.identity) is fake
        shipped = found.find(generator.identity)
        assert shipped is not None
        assert shipped.name == "tiny"
        assert found.find(generator.identity) is shipped
        assert found.find(bytes(8)) is None
        assert found.shipped_identities() == {generator.identity}
        assert registry.GeneratorRegistry(shipped=False).shipped_identities() == set()
        assert registry.GeneratorRegistry([fake], shipped=False).find(generator.identity) is None
        with pytest.raises(GeneratorError, match="other"):
            registry.load_shipped("other")
    finally:
        registry._shipped_weights.cache_clear()


def test_registry_without_a_weights_folder_ships_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry.resources, "files", lambda package: tmp_path)
    assert registry.shipped_names() == []


def test_load_file(weights_file: Path, generator: OnnxGenerator, tmp_path: Path) -> None:
    assert registry.load_file(weights_file).identity == generator.identity
    with pytest.raises(GeneratorError, match=r"nothing\.onnx"):
        registry.load_file(tmp_path / "nothing.onnx")
    with pytest.raises(GeneratorError):
        registry.load_file(tmp_path)
    huge = tmp_path / "huge.onnx"
    with huge.open("wb") as file:
        file.truncate(300 << 20)
    with pytest.raises(GeneratorError, match="larger"):
        registry.load_file(huge)


def test_generators_are_chosen_by_size_or_file(
    weights_file: Path, generator: OnnxGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {size: registry.load_chosen(Path(size)).name for size in registry.GENERATOR_SIZES}
    assert names == {"small": "generator_s6", "medium": "generator_v11", "large": "generator_l5"}
    assert registry.load_chosen().identity == registry.load_chosen(Path("medium")).identity
    assert registry.load_chosen(weights_file).identity == generator.identity
    monkeypatch.chdir(tmp_path)
    # A file beside must not change what a name stands for.
    (tmp_path / "small").write_bytes(weights_file.read_bytes())
    assert registry.load_chosen(Path("small")).identity != generator.identity
    with pytest.raises(
        GeneratorError, match=r"'tiny', expected one of small, medium, large, or an ONNX file"
    ):
        registry.load_chosen(Path("tiny"))
    (tmp_path / "tiny").write_bytes(b"not ONNX")
    with pytest.raises(GeneratorError, match="refuses"):
        registry.load_chosen(Path("tiny"))


def test_all_sizes_are_found_by_identity_and_differ() -> None:
    found = registry.GeneratorRegistry()
    identities = set()
    for size in registry.GENERATOR_SIZES:
        identity = registry.load_chosen(Path(size)).identity
        known = found.find(identity)
        assert known is not None
        assert known.name == registry.GENERATOR_SIZES[size]
        identities.add(identity)
    assert len(identities) == len(registry.GENERATOR_SIZES)


@pytest.mark.parametrize("config", [NetworkConfig(), SLIM], ids=["usual", "slim"])
def test_gmac(config: NetworkConfig) -> None:
    """Independently: every convolution's weights times the positions it is evaluated at."""
    s, b, seen = config.stem_channels, config.body_channels, config.seen_channels
    quarter, eighth = 1920 * 1080 // 16, 1920 * 1080 // 64
    inner = config.tail_hidden[0] if config.tail_hidden else s
    within = sum(config.body_hidden) or config.body_blocks * b
    at_quarter = 26 * (seen or s) * 9 + seen * s + config.tail_blocks * 2 * s * inner * 9 + s * 24 * 9
    at_eighth = (seen or s) * b * 4 + 2 * b * within * 9 + b * 4 * s
    expected = (at_quarter * quarter + at_eighth * eighth) / 1e9
    assert count_gmac(config, 1920, 1080) == pytest.approx(expected, rel=1e-9)
