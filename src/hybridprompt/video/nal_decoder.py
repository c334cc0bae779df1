"""What the H.264 and H.265 decoders share."""

from fractions import Fraction
from typing import ClassVar

from hybridprompt.video.packet_decoder import PacketDecoder


class NalDecoder(PacketDecoder):
    """Decodes one stream of access units with FFmpeg's own software decoders.

    extradata: avcC or hvcC, then packets have NAL unit lengths; or parameter sets in Annex B, or None where
    they are in band. threads: on the slices (or wavefronts) of one picture; frame threads would decode ahead
    of an injection. cropped: False returns the whole coded picture, hidden samples included. See
    PacketDecoder for the rest.
    """

    thread_type: ClassVar[str | None] = "SLICE"

    def __init__(
        self,
        extradata: bytes | None = None,
        *,
        time_base: Fraction = Fraction(1, 90000),
        threads: int = 1,
        cropped: bool = True,
    ) -> None:
        options = {"apply_cropping": str(int(cropped))}
        super().__init__(extradata, time_base=time_base, threads=threads, options=options)
