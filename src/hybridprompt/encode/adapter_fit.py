"""Fits an adapter by gradient descent: what a prompt changes in the generator's weights.

The network is the generator's own, in torch and in floats.  The adapter's integers are rounded in every step,
with gradients as if they were not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from hybridprompt.encode.descent import Pace, Pair, descend
from hybridprompt.encode.fit_loss import random_below
from hybridprompt.encode.operator.frame_map import FrameMap
from hybridprompt.encode.operator.sampling import downscale, sample
from hybridprompt.encode.prompt_rate import AdapterRate
from hybridprompt.encode.recent import LastTwo
from hybridprompt.encode.settings import AdapterSettings
from hybridprompt.evaluate.perceptual import quick_dtype
from hybridprompt.generator.adapted_network import AdaptedNetwork
from hybridprompt.generator.base import Planes
from hybridprompt.generator.network import GeneratorNetwork
from hybridprompt.prompt.adapter_coding import MAX_VALUE

_LAST_RATE_SHARE: Final = 0.05
_MARGIN: Final = 32
"""Luma samples around the place where most of a later frame's crop comes from."""

Place = tuple[slice, slice]
"""Rows and columns of luma, even."""

Values = NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class LaterFrame:
    """A frame that the keyframe reaches.

    decoded: what it is with the keyframe generated everywhere by the adapter where descent begins.  source:
    what it should be.  frame_map: what arrives of a change at the keyframe.
    """

    decoded: Planes
    source: Planes
    frame_map: FrameMap


@dataclass
class AdapterFitter:
    """Fits adapters of one generator.  network: it, not learning; the device is the one to compute on."""

    network: GeneratorNetwork
    settings: AdapterSettings
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        self.network = self.network.to(self.device)
        self._fitted: LastTwo[bytes, Values] = LastTwo()
        self.adapted = AdaptedNetwork(self.network)

    def fit(self, base: Planes, source: Planes, quantiser: int, *, byte_price: float = 0.0) -> Values:
        """Return the adapter, as `generator.adapter` says, that makes the keyframe most like its source.

        base, source: planes of even sizes, at least 64 each way.  quantiser: what the generator is told.
        byte_price: by what share of itself the loss must fall for one byte of the adapter.  Deterministic for
        a seed.  The last two are remembered: what is coded anew against a generated still asks for the same
        again.
        """
        digest = hashlib.blake2b(f"{quantiser} {base[0].shape} {byte_price}".encode(), digest_size=16)
        for plane in (*base, *source):
            digest.update(np.ascontiguousarray(plane).data)

        def fitted() -> Values:
            nothing = np.zeros(self.adapted.adapter_length, np.int8)
            descent = _Descent(self, nothing, base, source, quantiser, (), byte_price)
            return descent.run(self.settings.steps, self.settings.rate)

        return self._fitted.get(digest.digest(), fitted)

    def refine(
        self,
        values: Values,
        base: Planes,
        source: Planes,
        quantiser: int,
        later: Sequence[LaterFrame],
        *,
        byte_price: float = 0.0,
    ) -> Values:
        """Return an adapter near ``values`` that serves later frames too.

        They are predicted by the decode operator,

            F_t(new) = F_t(values) + A_t (G(new) - G(values)),

        where F_t(values) is a real decode: what the operator cannot explain of that is no part of the
        gradient.  Otherwise as `fit`.
        """
        descent = _Descent(self, values, base, source, quantiser, later, byte_price)
        return descent.run(self.settings.joint_steps, self.settings.joint_rate)

    def generate(self, coded: Pair, quantiser: int, values: Sequence[torch.Tensor]) -> Pair:
        """Generate at strength 1 with adapters as `AdaptedNetwork.split` has them; sizes in its grid."""
        told = torch.full((len(coded[0]), 1, 1, 1), quantiser / 255, device=self.device)
        quick = quick_dtype(self.device) is torch.bfloat16
        with torch.autocast(self.device.type, torch.bfloat16, enabled=quick):
            y, uv = self.adapted(*coded, told, adapter=values)
        return y.float(), uv.float()


def arriving(change: Pair, frame_map: FrameMap, place: Place, region: Place) -> Pair:
    """What a change of a region of the keyframe becomes in a crop of a later frame; none from outside of it.

    change: luma (1, H, W) and chroma (2, H/2, W/2) of the region.  place: of the crop.  Returns a batch of
    one.  As DecodeOperator, but for its gains per band and at the edges of the picture, beyond which nothing
    is taken to be there.
    """
    displacement = torch.from_numpy(frame_map.displacement[:, *place].astype(np.float32))
    displacement = displacement.to(change[0].device)
    first = [float(part.start - whole.start) for part, whole in zip(place, region, strict=True)]
    found = []
    for plane, gain, moved, scale in (
        (change[0], frame_map.gain_y[place], displacement, 1),
        (change[1], frame_map.gain_uv[_half(place)], downscale(displacement), 2),
    ):
        offset = torch.tensor(first[::-1], device=plane.device)[:, None, None] / scale
        sampled = sample(plane, moved + offset)
        inside = torch.ones_like(sampled[0], dtype=torch.bool)
        for axis, side in ((0, plane.shape[2]), (1, plane.shape[1])):
            along = torch.arange(moved.shape[2 - axis], device=plane.device)
            at = (along if axis == 0 else along[:, None]) + offset[axis] + moved[axis]
            inside &= (at >= 0) & (at <= side - 1)
        arrived = torch.from_numpy(gain.astype(np.float32)).to(plane.device)
        found.append((sampled * arrived * inside)[None])
    return found[0], found[1]


