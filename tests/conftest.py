"""Media that tests of several folders share, made once."""

from pathlib import Path

import pytest

from hybridprompt.video.av1_encoder import CodedPacket
from prompted_media import base_packets, flat, prompted, write_mp4

GOPS = 5


@pytest.fixture(scope="session")
def base_gops() -> list[list[CodedPacket]]:
    """GOPs of 17 pictures without prompts."""
    return base_packets(GOPS)


@pytest.fixture(scope="session")
def prompted_gops(base_gops: list[list[CodedPacket]]) -> list[list[CodedPacket]]:
    """The same with two prompts each."""
    return [prompted(gop) for gop in base_gops]


@pytest.fixture(scope="session")
def base_file(base_gops: list[list[CodedPacket]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mp4(tmp_path_factory.mktemp("media") / "base.mp4", flat(base_gops))


@pytest.fixture(scope="session")
def prompted_file(prompted_gops: list[list[CodedPacket]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mp4(tmp_path_factory.mktemp("media") / "prompted.mp4", flat(prompted_gops))
