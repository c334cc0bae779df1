"""Measures with a decoder where every pixel of a frame comes from in an anchor, and how much of it arrives.

With modes, motion, residual as coded, decoding is affine in an anchor's picture K, F_t(K) = A_t K + r_t, up
to rounding, clipping and in-loop filters.  So the same packets, decoded with test pictures in place of the
anchor, tell A_t, whatever the codec does inside: Note [Probing by phase] in `patterns`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch

from hybridprompt.encode.operator.band_gain import fit_factors
from hybridprompt.encode.operator.decoders import AnchorDecoder, Injection, check_frames
from hybridprompt.encode.operator.frame_map import FrameMap, Half, cell_grid, even_part
from hybridprompt.encode.operator.patterns import Waves, add_texture
from hybridprompt.encode.operator.sampling import box_mean, downscale
from hybridprompt.errors import CodecError, ConfigError
from hybridprompt.generator.base import Planes

_MAX_BANDS: Final = 5


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """How to probe.  Raises ConfigError.

    waves: see Waves.  smoothing: odd side of a square, in samples, over which phases are averaged: motion is
    the same in blocks of at least 4.  bands: octaves with a gain of their own, 0 for the waves' gain alone,
    which saves two decodes.  texture_deviation: levels per octave.  workers: decodes at a time.
    """

    waves: Waves = field(default_factory=Waves)
    smoothing: int = 5
    bands: int = 3
    texture_deviation: float = 2.5
    seed: int = 0
    workers: int = 2

    def __post_init__(self) -> None:
        if self.smoothing < 1 or self.smoothing % 2 == 0:
            raise ConfigError(f"smoothing is {self.smoothing}, expected an odd number of samples")
        if not 0 <= self.bands <= _MAX_BANDS:
            raise ConfigError(f"bands is {self.bands}, expected 0 to {_MAX_BANDS}")
        if not 0 < self.texture_deviation <= 40:
            raise ConfigError(f"texture deviation is {self.texture_deviation:g}, expected up to 40 levels")
        if self.workers < 1:
            raise ConfigError(f"workers is {self.workers}, expected at least 1")


def probe(
    decoder: AnchorDecoder,
    anchor: int,
    frames: Collection[int],
    settings: ProbeSettings | None = None,
    *,
    device: torch.device | str = "cpu",
) -> Iterator[FrameMap]:
    """Measure the maps of some frames; yield them in display order, as the decodes reach them.

    anchor: index of the packet that codes the anchor, hidden or not.  frames: from that packet on.  All
    decodes go on side by side, so that a few pictures of each are all that is in memory beside the maps the
    caller keeps.  Maps are of the even part of pictures whose sizes are odd.  Raises ConfigError for an
    anchor or frames that the GOP lacks, CodecError when the anchor cannot be replaced.
    """
    check_frames(decoder, anchor, frames)
    return _probe(decoder, anchor, frames, settings or ProbeSettings(), torch.device(device))


def _probe(
    decoder: AnchorDecoder,
    anchor: int,
    frames: Collection[int],
    settings: ProbeSettings,
    device: torch.device,
) -> Iterator[FrameMap]:
    texture = _Texture(settings)
    injections: list[Injection | None] = [_Wave(settings.waves, number) for number in range(5)]
    if settings.bands:
        injections += [texture, None]
    decodes = [decoder.decode(anchor, frames, injection) for injection in injections]
    for frame, pictures in _side_by_side(decodes, settings.workers):
        tensors = [
            [torch.from_numpy(p.astype(np.float32)).to(device) for p in even_part(planes)]
            for planes in pictures
        ]
        displacement, gain_y, gain_uv = _measure_waves(tensors[:5], settings)
        factors_y = torch.ones(1, *cell_grid(*gain_y.shape), device=device)
        factors_uv = torch.ones(1, 2, *cell_grid(*gain_uv.shape), device=device)
        if settings.bands:
            change = [c.to(device) for c in texture.change]
            found = [a - b for a, b in zip(tensors[5], tensors[6], strict=True)]
            factors_y = fit_factors(found[0][None], change[0][None], displacement, gain_y, settings.bands)[
                :, 0
            ]
            factors_uv = fit_factors(
                torch.stack(found[1:]),
                torch.stack(change[1:]),
                downscale(displacement),
                gain_uv,
                settings.bands,
            )
        yield FrameMap(
            frame=frame,
            displacement=_half(displacement),
            gain_y=_half(gain_y),
            gain_uv=_half(gain_uv),
            factors_y=_half(factors_y),
            factors_uv=_half(factors_uv),
        )


class _Wave:
    """Injects one of the test pictures, in the size of the anchor."""

    def __init__(self, waves: Waves, number: int) -> None:
        self._waves = waves
        self._number = number

    def __call__(self, base: Planes) -> Planes:
        height, width = base[0].shape
        return self._waves.pictures(width, height)[self._number]


class _Texture:
    """Injects the base picture with some texture, and remembers by how much that differs."""

    def __init__(self, settings: ProbeSettings) -> None:
        self._settings = settings
        self.change: list[torch.Tensor] = []

    def __call__(self, base: Planes) -> Planes:
        settings = self._settings
        made = add_texture(
            base, bands=settings.bands, deviation=settings.texture_deviation, seed=settings.seed
        )
        parts = zip(even_part(made), even_part(base), strict=True)
        self.change = [torch.from_numpy(a.astype(np.float32) - b) for a, b in parts]
        return made


def _side_by_side(
    decodes: list[Iterator[tuple[int, Planes]]], workers: int
) -> Iterator[tuple[int, list[Planes]]]:
    """The same frame of all decodes, one frame after the other; the next is decoded meanwhile."""
    with ThreadPoolExecutor(workers) as pool:

        def ask() -> list[Future[tuple[int, Planes] | None]]:
            return [pool.submit(next, decode, None) for decode in decodes]

        pending = ask()
        while True:
            arrived = [future.result() for future in pending]
            shown = [one for one in arrived if one is not None]
            if not shown:
                return
            numbers = {number for number, _ in shown}
            if len(shown) < len(arrived) or len(numbers) > 1:
                raise CodecError(f"decodes of one GOP show different frames: {sorted(numbers)}")
            pending = ask()
            yield numbers.pop(), [planes for _, planes in shown]


def _measure_waves(
    pictures: list[list[torch.Tensor]], settings: ProbeSettings
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Displacement (2, H, W), gain of luma (H, W) and of chroma (H/2, W/2) from the decoded test pictures."""
    waves = settings.waves
    grey, *coded = pictures
    fine, chroma = [], []
    for picture in coded:
        y, u, v = (a - b for a, b in zip(picture, grey, strict=True))
        fine.append(y)
        chroma.append((u, v))
    height, width = fine[0].shape
    parts, common, fine_gains, chroma_gains = [], [], [], []
    for axis, size in enumerate((width, height)):
        longest, common_gain = _demodulate(*chroma[axis], 2 * size, axis, settings.smoothing, 2)
        middle, chroma_gain = _demodulate(*chroma[2 + axis], waves.middle_period, axis, settings.smoothing, 2)
        middle = _unwrapped(middle, longest, waves.middle_period)
        exact, fine_gain = _demodulate(
            fine[2 * axis], fine[2 * axis + 1], waves.fine_period, axis, settings.smoothing, 1
        )
        parts.append(_unwrapped(exact, _doubled(middle), waves.fine_period).clamp(-2 * size, 2 * size))
        common.append(common_gain / waves.amplitude)
        fine_gains.append(fine_gain / waves.amplitude)
        chroma_gains.append(chroma_gain / waves.amplitude)
    overall = (common[0] + common[1]) / 2
    return torch.stack(parts), _joint_gain(_doubled(overall), fine_gains), _joint_gain(overall, chroma_gains)


