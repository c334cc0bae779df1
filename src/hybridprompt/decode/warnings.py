"""What went wrong while decoding without stopping it: the base was shown, or pictures are missing."""

import logging
import threading
from dataclasses import dataclass
from enum import Enum

_log = logging.getLogger(__name__)


class WarningKind(Enum):
    """What a warning is about."""

    PROMPT_DAMAGED = "prompt damaged"
    PROMPT_MISFIT = "prompt does not fit"
    GENERATOR_UNKNOWN = "generator unknown"
    GENERATION_FAILED = "generation failed"
    PACKET_DAMAGED = "packet damaged"


@dataclass(frozen=True, slots=True)
class DecodeWarning:
    """One thing that went wrong; `pts_seconds` is None where it concerns the whole file."""

    kind: WarningKind
    message: str
    pts_seconds: float | None = None

    def __str__(self) -> str:
        return self.message if self.pts_seconds is None else f"at {self.pts_seconds:.3f} s: {self.message}"


class WarningCollector:
    """Collects warnings from any thread, logs each once.

    Decoding the same place again (after a seek, say) finds the same things again: equal warnings count once.
    """

    def __init__(self, subject: str = "") -> None:
        self._prefix = f"{subject}: " if subject else ""
        self._lock = threading.Lock()
        self._found: dict[DecodeWarning, None] = {}

    def add(self, warning: DecodeWarning) -> None:
        """Take a warning; log it unless an equal one came before."""
        with self._lock:
            if warning in self._found:
                return
            self._found[warning] = None
        _log.warning("%s%s", self._prefix, warning)

    @property
    def found(self) -> tuple[DecodeWarning, ...]:
        """The warnings so far: those of the whole file, then by time, whatever thread found them first."""
        with self._lock:
            found = tuple(self._found)
        return tuple(sorted(found, key=lambda w: -1.0 if w.pts_seconds is None else w.pts_seconds))
