"""Corpora in one file."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("PIL")

from train_media import write_samples

from hybridprompt.errors import ConfigError
from hybridprompt.train.packed import PackSettings, pack, unpack
from hybridprompt.train.sample_files import Sample, load_sample, split_planes

SETTINGS = PackSettings(crop=64, quality=90)


def write_smooth(folder: Path, count: int, *, width: int = 112, height: int = 80) -> None:
    """Pictures of slow waves, each at its own place, the coded ones a little darker."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        y, x = np.mgrid[: height * 3 // 2, :width]
        source = 120 + 60 * np.sin((x + 3 * index) / 9) * np.cos(y / 7)
        np.savez(
            folder / f"smooth-{index}.npz",
            source=source.astype(np.uint8),
            coded=(source - 20).astype(np.uint8),
            base_q_idx=np.array(100 + 10 * index),
            is_key=np.array(index % 2 == 0),
        )


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    write_smooth(folder / "train", 4)
    write_smooth(folder / "validation", 1)
    return folder


def patch_directory(path: Path, name: str, *, flags: int | None = None, sizes: int | None = None) -> None:
    """Let a pack's directory tell another size of a member, or that it is encrypted."""
    data = bytearray(path.read_bytes())
    # The name stands behind the 46 bytes of its entry; the entry comes after the member itself.
    entry = data.rindex(name.encode()) - 46
    assert data[entry : entry + 4] == b"PK\x01\x02"
    if flags is not None:
        data[entry + 8] |= flags
    if sizes is not None:
        data[entry + 24 : entry + 28] = sizes.to_bytes(4, "little")
    path.write_bytes(data)


def place_of(small: Sample, large: Sample) -> tuple[int, int]:
    """Where a crop is nearest to the picture."""
    y, whole = split_planes(small.source)[0].astype(float), split_planes(large.source)[0].astype(float)
    errors = {
        (top, left): float(np.abs(whole[top : top + len(y), left : left + y.shape[1]] - y).mean())
        for top in range(len(whole) - len(y) + 1)
        for left in range(whole.shape[1] - y.shape[1] + 1)
    }
    return min(errors, key=errors.__getitem__)


def test_what_is_unpacked_is_a_crop_of_what_was_packed(corpus: Path, tmp_path: Path) -> None:
    assert pack([corpus], tmp_path / "a.zip", SETTINGS, workers=2) == 5
    assert unpack(tmp_path / "a.zip", tmp_path / "out", workers=2) == 5
    paths = sorted((tmp_path / "out").glob("*/*.npz"))
    assert [p.parent.name for p in paths] == ["train"] * 4 + ["validation"]
    for path in paths:
        sample = load_sample(path)
        original = load_sample(corpus / path.parent.name / path.name.removeprefix("0_"))
        assert (sample.width, sample.height) == (64, 64)
        assert (sample.base_q_idx, sample.is_key) == (original.base_q_idx, original.is_key)
        top, left = place_of(sample, original)
        assert top % 2 == left % 2 == 0
        for mine, whole in ((sample.source, original.source), (sample.coded, original.coded)):
            luma, chroma = split_planes(whole)
            wanted = luma[top : top + 64, left : left + 64].astype(int)
            assert np.abs(split_planes(mine)[0] - wanted).mean() < 2
            half = chroma[:, top // 2 : top // 2 + 32, left // 2 : left // 2 + 32].astype(int)
            assert np.abs(split_planes(mine)[1] - half).mean() < 3


def test_a_pack_is_small_and_the_same_for_a_seed(tmp_path: Path) -> None:
    write_samples(tmp_path / "corpus" / "train", 12)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        pack([tmp_path / "corpus"], tmp_path / name, SETTINGS, seed=seed)
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()
    with zipfile.ZipFile(tmp_path / "a") as a, zipfile.ZipFile(tmp_path / "b") as b:
        assert a.namelist() == b.namelist()
        assert all(a.read(name) == b.read(name) for name in a.namelist())
    limit = (tmp_path / "a").stat().st_size // 2
    few = pack([tmp_path / "corpus"], tmp_path / "small", SETTINGS, max_bytes=limit)
    assert 0 < few < 12
    assert 0.7 * limit < (tmp_path / "small").stat().st_size <= limit


def test_the_limit_counts_what_a_file_says_of_its_members(tmp_path: Path) -> None:
    write_smooth(tmp_path / "corpus" / "train", 60, width=16, height=16)
    settings = PackSettings(crop=16, quality=1)
    pack([tmp_path / "corpus"], tmp_path / "all", settings)
    limit = (tmp_path / "all").stat().st_size - 1
    assert pack([tmp_path / "corpus"], tmp_path / "few", settings, max_bytes=limit) < 60
    assert (tmp_path / "few").stat().st_size <= limit


def test_finer_pictures_are_left_out(corpus: Path, tmp_path: Path) -> None:
    settings = PackSettings(crop=64, finest=(115, 125))
    # Of the training samples the keyframes have 100 and 120, the others 110 and 130.
    assert pack([corpus], tmp_path / "a.zip", settings) == 2
    with pytest.raises(ConfigError, match="no sample is small and coarse enough"):
        pack([corpus], tmp_path / "b.zip", PackSettings(crop=64, finest=(200, 200)))
    with pytest.raises(ConfigError, match="no sample is small and coarse enough"):
        pack([corpus], tmp_path / "b.zip", SETTINGS, max_bytes=100)
    assert not (tmp_path / "b.zip").exists()


def test_nothing_to_pack_and_wrong_settings_are_config_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no training samples"):
        pack([tmp_path], tmp_path / "a.zip", SETTINGS)
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "x.npz").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="not a training sample"):
        pack([tmp_path], tmp_path / "a.zip", SETTINGS)
    (tmp_path / "train" / "x.npz").rename(tmp_path / "train" / "two words.npz")
    with pytest.raises(ConfigError, match=r"two words\.npz: a name of"):
        pack([tmp_path], tmp_path / "a.zip", SETTINGS)
    assert not list(tmp_path.glob("*.zip"))
    assert not list(tmp_path.glob(".*.partial"))
    for change in (
        {"crop": 60},
        {"crop": 0},
        {"quality": 0},
        {"quality": 99},
        {"speed": 11},
        {"finest": (0, 300)},
    ):
        with pytest.raises(ConfigError):
            PackSettings(**change)


