"""What the benchmark scripts share: clips, cached encodes, tables."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from hybridprompt.encode.pipeline import encode_file
from hybridprompt.encode.progress import Progress
from hybridprompt.encode.settings import EncodeSettings
from hybridprompt.generator.registry import load_chosen
from hybridprompt.video.source import VideoSource

OUT = Path("out/benchmarks")


@dataclass(frozen=True)
class Clip:
    """A clip, and the rate it is measured at: 200 kbit/s from 900 lines on, 120 kbit/s below."""

    path: Path
    height: int

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def rate_kbps(self) -> float:
        return 200.0 if self.height >= 900 else 120.0


def data_folder() -> Path:
    """Folder of the development clips (HYBRIDPROMPT_DATA)."""
    return Path(os.environ.get("HYBRIDPROMPT_DATA", "../shared/data"))


def find_clips(paths: list[Path]) -> list[Clip]:
    """The given files, or all clips of the data folder."""
    files = paths or sorted((data_folder() / "clips").glob("*.mp4"))
    if not files:
        raise SystemExit("no clips: name some, or set HYBRIDPROMPT_DATA")
    return [Clip(path, VideoSource(path).height) for path in files]


def encoded(clip: Clip, settings: EncodeSettings) -> tuple[Path, dict[str, object]]:
    """Encode a clip, or take the file of an earlier run with the same settings and generator."""
    identity = load_chosen(settings.generator).identity.hex()
    key = f"{clip.path.name}:{clip.path.stat().st_size}:{settings}:{settings.effort}:{identity}"
    stem = f"{clip.name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    target, record = OUT / f"{stem}.mp4", OUT / f"{stem}.json"
    if not (target.exists() and record.exists()):
        OUT.mkdir(parents=True, exist_ok=True)

        def tell(progress: Progress) -> None:
            print(
                f"\r  {clip.name}: {progress.stage} {progress.done}/{progress.total}   ", end="", flush=True
            )

        summary = encode_file(clip.path, target, settings, progress=tell)
        print()
        record.write_text(json.dumps(summary.as_dict()))
    return target, json.loads(record.read_text())


def percent(value: float, base: float) -> str:
    """Relative change."""
    return f"{100 * (value / base - 1):+.1f} %"
