"""What replacing an IDR picture needs of H.264's headers: SPS (7.3.2.1), PPS (7.3.2.2), IDR slice header
(7.3.3).

Only what the splice of `h264_pcm` supports is let through: frames of 8-bit 4:2:0 without slice groups, and
picture order count types 0 and 2. That is what x264 writes.
"""

from dataclasses import dataclass
from typing import Final

from hybridprompt.bitstream.bits import BitReader
from hybridprompt.bitstream.exp_golomb import read_se, read_ue
from hybridprompt.bitstream.nal import H264Nal, parse_h264_header, remove_emulation_prevention
from hybridprompt.errors import BitstreamError

MB_SIZE: Final = 16
MAX_PARAMETER_SET_BYTES: Final = 1 << 16
MAX_MBS: Final = 139264
"""Macroblocks of a picture at the highest level, 6.2 (table A-1)."""

_MAX_SIDE_MBS: Final = 1055  # sqrt(8 * MAX_MBS): A.3.1 f, g
# Profiles whose SPS has chroma format, bit depths and scaling matrices (7.3.2.1.1).
_HIGH_PROFILES: Final = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})
_SLICE_HEADER_BYTES: Final = 64
_I_SLICES: Final = (2, 7)


@dataclass(frozen=True, slots=True)
class H264Sps:
    """Fields of a sequence parameter set.

    mb_width, mb_height: macroblocks. crop: luma samples hidden at left, right, top and bottom.
    poc_lsb_bits: None for picture order count type 2.
    """

    id: int
    frame_num_bits: int
    poc_lsb_bits: int | None
    mb_width: int
    mb_height: int
    crop: tuple[int, int, int, int]

    @property
    def coded_size(self) -> tuple[int, int]:
        """Width and height of the macroblock grid in luma samples."""
        return MB_SIZE * self.mb_width, MB_SIZE * self.mb_height

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the visible picture in luma samples."""
        (width, height), (left, right, top, bottom) = self.coded_size, self.crop
        return width - left - right, height - top - bottom


@dataclass(frozen=True, slots=True)
class H264Pps:
    """Fields of a picture parameter set."""

    id: int
    sps_id: int
    has_bottom_field_poc: bool
    has_redundant_pic_cnt: bool


@dataclass(frozen=True, slots=True)
class IdrSlice:
    """Fields of an IDR slice header that the next pictures depend on."""

    pps_id: int
    nal_ref_idc: int
    frame_num: int
    idr_pic_id: int
    poc_lsb: int
    delta_poc_bottom: int
    no_output_of_prior_pics: bool
    long_term_reference: bool


def parse_sps(nal: bytes) -> H264Sps:
    """Read an SPS NAL unit. Raises `BitstreamError` when it is malformed or not supported."""
    reader = _rbsp_reader(nal, H264Nal.SPS, "SPS")
    try:
        return _read_sps(reader)
    except BitstreamError as error:
        raise BitstreamError(f"SPS of {len(nal)} bytes: {error}") from error


def parse_pps(nal: bytes) -> H264Pps:
    """Read a PPS NAL unit. Raises `BitstreamError` when it is malformed or has slice groups."""
    reader = _rbsp_reader(nal, H264Nal.PPS, "PPS")
    try:
        pps_id = read_ue(reader, name="pic_parameter_set_id", maximum=255)
        sps_id = read_ue(reader, name="seq_parameter_set_id", maximum=31)
        reader.f(1)  # entropy_coding_mode_flag
        has_bottom_field_poc = reader.flag()
        _expect("num_slice_groups_minus1", read_ue(reader), 0)
        for name in ("num_ref_idx_l0_default_active_minus1", "num_ref_idx_l1_default_active_minus1"):
            read_ue(reader, name=name, maximum=31)
        reader.f(3)  # weighted_pred_flag, weighted_bipred_idc
        for name in ("pic_init_qp_minus26", "pic_init_qs_minus26", "chroma_qp_index_offset"):
            read_se(reader, name=name)
        reader.f(2)  # deblocking_filter_control_present_flag, constrained_intra_pred_flag
        return H264Pps(pps_id, sps_id, has_bottom_field_poc, reader.flag())
    except BitstreamError as error:
        raise BitstreamError(f"PPS of {len(nal)} bytes: {error}") from error


def slice_pps_id(nal: bytes) -> int:
    """Return pic_parameter_set_id of an IDR slice NAL unit. Raises `BitstreamError`."""
    return _slice_start(nal)[1]


def parse_idr_slice(nal: bytes, sps: H264Sps, pps: H264Pps) -> IdrSlice:
    """Read the header of an IDR slice NAL unit, whose parameter sets are given.

    Raises `BitstreamError` when it is malformed or not an I slice.
    """
    reader, pps_id = _slice_start(nal)
    frame_num = reader.f(sps.frame_num_bits)
    idr_pic_id = read_ue(reader, name="idr_pic_id", maximum=65535)
    poc_lsb = delta = 0
    if sps.poc_lsb_bits is not None:
        poc_lsb = reader.f(sps.poc_lsb_bits)
        if pps.has_bottom_field_poc:
            delta = read_se(reader, name="delta_pic_order_cnt_bottom")
    if pps.has_redundant_pic_cnt:
        _expect("redundant_pic_cnt", read_ue(reader), 0)
    return IdrSlice(
        pps_id, nal[0] >> 5 & 3, frame_num, idr_pic_id, poc_lsb, delta, reader.flag(), reader.flag()
    )


def _slice_start(nal: bytes) -> tuple[BitReader, int]:
    """A reader behind pic_parameter_set_id, and that number."""
    # Slices are large, their headers are not. A cut escape at the end would only be seen as a shorter header.
    head = nal[:_SLICE_HEADER_BYTES].rstrip(b"\0")
    reader = _rbsp_reader(head, H264Nal.SLICE_IDR, "IDR slice")
    read_ue(reader, name="first_mb_in_slice", maximum=MAX_MBS)
    slice_type = read_ue(reader, name="slice_type", maximum=9)
    if slice_type not in _I_SLICES:
        raise BitstreamError(f"IDR slice has type {slice_type}, expected one of {_I_SLICES} (I)")
    return reader, read_ue(reader, name="pic_parameter_set_id", maximum=255)


def _rbsp_reader(nal: bytes, expected: int, name: str) -> BitReader:
    found = parse_h264_header(nal).nal_unit_type
    if found != expected:
        raise BitstreamError(f"NAL unit has type {found}, expected {expected} ({name})")
    if len(nal) > MAX_PARAMETER_SET_BYTES:
        raise BitstreamError(f"{name} has {len(nal)} bytes, expected at most {MAX_PARAMETER_SET_BYTES}")
    return BitReader(remove_emulation_prevention(nal[1:]))


def _read_sps(reader: BitReader) -> H264Sps:
    profile = reader.f(8)
    reader.f(16)  # constraint flags, level_idc
    sps_id = read_ue(reader, name="seq_parameter_set_id", maximum=31)
    if profile in _HIGH_PROFILES:
        _expect("chroma_format_idc", read_ue(reader), 1)
        _expect("bit_depth_luma_minus8", read_ue(reader), 0)
        _expect("bit_depth_chroma_minus8", read_ue(reader), 0)
        _expect("qpprime_y_zero_transform_bypass_flag", reader.f(1), 0)
        # A scaling matrix means nothing to PCM samples, but stands in the way here.
        _expect("seq_scaling_matrix_present_flag", reader.f(1), 0)
    frame_num_bits = read_ue(reader, name="log2_max_frame_num_minus4", maximum=12) + 4
    poc_lsb_bits = None
    poc_type = read_ue(reader, name="pic_order_cnt_type", maximum=2)
    if poc_type == 1:
        raise BitstreamError("pic_order_cnt_type is 1, supported are 0 and 2")
    if poc_type == 0:
        poc_lsb_bits = read_ue(reader, name="log2_max_pic_order_cnt_lsb_minus4", maximum=12) + 4
    read_ue(reader, name="max_num_ref_frames", maximum=16)
    reader.f(1)  # gaps_in_frame_num_value_allowed_flag
    mb_width = read_ue(reader, name="pic_width_in_mbs_minus1", maximum=_MAX_SIDE_MBS - 1) + 1
    mb_height = read_ue(reader, name="pic_height_in_map_units_minus1", maximum=_MAX_SIDE_MBS - 1) + 1
    if mb_width * mb_height > MAX_MBS:
        raise BitstreamError(f"picture of {mb_width}x{mb_height} macroblocks, expected at most {MAX_MBS}")
    _expect("frame_mbs_only_flag", reader.f(1), 1)
    reader.f(1)  # direct_8x8_inference_flag
    crop = (0, 0, 0, 0)
    if reader.flag():  # frame_cropping_flag; units are chroma samples of 4:2:0
        left, right, top, bottom = (2 * read_ue(reader, name="frame_crop_offset") for _ in range(4))
        crop = (left, right, top, bottom)
        if left + right >= MB_SIZE * mb_width or top + bottom >= MB_SIZE * mb_height:
            raise BitstreamError(
                f"crop of {crop} leaves nothing of {MB_SIZE * mb_width}x{MB_SIZE * mb_height} samples"
            )
    return H264Sps(sps_id, frame_num_bits, poc_lsb_bits, mb_width, mb_height, crop)


def _expect(name: str, found: int, supported: int) -> None:
    if found != supported:
        raise BitstreamError(f"{name} is {found}, supported is {supported}")
