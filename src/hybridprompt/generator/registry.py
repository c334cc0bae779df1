"""Finds generators by their identity.

The shipped ones lie in this package's ``weights`` folder; others are added by path.  A client that meets a
prompt of a generator it lacks plays the base.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from importlib import resources
from pathlib import Path

from hybridprompt.errors import GeneratorError
from hybridprompt.generator.base import Generator, identity_of
from hybridprompt.generator.onnx_generator import OnnxGenerator

GENERATOR_SIZES = {"small": "generator_s6", "medium": "generator_v11", "large": "generator_l5"}
"""The shipped generators to choose from, by size; older ones are kept for the files made with them."""

DEFAULT_GENERATOR = GENERATOR_SIZES["medium"]
_MAX_WEIGHTS_BYTES = 256 << 20


@lru_cache(maxsize=8)
def _shipped_weights(name: str) -> bytes:
    path = resources.files("hybridprompt.generator") / "weights" / f"{name}.onnx"
    try:
        return path.read_bytes()
    except OSError as error:
        raise GeneratorError(f"generator {name} is not part of this installation: {error}") from error


def shipped_names() -> list[str]:
    """Names of the generators that come with the package."""
    folder = resources.files("hybridprompt.generator") / "weights"
    if not folder.is_dir():
        return []
    return sorted(p.name.removesuffix(".onnx") for p in folder.iterdir() if p.name.endswith(".onnx"))


def load_shipped(name: str = DEFAULT_GENERATOR, *, threads: int = 1) -> OnnxGenerator:
    """Load a shipped generator.  Raises GeneratorError."""
    return OnnxGenerator(_shipped_weights(name), name=name, threads=threads)


def load_file(path: Path, *, threads: int = 1) -> OnnxGenerator:
    """Load a generator from an ONNX file.  Raises GeneratorError."""
    try:
        if path.stat().st_size > _MAX_WEIGHTS_BYTES:
            raise GeneratorError(f"{path}: larger than {_MAX_WEIGHTS_BYTES >> 20} MiB, not a generator")
        weights = path.read_bytes()
    except OSError as error:
        raise GeneratorError(f"{path}: {error.strerror or error}") from error
    return OnnxGenerator(weights, name=path.stem, threads=threads)


def load_chosen(choice: Path | None = None, *, threads: int = 1) -> OnnxGenerator:
    """Load what a person chose: one of GENERATOR_SIZES, or an ONNX file; None is the default.

    The name of a size goes before a file of that name.  Raises GeneratorError.
    """
    if choice is None:
        return load_shipped(threads=threads)
    if str(choice) in GENERATOR_SIZES:
        return load_shipped(GENERATOR_SIZES[str(choice)], threads=threads)
    if not choice.exists():
        names = ", ".join(GENERATOR_SIZES)
        raise GeneratorError(f"generator is {str(choice)!r}, expected one of {names}, or an ONNX file")
    return load_file(choice, threads=threads)


class GeneratorRegistry:
    """Generators by identity: the given ones, then the shipped ones, loaded when first asked for."""

    def __init__(
        self, generators: Iterable[Generator] = (), *, shipped: bool = True, threads: int = 1
    ) -> None:
        self._known: dict[bytes, Generator] = {g.identity: g for g in generators}
        self._shipped_names: dict[bytes, str] | None = None if shipped else {}
        self._threads = threads

    def find(self, identity: bytes) -> Generator | None:
        """The generator of that identity, or None; strangers' identities leave nothing behind.

        Raises GeneratorError when it is there but cannot be loaded.
        """
        if identity not in self._known and identity in (names := self._names()):
            self._known[identity] = load_shipped(names[identity], threads=self._threads)
        return self._known.get(identity)

    def shipped_identities(self) -> frozenset[bytes]:
        """Identities of the shipped ones, none where they are not asked for.  Raises GeneratorError."""
        return frozenset(self._names())

    def _names(self) -> dict[bytes, str]:
        """Names of the shipped ones by identity; all files are read at the first call only."""
        if self._shipped_names is None:
            self._shipped_names = {identity_of(_shipped_weights(name)): name for name in shipped_names()}
        return self._shipped_names