class _Descent:
    """One run of gradient descent.  See AdapterFitter."""

    def __init__(
        self,
        fitter: AdapterFitter,
        start: Values,
        base: Planes,
        source: Planes,
        quantiser: int,
        later: Sequence[LaterFrame],
        byte_price: float,
    ) -> None:
        self._fitter = fitter
        self._start = fitter.adapted.split(start)
        self._base, self._source = base, source
        self._quantiser = quantiser
        self._later = later
        self._byte_price = byte_price
        height, width = base[0].shape
        side = fitter.settings.crop_size
        grid = self._grid = fitter.network.config.grid
        # No smaller picture than its crop, and no crop beyond the picture.
        self._crop = tuple(min(side, whole) // grid * grid for whole in (height, width))
        margin = _MARGIN if later else 0
        self._region = tuple(
            min(crop + 2 * margin, whole // grid * grid)
            for crop, whole in zip(self._crop, (height, width), strict=True)
        )

    def run(self, steps: int, rate: float) -> Values:
        settings = self._fitter.settings
        values = [value.clone().requires_grad_() for value in self._start]

        def batch(crops: int, rng: torch.Generator) -> tuple[Pair, Pair]:
            return self._batch([_rounded(value) for value in values], crops, rng)

        rate_of = AdapterRate()

        def price() -> torch.Tensor:
            return self._byte_price / 8 * rate_of(values)

        pace = Pace(steps=steps, rate=rate, last_share=_LAST_RATE_SHARE)
        descend(values, batch, price, pace, crops=settings.crops, seed=settings.seed)
        fitted = torch.cat([_rounded(value).detach().flatten() for value in values])
        return fitted.cpu().numpy().astype(np.int8)

    def _batch(self, values: Sequence[torch.Tensor], crops: int, rng: torch.Generator) -> tuple[Pair, Pair]:
        """Crops as predicted, and of the sources, of the keyframe and later frames in equal shares."""
        frames = [random_below(1 + len(self._later), rng) for _ in range(crops)]
        places = [self._place(rng) for _ in frames]
        regions = [self._region_of(frame, place) for frame, place in zip(frames, places, strict=True)]
        coded = _joined([self._cut(self._base, region) for region in regions])
        made = self._fitter.generate(coded, self._quantiser, values)
        before = made
        if any(frames):
            with torch.no_grad():
                before = self._fitter.generate(coded, self._quantiser, self._start)
        predicted, wanted = [], []
        for index, (frame, place, region) in enumerate(zip(frames, places, regions, strict=True)):
            if frame == 0:
                inner = _relative(place, region)
                predicted.append(
                    (made[0][index : index + 1, :, *inner], made[1][index : index + 1, :, *_half(inner)])
                )
                wanted.append(self._cut(self._source, place))
                continue
            later = self._later[frame - 1]
            change = made[0][index] - before[0][index], made[1][index] - before[1][index]
            decoded = self._cut(later.decoded, place)
            arrived = arriving(change, later.frame_map, place, region)
            predicted.append((decoded[0] + arrived[0], decoded[1] + arrived[1]))
            wanted.append(self._cut(later.source, place))
        luma, chroma = _joined(predicted)
        return (luma.clamp(0, 1), chroma.clamp(0, 1)), _joined(wanted)

    def _place(self, rng: torch.Generator) -> Place:
        """A crop on the network's grid: it sees the whole picture at one phase of that."""
        rows, columns = (
            self._grid * random_below((whole - crop) // self._grid + 1, rng)
            for whole, crop in zip(self._base[0].shape, self._crop, strict=True)
        )
        return slice(rows, rows + self._crop[0]), slice(columns, columns + self._crop[1])

    def _region_of(self, frame: int, place: Place) -> Place:
        """The part of the keyframe that a crop of a frame is made from."""
        moved = [0.0, 0.0]
        if frame:
            displacement = self._later[frame - 1].frame_map.displacement[:, *place]
            # x comes first there.
            moved = np.median(displacement.reshape(2, -1), 1)[::-1].tolist()
        found = []
        for part, shift, side, whole in zip(place, moved, self._region, self._base[0].shape, strict=True):
            middle = (part.start + part.stop) / 2 + shift
            first = round((middle - side / 2) / self._grid) * self._grid
            first = min(max(first, 0), (whole - side) // self._grid * self._grid)
            found.append(slice(first, first + side))
        return found[0], found[1]

    def _cut(self, planes: Planes, place: Place) -> Pair:
        half = _half(place)
        y, u, v = (
            torch.from_numpy(plane[part].astype(np.float32)).to(self._fitter.device) / 255
            for plane, part in zip(planes, (place, half, half), strict=True)
        )
        return y[None, None], torch.stack([u, v])[None]


def _rounded(value: torch.Tensor) -> torch.Tensor:
    """Integers, with gradients as if they were not rounded."""
    return value + (value.round().clamp(-MAX_VALUE, MAX_VALUE) - value).detach()


def _joined(pairs: Sequence[Pair]) -> Pair:
    return torch.cat([luma for luma, _ in pairs]), torch.cat([chroma for _, chroma in pairs])


def _half(place: Place) -> Place:
    rows, columns = (slice(part.start // 2, part.stop // 2) for part in place)
    return rows, columns


def _relative(place: Place, region: Place) -> Place:
    rows, columns = (
        slice(part.start - whole.start, part.stop - whole.start)
        for part, whole in zip(place, region, strict=True)
    )
    return rows, columns
