"""Sequence parameter sets of H.265 that let pictures out in decoding order (H.265 7.3.2.2).

Note [Decoding order]: a decoder holds a picture back until sps_max_num_reorder_pics say that no picture
still to come is shown before it (C.5.2.2). By then it has decoded pictures that predict from it, too late
to replace it. The rewritten SPS promises that nothing is reordered, so that every packet yields its picture
at once. Decoding itself does not depend on the two fields, and sps_max_dec_pic_buffering stays, so all
pictures stay the same; putting them into display order is left to the caller. The stream with the rewritten
SPS does not conform if pictures are reordered: it is for the client's own decoder, never for a file.
"""

from dataclasses import dataclass
from typing import Final

from hybridprompt.bitstream.bits import BitReader, BitWriter
from hybridprompt.bitstream.codec_config import map_parameter_sets
from hybridprompt.bitstream.exp_golomb import read_ue, write_trailing_bits, write_ue
from hybridprompt.bitstream.nal import (
    H265Nal,
    NalCodec,
    add_emulation_prevention,
    frame_nal_unit,
    nal_type,
    parse_h265_header,
    remove_emulation_prevention,
    split_nal_units,
)
from hybridprompt.errors import BitstreamError

MAX_SPS_BYTES: Final = 1 << 16

_HEADER_BYTES: Final = 2
_GENERAL_PROFILE_BITS: Final = 88
_LEVEL_BITS: Final = 8


@dataclass(frozen=True, slots=True)
class H265Sps:
    """Fields of a sequence parameter set.

    coded_size: width and height in luma samples. crop: luma samples outside the conformance window at left,
    right, top and bottom. max_num_reorder: how many pictures may precede one in decoding order and follow it
    in output order, of the highest sub-layer.
    """

    id: int
    coded_size: tuple[int, int]
    crop: tuple[int, int, int, int]
    max_num_reorder: int


def parse_sps(nal: bytes) -> H265Sps:
    """Read an SPS NAL unit of the base layer. Raises `BitstreamError` when it is malformed."""
    return _parsed(nal)[0]


def sps_without_reordering(nal: bytes) -> bytes:
    """Return an SPS NAL unit with sps_max_num_reorder_pics and sps_max_latency_increase_plus1 0 in all
    sub-layers.

    One that has this already, or is of another layer than the base, comes back as it is. See Note [Decoding
    order]. Raises `BitstreamError` for a NAL unit that is no SPS or is malformed.
    """
    header = parse_h265_header(nal)
    if header.nal_unit_type != H265Nal.SPS:
        raise BitstreamError(f"NAL unit has type {header.nal_unit_type}, expected {H265Nal.SPS} (SPS)")
    if header.nuh_layer_id:
        return nal
    _, rewritten = _parsed(nal)
    return nal if rewritten is None else nal[:_HEADER_BYTES] + add_emulation_prevention(rewritten)


def unit_without_reordering(unit: bytes, *, length_size: int | None = None) -> bytes:
    """Return an access unit with every SPS in it rewritten. Raises `BitstreamError`."""
    out, position = [], 0
    for nal in split_nal_units(unit, length_size=length_size):
        if nal_type(nal, NalCodec.H265) != H265Nal.SPS:
            continue
        changed = sps_without_reordering(nal.data)
        out += [unit[position : nal.offset], frame_nal_unit(changed, length_size=length_size)]
        position = nal.stop
    return b"".join(out) + unit[position:]


def configuration_without_reordering(configuration: bytes) -> bytes:
    """Return an hvcC, or parameter sets in Annex B, with every SPS rewritten. Raises `BitstreamError`."""

    def change(nal: bytes) -> bytes:
        if parse_h265_header(nal).nal_unit_type != H265Nal.SPS:
            return nal
        # See `parameter_sets` on the zeros.
        return sps_without_reordering(nal.rstrip(b"\0"))

    return map_parameter_sets(configuration, change, codec=NalCodec.H265)


def _parsed(nal: bytes) -> tuple[H265Sps, bytes | None]:
    """What an SPS says, and its payload without reordering where that is another one."""
    if len(nal) > MAX_SPS_BYTES:
        raise BitstreamError(f"SPS has {len(nal)} bytes, expected at most {MAX_SPS_BYTES}")
    copy = _Copy(remove_emulation_prevention(nal[_HEADER_BYTES:]))
    try:
        sps, changed = _copy_sps(copy)
    except BitstreamError as error:
        raise BitstreamError(f"SPS of {len(nal)} bytes: {error}") from error
    return sps, copy.writer.to_bytes() if changed else None


