"""Synthetic results: what `hybridprompt evaluate` would have written of encodes that never took place."""

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RATES = (60.0, 120.0, 240.0, 480.0)
SETTINGS = {"clips": ["/somewhere/private/dog.mp4"], "rates": list(RATES), "seconds": 4, "nested": {"a": 1}}


def record(
    clip: str = "dog",
    method: str = "svt-av1",
    target: float = 120.0,
    *,
    family: str = "svt-av1",
    variant: str = "default",
    scale: str = "1",
    actual: float | None = None,
    error: str | None = None,
    size: tuple[int, int] = (1280, 720),
    **metrics: float,
) -> dict[str, Any]:
    """One record; names of metrics with underscores for hyphens."""
    rate = target * 0.99 if actual is None else actual
    values = {name.replace("_", "-"): value for name, value in metrics.items()}
    name = json.dumps([clip, method, target])
    base: dict[str, Any] = {
        "schema": 1,
        "key": hashlib.sha256(name.encode()).hexdigest(),
        "clip": clip,
        "method": method,
        "family": family,
        "variant": variant,
        "scale": scale,
        "target_kbps": target,
        "error": error,
        "metrics": {} if error else values,
    }
    if error:
        return base
    return base | {
        "width": size[0],
        "height": size[1],
        "frames": 120,
        "frame_rate": 30.0,
        "duration_seconds": 4.0,
        "actual_kbps": rate,
        "bytes": round(rate * 500),
        "parameter": 41.25,
        "per_frame": {
            "LPIPS-Alex": [[f, values["LPIPS-Alex"] * (1 + 0.1 * math.sin(f))] for f in range(5, 120, 10)]
        }
        if "LPIPS-Alex" in values
        else {},
        "encode": {"seconds": 9.1, "frames_per_second": 13.2, "encodes": 4},
        "decode": {
            "frames_per_second": 420.0,
            "first_picture_seconds": 0.05,
            "peak_megabytes": 210.0,
            "ratio_to_plain": 0.8,
        },
        "settings": {"preset": 6, "source": "/somewhere/private/dog.mp4", "crf": 30 + target / 10},
    }


def curve(clip: str, method: str, factor: float, **more: Any) -> list[dict[str, Any]]:
    """Results at RATES: the quality that ``factor`` times the rate would give."""
    rates = more.pop("rates", RATES)
    return [
        record(
            clip,
            method,
            target,
            LPIPS_Alex=round(0.9 / math.sqrt(target * factor), 6),
            PSNR_Y=round(20 + 5 * math.log10(target * factor), 6),
            **more,
        )
        for target in rates
    ]


def full_run() -> list[dict[str, Any]]:
    """Two clips, ours better on one and worse on the other, with scales, another codec and a failure."""
    out: list[dict[str, Any]] = []
    for clip, factor, size in (("dog", 1.5, (1280, 720)), ("golden gate", 0.8, (1920, 1080))):
        out += curve(clip, "hybridprompt-fast", factor, family="hybridprompt", variant="fast", size=size)
        out += curve(clip, "svt-av1", 1.0, size=size)
        out += curve(clip, "svt-av1@1/2", 1.1, scale="1/2", size=size, rates=RATES[:2])
        out += curve(clip, "svt-av1@1/2", 0.6, scale="1/2", size=size, rates=RATES[2:])
        out += curve(clip, "x265", 0.5, family="x265", size=size)
    out.append(record("dog", "vp9", 120.0, family="vp9", error="the encoder gave up"))
    return out


def write_run(
    folder: Path, records: Iterable[dict[str, Any]], settings: dict[str, Any] | None = SETTINGS
) -> Path:
    """Write a run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)
    (folder / "results.jsonl").write_text(lines, encoding="utf-8")
    if settings is not None:
        (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder
