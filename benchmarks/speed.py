"""Speed and memory of decoding, and cost of encoding, each as a ratio to the plain codec in the same run.

    python benchmarks/speed.py [CLIP] [--repeats 5] [--no-encode] [--mode replace] [--codec h265]
    python benchmarks/speed.py --encoded FILE.mp4 ...

Decoding delivers every picture as YUV planes.  Every measurement runs in a process of its own, the methods
take turns, and medians are printed.  Time to the first picture counts from before the imports.  Peak memory
is Linux's VmHWM (ru_maxrss would count the process that started the measurement).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import OUT, data_folder, encoded, find_clips
from rich.console import Console
from rich.table import Table

from hybridprompt.encode.settings import PRESETS, EncodeSettings
from hybridprompt.evaluate.speed import PEAK_PROGRAM, PLAIN_PROGRAM

_OURS = """
import sys, time, json
start = time.perf_counter()
import hybridprompt
first, count, anchors = None, 0, 0
with hybridprompt.open(sys.argv[1], base=sys.argv[2] == "base") as video:
    for picture in video:
        picture.y, picture.u, picture.v
        if first is None: first = time.perf_counter()
        count += 1
        anchors += picture.is_anchor
end = time.perf_counter()
fps = count / (end - start)
print(json.dumps(dict(fps=fps, first=first - start, peak=peak(), anchors=anchors)))
"""

_PLAIN_ENCODE = """
import sys, time
from hybridprompt.video.av1_encoder import Av1Settings, encode_stream
from hybridprompt.video.source import VideoSource
start = time.perf_counter()
source = VideoSource(sys.argv[1])
settings = Av1Settings(
    width=source.width, height=source.height, frame_rate=source.average_rate, time_base=source.time_base,
    bitrate_kbps=float(sys.argv[2]), preset=int(sys.argv[3]), threads=2, color=source.color)
for packet in encode_stream(source.frames(), settings, round(4 * float(source.average_rate))):
    pass
print(time.perf_counter() - start)
"""

_OUR_ENCODE = """
import sys, time
from pathlib import Path
from hybridprompt.encode.pipeline import encode_file
from hybridprompt.encode.settings import EncodeSettings
start = time.perf_counter()
generator = Path(sys.argv[5]) if len(sys.argv) > 5 else None
rate = float(sys.argv[2])
encode_file(sys.argv[1], sys.argv[4], EncodeSettings(
    bitrate_kbps=rate, preset=sys.argv[3], overwrite=True, generator=generator))
print(time.perf_counter() - start)
"""


_PLAIN = "plain decoder, 2 threads"


def _run(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout.strip().splitlines()[-1]


def decode_table(path: Path, repeats: int) -> Table:
    """Measure decoding of one file."""
    methods = {
        _PLAIN: (PLAIN_PROGRAM, ""),
        "ours, --base": (_OURS, "base"),
        "ours": (_OURS, "prompts"),
    }
    results: dict[str, list[dict[str, float]]] = {name: [] for name in methods}
    for _ in range(repeats):
        for name, (code, mode) in methods.items():
            results[name].append(json.loads(_run(PEAK_PROGRAM + code, str(path), mode)))
    median = {
        name: {key: statistics.median(r[key] for r in rows) for key in rows[0]}
        for name, rows in results.items()
    }
    plain = median[_PLAIN]["fps"]
    table = Table(title=f"Decoding {path.name}, medians of {repeats}")
    for column in (
        "method",
        "pictures/s",
        "ratio to plain",
        "first picture, s",
        "peak memory, MB",
        "generated",
    ):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, row in median.items():
        table.add_row(
            name,
            f"{row['fps']:.0f}",
            f"{row['fps'] / plain:.2f}",
            f"{row['first']:.2f}",
            f"{row['peak']:.0f}",
            f"{row.get('anchors', 0):.0f}",
        )
    return table


def encode_table(clip: Path, rate_kbps: float, presets: list[str], generator: Path | None) -> Table:
    """Measure encoding of one clip against the plain SVT-AV1 encode at the same preset and rate."""
    table = Table(title=f"Encoding {clip.name} at {rate_kbps:g} kbit/s, wall-clock seconds")
    for column in ("preset", "SVT-AV1's", "plain SVT-AV1", "ours", "ratio"):
        table.add_column(column, justify="right")
    OUT.mkdir(parents=True, exist_ok=True)
    target = str(OUT / "speed.mp4")
    extra = [str(generator)] if generator else []
    for preset in presets:
        svt = str(PRESETS[preset].svt_preset)  # type: ignore[index]
        plain = float(_run(_PLAIN_ENCODE, str(clip), str(rate_kbps), svt))
        ours = float(_run(_OUR_ENCODE, str(clip), str(rate_kbps), preset, target, *extra))
        table.add_row(preset, svt, f"{plain:.1f}", f"{ours:.1f}", f"{ours / plain:.2f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clip", nargs="?", type=Path, default=data_folder() / "clips" / "bbb_1080p24.mp4")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--generator", type=Path)
    parser.add_argument("--mode", default="enhance", help="of what is decoded")
    parser.add_argument("--codec", default="av1", help="of what is decoded")
    parser.add_argument(
        "--encoded", type=Path, nargs="+", help="decode these files, encode nothing", metavar="FILE"
    )
    parser.add_argument("--no-encode", action="store_true")
    parser.add_argument("--no-decode", action="store_true")
    arguments = parser.parse_args()
    console = Console(width=120)
    started = time.monotonic()
    if arguments.encoded:
        for path in arguments.encoded:
            console.print(decode_table(path, arguments.repeats))
        return
    (clip,) = find_clips([arguments.clip])
    if not arguments.no_decode:
        settings = EncodeSettings(
            bitrate_kbps=clip.rate_kbps,
            preset=arguments.preset,
            generator=arguments.generator,
            mode=arguments.mode,
            codec=arguments.codec,
        )
        path, _ = encoded(clip, settings)
        console.print(decode_table(path, arguments.repeats))
    if not arguments.no_encode:
        console.print(encode_table(clip.path, clip.rate_kbps, [arguments.preset], arguments.generator))
    console.print(f"({time.monotonic() - started:.0f} s)")


if __name__ == "__main__":
    main()
