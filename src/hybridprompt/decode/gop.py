"""What decoding a GOP is, whatever the codec: pictures out of it, and what the pipeline asks of a codec."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Protocol, TypeVar

from hybridprompt.decode.warnings import DecodeWarning
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.packet_decoder import Closing
from hybridprompt.video.picture import Picture

D = TypeVar("D", bound=Closing)


@dataclass(frozen=True, slots=True)
class GopPicture:
    """One picture of a GOP in display order, with read-only planes that nothing will change any more.

    `index` is that of its packet in the GOP. `is_anchor`: this is a generated picture.
    """

    picture: Picture
    index: int
    is_keyframe: bool
    is_anchor: bool


class Decoding(Protocol[D]):
    """What decoding a GOP needs beside its packets: AV1's is `GopDecoding`, the others' `NalDecoding`.

    D is the decoder: one serves many GOPs, one after the other.
    """

    @property
    def time_base(self) -> Fraction:
        """Unit of the packets' times in seconds."""

    @property
    def on_warning(self) -> Callable[[DecodeWarning], None]:
        """Takes what goes wrong without stopping the decoding."""

    def starts_gop(self, packet: CodedPacket) -> bool:
        """Say whether decoding can start at this packet, independently of all before it."""

    def new_decoder(self) -> D:
        """Return a decoder for this stream. Raises CodecError and BitstreamError for refused extradata."""

    def decode_gop(self, packets: Iterable[CodedPacket], decoder: D) -> Iterator[GopPicture]:
        """Yield the pictures of one GOP in display order.

        Raises CodecError and BitstreamError for a packet that cannot be decoded.
        """


def read_only(picture: Picture) -> Picture:
    """Return the picture with planes that refuse writing: the decoder still predicts from them."""
    planes = []
    for plane in picture.planes:
        view = plane.view()
        view.flags.writeable = False
        planes.append(view)
    return replace(picture, y=planes[0], u=planes[1], v=planes[2])
