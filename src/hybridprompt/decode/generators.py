"""Finding generators while decoding: in any thread, and not before a prompt asks for one."""

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from hybridprompt.errors import GeneratorError
from hybridprompt.generator.base import Generator

if TYPE_CHECKING:
    from hybridprompt.generator.registry import GeneratorRegistry


class LazyGenerators:
    """The given generators, then the shipped ones, for which ONNX Runtime is imported only when needed.

    given: generators, or paths of ONNX files or names of sizes, which are loaded at once. threads: of one
    run of a loaded generator. Safe to share between threads. However many identities are asked for, only
    those of given and shipped generators are remembered. Raises GeneratorError for a file that is no
    generator.
    """

    def __init__(self, given: Iterable[Generator | Path] = (), *, threads: int = 1) -> None:
        self._threads = threads
        self._lock = threading.Lock()
        self._registry: GeneratorRegistry | None = None
        self._unavailable: str | None = None
        self._known: dict[bytes, Generator] = {}
        self._failures: dict[bytes, str] = {}
        for generator in given:
            if isinstance(generator, Path):
                generator = _load(generator, threads)
            self._known[generator.identity] = generator

    def find(self, identity: bytes) -> Generator | None:
        """Return the generator of that identity, None if there is none.

        Raises GeneratorError, again at every call, when it is there but cannot be loaded, or when nobody can
        tell.
        """
        with self._lock:
            if identity in self._known:
                return self._known[identity]
            if identity in self._failures:
                raise GeneratorError(self._failures[identity])
            try:
                found = self._shipped().find(identity)
            except GeneratorError as error:
                # Without the shipped ones any identity fails, for the same reason.
                if self._unavailable is None:
                    self._failures[identity] = str(error)
                raise
            if found is not None:
                self._known[identity] = found
            return found

    def _shipped(self) -> "GeneratorRegistry":
        if self._unavailable is not None:
            raise GeneratorError(self._unavailable)
        if self._registry is None:
            try:
                self._registry = _shipped_registry(self._threads)
            except GeneratorError as error:
                self._unavailable = str(error)
                raise
        return self._registry


def _shipped_registry(threads: int) -> "GeneratorRegistry":
    """Return the registry, which has read all shipped files."""
    try:
        from hybridprompt.generator.registry import GeneratorRegistry
    except ImportError as error:
        raise GeneratorError(f"ONNX Runtime cannot be imported: {error}") from error
    registry = GeneratorRegistry(threads=threads)
    registry.shipped_identities()
    return registry


def _load(choice: Path, threads: int) -> Generator:
    try:
        from hybridprompt.generator.registry import load_chosen
    except ImportError as error:
        raise GeneratorError(f"{choice}: ONNX Runtime cannot be imported: {error}") from error
    return load_chosen(choice, threads=threads)
