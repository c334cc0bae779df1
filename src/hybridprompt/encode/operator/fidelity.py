"""How well decode operators predict what a real decoder does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hybridprompt.encode.operator.decode_operator import DecodeOperator, PlaneTensors
from hybridprompt.encode.operator.decoders import AnchorDecoder, Injection
from hybridprompt.encode.operator.frame_map import FrameMap
from hybridprompt.errors import ConfigError
from hybridprompt.generator.base import Planes


@dataclass(frozen=True)
class Agreement:
    """Predicted against real change of some planes.

    correlation: of the samples, in [-1, 1].  explained: 1 - |predicted - real|^2 / |real|^2, at most 1.
    real_rms, predicted_rms: in levels.  Where nothing really changes, correlation and explained are NaN.
    """

    correlation: float
    explained: float
    real_rms: float
    predicted_rms: float


@dataclass(frozen=True)
class Fidelity:
    """Agreement of one frame; distance: frames from the anchor's packet."""

    frame: int
    distance: int
    luma: Agreement
    chroma: Agreement


def agreement(predicted: NDArray[np.floating], real: NDArray[np.floating]) -> Agreement:
    """Compare a predicted change with the real one, in levels.  Raises ConfigError for different shapes."""
    if predicted.shape != real.shape or not real.size:
        raise ConfigError(f"predicted change has shape {predicted.shape}, the real one {real.shape}")
    p, r = predicted.astype(np.float64).ravel(), real.astype(np.float64).ravel()
    energy = float(r @ r)
    spread = float(p.std() * r.std())
    return Agreement(
        correlation=float(((p - p.mean()) * (r - r.mean())).mean()) / spread if spread else float("nan"),
        explained=1 - float(((p - r) ** 2).sum()) / energy if energy else float("nan"),
        real_rms=float(np.sqrt(energy / r.size)),
        predicted_rms=float(np.sqrt(np.mean(p * p))),
    )


def measure_fidelity(
    decoder: AnchorDecoder, anchor: int, maps: Iterable[FrameMap], injection: Injection
) -> Iterator[Fidelity]:
    """Decode with a real change of the anchor, and compare each frame that there is a map of.

    Raises ConfigError when there are no maps, otherwise like AnchorDecoder.decode.
    """
    by_frame = {one.frame: one for one in maps}
    if not by_frame:
        raise ConfigError("no maps to measure the fidelity of")
    recorder = _Recorder(injection)
    changed = decoder.decode(anchor, by_frame, recorder)
    unchanged = decoder.decode(anchor, by_frame, None)
    for (frame, with_change), (_, without) in zip(changed, unchanged, strict=True):
        with torch.inference_mode():
            predicted = DecodeOperator(by_frame[frame])(*recorder.change)
        real = _difference(with_change, without)
        luma, chroma = (agreement(p.numpy(), r.numpy()) for p, r in zip(predicted, real, strict=True))
        yield Fidelity(frame, frame - anchor, luma, chroma)


class _Recorder:
    """Injects, and remembers the change."""

    def __init__(self, injection: Injection) -> None:
        self._injection = injection
        self.change: PlaneTensors

    def __call__(self, base: Planes) -> Planes:
        made = self._injection(base)
        self.change = _difference(made, base)
        return made


def _difference(planes: Planes, other: Planes) -> PlaneTensors:
    y, u, v = (torch.from_numpy(a.astype(np.float32) - b) for a, b in zip(planes, other, strict=True))
    return y, torch.stack([u, v])
