"""Fits the strengths of anchors' gates by gradient descent, with later frames as supervision.

Note [Measured responses]: a gate scales what the generator changes at its anchor, and decoding is all but
linear in an anchor's picture.  So with D_t, how frame t really changes when an anchor is generated at full
strength (one decode more), and with the block of the anchor that every pixel of the frame comes from (which
the probe of the decode operator tells),

    F_t(s) = F_t(s_0) + sum over anchors of (s - s_0)[block of the pixel] D_t

is what a decoder shows for strengths s near s_0.  Only where the changes come from is modelled; what arrives
of them is measured, so the fidelity of the operator's gains and bands does not matter here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from hybridprompt.encode.descent import Pace, Pair, descend
from hybridprompt.encode.fit_loss import random_below
from hybridprompt.encode.prompt_rate import GateRate
from hybridprompt.encode.settings import GATE_LEVELS, GATE_UNIT, FitSettings
from hybridprompt.evaluate.sampling import sample_frames
from hybridprompt.generator.base import Planes

MAX_FIT_BYTES: Final = 3 << 29
"""What all that a fit holds may take."""

_LEARNING_RATE: Final = 0.08
_LAST_RATE_SHARE: Final = 0.1

Change = tuple[NDArray[np.int16], NDArray[np.int16], NDArray[np.int16]]
"""Difference of two pictures' planes, in levels."""


@dataclass(frozen=True, eq=False)
class Response:
    """What an anchor does to frames.

    strengths: (rows, columns) float32, at which the frames were decoded.  start: (rows, columns) float32,
    where descent begins.  changes: by frame, how it changes when the anchor's strength rises by 1 everywhere.
    blocks: by frame, (H/2, W/2) int32, the index of the anchor's block that each 2x2 samples of luma come
    from, counted row by row.
    """

    strengths: NDArray[np.float32]
    start: NDArray[np.float32]
    changes: Mapping[int, Change]
    blocks: Mapping[int, NDArray[np.int32]]


@dataclass(frozen=True, eq=False)
class Supervision:
    """Frames as they are decoded now, and their sources, by frame; planes of even sizes."""

    decoded: Mapping[int, Planes]
    sources: Mapping[int, Planes]


