"""What an encode tells while it runs, and what it tells at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Stage = Literal["analyse", "encode", "correct", "write"]


@dataclass(frozen=True)
class Progress:
    """A moment of a running encode.

    done and total count frames of the stage; total is an estimate where the container does not tell.
    """

    stage: Stage
    done: int
    total: int
    frames_per_second: float
    eta_seconds: float | None


ProgressCallback = Callable[[Progress], None]


@dataclass
class ProgressMeter:
    """Turns frame counts into Progress."""

    callback: ProgressCallback | None
    total: int
    _stage: Stage | None = None
    _started: float = 0.0

    def update(self, stage: Stage, done: int) -> None:
        if self.callback is None:
            return
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._started = stage, now
        pace = done / (now - self._started) if done and now > self._started else 0.0
        eta = (self.total - done) / pace if pace and self.total >= done else None
        self.callback(Progress(stage, done, self.total, pace, eta))


@dataclass(frozen=True)
class Distances:
    """Mean distance of sampled frames to the source: of the base, and of what our decoder shows."""

    metric: str
    base: float
    decoded: float


@dataclass(frozen=True)
class EncodeSummary:
    """What an encode or an enhancement made.  Sizes are bytes of the video track; those of stills are among
    the prompts'.
    """

    frames: int
    duration_seconds: float
    gops: int
    anchors: int
    base_bytes: int
    prompt_bytes: int
    target_kbps: float | None
    crfs: tuple[float, ...]
    distances: Distances | None
    elapsed_seconds: float
    notes: tuple[str, ...] = field(default=())

    @property
    def rate_kbps(self) -> float:
        """Rate of the whole video track, prompts included."""
        return (self.base_bytes + self.prompt_bytes) * 8 / 1000 / max(self.duration_seconds, 1e-9)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "rate_kbps": self.rate_kbps}
