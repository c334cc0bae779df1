"""Crops and held-out pictures."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from train_media import write_samples  # noqa: E402

from hybridprompt.errors import ConfigError  # noqa: E402
from hybridprompt.train.samples import SampleStore, whole_picture  # noqa: E402


def write_ramp(folder: Path, width: int = 128, height: int = 96) -> None:
    """A picture that tells where each of its samples comes from: luma x + y, U x, V y (chroma positions)."""
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:height, :width]
    cy, cx = np.mgrid[: height // 2, : width // 2]
    planes = [(x + y).ravel(), cx.ravel(), cy.ravel()]
    picture = np.concatenate(planes).reshape(height * 3 // 2, width).astype(np.uint8)
    np.savez(
        folder / "ramp.npz",
        source=picture,
        coded=255 - picture,
        base_q_idx=np.array(51),
        is_key=np.array(True),
    )


def levels(planes: tuple["torch.Tensor", "torch.Tensor"]) -> list[np.ndarray]:
    return [(p * 255).round().numpy().astype(int) for p in planes]


def test_batch_shapes_and_ranges(tmp_path: Path) -> None:
    write_samples(tmp_path, 3)
    batch = SampleStore(tmp_path).batch(np.random.default_rng(0), 5, 64)
    for planes in (batch.coded, batch.source):
        assert planes[0].shape == (5, 1, 64, 64)
        assert planes[1].shape == (5, 2, 32, 32)
        assert all(p.dtype == torch.float32 and float(p.min()) >= 0 and float(p.max()) <= 1 for p in planes)
    assert batch.quantiser.shape == (5, 1, 1, 1)
    assert set((batch.quantiser.flatten() * 255).round().int().tolist()) <= {100, 110, 120}


def test_a_batch_is_made_where_it_is_wanted(tmp_path: Path) -> None:
    write_samples(tmp_path, 1)
    batch = SampleStore(tmp_path).batch(np.random.default_rng(0), 2, 64, device="meta")
    tensors = *batch.coded, *batch.source, batch.quantiser
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_planes_of_a_crop_belong_together(tmp_path: Path) -> None:
    write_ramp(tmp_path)
    batch = SampleStore(tmp_path).batch(np.random.default_rng(1), 24, 64)
    flips = set()
    for index in range(24):
        y, uv = (p[index] for p in levels(batch.source))
        flips.add(bool(uv[0, 0, 0] > uv[0, 0, 1]))
        if uv[0, 0, 0] > uv[0, 0, 1]:
            y, uv = y[..., ::-1], uv[..., ::-1]
        x0, y0 = 2 * uv[0, 0, 0], 2 * uv[1, 0, 0]
        expected = np.add(*np.mgrid[y0 : y0 + 64, x0 : x0 + 64])
        assert np.array_equal(y[0], expected)
        assert np.array_equal(uv[1], np.mgrid[y0 // 2 : y0 // 2 + 32, :32][0])
    assert flips == {False, True}
    for coded, source in zip(levels(batch.coded), levels(batch.source), strict=True):
        assert np.array_equal(coded, 255 - source)


def test_turned_crops_are_met_in_eight_ways(tmp_path: Path) -> None:
    write_ramp(tmp_path)
    batch = SampleStore(tmp_path).batch(np.random.default_rng(1), 96, 64, turned=True)
    ways = set()
    for index in range(96):
        y, uv = (p[index] for p in levels(batch.source))
        swapped = bool(uv[0, 0, 0] == uv[0, 0, 1])
        if swapped:
            y, uv = y.swapaxes(1, 2), uv.swapaxes(1, 2)
        across, down = uv[0, 0, 0] > uv[0, 0, 1], uv[1, 0, 0] > uv[1, 1, 0]
        if across:
            y, uv = y[..., ::-1], uv[..., ::-1]
        if down:
            y, uv = y[:, ::-1], uv[:, ::-1]
        ways.add((swapped, bool(across), bool(down)))
        x0, y0 = 2 * uv[0, 0, 0], 2 * uv[1, 0, 0]
        assert np.array_equal(y[0], np.add(*np.mgrid[y0 : y0 + 64, x0 : x0 + 64]))
        assert np.array_equal(uv[0], np.mgrid[:32, x0 // 2 : x0 // 2 + 32][1])
    assert len(ways) == 8
    for coded, source in zip(levels(batch.coded), levels(batch.source), strict=True):
        assert np.array_equal(coded, 255 - source)


def test_the_seed_decides_the_crops(tmp_path: Path) -> None:
    write_samples(tmp_path, 3)
    store = SampleStore(tmp_path)
    a, b, c = (store.batch(np.random.default_rng(seed), 4, 64).source[0] for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_samples_come_from_all_corpora_and_are_coarse_enough(tmp_path: Path) -> None:
    folders = tmp_path / "a", tmp_path / "b"
    for folder, seed in zip(folders, (0, 9), strict=True):
        write_samples(folder, 4, seed=seed)
    assert len(SampleStore(*folders).samples) == 8
    store = SampleStore(*folders, finest=(110, 120))
    kept = sorted((sample.is_key, sample.base_q_idx) for sample in store.samples)
    assert kept == [(False, 130), (False, 130), (True, 120), (True, 120)]
    store.refresh()
    assert len(store.samples) == 4
    with pytest.raises(ConfigError, match="base_q_idx from 121 or 255"):
        SampleStore(*folders, finest=(121, 255))
    with pytest.raises(ConfigError, match="mistyped: no training samples"):
        SampleStore(*folders, tmp_path / "mistyped")


def test_pictures_smaller_than_the_crop_are_left_out(tmp_path: Path) -> None:
    write_samples(tmp_path, 1, width=64, height=64, seed=1)
    store = SampleStore(tmp_path)
    with pytest.raises(ConfigError, match="72 pixels"):
        store.batch(np.random.default_rng(0), 1, 72)
    assert store.batch(np.random.default_rng(0), 1, 64).source[0].shape == (1, 1, 64, 64)


def test_refresh_finds_new_files_and_orders_all(tmp_path: Path) -> None:
    write_samples(tmp_path, 1, seed=5)
    store = SampleStore(tmp_path)
    write_samples(tmp_path, 1, seed=3)
    np.savez(tmp_path / ".half-written.tmp.npz", source=np.zeros(1))
    store.refresh()
    assert [s.name for s in store.samples] == ["sample3-0.npz", "sample5-0.npz"]
    store.refresh()
    assert len(store.samples) == 2


def _without(tmp_path: Path, key: str) -> bytes:
    values = {
        "source": np.zeros((96, 64), np.uint8),
        "coded": np.zeros((96, 64), np.uint8),
        "base_q_idx": np.array(1),
        "is_key": np.array(True),
    }
    if key == "shape":
        values["coded"] = np.zeros((96, 66), np.uint8)
    elif key == "dtype":
        values["coded"] = np.zeros((96, 64))
    elif key == "object":
        values["coded"] = np.array([{}], object)
    else:
        del values[key]
    np.savez(tmp_path / "x.npz", **values)
    return (tmp_path / "x.npz").read_bytes()


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "coded", "base_q_idx", "shape", "dtype", "object"])
def test_broken_samples_are_config_errors(tmp_path: Path, kind: str) -> None:
    write_samples(tmp_path, 1)
    whole = (tmp_path / "sample0-0.npz").read_bytes()
    data = {"empty": b"", "text": b"no sample", "cut": whole[: len(whole) // 2]}.get(kind)
    if data is None:
        data = _without(tmp_path, kind)
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(ConfigError, match=r"x\.npz: not a training sample"):
        SampleStore(tmp_path)


def test_no_samples_at_all_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no training samples"):
        SampleStore(tmp_path / "nothing")


@pytest.mark.parametrize(("limit", "size"), [(None, (96, 128)), (64, (64, 64)), (100, (96, 96))])
def test_whole_picture_is_central_and_aligned(
    tmp_path: Path, limit: int | None, size: tuple[int, int]
) -> None:
    write_ramp(tmp_path)
    batch = whole_picture(SampleStore(tmp_path).samples[0], limit)
    y, uv = (p[0] for p in levels(batch.source))
    assert y.shape == (1, *size)
    x0, y0 = (128 - size[1]) // 2, (96 - size[0]) // 2
    assert (2 * uv[0, 0, 0], 2 * uv[1, 0, 0]) == (x0, y0)
    assert np.array_equal(y[0], np.add(*np.mgrid[y0 : y0 + size[0], x0 : x0 + size[1]]))
    assert float(batch.quantiser) == pytest.approx(51 / 255)
