"""An H.264 IDR picture made wholly of I_PCM macroblocks, in place of the one that was coded.

Note [PCM splice]: I_PCM macroblocks (H.264 7.3.5, mb_type 25) hold samples as they are, so an IDR picture
of them decodes to exactly a given picture, in any decoder, and everything after it predicts from that
picture. The slice has the frame_num, idr_pic_id, picture order count and reference marking of the one it
replaces, so all other access units stay as they are. It refers to a picture parameter set of its own, which
selects CAVLC (macroblocks then begin at whole bytes, 386 of them each) and lets the slice switch the
deblocking filter off (7.4.3); the stream's own parameter sets stay.

Hidden samples: the macroblock grid may reach beyond the visible picture, and motion vectors may point
there. They repeat the nearest visible sample; this is part of the format (docs/bitstream.md), since
following pictures depend on it.

All samples of a picture in one access unit are more than H.264's levels allow it (A.3.1: MinCR); software
decoders do not mind.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hybridprompt.bitstream.bits import BitWriter
from hybridprompt.bitstream.exp_golomb import write_se, write_trailing_bits, write_ue
from hybridprompt.bitstream.h264_headers import (
    MB_SIZE,
    H264Pps,
    H264Sps,
    IdrSlice,
    parse_idr_slice,
    parse_pps,
    parse_sps,
    slice_pps_id,
)
from hybridprompt.bitstream.nal import (
    H264Nal,
    NalCodec,
    NalUnit,
    add_emulation_prevention,
    first_vcl,
    frame_nal_unit,
    nal_type,
    split_nal_units,
)
from hybridprompt.errors import BitstreamError

Planes = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]

_SLICE_TYPE_ALL_I: Final = 7
_MB_TYPE_I_PCM: Final = 25
_CHROMA_SIZE: Final = MB_SIZE // 2
_LUMA_BYTES: Final = MB_SIZE * MB_SIZE
_CHROMA_BYTES: Final = _CHROMA_SIZE * _CHROMA_SIZE
# mb_type as ue(v), 000011010, and seven pcm_alignment_zero_bits: from a byte's start to a byte's start.
_MB_HEADER: Final = np.array([0x0D, 0x00], np.uint8)
_MAX_PPS_ID: Final = 255


@dataclass(frozen=True, slots=True)
class IdrPicture:
    """The IDR picture of an access unit: its slices in place, and the headers that count."""

    slices: tuple[NalUnit, ...]
    sps: H264Sps
    pps: H264Pps
    header: IdrSlice
    free_pps_id: int


def find_idr(
    unit: bytes, *, parameter_sets: Iterable[bytes] = (), length_size: int | None = None
) -> IdrPicture | None:
    """Return the IDR picture of an access unit, None where it has none.

    parameter_sets: SPS and PPS NAL units that came before, as a codec configuration holds them; those in
    the unit count too. Raises `BitstreamError` when the unit is malformed, a parameter set is missing, or
    the stream uses what is not supported (see `h264_headers`).
    """
    nals = split_nal_units(unit, length_size=length_size)
    slices = tuple(nal for nal in nals if nal_type(nal, NalCodec.H264) == H264Nal.SLICE_IDR)
    if not slices:
        return None
    first = first_vcl(nals, NalCodec.H264)
    if first is not slices[0]:
        raise BitstreamError(f"IDR slice at byte {slices[0].payload_offset} is not the unit's first slice")
    before = [nal.data for nal in nals[: nals.index(slices[0])]]
    spses, ppses = _parsed([*parameter_sets, *before])
    slice_data = slices[0].data
    pps = ppses.get(slice_pps_id(slice_data))
    sps = None if pps is None else spses.get(pps.sps_id)
    if pps is None or sps is None:
        raise BitstreamError(
            f"IDR slice refers to PPS {slice_pps_id(slice_data)}, found PPS {sorted(ppses)} "
            f"and SPS {sorted(spses)}"
        )
    free = next((i for i in range(1, _MAX_PPS_ID + 1) if i not in ppses), None)
    if free is None:
        raise BitstreamError("no picture parameter set is free")
    return IdrPicture(slices, sps, pps, parse_idr_slice(slice_data, sps, pps), free)


def replace_idr(
    unit: bytes, planes: Planes, *, parameter_sets: Iterable[bytes] = (), length_size: int | None = None
) -> bytes:
    """Return the access unit with its IDR picture replaced: Note [PCM splice].

    planes: Y, U, V, uint8, of the visible picture, (H, W) and twice (H/2, W/2), or of the whole macroblock
    grid with its hidden samples. NAL units other than the IDR slices stay as they are. Raises
    `BitstreamError` as `find_idr` does, where there is no IDR picture, and for planes of another shape.
    """
    idr = find_idr(unit, parameter_sets=parameter_sets, length_size=length_size)
    if idr is None:
        raise BitstreamError(f"no IDR slice in the access unit of {len(unit)} bytes")
    nals = (_pcm_pps(idr), _pcm_slice(idr, _grid(planes, idr.sps)))
    out = [frame_nal_unit(nal, length_size=length_size) for nal in nals]
    out.insert(0, unit[: idr.slices[0].offset])
    for nal, following in zip(idr.slices, (*idr.slices[1:], None), strict=True):
        out.append(unit[nal.stop : None if following is None else following.offset])
    return b"".join(out)


def _parsed(nals: Sequence[bytes]) -> tuple[dict[int, H264Sps], dict[int, H264Pps]]:
    spses: dict[int, H264Sps] = {}
    ppses: dict[int, H264Pps] = {}
    for nal in nals:
        kind = nal[0] & 31
        if kind == H264Nal.SPS:
            sps = parse_sps(nal)
            spses[sps.id] = sps
        elif kind == H264Nal.PPS:
            pps = parse_pps(nal)
            ppses[pps.id] = pps
    return spses, ppses


def _grid(planes: Planes, sps: H264Sps) -> Planes:
    """Planes of the macroblock grid, hidden samples filled by the nearest visible one."""
    grid = []
    for name, plane, scale in zip("yuv", planes, (1, 2, 2), strict=True):
        (coded_width, coded_height), (width, height) = sps.coded_size, sps.size
        coded = coded_height // scale, coded_width // scale
        visible = height // scale, width // scale
        if plane.dtype != np.uint8 or plane.shape not in (coded, visible):
            raise BitstreamError(
                f"plane {name} is {plane.shape} {plane.dtype}, expected {visible} or {coded} uint8"
            )
        if plane.shape != coded:
            left, right, top, bottom = (samples // scale for samples in sps.crop)
            plane = np.pad(plane, ((top, bottom), (left, right)), mode="edge")
        grid.append(plane)
    return grid[0], grid[1], grid[2]


def _pcm_pps(idr: IdrPicture) -> bytes:
    """pic_parameter_set_rbsp() (7.3.2.2) that selects CAVLC and deblocking control."""
    writer = BitWriter()
    write_ue(writer, idr.free_pps_id)
    write_ue(writer, idr.sps.id)
    writer.f(1, 0)  # entropy_coding_mode_flag
    writer.f(1, idr.pps.has_bottom_field_poc)
    for _ in range(3):  # num_slice_groups_minus1, num_ref_idx_l0/l1_default_active_minus1
        write_ue(writer, 0)
    writer.f(3, 0)  # weighted_pred_flag, weighted_bipred_idc
    for _ in range(3):  # pic_init_qp_minus26, pic_init_qs_minus26, chroma_qp_index_offset
        write_se(writer, 0)
    writer.f(3, 0b100)  # deblocking_filter_control, not constrained_intra_pred, not redundant_pic_cnt
    write_trailing_bits(writer)
    return bytes([3 << 5 | H264Nal.PPS]) + add_emulation_prevention(writer.to_bytes())


def _pcm_slice(idr: IdrPicture, planes: Planes) -> bytes:
    """The one slice, NAL header included: slice_header() (7.3.3) and all macroblocks."""
    header, sps = idr.header, idr.sps
    writer = BitWriter()
    writer.f(8, header.nal_ref_idc << 5 | H264Nal.SLICE_IDR)
    write_ue(writer, 0)  # first_mb_in_slice
    write_ue(writer, _SLICE_TYPE_ALL_I)
    write_ue(writer, idr.free_pps_id)
    writer.f(sps.frame_num_bits, header.frame_num)
    write_ue(writer, header.idr_pic_id)
    if sps.poc_lsb_bits is not None:
        writer.f(sps.poc_lsb_bits, header.poc_lsb)
        if idr.pps.has_bottom_field_poc:
            write_se(writer, header.delta_poc_bottom)
    writer.f(1, header.no_output_of_prior_pics)
    writer.f(1, header.long_term_reference)
    write_se(writer, 0)  # slice_qp_delta
    write_ue(writer, 1)  # disable_deblocking_filter_idc
    write_ue(writer, _MB_TYPE_I_PCM)
    # to_bytes fills up with pcm_alignment_zero_bits.
    samples = _macroblocks(planes).reshape(-1)[_MB_HEADER.size :]
    return add_emulation_prevention(b"".join((writer.to_bytes(), samples.data, b"\x80")))


def _macroblocks(planes: Planes) -> NDArray[np.uint8]:
    """(rows, columns, 386): each macroblock with its header, in raster order (7.3.5)."""
    rows, columns = planes[0].shape[0] // MB_SIZE, planes[0].shape[1] // MB_SIZE
    blocks = np.empty((rows, columns, _MB_HEADER.size + _LUMA_BYTES + 2 * _CHROMA_BYTES), np.uint8)
    blocks[..., : _MB_HEADER.size] = _MB_HEADER
    start = _MB_HEADER.size
    for plane, size in zip(planes, (MB_SIZE, _CHROMA_SIZE, _CHROMA_SIZE), strict=True):
        tiled = plane.reshape(rows, size, columns, size).swapaxes(1, 2)
        blocks[..., start : start + size * size] = tiled.reshape(rows, columns, size * size)
        start += size * size
    return blocks
