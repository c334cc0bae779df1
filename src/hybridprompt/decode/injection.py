"""Decoding one GOP with its prompts: Note [Keyframe injection] in `video.av1_decoder` says how it works.

Nothing here knows files, so the encoder tries prompts with the very code that will play them.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Final, Protocol

from hybridprompt.bitstream.show_hidden import SplitUnit
from hybridprompt.decode.headers import HeaderHistory, existing_slot
from hybridprompt.decode.warnings import DecodeWarning, WarningKind
from hybridprompt.errors import BitstreamError, CodecError, GeneratorError
from hybridprompt.generator.base import Generator
from hybridprompt.prompt.carriage import extract
from hybridprompt.prompt.sections import parse_sections
from hybridprompt.prompt.syntax import MAGIC, Prompt, decode_prompt
from hybridprompt.video.av1_decoder import Av1Decoder
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.packet_decoder import DecodedFrame
from hybridprompt.video.picture import Picture

MAX_GENERATIONS: Final = 2

_log = logging.getLogger(__name__)


class GeneratorLookup(Protocol):
    """Where generators come from; `generator.registry.GeneratorRegistry` is one."""

    def find(self, identity: bytes) -> Generator | None:
        """Return the generator of that identity, None if it is not known. Raises GeneratorError."""


@dataclass(frozen=True, slots=True)
class GopPicture:
    """One picture of a GOP in display order, with read-only planes that nothing will change any more.

    `index` is that of its packet in the GOP. `is_anchor`: this is a generated picture.
    """

    picture: Picture
    index: int
    is_keyframe: bool
    is_anchor: bool


@dataclass(frozen=True)
class GopDecoding:
    """What decoding a GOP needs beside its packets, the same for all GOPs of a stream.

    extradata: the container's codec configuration (av1C or a sequence header OBU). time_base: unit of the
    packets' pts in seconds. generators: None decodes the base. threads: dav1d's, per GOP. on_warning: called
    once for each anchor whose prompt cannot be used; logs by default. generation_slots: held while a
    generator runs, to bound how many do at a time: each takes memory for its activations, more than the
    pictures do.
    """

    time_base: Fraction
    extradata: bytes | None = None
    generators: GeneratorLookup | None = None
    threads: int = 1
    on_warning: Callable[[DecodeWarning], None] = lambda warning: _log.warning("%s", warning)
    generation_slots: AbstractContextManager[object] = field(
        default_factory=lambda: threading.Semaphore(MAX_GENERATIONS), compare=False, repr=False
    )

    def new_decoder(self) -> Av1Decoder:
        """Return a decoder for this stream. Raises CodecError when its extradata is refused."""
        return Av1Decoder(self.extradata, time_base=self.time_base, threads=self.threads)


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

    A prompt that cannot be used leaves the base picture and causes one warning; one on a packet that shows no
    picture is ignored. Raises CodecError for a packet that cannot be decoded.
    """
    if decoder is None:
        with decoding.new_decoder() as own:
            yield from decode_gop(packets, decoding, decoder=own, prompts=prompts)
        return
    injector = (
        None if decoding.generators is None else _Injector(decoding, decoding.generators, prompts or {})
    )
    for index, packet in enumerate(packets):
        if injector is None:
            frames: Sequence[DecodedFrame] = decoder.decode(packet.data, packet.pts)
            is_anchor = False
        else:
            frames, is_anchor = injector.decode(decoder, index, packet)
        for frame in frames:
            yield GopPicture(_read_only(frame.picture), index, frame.is_keyframe, is_anchor)


