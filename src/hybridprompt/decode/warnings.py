"""What went wrong while decoding without stopping it: the base was shown, or pictures are missing."""

import logging
import threading
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import Final

MAX_OF_A_KIND: Final = 100
"""Different warnings of one kind that are kept and logged."""

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
    A long file may be full of damage: of each kind MAX_OF_A_KIND are kept and logged, then one more, which
    says that further ones are left out.
    """

    def __init__(self, subject: str = "") -> None:
        self._prefix = f"{subject}: " if subject else ""
        self._lock = threading.Lock()
        self._found: dict[DecodeWarning, None] = {}
        self._counts: Counter[WarningKind] = Counter()
        self._left_out: dict[WarningKind, DecodeWarning] = {}

    def add(self, warning: DecodeWarning) -> None:
        """Take a warning; log it unless an equal one, or too many of its kind, came before."""
        kind = warning.kind
        with self._lock:
            if warning in self._found or kind in self._left_out:
                return
            if self._counts[kind] < MAX_OF_A_KIND:
                self._counts[kind] += 1
                self._found[warning] = None
            else:
                message = f"more than {MAX_OF_A_KIND} times: {kind.value}; further ones are left out"
                self._left_out[kind] = warning = DecodeWarning(kind, message)
        _log.warning("%s%s", self._prefix, warning)

    @property
    def found(self) -> tuple[DecodeWarning, ...]:
        """The warnings so far: those of the whole file, then by time, whatever thread found them first.

        Those that say that further ones are left out come last.
        """
        with self._lock:
            found, left_out = tuple(self._found), tuple(self._left_out.values())
        by_time = sorted(found, key=lambda w: -1.0 if w.pts_seconds is None else w.pts_seconds)
        return *by_time, *left_out
