"""What several tests of training start from."""

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a small corpus in it."""
    from train_media import write_samples

    write_samples(tmp_path / "corpus" / "train", 3)
    write_samples(tmp_path / "corpus" / "validation", 1, seed=9)
    return tmp_path


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Bit-exact, and no threads that wait for each other on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
