"""SEI messages user_data_unregistered (H.264 D.1.7, H.265 D.2.7) in access units: write, find, remove.

They lie in SEI NAL units (H.264 7.3.2.3, type 6) and prefix SEI NAL units (H.265 7.3.2.4, type 39) before
the picture's first slice. Only messages of the UUID asked for are looked at; NAL units without it, even
malformed, are left alone. To find them by a plain search, the UUID must have no byte below 04: emulation
prevention then never cuts it apart.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from hybridprompt.bitstream.nal import (
    H264Nal,
    H265Nal,
    NalCodec,
    NalUnit,
    add_emulation_prevention,
    first_vcl,
    frame_nal_unit,
    nal_type,
    remove_emulation_prevention,
    split_nal_units,
)
from hybridprompt.errors import BitstreamError

USER_DATA_UNREGISTERED: Final = 5
UUID_BYTES: Final = 16
MAX_SEI_BYTES: Final = 4 << 20
MAX_MESSAGES: Final = 1024

# nal_ref_idc 0; layer 0, temporal id 0.
_HEADERS: Final = {
    NalCodec.H264: bytes([H264Nal.SEI]),
    NalCodec.H265: bytes([H265Nal.PREFIX_SEI << 1, 1]),
}
_TYPES: Final = {NalCodec.H264: H264Nal.SEI, NalCodec.H265: H265Nal.PREFIX_SEI}
_TRAILING_BITS: Final = b"\x80"


@dataclass(frozen=True, slots=True)
class SeiMessage:
    """One sei_message() (H.264 7.3.2.3.1, H.265 7.3.5): payloadType and the payload's bytes."""

    type: int
    payload: bytes

    def __repr__(self) -> str:
        return f"SeiMessage(type={self.type}, size_bytes={len(self.payload)})"


def write_sei(messages: Iterable[SeiMessage], *, codec: NalCodec) -> bytes:
    """Return a (prefix) SEI NAL unit with at least one message, without framing."""
    rbsp = b"".join(_number(m.type) + _number(len(m.payload)) + m.payload for m in messages)
    return _HEADERS[codec] + add_emulation_prevention(rbsp + _TRAILING_BITS)


def parse_sei(nal: bytes, *, codec: NalCodec) -> list[SeiMessage]:
    """Return the messages of a (prefix) SEI NAL unit. Raises `BitstreamError` for a malformed one."""
    if len(nal) > MAX_SEI_BYTES:
        raise BitstreamError(f"SEI NAL unit has {len(nal)} bytes, expected at most {MAX_SEI_BYTES}")
    rbsp = remove_emulation_prevention(nal[len(_HEADERS[codec]) :])
    if not rbsp.endswith(_TRAILING_BITS):
        raise BitstreamError(f"SEI NAL unit of {len(nal)} bytes does not end with trailing bits")
    messages: list[SeiMessage] = []
    position, end = 0, len(rbsp) - len(_TRAILING_BITS)
    while position < end:
        if len(messages) >= MAX_MESSAGES:
            raise BitstreamError(f"more than {MAX_MESSAGES} messages in an SEI NAL unit")
        kind, start = _read_number(rbsp, position)
        size, start = _read_number(rbsp, start)
        if size > end - start:
            raise BitstreamError(
                f"SEI message at byte {position} claims {size} bytes, found {max(end - start, 0)}"
            )
        messages.append(SeiMessage(kind, rbsp[start : start + size]))
        position = start + size
    if not messages:
        raise BitstreamError("SEI NAL unit has no message")
    return messages


def insert_user_data(
    unit: bytes, uuid: bytes, payload: bytes, *, codec: NalCodec, length_size: int | None = None
) -> bytes:
    """Return the access unit with a message of user data right before its first slice.

    All other bytes stay as they are. Raises `BitstreamError` when the unit is malformed or has no slice.
    """
    target = first_vcl(split_nal_units(unit, length_size=length_size), codec)
    if target is None:
        raise BitstreamError(f"no slice in the access unit of {len(unit)} bytes to put an SEI message before")
    message = SeiMessage(USER_DATA_UNREGISTERED, _checked(uuid) + payload)
    nal = frame_nal_unit(write_sei([message], codec=codec), length_size=length_size)
    return unit[: target.offset] + nal + unit[target.offset :]


def user_data_payloads(
    unit: bytes, uuid: bytes, *, codec: NalCodec, length_size: int | None = None
) -> list[bytes]:
    """Return the payloads, without the UUID, of all user data messages of a UUID, in order.

    Raises `BitstreamError` when the unit, or an SEI NAL unit that contains the UUID, is malformed.
    """
    if uuid not in unit:
        return []
    return [
        message.payload[UUID_BYTES:]
        for _, messages in _sei_units(unit, _checked(uuid), codec, length_size)
        for message in messages
        if _is_user_data(message, uuid)
    ]


def strip_user_data(
    unit: bytes, uuid: bytes, *, codec: NalCodec, length_size: int | None = None, prefix: bytes = b""
) -> bytes:
    """Return the access unit without the user data messages of a UUID whose payload begins with `prefix`.

    Undoes `insert_user_data` exactly. SEI NAL units that hold other messages too keep those. Raises
    `BitstreamError` as `user_data_payloads` does.
    """
    if uuid not in unit:
        return unit
    kept, position = [], 0
    for nal, messages in _sei_units(unit, _checked(uuid), codec, length_size):
        others = [m for m in messages if not _is_user_data(m, uuid + prefix)]
        if len(others) == len(messages):
            continue
        kept.append(unit[position : nal.offset])
        if others:
            kept.append(frame_nal_unit(write_sei(others, codec=codec), length_size=length_size))
        position = nal.stop
    return b"".join(kept) + unit[position:]


def _sei_units(
    unit: bytes, uuid: bytes, codec: NalCodec, length_size: int | None
) -> Iterator[tuple[NalUnit, list[SeiMessage]]]:
    """SEI NAL units that contain the UUID, with their messages."""
    for nal in split_nal_units(unit, length_size=length_size):
        if nal_type(nal, codec) != _TYPES[codec] or unit.find(uuid, nal.payload_offset, nal.stop) < 0:
            continue
        try:
            yield nal, parse_sei(nal.data, codec=codec)
        except BitstreamError as error:
            raise BitstreamError(f"at byte {nal.payload_offset} of {len(unit)}: {error}") from error


def _is_user_data(message: SeiMessage, start: bytes) -> bool:
    return message.type == USER_DATA_UNREGISTERED and message.payload.startswith(start)


def _number(value: int) -> bytes:
    """Payload type or size: 255 for each full 255, then the rest (H.264 7.3.2.3.1)."""
    return b"\xff" * (value // 255) + bytes([value % 255])


def _read_number(rbsp: bytes, position: int) -> tuple[int, int]:
    """The number at a position, and the position after it."""
    stop = position
    while stop < len(rbsp) and rbsp[stop] == 0xFF:
        stop += 1
    if stop >= len(rbsp):
        raise BitstreamError(f"SEI message header at byte {position} is cut off")
    return 255 * (stop - position) + rbsp[stop], stop + 1


def _checked(uuid: bytes) -> bytes:
    if len(uuid) != UUID_BYTES or min(uuid) < 4:
        raise ValueError(f"UUID is {uuid.hex()}, expected {UUID_BYTES} bytes of at least 04 each")
    return uuid
