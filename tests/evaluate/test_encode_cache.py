"""The cache of encodes: reuse, eviction, damage."""

import os
from pathlib import Path

import pytest

from hybridprompt.errors import MediaError
from hybridprompt.evaluate.cache import EncodeCache, digest_of


def writer(data: bytes, calls: list[bytes] | None = None):
    def make(path: Path) -> dict[str, object]:
        path.write_bytes(data)
        if calls is not None:
            calls.append(data)
        return {"bytes": len(data)}

    return make


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    calls: list[bytes] = []
    cache = EncodeCache(tmp_path, 1000)
    first = cache.get_or_make("a", ".mp4", writer(b"x" * 10, calls))
    again = EncodeCache(tmp_path, 1000).get_or_make("a", ".mp4", writer(b"y", calls))
    assert again == first
    assert first.path.read_bytes() == b"x" * 10
    assert calls == [b"x" * 10]


@pytest.mark.parametrize("data", [b"x" * 9, b"x" * 9 + b"z"])
def test_damaged_media_are_made_again(tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    cache = EncodeCache(tmp_path, 1000)
    path = cache.get_or_make("a", ".mp4", writer(b"x" * 10)).path
    path.write_bytes(data)
    assert EncodeCache(tmp_path, 1000).get_or_make("a", ".mp4", writer(b"new")).path.read_bytes() == b"new"
    assert "damaged" in caplog.text


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": "b", "info": {}}', '{"key": "a"}'])
def test_damaged_sidecars_are_made_again(tmp_path: Path, text: str) -> None:
    EncodeCache(tmp_path, 1000).get_or_make("a", ".mp4", writer(b"old"))
    (tmp_path / "a.json").write_text(text)
    cache = EncodeCache(tmp_path, 1000)
    assert cache.infos() == {}
    assert cache.get("a") is None
    assert cache.get_or_make("a", ".mp4", writer(b"new!")).info == {"bytes": 4}


def test_the_least_recently_used_go_first_and_what_they_told_stays(tmp_path: Path) -> None:
    cache = EncodeCache(tmp_path, 25)
    for age, name in enumerate("abc"):
        cache.get_or_make(name, ".mp4", writer(b"x" * 10))
        os.utime(tmp_path / f"{name}.mp4", (1000 + age, 1000 + age))
    assert sorted(p.name for p in tmp_path.glob("*.mp4")) == ["a.mp4", "b.mp4", "c.mp4"]
    EncodeCache(tmp_path, 1000).get("a")  # used now
    cache.release()
    assert sorted(p.name for p in tmp_path.glob("*.mp4")) == ["a.mp4", "c.mp4"]
    assert cache.info("b") == {"bytes": 10}
    assert cache.get("b") is None


def test_a_failed_encode_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path) -> dict[str, object]:
        path.write_bytes(b"half")
        raise MediaError("no")

    cache = EncodeCache(tmp_path, 1000)
    with pytest.raises(MediaError):
        cache.get_or_make("a", ".mp4", fail)
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_killed_runs_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".k.partial-media.mp4").write_bytes(b"half")
    EncodeCache(tmp_path, 1000)
    assert list(tmp_path.iterdir()) == []


def test_digests_know_no_order_of_keys() -> None:
    assert digest_of({"a": 1, "b": [2.5]}) == digest_of({"b": [2.5], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
