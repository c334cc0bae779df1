"""The generator network, version 1, in torch.

It refines a decoded base picture in the codec's own sample format (8-bit 4:2:0), told the quantiser that the
codec used.  There is no convolution at full resolution: luma is pixel-unshuffled by 4 and chroma by 2, so
that all planes meet at a quarter of the luma resolution; the body works at an eighth; the output is
pixel-shuffled back and added to the base as a residual, scaled by the gate.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn

from hybridprompt.generator.base import USUAL_GRID, USUAL_MARGIN

ALIGNMENT = USUAL_GRID
"""Luma width and height of the network's input are multiples of this many pixels."""

_PLANES = 16 + 2 * 4
_CONDITIONS = 2


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Shape of the network: channels at 1/4, 1/8 and 1/16 of the luma resolution, residual blocks at each.

    deep_channels, deep_blocks: at 1/16; no channels for a network without that level.  body_hidden,
    deep_hidden, tail_hidden: channels between the two convolutions of each block at 1/8, 1/16 and 1/4; as
    many as outside where none are given.  seen_channels: of the first convolution, where they are not
    stem_channels, which a convolution of one pixel then makes of them.
    """

    stem_channels: int = 32
    body_channels: int = 96
    body_blocks: int = 2
    tail_blocks: int = 1
    deep_channels: int = 0
    deep_blocks: int = 0
    body_hidden: tuple[int, ...] = ()
    deep_hidden: tuple[int, ...] = ()
    tail_hidden: tuple[int, ...] = ()
    seen_channels: int = 0

    def __post_init__(self) -> None:
        counts = {"body": self.body_blocks, "deep": self.deep_blocks, "tail": self.tail_blocks}
        for name, count in counts.items():
            hidden = getattr(self, f"{name}_hidden")
            if hidden and (len(hidden) != count or min(hidden) < 1):
                raise ValueError(f"{name}_hidden = {hidden}: expected a positive number for each block")

    @property
    def body_widths(self) -> tuple[int, ...]:
        """Channels within each block at 1/8."""
        return self.body_hidden or (self.body_channels,) * self.body_blocks

    @property
    def deep_widths(self) -> tuple[int, ...]:
        """Channels within each block at 1/16."""
        return self.deep_hidden or (self.deep_channels,) * self.deep_blocks

    @property
    def tail_widths(self) -> tuple[int, ...]:
        """Channels within each block at 1/4."""
        return self.tail_hidden or (self.stem_channels,) * self.tail_blocks

    @property
    def first_channels(self) -> int:
        """Channels of the first convolution."""
        return self.seen_channels or self.stem_channels

    @property
    def grid(self) -> int:
        """Luma pixels between the positions at which the network computes alike."""
        return 2 * ALIGNMENT if self.deep_channels else ALIGNMENT

    @property
    def margin(self) -> int:
        """Luma pixels around a part of a picture that it depends on, at least; a multiple of the grid."""
        quarter = 4 * (1 + 2 * self.tail_blocks + 1)
        eighth = 8 * 2 * self.body_blocks
        sixteenth = 16 * 2 * self.deep_blocks if self.deep_channels else 0
        # A part may begin anywhere in a cell of the grid, on the way in and on the way out.
        reach = quarter + eighth + sixteenth + 2 * self.grid
        return max(-(-reach // self.grid) * self.grid, USUAL_MARGIN)

    def as_dict(self) -> dict[str, int | tuple[int, ...]]:
        return asdict(self)

    def fits_into(self, other: NetworkConfig) -> bool:
        """Whether the other network has all of these layers, channels and blocks, or more."""
        sizes = [name for name, value in self.as_dict().items() if isinstance(value, int)]
        pairs = [(getattr(self, name), getattr(other, name)) for name in sizes]
        # Of blocks that only one has, their number has told.
        pairs += zip(self.body_widths, other.body_widths, strict=False)
        pairs += zip(self.deep_widths, other.deep_widths, strict=False)
        pairs += zip(self.tail_widths, other.tail_widths, strict=False)
        alike = bool(self.seen_channels) == bool(other.seen_channels)
        return alike and all(own <= others for own, others in pairs)


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))); hidden: channels between both, as many as x has where not given."""

    def __init__(self, channels: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or channels
        self.first = nn.Conv2d(channels, hidden, 3, padding=1)
        self.second = nn.Conv2d(hidden, channels, 3, padding=1)
        # Starting small keeps a deep stack close to the identity.
        nn.init.normal_(self.second.weight, std=0.01)
        assert self.second.bias is not None
        nn.init.zeros_(self.second.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.second(F.relu(self.first(x)))
        return out


class DeepLevel(nn.Module):
    """x + up(blocks(relu(down(x)))), at half the resolution of x; x itself before it has learned anything."""

    def __init__(self, channels: int, deep_channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, deep_channels, 2, stride=2)
        self.blocks = nn.Sequential(*[ResidualBlock(deep_channels, hidden) for hidden in widths])
        self.up = nn.Conv2d(deep_channels, channels * 4, 1)
        nn.init.zeros_(self.up.weight)
        assert self.up.bias is not None
        nn.init.zeros_(self.up.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        even = F.pad(x, (0, width % 2, 0, height % 2))
        deep = self.blocks(F.relu(self.down(even)))
        out: torch.Tensor = x + F.pixel_shuffle(self.up(deep), 2)[..., :height, :width]
        return out


class GeneratorNetwork(nn.Module):
    """Base planes and quantiser in, generated planes out."""

    def __init__(self, config: NetworkConfig | None = None) -> None:
        super().__init__()
        self.config = config or NetworkConfig()
        stem, body = self.config.stem_channels, self.config.body_channels
        seen = self.config.first_channels
        self.stem = nn.Conv2d(_PLANES + _CONDITIONS, seen, 3, padding=1)
        self.skip = nn.Conv2d(seen, stem, 1) if self.config.seen_channels else nn.Identity()
        self.down = nn.Conv2d(seen, body, 2, stride=2)
        self.body = nn.Sequential(*[ResidualBlock(body, hidden) for hidden in self.config.body_widths])
        deep = self.config.deep_channels
        self.deep = DeepLevel(body, deep, self.config.deep_widths) if deep else nn.Identity()
        self.up = nn.Conv2d(body, stem * 4, 1)
        self.tail = nn.Sequential(*[ResidualBlock(stem, hidden) for hidden in self.config.tail_widths])
        self.head = nn.Conv2d(stem, _PLANES, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def forward(
        self,
        y: torch.Tensor,
        uv: torch.Tensor,
        quantiser: torch.Tensor,
        strength: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Generate.

        y: (N, 1, H, W) in [0, 1], H and W multiples of ALIGNMENT; uv: (N, 2, H/2, W/2) in [0, 1];
        quantiser: (N, 1, 1, 1), base_q_idx / 255; strength: (N, 1, H/4, W/4) in [0, 1], 1 where None.
        Returns planes of the shapes of y and uv, not clipped.
        """
        # The colour-difference planes are separate in the unshuffled stack: U in 4 channels, then V in 4.
        planes = torch.cat([F.pixel_unshuffle(y, 4), F.pixel_unshuffle(uv, 2)], 1)
        condition = quantiser.expand(-1, 1, planes.shape[2], planes.shape[3])
        x = torch.cat([planes - 0.5, condition, condition * condition], 1)
        seen = F.relu(self.stem(x))
        deep = self.deep(self.body(F.relu(self.down(seen))))
        residual = self.head(self.tail(self.skip(seen) + F.pixel_shuffle(self.up(deep), 2)))
        if strength is not None:
            residual = residual * strength
        return y + F.pixel_shuffle(residual[:, :16], 4), uv + F.pixel_shuffle(residual[:, 16:], 2)


def count_gmac(config: NetworkConfig, width: int, height: int) -> float:
    """Multiply-accumulates of one picture, in units of 10^9."""
    network = GeneratorNetwork(config)
    total = 0
    scale = {network.stem: 16, network.head: 16, network.up: 64, network.down: 64}
    for name, module in network.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        level = next(
            (area for prefix, area in (("body.", 64), ("deep.", 256)) if name.startswith(prefix)), 16
        )
        area = scale.get(module, level)
        total += module.weight.numel() * (width * height // area)
    return total / 1e9
