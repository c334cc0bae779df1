"""Prompts in the packets of a file, whatever its codec."""

from dataclasses import dataclass
from typing import Final

from hybridprompt.bitstream.codec_config import length_size_of
from hybridprompt.bitstream.nal import NalCodec
from hybridprompt.prompt import carriage, carriage_nal

NAL_CODECS: Final = {"h264": NalCodec.H264, "hevc": NalCodec.H265}
"""By FFmpeg's names."""


@dataclass(frozen=True, slots=True)
class PacketCarriage:
    """How the packets of a track carry prompts. codec: None for AV1. length_size: see `bitstream.nal`."""

    codec: NalCodec | None = None
    length_size: int | None = None

    @classmethod
    def of(cls, codec: str, extradata: bytes | None) -> "PacketCarriage":
        """Return that of a codec by its FFmpeg name. Raises BitstreamError for damaged extradata."""
        nal_codec = NAL_CODECS.get(codec)
        return cls() if nal_codec is None else cls(nal_codec, length_size_of(extradata, codec=nal_codec))

    def extract(self, packet: bytes) -> bytes | None:
        """Return the bytes of the packet's prompt, None without one. Raises BitstreamError."""
        if self.codec is None:
            return carriage.extract(packet)
        return carriage_nal.extract(packet, codec=self.codec, length_size=self.length_size)

    def detach(self, packet: bytes) -> bytes:
        """Return the packet without its prompts. Raises BitstreamError."""
        if self.codec is None:
            return carriage.detach(packet)
        return carriage_nal.detach(packet, codec=self.codec, length_size=self.length_size)
