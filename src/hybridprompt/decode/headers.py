"""What decoding has to know of AV1 headers: where GOPs start, and which frame a packet shows."""

import logging
from dataclasses import dataclass
from typing import Final

from hybridprompt.bitstream.obu import (
    FrameHeader,
    FrameType,
    HeaderTracker,
    ObuType,
    SequenceHeader,
    iterate_obus,
    parse_sequence_header,
)
from hybridprompt.bitstream.show_hidden import SplitUnit, split_at_first_frame
from hybridprompt.errors import BitstreamError
from hybridprompt.video.av1_encoder import CodedPacket

MAX_PENDING_BYTES: Final = 16 << 20
_AV1C_FIRST_BYTE: Final = 0x81  # marker and version (AV1-ISOBMFF 2.3.3)
_AV1C_BYTES: Final = 4

_log = logging.getLogger(__name__)


def starts_gop(packet: CodedPacket, extradata: bytes | None = None) -> bool:
    """Say whether decoding can start at this packet, independently of all before it.

    That is so where the first frame is a keyframe that is shown: it takes all reference slots (AV1 7.20).
    Containers also mark keyframes that are shown later, after pictures which refer to older ones.
    """
    if not packet.is_keyframe:
        return False
    try:
        headers = HeaderTracker(sequence_header(extradata)).parse(packet.data)
    except BitstreamError as error:
        # Damage: the decoder will find it too, and the container's word is all there is.
        _log.debug("keyframe packet with pts %d: %s", packet.pts, error)
        return True
    return not headers or (headers[0].frame_type is FrameType.KEY and headers[0].show_frame)


def sequence_header(extradata: bytes | None) -> SequenceHeader | None:
    """Return the sequence header in a codec configuration (av1C or bare OBUs), None without one."""
    if not extradata:
        return None
    obus = extradata[_AV1C_BYTES:] if extradata[0] == _AV1C_FIRST_BYTE else extradata
    try:
        for obu in iterate_obus(obus):
            if obu.type is ObuType.SEQUENCE_HEADER:
                return parse_sequence_header(obu.payload)
    except BitstreamError as error:
        _log.debug("codec configuration of %d bytes: %s", len(extradata), error)
    return None


@dataclass(frozen=True, slots=True)
class ShownFrame:
    """The frame that a packet shows: its actual base_q_idx (0..255), and whether it was shown before."""

    base_q_idx: int
    is_repeat: bool


class HeaderHistory:
    """The headers of a GOP's packets, parsed only when somebody asks: most packets carry no prompt."""

    def __init__(self, extradata: bytes | None) -> None:
        self._tracker = HeaderTracker(sequence_header(extradata))
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._failure: BitstreamError | None = None
        self._shown: list[FrameHeader] = []
        self._last: ShownFrame | None = None
        self._first: FrameHeader | None = None
        self._marked: list[FrameHeader] = []

    def split(self, unit: bytes) -> SplitUnit | None:
        """Cut the next packet's unit, not appended yet, after its first frame if that is hidden; else None.

        Raises BitstreamError when the unit or one before it cannot be parsed, or the frame cannot be shown.
        """
        self._catch_up()
        if self._failure is not None:
            raise self._failure
        return split_at_first_frame(unit, self._tracker)

    def mark_hidden(self) -> None:
        """Remember the hidden frame that the last unit begins with, for `shows_marked`."""
        self._catch_up()
        held = [frame for frame in self._tracker.slots if frame is not None and frame is self._first]
        self._marked = [f for f in self._marked if any(f is slot for slot in self._tracker.slots)] + held[:1]

    def shows_marked(self, unit: bytes) -> bool:
        """Say whether the last unit shows a frame that was marked while it was hidden."""
        if not self._marked:
            return False
        try:
            slot = existing_slot(unit)
        except BitstreamError:
            return False
        if slot is None:
            return False
        self._catch_up()
        frame = self._tracker.slots[slot]
        return any(frame is marked for marked in self._marked)

    def append(self, unit: bytes) -> None:
        """Take the next packet's temporal unit."""
        self._pending.append(unit)
        self._pending_bytes += len(unit)
        # A GOP may be a whole film; what is parsed early need not be kept.
        if self._pending_bytes > MAX_PENDING_BYTES:
            self._catch_up()

    def last_shown(self) -> ShownFrame:
        """Return what the last unit shows.

        Raises BitstreamError when it shows nothing, or when it or a unit before it cannot be parsed.
        """
        self._catch_up()
        if self._failure is not None:
            raise self._failure
        if self._last is None:
            raise BitstreamError("the temporal unit shows no frame")
        return self._last

    def _catch_up(self) -> None:
        pending, self._pending, self._pending_bytes = self._pending, [], 0
        if self._failure is not None:
            return
        try:
            for unit in pending:
                self._parse(unit)
        except BitstreamError as error:
            self._failure = error

    def _parse(self, unit: bytes) -> None:
        headers = self._tracker.parse(unit)
        self._first = headers[0] if headers else None
        header = next((header for header in reversed(headers) if header.shown), None)
        if header is None:
            self._last = None
            return
        slot = existing_slot(unit)
        # The tracker copies a header that is shown again; the frame is to be known by the one in its slot.
        frame = header if slot is None else self._tracker.slots[slot] or header
        self._last = ShownFrame(header.base_q_idx, any(frame is shown for shown in self._shown))
        self._shown = [frame, *(f for f in self._shown if any(f is held for held in self._tracker.slots))]


def existing_slot(unit: bytes) -> int | None:
    """Return frame_to_show_map_idx where the unit shows a frame decoded before (AV1 5.9.2), else None.

    Raises BitstreamError for a malformed unit.
    """
    slot = None
    for obu in iterate_obus(unit):
        if obu.type is ObuType.FRAME_HEADER and obu.payload and obu.payload[0] & 0x80:
            slot = obu.payload[0] >> 4 & 7
    return slot
