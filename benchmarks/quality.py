"""Perceptual quality of our decode against the base stream of the same file, on real decodes.

    python benchmarks/quality.py [CLIP ...] [--preset fast] [--heavy 5] [--second-half]

Prints LPIPS-Alex, LPIPS-VGG, DISTS and PSNR-Y per clip and their means.  The base stream is what any AV1
decoder shows of the file; ours is the same file with its prompts; both therefore have the same bytes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from common import OUT, encoded, find_clips, percent
from rich.console import Console
from rich.table import Table

from hybridprompt.decode.injection import GopDecoding, decode_gop
from hybridprompt.encode.settings import EncodeSettings
from hybridprompt.evaluate.compare import METRICS, Comparer, mean_scores
from hybridprompt.evaluate.sampling import sample_frames
from hybridprompt.generator.registry import GeneratorRegistry, load_chosen
from hybridprompt.video.packet_reader import PacketReader
from hybridprompt.video.picture import Picture
from hybridprompt.video.source import VideoSource


def pictures(path: Path, generators: GeneratorRegistry | None) -> Iterator[Picture]:
    """Pictures of a file in display order, with prompts or (None) without."""
    reader = PacketReader(path)
    decoding = GopDecoding(reader.time_base, reader.extradata, generators, threads=2)
    for gop in reader.iter_gops():
        for shown in decode_gop(gop.packets, decoding):
            yield shown.picture


def cell(metric: str, base: dict[str, float], ours: dict[str, float]) -> str:
    """One cell of the table: base and ours."""
    if metric == "PSNR-Y":
        return f"{base[metric]:.2f} -> {ours[metric]:.2f} dB"
    return f"{base[metric]:.4f} -> {ours[metric]:.4f} ({percent(ours[metric], base[metric])})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--light", type=int, default=24, help="frames with LPIPS-Alex and PSNR")
    parser.add_argument("--heavy", type=int, default=5, help="frames with LPIPS-VGG and DISTS too")
    parser.add_argument("--generator", type=Path, help="small, medium, or an ONNX file")
    parser.add_argument("--anchor-interval", type=int, default=32, help="0: keyframes only")
    parser.add_argument("--rate-scale", type=float, default=1.0)
    parser.add_argument("--second-half", action="store_true", help="only frames the training never saw")
    arguments = parser.parse_args()
    console = Console(width=150)
    table = Table(title=f"Base stream -> HybridPrompt, preset {arguments.preset}")
    for column in ("clip", "kbit/s", "target", "prompts", "anchors", *METRICS):
        table.add_column(column, justify="left" if column == "clip" else "right")
    rows: list[dict[str, dict[str, float]]] = []
    records = []
    for clip in find_clips(arguments.clips):
        settings = EncodeSettings(
            bitrate_kbps=clip.rate_kbps * arguments.rate_scale,
            preset=arguments.preset,
            generator=arguments.generator,
            anchor_interval=arguments.anchor_interval or None,
            scale=Fraction(1),
        )
        path, summary = encoded(clip, settings)
        registry = GeneratorRegistry(
            [load_chosen(arguments.generator, threads=2)] if arguments.generator else [], threads=2
        )
        count = int(str(summary["frames"]))
        first = count // 2 if arguments.second_half else 0
        light = sample_frames(count, arguments.light, first)
        heavy = sample_frames(count, arguments.heavy, first)
        comparer = Comparer(light, heavy)
        scores = comparer.compare(
            VideoSource(clip.path).frames(),
            {"base": pictures(path, None), "ours": pictures(path, registry)},
        )
        means = mean_scores(scores)
        rows.append(means)
        records.append({"clip": clip.name, "summary": summary, "means": means})
        base, ours = means["base"], means["ours"]
        cells = [cell(metric, base, ours) for metric in METRICS if metric in base]
        rate = float(str(summary["rate_kbps"]))
        table.add_row(
            clip.name,
            f"{rate:.1f}",
            percent(rate, clip.rate_kbps * arguments.rate_scale),
            f"{summary['prompt_bytes']} B",
            str(summary["anchors"]),
            *cells,
        )
        print(clip.name, "; ".join(cells), flush=True)
    mean = {
        side: {m: sum(r[side][m] for r in rows) / len(rows) for m in rows[0][side]}
        for side in ("base", "ours")
    }
    table.add_section()
    means = [cell(metric, mean["base"], mean["ours"]) for metric in METRICS if metric in mean["base"]]
    table.add_row("mean", "", "", "", "", *means)
    console.print(table)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"quality-{arguments.preset}.json").write_text(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
