"""Decoding one GOP with other pixels at one anchor: all that the decode operator knows of a codec."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from hybridprompt.decode.injection import GopDecoding, GopPicture, decode_gop
from hybridprompt.decode.warnings import DecodeWarning
from hybridprompt.errors import CodecError, ConfigError, GeneratorError
from hybridprompt.generator.base import Planes
from hybridprompt.generator.registry import GeneratorRegistry
from hybridprompt.prompt.gate import GateMap
from hybridprompt.prompt.sections import build_prompt
from hybridprompt.prompt.syntax import MAX_SIZE, MIN_SIZE, Prompt
from hybridprompt.video.av1_encoder import CodedPacket

Injection = Callable[[Planes], Planes]
"""Maps an anchor's base planes, y (H, W), u and v (H/2, W/2) uint8, to those to put in their place."""

_IDENTITY: Final = b"injected"


class AnchorDecoder(Protocol):
    """A coded GOP that decodes with any picture in place of an anchor's base picture."""

    @property
    def frame_count(self) -> int:
        """Frames of the GOP; they are counted from 0 in display order."""

    def decode(
        self, anchor: int, frames: Collection[int], injection: Injection | None
    ) -> Iterator[tuple[int, Planes]]:
        """Decode the GOP; yield the planes of the wanted frames, in display order, as they come.

        anchor: index of the packet that codes it, hidden or not.  injection: called once, when the anchor's
        base picture is decoded; None leaves it.  The planes are read-only and stay valid.  Several calls may
        be under way at a time, in several threads.

        Raises CodecError when the packets cannot be decoded or the anchor cannot be replaced, ConfigError for
        an anchor or a frame that the GOP lacks.
        """


@dataclass(frozen=True, kw_only=True)
class Av1AnchorDecoder:
    """An AV1 GOP, decoded by the very code that plays it: `decode.injection`.

    packets: in decoding order, from the keyframe on, each with one shown picture; prompts in them are
    ignored.  size: (width, height) of the pictures.  extradata, time_base: of the stream.  threads: of dav1d,
    per decode.  Raises ConfigError for a size that no prompt can name.
    """

    packets: Sequence[CodedPacket]
    size: tuple[int, int]
    time_base: Fraction
    extradata: bytes | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        if not all(MIN_SIZE <= length <= MAX_SIZE for length in self.size):
            raise ConfigError(
                f"pictures of {self.size[0]}x{self.size[1]}, expected sizes of {MIN_SIZE} to {MAX_SIZE}"
            )

    @property
    def frame_count(self) -> int:
        return len(self.packets)

    def decode(
        self, anchor: int, frames: Collection[int], injection: Injection | None
    ) -> Iterator[tuple[int, Planes]]:
        """Decode the GOP.  See AnchorDecoder.decode."""
        check_frames(self, anchor, frames)
        return self._decode(anchor, frozenset(frames), injection)

    def _decode(
        self, anchor: int, frames: frozenset[int], injection: Injection | None
    ) -> Iterator[tuple[int, Planes]]:
        # None takes away what a packet may carry already.
        prompts: dict[int, Prompt | None] = dict.fromkeys(range(len(self.packets)))
        decoding = GopDecoding(self.time_base, self.extradata, threads=self.threads, on_warning=_raise_misfit)
        stand_in = None
        if injection is not None:
            stand_in = _StandIn(injection)
            width, height = self.size
            # The quantiser is of no use to a stand-in, but naming one spares the decoder a search for it.
            prompts[anchor] = build_prompt(_IDENTITY, width, height, 0, GateMap.uniform(width, height))
            decoding = replace(decoding, generators=GeneratorRegistry([stand_in], shipped=False))
        missing = set(frames)
        for shown in decode_gop(self.packets[: max(frames) + 1], decoding, prompts=prompts):
            if stand_in is not None and shown.index >= anchor and not stand_in.was_called:
                raise CodecError(f"packet {anchor} of the GOP has no picture that can be replaced")
            if shown.index in frames:
                missing.discard(shown.index)
                yield shown.index, _checked(shown, self.size)
        if missing:
            raise CodecError(f"packets {sorted(missing)} of the GOP show no picture")


def check_frames(decoder: AnchorDecoder, anchor: int, frames: Collection[int]) -> None:
    """Raise ConfigError unless the GOP has the anchor and the frames, of which there is at least one."""
    count = decoder.frame_count
    if not 0 <= anchor < count:
        raise ConfigError(f"anchor is packet {anchor} of a GOP with packets 0 to {count - 1}")
    if not frames or not all(anchor <= frame < count for frame in frames):
        raise ConfigError(
            f"frames are {sorted(frames)}, expected some of {anchor} (the anchor's packet) to {count - 1}"
        )


class _StandIn:
    """A generator that hands out what is to be injected."""

    name: Final = "injection"
    identity: Final = _IDENTITY
    adapter_length: Final = 0

    def __init__(self, injection: Injection) -> None:
        self._injection = injection
        self.was_called = False

    def generate(
        self, planes: Planes, *, quantiser: int, strengths: NDArray[np.float32], block_size: int
    ) -> Planes:
        self.was_called = True
        return self._injection(planes)

    def adapted(self, values: NDArray[np.int8]) -> _StandIn:
        raise GeneratorError("what is injected has no weights to adapt")


def _raise_misfit(warning: DecodeWarning) -> None:
    raise CodecError(f"the anchor cannot be replaced: {warning}")


def _checked(shown: GopPicture, size: tuple[int, int]) -> Planes:
    picture = shown.picture
    if (picture.width, picture.height) != size:
        raise CodecError(
            f"frame {shown.index} is {picture.width}x{picture.height}, expected {size[0]}x{size[1]}"
        )
    return picture.planes
