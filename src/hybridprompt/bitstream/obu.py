"""AV1 open bitstream units: framing, metadata, and the headers of sequences and frames.

Everything works on a *temporal unit* in the low-overhead format (AV1 5.2), as an MP4 sample or an
encoder's packet holds it: bytes in, values out. Clauses are those of the AV1 Bitstream & Decoding Process
Specification, version 1.0.0 with errata 1; fields keep the standard's names.

Frame headers are read as far as `base_q_idx`, which is all that HybridPrompt needs of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

from hybridprompt.bitstream.bits import BitReader, encode_leb128
from hybridprompt.errors import BitstreamError

NUM_REF_FRAMES = 8
REFS_PER_FRAME = 7
ALL_FRAMES = (1 << NUM_REF_FRAMES) - 1
MAX_TILE_WIDTH = 4096
MAX_TILE_AREA = 4096 * 2304
MAX_TILE_COLS = 64
MAX_TILE_ROWS = 64
SUPERRES_NUM = 8
SUPERRES_DENOM_MIN = 9
SELECT_SCREEN_CONTENT_TOOLS = 2
SELECT_INTEGER_MV = 2
TRAILING_BITS = b"\x80"

# Positions in ref_frame_idx, that is the standard's reference names less LAST_FRAME.
_LAST, _LAST2, _LAST3, _GOLDEN, _BWDREF, _ALTREF2, _ALTREF = range(REFS_PER_FRAME)


class ObuType(IntEnum):
    """obu_type (AV1 6.2.2)."""

    RESERVED_0 = 0
    SEQUENCE_HEADER = 1
    TEMPORAL_DELIMITER = 2
    FRAME_HEADER = 3
    TILE_GROUP = 4
    METADATA = 5
    FRAME = 6
    REDUNDANT_FRAME_HEADER = 7
    TILE_LIST = 8
    RESERVED_9 = 9
    RESERVED_10 = 10
    RESERVED_11 = 11
    RESERVED_12 = 12
    RESERVED_13 = 13
    RESERVED_14 = 14
    PADDING = 15


class FrameType(IntEnum):
    """frame_type (AV1 6.8.2)."""

    KEY = 0
    INTER = 1
    INTRA_ONLY = 2
    SWITCH = 3


@dataclass(frozen=True, slots=True)
class Obu:
    """One OBU in place: `unit[offset:stop]` is all of it, `unit[payload_offset:stop]` its payload.

    The payload includes the trailing bits. `temporal_id` and `spatial_id` are 0 without an extension header.
    """

    type: ObuType
    unit: bytes
    offset: int
    payload_offset: int
    stop: int
    temporal_id: int = 0
    spatial_id: int = 0
    has_extension: bool = False

    @property
    def raw(self) -> bytes:
        """The whole OBU with its header."""
        return self.unit[self.offset : self.stop]

    @property
    def payload(self) -> bytes:
        """The OBU without its header, with its trailing bits."""
        return self.unit[self.payload_offset : self.stop]

    def __repr__(self) -> str:
        return f"Obu({self.type.name}, offset={self.offset}, size_bytes={self.stop - self.offset})"


def iterate_obus(temporal_unit: bytes) -> Iterator[Obu]:
    """Yield the OBUs of a temporal unit in order (AV1 5.3.1-5.3.3).

    Only the last OBU may lack a size field; it then reaches to the end. Raises `BitstreamError` where an OBU
    is malformed or cut off.
    """
    offset = 0
    while offset < len(temporal_unit):
        obu = _parse_obu_header(temporal_unit, offset)
        yield obu
        offset = obu.stop


def _parse_obu_header(unit: bytes, offset: int) -> Obu:
    # Header, extension and the longest size field together fill at most 10 bytes.
    reader = BitReader(unit[offset : offset + 10])
    try:
        if reader.flag():
            raise BitstreamError("obu_forbidden_bit is set")
        obu_type = ObuType(reader.f(4))
        has_extension = reader.flag()
        has_size_field = reader.flag()
        reader.f(1)  # obu_reserved_1bit: decoders ignore it
        temporal_id = spatial_id = 0
        if has_extension:
            temporal_id, spatial_id = reader.f(3), reader.f(2)
            reader.f(3)
        size = reader.leb128() if has_size_field else None
    except BitstreamError as error:
        raise BitstreamError(f"OBU header at byte {offset} of {len(unit)}: {error}") from error
    payload_offset = offset + reader.position // 8
    stop = len(unit) if size is None else payload_offset + size
    if stop > len(unit):
        raise BitstreamError(
            f"OBU {obu_type.name} at byte {offset} claims {size} payload bytes, "
            f"found {len(unit) - payload_offset}"
        )
    return Obu(obu_type, unit, offset, payload_offset, stop, temporal_id, spatial_id, has_extension)


# ---------------------------------------------------------------------------------------------- metadata


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


# --------------------------------------------------------------------------------------- sequence header


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """One operating point of a sequence header (AV1 5.5.1)."""

    idc: int = 0
    seq_level_idx: int = 0
    seq_tier: int = 0
    decoder_model_present: bool = False


@dataclass(frozen=True, slots=True)
class TimingInfo:
    """timing_info() and decoder_model_info() (AV1 5.5.3, 5.5.4); lengths in bits, 0 where absent."""

    num_units_in_display_tick: int
    time_scale: int
    equal_picture_interval: bool
    decoder_model_info_present: bool = False
    buffer_delay_length: int = 0
    buffer_removal_time_length: int = 0
    frame_presentation_time_length: int = 0


@dataclass(frozen=True, slots=True)
class ColorConfig:
    """color_config() (AV1 5.5.2)."""

    bit_depth: int
    mono_chrome: bool
    color_primaries: int
    transfer_characteristics: int
    matrix_coefficients: int
    color_range: bool
    subsampling_x: int
    subsampling_y: int


@dataclass(frozen=True, slots=True)
class SequenceHeader:
    """sequence_header_obu() (AV1 5.5.1). Widths and heights in luma samples, lengths in bits."""

    seq_profile: int
    still_picture: bool
    reduced_still_picture_header: bool
    timing_info: TimingInfo | None
    operating_points: tuple[OperatingPoint, ...]
    frame_width_bits: int
    frame_height_bits: int
    max_frame_width: int
    max_frame_height: int
    frame_id_numbers_present: bool
    delta_frame_id_length: int
    frame_id_length: int
    use_128x128_superblock: bool
    enable_order_hint: bool
    enable_ref_frame_mvs: bool
    seq_force_screen_content_tools: int
    seq_force_integer_mv: int
    order_hint_bits: int
    enable_superres: bool
    enable_cdef: bool
    enable_restoration: bool
    color: ColorConfig
    film_grain_params_present: bool

    @property
    def decoder_model_info_present(self) -> bool:
        """Whether frame headers carry buffer removal times."""
        return self.timing_info is not None and self.timing_info.decoder_model_info_present

    @property
    def temporal_point_info_bits(self) -> int:
        """Bits of temporal_point_info() in frame headers; 0 where it is absent (AV1 5.9.31)."""
        timing = self.timing_info
        if timing is None or not timing.decoder_model_info_present or timing.equal_picture_interval:
            return 0
        return timing.frame_presentation_time_length


@dataclass(frozen=True, slots=True)
class _SequenceTools:
    """What frame headers depend on; the defaults are those of a reduced still picture header."""

    enable_order_hint: bool = False
    enable_ref_frame_mvs: bool = False
    seq_force_screen_content_tools: int = SELECT_SCREEN_CONTENT_TOOLS
    seq_force_integer_mv: int = SELECT_INTEGER_MV
    order_hint_bits: int = 0


def parse_sequence_header(payload: bytes) -> SequenceHeader:
    """Parse the payload of a sequence header OBU (AV1 5.5.1); raise `BitstreamError` if it is malformed."""
    r = BitReader(payload)
    seq_profile = r.f(3)
    if seq_profile > 2:
        raise BitstreamError(f"seq_profile is {seq_profile}, expected 0..2")
    still_picture, reduced = r.flag(), r.flag()
    timing_info = None
    operating_points: tuple[OperatingPoint, ...]
    if reduced:
        operating_points = (OperatingPoint(seq_level_idx=r.f(5)),)
    else:
        timing_info = _parse_timing_info(r) if r.flag() else None
        operating_points = _parse_operating_points(r, timing_info)
    frame_width_bits, frame_height_bits = r.f(4) + 1, r.f(4) + 1
    max_frame_width, max_frame_height = r.f(frame_width_bits) + 1, r.f(frame_height_bits) + 1
    frame_id_numbers_present = not reduced and r.flag()
    delta_frame_id_length = r.f(4) + 2 if frame_id_numbers_present else 0
    frame_id_length = delta_frame_id_length + r.f(3) + 1 if frame_id_numbers_present else 0
    use_128x128_superblock = r.flag()
    r.f(2)  # enable_filter_intra, enable_intra_edge_filter
    tools = _SequenceTools() if reduced else _parse_sequence_tools(r)
    return SequenceHeader(
        seq_profile=seq_profile,
        still_picture=still_picture,
        reduced_still_picture_header=reduced,
        timing_info=timing_info,
        operating_points=operating_points,
        frame_width_bits=frame_width_bits,
        frame_height_bits=frame_height_bits,
        max_frame_width=max_frame_width,
        max_frame_height=max_frame_height,
        frame_id_numbers_present=frame_id_numbers_present,
        delta_frame_id_length=delta_frame_id_length,
        frame_id_length=frame_id_length,
        use_128x128_superblock=use_128x128_superblock,
        enable_order_hint=tools.enable_order_hint,
        enable_ref_frame_mvs=tools.enable_ref_frame_mvs,
        seq_force_screen_content_tools=tools.seq_force_screen_content_tools,
        seq_force_integer_mv=tools.seq_force_integer_mv,
        order_hint_bits=tools.order_hint_bits,
        enable_superres=r.flag(),
        enable_cdef=r.flag(),
        enable_restoration=r.flag(),
        color=_parse_color_config(r, seq_profile),
        film_grain_params_present=r.flag(),
    )


def _parse_timing_info(r: BitReader) -> TimingInfo:
    info = TimingInfo(r.f(32), r.f(32), r.flag())
    if info.equal_picture_interval:
        r.uvlc()  # num_ticks_per_picture_minus_1
    if not r.flag():
        return info
    buffer_delay_length = r.f(5) + 1
    r.f(32)  # num_units_in_decoding_tick
    return replace(
        info,
        decoder_model_info_present=True,
        buffer_delay_length=buffer_delay_length,
        buffer_removal_time_length=r.f(5) + 1,
        frame_presentation_time_length=r.f(5) + 1,
    )


def _parse_operating_points(r: BitReader, timing: TimingInfo | None) -> tuple[OperatingPoint, ...]:
    initial_display_delay_present = r.flag()
    points = []
    for _ in range(r.f(5) + 1):
        idc, level = r.f(12), r.f(5)
        tier = r.f(1) if level > 7 else 0
        decoder_model = timing is not None and timing.decoder_model_info_present and r.flag()
        if timing is not None and decoder_model:
            r.f(2 * timing.buffer_delay_length + 1)  # operating_parameters_info()
        if initial_display_delay_present and r.flag():
            r.f(4)
        points.append(OperatingPoint(idc, level, tier, decoder_model))
    return tuple(points)


def _parse_sequence_tools(r: BitReader) -> _SequenceTools:
    r.f(4)  # enable_interintra_compound, enable_masked_compound, enable_warped_motion, enable_dual_filter
    enable_order_hint = r.flag()
    enable_ref_frame_mvs = False
    if enable_order_hint:
        r.f(1)  # enable_jnt_comp
        enable_ref_frame_mvs = r.flag()
    screen_content_tools = SELECT_SCREEN_CONTENT_TOOLS if r.flag() else r.f(1)
    integer_mv = SELECT_INTEGER_MV
    if screen_content_tools > 0 and not r.flag():
        integer_mv = r.f(1)
    return _SequenceTools(
        enable_order_hint=enable_order_hint,
        enable_ref_frame_mvs=enable_ref_frame_mvs,
        seq_force_screen_content_tools=screen_content_tools,
        seq_force_integer_mv=integer_mv,
        order_hint_bits=r.f(3) + 1 if enable_order_hint else 0,
    )


def _parse_color_config(r: BitReader, seq_profile: int) -> ColorConfig:
    high_bitdepth = r.flag()
    bit_depth = 10 if high_bitdepth else 8
    if seq_profile == 2 and high_bitdepth and r.flag():
        bit_depth = 12
    mono_chrome = seq_profile != 1 and r.flag()
    description = (r.f(8), r.f(8), r.f(8)) if r.flag() else (2, 2, 2)
    if mono_chrome:
        return ColorConfig(bit_depth, True, *description, r.flag(), 1, 1)
    if description == (1, 13, 0):  # BT.709, sRGB, identity: RGB in 4:4:4
        color_range, subsampling = True, (0, 0)
    else:
        color_range, subsampling = r.flag(), _parse_subsampling(r, seq_profile, bit_depth)
        if subsampling == (1, 1):
            r.f(2)  # chroma_sample_position
    r.f(1)  # separate_uv_delta_q
    return ColorConfig(bit_depth, False, *description, color_range, *subsampling)


def _parse_subsampling(r: BitReader, seq_profile: int, bit_depth: int) -> tuple[int, int]:
    if seq_profile == 0:
        return 1, 1
    if seq_profile == 1:
        return 0, 0
    if bit_depth < 12:
        return 1, 0
    subsampling_x = r.f(1)
    return subsampling_x, r.f(1) if subsampling_x else 0


# ------------------------------------------------------------------------------------------ frame headers


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
            if _is_dropped(obu, sequence):
                continue
            try:
                header, slots = _FrameHeaderParser(obu, sequence, slots).parse()
            except BitstreamError as error:
                raise BitstreamError(f"frame header at byte {obu.offset}: {error}") from error
            slots = tuple(
                header if header.refresh_frame_flags >> i & 1 else slot for i, slot in enumerate(slots)
            )
            headers.append(header)
        self._sequence_header, self._slots = sequence, slots
        return tuple(headers)


def _is_dropped(obu: Obu, sequence: SequenceHeader) -> bool:
    """drop_obu() for operating point 0 (AV1 5.3.1)."""
    idc = sequence.operating_points[0].idc
    return bool(idc) and obu.has_extension and not _in_operating_point(obu, idc)


def _in_operating_point(obu: Obu, idc: int) -> bool:
    return bool(idc >> obu.temporal_id & 1 and idc >> (obu.spatial_id + 8) & 1)


class _FrameHeaderParser:
    """uncompressed_header() up to base_q_idx (AV1 5.9.2), for one frame."""

    def __init__(self, obu: Obu, sequence: SequenceHeader, slots: Sequence[FrameHeader | None]) -> None:
        self.r = BitReader(obu.payload)
        self.obu = obu
        self.seq = sequence
        self.slots = list(slots)
        self.width = sequence.max_frame_width  # UpscaledWidth
        self.height = sequence.max_frame_height
        self.coded_width = self.width  # FrameWidth, before super-resolution

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
                r.f(1)  # showable_frame
            resets = frame_type is FrameType.SWITCH or (frame_type is FrameType.KEY and show_frame)
            error_resilient_mode = resets or r.flag()
        is_intra = frame_type in (FrameType.KEY, FrameType.INTRA_ONLY)

        disable_cdf_update = r.flag()
        allow_screen_content_tools, force_integer_mv = self._screen_content_tools(is_intra)
        r.f(seq.frame_id_length)  # current_frame_id
        frame_size_override = frame_type is FrameType.SWITCH or (not reduced and r.flag())
        order_hint = r.f(seq.order_hint_bits)
        if not (is_intra or error_resilient_mode):
            r.f(3)  # primary_ref_frame
        self._buffer_removal_times()
        refresh_frame_flags = self._refresh_frame_flags(
            resets=resets, is_intra=is_intra, error_resilient_mode=error_resilient_mode
        )
        if is_intra:
            self._frame_size(frame_size_override)
            self._render_size()
            if allow_screen_content_tools and self.width == self.coded_width:
                r.f(1)  # allow_intrabc
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
        shown = self._slot(index)
        # A keyframe that is shown late restarts the sequence: it takes every slot (AV1 7.21).
        flags = ALL_FRAMES if shown.frame_type is FrameType.KEY else 0
        return replace(shown, show_existing_frame=True, refresh_frame_flags=flags)

    def _slot(self, index: int) -> FrameHeader:
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
        if frame_size_override and not error_resilient_mode:
            self._frame_size_with_refs(ref_frame_idx)
        else:
            self._frame_size(frame_size_override)
            self._render_size()
        if not force_integer_mv:
            r.f(1)  # allow_high_precision_mv
        if not r.flag():  # is_filter_switchable
            r.f(2)  # interpolation_filter
        r.f(1)  # is_motion_mode_switchable
        if seq.enable_ref_frame_mvs and not error_resilient_mode:
            r.f(1)  # use_ref_frame_mvs

    def _set_frame_refs(self, last_frame_idx: int, gold_frame_idx: int, order_hint: int) -> list[int]:
        """Derive ref_frame_idx from two of its entries and the order hints (AV1 7.8)."""
        # Distances to the current frame: the standard's shiftedOrderHints less curFrameHint.
        distances = [self._relative_dist(self._slot(i).order_hint, order_hint) for i in range(NUM_REF_FRAMES)]
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

    def _relative_dist(self, a: int, b: int) -> int:
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
                slot = self._slot(index)
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
