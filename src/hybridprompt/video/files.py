"""Opening input files through FFmpeg, and output files that appear only when they are complete."""

import logging
import os
import secrets
import weakref
from pathlib import Path

import av
from av.container import InputContainer, OutputContainer

from hybridprompt.errors import MediaError

FFMPEG_FAILURES = (av.error.FFmpegError, OSError, ValueError, MemoryError)
"""What PyAV raises when FFmpeg refuses something."""

_log = logging.getLogger(__name__)


def reason(error: BaseException) -> str:
    """Return the cause of an FFmpeg or operating system error in a few words."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def open_input(path: str | os.PathLike[str]) -> InputContainer:
    """Open a local media file for reading. Raises MediaError with one line that names the file."""
    path = Path(path)
    if not path.exists():
        raise MediaError(f"{path}: no such file")
    if path.is_dir():
        raise MediaError(f"{path}: is a directory, expected a video file")
    if path.is_file() and path.stat().st_size == 0:
        raise MediaError(f"{path}: the file is empty")
    try:
        # "file:" and the whitelist keep names such as "concat:..." and playlists from reaching elsewhere.
        return av.open(
            f"file:{path}",
            mode="r",
            container_options={"protocol_whitelist": "file"},
            metadata_errors="replace",
        )
    except av.error.PermissionError as error:
        raise MediaError(f"{path}: no permission to read it") from error
    except FFMPEG_FAILURES as error:
        raise MediaError(f"{path}: not a media file that FFmpeg can read ({reason(error)})") from error


def close_quietly(output: OutputContainer) -> None:
    """Close an output that is given up."""
    try:
        output.close()
    except FFMPEG_FAILURES as error:
        _log.debug("closing an abandoned file: %s", reason(error))


class PartialFile:
    """A file written under a temporary name beside its target, `.name.partial-XXXXXXXX`.

    `commit` gives it its name in one step, `discard` removes it; neither leaves half a file behind.
    A file that is forgotten, say by a signal at any moment, goes with its object or when the program ends.
    Raises MediaError when the target exists (unless overwrite) or its directory cannot be written.
    """

    def __init__(self, target: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        self.target = Path(target)
        self._overwrite = overwrite
        self._given_up = False
        self._check_target()
        self.path = self.target.with_name(f".{self.target.name}.partial-{secrets.token_hex(4)}")
        # Registered before the file is made: a signal may arrive at once after that.
        self._removal = weakref.finalize(self, self.path.unlink, missing_ok=True)
        try:
            # Reserves the name and shows at once whether the directory can be written.
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except OSError as error:
            self._removal.detach()
            raise MediaError(f"{self.target}: cannot be written ({reason(error)})") from error

    def commit(self) -> None:
        """Rename the file to its target. Raises MediaError (and removes it) when that fails."""
        if not self._removal.alive:
            return
        try:
            self._check_target()
            os.replace(self.path, self.target)
        except (OSError, MediaError) as error:
            self.discard()
            if isinstance(error, MediaError):
                raise
            raise MediaError(f"{self.target}: cannot be written ({reason(error)})") from error
        self._removal.detach()

    def discard(self) -> None:
        """Remove the file; does nothing after `commit`."""
        if self._removal.alive:
            self._given_up = self.path.exists()
            self._removal()

    def undo(self) -> None:
        """Remove the file, also after `commit`, or when a signal came in the middle of that."""
        self.discard()
        if not self._given_up:
            self.target.unlink(missing_ok=True)

    def _check_target(self) -> None:
        if self.target.is_dir():
            raise MediaError(f"{self.target}: is a directory, expected a file name to write")
        if not self.target.parent.is_dir():
            raise MediaError(f"{self.target}: there is no directory {self.target.parent}")
        if self.target.exists() and not self._overwrite:
            raise MediaError(f"{self.target}: exists already, and overwriting was not asked for")
