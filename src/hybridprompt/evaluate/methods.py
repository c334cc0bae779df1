"""What is compared: names of methods, and what a method has to be able to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Protocol

from hybridprompt.errors import ConfigError
from hybridprompt.evaluate.rates import Grid
from hybridprompt.video.picture import ColorInfo, Picture
from hybridprompt.video.source import VideoSource

Family = Literal["hybridprompt", "svt-av1", "x265", "x264", "vp9", "frame-by-frame"]

_OWN_VARIANTS = tuple(
    f"{preset}{mode}"
    for mode in (
        *("", "-enhance-h265", "-enhance-h264", "-replace-av1", "-replace-h265", "-replace-h264"),
        *("-keyframe", "-blind", "-none"),
    )
    for preset in ("fast", "medium", "slow")
)
"""Preset, and mode and codec where they are not the usual ones, enhance in AV1; or what prompts know."""

# By the name that the user writes: family and variant.
FULL_SIZE_METHODS: dict[str, tuple[Family, str]] = {
    **{f"hybridprompt-{variant}": ("hybridprompt", variant) for variant in _OWN_VARIANTS},
    "svt-av1": ("svt-av1", "default"),
    "svt-av1-tune0": ("svt-av1", "tune0"),
    "svt-av1-variance-boost": ("svt-av1", "variance-boost"),
    "x265": ("x265", "default"),
    "x264": ("x264", "default"),
    "vp9": ("vp9", "default"),
    "frame-by-frame": ("frame-by-frame", "default"),
}
PEER_FAMILIES: frozenset[Family] = frozenset({"svt-av1", "x265", "x264", "vp9"})
_MIN_SCALE = Fraction(1, 8)


@dataclass(frozen=True)
class MethodName:
    """A method by its parts; ``str`` gives the unique name, such as ``svt-av1-tune0@1/2``."""

    base: str
    scale: Fraction = Fraction(1)

    @property
    def family(self) -> Family:
        return FULL_SIZE_METHODS[self.base][0]

    @property
    def variant(self) -> str:
        return FULL_SIZE_METHODS[self.base][1]

    def __str__(self) -> str:
        return self.base if self.scale == 1 else f"{self.base}@{self.scale}"


def parse_scale(text: str) -> Fraction:
    """Read a scale of each dimension, such as ``2/3`` or ``1``.  Raises ConfigError."""
    match = re.fullmatch(r"\s*([1-9]\d{0,3})\s*(?:/\s*([1-9]\d{0,3}))?\s*", text)
    scale = Fraction(int(match[1]), int(match[2] or 1)) if match else None
    if scale is None or not _MIN_SCALE <= scale <= 1:
        raise ConfigError(f"scale is {text!r}, expected a fraction from 1/8 to 1 such as 2/3")
    return scale


def parse_method(text: str) -> MethodName:
    """Read a method's name.  Raises ConfigError."""
    base, _, scale = text.strip().partition("@")
    if base not in FULL_SIZE_METHODS:
        raise ConfigError(f"method is {text!r}, expected one of {', '.join(FULL_SIZE_METHODS)}")
    name = MethodName(base, parse_scale(scale) if scale else Fraction(1))
    if name.scale != 1 and name.family not in PEER_FAMILIES:
        raise ConfigError(f"method is {text!r}, but {base} has no scales")
    return name


def with_scales(methods: tuple[MethodName, ...], scales: tuple[Fraction, ...]) -> tuple[MethodName, ...]:
    """Every peer that is named at full size at all ``scales``; other methods as they are; nothing twice."""
    out: list[MethodName] = []
    for method in methods:
        if method.family in PEER_FAMILIES and method.scale == 1:
            out += [replace(method, scale=scale) for scale in scales]
        else:
            out.append(method)
    return tuple(dict.fromkeys(out))


@dataclass(frozen=True)
class Reference:
    """The pictures that all methods encode and are compared with: a clip, or its first seconds, losslessly.

    path: a file with exactly these pictures.  digest: hex, of the clip's bytes and the cut.
    """

    name: str
    path: Path
    digest: str
    width: int
    height: int
    frames: int
    frame_rate: Fraction
    duration_seconds: float
    color: ColorInfo

    def pictures(self) -> Iterator[Picture]:
        """The pictures in display order."""
        return VideoSource(self.path).frames()

    def gop_length(self, gop_seconds: float) -> int:
        """Pictures from one keyframe to the next."""
        return max(1, round(gop_seconds * float(self.frame_rate)))

    def target_bytes(self, target_kbps: float) -> float:
        """Bytes of a video track of that rate."""
        return target_kbps * 125 * self.duration_seconds


class Method(Protocol):
    """Something that turns a reference into a file of any size asked for, and back into pictures."""

    @property
    def name(self) -> MethodName:
        """Its name."""

    @property
    def suffix(self) -> str:
        """Of its files."""

    @property
    def grid(self) -> Grid:
        """The steps of its rate parameter."""

    @property
    def max_encodes(self) -> int:
        """How many encodes a rate may cost."""

    @property
    def metrics(self) -> frozenset[str] | None:
        """The metrics that make sense for it; None for all."""

    @property
    def max_frames(self) -> int | None:
        """How many frames may be measured; None for any number."""

    def first_index(self, reference: Reference, target_kbps: float) -> int:
        """Where in the grid to begin."""

    def finer(self, index: int) -> Method | None:
        """The same method with finer steps of fewer bytes than at ``index``, if it has any."""

    def encode_settings(self, reference: Reference) -> dict[str, Any]:
        """All that determines its bytes beside the reference and the parameter; for JSON."""

    def result_settings(self) -> dict[str, Any]:
        """All that determines what is shown beside the bytes; for JSON."""

    def encode(self, reference: Reference, parameter: float, path: Path) -> None:
        """Write a file.  Raises HybridPromptError."""

    def decode(self, reference: Reference, path: Path, frames: frozenset[int]) -> Iterator[Picture]:
        """Show a file at the reference's size.  frames: those that matter.  Raises HybridPromptError."""

    def speed_program(self, path: Path) -> tuple[str, list[str]] | None:
        """Python code that decodes a file and prints figures, and its arguments; None for a plain decode.

        See `speed`.
        """
