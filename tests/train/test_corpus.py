"""Training pictures from photos and clips."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

pytest.importorskip("PIL")
from PIL import Image

from hybridprompt.errors import ConfigError, MediaError
from hybridprompt.train import corpus
from hybridprompt.train.corpus import (
    FRAMES,
    Piece,
    make_corpus,
    make_piece,
    plan_clips,
    plan_photos,
    render_photo,
)
from hybridprompt.train.streams import load_stream, save_stream
from hybridprompt.video.av1_encoder import CodedPacket


def write_photo(path: Path, width: int = 220, height: int = 150, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3)).astype(np.uint8)
    Image.fromarray(coarse.repeat(8, 0).repeat(8, 1)[:height, :width]).save(path)
    return path


def write_video(
    path: Path, frames: int, width: int = 102, height: int = 74, pix_fmt: str = "yuv420p"
) -> Path:
    rng = np.random.default_rng(3)
    texture = (
        rng.integers(30, 220, (height // 8 + 12, width // 8 + 25)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    )
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1" if path.suffix == ".mkv" else "libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        for index in range(frames):
            gray = np.ascontiguousarray(texture[index : index + height, 2 * index : 2 * index + width])
            output.mux(stream.encode(av.VideoFrame.from_ndarray(gray, "gray").reformat(format=pix_fmt)))
        output.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("originals")
    write_photo(folder / "a.png", seed=1)
    write_photo(folder / "b.JPG", 300, 180, seed=2)
    write_video(folder / "clip.mp4", 90)
    return folder


def test_corpus_of_photos_and_a_clip(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for path in folder.iterdir():
        (tmp_path / "in" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "in" / "broken.jpg").write_bytes(b"no photo")
    photos = plan_photos(tmp_path / "in", repeats=1, crf_range=(40, 50), preset=12, seed=1, holdout=3)
    clips = plan_clips(tmp_path / "in", starts=1, crf_range=(40, 50), preset=12, seed=1)
    # a.png, b.JPG and broken.jpg: the third is for validation.
    assert [p.split for p in photos] == ["train", "train", "validation"]
    assert [(p.split, p.start_frame) for p in clips] == [("train", 0), ("validation", 53)]
    out = tmp_path / "corpus"
    errors = make_corpus([*photos, *clips], out, workers=1)
    assert len(errors) == 1
    assert "broken.jpg" in errors[0]
    train, validation = (sorted(out.glob(f"{split}/*.npz")) for split in ("train", "validation"))
    assert len(train) == 6
    assert len(validation) == 2
    assert not list(out.rglob(".*"))
    for path in train + validation:
        with np.load(path) as data:
            assert data["source"].shape == data["coded"].shape
            assert data["source"].dtype == data["coded"].dtype == np.uint8
            assert data["source"].shape[1] % 8 == 0
            difference = np.abs(data["source"].astype(int) - data["coded"])
            assert 0 < difference.mean() < 15
            assert 1 <= data["base_q_idx"] <= 255
            assert bool(data["is_key"]) == path.name.endswith("-0.npz")
    before = {path: path.stat().st_mtime_ns for path in train + validation}
    make_corpus([*photos, *clips], out, workers=1)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_held_out_pieces_are_made_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a run which trains while the corpus grows is validated on the same pictures throughout."""
    order = []

    class Pool:
        def __init__(self, workers: int) -> None: ...
        def __enter__(self) -> "Pool":
            return self

        def __exit__(self, *error: object) -> None: ...
        def imap_unordered(self, work: object, jobs: list[tuple[Piece, str, None]]) -> list[None]:
            order.extend(piece for piece, *_ in jobs)
            return []

    monkeypatch.setattr(corpus.multiprocessing, "get_context", lambda kind: SimpleNamespace(Pool=Pool))
    splits = ["train", "train", "validation"] * 7
    pieces = [Piece(path=Path("a"), seed=i, crf=1, preset=1, split=s) for i, s in enumerate(splits)]
    make_corpus(pieces, tmp_path, workers=1)
    assert [p.split for p in order] == ["validation"] * 7 + ["train"] * 14
    seeds = [p.seed for p in order[7:]]
    assert seeds != sorted(seeds)


