"""Decoding one GOP of H.264 or H.265 with its prompts; `decode.injection` is the same for AV1.

Nothing here knows files, so the encoder tries prompts with the very code that will play them. How a picture
is replaced is `decode.nal_injection`'s.
"""

import heapq
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from hybridprompt.bitstream.codec_config import length_size_of
from hybridprompt.bitstream.nal import NalCodec, has_idr
from hybridprompt.decode.generation import (
    Generation,
    Replacement,
    UnusablePromptError,
    check_size,
    misfit,
    read_prompt,
    relevant,
)
from hybridprompt.decode.gop import Decoding, GopPicture, read_only
from hybridprompt.decode.nal_injection import H264InjectingDecoder, HevcInjectingDecoder
from hybridprompt.errors import BitstreamError
from hybridprompt.generator.base import Planes
from hybridprompt.prompt.carriage_nal import extract
from hybridprompt.prompt.syntax import MAGIC, Prompt
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.packet_decoder import DecodedFrame

MAX_HELD_PICTURES: Final = 16
"""Pictures that wait for their place in display order: as many as H.265 lets a decoder hold (A.4.2)."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NalDecoding(Decoding[H264InjectingDecoder | HevcInjectingDecoder]):
    """See Decoding.  extradata: avcC or hvcC (packets then have NAL unit lengths), parameter sets in Annex B,
    or None. threads: within a picture.
    """

    codec: NalCodec = field(kw_only=True)

    @property
    def length_size(self) -> int | None:
        """Bytes of a NAL unit's length in packets, None for Annex B. Raises BitstreamError."""
        return length_size_of(self.extradata, codec=self.codec)

    def starts_gop(self, packet: CodedPacket) -> bool:
        """Say whether decoding can start at this packet: it is an IDR access unit."""
        try:
            return has_idr(packet.data, self.codec, length_size=self.length_size)
        except BitstreamError as error:
            # Damage: the decoder will find it too, and the container's word is all there is.
            _log.debug("packet with pts %d: %s", packet.pts, error)
            return packet.is_keyframe

    def new_decoder(self) -> H264InjectingDecoder | HevcInjectingDecoder:
        """Return a decoder for this stream. Raises BitstreamError and CodecError for refused extradata."""
        kind = H264InjectingDecoder if self.codec is NalCodec.H264 else HevcInjectingDecoder
        return kind(self.extradata, time_base=self.time_base, threads=self.threads)

    def decode_gop(
        self, packets: Iterable[CodedPacket], decoder: H264InjectingDecoder | HevcInjectingDecoder
    ) -> Iterator[GopPicture]:
        """Decode one GOP; see `decode_nal_gop`."""
        return decode_nal_gop(packets, self, decoder=decoder)


def decode_nal_gop(
    packets: Iterable[CodedPacket],
    decoding: NalDecoding,
    *,
    decoder: H264InjectingDecoder | HevcInjectingDecoder | None = None,
    prompts: Mapping[int, Prompt | None] | None = None,
) -> Iterator[GopPicture]:
    """Decode one GOP, generating at its anchors; yield its pictures in display order.

    packets: in decoding order, from an IDR access unit on. decoder: one that may have decoded other GOPs of
    the stream before; a new one by default. prompts: by packet index (in decoding order), instead of what
    those packets carry (None: nothing).

    Any picture of H.265 may be an anchor, and IDR pictures of H.264. A prompt that cannot be used leaves the
    base picture and causes one warning; so does one whose still can be shown, but not be generated from. One
    on a packet that shows no picture is ignored.

    Raises CodecError and BitstreamError for a packet that cannot be decoded; pictures that wait for their
    place in display order are then lost.
    """
    if decoder is None:
        with decoding.new_decoder() as own:
            yield from decode_nal_gop(packets, decoding, decoder=own, prompts=prompts)
        return
    # Whoever left the last GOP in its middle left pictures behind.
    decoder.flush()
    gop: _Gop
    if isinstance(decoder, H264InjectingDecoder):
        gop = _H264Gop(decoder, decoding, prompts or {})
    else:
        gop = _HevcGop(decoder, decoding, prompts or {})
    for index, packet in enumerate(packets):
        yield from gop.decode(index, packet)
    yield from gop.flush()


@dataclass(frozen=True, slots=True)
class _Source:
    """What is known of a packet when its picture comes out."""

    index: int
    is_keyframe: bool
    is_anchor: bool


class _Gop(ABC):
    """One GOP on its way through a decoder."""

    def __init__(self, decoding: NalDecoding, prompts: Mapping[int, Prompt | None]) -> None:
        self._decoding = decoding
        self._prompts = prompts
        self._length_size = decoding.length_size
        self._generation = Generation(decoding.generators, decoding.generation_slots)
        # By pts, of packets whose pictures have not come out yet.
        self._sources: dict[int, _Source] = {}

    @abstractmethod
    def decode(self, index: int, packet: CodedPacket) -> Iterable[GopPicture]:
        """Decode a packet; return the pictures that are shown next, in order."""

    @abstractmethod
    def flush(self) -> Iterable[GopPicture]:
        """Return what is left, in order."""

    def _prompt(self, index: int, packet: CodedPacket) -> Prompt | None:
        if index in self._prompts:
            return relevant(self._prompts[index], self._decoding.generators)
        # Looking for the magic first spares most packets the parsing.
        if MAGIC not in packet.data:
            return None
        codec = self._decoding.codec
        return read_prompt(
            lambda: extract(packet.data, codec=codec, length_size=self._length_size),
            self._decoding.generators,
        )

    def _replacement(
        self, packet: CodedPacket, prompt: Prompt, base: Callable[[], Planes]
    ) -> Replacement | None:
        replacement = self._generation.replacement(prompt, base, _unknown_quantiser)
        if replacement is not None and replacement.problem is not None:
            self._decoding.warn(packet, replacement.problem)
        return replacement

    def _remember(self, index: int, packet: CodedPacket, is_anchor: bool) -> None:
        is_keyframe = has_idr(packet.data, self._decoding.codec, length_size=self._length_size)
        self._sources[packet.pts] = _Source(index, is_keyframe, is_anchor)

    def _shown(self, index: int, frame: DecodedFrame) -> GopPicture:
        """Make a picture of what came out while the packet of this index was decoded."""
        source = None if frame.pts is None else self._sources.pop(frame.pts, None)
        if source is None:
            # Two packets had the same pts.
            source = _Source(index, False, False)
        return GopPicture(read_only(frame.picture), source.index, source.is_keyframe, source.is_anchor)


