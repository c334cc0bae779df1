"""What decoding a GOP is, whatever the codec: pictures out of it, and what the pipeline asks of a codec."""

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Generic, TypeVar

from hybridprompt.decode.generation import MAX_GENERATIONS, GeneratorLookup, UnusablePromptError
from hybridprompt.decode.warnings import DecodeWarning
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.packet_decoder import Closing
from hybridprompt.video.picture import Picture

D = TypeVar("D", bound=Closing)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GopPicture:
    """One picture of a GOP in display order, with read-only planes that nothing will change any more.

    `index` is that of its packet in the GOP. `is_anchor`: this is a generated picture.
    """

    picture: Picture
    index: int
    is_keyframe: bool
    is_anchor: bool


@dataclass(frozen=True)
class Decoding(ABC, Generic[D]):
    """What decoding a GOP needs beside its packets, the same for all GOPs of a stream.

    AV1's is `GopDecoding`, the others' `NalDecoding`. D is the decoder: one serves many GOPs, one after the
    other.

    time_base: unit of the packets' pts in seconds. extradata: the container's codec configuration, or what
    else the codec takes for it. generators: None decodes the base, with stills in place of stubs. threads: of
    the decoder, per GOP. on_warning: called once for each anchor whose prompt cannot be used; logs by
    default. generation_slots: held while a generator runs, to bound how many do at a time: each takes memory
    for its activations, more than the pictures do.
    """

    time_base: Fraction
    extradata: bytes | None = None
    generators: GeneratorLookup | None = None
    threads: int = 1
    on_warning: Callable[[DecodeWarning], None] = lambda warning: _log.warning("%s", warning)
    generation_slots: AbstractContextManager[object] = field(
        default_factory=lambda: threading.Semaphore(MAX_GENERATIONS), compare=False, repr=False
    )

    @abstractmethod
    def starts_gop(self, packet: CodedPacket) -> bool:
        """Say whether decoding can start at this packet, independently of all before it."""

    @abstractmethod
    def new_decoder(self) -> D:
        """Return a decoder for this stream. Raises CodecError and BitstreamError for refused extradata."""

    @abstractmethod
    def decode_gop(self, packets: Iterable[CodedPacket], decoder: D) -> Iterator[GopPicture]:
        """Yield the pictures of one GOP in display order.

        Raises CodecError and BitstreamError for a packet that cannot be decoded.
        """

    def warn(self, packet: CodedPacket, problem: UnusablePromptError) -> None:
        """Tell of the prompt of a packet that cannot be used."""
        self.on_warning(problem.warning(float(packet.pts * self.time_base)))


def read_only(picture: Picture) -> Picture:
    """Return the picture with planes that refuse writing: the decoder still predicts from them."""
    planes = []
    for plane in picture.planes:
        view = plane.view()
        view.flags.writeable = False
        planes.append(view)
    return replace(picture, y=planes[0], u=planes[1], v=planes[2])
