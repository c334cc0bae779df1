"""A training step that a device takes without waiting for the processor.

What `loop.Trainer` does for a batch, with all random choices as numbers in tensors of fixed places and
nothing read back: on CUDA it is captured once for every scale and replayed (see PyTorch, "CUDA graphs"),
elsewhere it runs as it is.  Samples lie on the device.  Distances are those of `evaluate.loss`; only where
they look is chosen another way, by matrices that cut and rescale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from hybridprompt.evaluate.colour import yuv420_to_rgb
from hybridprompt.evaluate.loss import LossWeights, band_loss, mean_distance, pixel_loss
from hybridprompt.evaluate.perceptual import Dists, Lpips, quick_dtype
from hybridprompt.generator.network import GeneratorNetwork
from hybridprompt.train.adversarial import AdversarialStage
from hybridprompt.train.integers import InIntegers
from hybridprompt.train.resident import DRAWN, ResidentSamples
from hybridprompt.train.samples import Batch, Planes

TERMS = ("alex", "pixel", "band", "vgg", "dists", "discriminator")
SCALES = (0.8, 1.0, 1.25)
"""AlexNet looks at one of them."""

PHASES = 8
"""Samples that it leaves out, some of them in front."""

Terms = dict[str, torch.Tensor]
"""Scalars by their names, some of TERMS."""

_TINY = 1e-20
"""Of squares: LPIPS divides by a norm plus 1e-10."""

_STABILISER, _POOL_FLOOR = 1e-6, 1e-12
_WARM_UP_STEPS = 3
_STEPS_AHEAD = 16
"""How many the processor may be ahead of the device."""


@dataclass(frozen=True)
class Kind:
    """What a step does: at which scale, whether VGG16 looks, whether D learns, and whether D counts."""

    scale: int
    late: bool
    learning: bool = False
    playing: bool = False


def view_weights(length: int, start: int, scale: float) -> torch.Tensor:
    """Weights (seen, length) that cut ``PHASES`` samples off, ``start`` of them in front, and rescale."""
    seen = torch.eye(length)[start : length - PHASES + start]
    if scale != 1.0:
        size = round(seen.shape[0] * scale), length
        seen = F.interpolate(seen[None, None], size=size, mode="bilinear", antialias=True)[0, 0]
    return seen.contiguous()


def _lpips_distance(
    found: list[torch.Tensor], wanted: list[torch.Tensor], linear: list[torch.Tensor]
) -> torch.Tensor:
    """LPIPS of activations (N, C, H, W) as the network gives them; (N,)."""
    total = torch.zeros(len(found[0]), device=found[0].device)
    for x, y, weight in zip(found, wanted, linear, strict=True):
        x, y = x.float(), y.float()
        x, y = (z / ((z * z).sum(1, keepdim=True) + _TINY).sqrt() for z in (x, y))
        total = total + ((x - y).square() * weight).sum(1).mean((1, 2))
    return total


def _dists_distance(
    found: list[torch.Tensor], wanted: list[torch.Tensor], shares: list[tuple[torch.Tensor, torch.Tensor]]
) -> torch.Tensor:
    """DISTS of the picture and its activations (N, C, H, W); (N,)."""
    similarity = torch.zeros(len(found[0]), device=found[0].device)
    for x, y, (alpha, beta) in zip(found, wanted, shares, strict=True):
        x, y = x.float(), y.float()
        mean_x, mean_y = x.mean((2, 3), keepdim=True), y.mean((2, 3), keepdim=True)
        texture = (2 * mean_x * mean_y + _STABILISER) / (mean_x**2 + mean_y**2 + _STABILISER)
        x, y = x - mean_x, y - mean_y
        squares = (x * x).mean((2, 3), keepdim=True) + (y * y).mean((2, 3), keepdim=True)
        structure = (2 * (x * y).mean((2, 3), keepdim=True) + _STABILISER) / (squares + _STABILISER)
        similarity = similarity + (alpha * texture + beta * structure).sum((1, 2, 3))
    return 1 - similarity


def _binomial_pool(x: torch.Tensor) -> torch.Tensor:
    """What DISTS has for pooling, as slices, which fuse into one kernel."""
    squares = F.pad(x * x, (1, 1, 1, 1))
    rows = (squares[:, :, :-2:2] + squares[:, :, 2::2]) * 0.25 + squares[:, :, 1:-1:2] * 0.5
    columns = (rows[..., :-2:2] + rows[..., 2::2]) * 0.25 + rows[..., 1:-1:2] * 0.5
    return (columns + _POOL_FLOOR).sqrt()


def _fused(function: Callable[..., torch.Tensor], device: torch.device) -> Callable[..., torch.Tensor]:
    """Its operations in few kernels, on CUDA: of so many small ones, most time goes to memory."""
    if device.type != "cuda":
        return function
    # One for every shape, with gradients and without.
    torch._dynamo.config.recompile_limit = 64
    return torch.compile(function, dynamic=False)


class DeviceLpips(Lpips):
    """LPIPS whose features are not normalised before they are compared."""

    def __init__(self, network: Literal["alex", "vgg"], device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(network, device=device, dtype=dtype)
        # AlexNet's activations are small, and of three scales, each of which would be compiled.
        self._distance = _fused(_lpips_distance, device) if network == "vgg" else _lpips_distance
        self._weights = [weight.view(1, -1, 1, 1) for weight in self.linear]

    def features(self, rgb: torch.Tensor) -> list[torch.Tensor]:
        """Activations of the five stages, as the network computes them."""
        return self.activations(rgb)

    def distance(self, a: list[torch.Tensor], b: list[torch.Tensor]) -> torch.Tensor:
        """Distance of two lists of features: (N,)."""
        return self._distance(a, b, self._weights)


class DeviceDists(Dists):
    """DISTS in few kernels."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(device=device, dtype=dtype)
        self._distance = _fused(_dists_distance, device)
        self._pooled = _fused(_binomial_pool, device)
        self._shares = [
            (alpha.view(1, -1, 1, 1), beta.view(1, -1, 1, 1))
            for alpha, beta in zip(self.alpha, self.beta, strict=True)
        ]

    def _l2_pool(self, x: torch.Tensor) -> torch.Tensor:
        return self._pooled(x)

    def features(self, rgb: torch.Tensor) -> list[torch.Tensor]:
        """The picture itself and the activations of the five stages, as the network computes them."""
        return self.activations(rgb)

    def distance(self, a: list[torch.Tensor], b: list[torch.Tensor]) -> torch.Tensor:
        """Distance of two lists of features: (N,)."""
        return self._distance(a, b, self._shares)


