"""Finding generators while decoding: those that are not there leave nothing behind."""

import sys
from importlib import resources

import pytest

from hybridprompt.decode.generators import LazyGenerators
from hybridprompt.errors import GeneratorError
from hybridprompt.generator import registry
from hybridprompt.generator.base import identity_of
from hybridprompt.generator.fake import FakeGenerator

SMALL = registry.GENERATOR_SIZES["small"]


def shipped_identity() -> bytes:
    return identity_of((resources.files("hybridprompt.generator") / "weights" / f"{SMALL}.onnx").read_bytes())


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What is hashed to find a shipped generator."""
    files: list[bytes] = []

    def counting(weights: bytes) -> bytes:
        files.append(weights)
        return identity_of(weights)

    monkeypatch.setattr(registry, "identity_of", counting)
    return files


def size_of(value: object) -> int:
    """Entries of all collections in an object, and in what of this package it refers to."""
    if isinstance(value, dict | list | set):
        return len(value)
    if type(value).__module__.startswith("hybridprompt"):
        return sum(size_of(part) for part in getattr(value, "__dict__", {}).values())
    return 0


def test_unknown_ones_are_neither_remembered_nor_hashed_for_again(hashed: list[bytes]) -> None:
    fake = FakeGenerator()
    generators = LazyGenerators([fake])
    assert generators.find(fake.identity) is fake
    assert hashed == []
    assert generators.find(b"stranger") is None
    before = size_of(generators)
    for number in range(40):
        assert generators.find(bytes([number] * 8)) is None
    assert size_of(generators) == before
    assert len(hashed) == len(registry.shipped_names())
    found = generators.find(shipped_identity())
    assert found is not None
    assert found.name == SMALL
    assert generators.find(shipped_identity()) is found


def test_failures_are_remembered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[str] = []

    def load(name: str, *, threads: int) -> None:
        tries.append(name)
        raise GeneratorError("weights are damaged")

    monkeypatch.setattr(registry, "load_shipped", load)
    generators = LazyGenerators()
    for _ in range(3):
        with pytest.raises(GeneratorError, match="weights are damaged"):
            generators.find(shipped_identity())
        assert generators.find(b"stranger") is None
    assert tries == [SMALL]


def test_files_that_cannot_be_read_are_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[str] = []

    def read(name: str) -> bytes:
        tries.append(name)
        raise GeneratorError(f"{name} cannot be read")

    monkeypatch.setattr(registry, "_shipped_weights", read)
    fake = FakeGenerator()
    generators = LazyGenerators([fake])
    sizes = set()
    for number in range(40):
        with pytest.raises(GeneratorError, match="cannot be read"):
            generators.find(bytes([number] * 8))
        sizes.add(size_of(generators))
    assert generators.find(fake.identity) is fake
    assert len(tries) == len(sizes) == 1


def test_without_onnx_runtime_shipped_ones_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hybridprompt.generator.registry", None)
    fake = FakeGenerator()
    generators = LazyGenerators([fake])
    sizes = set()
    for number in range(40):
        with pytest.raises(GeneratorError, match="ONNX Runtime cannot be imported"):
            generators.find(bytes([number] * 8))
        sizes.add(size_of(generators))
    assert len(sizes) == 1
    assert generators.find(fake.identity) is fake
