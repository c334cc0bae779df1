"""Carry a prompt in an AV1 temporal unit, as a metadata OBU of an unregistered type (AV1 5.8, 6.7).

Decoders that do not know it ignore it, so the stream stays an ordinary AV1 stream; and other programs may use
the same metadata type, so only payloads that begin with the prompt's magic count as prompts.
"""

from hybridprompt.bitstream.obu import insert_metadata, metadata_payloads, strip_metadata
from hybridprompt.errors import BitstreamError
from hybridprompt.prompt.syntax import MAGIC

METADATA_TYPE = 24  # of 6..31, "unregistered user private" (AV1 6.7.1)


def attach(temporal_unit: bytes, prompt_bytes: bytes) -> bytes:
    """Return the unit with the prompt right before its first frame; everything else stays byte-identical.

    Raises `BitstreamError` when the unit is malformed, has no frame or has a prompt already, and when the
    bytes are no prompt.
    """
    if not prompt_bytes.startswith(MAGIC):
        raise BitstreamError(f"prompt begins with {prompt_bytes[: len(MAGIC)]!r}, expected {MAGIC!r}")
    if extract(temporal_unit) is not None:
        raise BitstreamError("the temporal unit carries a prompt already")
    return insert_metadata(temporal_unit, METADATA_TYPE, prompt_bytes)


def extract(temporal_unit: bytes) -> bytes | None:
    """Return the bytes of the unit's prompt, None where it has none.

    They are not decoded: `decode_prompt` finds damage. Raises `BitstreamError` when the unit is malformed or
    has more than one prompt.
    """
    prompts = metadata_payloads(temporal_unit, METADATA_TYPE, prefix=MAGIC)
    if len(prompts) > 1:
        raise BitstreamError(f"{len(prompts)} prompts in one temporal unit, expected at most 1")
    return prompts[0] if prompts else None


def detach(temporal_unit: bytes) -> bytes:
    """Return the unit without its prompts: the inverse of `attach`. Raises `BitstreamError` if malformed."""
    return strip_metadata(temporal_unit, METADATA_TYPE, prefix=MAGIC)
