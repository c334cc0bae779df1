"""Trains the generator: warm-up and cosine schedule, EMA, checkpoints that resume exactly, validation."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch

from hybridprompt.errors import ConfigError
from hybridprompt.evaluate.colour import yuv420_to_rgb
from hybridprompt.evaluate.loss import GeneratorLoss
from hybridprompt.evaluate.perceptual import Dists, Lpips
from hybridprompt.generator.network import GeneratorNetwork
from hybridprompt.train.adversarial import AdversarialStage, restore_optimiser
from hybridprompt.train.captured import CapturedStep, DeviceLoss, with_generated_inputs
from hybridprompt.train.config import TrainConfig
from hybridprompt.train.integers import InIntegers
from hybridprompt.train.prune import pruned
from hybridprompt.train.resident import ResidentSamples
from hybridprompt.train.samples import Batch, SampleStore, even_samples, whole_picture
from hybridprompt.train.teacher import Teacher, narrow, read_weights, widen

logger = logging.getLogger(__name__)

_PRUNING_PICTURES = 20
"""Of each corpus; see TrainConfig.prune_from."""

Report = Callable[[str], None]

TakeStep = Callable[[], dict[str, float | None]]
"""Takes a step; returns those terms of the loss that are known by then."""


@dataclass(frozen=True)
class Scores:
    """Mean distances of held-out pictures, base against generated."""

    step: int
    base: dict[str, float]
    generated: dict[str, float]

    def summary(self) -> str:
        cells = []
        for name, base in self.base.items():
            value = self.generated[name]
            relative = 100 * (value / base - 1) if base else 0.0
            change = f"{value - base:+.2f} dB" if name == "psnr" else f"{relative:+.1f} %"
            cells.append(f"{name} {base:.4f} -> {value:.4f} ({change})")
        return f"step {self.step}: " + ", ".join(cells)


class Ema:
    """Exponential moving average of the weights, with a warm-up so that early weights are forgotten."""

    def __init__(self, network: GeneratorNetwork, decay: float) -> None:
        self.decay = decay
        self.network = GeneratorNetwork(network.config)
        self.network.load_state_dict(network.state_dict())
        self.network.requires_grad_(False)

    def decay_at(self, step: int) -> float:
        """What is kept of the average after so many steps."""
        return min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, network: GeneratorNetwork, step: int) -> None:
        decay = self.decay_at(step)
        for mean, value in zip(self.network.parameters(), network.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)


def learning_rate(config: TrainConfig, step: int, spent: float = 0.0) -> float:
    """Linear warm-up, then a cosine to a hundredth; ``spent`` seconds of training came before the step.

    The cosine by time begins with the run, so that its rate falls a little where the warm-up ends.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    if config.seconds:
        progress = max(progress, spent / config.seconds)
    return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


