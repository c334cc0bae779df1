"""Crops of a corpus that lies in a device's memory, cut out there.

A large GPU takes a step faster than a processor can cut the crops for it.  So all samples are in one flat
tensor, and a batch is a table of numbers, drawn as `samples.SampleStore` draws it: where each crop begins.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from hybridprompt.errors import ConfigError
from hybridprompt.train.sample_files import Sample
from hybridprompt.train.samples import Batch

DRAWN = 6
"""Numbers of a drawn crop: its sample's first byte, height and width, top and left, seen_from's ``way``."""


def crop_places(drawn: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the crops of ``size`` luma pixels that a table (N, DRAWN) tells of lie in the flat samples.

    Luma (N, 1, size, size) and chroma (N, 2, size/2, size/2), int64; top and left are even.
    """
    starts, heights, widths, tops, lefts, ways = (column.view(-1, 1, 1) for column in drawn.unbind(1))

    def places(half: int) -> torch.Tensor:
        """Indices in a plane of the crops, (N, rows, columns)."""
        along = torch.arange(size // half, device=drawn.device)
        back = len(along) - 1 - along
        columns = torch.where((ways & 1) > 0, back, along)
        rows = torch.where((ways & 2) > 0, back[:, None], along[:, None])
        found = (tops // half + rows) * (widths // half) + lefts // half + columns
        return torch.where((ways & 4) > 0, found.transpose(1, 2), found)

    blue = starts + heights * widths + places(2)
    return (starts + places(1))[:, None], torch.stack([blue, blue + heights * widths // 4], 1)


class ResidentSamples:
    """Samples at least as large as a crop of ``size`` luma pixels, on ``device``.

    turned: crops come in eight ways, not two.  Raises ConfigError where there are none.
    """

    def __init__(
        self, samples: Sequence[Sample], size: int, device: torch.device, *, turned: bool = False
    ) -> None:
        usable = [s for s in samples if min(s.width, s.height) >= size]
        if not usable:
            raise ConfigError(f"no training sample is as large as a crop of {size} pixels")
        self.size = size
        self._ways = 8 if turned else 2
        self._shapes = np.array([(s.height, s.width) for s in usable], np.int64)
        areas = self._shapes.prod(1)
        self._share = areas / areas.sum()
        self._starts = np.concatenate([[0], np.cumsum([s.source.size for s in usable])[:-1]])
        self._quantisers = np.array([s.base_q_idx / 255 for s in usable], np.float32)
        self._coded, self._source = (
            torch.from_numpy(np.concatenate([getattr(s, side).ravel() for s in usable])).to(device)
            for side in ("coded", "source")
        )

    def draw(self, rng: np.random.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw crops by pixel area: (count, DRAWN) int64, and base_q_idx / 255 as (count, 1, 1, 1)."""
        chosen = rng.choice(len(self._starts), count, p=self._share)
        shapes = self._shapes[chosen]
        # Chroma siting allows even positions only; all phases of the unshuffle grid are met.
        places = rng.integers(0, (shapes - self.size) // 2 + 1) * 2
        ways = rng.integers(0, self._ways, (count, 1))
        table = np.concatenate([self._starts[chosen, None], shapes, places, ways], 1)
        quantisers = torch.from_numpy(self._quantisers[chosen].reshape(-1, 1, 1, 1))
        return torch.from_numpy(table), quantisers

    def batch(self, drawn: torch.Tensor, quantisers: torch.Tensor) -> Batch:
        """Cut the crops of a drawn batch, both on the device already."""
        luma, chroma = crop_places(drawn, self.size)

        def planes(samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return samples[luma].float() / 255, samples[chroma].float() / 255

        return Batch(planes(self._coded), planes(self._source), quantisers)