@pytest.mark.parametrize(
    "kind",
    [
        "missing",
        "no zip",
        "empty",
        "outside",
        "no still",
        "damaged",
        "header",
        "sizes",
        "bomb",
        "compressed",
        "lies",
        "infinite",
        "encrypted",
    ],
)
def test_other_files_are_config_errors(corpus: Path, tmp_path: Path, kind: str) -> None:
    good, bad = tmp_path / "good.zip", tmp_path / "bad.zip"
    pack([corpus], good, SETTINGS)
    if kind == "no zip":
        bad.write_bytes(good.read_bytes()[:200])
    elif kind != "missing":
        with zipfile.ZipFile(good) as source, zipfile.ZipFile(bad, "w") as target:
            names = source.namelist() if kind != "empty" else []
            first = source.namelist()[0].removesuffix(".source")
            small = tmp_path / "small.zip"
            pack([corpus], small, PackSettings(crop=32))
            for name in names:
                data = source.read(name)
                if kind == "outside" and name == f"{first}.json":
                    name = f"../{name}"
                elif name == f"{first}.coded":
                    if kind == "no still":
                        continue
                    if kind == "damaged":
                        data = data[: len(data) // 2]
                    if kind == "sizes":
                        with zipfile.ZipFile(small) as other:
                            data = other.read(name)
                elif name == f"{first}.json" and kind == "header":
                    data = json.dumps({"base_q_idx": 300, "is_key": True}).encode()
                elif name == f"{first}.json" and kind == "bomb":
                    data = b" " * (17 << 20)
                elif name == f"{first}.json" and kind == "infinite":
                    data = b'{"base_q_idx": 1e999, "is_key": true}'
                elif name == f"{first}.json" and kind in ("compressed", "lies"):
                    target.writestr(name, b" " * 5000 + data, zipfile.ZIP_DEFLATED)
                    continue
                target.writestr(name, data)
    if kind == "lies":
        patch_directory(bad, f"{first}.json", sizes=24)
    elif kind == "encrypted":
        patch_directory(bad, f"{first}.json", flags=1)
    with pytest.raises(ConfigError, match=r"bad\.zip: not a packed corpus"):
        unpack(bad, tmp_path / "out")
