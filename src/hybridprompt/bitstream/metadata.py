"""Metadata OBUs in AV1 temporal units (AV1 5.8): read, insert, strip."""

from hybridprompt.bitstream.bits import BitReader, encode_leb128
from hybridprompt.bitstream.framing import Obu, ObuType, iterate_obus
from hybridprompt.errors import BitstreamError

TRAILING_BITS = b"\x80"


def metadata_payloads(temporal_unit: bytes, metadata_type: int, *, prefix: bytes = b"") -> list[bytes]:
    """Return the payloads, without trailing bits, of all metadata OBUs of `metadata_type` (AV1 5.8).

    Only payloads that begin with `prefix` count; others, even malformed, are left alone. Raises
    `BitstreamError` for a malformed unit or a payload without trailing bits.
    """
    payloads = []
    for obu in iterate_obus(temporal_unit):
        body = _metadata_body(obu, metadata_type)
        if body is not None and body.startswith(prefix):
            payloads.append(_without_trailing_bits(body, obu))
    return payloads


def insert_metadata(temporal_unit: bytes, metadata_type: int, payload: bytes) -> bytes:
    """Return the unit with a metadata OBU right before its first frame (AV1 5.8.1, 7.5).

    Everything else stays byte-identical. Raises `BitstreamError` when the unit is malformed or has no frame.
    """
    for obu in iterate_obus(temporal_unit):
        if obu.type in (ObuType.FRAME, ObuType.FRAME_HEADER):
            body = encode_leb128(metadata_type) + payload + TRAILING_BITS
            header = bytes([ObuType.METADATA << 3 | 0b010])  # no extension, obu_has_size_field
            metadata = header + encode_leb128(len(body)) + body
            return temporal_unit[: obu.offset] + metadata + temporal_unit[obu.offset :]
    raise BitstreamError(
        f"no frame in the temporal unit of {len(temporal_unit)} bytes to put metadata before"
    )


def strip_metadata(temporal_unit: bytes, metadata_type: int, *, prefix: bytes = b"") -> bytes:
    """Return the unit without its metadata OBUs of `metadata_type` whose payload begins with `prefix`.

    Undoes `insert_metadata` exactly. Raises `BitstreamError` for a malformed unit.
    """
    kept = []
    for obu in iterate_obus(temporal_unit):
        body = _metadata_body(obu, metadata_type)
        if body is None or not body.startswith(prefix):
            kept.append(obu.raw)
    return b"".join(kept)


def _metadata_body(obu: Obu, metadata_type: int) -> bytes | None:
    """What follows metadata_type, trailing bits included; None for any other OBU."""
    if obu.type is not ObuType.METADATA:
        return None
    payload = obu.payload
    reader = BitReader(payload)
    try:
        found = reader.leb128()
    except BitstreamError as error:
        raise BitstreamError(f"metadata OBU at byte {obu.offset}: {error}") from error
    return payload[reader.position // 8 :] if found == metadata_type else None


def _without_trailing_bits(body: bytes, obu: Obu) -> bytes:
    body = body.rstrip(b"\0")
    if not body.endswith(TRAILING_BITS):
        raise BitstreamError(f"metadata OBU at byte {obu.offset} lacks its trailing bits (0x80)")
    return body[:-1]
