"""VMAF and VMAF-NEG by the libvmaf filter of the ffmpeg program in the PyPI package imageio-ffmpeg.

Pictures go to it as raw planes through two pipes, so nothing is written to disk but the scores.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import tempfile
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from hybridprompt.errors import CodecError
from hybridprompt.video.picture import Picture

MODELS = {"VMAF": "vmaf_v0.6.1", "VMAF-NEG": "vmaf_v0.6.1neg"}
_WAITING_PICTURES = 4
_FINISH_SECONDS = 3600


@lru_cache(maxsize=1)
def find_vmaf() -> tuple[str | None, str]:
    """The ffmpeg program that has libvmaf, or None; and its version, or why there is none."""
    try:
        import imageio_ffmpeg

        program = imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        return None, f"imageio-ffmpeg is not usable ({error}); install hybridprompt[evaluate]"
    try:
        filters = _output(program, "-filters")
        version = _output(program, "-version").splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        return None, f"{program} cannot be run ({error})"
    if not any("libvmaf" in line.split()[1:2] for line in filters.splitlines()):
        return None, f"{program} has no libvmaf filter"
    return program, version


def _output(program: str, *arguments: str) -> str:
    return subprocess.run(
        [program, "-hide_banner", *arguments], capture_output=True, text=True, check=True, timeout=60
    ).stdout


class VmafRun:
    """One comparison: `push` pairs of pictures in display order, then `finish`; `close` in any case.

    step: every how many-th pair is scored (motion is followed through all of them).  Raises CodecError when
    the program is missing, fails, or ends early.
    """

    def __init__(self, width: int, height: int, *, step: int = 1, threads: int = 2) -> None:
        program, why = find_vmaf()
        if program is None:
            raise CodecError(why)
        self._step = step
        self._folder = tempfile.TemporaryDirectory(prefix="hybridprompt-vmaf-")
        self._log = Path(self._folder.name) / "scores.json"
        pipes = [os.pipe(), os.pipe()]
        self._feeds = [_Feed(write) for _, write in pipes]
        models = "|".join(f"version={model}\\:name={name}" for name, model in MODELS.items())
        inputs = []
        for read, _ in pipes:
            inputs += ["-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", f"{width}x{height}", "-r", "25"]
            inputs += ["-i", f"pipe:{read}"]
        # Relative to the folder, whose name might hold what the filter syntax would want escaped.
        options = (
            f"model='{models}':n_subsample={step}:n_threads={threads}:log_fmt=json:log_path={self._log.name}"
        )
        command = [program, "-hide_banner", "-nostdin", "-loglevel", "error", *inputs]
        command += ["-lavfi", f"[0:v][1:v]libvmaf={options}", "-f", "null", "-"]
        try:
            self._process = subprocess.Popen(
                command,
                cwd=self._folder.name,
                pass_fds=[read for read, _ in pipes],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        except OSError as error:
            self._folder.cleanup()
            for _, write in pipes:
                os.close(write)
            raise CodecError(f"{program} cannot be run ({error})") from error
        finally:
            for read, _ in pipes:
                os.close(read)
        for feed in self._feeds:
            feed.start()

    def push(self, source: Picture, decoded: Picture) -> None:
        """Take the next pair.  Raises CodecError when the program has ended."""
        for feed, picture in zip(self._feeds, (decoded, source), strict=True):
            feed.put(b"".join(np.ascontiguousarray(plane).tobytes() for plane in picture.planes))
        if any(feed.broken for feed in self._feeds):
            raise CodecError(f"libvmaf ended early: {self._complaint()}")

    def finish(self) -> tuple[dict[str, float], dict[str, list[tuple[int, float]]]]:
        """Mean scores by metric name, and those of single frames.  Raises CodecError."""
        for feed in self._feeds:
            feed.finish()
        complaint = self._complaint()
        if self._process.returncode:
            raise CodecError(f"libvmaf failed: {complaint}")
        try:
            found = json.loads(self._log.read_text())
            frames = {name: _frames(found, name) for name in MODELS}
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise CodecError(f"libvmaf left no scores ({error})") from error
        if not all(frames.values()):
            raise CodecError("libvmaf scored no frame")
        return {name: float(np.mean([v for _, v in rows])) for name, rows in frames.items()}, frames

    def close(self) -> None:
        """End the program and its threads, whatever they are at."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()
        for feed in self._feeds:
            feed.abandon()
        self._folder.cleanup()

    def _complaint(self) -> str:
        try:
            _, complaint = self._process.communicate(timeout=_FINISH_SECONDS)
        except subprocess.TimeoutExpired:
            return "it does not end"
        lines = (complaint or b"").decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit status {self._process.returncode}"


def _frames(found: dict[str, Any], name: str) -> list[tuple[int, float]]:
    return [(int(f["frameNum"]), float(f["metrics"][name])) for f in found["frames"] if name in f["metrics"]]


class _Feed:
    """Writes pictures into one pipe from a thread: the program reads its two inputs as it likes."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waiting: queue.Queue[bytes | None] = queue.Queue(_WAITING_PICTURES)
        self._thread = threading.Thread(target=self._run, name="vmaf-feed", daemon=True)
        self.broken = False

    def start(self) -> None:
        self._thread.start()

    def put(self, planes: bytes) -> None:
        self._waiting.put(planes)

    def finish(self) -> None:
        self._waiting.put(None)
        self._thread.join()

    def abandon(self) -> None:
        """End the thread; the program must have ended before, so that no write hangs."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._waiting.get_nowait()
        self.finish()

    def _run(self) -> None:
        # After a failure what still comes is dropped, so that nobody waits for room.
        with open(self._descriptor, "wb", buffering=0, closefd=True) as pipe:
            while (planes := self._waiting.get()) is not None:
                view = memoryview(planes)
                while view and not self.broken:
                    try:
                        view = view[pipe.write(view) :]
                    except OSError:
                        self.broken = True
