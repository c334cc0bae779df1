"""Decoding one GOP with its prompts: Note [Keyframe injection] in `video.av1_decoder` says how it works.

Nothing here knows files, so the encoder tries prompts with the very code that will play them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hybridprompt.bitstream.show_hidden import SplitUnit
from hybridprompt.decode import headers
from hybridprompt.decode.generation import (
    MAX_GENERATIONS,
    Generation,
    GeneratorLookup,
    UnusablePromptError,
    check_size,
    misfit,
    read_prompt,
    relevant,
)
from hybridprompt.decode.gop import Decoding, GopPicture, read_only
from hybridprompt.decode.headers import HeaderHistory, existing_slot
from hybridprompt.errors import BitstreamError
from hybridprompt.prompt.carriage import extract
from hybridprompt.prompt.syntax import MAGIC, Prompt
from hybridprompt.video.av1_decoder import Av1Decoder
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.packet_decoder import DecodedFrame

__all__ = ["MAX_GENERATIONS", "GeneratorLookup", "GopDecoding", "GopPicture", "decode_gop"]


@dataclass(frozen=True)
class GopDecoding(Decoding[Av1Decoder]):
    """See Decoding.  extradata: av1C or a sequence header OBU."""

    def new_decoder(self) -> Av1Decoder:
        """Return a decoder for this stream. Raises CodecError when its extradata is refused."""
        return Av1Decoder(self.extradata, time_base=self.time_base, threads=self.threads)

    def starts_gop(self, packet: CodedPacket) -> bool:
        """Say whether decoding can start at this packet; see `headers.starts_gop`."""
        return headers.starts_gop(packet, self.extradata)

    def decode_gop(self, packets: Iterable[CodedPacket], decoder: Av1Decoder) -> Iterator[GopPicture]:
        """Decode one GOP; see `decode_gop`."""
        return decode_gop(packets, self, decoder=decoder)


def decode_gop(
    packets: Iterable[CodedPacket],
    decoding: GopDecoding,
    *,
    decoder: Av1Decoder | None = None,
    prompts: Mapping[int, Prompt | None] | None = None,
) -> Iterator[GopPicture]:
    """Decode one GOP, generating at its anchors; yield its pictures in display order as they come.

    packets: in decoding order, from the keyframe on. decoder: one that may have decoded other GOPs of the
    stream before; a new one by default. prompts: by packet index, instead of what those packets carry (None:
    nothing).

    A prompt that cannot be used leaves the base picture and causes one warning; so does one whose still can
    be shown, but not be generated from. One on a packet that shows no picture is ignored. Raises CodecError
    for a packet that cannot be decoded.
    """
    if decoder is None:
        with decoding.new_decoder() as own:
            yield from decode_gop(packets, decoding, decoder=own, prompts=prompts)
        return
    injector = _Injector(decoding, prompts or {})
    for index, packet in enumerate(packets):
        frames, is_anchor = injector.decode(decoder, index, packet)
        for frame in frames:
            yield GopPicture(read_only(frame.picture), index, frame.is_keyframe, is_anchor)


class _Injector:
    """Replaces the anchors of one GOP by generated pictures, in the decoder too."""

    def __init__(self, decoding: GopDecoding, prompts: Mapping[int, Prompt | None]) -> None:
        self._decoding = decoding
        self._prompts = prompts
        self._headers = HeaderHistory(decoding.extradata)
        self._generation = Generation(decoding.generators, decoding.generation_slots)

    def decode(
        self, decoder: Av1Decoder, index: int, packet: CodedPacket
    ) -> tuple[Sequence[DecodedFrame], bool]:
        """Decode a packet, generating what its prompt is for; say also whether a generated picture is shown.

        A prompt is for the first frame after it. Where that is hidden, as base pictures of mini-GOPs are, it
        is generated before the rest of the packet is decoded: Note [Showing a hidden frame] in
        `bitstream.show_hidden`.
        """
        prompt, split = None, None
        try:
            prompt = self._prompt(index, packet)
            split = None if prompt is None else self._split(packet)
        except UnusablePromptError as problem:
            self._decoding.warn(packet, problem)
            prompt = None
        if prompt is None or split is None:
            frames = decoder.decode(packet.data, packet.pts)
            self._headers.append(packet.data)
            is_anchor = prompt is not None and self._inject(packet, prompt, frames)
            return frames, is_anchor or self._headers.shows_marked(packet.data)
        hidden = decoder.decode(split.first, packet.pts)
        self._headers.append(packet.data)
        if self._inject(packet, prompt, hidden, split.header.base_q_idx):
            self._headers.mark_hidden()
        return decoder.decode(split.rest, packet.pts) if split.rest else [], False

    def _split(self, packet: CodedPacket) -> SplitUnit | None:
        try:
            return self._headers.split(packet.data)
        except BitstreamError as error:
            raise misfit(f"the frame of a prompt cannot be reached ({error})") from error

    def _inject(
        self,
        packet: CodedPacket,
        prompt: Prompt,
        frames: Sequence[DecodedFrame],
        hidden_base_q_idx: int | None = None,
    ) -> bool:
        """Generate the one frame; return whether that was done."""
        # AV1 shows one picture per temporal unit; to which of several a prompt belongs is not defined.
        if len(frames) != 1:
            return False
        try:
            self._check_anchor(packet, prompt, frames[0], is_hidden=hidden_base_q_idx is not None)
            return self._generate(packet, prompt, frames[0], hidden_base_q_idx)
        except UnusablePromptError as problem:
            self._decoding.warn(packet, problem)
            return False

    def _prompt(self, index: int, packet: CodedPacket) -> Prompt | None:
        if index in self._prompts:
            return relevant(self._prompts[index], self._decoding.generators)
        # Looking for the magic first spares most packets the parsing.
        if MAGIC not in packet.data:
            return None
        return read_prompt(lambda: extract(packet.data), self._decoding.generators)

    def _check_anchor(
        self, packet: CodedPacket, prompt: Prompt, frame: DecodedFrame, *, is_hidden: bool
    ) -> None:
        """Raise unless the prompt is for a picture of this size, which may be overwritten here."""
        if frame.has_film_grain:
            raise misfit("a prompt in a stream with film grain")
        if not frame.can_overwrite:
            raise misfit("a prompt for a picture that is not 8-bit 4:2:0")
        check_size(prompt, frame.picture.width, frame.picture.height)
        if is_hidden:
            return
        try:
            is_repeat = existing_slot(packet.data) is not None and self._headers.last_shown().is_repeat
        except BitstreamError as error:
            raise misfit(f"headers are damaged ({error})") from error
        if is_repeat:
            # Its buffer is already in the hands of whoever got the picture the first time.
            raise misfit("a prompt for a picture shown before")

    def _generate(
        self, packet: CodedPacket, prompt: Prompt, frame: DecodedFrame, hidden_base_q_idx: int | None
    ) -> bool:
        """Overwrite the frame; return whether by what a generator made."""

        def own_quantiser() -> int:
            return self._headers.last_shown().base_q_idx if hidden_base_q_idx is None else hidden_base_q_idx

        replacement = self._generation.replacement(prompt, lambda: frame.picture.planes, own_quantiser)
        if replacement is None:
            return False
        frame.overwrite(*replacement.planes)
        if replacement.problem is not None:
            self._decoding.warn(packet, replacement.problem)
        return replacement.is_generated
