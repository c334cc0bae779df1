"""Serves crops of the training corpus, and its held-out pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.hooks import RemovableHandle

from hybridprompt.errors import ConfigError
from hybridprompt.generator.network import ALIGNMENT
from hybridprompt.train.sample_files import Sample, crop_planes, load_sample, sample_paths

Planes = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Batch:
    """Planes in [0, 1] and base_q_idx / 255 as (N, 1, 1, 1)."""

    coded: Planes
    source: Planes
    quantiser: torch.Tensor


def even_samples(folder: Path, count: int) -> list[Sample]:
    """``count`` samples evenly from a folder, or all of fewer.  Raises ConfigError where there are none."""
    paths = sample_paths(folder)
    if not paths:
        raise ConfigError(f"{folder}: no training samples; make them with `hybridprompt corpus`")
    chosen = np.linspace(0, len(paths) - 1, min(count, len(paths)))
    return [load_sample(paths[int(i)]) for i in chosen]


def seen_from(planes: np.ndarray, way: int) -> np.ndarray:
    """Square planes (..., N, N) in one of eight ways: 1 flips columns, 2 rows, and 4 then swaps both."""
    planes = planes[..., :: -1 if way & 2 else 1, :: -1 if way & 1 else 1]
    return planes.swapaxes(-1, -2) if way & 4 else planes


class SampleStore:
    """Samples of one split of some corpora, held in memory; ``refresh`` picks up files that came since.

    Pictures finer than ``finest`` (base_q_idx of keyframes, of other pictures) are left out.
    """

    def __init__(self, *folders: Path, finest: tuple[int, int] = (0, 0)) -> None:
        self.folders = folders
        self.finest = finest
        self.samples: list[Sample] = []
        self._seen: set[Path] = set()
        self._kept: dict[Path, list[Sample]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Load the files that are new.  Raises ConfigError while a corpus has none."""
        for folder in self.folders:
            kept = self._kept.setdefault(folder, [])
            for path in sample_paths(folder):
                if path in self._seen:
                    continue
                sample = load_sample(path)
                if sample.is_coarse(self.finest):
                    kept.append(sample)
                self._seen.add(path)
            if not kept:
                limit = (
                    f" of base_q_idx from {self.finest[0]} or {self.finest[1]}" if any(self.finest) else ""
                )
                raise ConfigError(
                    f"{folder}: no training samples{limit}; make them with `hybridprompt corpus`"
                )
            # The order that a resumed run would find them in.
            kept.sort(key=lambda sample: sample.name)
        self.samples = [sample for folder in self.folders for sample in self._kept[folder]]

    def batch(
        self,
        rng: np.random.Generator,
        count: int,
        size: int,
        *,
        device: torch.device | str = "cpu",
        turned: bool = False,
    ) -> Batch:
        """Draw ``count`` crops of ``size`` luma pixels, sampled by pixel area, flipped at random.

        turned: by quarters, too.
        """
        luma = np.empty((2, count, 1, size, size), np.uint8)
        chroma = np.empty((2, count, 2, size // 2, size // 2), np.uint8)
        quantiser = np.empty((count, 1, 1, 1), np.float32)
        usable = [s for s in self.samples if min(s.width, s.height) >= size]
        if not usable:
            raise ConfigError(f"{self.folders[0]}: no sample is as large as a crop of {size} pixels")
        area = np.array([s.width * s.height for s in usable], np.float64)
        for index, chosen in enumerate(rng.choice(len(usable), count, p=area / area.sum())):
            sample = usable[chosen]
            # Chroma siting allows even positions only; all phases of the unshuffle grid are met.
            x = int(rng.integers(0, (sample.width - size) // 2 + 1)) * 2
            y = int(rng.integers(0, (sample.height - size) // 2 + 1)) * 2
            way = int(rng.integers(8 if turned else 2))
            for side, array in enumerate((sample.coded, sample.source)):
                a, c = crop_planes(array, y, x, size, size)
                luma[side, index, 0] = seen_from(a, way)
                chroma[side, index] = seen_from(c, way)
            quantiser[index] = sample.base_q_idx / 255
        y_all, c_all = (torch.from_numpy(planes).to(device).float() / 255 for planes in (luma, chroma))
        return Batch((y_all[0], c_all[0]), (y_all[1], c_all[1]), torch.from_numpy(quantiser).to(device))


def whole_picture(sample: Sample, limit: int | None = None) -> Batch:
    """The whole picture, or its central ``limit`` pixels each way, as a batch of one, aligned in size."""
    width = min(sample.width, limit or sample.width) // ALIGNMENT * ALIGNMENT
    height = min(sample.height, limit or sample.height) // ALIGNMENT * ALIGNMENT
    x, y = (sample.width - width) // 4 * 2, (sample.height - height) // 4 * 2

    def planes(array: np.ndarray) -> Planes:
        a, c = crop_planes(array, y, x, height, width)
        return (
            torch.from_numpy(a.copy())[None, None].float() / 255,
            torch.from_numpy(c.copy())[None].float() / 255,
        )

    quantiser = torch.full((1, 1, 1, 1), sample.base_q_idx / 255)
    return Batch(planes(sample.coded), planes(sample.source), quantiser)


def coded_planes(sample: Sample, limit: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The coded side of `whole_picture` as a generator takes it: y (H, W), u and v (H/2, W/2) uint8."""
    y, uv = whole_picture(sample, limit).coded
    levels = [(plane * 255).round().numpy().astype(np.uint8) for plane in (y[0, 0], uv[0, 0], uv[0, 1])]
    return levels[0], levels[1], levels[2]


def show(
    network: torch.nn.Module, samples: Sequence[Sample], side: int, hooks: Sequence[RemovableHandle]
) -> None:
    """Call a network on the centres of coded pictures, ``side`` pixels each, for its hooks; remove them."""
    try:
        for sample in samples:
            batch = whole_picture(sample, side)
            network(*batch.coded, batch.quantiser)
    finally:
        for hook in hooks:
            hook.remove()
