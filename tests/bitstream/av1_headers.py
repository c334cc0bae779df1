"""Random AV1 headers, which no encoder at hand would write."""

from hypothesis import strategies as st

from hybridprompt.bitstream.bits import BitWriter, encode_leb128
from hybridprompt.bitstream.obu import ObuType


@st.composite
def sequence_headers(draw: st.DrawFn, *, film_grain: bool = True) -> bytes:
    """A sequence header OBU with every optional part drawn at random; film_grain: whether it may have any."""
    w = BitWriter()

    def flag(name: str) -> int:
        value = draw(st.integers(0, 1), label=name)
        w.f(1, value)
        return value

    w.f(3, 0)
    w.f(2, 0)  # still_picture, reduced_still_picture_header
    delay_bits = draw(st.integers(1, 32))
    decoder_model = 0
    if flag("timing_info_present_flag"):
        w.f(32, 1001)
        w.f(32, 30000)
        if flag("equal_picture_interval"):
            w.uvlc(draw(st.integers(0, 300)))
        decoder_model = flag("decoder_model_info_present_flag")
        if decoder_model:
            w.f(5, delay_bits - 1)
            w.f(32, 7)
            w.f(5, draw(st.integers(0, 31)))
            w.f(5, draw(st.integers(0, 31)))
    initial_display_delay = flag("initial_display_delay_present_flag")
    operating_points = draw(st.integers(1, 3))
    w.f(5, operating_points - 1)
    for _ in range(operating_points):
        w.f(12, draw(st.sampled_from([0, 0x101, 0x103, 0x301])))
        level = draw(st.integers(0, 12))
        w.f(5, level)
        if level > 7:
            flag("seq_tier")
        if decoder_model and flag("decoder_model_present_for_this_op"):
            w.f(delay_bits, 0)
            w.f(delay_bits, 0)
            w.f(1, 0)
        if initial_display_delay and flag("initial_display_delay_present_for_this_op"):
            w.f(4, 3)
    # Up to sizes that need more than one tile.
    width, height = draw(st.integers(16, 10000)), draw(st.integers(16, 5000))
    w.f(4, 13)
    w.f(4, 12)
    w.f(14, width - 1)
    w.f(13, height - 1)
    if flag("frame_id_numbers_present_flag"):
        w.f(4, draw(st.integers(0, 10)))
        w.f(3, 1)
    flag("use_128x128_superblock")
    w.f(2, 3)
    w.f(2, 3)
    flag("enable_warped_motion")
    w.f(1, 1)  # enable_dual_filter
    order_hint = flag("enable_order_hint")
    if order_hint:
        flag("enable_jnt_comp")
        flag("enable_ref_frame_mvs")
    forced = 1 if flag("seq_choose_screen_content_tools") else flag("seq_force_screen_content_tools")
    if forced and not flag("seq_choose_integer_mv"):
        flag("seq_force_integer_mv")
    if order_hint:
        w.f(3, draw(st.integers(0, 7)))
    flag("enable_superres")
    flag("enable_cdef")
    flag("enable_restoration")
    flag("high_bitdepth")
    mono_chrome = flag("mono_chrome")
    w.f(2, 0)  # color_description_present_flag, color_range
    if not mono_chrome:
        w.f(2, 0)  # chroma_sample_position
        flag("separate_uv_delta_q")
    if film_grain:
        flag("film_grain_params_present")
    else:
        w.f(1, 0)
    w.f(1, 1)
    payload = w.to_bytes()
    return bytes([ObuType.SEQUENCE_HEADER << 3 | 2]) + encode_leb128(len(payload)) + payload


def frame_obu(bits: bytes) -> bytes:
    """Put bits into an OBU_FRAME."""
    return bytes([ObuType.FRAME << 3 | 2]) + encode_leb128(len(bits)) + bits