class DeviceLoss:
    """The loss of `evaluate.loss` for crops of ``size`` luma pixels, nothing of it read back.

    Where it looks is in tensors that `look` fills.
    """

    def __init__(self, weights: LossWeights, size: int, device: torch.device, dtype: torch.dtype) -> None:
        self.weights = weights
        self.size = size
        self.device = device
        quick = quick_dtype(device)
        self._alex = DeviceLpips("alex", device, dtype) if weights.alex > 0 else None
        self._vgg = DeviceLpips("vgg", device, quick) if weights.vgg > 0 else None
        self._dists = DeviceDists(device, quick) if weights.dists > 0 else None
        self._choices = [
            [view_weights(size, start, scale).to(device) for start in range(PHASES + 1)] for scale in SCALES
        ]
        self._views = [tuple(torch.zeros_like(views[0]) for _ in range(2)) for views in self._choices]
        self._late = min(weights.vgg_size, size)
        self._places = [torch.zeros(self._late, dtype=torch.long, device=device) for _ in range(2)]

    @property
    def has_late_terms(self) -> bool:
        """Whether VGG16 takes part."""
        return self._vgg is not None or self._dists is not None

    def look(self, rng: np.random.Generator, kind: Kind) -> None:
        """Choose where the next step looks."""
        for matrix, start in zip(self._views[kind.scale], rng.integers(0, PHASES + 1, 2), strict=True):
            matrix.copy_(self._choices[kind.scale][int(start)])
        for places, start in zip(self._places, rng.integers(0, self.size - self._late + 1, 2), strict=True):
            places.copy_(torch.arange(self._late) + int(start), non_blocking=True)

    def __call__(self, generated: Planes, source: Planes, kind: Kind) -> tuple[torch.Tensor, Terms]:
        """Total and detached terms for planes (N, 1, H, W) and (N, 2, H/2, W/2), both in float32."""
        weights = self.weights
        rgb, target = yuv420_to_rgb(*generated), yuv420_to_rgb(*source)
        alex = rgb.new_zeros(())
        if self._alex is not None:
            rows, columns = self._views[kind.scale]
            alex = mean_distance(self._alex, rows @ rgb @ columns.T, rows @ target @ columns.T)
        pixel = pixel_loss(generated, source)
        band = band_loss(generated[0], source[0])
        total = weights.alex * alex + weights.pixel * pixel + weights.band * band
        terms = {"alex": alex, "pixel": pixel, "band": band}
        if kind.late:
            seen, seen_target = (
                picture[: weights.vgg_crops].index_select(2, self._places[0]).index_select(3, self._places[1])
                for picture in (rgb, target)
            )
            if self._vgg is not None:
                terms["vgg"] = mean_distance(self._vgg, seen, seen_target)
                total = total + weights.vgg * terms["vgg"]
            if self._dists is not None:
                terms["dists"] = mean_distance(self._dists, seen, seen_target)
                total = total + weights.dists * terms["dists"]
        return total, {name: term.detach() for name, term in terms.items()}


