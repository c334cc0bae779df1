"""Settings of a training run, read from TOML."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hybridprompt.errors import ConfigError
from hybridprompt.generator.network import ALIGNMENT, NetworkConfig
from hybridprompt.train.losses import LossWeights


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run; everything that is needed to repeat it."""

    corpus: Path
    run_folder: Path
    steps: int = 20_000
    batch: int = 8
    crop: int = 192
    learning_rate: float = 5e-4
    warmup_steps: int = 200
    clip_norm: float = 0.5
    ema_decay: float = 0.999
    seed: int = 1
    device: str = "cpu"
    log_every: int = 50
    validate_every: int = 1000
    validation_pictures: int = 16
    save_seconds: float = 120.0
    generated_inputs: float = 0.25
    start_from: Path | None = None
    network: NetworkConfig = field(default_factory=NetworkConfig)
    loss: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        if self.crop % ALIGNMENT or self.crop < 64:
            raise ConfigError(f"crop = {self.crop}: expected a multiple of {ALIGNMENT}, at least 64")
        if not (self.learning_rate > 0 and self.clip_norm > 0 and 0 <= self.ema_decay < 1):
            raise ConfigError(
                f"learning_rate = {self.learning_rate}, clip_norm = {self.clip_norm}, "
                f"ema_decay = {self.ema_decay}: expected above 0, above 0, and from 0 to below 1"
            )
        for name in ("steps", "batch", "log_every", "validate_every", "validation_pictures"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}: expected at least 1")


def _build(kind: type, table: Any, where: str) -> Any:
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: is {table!r}, expected a table")
    names = {f.name for f in fields(kind)}
    if unknown := sorted(set(table) - names):
        raise ConfigError(
            f"{where}: unknown settings {', '.join(unknown)}; known: {', '.join(sorted(names))}"
        )
    try:
        return kind(**table)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from error


def load_config(path: Path) -> TrainConfig:
    """Read a TOML file with the fields of TrainConfig and the tables ``[network]`` and ``[loss]``.

    Paths are relative to the current folder.  Raises ConfigError.
    """
    try:
        table = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    table["network"] = _build(NetworkConfig, table.get("network", {}), f"{path}: [network]")
    table["loss"] = _build(LossWeights, table.get("loss", {}), f"{path}: [loss]")
    for name in ("corpus", "run_folder", "start_from"):
        if name in table:
            if not isinstance(table[name], str):
                raise ConfigError(f"{path}: {name} is {table[name]!r}, expected a path")
            table[name] = Path(table[name])
    config: TrainConfig = _build(TrainConfig, table, str(path))
    return config