class _H264Gop(_Gop):
    """Packets are replaced, pictures come in display order."""

    def __init__(
        self, decoder: H264InjectingDecoder, decoding: NalDecoding, prompts: Mapping[int, Prompt | None]
    ) -> None:
        super().__init__(decoding, prompts)
        self._decoder = decoder
        self._index = 0

    def decode(self, index: int, packet: CodedPacket) -> list[GopPicture]:
        self._index = index
        replacement = None
        try:
            prompt = self._prompt(index, packet)
            if prompt is not None:
                self._check_anchor(packet, prompt)
                replacement = self._replacement(packet, prompt, lambda: self._base(packet, prompt))
        except UnusablePromptError as problem:
            self._decoding.warn(packet, problem)
        self._remember(index, packet, replacement is not None and replacement.is_generated)
        if replacement is None:
            frames = self._decoder.decode(packet.data, packet.pts)
        else:
            frames = self._decoder.decode_replaced(packet.data, packet.pts, replacement.planes)
        return self._all_shown(frames)

    def flush(self) -> list[GopPicture]:
        return self._all_shown(self._decoder.flush())

    def _check_anchor(self, packet: CodedPacket, prompt: Prompt) -> None:
        try:
            size = self._decoder.keyframe_size(packet.data)
        except BitstreamError as error:
            raise misfit(f"a prompt for a picture that cannot be replaced ({error})") from error
        check_size(prompt, *size)

    def _base(self, packet: CodedPacket, prompt: Prompt) -> Planes:
        picture = self._decoder.keyframe(packet.data, packet.pts)
        check_size(prompt, picture.width, picture.height)
        return picture.planes

    def _all_shown(self, frames: Sequence[DecodedFrame]) -> list[GopPicture]:
        shown = [self._shown(self._index, frame) for frame in frames]
        # What is over gives no picture any more: damaged packets shall not pile up here.
        if frames and frames[-1].pts is not None:
            last = frames[-1].pts
            self._sources = {pts: source for pts, source in self._sources.items() if pts > last}
        return shown


class _HevcGop(_Gop):
    """Pictures come in decoding order, each from its own packet, and are overwritten.

    They wait for their place in display order as in H.265 C.5.2: no longer than until more are waiting than
    the SPS says may be reordered.
    """

    def __init__(
        self, decoder: HevcInjectingDecoder, decoding: NalDecoding, prompts: Mapping[int, Prompt | None]
    ) -> None:
        super().__init__(decoding, prompts)
        self._decoder = decoder
        # (pts, number, picture); the number is that in decoding order, so that pictures are never compared.
        self._waiting: list[tuple[int, int, GopPicture]] = []
        self._count = 0

    def decode(self, index: int, packet: CodedPacket) -> Iterator[GopPicture]:
        prompt = None
        try:
            prompt = self._prompt(index, packet)
        except UnusablePromptError as problem:
            self._decoding.warn(packet, problem)
        frames = self._decoder.decode(packet.data, packet.pts)
        # What gave no picture then gives none any more.
        self._sources.clear()
        is_anchor = prompt is not None and self._inject(packet, prompt, frames)
        self._remember(index, packet, is_anchor)
        for frame in frames:
            shown = self._shown(index, frame)
            assert shown.picture.pts is not None
            heapq.heappush(self._waiting, (shown.picture.pts, self._count, shown))
            self._count += 1
        yield from self._due(min(self._decoder.max_reorder, MAX_HELD_PICTURES))

    def flush(self) -> Iterator[GopPicture]:
        self._decoder.flush()
        yield from self._due(0)

    def _inject(self, packet: CodedPacket, prompt: Prompt, frames: Sequence[DecodedFrame]) -> bool:
        """Overwrite the one frame; return whether by what a generator made."""
        if [frame.pts for frame in frames] != [packet.pts]:
            return False
        frame = frames[0]
        try:
            if not frame.can_overwrite:
                raise misfit("a prompt for a picture that is not 8-bit 4:2:0")
            check_size(prompt, frame.picture.width, frame.picture.height)
            replacement = self._replacement(packet, prompt, lambda: frame.picture.planes)
        except UnusablePromptError as problem:
            self._decoding.warn(packet, problem)
            return False
        if replacement is None:
            return False
        frame.overwrite(*replacement.planes)
        return replacement.is_generated

    def _due(self, left: int) -> Iterator[GopPicture]:
        """Yield the first of those that wait until so many are left."""
        while len(self._waiting) > left:
            yield heapq.heappop(self._waiting)[2]


def _unknown_quantiser() -> int:
    raise BitstreamError("no quantiser section, which H.264 and H.265 need where there is no still")
