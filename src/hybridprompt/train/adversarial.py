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

import torch
import torch.nn.functional as F
from torch import nn

from hybridprompt.errors import ConfigError

_PHASES = 8
_CHANNELS = (32, 64, 96)


@dataclass(frozen=True, kw_only=True)
class AdversarialSettings:
    """weight: of L_g, 0 leaves the stage out; start_step: the first step of both; learning_rate: of D."""

    weight: float = 0.0
    start_step: int = 0
    learning_rate: float = 2e-4

    def __post_init__(self) -> None:
        if not (self.weight >= 0 and self.start_step >= 0 and self.learning_rate > 0):
            raise ConfigError(
                f"[adversarial] weight = {self.weight}, start_step = {self.start_step}, learning_rate = "
                f"{self.learning_rate}: expected at least 0, at least 0, and above 0"
            )


class PatchDiscriminator(nn.Module):
    """Luma (N, 1, H, W) in [0, 1] to one score for every 4 x 4 pixels; a score sees 34 x 34 pixels."""

    def __init__(self) -> None:
        super().__init__()
        first, second, third = _CHANNELS
        self.layers = nn.Sequential(
            nn.Conv2d(1, first, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(first, second, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(second, third, 4, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(third, 1, 4, padding=1),
        )

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.layers(y - 0.5)
        return scores


class AdversarialStage:
    """The discriminator with an optimiser and random numbers of its own, so that nothing else moves."""

    def __init__(self, settings: AdversarialSettings, *, device: torch.device, seed: int) -> None:
        self.settings = settings
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.discriminator = PatchDiscriminator().to(device)
        self.optimiser = torch.optim.Adam(
            self.discriminator.parameters(), lr=settings.learning_rate, betas=(0.5, 0.99)
        )
        self.rng = torch.Generator().manual_seed(seed)

    def active(self, step: int) -> bool:
        return step >= self.settings.start_step

    def _cut(self, *pictures: torch.Tensor) -> list[torch.Tensor]:
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

    def learn(self, generated: torch.Tensor, source: torch.Tensor) -> float:
        """Take one step of the discriminator on luma of both kinds; returns L_d."""
        fake, real = self._cut(generated.detach(), source)
        loss = F.relu(1 - self.discriminator(real)).mean() + F.relu(1 + self.discriminator(fake)).mean()
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return float(loss.detach())

    def state(self) -> dict[str, Any]:
        return {
            "discriminator": self.discriminator.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rng": self.rng.get_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.rng.set_state(state["rng"].cpu())
