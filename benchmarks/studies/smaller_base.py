"""A base stream of fewer samples at the lowest rates: encoded at a scale and shown at full size.

    python benchmarks/studies/smaller_base.py CLIP KBPS [--scales 2/3 1/2] [--preset NAME] [--generator FILE]

Encodes the second half of a clip at full size and scaled by Lanczos, at the same rate, scales what is decoded
up again as the evaluation does with peers, and compares it with the source, without prompts and with them:
LPIPS-Alex on five frames, LPIPS-VGG and DISTS on the one in the middle.
"""

from __future__ import annotations

import argparse
import tempfile
from fractions import Fraction
from pathlib import Path
from statistics import fmean

import torch
from rich.console import Console
from rich.table import Table

from hybridprompt.decode.video_file import VideoFile
from hybridprompt.encode.pipeline import encode_file
from hybridprompt.encode.settings import EncodeSettings
from hybridprompt.evaluate.compare import picture_to_rgb
from hybridprompt.evaluate.perceptual import Dists, Lpips
from hybridprompt.evaluate.sampling import sample_frames
from hybridprompt.video.peer_encoder import restored, write_lossless
from hybridprompt.video.picture import Picture
from hybridprompt.video.source import VideoSource


def distances(
    path: Path, sources: list[Picture], *, base: bool, generator: Path | None = None
) -> list[float]:
    """LPIPS-Alex, LPIPS-VGG and DISTS of a file, shown at its sources' size."""
    alex, vgg, dists = Lpips("alex"), Lpips("vgg", dtype=torch.bfloat16), Dists(dtype=torch.bfloat16)
    frames = sample_frames(len(sources), 5)
    near: list[float] = []
    late: list[float] = []
    generators = () if generator is None else (generator,)
    with VideoFile(path, base=base, generators=generators) as video, torch.inference_mode():
        for index, decoded in enumerate(video):
            if index not in frames:
                continue
            source = sources[index]
            shown = picture_to_rgb(restored(decoded.picture, source.width, source.height))
            wanted = picture_to_rgb(source)
            near.append(float(alex(shown, wanted)))
            if index == frames[len(frames) // 2]:
                late = [float(vgg(shown, wanted)), float(dists(shown, wanted))]
    return [fmean(near), *late]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("kbps", type=float)
    parser.add_argument("--scales", type=Fraction, nargs="*", default=[Fraction(2, 3), Fraction(1, 2)])
    parser.add_argument("--preset", default="medium")
    parser.add_argument("--generator", type=Path)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    source = VideoSource(options.clip)
    start = (source.duration_seconds or 0.0) / 2
    pictures = list(source.frames(start, options.seconds))
    table = Table("scale", "stream", "kbit/s", "LPIPS-Alex", "LPIPS-VGG", "DISTS", title=options.clip.stem)
    with tempfile.TemporaryDirectory() as folder:
        cut, coded = Path(folder) / "cut.mkv", Path(folder) / "coded.mp4"
        write_lossless(pictures, cut, source.average_rate)
        for scale in (Fraction(1), *options.scales):
            settings = EncodeSettings(
                bitrate_kbps=options.kbps,
                preset=options.preset,
                generator=options.generator,
                scale=scale,
                overwrite=True,
            )
            summary = encode_file(cut, coded, settings)
            for base in (True, False):
                values = distances(coded, pictures, base=base, generator=options.generator)
                stream = "base" if base else "with prompts"
                table.add_row(str(scale), stream, f"{summary.rate_kbps:.1f}", *(f"{v:.4f}" for v in values))
    Console().print(table)


if __name__ == "__main__":
    main()
