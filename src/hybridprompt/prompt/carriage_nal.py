"""Carry a prompt in an H.264 or H.265 access unit, as an SEI message user_data_unregistered (H.264 D.1.7).

The same envelope as in AV1. Decoders ignore UUIDs that they do not know, so the stream stays an ordinary
one. Units are in Annex B (`length_size` None) or have lengths before their NAL units, as MP4 samples do.
"""

from typing import Final
from uuid import UUID

from hybridprompt.bitstream.nal import NalCodec
from hybridprompt.bitstream.sei import insert_user_data, strip_user_data, user_data_payloads
from hybridprompt.errors import BitstreamError
from hybridprompt.prompt.syntax import MAGIC, MAX_PROMPT_BYTES

PROMPT_UUID: Final = UUID("8247fb54-4327-4579-a9fb-2c18fc3b9027").bytes


def attach(unit: bytes, prompt_bytes: bytes, *, codec: NalCodec, length_size: int | None = None) -> bytes:
    """Return the access unit with the prompt right before its first slice; all else stays byte-identical.

    Raises `BitstreamError` when the unit is malformed, has no slice or has a prompt already, and when the
    bytes are no prompt or more than MAX_PROMPT_BYTES.
    """
    if not prompt_bytes.startswith(MAGIC):
        raise BitstreamError(f"prompt begins with {prompt_bytes[: len(MAGIC)]!r}, expected {MAGIC!r}")
    _check_size(prompt_bytes)
    if extract(unit, codec=codec, length_size=length_size) is not None:
        raise BitstreamError("the access unit carries a prompt already")
    return insert_user_data(unit, PROMPT_UUID, prompt_bytes, codec=codec, length_size=length_size)


def extract(unit: bytes, *, codec: NalCodec, length_size: int | None = None) -> bytes | None:
    """Return the bytes of the unit's prompt, None where it has none.

    They are not decoded: `decode_prompt` finds damage. Raises `BitstreamError` when the unit is malformed,
    has more than one prompt, or one of more than MAX_PROMPT_BYTES.
    """
    payloads = user_data_payloads(unit, PROMPT_UUID, codec=codec, length_size=length_size)
    prompts = [payload for payload in payloads if payload.startswith(MAGIC)]
    if len(prompts) > 1:
        raise BitstreamError(f"{len(prompts)} prompts in one access unit, expected at most 1")
    if not prompts:
        return None
    _check_size(prompts[0])
    return prompts[0]


def detach(unit: bytes, *, codec: NalCodec, length_size: int | None = None) -> bytes:
    """Return the unit without its prompts: the inverse of `attach`. Raises `BitstreamError` if malformed."""
    return strip_user_data(unit, PROMPT_UUID, codec=codec, length_size=length_size, prefix=MAGIC)


def _check_size(prompt_bytes: bytes) -> None:
    if len(prompt_bytes) > MAX_PROMPT_BYTES:
        raise BitstreamError(f"prompt has {len(prompt_bytes)} bytes, expected at most {MAX_PROMPT_BYTES}")
