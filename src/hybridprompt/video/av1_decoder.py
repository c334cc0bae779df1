"""AV1 decoding with dav1d, and injection of other pixels into its reference pictures.

Note [Keyframe injection]: a VideoFrame does not copy what dav1d decoded; its planes are the very buffers
that dav1d keeps as reference picture. Writing into them after the picture came out and before the next packet
goes in changes what all following frames predict from, in an unmodified decoder. Three things make that
exact: `max_frame_delay=1` (with more, dav1d already decodes following frames; tile and row threads are
fine), film grain synthesis off (it would hand out a copy), and a shown frame (hidden references never
come out).
Entropy contexts and motion vectors are not touched: they come from the packets.

`max_frame_delay=1` has a second reason: with more, dav1d's threads may release a packet, which belongs to a
Python object, while `close` waits for them and holds the GIL: a deadlock.
"""

from fractions import Fraction
from typing import ClassVar

from hybridprompt.video.packet_decoder import PacketDecoder


class Av1Decoder(PacketDecoder):
    """Decodes one AV1 stream; a shown picture comes out of the call that its packet goes in.

    extradata: av1C or a sequence header OBU, needed only where packets lack in-band headers. threads: dav1d's
    tile and row threads. See PacketDecoder for the rest.
    """

    codec_name: ClassVar[str] = "libdav1d"
    label: ClassVar[str] = "AV1"

    def __init__(
        self, extradata: bytes | None = None, *, time_base: Fraction = Fraction(1, 90000), threads: int = 1
    ) -> None:
        options = {
            "max_frame_delay": "1",
            # Hands film grain out as side data instead of applying it to a copy of the reference.
            "export_side_data": "film_grain",
        }
        super().__init__(extradata, time_base=time_base, threads=threads, options=options)