@contextmanager
def _told_where(path: Path) -> Iterator[None]:
    """Turn what torch raises for a missing, damaged or unfit file into ConfigError."""
    try:
        yield
    except (OSError, EOFError, UnpicklingError, LookupError, TypeError, RuntimeError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be continued from: {error}") from error


class Trainer:
    """Owns a run's folder: ``checkpoint.pt``, ``log.jsonl`` and ``ema.pt``.

    With ``resume`` it goes on from the checkpoint there, exactly as if it had never stopped.  Raises
    ConfigError when that, or what the run starts from, does not fit the network.
    """

    def __init__(self, config: TrainConfig, *, resume: bool = True) -> None:
        self.config = config
        self.device = torch.device(config.device)
        self.dtype: torch.dtype = getattr(torch, config.precision)
        # Of shapes that never change.
        torch.backends.cudnn.benchmark = config.captured
        self.folder = config.run_folder
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(config.seed)
        self.network = GeneratorNetwork(config.network).to(
            self.device,
            memory_format=torch.channels_last,  # type: ignore[call-overload]
        )
        self.learning = InIntegers(self.network) if config.in_integers else self.network
        """The network as it learns."""
        self.ema = Ema(self.network, config.ema_decay)
        self.ema.network.to(self.device)
        # A captured step reads its learning rate on the device.
        on_device = config.captured and self.device.type == "cuda"
        rate = torch.tensor(config.learning_rate, device=self.device) if on_device else config.learning_rate
        self.optimiser = torch.optim.Adam(
            self.network.parameters(),
            lr=rate,
            betas=(0.9, 0.99),
            capturable=on_device,
            fused=on_device or None,
        )
        self.rng = np.random.default_rng(config.seed)
        self.torch_rng = torch.Generator().manual_seed(config.seed)
        self.adversarial = None
        if config.adversarial.weight > 0:
            self.adversarial = AdversarialStage(
                config.adversarial, device=self.device, seed=config.seed, captured=config.captured
            )
        self.step = 0
        self.spent = 0.0
        checkpoint = self.folder / "checkpoint.pt"
        # `narrow` indexes its weights by tensors that are there.
        cpu = torch.device("cpu")
        if resume and checkpoint.exists():
            with _told_where(checkpoint):
                self._restore(torch.load(checkpoint, map_location=self.device, weights_only=True))
        elif config.start_from is not None:
            with _told_where(config.start_from):
                self._start_with(read_weights(config.start_from, self.device))
        elif config.narrow_from is not None:
            with _told_where(config.narrow_from):
                larger = read_weights(config.narrow_from, cpu, integers=True)
                self._start_with(self.network.state_dict() | narrow(larger, config.network))
        elif config.prune_from is not None:
            samples = [s for store in self._folders("train") for s in even_samples(store, _PRUNING_PICTURES)]
            with _told_where(config.prune_from):
                larger = read_weights(config.prune_from, cpu, integers=True)
                self._start_with(pruned(larger, config.network, samples))
        elif config.widen_from is not None:
            with _told_where(config.widen_from):
                smaller = read_weights(config.widen_from, cpu, integers=True)
                self._start_with(widen(smaller, self.network.state_dict()))
        self.teacher = None
        if config.distillation is not None:
            with _told_where(config.distillation.teacher):
                weights = read_weights(config.distillation.teacher, self.device, integers=True)
                self.teacher = Teacher(weights, self.device)

    def _start_with(self, weights: dict[str, torch.Tensor]) -> None:
        # A level that they lack does nothing yet.
        own = {name: value for name, value in self.network.state_dict().items() if name.startswith("deep.")}
        for network in (self.network, self.ema.network):
            network.load_state_dict(own | weights)

    def _restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.ema.network.load_state_dict(state["ema"])
        restore_optimiser(self.optimiser, state["optimiser"])
        self.rng.bit_generator.state = state["numpy_rng"]
        self.torch_rng.set_state(state["torch_rng"].cpu())
        if self.adversarial is not None and "adversarial" in state:
            self.adversarial.restore(state["adversarial"])
        self.step = state["step"]
        self.spent = state.get("spent", 0.0)

    def save(self) -> None:
        """Write the checkpoint and the EMA weights, each by renaming."""
        state = {
            "network": self.network.state_dict(),
            "ema": self.ema.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "numpy_rng": self.rng.bit_generator.state,
            "torch_rng": self.torch_rng.get_state(),
            "step": self.step,
            "spent": self.spent,
        }
        if self.adversarial is not None:
            state["adversarial"] = self.adversarial.state()
        weights = {
            "network": self.ema.network.state_dict(),
            "config": self.config.network.as_dict(),
            "step": self.step,
        }
        for name, value in (("checkpoint.pt", state), ("ema.pt", weights)):
            temporary = self.folder / f".{name}.partial"
            torch.save(value, temporary)
            os.replace(temporary, self.folder / name)

    def _log(self, record: dict[str, Any]) -> None:
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")

    @property
    def _generated(self) -> int:
        """How many crops of a batch have what the network makes for an input."""
        return round(self.config.generated_inputs * self.config.batch)

    def _autocast(self) -> AbstractContextManager[object]:
        half = self.dtype == torch.bfloat16
        return torch.autocast(self.device.type, torch.bfloat16, enabled=half)

    def _learn(self, batch: Batch, loss: GeneratorLoss) -> dict[str, float | None]:
        """Take one step on a batch; returns the terms of the loss."""
        config, step = self.config, self.step
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(config, step, self.spent)
        shape = (self._generated, 1, 1, 1)
        strengths = torch.rand(shape, generator=self.torch_rng).to(self.device)
        chosen = torch.randperm(config.batch, generator=self.torch_rng)[: self._generated].to(self.device)
        with self._autocast():
            batch = with_generated_inputs(self.network, batch, chosen, strengths)
            made = self.learning(*batch.coded, batch.quantiser)
        generated = made[0].float(), made[1].float()
        terms = loss(generated, batch.source, step)
        total = terms.total
        found = {n: getattr(terms, n) for n in ("alex", "pixel", "band", "vgg", "dists")}
        if self.teacher is not None and config.distillation is not None:
            distance = self.teacher.distance(generated, batch)
            total = total + config.distillation.weight * distance
            found["teacher"] = float(distance.detach())
        stage = self.adversarial
        if stage is not None and stage.active(step):
            total = total + config.adversarial.weight * stage.term(generated[0])
        self.optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.clip_norm)
        if bool(torch.isfinite(norm)):
            self.optimiser.step()
        if stage is not None and stage.learns(step):
            found["discriminator"] = float(stage.learn(generated[0], batch.source[0]))
        self.step += 1
        self.ema.update(self.network, self.step)
        return found

    def _store(self, split: str) -> SampleStore:
        config = self.config
        return SampleStore(*self._folders(split), finest=(config.finest_key, config.finest_inter))

    def _folders(self, split: str) -> list[Path]:
        return [folder / split for folder in (self.config.corpus, *self.config.more_corpora)]

    def _captured_steps(self, store: SampleStore) -> TakeStep:
        config = self.config
        captured = CapturedStep(
            self.network,
            self.ema.network,
            self.optimiser,
            ResidentSamples(store.samples, config.crop, self.device, turned=config.turned),
            DeviceLoss(config.loss, config.crop, self.device, self.dtype),
            batch=config.batch,
            generated=self._generated,
            clip_norm=config.clip_norm,
            dtype=self.dtype,
            adversarial=self.adversarial,
            learning=self.learning,
        )

        def take() -> dict[str, float | None]:
            rate = learning_rate(config, self.step, self.spent)
            captured.step(self.rng, self.step, rate, self.ema.decay_at(self.step + 1))
            self.step += 1
            return dict(captured.means()) if self.step % config.log_every == 0 else {}

        return take

    def _plain_steps(self, store: SampleStore) -> TakeStep:
        config = self.config
        loss = GeneratorLoss(config.loss, self.device, self.torch_rng, alex_dtype=self.dtype)

        def take() -> dict[str, float | None]:
            batch = store.batch(self.rng, config.batch, config.crop, device=self.device, turned=config.turned)
            return self._learn(batch, loss)

        return take

    def run(self, report: Report = logger.info) -> Scores:
        """Train until ``config.steps``, or for ``config.seconds``; validates at the end, and returns that."""
        config = self.config
        train, validation = (self._store(split) for split in ("train", "validation"))
        take = self._captured_steps(train) if config.captured else self._plain_steps(train)
        started, saved, first = time.monotonic(), time.monotonic(), self.step
        terms: dict[str, list[float]] = {}
        scores = None
        while self.step < config.steps and not 0 < config.seconds <= self.spent:
            begun = time.monotonic()
            found = take()
            self.spent += time.monotonic() - begun
            for name, value in found.items():
                if value is not None:
                    terms.setdefault(name, []).append(value)
            if self.step % config.log_every == 0:
                record: dict[str, float] = {"step": self.step}
                record |= {name: float(np.mean(values)) for name, values in terms.items()}
                record["seconds_per_step"] = (time.monotonic() - started) / (self.step - first)
                self._log(record)
                report(" ".join(f"{k} {v:.5g}" for k, v in record.items()))
                terms.clear()
            if self.step % config.validate_every == 0:
                train.refresh()
                validation.refresh()
                scores = self.validate(validation)
                self._log({"validation": asdict(scores)})
                report(scores.summary())
            if time.monotonic() - saved > config.save_seconds:
                self.save()
                saved = time.monotonic()
        self.save()
        if scores is None or scores.step != self.step:
            scores = self.validate(validation)
            self._log({"validation": asdict(scores)})
        return scores

    @torch.no_grad()
    def validate(self, store: SampleStore) -> Scores:
        """Measure held-out pictures: LPIPS-Alex and PSNR whole, LPIPS-VGG and DISTS on their centres."""
        return validate(
            self.ema.network,
            store,
            step=self.step,
            count=self.config.validation_pictures,
            device=self.device,
        )