class _Copy:
    """Reads and writes the same fields."""

    def __init__(self, rbsp: bytes) -> None:
        self.reader = BitReader(rbsp)
        self.writer = BitWriter()

    def u(self, bits: int) -> int:
        value = self.reader.f(bits)
        self.writer.f(bits, value)
        return value

    def ue(self, name: str, maximum: int) -> int:
        value = read_ue(self.reader, name=name, maximum=maximum)
        write_ue(self.writer, value)
        return value

    def rest(self) -> None:
        """Copy up to the stop bit, which may now stand elsewhere in its byte."""
        bits = self.reader.remaining
        value = self.reader.f(bits)
        if not value:
            raise BitstreamError("no stop bit")
        data_bits = bits - (value & -value).bit_length()
        self.writer.f(data_bits, value >> (bits - data_bits))
        write_trailing_bits(self.writer)


def _copy_sps(copy: _Copy) -> tuple[H265Sps, bool]:
    """Copy seq_parameter_set_rbsp(); return what it said, and whether anything changed."""
    copy.u(4)  # sps_video_parameter_set_id
    max_sub_layers_minus1 = copy.u(3)
    if max_sub_layers_minus1 > 6:
        raise BitstreamError(f"sps_max_sub_layers_minus1 is {max_sub_layers_minus1}, expected at most 6")
    copy.u(1)  # sps_temporal_id_nesting_flag
    _copy_profile_tier_level(copy, max_sub_layers_minus1)
    sps_id = copy.ue("sps_seq_parameter_set_id", 15)
    chroma_format_idc = copy.ue("chroma_format_idc", 3)
    if chroma_format_idc == 3:
        copy.u(1)  # separate_colour_plane_flag
    width = copy.ue("pic_width_in_luma_samples", 1 << 16)
    height = copy.ue("pic_height_in_luma_samples", 1 << 16)
    crop = _copy_window(copy, chroma_format_idc)
    copy.ue("bit_depth_luma_minus8", 8)
    copy.ue("bit_depth_chroma_minus8", 8)
    copy.ue("log2_max_pic_order_cnt_lsb_minus4", 12)
    all_sub_layers = copy.u(1)  # sps_sub_layer_ordering_info_present_flag
    changed = False
    reorder = 0
    for _ in range(0 if all_sub_layers else max_sub_layers_minus1, max_sub_layers_minus1 + 1):
        copy.ue("sps_max_dec_pic_buffering_minus1", 15)
        reorder = read_ue(copy.reader, name="sps_max_num_reorder_pics", maximum=15)
        latency = read_ue(copy.reader, name="sps_max_latency_increase_plus1")
        write_ue(copy.writer, 0)
        write_ue(copy.writer, 0)
        changed = changed or bool(reorder or latency)
    copy.rest()
    return H265Sps(sps_id, (width, height), crop, reorder), changed


def _copy_window(copy: _Copy, chroma_format_idc: int) -> tuple[int, int, int, int]:
    """Copy the conformance window; return luma samples at left, right, top and bottom."""
    if not copy.u(1):  # conformance_window_flag
        return 0, 0, 0, 0
    # SubWidthC, SubHeightC (table 6-1)
    units = {1: (2, 2), 2: (2, 1)}.get(chroma_format_idc, (1, 1))
    left, right, top, bottom = (
        copy.ue(f"conf_win_{side}_offset", 1 << 16) for side in ("left", "right", "top", "bottom")
    )
    return units[0] * left, units[0] * right, units[1] * top, units[1] * bottom


def _copy_profile_tier_level(copy: _Copy, max_sub_layers_minus1: int) -> None:
    """Copy profile_tier_level(1, max_sub_layers_minus1) (H.265 7.3.3)."""
    copy.u(_GENERAL_PROFILE_BITS)
    copy.u(_LEVEL_BITS)
    present = [(copy.u(1), copy.u(1)) for _ in range(max_sub_layers_minus1)]
    if max_sub_layers_minus1:
        copy.u(2 * (8 - max_sub_layers_minus1))  # reserved_zero_2bits
    for profile_present, level_present in present:
        copy.u(_GENERAL_PROFILE_BITS * profile_present + _LEVEL_BITS * level_present)
