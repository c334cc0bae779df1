"""A coded GOP, and which pictures of it can be anchors: the keyframe, and later mini-GOPs' base pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from hybridprompt.bitstream.obu import FrameHeader, HeaderTracker
from hybridprompt.decode.headers import sequence_header
from hybridprompt.prompt.syntax import MAX_SIZE, MIN_SIZE
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.packet_decoder import DecodedFrame
from hybridprompt.video.picture import Picture


@dataclass(frozen=True)
class Gop:
    """A coded GOP and, where there is one, its source.

    packets: in display order, each with one shown picture.  source: the source picture of a frame index.
    """

    packets: Sequence[CodedPacket]
    extradata: bytes | None
    time_base: Fraction
    source: Callable[[int], Picture]


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
