"""How many values the adapters of a generator have, before any are decoded."""

import numpy as np
import pytest

from hybridprompt.encode.cached_generator import CachedGenerator
from hybridprompt.errors import GeneratorError
from hybridprompt.generator.base import Generator
from hybridprompt.generator.fake import FakeGenerator
from hybridprompt.generator.registry import load_shipped


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("shipped", [False, True])
def test_adapters_of_that_length_are_taken_and_no_others(shipped: bool, cached: bool) -> None:
    generator: Generator = load_shipped() if shipped else FakeGenerator()
    if cached:
        generator = CachedGenerator(generator)
    length = generator.adapter_length
    assert length == (2976 if shipped else 1)
    assert generator.adapted(np.zeros(length, np.int8)).adapter_length == length
    with pytest.raises(GeneratorError, match=f"of {length + 1} values, expected {length}"):
        generator.adapted(np.zeros(length + 1, np.int8))