def test_a_piece_is_the_same_every_time(folder: Path) -> None:
    piece = Piece(path=folder / "a.png", seed=5, crf=45, preset=12, split="train")
    first, second = list(make_piece(piece)), list(make_piece(piece))
    assert len(first) == 2
    for a, b in zip(first, second, strict=True):
        assert all(np.array_equal(a[key], b[key]) for key in a)


def test_with_a_generator_the_last_picture_comes_predicted_from_a_generated_one_too(folder: Path) -> None:
    piece = Piece(path=folder / "clip.mp4", seed=5, crf=60, preset=12, split="train", start_frame=7)
    key, base = make_piece(piece)
    with_generator = replace(piece, generator=Path("small"))
    assert with_generator.name != piece.name
    *same, last = make_piece(with_generator)
    for a, b in zip(same, (key, base), strict=True):
        assert all(np.array_equal(a[name], b[name]) for name in a)
    assert {name for name in last if not np.array_equal(last[name], base[name])} == {"coded"}
    assert 0.05 < np.abs(last["coded"].astype(int) - base["coded"]).mean() < 5


@pytest.mark.parametrize("name", ["a.png", "clip.mp4"])
def test_kept_streams_make_the_same_samples_without_coding(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    start = 7 if name == "clip.mp4" else None
    piece = Piece(path=folder / name, seed=5, crf=60, preset=12, split="train", start_frame=start)
    piece = replace(piece, generator=Path("small"))
    wanted = list(make_piece(piece))
    for first, second in zip(wanted, make_piece(piece, tmp_path), strict=True):
        assert all(np.array_equal(first[key], second[key]) for key in first)
    assert [path.name for path in tmp_path.iterdir()] == [f"{piece.coded_name}.npz"]

    def refused(*_: object) -> None:
        raise AssertionError("coded again")

    monkeypatch.setattr(corpus, "_encode", refused)
    for first, second in zip(wanted, make_piece(piece, tmp_path), strict=True):
        assert all(np.array_equal(first[key], second[key]) for key in first)
    # Whichever generator the third sample is by, the stream is the same.
    assert len(list(make_piece(replace(piece, generator=None), tmp_path))) == 2


def test_a_stream_of_something_else_is_told(folder: Path, tmp_path: Path) -> None:
    small = Piece(path=folder / "a.png", seed=5, crf=60, preset=12, split="train")
    other = replace(small, path=folder / "b.JPG")
    list(make_piece(small, tmp_path))
    (tmp_path / f"{small.coded_name}.npz").rename(tmp_path / f"{other.coded_name}.npz")
    with pytest.raises(MediaError, match=r"is not the stream of b\.JPG"):
        list(make_piece(other, tmp_path))
    errors = make_corpus([other], tmp_path / "out", workers=1, streams=tmp_path)
    assert len(errors) == 1
    assert "b.JPG" in errors[0]


def test_streams_are_read_as_they_were_written(tmp_path: Path) -> None:
    packets = [CodedPacket(bytes([i] * (i + 1)), 3 * i, 3 * i, 1, i == 0) for i in range(5)]
    save_stream(tmp_path / "a.npz", packets)
    assert load_stream(tmp_path / "a.npz") == packets
    assert len(list(tmp_path.iterdir())) == 1


def _arrays(**changes: np.ndarray) -> dict[str, np.ndarray]:
    good = {"data": np.zeros(6, np.uint8), "sizes": np.array([2, 4]), "times": np.array([0, 1])}
    return good | changes


@pytest.mark.parametrize(
    "changes",
    [
        {"sizes": np.array([2, 5])},
        {"sizes": np.array([0, 6])},
        {"sizes": np.array([-1, 7])},
        {"sizes": np.array([2**63 - 2, -(2**63) + 8])},
        {"sizes": np.array([6])},
        {"sizes": np.array([2.0, 4.0])},
        {"sizes": np.zeros(0, np.int64), "times": np.zeros(0, np.int64), "data": np.zeros(0, np.uint8)},
        {"data": np.zeros((2, 3), np.uint8)},
        {"data": np.array([None], object)},
        {"times": np.array([[0, 1]])},
    ],
)
def test_broken_streams_are_told(tmp_path: Path, changes: dict[str, np.ndarray]) -> None:
    path = tmp_path / "broken.npz"
    np.savez(path, **_arrays())
    load_stream(path)
    np.savez(path, allow_pickle=True, **_arrays(**changes))
    with pytest.raises(ConfigError, match=r"broken\.npz: not a kept stream"):
        load_stream(path)


def test_files_that_are_no_streams_are_told(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "compressed.npz", **_arrays())
    np.savez(tmp_path / "lacking.npz", data=np.zeros(3, np.uint8))
    np.save(tmp_path / "array.npz", np.zeros(3))
    (tmp_path / "array.npz.npy").rename(tmp_path / "array.npz")
    (tmp_path / "text.npz").write_text("no")
    (tmp_path / "empty.npz").touch()
    with (tmp_path / "huge.npz").open("wb") as file:
        file.truncate(65 << 20)
    for path in [*tmp_path.iterdir(), tmp_path / "missing.npz"]:
        with pytest.raises(ConfigError, match="not a kept stream"):
            load_stream(path)


def test_keyframe_is_coded_finer_than_the_base_of_the_mini_gop(folder: Path) -> None:
    piece = Piece(path=folder / "clip.mp4", seed=0, crf=50, preset=12, split="train", start_frame=7)
    key, base = make_piece(piece)
    assert key["base_q_idx"] < base["base_q_idx"]


@pytest.mark.parametrize(
    ("suffix", "pix_fmt", "size"), [(".mkv", "yuv420p", (101, 75)), (".mkv", "yuv422p10le", (102, 74))]
)
def test_clips_of_any_kind_are_cut_to_size(
    tmp_path: Path, suffix: str, pix_fmt: str, size: tuple[int, int]
) -> None:
    path = write_video(tmp_path / f"clip{suffix}", FRAMES, *size, pix_fmt)
    samples = list(make_piece(Piece(path=path, seed=0, crf=40, preset=12, split="train", start_frame=0)))
    assert [s["source"].shape for s in samples] == [(72 * 3 // 2, 96)] * 2
    assert np.abs(samples[0]["source"].astype(int) - samples[0]["coded"]).mean() < 10
    with av.open(str(path)) as container:
        gray = next(container.decode(video=0)).reformat(format="gray8").to_ndarray()
    # "gray" is full range; luma here is limited.
    expected = gray[:72, :96].astype(float) * 219 / 255 + 16
    assert np.abs(samples[0]["source"][:72] - expected).mean() < 2


def test_short_and_small_clips_give_nothing(tmp_path: Path) -> None:
    short = write_video(tmp_path / "short.mp4", FRAMES - 1)
    assert list(make_piece(Piece(path=short, seed=0, crf=40, preset=12, split="train", start_frame=0))) == []
    small = write_video(tmp_path / "small.mp4", FRAMES, 102, 60)
    with pytest.raises(MediaError, match="too small"):
        list(make_piece(Piece(path=small, seed=0, crf=40, preset=12, split="train", start_frame=0)))


def test_rendered_photos_fit_the_network(folder: Path, tmp_path: Path) -> None:
    for path in (folder / "b.JPG", write_photo(tmp_path / "tiny.png", 30, 20)):
        pictures = render_photo(path, np.random.default_rng(0))
        assert len(pictures) == FRAMES
        height, width, _ = pictures[0].shape
        assert height % 8 == width % 8 == 0
        assert min(height, width) >= 64


def test_plans_name_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no photos"):
        plan_photos(tmp_path, repeats=1, crf_range=(40, 50), preset=12, seed=1, holdout=10)
    with pytest.raises(ConfigError, match="holdout"):
        plan_photos(tmp_path, repeats=1, crf_range=(40, 50), preset=12, seed=1, holdout=0)
    assert plan_clips(tmp_path, starts=2, crf_range=(40, 50), preset=12, seed=1) == []
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(MediaError, match=r"broken\.mp4"):
        plan_clips(tmp_path, starts=2, crf_range=(40, 50), preset=12, seed=1)


def test_plan_spreads_clip_starts_over_the_first_half(folder: Path) -> None:
    pieces = plan_clips(folder, starts=3, crf_range=(40, 50), preset=12, seed=1)
    starts = [p.start_frame for p in pieces if p.split == "train"]
    assert starts == [0, 6, 12]
    assert all(p.start_frame >= 45 for p in pieces if p.split == "validation")