@torch.no_grad()
def with_generated_inputs(
    network: GeneratorNetwork, batch: Batch, chosen: torch.Tensor, strengths: torch.Tensor
) -> Batch:
    """Replace coded crops by what the network makes of them, at strengths (count, 1, 1, 1).

    chosen: which of them, (count,) int64.  The terms of VGG16 look at the first crops of a batch only: so
    that these have their share of such crops and no more, they are chosen anew for every step.

    An anchor inside a GOP is predicted from generated pictures: there the network must leave the detail
    that it meets alone, and not pile more upon it.
    """
    if len(strengths) == 0:
        return batch
    coded = batch.coded[0][chosen], batch.coded[1][chosen]
    made = network(*coded, batch.quantiser[chosen])
    planes = []
    for whole, mine, generated in zip(batch.coded, coded, made, strict=True):
        mixed = (mine + strengths * (generated - mine)).clamp(0, 1)
        planes.append(whole.index_copy(0, chosen, ((mixed * 255).round() / 255).to(whole.dtype)))
    return Batch((planes[0], planes[1]), batch.source, batch.quantiser)


class CapturedStep:
    """Steps of one run.

    mean: the moving average of the network; optimiser: on CUDA capturable, with its learning rate in a
    tensor; batch: crops of a step; generated: how many of them have what the network makes for an input;
    dtype: of the network's arithmetic; learning: what is called in place of the network when it learns.
    """

    def __init__(
        self,
        network: GeneratorNetwork,
        mean: GeneratorNetwork,
        optimiser: torch.optim.Adam,
        samples: ResidentSamples,
        loss: DeviceLoss,
        *,
        batch: int,
        generated: int,
        clip_norm: float,
        dtype: torch.dtype,
        adversarial: AdversarialStage | None = None,
        learning: GeneratorNetwork | InIntegers | None = None,
    ) -> None:
        self.learning = learning or network
        self.network, self.mean, self.optimiser = network, mean, optimiser
        self.samples, self.loss, self.adversarial = samples, loss, adversarial
        self.batch, self.clip_norm, self.dtype = batch, clip_norm, dtype
        self.device = loss.device
        self._captures = self.device.type == "cuda"
        self._drawn = torch.zeros(batch, DRAWN, dtype=torch.long, device=self.device)
        self._quantisers = torch.zeros(batch, 1, 1, 1, device=self.device)
        self._strengths = torch.zeros(generated, 1, 1, 1, device=self.device)
        self._chosen = torch.zeros(generated, dtype=torch.long, device=self.device)
        self._renewed = torch.zeros((), device=self.device)
        """Share of the moving average that the next step replaces."""
        self._sums = {name: torch.zeros(2, device=self.device) for name in TERMS}
        self._graphs: dict[Kind, Callable[[], None]] = {}
        self._taken = 0

    def step(self, rng: np.random.Generator, step: int, rate: float, decay: float) -> None:
        """Take a step; ``rate`` is of the optimiser, ``decay`` of the moving average."""
        weights, stage = self.loss.weights, self.adversarial
        kind = Kind(
            scale=int(rng.integers(len(SCALES))),
            late=self.loss.has_late_terms and step % weights.vgg_every == 0,
            learning=stage is not None and stage.learns(step),
            playing=stage is not None and stage.active(step),
        )
        self.loss.look(rng, kind)
        drawn, quantisers = self.samples.draw(rng, self.batch)
        self._drawn.copy_(drawn, non_blocking=True)
        self._quantisers.copy_(quantisers, non_blocking=True)
        strengths = rng.random((len(self._strengths), 1, 1, 1), np.float32)
        self._strengths.copy_(torch.from_numpy(strengths), non_blocking=True)
        chosen = rng.permutation(self.batch)[: len(self._chosen)]
        self._chosen.copy_(torch.from_numpy(chosen), non_blocking=True)
        self._renewed.fill_(1 - decay)
        if stage is not None:
            stage.look(rng, self.loss.size)
        if kind not in self._graphs:
            self._graphs[kind] = self._captured(kind) if self._captures else lambda: self._run(kind)
        for group in self.optimiser.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        self._graphs[kind]()
        self._taken += 1
        if self._captures and self._taken % _STEPS_AHEAD == 0:
            torch.cuda.synchronize(self.device)

    def means(self) -> dict[str, float]:
        """Means of the terms since the last call; waits for the device."""
        found = {name: (float(s[0]), float(s[1])) for name, s in self._sums.items()}
        for sums in self._sums.values():
            sums.zero_()
        return {name: total / count for name, (total, count) in found.items() if count}

    def _run(self, kind: Kind) -> None:
        batch = self.samples.batch(self._drawn, self._quantisers)
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16, cache_enabled=False
        ):
            batch = with_generated_inputs(self.network, batch, self._chosen, self._strengths)
            made = self.learning(*batch.coded, batch.quantiser)
        generated = made[0].float(), made[1].float()
        total, terms = self.loss(generated, batch.source, kind)
        if kind.playing and self.adversarial is not None:
            total = total + self.adversarial.settings.weight * self.adversarial.term(generated[0])
        self.optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        parameters: list[torch.Tensor] = list(self.network.parameters())
        torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        for parameter in parameters:
            if parameter.grad is not None:
                # Where gradients are no numbers, only the optimiser's momentum moves the weights.
                parameter.grad.nan_to_num_(0.0, 0.0, 0.0)
        self.optimiser.step()
        if kind.learning and self.adversarial is not None:
            terms["discriminator"] = self.adversarial.learn(generated[0], batch.source[0])
        with torch.no_grad():
            means: list[torch.Tensor] = list(self.mean.parameters())
            steps = list(torch._foreach_sub(parameters, means))
            torch._foreach_mul_(steps, self._renewed)
            torch._foreach_add_(means, steps)
            for name, term in terms.items():
                self._sums[name] += torch.stack([term, torch.ones_like(term)])

    def _learnt(self) -> list[torch.Tensor]:
        """All that a step changes."""
        optimisers: list[torch.optim.Optimizer] = [self.optimiser]
        tensors = [*self.network.parameters(), *self.mean.parameters(), *self._sums.values()]
        if self.adversarial is not None:
            tensors += self.adversarial.discriminator.parameters()
            optimisers.append(self.adversarial.optimiser)
        for optimiser in optimisers:
            for state in optimiser.state.values():
                tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
        return [tensor.detach() for tensor in tensors]

    def _captured(self, kind: Kind) -> Callable[[], None]:
        """Capture a step; what the trials before it have changed is put back."""
        before = self._learnt()
        kept = [tensor.clone() for tensor in before]
        places = {tensor.data_ptr() for tensor in before}
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP_STEPS):
                self._run(kind)
        torch.cuda.current_stream(self.device).wait_stream(stream)
        self._forget_gradients()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._run(kind)
        for tensor, value in zip(before, kept, strict=True):
            tensor.copy_(value)
        for tensor in self._learnt():
            # An optimiser's memory that the trials have made.
            if tensor.data_ptr() not in places:
                tensor.zero_()
        return graph.replay

    def _forget_gradients(self) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        if self.adversarial is not None:
            self.adversarial.optimiser.zero_grad(set_to_none=True)
