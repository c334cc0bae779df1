"""Encodes kept on disk: what was encoded once need not be encoded again, within a limit of bytes.

An entry is a media file and, beside it, a small JSON file that tells the media's size, its digest and what
the encode found out.  Only media are evicted; what was found out stays, for it answers most questions.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridprompt.errors import ConfigError
from hybridprompt.video.files import PartialFile, reason

Info = dict[str, Any]

_log = logging.getLogger(__name__)


def digest_of(value: object) -> str:
    """SHA-256, in hex, of a value's JSON form with sorted keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256, in hex, of a file's bytes.  Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text file under a temporary name and rename it.  Raises MediaError, OSError."""
    partial = PartialFile(path, overwrite=True)
    try:
        with partial.path.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.commit()
    finally:
        partial.discard()


@dataclass(frozen=True)
class Entry:
    """A media file that is whole, and what its encode found out."""

    path: Path
    info: Info


class EncodeCache:
    """Media by key in one folder, the least recently used evicted first.

    key: hex digest of all that determines the bytes.  limit_bytes: of all media together; the media asked for
    since the last `release` stay in any case.  Raises ConfigError when the folder cannot be made.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        if limit_bytes < 0:
            raise ConfigError(f"cache limit is {limit_bytes} bytes, expected 0 or more")
        self.folder = folder
        self._limit = limit_bytes
        self._held: set[str] = set()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{folder}: no cache can be kept there ({reason(error)})") from error
        # Left by runs that were killed.
        for leftover in folder.glob(".*.partial-*"):
            leftover.unlink(missing_ok=True)

    def info(self, key: str) -> Info | None:
        """What an encode found out, if it was ever made; its media may be gone."""
        sidecar = self._read(key)
        return None if sidecar is None else dict(sidecar["info"])

    def infos(self) -> dict[str, Info]:
        """What all encodes found out, by key."""
        found = {path.stem: self.info(path.stem) for path in sorted(self.folder.glob("*.json"))}
        return {key: info for key, info in found.items() if info is not None}

    def get(self, key: str) -> Entry | None:
        """The entry if its media are there and whole; damaged media are removed."""
        sidecar = self._read(key)
        if sidecar is None:
            return None
        path = self.folder / f"{key}{sidecar['suffix']}"
        try:
            whole = path.stat().st_size == sidecar["size"] and file_digest(path) == sidecar["sha256"]
            if whole:
                os.utime(path)
                self._held.add(key)
                return Entry(path, dict(sidecar["info"]))
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("%s: cannot be read (%s), made again", path, reason(error))
            return None
        _log.warning("%s: damaged in the cache, made again", path.name)
        path.unlink(missing_ok=True)
        return None

    def get_or_make(self, key: str, suffix: str, make: Callable[[Path], Info]) -> Entry:
        """The entry, made by ``make`` if need be: it writes the media at a path and returns the info.

        Nothing appears under the key unless ``make`` succeeds.
        """
        found = self.get(key)
        if found is not None:
            return found
        temporary = self.folder / f".{key}.partial-media{suffix}"
        try:
            info = make(temporary)
            size, sha256 = temporary.stat().st_size, file_digest(temporary)
            path = self.folder / f"{key}{suffix}"
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sidecar = {"key": key, "suffix": suffix, "size": size, "sha256": sha256, "info": info}
        write_text_atomically(self.folder / f"{key}.json", json.dumps(sidecar, sort_keys=True) + "\n")
        self._held.add(key)
        self._evict()
        return Entry(path, info)

    def release(self) -> None:
        """Let the media that were asked for so far be evicted."""
        self._held.clear()
        self._evict()

    def _read(self, key: str) -> dict[str, Any] | None:
        path = self.folder / f"{key}.json"
        try:
            sidecar = json.loads(path.read_text(encoding="utf-8"))
            whole = (
                sidecar["key"] == key
                and isinstance(sidecar["info"], dict)
                and isinstance(sidecar["suffix"], str)
                and isinstance(sidecar["size"], int)
                and isinstance(sidecar["sha256"], str)
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, LookupError):
            whole = False
        if whole:
            return dict(sidecar)
        _log.warning("%s: damaged in the cache, made again", path.name)
        path.unlink(missing_ok=True)
        return None

    def _evict(self) -> None:
        media = []
        for path in self.folder.iterdir():
            if path.suffix != ".json" and not path.name.startswith("."):
                state = path.stat()
                media.append((state.st_mtime_ns, path.name, state.st_size, path))
        total = sum(size for _, _, size, _ in media)
        for _, _, size, path in sorted(media):
            if total <= self._limit:
                return
            if path.stem not in self._held:
                path.unlink(missing_ok=True)
                total -= size
