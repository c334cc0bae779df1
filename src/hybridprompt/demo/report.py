"""Puts the demo's numbers into a table and a few honest sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from hybridprompt.demo.peer import SAME, TOLERANCE
from hybridprompt.evaluate.compare import HIGHER_IS_BETTER, METRICS

TILED = frozenset({"LPIPS-VGG", "DISTS"})
_WORTH_SAYING = 0.005


@dataclass(frozen=True)
class Row:
    """One method's numbers.  size_bytes: of the video track; metrics: means over the sampled frames."""

    name: str
    size_bytes: int
    rate_kbps: float
    metrics: Mapping[str, float]
    encode_seconds: float | None
    decode_frames_per_second: float


@dataclass(frozen=True)
class DemoReport:
    """All that a demo found.  frames: indices of those measured; tiled_frames: for the tiled metrics."""

    clip: str
    width: int
    height: int
    frame_count: int
    settings: Mapping[str, Any]
    frames: Sequence[int]
    tiled_frames: Sequence[int]
    anchor_count: int
    prompt_bytes: int
    peer: Row
    base: Row
    ours: Row

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def table(report: DemoReport) -> Table:
    """The numbers, one column per method, and how ours differs from the peer."""
    rows = (report.peer, report.base, report.ours)
    out = Table(title=f"{report.clip}, {report.width}x{report.height}, {report.frame_count} frames")
    out.add_column("")
    for row in rows:
        out.add_column(row.name, justify="right")
    out.add_column("against AV1", justify="right")
    out.add_row(
        "video track, bytes", *(f"{row.size_bytes:,}" for row in rows), _percent(report, "size_bytes")
    )
    out.add_row("kbit/s", *(f"{row.rate_kbps:.1f}" for row in rows), _percent(report, "rate_kbps"))
    for metric in METRICS:
        if any(metric not in row.metrics for row in rows):
            continue
        digits = 2 if metric in HIGHER_IS_BETTER else 4
        arrow = "↑" if metric in HIGHER_IS_BETTER else "↓"
        label = f"{metric} {arrow}" + (" (tiles)" if metric in TILED else "")
        out.add_row(label, *(f"{row.metrics[metric]:.{digits}f}" for row in rows), _change(report, metric))
    out.add_row(
        "encode, s", *("" if r.encode_seconds is None else f"{r.encode_seconds:.0f}" for r in rows), ""
    )
    out.add_row("decode, frames/s", *(f"{row.decode_frames_per_second:.0f}" for row in rows), "")
    return out


def sentences(report: DemoReport) -> list[str]:
    """What the numbers say, the bad ones too."""
    out = []
    difference = report.peer.size_bytes / report.ours.size_bytes - 1
    if difference < -SAME:
        out.append(f"AV1 could not be given as many bytes; it has {-difference:.1%} fewer.")
    elif difference > TOLERANCE:
        out.append(f"AV1 has {difference:.1%} more bytes: the steps of its CRF are that coarse here.")
    if report.anchor_count == 0:
        out.append("No anchor gained anything on this clip, so HybridPrompt shows what AV1 decodes.")
    else:
        out.append(f"{report.anchor_count} anchors carry prompts of {report.prompt_bytes} bytes in all.")
    better: list[str] = []
    worse: list[str] = []
    same: list[str] = []
    for metric in METRICS:
        if metric not in report.ours.metrics or metric not in report.peer.metrics:
            continue
        gain = relative_gain(report, metric)
        group = same if abs(gain) < _WORTH_SAYING else better if gain > 0 else worse
        group.append(f"{metric} ({_change(report, metric)})")
    for word, group in (("better than", better), ("worse than", worse), ("level with", same)):
        if group:
            out.append(f"HybridPrompt is {word} AV1 in {', '.join(group)}.")
    out.append(
        "Mind that the generator was trained on LPIPS and DISTS, and that the encoder chooses anchors by "
        "LPIPS-Alex: believe the pictures."
    )
    return out


def relative_gain(report: DemoReport, metric: str) -> float:
    """By what share ours is better than the peer; negative where it is worse."""
    change = report.ours.metrics[metric] / report.peer.metrics[metric] - 1
    return change if metric in HIGHER_IS_BETTER else -change


def _change(report: DemoReport, metric: str) -> str:
    ours, peer = report.ours.metrics[metric], report.peer.metrics[metric]
    if metric in HIGHER_IS_BETTER:
        return f"{ours - peer:+.2f} dB"
    return f"{ours / peer - 1:+.1%}"


def _percent(report: DemoReport, name: str) -> str:
    return f"{getattr(report.ours, name) / getattr(report.peer, name) - 1:+.1%}"
