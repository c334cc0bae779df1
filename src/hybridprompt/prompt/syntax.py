"""The prompt syntax, version 1: typed sections in a checksummed envelope. docs/bitstream.md has every byte.

This module knows neither codecs nor what the sections mean: `sections` does, and `carriage` puts the bytes
into a stream.
"""

import zlib
from dataclasses import dataclass
from enum import Enum

from hybridprompt.bitstream.bits import BitReader, encode_leb128
from hybridprompt.errors import BitstreamError

MAGIC = b"HPRM"
VERSION = 1
GENERATOR_ID_BYTES = 8
MIN_SIZE = 16
MAX_SIZE = 16384
MAX_SECTIONS = 255
MAX_PROMPT_BYTES = 1 << 20
_MAX_LENGTH_BYTES = 3
_CHECKSUM_BYTES = 4


class PromptFault(Enum):
    """Why bytes are no valid prompt."""

    NOT_A_PROMPT = "not a prompt"
    UNKNOWN_VERSION = "unknown version"
    TRUNCATED = "truncated"
    CHECKSUM = "checksum mismatch"
    TRAILING_BYTES = "trailing bytes"
    INVALID = "invalid value"


class PromptError(BitstreamError):
    """Bytes or values that are no valid prompt; `fault` says which rule they break."""

    def __init__(self, fault: PromptFault, detail: str) -> None:
        super().__init__(f"{fault.value}: {detail}")
        self.fault = fault


def invalid(detail: str) -> PromptError:
    """The error for a value that no prompt has."""
    return PromptError(PromptFault.INVALID, detail)


@dataclass(frozen=True, slots=True)
class Section:
    """One typed section. Decoders skip types they do not know."""

    type: int
    payload: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.type <= 255:
            raise invalid(f"section type {self.type}, expected 0..255")

    def __repr__(self) -> str:
        return f"Section(type={self.type}, size_bytes={len(self.payload)})"


@dataclass(frozen=True, slots=True)
class Prompt:
    """The coded side information for one picture of `width` x `height` luma samples.

    `generator_id` is the first 8 bytes of the SHA-256 of the generator's weights file. Raises `PromptError`
    for values that the syntax cannot hold.
    """

    generator_id: bytes
    width: int
    height: int
    sections: tuple[Section, ...] = ()

    def __post_init__(self) -> None:
        if len(self.generator_id) != GENERATOR_ID_BYTES:
            found = len(self.generator_id)
            raise invalid(f"generator id of {found} bytes, expected {GENERATOR_ID_BYTES}")
        if not (MIN_SIZE <= self.width <= MAX_SIZE and MIN_SIZE <= self.height <= MAX_SIZE):
            raise invalid(
                f"picture of {self.width}x{self.height}, expected {MIN_SIZE}..{MAX_SIZE} each way",
            )
        if len(self.sections) > MAX_SECTIONS:
            raise invalid(f"{len(self.sections)} sections, expected at most {MAX_SECTIONS}")


def encode_prompt(prompt: Prompt) -> bytes:
    """Return the bytes of a prompt: always the same for the same prompt. Raises `PromptError` above 1 MiB."""
    out = bytearray(MAGIC)
    out += bytes([VERSION, 0])
    out += prompt.generator_id
    out += prompt.width.to_bytes(2, "big") + prompt.height.to_bytes(2, "big")
    out.append(len(prompt.sections))
    for section in prompt.sections:
        out.append(section.type)
        out += encode_leb128(len(section.payload))
        out += section.payload
    out += zlib.crc32(out).to_bytes(_CHECKSUM_BYTES, "big")
    _check_size(len(out))
    return bytes(out)


def decode_prompt(data: bytes) -> Prompt:
    """Parse the bytes of one prompt; the inverse of `encode_prompt`.

    Raises `PromptError`, whose `fault` tells a foreign payload, an unknown version, a cut-off prompt, damage,
    trailing bytes and values out of range apart.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise PromptError(PromptFault.NOT_A_PROMPT, f"begins with {data[: len(MAGIC)]!r}, expected {MAGIC!r}")
    _check_size(len(data))
    reader = _ByteReader(data, len(MAGIC))
    version = reader.u(1)
    if version != VERSION:
        raise PromptError(PromptFault.UNKNOWN_VERSION, f"version {version}, expected {VERSION}")
    flags = reader.u(1)
    generator_id = reader.take(GENERATOR_ID_BYTES)
    width, height = reader.u(2), reader.u(2)
    sections = tuple(Section(reader.u(1), reader.take(reader.length())) for _ in range(reader.u(1)))
    checksum = zlib.crc32(data[: reader.position])
    stored = reader.u(_CHECKSUM_BYTES)
    # The checksum comes before every check of a value: damage shall be called damage.
    if stored != checksum:
        raise PromptError(PromptFault.CHECKSUM, f"CRC-32 {stored:08x} stored, {checksum:08x} computed")
    if reader.position != len(data):
        raise PromptError(
            PromptFault.TRAILING_BYTES, f"prompt ends at byte {reader.position}, found {len(data)} bytes"
        )
    if flags != 0:
        raise invalid(f"flags {flags:#04x}, expected 0")
    return Prompt(generator_id, width, height, sections)


def _check_size(size_bytes: int) -> None:
    if size_bytes > MAX_PROMPT_BYTES:
        raise invalid(f"{size_bytes} bytes, expected at most {MAX_PROMPT_BYTES}")


class _ByteReader:
    """Take whole bytes from `data`, from `position` on."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self.position = position

    def take(self, size: int) -> bytes:
        end = self.position + size
        if end > len(self._data):
            raise PromptError(
                PromptFault.TRUNCATED, f"needed byte {end - 1}, found the end at byte {len(self._data)}"
            )
        taken = self._data[self.position : end]
        self.position = end
        return taken

    def u(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def length(self) -> int:
        """Read a section's length: leb128 of at most 3 bytes, in its shortest form only."""
        encoded = bytearray()
        while len(encoded) < _MAX_LENGTH_BYTES:
            encoded += self.take(1)
            if encoded[-1] < 0x80:
                break
        else:
            raise invalid(f"section length is longer than {_MAX_LENGTH_BYTES} bytes")
        # One way to write each prompt: what decodes also encodes to the same bytes.
        if len(encoded) > 1 and encoded[-1] == 0:
            raise invalid("section length is not in its shortest form")
        return BitReader(bytes(encoded)).leb128()
