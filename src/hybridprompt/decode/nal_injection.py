"""H.264 and H.265 streams decoded with other pictures in place of their keyframes.

Both ways are exact: all other pictures are what any conforming decoder would predict from the new keyframe.
They differ as the decoders do: H.265's reference is overwritten, H.264's packet is replaced.
"""

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Protocol

from hybridprompt.bitstream.codec_config import length_size_of, parameter_sets
from hybridprompt.bitstream.h264_pcm import find_idr, replace_idr
from hybridprompt.bitstream.hevc_active_sps import ActiveSps
from hybridprompt.bitstream.hevc_sps import configuration_without_reordering, unit_without_reordering
from hybridprompt.bitstream.nal import NalCodec, split_nal_units
from hybridprompt.errors import BitstreamError, CodecError
from hybridprompt.generator.base import Planes
from hybridprompt.video.h264_decoder import H264Decoder
from hybridprompt.video.hevc_decoder import HevcDecoder
from hybridprompt.video.packet_decoder import Closing, DecodedFrame
from hybridprompt.video.picture import Picture

Generate = Callable[[Picture], Planes | None]
"""From the base picture to the planes that replace it; None keeps it."""


class InjectingDecoder(Protocol):
    """A decoder that takes another picture in place of the one that a packet holds."""

    def decode(self, packet: bytes, pts: int, generate: Generate | None = None) -> list[DecodedFrame]:
        """Decode a packet, replacing its picture by what ``generate`` makes of it; return what comes out."""

    def flush(self) -> list[DecodedFrame]:
        """Return what is still inside."""

    def close(self) -> None:
        """Release the decoder."""


class HevcInjectingDecoder(Closing):
    """Decodes H.265 in decoding order; any picture can be replaced.

    Samples outside the conformance window of a replaced picture repeat the nearest visible sample: this is
    part of the format (docs/bitstream.md), as motion vectors may point there. `overwrite` of a frame that
    came out sees to it.

    extradata: hvcC (packets then have NAL unit lengths), parameter sets in Annex B, or None. threads:
    wavefronts. Raises BitstreamError and CodecError for extradata that is damaged.
    """

    def __init__(
        self, extradata: bytes | None = None, *, time_base: Fraction = Fraction(1, 90000), threads: int = 1
    ) -> None:
        self._length_size = length_size_of(extradata, codec=NalCodec.H265)
        self._active = ActiveSps()
        self._active.update(parameter_sets(extradata, codec=NalCodec.H265))
        rewritten = configuration_without_reordering(extradata) if extradata else None
        self._decoder = HevcDecoder(rewritten, time_base=time_base, threads=threads, cropped=False)

    @property
    def max_reorder(self) -> int:
        """How many of the pictures decoded last may have to wait for one that is shown before them."""
        sps = self._active.sps
        return 0 if sps is None else sps.max_num_reorder

    def decode(self, packet: bytes, pts: int, generate: Generate | None = None) -> list[DecodedFrame]:
        """Decode one access unit; return its picture, with the pts given.

        Raises BitstreamError and CodecError for damaged data, and CodecError where there is not the one
        picture that ``generate`` is for.
        """
        nals = split_nal_units(packet, length_size=self._length_size)
        self._active.update(nal.data for nal in nals)
        frames = self._decoder.decode(unit_without_reordering(packet, length_size=self._length_size), pts)
        sps = self._active.sps
        if sps is not None:
            for frame in frames:
                frame.hide(*sps.crop)
        if generate is None:
            return frames
        if len(frames) != 1 or frames[0].pts != pts:
            raise CodecError(
                f"H.265 packet with pts {pts} gave pictures of {[frame.pts for frame in frames]}, "
                "expected its own"
            )
        planes = generate(frames[0].picture)
        if planes is not None:
            frames[0].overwrite(*planes)
        return frames

    def flush(self) -> list[DecodedFrame]:
        """Return what is still inside (nothing), and make the decoder ready for another keyframe."""
        return self._decoder.flush()

    def close(self) -> None:
        """Release the decoder; frames that came out stay valid."""
        self._decoder.close()


class H264InjectingDecoder(Closing):
    """Decodes H.264 in display order; IDR pictures can be replaced.

    extradata: avcC (packets then have NAL unit lengths), parameter sets in Annex B, or None. threads: on
    slices. Raises BitstreamError and CodecError for extradata that is damaged.
    """

    def __init__(
        self, extradata: bytes | None = None, *, time_base: Fraction = Fraction(1, 90000), threads: int = 1
    ) -> None:
        self._length_size = length_size_of(extradata, codec=NalCodec.H264)
        self._parameter_sets = parameter_sets(extradata, codec=NalCodec.H264)
        self._decoder = H264Decoder(extradata, time_base=time_base, threads=threads)
        # For base pictures; opened for the first one.
        self._keyframes: H264Decoder | None = None
        self._open_keyframes = partial(H264Decoder, extradata, time_base=time_base, threads=threads)

    def decode(self, packet: bytes, pts: int, generate: Generate | None = None) -> list[DecodedFrame]:
        """Decode one access unit; return the pictures that are to be shown now.

        Raises BitstreamError and CodecError for damaged data, and BitstreamError where ``generate`` is
        given and the unit has no IDR picture, or one that cannot be replaced.
        """
        if generate is not None:
            planes = generate(self.keyframe(packet, pts))
            if planes is not None:
                return self.decode_replaced(packet, pts, planes)
        return self._decoder.decode(packet, pts)

    def keyframe_size(self, packet: bytes) -> tuple[int, int]:
        """Return width and height of an access unit's IDR picture without decoding it.

        Raises BitstreamError where there is none, or one that cannot be replaced.
        """
        idr = find_idr(packet, parameter_sets=self._parameter_sets, length_size=self._length_size)
        if idr is None:
            raise BitstreamError("the access unit has no IDR picture, H.264's only anchors")
        return idr.sps.size

    def keyframe(self, packet: bytes, pts: int) -> Picture:
        """Return the picture of an IDR access unit; what `decode` does is not affected.

        Raises CodecError for damaged data.
        """
        if self._keyframes is None:
            self._keyframes = self._open_keyframes()
        return self._keyframes.decode_alone(packet, pts).picture

    def decode_replaced(self, packet: bytes, pts: int, planes: Planes) -> list[DecodedFrame]:
        """Decode an IDR access unit with other planes, see `h264_pcm.replace_idr`.

        Returns the pictures that are to be shown now. Raises BitstreamError where there is no IDR picture, or
        one that cannot be replaced, CodecError for damaged data.
        """
        replaced = replace_idr(
            packet, planes, parameter_sets=self._parameter_sets, length_size=self._length_size
        )
        return self._decoder.decode(replaced, pts)

    def flush(self) -> list[DecodedFrame]:
        """Return what is still inside, and make the decoder ready for another keyframe."""
        return self._decoder.flush()

    def close(self) -> None:
        """Release the decoder; frames that came out stay valid."""
        self._decoder.close()
        if self._keyframes is not None:
            self._keyframes.close()
