"""H.264 decoding. Pictures come in display order, delayed by the stream's reordering.

Overwriting them would come too late where pictures are reordered. Another keyframe is spliced into the stream
instead, before it gets here: Note [PCM splice] in `bitstream.h264_pcm`.
"""

from typing import ClassVar

from hybridprompt.errors import CodecError
from hybridprompt.video.nal_decoder import NalDecoder
from hybridprompt.video.packet_decoder import DecodedFrame


class H264Decoder(NalDecoder):
    """Decodes one H.264 stream."""

    codec_name: ClassVar[str] = "h264"
    label: ClassVar[str] = "H.264"

    def decode_alone(self, packet: bytes, pts: int) -> DecodedFrame:
        """Decode a keyframe's packet without waiting for others; what was before it is forgotten.

        Raises CodecError when it gives no picture, or several.
        """
        frames = [*self.decode(packet, pts), *self.flush()]
        if len(frames) != 1:
            raise CodecError(f"H.264 keyframe with pts {pts} gave {len(frames)} pictures, expected 1")
        return frames[0]
