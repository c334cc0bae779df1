"""Decoding one GOP of H.264 or H.265 with other pixels at one anchor.

Apart from `decoders`, as what encodes AV1 needs nothing of this.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from hybridprompt.bitstream.codec_config import length_size_of
from hybridprompt.bitstream.nal import H264Nal, NalCodec, nal_type, split_nal_units
from hybridprompt.decode.nal_injection import (
    Generate,
    H264InjectingDecoder,
    HevcInjectingDecoder,
    InjectingDecoder,
)
from hybridprompt.encode.operator.decoders import Injection, check_frames
from hybridprompt.errors import BitstreamError, CodecError, ConfigError
from hybridprompt.generator.base import Plane, Planes
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.hevc_decoder import DisplayOrder
from hybridprompt.video.packet_decoder import DecodedFrame
from hybridprompt.video.picture import Picture

_DECODERS: Final[Mapping[NalCodec, Callable[..., InjectingDecoder]]] = {
    NalCodec.H264: H264InjectingDecoder,
    NalCodec.H265: HevcInjectingDecoder,
}


@dataclass(frozen=True, kw_only=True)
class NalAnchorDecoder:
    """A GOP of H.264 or H.265 as an `AnchorDecoder`, decoded by `decode.nal_injection`.

    packets: in decoding order, from the keyframe on, each with one shown picture; frames are counted in order
    of pts.  size: (width, height) of the pictures, both even.  extradata: avcC or hvcC, parameter sets in
    Annex B, or None where they are in band.  threads: within a picture, per decode.

    H.264 has its IDR pictures as anchors, H.265 any picture.  What precedes an anchor in decoding order does
    not change with it, even if it is shown later.

    Hidden samples are there where a size is no multiple of H.264's macroblock, or of H.265's smallest coding
    block.  Both repeat the edge of an injected picture there, and have those of the base picture where
    nothing is injected.

    Raises ConfigError for an odd size, and where two packets have the same pts.
    """

    codec: NalCodec
    packets: Sequence[CodedPacket]
    size: tuple[int, int]
    time_base: Fraction
    extradata: bytes | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        if any(length % 2 or length < 2 for length in self.size):
            raise ConfigError(f"pictures of {self.size[0]}x{self.size[1]}, expected even sizes")
        times = {packet.pts for packet in self.packets}
        if len(times) < len(self.packets):
            raise ConfigError(f"{len(self.packets)} packets have {len(times)} pts, expected one for each")

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
        times = sorted(packet.pts for packet in self.packets)
        wanted = {times[frame]: frame for frame in frames}
        order: DisplayOrder[tuple[int, Planes]] = DisplayOrder(wanted)
        missing = set(frames)
        early: list[DecodedFrame] = []
        for index, decoded in self._decoded(anchor, injection):
            early += (one for one in decoded if one.pts in wanted)
            if index < anchor:
                # Nobody gets a picture before the injection was called.
                continue
            for one in early:
                assert one.pts is not None
                frame = wanted[one.pts]
                for due in order.push(one.pts, (frame, self._checked(frame, one.picture))):
                    missing.discard(due[0])
                    yield due
            early = []
            if not missing:
                return
        raise CodecError(f"frames {sorted(missing)} of the GOP are missing: not every packet shows a picture")

    def _decoded(
        self, anchor: int, injection: Injection | None
    ) -> Iterator[tuple[int, Sequence[DecodedFrame]]]:
        """The index of each packet, and what the decoder gives after it; last, what is still inside."""
        generate = None if injection is None else _generate_by(injection)
        index = 0
        try:
            if generate is not None:
                self._check_anchor(anchor)
            decoder = _DECODERS[self.codec](self.extradata, time_base=self.time_base, threads=self.threads)
            with closing(decoder):
                for index, packet in enumerate(self.packets):
                    yield (
                        index,
                        decoder.decode(packet.data, packet.pts, generate if index == anchor else None),
                    )
                yield index, decoder.flush()
        except BitstreamError as error:
            raise CodecError(f"packet {index} of the GOP: {error}") from error

    def _check_anchor(self, anchor: int) -> None:
        if self.codec is NalCodec.H264:
            length_size = length_size_of(self.extradata, codec=self.codec)
            nals = split_nal_units(self.packets[anchor].data, length_size=length_size)
            if all(nal_type(nal, self.codec) != H264Nal.SLICE_IDR for nal in nals):
                raise CodecError(f"packet {anchor} of the GOP has no IDR picture: H.264 has no other anchors")

    def _checked(self, frame: int, picture: Picture) -> Planes:
        if (picture.width, picture.height) != self.size:
            raise CodecError(
                f"frame {frame} is {picture.width}x{picture.height}, expected {self.size[0]}x{self.size[1]}"
            )
        y, u, v = map(_read_only, picture.planes)
        return y, u, v


def _generate_by(injection: Injection) -> Generate:
    def generate(base: Picture) -> Planes:
        return injection(base.planes)

    return generate


def _read_only(plane: Plane) -> Plane:
    """The plane, refusing to be written: the decoder still predicts from it."""
    view = plane.view()
    view.flags.writeable = False
    return view