class _UnusablePromptError(Exception):
    """Why the base picture stays; never leaves this module."""

    def __init__(self, kind: WarningKind, message: str, *, whole_file: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.whole_file = whole_file


class _Injector:
    """Replaces the anchors of one GOP by generated pictures, in the decoder too."""

    def __init__(
        self, decoding: GopDecoding, generators: GeneratorLookup, prompts: Mapping[int, Prompt | None]
    ) -> None:
        self._decoding = decoding
        self._generators = generators
        self._prompts = prompts
        self._headers = HeaderHistory(decoding.extradata)

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
        except _UnusablePromptError as problem:
            self._warn(packet, problem)
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
            raise _UnusablePromptError(
                WarningKind.PROMPT_MISFIT,
                f"the frame of a prompt cannot be reached ({error}): the base is shown",
            ) from error

    def _warn(self, packet: CodedPacket, problem: _UnusablePromptError) -> None:
        pts_seconds = None if problem.whole_file else float(packet.pts * self._decoding.time_base)
        self._decoding.on_warning(DecodeWarning(problem.kind, str(problem), pts_seconds))

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
            self._generate(prompt, frames[0], hidden_base_q_idx)
            return True
        except _UnusablePromptError as problem:
            self._warn(packet, problem)
            return False

    def _prompt(self, index: int, packet: CodedPacket) -> Prompt | None:
        if index in self._prompts:
            return self._prompts[index]
        # Looking for the magic first spares most packets the parsing.
        if MAGIC not in packet.data:
            return None
        try:
            prompt_bytes = extract(packet.data)
            return None if prompt_bytes is None else decode_prompt(prompt_bytes)
        except BitstreamError as error:
            raise _damaged(error) from error

    def _check_anchor(
        self, packet: CodedPacket, prompt: Prompt, frame: DecodedFrame, *, is_hidden: bool
    ) -> None:
        """Raise unless the prompt is for a picture of this size, which may be overwritten here."""
        misfit = WarningKind.PROMPT_MISFIT
        if frame.has_film_grain:
            raise _UnusablePromptError(misfit, "a prompt in a stream with film grain: the base is shown")
        if not frame.can_overwrite:
            raise _UnusablePromptError(
                misfit, "a prompt for a picture that is not 8-bit 4:2:0: the base is shown"
            )
        size = frame.picture.width, frame.picture.height
        if size != (prompt.width, prompt.height):
            raise _UnusablePromptError(
                misfit,
                f"a prompt for {prompt.width}x{prompt.height} at a picture of {size[0]}x{size[1]}: "
                "the base is shown",
            )
        if is_hidden:
            return
        try:
            if existing_slot(packet.data) is not None and self._headers.last_shown().is_repeat:
                # Its buffer is already in the hands of whoever got the picture the first time.
                raise _UnusablePromptError(misfit, "a prompt for a picture shown before: the base is shown")
        except BitstreamError as error:
            raise _UnusablePromptError(misfit, f"headers are damaged ({error}): the base is shown") from error

    def _generate(self, prompt: Prompt, frame: DecodedFrame, hidden_base_q_idx: int | None) -> None:
        try:
            content = parse_sections(prompt)
            quantiser = content.quantiser
            if quantiser is None:
                quantiser = hidden_base_q_idx
            if quantiser is None:
                quantiser = self._headers.last_shown().base_q_idx
        except BitstreamError as error:
            raise _damaged(error) from error
        generator = self._generator(prompt.generator_id)
        gate = content.gate
        try:
            with self._decoding.generation_slots:
                generated = generator.generate(
                    frame.picture.planes,
                    quantiser=quantiser,
                    strengths=gate.strengths(),
                    block_size=gate.block_size,
                )
            frame.overwrite(*generated)
        except (GeneratorError, CodecError) as error:
            raise _UnusablePromptError(
                WarningKind.GENERATION_FAILED, f"generation failed ({error}): the base is shown"
            ) from error

    def _generator(self, identity: bytes) -> Generator:
        unknown = WarningKind.GENERATOR_UNKNOWN
        try:
            generator = self._generators.find(identity)
        except GeneratorError as error:
            raise _UnusablePromptError(
                unknown,
                f"generator {identity.hex()} cannot be loaded ({error}): the base is shown",
                whole_file=True,
            ) from error
        if generator is None:
            raise _UnusablePromptError(
                unknown, f"generator {identity.hex()} is not known here: the base is shown", whole_file=True
            )
        return generator


def _damaged(error: BitstreamError) -> _UnusablePromptError:
    return _UnusablePromptError(
        WarningKind.PROMPT_DAMAGED, f"the prompt is damaged ({error}): the base is shown"
    )


def _read_only(picture: Picture) -> Picture:
    """Return the picture with planes that refuse writing: the decoder still predicts from them."""
    planes = []
    for plane in picture.planes:
        view = plane.view()
        view.flags.writeable = False
        planes.append(view)
    return replace(picture, y=planes[0], u=planes[1], v=planes[2])
