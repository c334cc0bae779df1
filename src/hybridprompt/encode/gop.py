"""A coded GOP, and which pictures of it can be anchors: the keyframe, and later mini-GOPs' base pictures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from hybridprompt.bitstream.obu import FrameHeader, HeaderTracker
from hybridprompt.decode.headers import sequence_header
from hybridprompt.decode.injection import GeneratorLookup, GopDecoding, decode_gop
from hybridprompt.decode.still import still_header
from hybridprompt.decode.warnings import DecodeWarning
from hybridprompt.errors import CodecError
from hybridprompt.prompt.carriage import attach, detach
from hybridprompt.prompt.sections import Still
from hybridprompt.prompt.syntax import MAX_SIZE, MIN_SIZE, Prompt
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.packet_decoder import DecodedFrame
from hybridprompt.video.picture import Picture

if TYPE_CHECKING:
    from hybridprompt.encode.operator.decoders import AnchorDecoder

Warn = Callable[[DecodeWarning], None]


@dataclass(frozen=True)
class Gop:
    """A coded GOP of AV1 and, where there is one, its source.  Other codecs' GOPs derive from it.

    packets: in decoding order, each with one shown picture; AV1's are in display order.  source: the source
    picture of a frame index, which counts in display order.  still: what the keyframe's prompt holds, where
    the packet has a stub only; with it the packet itself carries a prompt that generates nothing.
    """

    packets: Sequence[CodedPacket]
    extradata: bytes | None
    time_base: Fraction
    source: Callable[[int], Picture]
    still: Still | None = None

    @property
    def frame_count(self) -> int:
        return len(self.packets)

    @property
    def size_bytes(self) -> int:
        """Of all packets."""
        return sum(len(packet.data) for packet in self.packets)

    def candidates(self, anchor_interval: int | None) -> list[Candidate]:
        """The pictures that can be anchors, in decoding order.

        What a packet codes reaches no frame whose index is below the packet's.  Raises BitstreamError.
        """
        found = find_candidates(self, anchor_interval)
        if self.still is not None and found:
            # Generation starts from the still; the quantiser of the stub in its place says nothing.
            found[0] = replace(found[0], base_q_idx=still_header(self.still).base_q_idx)
        return found

    def shown(
        self,
        prompts: Mapping[int, Prompt],
        frames: Collection[int],
        *,
        generators: GeneratorLookup | None,
        on_warning: Warn,
    ) -> Iterator[tuple[int, Picture]]:
        """Decode with these prompts, by packet, in place of all others; yield the frames in display order.

        A still stays what the keyframe's packet says where no other prompt is given for it.  Raises
        CodecError and BitstreamError when the packets cannot be decoded, or show none of the frames.
        """
        decoding = GopDecoding(self.time_base, self.extradata, generators, threads=2, on_warning=on_warning)
        missing = set(frames)
        taken = self._in_place_of_all(prompts)
        for shown in decode_gop(self.packets[: max(frames) + 1], decoding, prompts=taken):
            if shown.index in frames:
                missing.discard(shown.index)
                yield shown.index, shown.picture
        if missing:
            raise CodecError(f"packets {sorted(missing)} of a GOP show no picture")

    def _in_place_of_all(self, prompts: Mapping[int, Prompt]) -> dict[int, Prompt | None]:
        # None takes away what a packet may carry already.
        kept = range(0 if self.still is None else 1, len(self.packets))
        return {**dict.fromkeys(kept), **prompts}

    def anchor_decoder(self, size: tuple[int, int]) -> AnchorDecoder:
        """The GOP for the decode operator.  size: (width, height) of its pictures.  Raises ConfigError."""
        from hybridprompt.encode.operator.decoders import Av1AnchorDecoder

        return Av1AnchorDecoder(
            packets=self.packets, size=size, time_base=self.time_base, extradata=self.extradata
        )

    @property
    def still_bytes(self) -> int:
        """What the keyframe's packet takes for the prompt with its still; 0 without one."""
        packet = self.packets[0].data
        return 0 if self.still is None else len(packet) - len(self.without_prompt(packet))

    def carry(self, packet: bytes, prompt_bytes: bytes) -> bytes:
        """Put a prompt into a packet, in place of the one that is there.  Raises BitstreamError."""
        return attach(self.without_prompt(packet), prompt_bytes)

    def without_prompt(self, packet: bytes) -> bytes:
        """Take the prompt out of a packet that has one.  Raises BitstreamError."""
        return detach(packet)


@dataclass(frozen=True)
class Candidate:
    """A picture that can be an anchor: the packet that codes it, the frame that shows it, its base_q_idx."""

    packet: int
    frame: int
    base_q_idx: int


def find_candidates(gop: Gop, anchor_interval: int | None) -> list[Candidate]:
    """The keyframe, and every ``anchor_interval`` frames the base picture of a mini-GOP.

    A base picture is coded, hidden, in the packet that shows the first picture of its mini-GOP, and is shown
    later.  Raises BitstreamError.
    """
    tracker = HeaderTracker(sequence_header(gop.extradata))
    out: list[Candidate] = []
    for index, packet in enumerate(gop.packets):
        headers = tracker.parse(packet.data)
        if not headers:
            continue
        if index == 0:
            out.append(Candidate(0, 0, headers[0].base_q_idx))
        elif anchor_interval is not None and _is_hidden_base(headers):
            bits = tracker.sequence_header.order_hint_bits if tracker.sequence_header is not None else 0
            shown = next((h for h in headers if h.shown), headers[-1])
            ahead = (headers[0].order_hint - shown.order_hint) % (1 << bits) if bits else 0
            frame = index + ahead
            # One that is shown soon, or near the end, serves too few frames to be worth a generator run.
            far = frame - out[-1].frame >= anchor_interval - anchor_interval // 4
            if ahead >= 4 and far and frame < len(gop.packets) - anchor_interval // 4:
                out.append(Candidate(index, frame, headers[0].base_q_idx))
    return out


def can_carry(frames: Sequence[DecodedFrame]) -> bool:
    """Whether a player could replace what a packet showed: one picture, 8-bit 4:2:0, without film grain."""
    if len(frames) != 1 or not frames[0].can_overwrite or frames[0].has_film_grain:
        return False
    picture = frames[0].picture
    return can_name(picture.width, picture.height)


def can_name(width: int, height: int) -> bool:
    """Whether a prompt can name this size of a picture."""
    return all(MIN_SIZE <= size <= MAX_SIZE for size in (width, height))


def _is_hidden_base(headers: Sequence[FrameHeader]) -> bool:
    return not headers[0].shown and headers[0].refresh_frame_flags != 0 and not headers[0].is_intra
