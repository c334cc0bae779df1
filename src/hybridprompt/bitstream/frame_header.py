"""AV1 frame headers (AV1 5.9) as far as `base_q_idx`, which is all that most of HybridPrompt needs of them.

Fields keep the standard's names. `frame_header_end` reads on where this stops.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

from hybridprompt.bitstream.bits import BitReader
from hybridprompt.bitstream.framing import Obu, ObuType, iterate_obus
from hybridprompt.bitstream.sequence_header import (
    SELECT_INTEGER_MV,
    SELECT_SCREEN_CONTENT_TOOLS,
    SequenceHeader,
    parse_sequence_header,
)
from hybridprompt.errors import BitstreamError

NUM_REF_FRAMES = 8
PRIMARY_REF_NONE = 7
REFS_PER_FRAME = 7
ALL_FRAMES = (1 << NUM_REF_FRAMES) - 1
MAX_TILE_WIDTH = 4096
MAX_TILE_AREA = 4096 * 2304
MAX_TILE_COLS = 64
MAX_TILE_ROWS = 64
SUPERRES_NUM = 8
SUPERRES_DENOM_MIN = 9

# Positions in ref_frame_idx, that is the standard's reference names less LAST_FRAME.
_LAST, _LAST2, _LAST3, _GOLDEN, _BWDREF, _ALTREF2, _ALTREF = range(REFS_PER_FRAME)


class FrameType(IntEnum):
    """frame_type (AV1 6.8.2)."""

    KEY = 0
    INTER = 1
    INTRA_ONLY = 2
    SWITCH = 3


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """What a frame header says of its frame; with `show_existing_frame`, of the frame that is shown again.

    `width` (after super-resolution) and `height` are in luma samples, `base_q_idx` is in 0..255,
    `refresh_frame_flags` has bit i set where reference slot i takes this frame.
    """

    frame_type: FrameType
    show_frame: bool
    show_existing_frame: bool
    base_q_idx: int
    width: int
    height: int
    order_hint: int
    refresh_frame_flags: int

    @property
    def shown(self) -> bool:
        """Whether a decoder outputs a picture for this header."""
        return self.show_frame or self.show_existing_frame

    @property
    def is_intra(self) -> bool:
        """FrameIsIntra (AV1 6.8.2)."""
        return self.frame_type in (FrameType.KEY, FrameType.INTRA_ONLY)


class HeaderTracker:
    """Parse the frame headers of a stream, unit by unit in decoding order.

    Keeps what later headers need: the sequence header and, for each of the 8 reference slots, the frame it
    holds. `sequence_header` is for streams that carry theirs out of band.
    """

    def __init__(self, sequence_header: SequenceHeader | None = None) -> None:
        self._sequence_header = sequence_header
        self._slots: tuple[FrameHeader | None, ...] = (None,) * NUM_REF_FRAMES

    @property
    def sequence_header(self) -> SequenceHeader | None:
        """The sequence header in force, None before the first."""
        return self._sequence_header

    @property
    def slots(self) -> tuple[FrameHeader | None, ...]:
        """The frame that each reference slot holds; None where it is not known."""
        return self._slots

    def parse(self, temporal_unit: bytes) -> tuple[FrameHeader, ...]:
        """Return the frame headers of the unit, in decoding order (AV1 5.9).

        Redundant copies and frames outside operating point 0 are skipped. Raises `BitstreamError` for a
        malformed unit or one that needs headers not seen yet; the tracker is then as it was before the call.
        """
        sequence, slots = self._sequence_header, self._slots
        headers = []
        for obu in iterate_obus(temporal_unit):
            if obu.type is ObuType.SEQUENCE_HEADER:
                sequence = parse_sequence_header(obu.payload)
            if obu.type not in (ObuType.FRAME, ObuType.FRAME_HEADER):
                continue
            if sequence is None:
                raise BitstreamError(f"frame at byte {obu.offset} comes before any sequence header")
            if is_dropped(obu, sequence):
                continue
            try:
                header, slots = FrameHeaderParser(obu, sequence, slots).parse()
            except BitstreamError as error:
                raise BitstreamError(f"frame header at byte {obu.offset}: {error}") from error
            slots = tuple(
                header if header.refresh_frame_flags >> i & 1 else slot for i, slot in enumerate(slots)
            )
            headers.append(header)
        self._sequence_header, self._slots = sequence, slots
        return tuple(headers)


def is_dropped(obu: Obu, sequence: SequenceHeader) -> bool:
    """drop_obu() for operating point 0 (AV1 5.3.1)."""
    idc = sequence.operating_points[0].idc
    return bool(idc) and obu.has_extension and not _in_operating_point(obu, idc)


def _in_operating_point(obu: Obu, idc: int) -> bool:
    return bool(idc >> obu.temporal_id & 1 and idc >> (obu.spatial_id + 8) & 1)


class FrameHeaderParser:
    """uncompressed_header() up to base_q_idx (AV1 5.9.2), for one frame."""

    def __init__(self, obu: Obu, sequence: SequenceHeader, slots: Sequence[FrameHeader | None]) -> None:
        self.r = BitReader(obu.payload)
        self.obu = obu
        self.seq = sequence
        self.slots = list(slots)
        self.width = sequence.max_frame_width  # UpscaledWidth
        self.height = sequence.max_frame_height
        self.coded_width = self.width  # FrameWidth, before super-resolution
        # What the rest of the header depends on, for frame_header_end.
        self.showable_frame = False
        self.error_resilient_mode = True
        self.primary_ref_frame = PRIMARY_REF_NONE
        self.allow_intrabc = False
        self.allow_high_precision_mv = False
        self.ref_frame_idx: list[int] = []

    def parse(self) -> tuple[FrameHeader, tuple[FrameHeader | None, ...]]:
        """Return the header, and the slots as they are before this frame refreshes them."""
        r, seq = self.r, self.seq
        reduced = seq.reduced_still_picture_header
        if not reduced and r.flag():
            return self._show_existing_frame(), tuple(self.slots)
        frame_type, show_frame = FrameType.KEY, True
        resets, error_resilient_mode = True, True
        if not reduced:
            frame_type, show_frame = FrameType(r.f(2)), r.flag()
            if show_frame:
                r.f(seq.temporal_point_info_bits)
            else:
                self.showable_frame = r.flag()
            resets = frame_type is FrameType.SWITCH or (frame_type is FrameType.KEY and show_frame)
            error_resilient_mode = resets or r.flag()
        is_intra = frame_type in (FrameType.KEY, FrameType.INTRA_ONLY)
        self.error_resilient_mode = error_resilient_mode

        disable_cdf_update = r.flag()
        allow_screen_content_tools, force_integer_mv = self._screen_content_tools(is_intra)
        r.f(seq.frame_id_length)  # current_frame_id
        frame_size_override = frame_type is FrameType.SWITCH or (not reduced and r.flag())
        order_hint = r.f(seq.order_hint_bits)
        if not (is_intra or error_resilient_mode):
            self.primary_ref_frame = r.f(3)
        self._buffer_removal_times()
        refresh_frame_flags = self._refresh_frame_flags(
            resets=resets, is_intra=is_intra, error_resilient_mode=error_resilient_mode
        )
        if is_intra:
            self._frame_size(frame_size_override)
            self._render_size()
            if allow_screen_content_tools and self.width == self.coded_width:
                self.allow_intrabc = r.flag()
        else:
            self._inter_setup(order_hint, frame_size_override, error_resilient_mode, force_integer_mv)
        if not (reduced or disable_cdf_update):
            r.f(1)  # disable_frame_end_update_cdf
        self._tile_info()
        header = FrameHeader(
            frame_type=frame_type,
            show_frame=show_frame,
            show_existing_frame=False,
            base_q_idx=r.f(8),
            width=self.width,
            height=self.height,
            order_hint=order_hint,
            refresh_frame_flags=refresh_frame_flags,
        )
        return header, tuple(self.slots)

    def _show_existing_frame(self) -> FrameHeader:
        index = self.r.f(3)
        self.r.f(self.seq.temporal_point_info_bits)
        self.r.f(self.seq.frame_id_length)  # display_frame_id
        shown = self.slot(index)
        # A keyframe that is shown late restarts the sequence: it takes every slot (AV1 7.21).
        flags = ALL_FRAMES if shown.frame_type is FrameType.KEY else 0
        return replace(shown, show_existing_frame=True, refresh_frame_flags=flags)

    def slot(self, index: int) -> FrameHeader:
        slot = self.slots[index]
        if slot is None:
            raise BitstreamError(f"reference slot {index} holds no known frame")
        return slot

    def _screen_content_tools(self, is_intra: bool) -> tuple[bool, bool]:
        """Read allow_screen_content_tools and force_integer_mv."""
        r, seq = self.r, self.seq
        allow = seq.seq_force_screen_content_tools
        if allow == SELECT_SCREEN_CONTENT_TOOLS:
            allow = r.f(1)
        force = 0
        if allow:
            force = seq.seq_force_integer_mv
            if force == SELECT_INTEGER_MV:
                force = r.f(1)
        return allow == 1, is_intra or force == 1

    def _buffer_removal_times(self) -> None:
        timing = self.seq.timing_info
        if timing is None or not timing.decoder_model_info_present or not self.r.flag():
            return
        for point in self.seq.operating_points:
            applies = point.idc == 0 or _in_operating_point(self.obu, point.idc)
            if point.decoder_model_present and applies:
                self.r.f(timing.buffer_removal_time_length)

    def _refresh_frame_flags(self, *, resets: bool, is_intra: bool, error_resilient_mode: bool) -> int:
        flags = ALL_FRAMES if resets else self.r.f(8)
        explicit_hints = error_resilient_mode and self.seq.enable_order_hint
        if explicit_hints and not (is_intra and flags == ALL_FRAMES):
            for i in range(NUM_REF_FRAMES):
                ref_order_hint = self.r.f(self.seq.order_hint_bits)
                slot = self.slots[i]
                # A frame with another hint was lost on the way: the slot's content is not known any more.
                if slot is not None and slot.order_hint != ref_order_hint:
                    self.slots[i] = None
        return flags

    def _inter_setup(
        self, order_hint: int, frame_size_override: bool, error_resilient_mode: bool, force_integer_mv: bool
    ) -> None:
        """What only inter frames carry: references, size, motion vector precision, filter."""
        r, seq = self.r, self.seq
        short_signaling = seq.enable_order_hint and r.flag()
        ref_frame_idx = self._set_frame_refs(r.f(3), r.f(3), order_hint) if short_signaling else []
        for _ in range(REFS_PER_FRAME):
            if not short_signaling:
                ref_frame_idx.append(r.f(3))
            r.f(seq.delta_frame_id_length)  # delta_frame_id_minus_1
        self.ref_frame_idx = ref_frame_idx
        if frame_size_override and not error_resilient_mode:
            self._frame_size_with_refs(ref_frame_idx)
        else:
            self._frame_size(frame_size_override)
            self._render_size()
        if not force_integer_mv:
            self.allow_high_precision_mv = r.flag()
        if not r.flag():  # is_filter_switchable
            r.f(2)  # interpolation_filter
        r.f(1)  # is_motion_mode_switchable
        if seq.enable_ref_frame_mvs and not error_resilient_mode:
            r.f(1)  # use_ref_frame_mvs

    def _set_frame_refs(self, last_frame_idx: int, gold_frame_idx: int, order_hint: int) -> list[int]:
        """Derive ref_frame_idx from two of its entries and the order hints (AV1 7.8)."""
        # Distances to the current frame: the standard's shiftedOrderHints less curFrameHint.
        distances = [self.relative_dist(self.slot(i).order_hint, order_hint) for i in range(NUM_REF_FRAMES)]
        refs = {_LAST: last_frame_idx, _GOLDEN: gold_frame_idx}
        unused = [i for i in range(NUM_REF_FRAMES) if i not in (last_frame_idx, gold_frame_idx)]

        def assign(name: int, candidates: list[int], *, latest: bool) -> None:
            if candidates:
                # Of equals, the latest rule takes the last slot and the earliest rule the first.
                key = (lambda i: (distances[i], i)) if latest else (lambda i: (-distances[i], -i))
                refs[name] = max(candidates, key=key)
                unused.remove(refs[name])

        assign(_ALTREF, [i for i in unused if distances[i] >= 0], latest=True)
        assign(_BWDREF, [i for i in unused if distances[i] >= 0], latest=False)
        assign(_ALTREF2, [i for i in unused if distances[i] >= 0], latest=False)
        for name in (_LAST2, _LAST3, _BWDREF, _ALTREF2, _ALTREF):
            if name not in refs:
                assign(name, [i for i in unused if distances[i] < 0], latest=True)
        earliest = min(range(NUM_REF_FRAMES), key=lambda i: (distances[i], i))
        return [refs.get(name, earliest) for name in range(REFS_PER_FRAME)]

    def relative_dist(self, a: int, b: int) -> int:
        """get_relative_dist() (AV1 7.9.3)."""
        sign = 1 << (self.seq.order_hint_bits - 1)
        diff = a - b
        return (diff & (sign - 1)) - (diff & sign)

    def _frame_size(self, frame_size_override: bool) -> None:
        if frame_size_override:
            self.width = self.r.f(self.seq.frame_width_bits) + 1
            self.height = self.r.f(self.seq.frame_height_bits) + 1
        self._superres_params()

    def _superres_params(self) -> None:
        self.coded_width = self.width
        if self.seq.enable_superres and self.r.flag():
            denominator = self.r.f(3) + SUPERRES_DENOM_MIN
            self.coded_width = (self.width * SUPERRES_NUM + denominator // 2) // denominator

    def _render_size(self) -> None:
        if self.r.flag():  # render_and_frame_size_different
            self.r.f(32)

    def _frame_size_with_refs(self, ref_frame_idx: list[int]) -> None:
        for index in ref_frame_idx:
            if self.r.flag():  # found_ref
                slot = self.slot(index)
                self.width, self.height = slot.width, slot.height
                self._superres_params()
                return
        self._frame_size(True)
        self._render_size()

    def _tile_info(self) -> None:
        """tile_info() (AV1 5.9.15); nothing of it is kept."""
        r = self.r
        sb_log2 = 7 if self.seq.use_128x128_superblock else 6
        # The standard counts 4x4 units of whole 8x8 blocks, which comes to the same superblocks.
        sb_cols = (self.coded_width + (1 << sb_log2) - 1) >> sb_log2
        sb_rows = (self.height + (1 << sb_log2) - 1) >> sb_log2
        max_tile_width_sb = MAX_TILE_WIDTH >> sb_log2
        max_tile_area_sb = MAX_TILE_AREA >> (2 * sb_log2)
        min_log2_cols = _tile_log2(max_tile_width_sb, sb_cols)
        min_log2_tiles = max(min_log2_cols, _tile_log2(max_tile_area_sb, sb_rows * sb_cols))
        if r.flag():  # uniform_tile_spacing_flag
            max_log2_cols = _tile_log2(1, min(sb_cols, MAX_TILE_COLS))
            max_log2_rows = _tile_log2(1, min(sb_rows, MAX_TILE_ROWS))
            cols_log2 = self._increments(min_log2_cols, max_log2_cols)
            rows_log2 = self._increments(max(min_log2_tiles - cols_log2, 0), max_log2_rows)
        else:
            cols, widest = self._tile_sizes(sb_cols, max_tile_width_sb, MAX_TILE_COLS)
            area_sb = sb_rows * sb_cols
            if min_log2_tiles > 0:
                area_sb >>= min_log2_tiles + 1
            rows, _ = self._tile_sizes(sb_rows, max(area_sb // widest, 1), MAX_TILE_ROWS)
            cols_log2, rows_log2 = _tile_log2(1, cols), _tile_log2(1, rows)
        if cols_log2 > 0 or rows_log2 > 0:
            r.f(rows_log2 + cols_log2)  # context_update_tile_id
            r.f(2)  # tile_size_bytes_minus_1

    def _increments(self, start: int, limit: int) -> int:
        """Read increment_tile_cols_log2 or increment_tile_rows_log2 flags."""
        while start < limit and self.r.flag():
            start += 1
        return start

    def _tile_sizes(self, size_sb: int, max_size_sb: int, max_count: int) -> tuple[int, int]:
        """Read width_in_sbs_minus_1 or height_in_sbs_minus_1; return how many tiles, and the largest size."""
        count = largest = start = 0
        while start < size_sb:
            if count == max_count:
                raise BitstreamError(f"more than {max_count} tile columns or rows")
            size = self.r.ns(min(size_sb - start, max_size_sb)) + 1
            largest = max(largest, size)
            start += size
            count += 1
        return count, largest


def _tile_log2(block_size: int, target: int) -> int:
    """The smallest k with block_size << k >= target (AV1 5.9.16)."""
    k = 0
    while block_size << k < target:
        k += 1
    return k
