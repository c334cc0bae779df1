"""Runs the demo: cut, encode, encode the peer at the same bytes, decode, measure, draw."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

from hybridprompt.demo.clip import Clip, cut
from hybridprompt.demo.measure import Method, Playback, play, score, source_pictures
from hybridprompt.demo.peer import PeerEncode, encode_peer, match_bytes, write_peer
from hybridprompt.demo.report import DemoReport, Row
from hybridprompt.demo.side_by_side import Moment, Panel, draw
from hybridprompt.encode.pipeline import encode_file
from hybridprompt.encode.progress import EncodeSummary, Progress
from hybridprompt.encode.settings import EncodeSettings, PresetName
from hybridprompt.errors import ConfigError, MediaError
from hybridprompt.evaluate.compare import FrameScores, mean_scores
from hybridprompt.evaluate.sampling import sample_frames
from hybridprompt.video.picture import Picture
from hybridprompt.video.source import VideoSource

PEER, BASE, OURS = "AV1", "base", "HybridPrompt"

_MEASURED_FRAMES = 8


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """What to show.  generator: a size's name or an ONNX file; None: the default.  Raises ConfigError."""

    seconds: float = 8.0
    bitrate_kbps: float = 200.0
    preset: PresetName = "fast"
    generator: Path | None = None

    def __post_init__(self) -> None:
        if not 0.5 <= self.seconds <= 60:
            raise ConfigError(f"the demo was asked for {self.seconds:g} s, expected 0.5 to 60")
        self.encode_settings()

    def encode_settings(self) -> EncodeSettings:
        return EncodeSettings(
            bitrate_kbps=self.bitrate_kbps,
            preset=self.preset,
            generator=self.generator,
            scale=Fraction(1),
            overwrite=True,
        )


Tell = Callable[[str], None]


def run_demo(clip: Clip, out: Path, settings: DemoSettings, *, tell: Tell = lambda text: None) -> DemoReport:
    """Run everything; leaves hybridprompt.mp4, av1.mp4, side_by_side.png and report.json in ``out``.

    tell: called with a few words at every step.  Raises HybridPromptError of every kind.
    """
    out.mkdir(parents=True, exist_ok=True)
    # The cut is stored without loss, so it may take a gigabyte for as long as this runs.
    with tempfile.TemporaryDirectory(dir=out, prefix=".cut-") as scratch:
        source_path = Path(scratch) / "source.y4m"
        tell(f"cutting {settings.seconds:g} s of {clip.path.name}")
        frame_count = cut(clip.path, source_path, settings.seconds, clip.start_seconds)
        source = VideoSource(source_path)
        summary = _encode_ours(source_path, out / "hybridprompt.mp4", settings, tell)
        peer = _encode_peer(source, summary, settings, tell)
        write_peer(peer, source, out / "av1.mp4")
        methods = (
            Method(PEER, out / "av1.mp4"),
            Method(BASE, out / "hybridprompt.mp4", base=True),
            Method(OURS, out / "hybridprompt.mp4", generator=settings.generator),
        )
        frames = sample_frames(frame_count, _MEASURED_FRAMES)
        moments = frames[1::3] or frames
        playbacks = {method.name: _play(method, frames, frame_count, tell) for method in methods}
        tell("measuring")
        originals = source_pictures(source_path, frames)
        scores = score(originals, {name: p.pictures for name, p in playbacks.items()}, moments)
    means = mean_scores(scores)

    def row(name: str, size_bytes: int, seconds: float | None) -> Row:
        rate_kbps = size_bytes * 8 / 1000 / summary.duration_seconds
        return Row(name, size_bytes, rate_kbps, means[name], seconds, playbacks[name].frames_per_second)

    report = DemoReport(
        clip=f"{clip.path.name} ({clip.credit})",
        width=source.width,
        height=source.height,
        frame_count=frame_count,
        settings={**asdict(settings), "generator": settings.generator and str(settings.generator)},
        frames=frames,
        tiled_frames=moments,
        anchor_count=summary.anchors,
        prompt_bytes=summary.prompt_bytes,
        peer=row(PEER, peer.size_bytes, peer.seconds),
        base=row(BASE, summary.base_bytes, None),
        ours=row(OURS, summary.base_bytes + summary.prompt_bytes, summary.elapsed_seconds),
    )
    tell("drawing")
    draw(
        [_moment(f, report, originals[f], playbacks, scores) for f in moments],
        out / "side_by_side.png",
    )
    (out / "report.json").write_text(json.dumps(report.as_dict(), indent=2) + "\n")
    return report


def _encode_ours(source: Path, target: Path, settings: DemoSettings, tell: Tell) -> EncodeSummary:
    def progress(moment: Progress) -> None:
        tell(f"HybridPrompt at {settings.bitrate_kbps:g} kbit/s: {moment.stage}, {moment.done} frames")

    tell(f"HybridPrompt at {settings.bitrate_kbps:g} kbit/s")
    return encode_file(source, target, settings.encode_settings(), progress=progress)


def _encode_peer(
    source: VideoSource, summary: EncodeSummary, settings: DemoSettings, tell: Tell
) -> PeerEncode:
    ours = settings.encode_settings()

    def encode(crf: float) -> PeerEncode:
        tell(f"AV1 at the same bytes: CRF {crf:g}")
        # Tuned as ours is, which is the nearer to the source in most videos.
        return encode_peer(
            source,
            crf,
            svt_preset=ours.effort.svt_preset,
            gop_seconds=ours.gop_seconds,
            tune=ours.tune,
        )

    first = sum(summary.crfs) / len(summary.crfs)
    return match_bytes(encode, summary.base_bytes + summary.prompt_bytes, first)


def _play(method: Method, frames: list[int], expected: int, tell: Tell) -> Playback:
    tell(f"decoding: {method.name}")
    playback = play(method, frames)
    if playback.frame_count != expected:
        raise MediaError(f"{method.path}: has {playback.frame_count} pictures, expected {expected}")
    return playback


def _moment(
    frame: int,
    report: DemoReport,
    original: Picture,
    playbacks: dict[str, Playback],
    scores: list[FrameScores],
) -> Moment:
    lpips = {
        s.method: s.values["LPIPS-Alex"] for s in scores if s.frame == frame and "LPIPS-Alex" in s.values
    }

    def panel(row: Row) -> Panel:
        caption = f"{row.name}: {row.rate_kbps:.0f} kbit/s, LPIPS-Alex {lpips[row.name]:.4f}"
        return Panel(playbacks[row.name].pictures[frame], caption)

    return Moment(Panel(original, f"source, frame {frame}"), panel(report.peer), panel(report.ours))
