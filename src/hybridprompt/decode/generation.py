"""From a prompt to the picture that replaces a base picture, whatever codec carries it.

Note [Adapters stay]: an adapter that comes with a prompt holds for that picture and, in decoding order, for
the later ones of its GOP, until another comes; it concerns prompts that name its generator only.  So a
keyframe's serves all anchors of its GOP, and decoding can still start at every keyframe.

Note [Adapters wait]: prompts come from strangers, and an adapter of some 50 bytes may take longer to decode
than a hundred small pictures.  So its values stay as they are coded until a generator that is there is to run
with it, and are not decoded at all where there are not as many of them as that generator takes.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol

import numpy as np

from hybridprompt.decode.still import decode_still
from hybridprompt.decode.warnings import DecodeWarning, WarningKind
from hybridprompt.errors import BitstreamError, CodecError, GeneratorError
from hybridprompt.generator.base import Generator, Planes
from hybridprompt.prompt.gate import GateMap
from hybridprompt.prompt.sections import CodedAdapter, CodedContent, has_still, parse_coded_sections
from hybridprompt.prompt.syntax import Prompt, decode_prompt
from hybridprompt.video.picture import chroma_shape

MAX_GENERATIONS: Final = 2
_BASE_SHOWN: Final = "the base is shown"
_STILL_SHOWN: Final = "the still is shown without generation"


class GeneratorLookup(Protocol):
    """Where generators come from; `generator.registry.GeneratorRegistry` is one."""

    def find(self, identity: bytes) -> Generator | None:
        """Return the generator of that identity, None if it is not known. Raises GeneratorError."""


class UnusablePromptError(Exception):
    """Why the base picture stays, or the still is not generated from; never leaves `decode`."""

    def __init__(self, kind: WarningKind, message: str, *, whole_file: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.whole_file = whole_file

    def warning(self, pts_seconds: float) -> DecodeWarning:
        """Return the warning about it, at a time unless it concerns the whole file."""
        return DecodeWarning(self.kind, str(self), None if self.whole_file else pts_seconds)


@dataclass(frozen=True, eq=False, slots=True)
class Replacement:
    """What replaces the base picture: planes that the generator made, or else those of the still.

    problem: why the still was not generated from, if it should have been.
    """

    planes: Planes
    is_generated: bool
    problem: UnusablePromptError | None = None


def misfit(message: str) -> UnusablePromptError:
    """Return the error of a prompt that is not for the picture it came with."""
    return UnusablePromptError(WarningKind.PROMPT_MISFIT, f"{message}: {_BASE_SHOWN}")


def damaged(error: BitstreamError | CodecError) -> UnusablePromptError:
    """Return the error of a prompt that breaks the syntax."""
    return UnusablePromptError(WarningKind.PROMPT_DAMAGED, f"the prompt is damaged ({error}): {_BASE_SHOWN}")


def read_prompt(extract: Callable[[], bytes | None], generators: GeneratorLookup | None) -> Prompt | None:
    """Return the prompt that a packet carries, None where it has none that matters.

    extract: returns its bytes. Without generators only those with a still matter. Raises UnusablePromptError
    for a damaged one.
    """
    try:
        prompt_bytes = extract()
        prompt = None if prompt_bytes is None else decode_prompt(prompt_bytes)
    except BitstreamError as error:
        if generators is None:
            # Whether it had a still cannot be told; without one it would be ignored.
            return None
        raise damaged(error) from error
    return relevant(prompt, generators)


def relevant(prompt: Prompt | None, generators: GeneratorLookup | None) -> Prompt | None:
    """Return a prompt that changes the picture: without generators, only one with a still does."""
    if prompt is None or generators is not None or has_still(prompt):
        return prompt
    return None


def check_size(prompt: Prompt, width: int, height: int) -> None:
    """Raise UnusablePromptError unless the prompt is for a picture of this size."""
    if (width, height) != (prompt.width, prompt.height):
        raise misfit(f"a prompt for {prompt.width}x{prompt.height} at a picture of {width}x{height}")


def parse_content(prompt: Prompt) -> CodedContent:
    """Return what the prompt says. Raises UnusablePromptError where it is damaged."""
    try:
        return parse_coded_sections(prompt)
    except BitstreamError as error:
        raise damaged(error) from error


class _HeldAdapter:
    """An adapter that holds: Note [Adapters wait]. generator_id: of the generator that it is for."""

    def __init__(self, generator_id: bytes, coded: CodedAdapter) -> None:
        self.generator_id = generator_id
        self._coded = coded
        self._adapted: Generator | None = None
        self._failure: tuple[type[BitstreamError] | type[GeneratorError], str] | None = None

    def applied_to(self, generator: Generator) -> Generator:
        """Return the generator with it.

        Raises GeneratorError where that cannot be, BitstreamError where the code is damaged. Later calls do
        the same at once.
        """
        if self._failure is not None:
            kind, message = self._failure
            raise kind(message)
        if self._adapted is None:
            try:
                self._adapted = self._apply(generator)
            except (BitstreamError, GeneratorError) as error:
                kind = GeneratorError if isinstance(error, GeneratorError) else BitstreamError
                self._failure = kind, str(error)
                raise
        return self._adapted

    def _apply(self, generator: Generator) -> Generator:
        if self._coded.count == 0:
            return generator
        # Before it is decoded, which takes longer than all else that a short prompt can ask for.
        if self._coded.count != generator.adapter_length:
            raise GeneratorError(
                f"an adapter of {self._coded.count} values, expected {generator.adapter_length}"
            )
        return generator.adapted(self._coded.decode().values)


class Generation:
    """Generates for the prompts of one GOP, which come in decoding order: Note [Adapters stay].

    generators: None, and a generator that is missing or fails, leave a still as it is. slots: held while a
    generator runs.
    """

    def __init__(self, generators: GeneratorLookup | None, slots: AbstractContextManager[object]) -> None:
        self.generators = generators
        self.slots = slots
        self._held: _HeldAdapter | None = None

    def replacement(
        self, prompt: Prompt, base: Callable[[], Planes], own_quantiser: Callable[[], int]
    ) -> Replacement | None:
        """Return what replaces the base picture of a prompt that is for it.

        base: returns the base picture, y (H, W), u and v (ceil(H/2), ceil(W/2)) uint8, not changed; called
        only for a prompt without a still. own_quantiser: returns that picture's own, 0..255, on the scale of
        AV1's base_q_idx; called only where neither the prompt nor a still has one. Raises BitstreamError
        where it is not known.

        Returns None where the gate is 0 everywhere and there is no still: all stays as it is.  Raises
        UnusablePromptError where the base picture is to stay though it should not.
        """
        content = parse_content(prompt)
        generates = bool(content.gate.indices.any())
        if content.still is None:
            quantiser = content.quantiser
            if quantiser is None and generates:
                try:
                    quantiser = own_quantiser()
                except BitstreamError as error:
                    raise damaged(error) from error
            self._hold(prompt, content, generates)
            if not generates or quantiser is None:
                return None
            generator = self._found(prompt.generator_id, _BASE_SHOWN)
            return Replacement(self._run(generator, base(), quantiser, content.gate, _BASE_SHOWN), True)
        try:
            still = decode_still(content.still, prompt.width, prompt.height)
        except (BitstreamError, CodecError) as error:
            raise damaged(error) from error
        self._hold(prompt, content, generates)
        if self.generators is None or not generates:
            return Replacement(still.planes, False)
        quantiser = still.base_q_idx if content.quantiser is None else content.quantiser
        try:
            generator = self._found(prompt.generator_id, _STILL_SHOWN)
            return Replacement(
                self._run(generator, still.planes, quantiser, content.gate, _STILL_SHOWN), True
            )
        except UnusablePromptError as problem:
            return Replacement(still.planes, False, problem)

    def _found(self, identity: bytes, instead: str) -> Generator:
        assert self.generators is not None, "without generators a prompt without a still is ignored"
        unknown = WarningKind.GENERATOR_UNKNOWN
        try:
            generator = self.generators.find(identity)
        except GeneratorError as error:
            raise UnusablePromptError(
                unknown, f"generator {identity.hex()} cannot be loaded ({error}): {instead}", whole_file=True
            ) from error
        if generator is None:
            raise UnusablePromptError(
                unknown, f"generator {identity.hex()} is not known here: {instead}", whole_file=True
            )
        return generator

    def _run(
        self, generator: Generator, source: Planes, quantiser: int, gate: GateMap, instead: str
    ) -> Planes:
        def fail(error: object) -> NoReturn:
            raise UnusablePromptError(
                WarningKind.GENERATION_FAILED, f"generation failed ({error}): {instead}"
            )

        try:
            with self.slots:
                planes = self._with_adapter(generator, instead).generate(
                    source, quantiser=quantiser, strengths=gate.strengths(), block_size=gate.block_size
                )
        except (GeneratorError, CodecError) as error:
            fail(error)
        height, width = source[0].shape
        expected = (height, width), *(chroma_shape(width, height),) * 2
        found = tuple(plane.shape for plane in planes)
        if found != expected or any(plane.dtype != np.uint8 for plane in planes):
            fail(f"planes of {found}, expected {expected} uint8")
        return planes

    def _hold(self, prompt: Prompt, content: CodedContent, generates: bool) -> None:
        """Take note of the adapter of a prompt that is not refused.

        Raises UnusablePromptError where the adapter, with which a generator is to run now, is damaged.
        """
        if content.adapter is None:
            return
        held = _HeldAdapter(prompt.generator_id, content.adapter)
        if generates and self.generators is not None:
            # Other problems than damage leave a still as it is: running the generator meets them again.
            with suppress(GeneratorError):
                generator = self.generators.find(prompt.generator_id)
                if generator is not None:
                    self._apply(held, generator)
        self._held = held

    def _apply(self, held: _HeldAdapter, generator: Generator) -> None:
        try:
            with self.slots:
                held.applied_to(generator)
        except BitstreamError as error:
            raise damaged(error) from error

    def _with_adapter(self, generator: Generator, instead: str) -> Generator:
        if self._held is None or self._held.generator_id != generator.identity:
            return generator
        try:
            return self._held.applied_to(generator)
        except BitstreamError as error:
            # That of this very prompt was looked at before.
            raise UnusablePromptError(
                WarningKind.PROMPT_DAMAGED, f"an earlier prompt's adapter is damaged ({error}): {instead}"
            ) from error
