"""Settings of a training run, read from TOML."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from hybridprompt.errors import ConfigError
from hybridprompt.evaluate.loss import LossWeights
from hybridprompt.generator.network import ALIGNMENT, NetworkConfig
from hybridprompt.train.adversarial import AdversarialSettings

Precision = Literal["float32", "bfloat16"]

_STARTS = ("start_from", "narrow_from", "prune_from", "widen_from")
"""What a run may start from, one of them at most."""


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """What a smaller network learns from a larger one, beside the loss.

    teacher: a run's ``ema.pt`` or an exported ONNX file, in 8-bit integers too; weight: of the mean absolute
    difference between both networks' planes, in units of [0, 1].
    """

    teacher: Path
    weight: float = 10.0

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ConfigError(f"[distillation] weight = {self.weight}: expected above 0")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run; everything that is needed to repeat it."""

    corpus: Path
    run_folder: Path
    more_corpora: tuple[Path, ...] = ()
    finest_key: int = 0
    """base_q_idx of the finest keyframes to learn from, and to be validated on."""
    finest_inter: int = 0
    """The same of other pictures."""
    steps: int = 20_000
    seconds: float = 0.0
    """Training time, without validation and saving, after which the run ends, too; 0 for no limit.

    The learning rate follows whichever of both is nearer its end.  For a machine that is there for a given
    time; such a run cannot be repeated bit by bit.
    """
    batch: int = 8
    crop: int = 192
    learning_rate: float = 5e-4
    warmup_steps: int = 200
    clip_norm: float = 0.5
    ema_decay: float = 0.999
    seed: int = 1
    device: str = "cpu"
    precision: Precision = "float32"
    """Of the networks' arithmetic; weights and their moving average stay in float32."""
    turned: bool = False
    """Crops are also turned by quarters, so that each is met in eight ways, where it is in two without."""
    in_integers: bool = False
    """Learn with weights and activations rounded as `export --int8` rounds them; see `integers`.

    Validation is in floats.
    """
    captured: bool = False
    """Samples on the device, and steps that wait for nothing, on CUDA as graphs; see `captured`.

    Samples that come to a corpus during the run take no part in it.
    """
    log_every: int = 50
    validate_every: int = 1000
    validation_pictures: int = 16
    save_seconds: float = 120.0
    generated_inputs: float = 0.25
    """Share of a batch's coded crops that are replaced by what the network makes of them."""
    start_from: Path | None = None
    narrow_from: Path | None = None
    """Weights of a network with more channels, or as many, whose strongest are the start.

    Blocks that it lacks start near the identity.
    """
    prune_from: Path | None = None
    """Weights of a network with more channels inside its blocks, or in its first convolution.

    Which of them go, and what the rest then does, is found on the corpora; see `prune`.
    """
    widen_from: Path | None = None
    """Weights of a network with fewer channels, or as many; at the start the larger one computes the same."""
    distillation: Distillation | None = None
    network: NetworkConfig = field(default_factory=NetworkConfig)
    loss: LossWeights = field(default_factory=LossWeights)
    adversarial: AdversarialSettings = field(default_factory=AdversarialSettings)

    def __post_init__(self) -> None:
        if self.crop % ALIGNMENT or self.crop < 64:
            raise ConfigError(f"crop = {self.crop}: expected a multiple of {ALIGNMENT}, at least 64")
        if not (self.learning_rate > 0 and self.clip_norm > 0 and 0 <= self.ema_decay < 1):
            raise ConfigError(
                f"learning_rate = {self.learning_rate}, clip_norm = {self.clip_norm}, "
                f"ema_decay = {self.ema_decay}: expected above 0, above 0, and from 0 to below 1"
            )
        if self.precision not in get_args(Precision):
            raise ConfigError(
                f"precision = {self.precision!r}: expected one of {', '.join(get_args(Precision))}"
            )
        if not 0 <= self.generated_inputs <= 1:
            raise ConfigError(f"generated_inputs = {self.generated_inputs}: expected from 0 to 1")
        if self.captured and self.distillation is not None:
            raise ConfigError("captured: not with a [distillation]")
        for name in ("finest_key", "finest_inter"):
            if not 0 <= getattr(self, name) <= 255:
                raise ConfigError(f"{name} = {getattr(self, name)}: expected from 0 to 255")
        for name in ("steps", "batch", "log_every", "validate_every", "validation_pictures"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}: expected at least 1")
        if not self.seconds >= 0:
            raise ConfigError(f"seconds = {self.seconds}: expected at least 0")
        if sum(getattr(self, name) is not None for name in _STARTS) > 1:
            *first, last = _STARTS
            raise ConfigError(f"{', '.join(first)} and {last}: expected one of them at most")


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
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error


def load_config(path: Path) -> TrainConfig:
    """Read a TOML file with the fields of TrainConfig and its tables.

    The tables are ``[network]``, ``[loss]``, ``[adversarial]`` and ``[distillation]``.  Paths are relative to
    the current folder.  Raises ConfigError.
    """
    try:
        table = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    _take_widths(table.get("network"), ("body_hidden", "deep_hidden", "tail_hidden"), f"{path}: [network]")
    for name, kind in (
        ("network", NetworkConfig),
        ("loss", LossWeights),
        ("adversarial", AdversarialSettings),
    ):
        table[name] = _build(kind, table.get(name, {}), f"{path}: [{name}]")
    if "distillation" in table:
        where = f"{path}: [distillation]"
        if isinstance(table["distillation"], dict):
            _take_paths(table["distillation"], ("teacher",), where)
        table["distillation"] = _build(Distillation, table["distillation"], where)
    _take_paths(table, ("corpus", "run_folder", *_STARTS), str(path))
    if "more_corpora" in table:
        given = table["more_corpora"]
        if not (isinstance(given, list) and all(isinstance(one, str) for one in given)):
            raise ConfigError(f"{path}: more_corpora is {given!r}, expected a list of paths")
        table["more_corpora"] = tuple(map(Path, given))
    config: TrainConfig = _build(TrainConfig, table, str(path))
    return config


def _take_widths(table: Any, names: tuple[str, ...], where: str) -> None:
    for name in names:
        if isinstance(table, dict) and name in table:
            given = table[name]
            if not (isinstance(given, list) and all(type(one) is int for one in given)):
                raise ConfigError(f"{where}: {name} is {given!r}, expected a list of whole numbers")
            table[name] = tuple(given)


def _take_paths(table: dict[str, Any], names: tuple[str, ...], where: str) -> None:
    for name in names:
        if name in table:
            if not isinstance(table[name], str):
                raise ConfigError(f"{where}: {name} is {table[name]!r}, expected a path")
            table[name] = Path(table[name])