def _psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * torch.log10(((a - b) ** 2).mean().clamp_min(1e-10)))


@torch.no_grad()
def validate(
    network: GeneratorNetwork,
    store: SampleStore,
    *,
    step: int,
    count: int,
    device: torch.device,
    centre: int = 256,
) -> Scores:
    """Compare base and generated pictures of ``store`` with their sources; an even sample of ``count``."""
    alex, vgg, dists = Lpips("alex", device=device), Lpips("vgg", device=device), Dists(device=device)
    chosen = [store.samples[int(i)] for i in np.linspace(0, len(store.samples) - 1, count)]
    rows: dict[str, list[list[float]]] = {name: [] for name in ("alex", "vgg", "dists", "psnr")}
    for sample in chosen:
        for limit in (1280, centre):
            batch = whole_picture(sample, limit)
            coded = batch.coded[0].to(device), batch.coded[1].to(device)
            source = batch.source[0].to(device), batch.source[1].to(device)
            y, uv = network(*coded, batch.quantiser.to(device))
            generated = ((y * 255).round().clamp(0, 255) / 255, (uv * 255).round().clamp(0, 255) / 255)
            target = yuv420_to_rgb(*source)
            pictures = [yuv420_to_rgb(*planes) for planes in (coded, generated)]
            if limit != centre:
                rows["alex"].append([float(alex(p, target)) for p in pictures])
                rows["psnr"].append([_psnr(coded[0], source[0]), _psnr(generated[0], source[0])])
            else:
                rows["vgg"].append([float(vgg(p, target)) for p in pictures])
                rows["dists"].append([float(dists(p, target)) for p in pictures])
    means = {name: np.mean(values, 0) for name, values in rows.items()}
    return Scores(
        step, {n: float(m[0]) for n, m in means.items()}, {n: float(m[1]) for n, m in means.items()}
    )
