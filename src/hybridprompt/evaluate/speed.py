"""Speed and memory of decoding: every measurement in a process of its own, the competitors taking turns."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from hybridprompt.errors import CodecError

_TIMEOUT_SECONDS = 3600

# Kept apart from the package's imports, which would count as memory and as time to the first picture.
PLAIN_PROGRAM = """
import sys, time, json
start = time.perf_counter()
import av
container = av.open(sys.argv[1])
stream = container.streams.video[0]
stream.thread_count, stream.thread_type = 2, "AUTO"
first, count = None, 0
for frame in container.decode(stream):
    memoryview(frame.planes[0]), memoryview(frame.planes[1]), memoryview(frame.planes[2])
    if first is None: first = time.perf_counter()
    count += 1
end = time.perf_counter()
print(json.dumps(dict(fps=count / (end - start), first=first - start, peak=peak())))
"""

# getrusage would not do: a new process inherits the peak of the one that started it.
PEAK_PROGRAM = """
def peak():
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
    except OSError:
        import resource, sys
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
"""


def decode_speed(path: Path, program: tuple[str, list[str]] | None, repeats: int) -> dict[str, Any]:
    """Figures of decoding a file to planes, with 2 threads: medians of ``repeats`` runs.

    program: the code of a decoder and its arguments; it prints JSON with ``fps``, ``first`` (seconds from its
    start to the first picture) and ``peak``
    (resident MB, by the function ``peak()`` that it finds defined).  None is a plain decode by FFmpeg, which
    every other one is compared with in turns.  Raises CodecError when a process fails.
    """
    plain: list[dict[str, float]] = []
    own: list[dict[str, float]] = []
    for _ in range(repeats):
        plain.append(_run(PLAIN_PROGRAM, [str(path)]))
        if program is not None:
            own.append(_run(*program))
    rows = own or plain
    speed = _median(rows, "fps")
    found: dict[str, Any] = {
        "frames_per_second": round(speed, 2),
        "first_picture_seconds": round(_median(rows, "first"), 3),
        "peak_megabytes": round(_median(rows, "peak"), 1),
        "ratio_to_plain": round(speed / _median(plain, "fps"), 4),
    }
    if "extrapolated_from" in rows[0]:
        found["extrapolated_from_frames"] = int(rows[0]["extrapolated_from"])
    return found


def _median(rows: list[dict[str, float]], key: str) -> float:
    return statistics.median(row[key] for row in rows)


def _run(code: str, arguments: list[str]) -> dict[str, float]:
    try:
        done = subprocess.run(
            [sys.executable, "-c", PEAK_PROGRAM + code, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_SECONDS,
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise CodecError(f"measuring the speed failed: {lines[-1]}")
        found = json.loads(done.stdout.strip().splitlines()[-1])
        return {str(key): float(value) for key, value in found.items()}
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError, AttributeError) as error:
        raise CodecError(f"measuring the speed failed ({error})") from error
