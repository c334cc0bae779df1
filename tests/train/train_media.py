"""Small training samples and settings."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from hybridprompt.evaluate.loss import LossWeights
from hybridprompt.generator.network import GeneratorNetwork, NetworkConfig
from hybridprompt.train.config import TrainConfig

TINY = NetworkConfig(stem_channels=8, body_channels=16, body_blocks=1)
TINY_DEEP = NetworkConfig(stem_channels=8, body_channels=16, body_blocks=1, deep_channels=8, deep_blocks=1)
TINY_SLIM = NetworkConfig(
    stem_channels=8, body_channels=16, body_blocks=1, body_hidden=(8,), tail_hidden=(4,), seen_channels=4
)


def lively(config: NetworkConfig, *, spread: float = 0.5, head: float = 0.35) -> GeneratorNetwork:
    """A network whose output depends on all of it.

    spread: of what its layers give for inputs around 1; head: what its last one is multiplied by.
    """
    torch.manual_seed(4)
    network = GeneratorNetwork(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, spread / parameter[0].numel() ** 0.5 if parameter.dim() > 1 else 0.02)
        for parameter in network.head.parameters():
            parameter.mul_(head)
    return network.eval()


def write_samples(folder: Path, count: int, *, width: int = 112, height: int = 80, seed: int = 0) -> None:
    """Textured sources and coarser "coded" versions of them."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        source = np.kron(
            rng.integers(30, 220, (height * 3 // 2 // 4, width // 4)), np.ones((4, 4), int)
        ) + rng.integers(-9, 10, (height * 3 // 2, width))
        coded = np.clip(source // 16 * 16 + 8, 0, 255)
        np.savez(
            folder / f"sample{seed}-{index}.npz",
            source=source.clip(0, 255).astype(np.uint8),
            coded=coded.astype(np.uint8),
            base_q_idx=np.array(100 + 10 * index),
            is_key=np.array(index % 2 == 0),
        )


def tiny_config(folder: Path, name: str = "run", **changes: object) -> TrainConfig:
    config = TrainConfig(
        corpus=folder / "corpus",
        run_folder=folder / name,
        steps=6,
        batch=2,
        crop=64,
        warmup_steps=2,
        log_every=2,
        validate_every=100,
        validation_pictures=1,
        network=TINY,
        loss=LossWeights(vgg_every=3, vgg_crops=1, vgg_size=48),
    )
    return replace(config, **changes)
