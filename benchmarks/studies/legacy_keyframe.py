"""What a keyframe for players without prompts costs in mode replace, and what such players show of it.

    python benchmarks/studies/legacy_keyframe.py [CLIP ...] [--codecs h265 h264 av1] [--preset fast]

Encodes the second half of each clip at its rate (benchmarks/common.py) with `--legacy-keyframe` of several
sizes, or grey: LPIPS-Alex on five frames of what HybridPrompt shows and of what every other player does.
Writes docs/figures/legacy_keyframe.csv.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import find_clips, percent
from figures import FIGURES, save_csv

from hybridprompt.decode.video_file import VideoFile
from hybridprompt.encode.pipeline import encode_file
from hybridprompt.encode.settings import EncodeSettings
from hybridprompt.evaluate.compare import picture_to_rgb
from hybridprompt.evaluate.perceptual import Lpips
from hybridprompt.evaluate.sampling import sample_frames
from hybridprompt.video.peer_encoder import write_lossless
from hybridprompt.video.picture import Picture
from hybridprompt.video.source import VideoSource

SIZES = (1500, 3000, 6000)


def distance(shown: Iterable[Picture], sources: list[Picture], alex: Lpips) -> float:
    """LPIPS-Alex of what is shown of a clip, mean of five frames."""
    frames = sample_frames(len(sources), 5)
    with torch.inference_mode():
        return fmean(
            float(alex(picture_to_rgb(picture), picture_to_rgb(sources[index])))
            for index, picture in enumerate(shown)
            if index in frames
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", type=Path, nargs="*")
    parser.add_argument("--codecs", nargs="*", default=["h265", "h264", "av1"])
    parser.add_argument("--sizes", nargs="*", type=int, default=SIZES)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    alex = Lpips("alex")
    header = ("clip", "codec", "legacy keyframe", "kbit/s", "with prompts", "other players")
    rows: list[tuple[str, ...]] = []
    console = Console()
    for clip in find_clips(options.clips):
        source = VideoSource(clip.path)
        sources = list(source.frames((source.duration_seconds or 0.0) / 2, options.seconds))
        with tempfile.TemporaryDirectory() as folder:
            cut, coded = Path(folder) / "cut.mkv", Path(folder) / "coded.mp4"
            write_lossless(iter(sources), cut, source.average_rate)
            for codec in options.codecs:
                grey = 0.0
                for size in (None, *options.sizes):
                    settings = EncodeSettings(
                        bitrate_kbps=clip.rate_kbps,
                        preset=options.preset,
                        mode="replace",
                        codec=codec,
                        legacy_keyframe_bytes=size,
                        overwrite=True,
                    )
                    summary = encode_file(cut, coded, settings)
                    with VideoFile(coded) as video:
                        ours = distance((decoded.picture for decoded in video), sources, alex)
                    # As FFmpeg decodes it, like any player that knows nothing of prompts.
                    others = distance(VideoSource(coded).frames(), sources, alex)
                    grey = grey if size else ours
                    change = f" ({percent(ours, grey)})" if size else ""
                    told = f"{size} bytes" if size else "grey"
                    rate = f"{summary.rate_kbps:.1f}"
                    rows.append((clip.name, codec, told, rate, f"{ours:.4f}{change}", f"{others:.4f}"))
                    console.print(*rows[-1])
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    save_csv(FIGURES / "legacy_keyframe.csv", header, rows)


if __name__ == "__main__":
    main()
