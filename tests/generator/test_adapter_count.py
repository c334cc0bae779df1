"""How many values the adapters of a generator have, before any are decoded."""

import gc
import weakref

import numpy as np
import pytest
from numpy.typing import NDArray

from hybridprompt.errors import GeneratorError
from hybridprompt.generator.base import check_adapter_count
from hybridprompt.generator.fake import FakeGenerator


class Asked(FakeGenerator):
    """Remembers the adapters it was asked with."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[int] = []

    def adapted(self, values: NDArray[np.int8]) -> FakeGenerator:
        self.counts.append(values.size)
        assert not values.any()
        return super().adapted(values)


class Unhashable(Asked):
    __hash__ = None  # type: ignore[assignment]


def test_a_generator_is_asked_until_it_takes_one() -> None:
    generator = Asked()
    for _ in range(2):
        with pytest.raises(GeneratorError, match="an adapter of 3 values, expected 1"):
            check_adapter_count(generator, 3)
    for _ in range(3):
        check_adapter_count(generator, 1)
        with pytest.raises(GeneratorError, match="an adapter of 4096 values, expected 1"):
            check_adapter_count(generator, 4096)
    assert generator.counts == [3, 3, 1]


def test_generators_are_not_kept() -> None:
    generator = FakeGenerator()
    check_adapter_count(generator, 1)
    gone = weakref.ref(generator)
    del generator
    gc.collect()
    assert gone() is None


def test_one_that_cannot_be_remembered_is_asked_again() -> None:
    generator = Unhashable()
    for _ in range(2):
        check_adapter_count(generator, 1)
        with pytest.raises(GeneratorError, match="an adapter of 2 values, expected 1"):
            check_adapter_count(generator, 2)
    assert generator.counts == [1, 2, 1, 2]
