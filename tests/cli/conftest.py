"""The commands find the fake generator among the shipped ones."""

import pytest

from hybridprompt.decode import inspect, video_file
from hybridprompt.decode.generators import LazyGenerators
from hybridprompt.generator.fake import FakeGenerator


@pytest.fixture
def fake_is_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (video_file, inspect):
        monkeypatch.setattr(
            module, "LazyGenerators", lambda given=(), threads=1: LazyGenerators([*given, FakeGenerator()])
        )