def _joint_gain(overall: torch.Tensor, gains: list[torch.Tensor]) -> torch.Tensor:
    """Gain for changes that are fine along both axes: each axis takes its share from the overall gain."""
    along_x, along_y = gains
    largest = torch.maximum(torch.maximum(along_x, along_y), overall).clamp_min(1e-3)
    return (along_x * along_y / largest).clamp(0, 1)


def _doubled(planes: torch.Tensor) -> torch.Tensor:
    return planes.repeat_interleave(2, 0).repeat_interleave(2, 1)


def _demodulate(
    sine: torch.Tensor, cosine: torch.Tensor, period: float, axis: int, smoothing: int, sampling: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Displacement along the axis in luma samples, up to whole periods, and amplitude in levels.

    sampling: luma samples per sample of these planes.
    """
    count = sine.shape[1 - axis]
    positions = torch.arange(count, dtype=torch.float64) * sampling + (sampling - 1) / 2
    own = (2 * np.pi / period * positions).to(sine.device)
    if axis == 1:
        own = own[:, None]
    own_cosine, own_sine = own.cos().to(sine.dtype), own.sin().to(sine.dtype)
    # The phase less the one of the sample's own position is that of the displacement, equal in a block.
    real = box_mean(cosine * own_cosine + sine * own_sine, smoothing)
    imaginary = box_mean(sine * own_cosine - cosine * own_sine, smoothing)
    return torch.atan2(imaginary, real) * (period / (2 * np.pi)), torch.hypot(real, imaginary)


def _unwrapped(exact: torch.Tensor, coarse: torch.Tensor, period: float) -> torch.Tensor:
    """Add the whole periods that bring the exact displacement next to the coarse one."""
    return exact + ((coarse - exact) / period).round() * period


def _half(values: torch.Tensor) -> Half:
    array: Half = values.half().cpu().numpy()
    array.setflags(write=False)
    return array
