"""AV1 sequence headers (AV1 5.5); fields keep the standard's names."""

from dataclasses import dataclass, replace

from hybridprompt.bitstream.bits import BitReader
from hybridprompt.errors import BitstreamError

SELECT_SCREEN_CONTENT_TOOLS = 2
SELECT_INTEGER_MV = 2


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
    separate_uv_delta_q: bool


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
    enable_warped_motion: bool
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

    enable_warped_motion: bool = False
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
        enable_warped_motion=tools.enable_warped_motion,
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
    r.f(2)  # enable_interintra_compound, enable_masked_compound
    enable_warped_motion = r.flag()
    r.f(1)  # enable_dual_filter
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
        enable_warped_motion=enable_warped_motion,
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
        return ColorConfig(bit_depth, True, *description, r.flag(), 1, 1, False)
    if description == (1, 13, 0):  # BT.709, sRGB, identity: RGB in 4:4:4
        color_range, subsampling = True, (0, 0)
    else:
        color_range, subsampling = r.flag(), _parse_subsampling(r, seq_profile, bit_depth)
        if subsampling == (1, 1):
            r.f(2)  # chroma_sample_position
    return ColorConfig(bit_depth, False, *description, color_range, *subsampling, r.flag())


def _parse_subsampling(r: BitReader, seq_profile: int, bit_depth: int) -> tuple[int, int]:
    if seq_profile == 0:
        return 1, 1
    if seq_profile == 1:
        return 0, 0
    if bit_depth < 12:
        return 1, 0
    subsampling_x = r.f(1)
    return subsampling_x, r.f(1) if subsampling_x else 0
