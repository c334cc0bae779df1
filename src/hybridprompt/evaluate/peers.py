"""The codecs to compare with: SVT-AV1 in three variants, x265, x264 and VP9, each at any scale."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from hybridprompt.errors import ConfigError
from hybridprompt.evaluate.methods import MethodName, Reference
from hybridprompt.evaluate.rates import MAX_ENCODES, Grid, bitrate_grid, crf_grid
from hybridprompt.evaluate.settings import EvaluateSettings
from hybridprompt.video.peer_encoder import (
    CRF_RANGES,
    PeerCodec,
    PeerSettings,
    decoded_pictures,
    encode_peer_file,
    fitted,
    library_versions,
)
from hybridprompt.video.picture import Picture
from hybridprompt.video.scaling import scaled_size

_VARIANT_PARAMS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "default": (),
    "tune0": (("tune", "0"),),
    "variance-boost": (("enable-variance-boost", "1"),),
}


@dataclass(frozen=True)
class _Scale:
    """A codec's CRF: its step; change of the log of the bytes per CRF; what 0.004 bits per pixel ask for."""

    step: float
    slope: float
    usual: float


_CRF: Final[dict[PeerCodec, _Scale]] = {
    "svt-av1": _Scale(0.25, -0.06, 55),
    "x265": _Scale(0.05, -0.12, 36),
    "x264": _Scale(0.05, -0.12, 38),
    "vp9": _Scale(1, -0.06, 52),
}
PEERS_VERSION: Final = 1
"""Goes into the key of every encode: raise it when the way in which peers are called changes."""

_USUAL_BITS_PER_PIXEL: Final = 0.004
_FINEST_JUMP_LOG: Final = 0.7
"""How far the search goes towards finer encodes at a time, in the log of the bytes."""


@dataclass(frozen=True)
class PeerMethod:
    """A peer at one scale; implements `methods.Method`.

    crf: None searches the CRF; a number keeps it and searches a bitrate instead (VP9 alone, whose CRF is too
    coarse).
    """

    name: MethodName
    codec: PeerCodec
    preset: str
    gop_seconds: float
    threads: int
    crf: float | None = None

    suffix: str = ".mp4"
    max_encodes: int = MAX_ENCODES
    metrics: frozenset[str] | None = None
    max_frames: int | None = None

    @property
    def grid(self) -> Grid:
        if self.crf is not None:
            return bitrate_grid()
        low, high = CRF_RANGES[self.codec]
        scale = _CRF[self.codec]
        return crf_grid(low, high, scale.step, slope=scale.slope, finest_jump=_FINEST_JUMP_LOG / -scale.slope)

    def first_index(self, reference: Reference, target_kbps: float) -> int:
        if self.crf is not None:
            return self.grid.index(target_kbps)
        width, height = self.coded_size(reference)
        per_pixel = target_kbps * 1000 / (width * height * float(reference.frame_rate))
        scale = _CRF[self.codec]
        return self.grid.index(scale.usual + math.log(per_pixel / _USUAL_BITS_PER_PIXEL) / scale.slope)

    def finer(self, index: int) -> PeerMethod | None:
        if self.codec != "vp9" or self.crf is not None or index <= self.grid.low:
            return None
        # With the CRF that gives too many bytes, a rate can take some of them away.
        return replace(self, crf=self.grid.value(index - 1))

    def coded_size(self, reference: Reference) -> tuple[int, int]:
        """Width and height in the stream: even, but at full size only where the codec asks for it."""
        if self.name.scale == 1 and self.codec not in ("x264", "x265"):
            return reference.width, reference.height
        if self.name.scale == 1:
            return reference.width + reference.width % 2, reference.height + reference.height % 2
        return scaled_size(reference.width, reference.height, self.name.scale)

    def encode_settings(self, reference: Reference) -> dict[str, Any]:
        width, height = self.coded_size(reference)
        return {
            "version": PEERS_VERSION,
            "codec": self.codec,
            "variant": self.name.variant if self.codec == "svt-av1" else "default",
            "width": width,
            "height": height,
            "scaling": None if self.name.scale == 1 else "lanczos",
            "preset": self.preset,
            "gop_length": reference.gop_length(self.gop_seconds),
            "threads": self.threads,
            # Beside the version: no other codec's bytes depend on it.
            **({"thread_type": "frame"} if self.codec == "x264" else {}),
            "search": self.grid.kind,
            **({} if self.crf is None else {"crf": self.crf}),
            "versions": library_versions(),
        }

    def result_settings(self) -> dict[str, Any]:
        return {}

    def encode(self, reference: Reference, parameter: float, path: Path) -> None:
        width, height = self.coded_size(reference)
        settings = PeerSettings(
            codec=self.codec,
            width=width,
            height=height,
            frame_rate=reference.frame_rate,
            crf=parameter if self.crf is None else self.crf,
            bitrate_kbps=None if self.crf is None else parameter,
            preset=self.preset,
            gop_length=reference.gop_length(self.gop_seconds),
            threads=self.threads,
            color=reference.color,
            extra=_VARIANT_PARAMS[self.name.variant] if self.codec == "svt-av1" else (),
        )
        encode_peer_file((fitted(p, width, height) for p in reference.pictures()), settings, path)

    def decode(self, reference: Reference, path: Path, frames: frozenset[int]) -> Iterator[Picture]:
        return decoded_pictures(path, reference.width, reference.height, reference.color)

    def speed_program(self, path: Path) -> None:
        return None


def make_peer(name: MethodName, settings: EvaluateSettings) -> PeerMethod:
    """A peer with the settings of an evaluation.  Raises ConfigError for a method that is none."""
    presets: dict[str, tuple[PeerCodec, str]] = {
        "svt-av1": ("svt-av1", str(settings.svt_preset)),
        "x265": ("x265", settings.x265_preset),
        "x264": ("x264", settings.x264_preset),
        "vp9": ("vp9", str(settings.vp9_cpu_used)),
    }
    if name.family not in presets:
        raise ConfigError(f"{name} is no peer")
    codec, preset = presets[name.family]
    return PeerMethod(name, codec, preset, settings.gop_seconds, settings.threads)
