"""An optional late stage: a discriminator of luma patches tells generated pictures from sources.

    L_d = mean(relu(1 - D(source))) + mean(relu(1 + D(generated)))        the discriminator's own
    L_g = -mean(D(generated))                                             added to the generator's, weighted

(the hinge loss of Lim and Ye 2017).  It asks for texture that could be real where LPIPS asks for texture that
looks like the source's; a small weight late in a run gains DISTS for a little LPIPS.  Every batch is cut at a
random phase, so that a pixel-shuffle network cannot learn to please at one phase of its grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from hybridprompt.errors import ConfigError

_PHASES = 8
_CHANNELS = (32, 64, 96)
_DETAIL_GAIN = 8.0


@dataclass(frozen=True, kw_only=True)
class AdversarialSettings:
    """Of the stage.

    weight: of L_g, 0 leaves the stage out; start_step: from which on it counts; lead: how many steps earlier
    D begins to learn; learning_rate: of D.
    """

    weight: float = 0.0
    start_step: int = 0
    lead: int = 0
    learning_rate: float = 2e-4

    def __post_init__(self) -> None:
        if not (self.weight >= 0 and self.start_step >= 0 and self.lead >= 0 and self.learning_rate > 0):
            raise ConfigError(
                f"[adversarial] weight = {self.weight}, start_step = {self.start_step}, lead = {self.lead}, "
                f"learning_rate = {self.learning_rate}: expected at least 0, three times, and above 0"
            )


def restore_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restore what it has learnt; its settings, as whether it can be captured, stay those of this run."""
    optimiser.load_state_dict(state | {"param_groups": optimiser.state_dict()["param_groups"]})


class PatchDiscriminator(nn.Module):
    """Luma (N, 1, H, W) in [0, 1] to one score for every 4 x 4 pixels; a score sees 38 x 38 pixels.

    It gets the detail by itself, too, made stronger: pictures that it tells apart differ in that, by little.
    """

    def __init__(self) -> None:
        super().__init__()
        first, second, third = _CHANNELS
        self.layers = nn.Sequential(
            nn.Conv2d(2, first, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(first, second, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(second, third, 4, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(third, 1, 4, padding=1),
        )

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        detail = y - F.avg_pool2d(F.pad(y, (2, 2, 2, 2), mode="reflect"), 5, 1)
        scores: torch.Tensor = self.layers(torch.cat([y - 0.5, _DETAIL_GAIN * detail], 1))
        return scores


class AdversarialStage:
    """The discriminator with an optimiser and random numbers of its own, so that nothing else moves.

    captured: whether its steps are captured on a CUDA device.
    """

    def __init__(
        self, settings: AdversarialSettings, *, device: torch.device, seed: int, captured: bool = False
    ) -> None:
        self.settings = settings
        self._places: tuple[torch.Tensor, torch.Tensor] | None = None
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.discriminator = PatchDiscriminator().to(device)
        self.optimiser = torch.optim.Adam(
            self.discriminator.parameters(),
            lr=settings.learning_rate,
            betas=(0.5, 0.99),
            capturable=captured and device.type == "cuda",
        )
        self.rng = torch.Generator().manual_seed(seed)

    def active(self, step: int) -> bool:
        """Whether what D says counts."""
        return step >= self.settings.start_step

    def learns(self, step: int) -> bool:
        """Whether D learns."""
        return step >= self.settings.start_step - self.settings.lead

    def look(self, rng: np.random.Generator, size: int) -> None:
        """Choose the phase of the next cuts of pictures of ``size`` pixels, in tensors of fixed places."""
        if self._places is None:
            device = next(self.discriminator.parameters()).device
            rows, columns = (torch.zeros(size - _PHASES, dtype=torch.long, device=device) for _ in range(2))
            self._places = rows, columns
        for places, start in zip(self._places, rng.integers(0, _PHASES, 2), strict=True):
            places.copy_(torch.arange(len(places)) + int(start), non_blocking=True)

    def _cut(self, *pictures: torch.Tensor) -> list[torch.Tensor]:
        if self._places is not None:
            rows, columns = self._places
            return [picture.index_select(2, rows).index_select(3, columns) for picture in pictures]
        dy, dx = (int(torch.randint(_PHASES, (1,), generator=self.rng)) for _ in range(2))
        return [picture[..., dy:, dx:] for picture in pictures]

    def term(self, generated: torch.Tensor) -> torch.Tensor:
        """L_g of generated luma (N, 1, H, W), not weighted; the discriminator learns nothing from it."""
        self.discriminator.requires_grad_(False)
        try:
            scores: torch.Tensor = self.discriminator(*self._cut(generated))
            return -scores.mean()
        finally:
            self.discriminator.requires_grad_(True)

    def learn(self, generated: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """Take one step of the discriminator on luma of both kinds; returns L_d, a scalar."""
        fake, real = self._cut(generated.detach(), source)
        loss = F.relu(1 - self.discriminator(real)).mean() + F.relu(1 + self.discriminator(fake)).mean()
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return loss.detach()

    def state(self) -> dict[str, Any]:
        return {
            "discriminator": self.discriminator.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rng": self.rng.get_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.discriminator.load_state_dict(state["discriminator"])
        restore_optimiser(self.optimiser, state["optimiser"])
        self.rng.set_state(state["rng"].cpu())