@dataclass
class StrengthFitter:
    """Fits strengths.  max_strength: of the gates; the device is the one to compute on."""

    settings: FitSettings
    max_strength: float = (GATE_LEVELS - 1) / GATE_UNIT
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def fit(
        self, frames: Supervision, responses: Sequence[Response], steps: int, *, byte_price: float = 0.0
    ) -> list[NDArray[np.float32]]:
        """Return strengths (rows, columns) in [0, max_strength] for every response.

        The loss is that of training: LPIPS of both networks, DISTS, L1 and local deviation, on random crops
        of random frames; its gradient passes through Note [Measured responses].  byte_price: by what share of
        itself the loss must fall for one byte of gates.  Deterministic for a seed.
        """
        decoded_at = [torch.from_numpy(r.strengths.copy()).to(self.device) for r in responses]
        fitted = [torch.from_numpy(r.start.copy()).to(self.device).requires_grad_() for r in responses]
        # Frames that nothing reaches teach nothing.
        reached = sorted(f for f in frames.decoded if any(f in r.changes for r in responses))

        def batch(crops: int, rng: torch.Generator) -> tuple[Pair, Pair]:
            return self._batch(frames, responses, decoded_at, fitted, reached, crops, rng)

        rates = [GateRate(GATE_UNIT, GATE_LEVELS) for _ in fitted]

        def price() -> torch.Tensor:
            bits = [rate(strengths) for rate, strengths in zip(rates, fitted, strict=True)]
            return byte_price / 8 * torch.stack(bits).sum()

        def confine() -> None:
            for strengths in fitted:
                strengths.clamp_(0, self.max_strength)

        pace = Pace(steps=steps, rate=_LEARNING_RATE, last_share=_LAST_RATE_SHARE)
        if reached:
            settings = self.settings
            descend(fitted, batch, price, pace, crops=settings.crops, seed=settings.seed, confine=confine)
        return [strengths.detach().cpu().numpy() for strengths in fitted]

    def _batch(
        self,
        frames: Supervision,
        responses: Sequence[Response],
        decoded_at: Sequence[torch.Tensor],
        fitted: Sequence[torch.Tensor],
        reached: Sequence[int],
        crops: int,
        rng: torch.Generator,
    ) -> tuple[Pair, Pair]:
        """Crops as predicted, and of the sources: luma (N, 1, S, S) and chroma (N, 2, S/2, S/2) in [0, 1]."""
        change = [(now - before).flatten() for now, before in zip(fitted, decoded_at, strict=True)]
        luma, chroma, source_luma, source_chroma = [], [], [], []
        height, width = next(iter(frames.decoded.values()))[0].shape
        rows, columns = min(self.settings.crop_size, height) // 2, min(self.settings.crop_size, width) // 2
        for _ in range(crops):
            frame = reached[random_below(len(reached), rng)]
            top, left = random_below(height // 2 - rows + 1, rng), random_below(width // 2 - columns + 1, rng)
            half = slice(top, top + rows), slice(left, left + columns)
            full = slice(2 * top, 2 * (top + rows)), slice(2 * left, 2 * (left + columns))
            y, u, v = (
                self._tensor(plane[part])
                for plane, part in zip(frames.decoded[frame], (full, half, half), strict=True)
            )
            for delta, response in zip(change, responses, strict=True):
                if frame not in response.changes:
                    continue
                at = delta[torch.from_numpy(response.blocks[frame][half].astype(np.int64)).to(self.device)]
                dy, du, dv = response.changes[frame]
                spread = at.repeat_interleave(2, 0).repeat_interleave(2, 1)
                y = y + spread * self._tensor(dy[full])
                u, v = u + at * self._tensor(du[half]), v + at * self._tensor(dv[half])
            luma.append(y[None])
            chroma.append(torch.stack([u, v]))
            wanted = [
                self._tensor(plane[part])
                for plane, part in zip(frames.sources[frame], (full, half, half), strict=True)
            ]
            source_luma.append(wanted[0][None])
            source_chroma.append(torch.stack(wanted[1:]))
        return (
            (torch.stack(luma).clamp(0, 1), torch.stack(chroma).clamp(0, 1)),
            (torch.stack(source_luma), torch.stack(source_chroma)),
        )

    def _tensor(self, levels: NDArray[np.uint8] | NDArray[np.int16]) -> torch.Tensor:
        return torch.from_numpy(levels.astype(np.float32)).to(self.device) / 255


def quantise(strengths: NDArray[np.float32], unit: int, levels: int) -> NDArray[np.uint8]:
    """Indices of the nearest levels, in steps of 1 / unit."""
    return np.clip(np.rint(strengths * unit), 0, levels - 1).astype(np.uint8)


def block_indices(
    displacement: NDArray[np.float16], block_log2: int, shape: tuple[int, int]
) -> NDArray[np.int32]:
    """Blocks that a frame's samples come from, as Response.blocks says.

    displacement: (2, H, W), x then y, as FrameMap's.  shape: rows and columns of blocks.
    """
    height, width = displacement.shape[1:]
    moved = displacement[:, ::2, ::2].astype(np.float32)
    x = np.clip(np.arange(0, width, 2) + 0.5 + moved[0], 0, width - 1).astype(np.int32)
    y = np.clip(np.arange(0, height, 2)[:, None] + 0.5 + moved[1], 0, height - 1).astype(np.int32)
    indices: NDArray[np.int32] = (y >> block_log2) * shape[1] + (x >> block_log2)
    return indices


def difference(a: Planes, b: Planes) -> Change:
    """a - b, plane by plane."""
    y, u, v = (one.astype(np.int16) - other for one, other in zip(a, b, strict=True))
    return y, u, v


def sample_bytes(anchors: int) -> int:
    """What a frame of a fit takes for each luma sample: itself, its source, changes and blocks per anchor."""
    return 3 + 4 * anchors


def affordable_frames(
    frames: Sequence[int], own: Collection[int], size: tuple[int, int], sample_bytes: float
) -> list[int]:
    """Fewer of the frames where a fit of all would take more than MAX_FIT_BYTES.

    own: the frames of the anchors, which stay.  size: width and height of the pictures.  sample_bytes: what a
    frame takes for each of its luma samples.
    """
    room = int(MAX_FIT_BYTES / (size[0] * size[1] * sample_bytes)) - len(own)
    others = [frame for frame in frames if frame not in own]
    return sorted({*own, *(others[i] for i in sample_frames(len(others), max(room, 0)))})
