"""The decode operator: a linear map from an anchor's picture to a later frame."""

from __future__ import annotations

import torch
from torch import nn

from hybridprompt.encode.operator.frame_map import CELL, FrameMap
from hybridprompt.encode.operator.sampling import downscale, sample, split_bands, spread
from hybridprompt.errors import ConfigError

PlaneTensors = tuple[torch.Tensor, torch.Tensor]
"""A picture, or a change of one: y (H, W) and uv (2, H/2, W/2), floating point, in any unit."""


class DecodeOperator(nn.Module):
    """Maps a change of an anchor's picture to the change of one frame that a decoder would show.

    A_t of `probe`: bicubic sampling at the measured positions, times the measured gain.  Linear, so that
    autograd's gradient is the exact adjoint.  The map lies in buffers: move it with `to`.
    """

    displacement: torch.Tensor
    gain_y: torch.Tensor
    gain_uv: torch.Tensor
    factors_y: torch.Tensor
    factors_uv: torch.Tensor

    def __init__(self, frame_map: FrameMap) -> None:
        super().__init__()
        self.frame = frame_map.frame
        for name in ("displacement", "gain_y", "gain_uv", "factors_y", "factors_uv"):
            self.register_buffer(name, torch.from_numpy(getattr(frame_map, name).copy()), persistent=False)

    def extra_repr(self) -> str:
        height, width = self.gain_y.shape
        return f"frame={self.frame}, {width}x{height}"

    def forward(self, y: torch.Tensor, uv: torch.Tensor) -> PlaneTensors:
        """Return the change of the frame, for a change y (H, W) and uv (2, H/2, W/2) of the anchor.

        Computes in the dtype of its input.  Raises ConfigError for other shapes, and for integers.
        """
        self._check(y, uv)
        displacement = self.displacement.to(torch.promote_types(y.dtype, torch.float32))
        out_y = _apply(y[None], displacement, self.gain_y, self.factors_y[:, None])[0]
        out_uv = _apply(uv, downscale(displacement), self.gain_uv, self.factors_uv)
        return out_y, out_uv

    def adjoint(self, y: torch.Tensor, uv: torch.Tensor) -> PlaneTensors:
        """Return A^T of a change of the frame, in the shapes of the anchor: <A x, z> = <x, A^T z>.

        Raises ConfigError like `forward`.
        """
        self._check(y, uv)
        with torch.enable_grad():
            at = [torch.zeros_like(plane, requires_grad=True) for plane in (y, uv)]
            to_anchor = torch.autograd.grad(self(*at), at, (y.detach(), uv.detach()))
        return to_anchor[0], to_anchor[1]

    def predict(self, anchor: PlaneTensors, *, base: PlaneTensors, decoded: PlaneTensors) -> PlaneTensors:
        """Predict the frame with another picture at the anchor: F_t = decoded_t + A_t (K - base).

        anchor: K.  base: the anchor's base picture.  decoded: what the frame is with that.
        """
        change_y, change_uv = self(anchor[0] - base[0], anchor[1] - base[1])
        return decoded[0] + change_y, decoded[1] + change_uv

    def _check(self, y: torch.Tensor, uv: torch.Tensor) -> None:
        expected = tuple(self.gain_y.shape), (2, *self.gain_uv.shape)
        if (tuple(y.shape), tuple(uv.shape)) != expected:
            raise ConfigError(
                f"planes have shapes {tuple(y.shape)} and {tuple(uv.shape)}, "
                f"expected {expected[0]} and {expected[1]}"
            )
        if not y.is_floating_point() or y.dtype != uv.dtype:
            raise ConfigError(f"planes are {y.dtype} and {uv.dtype}, expected one floating-point type")


def _apply(
    planes: torch.Tensor, displacement: torch.Tensor, gain: torch.Tensor, factors: torch.Tensor
) -> torch.Tensor:
    """Sum over bands of gain times factor times the sampled band.  planes: (N, H, W)."""
    height, width = planes.shape[-2:]
    bands = len(factors)
    split = split_bands(planes, bands)
    sampled = sample(split.flatten(0, 1), displacement).reshape(bands, -1, height, width)
    weights = spread(factors.to(planes.dtype), height, width, CELL) * gain.to(planes.dtype)
    return (sampled * weights).sum(0)
