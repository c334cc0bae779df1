"""The second half of an AV1 frame header, after `base_q_idx`: where it ends, to the bit.

Nothing of it is kept but what decides how many bits follow. Clauses are those of the AV1 Bitstream & Decoding
Process Specification, version 1.0.0 with errata 1.
"""

from typing import Final

from hybridprompt.bitstream.bits import BitReader
from hybridprompt.bitstream.frame_header import (
    PRIMARY_REF_NONE,
    REFS_PER_FRAME,
    FrameHeader,
    FrameHeaderParser,
)
from hybridprompt.errors import BitstreamError

_MAX_SEGMENTS: Final = 8
# Segmentation_Feature_Bits, the sign included (AV1 5.9.14); the first feature is SEG_LVL_ALT_Q.
_FEATURE_BITS: Final = (9, 7, 7, 7, 7, 3, 0, 0)
_LOOP_FILTER_DELTAS: Final = 8 + 2  # loop_filter_ref_deltas and loop_filter_mode_deltas
_GM_ABS_ALPHA_BITS: Final = 12
_GM_ABS_TRANS_BITS: Final = 12
_GM_ABS_TRANS_ONLY_BITS: Final = 9
_SUBEXP_K: Final = 3


def read_header_end(parser: FrameHeaderParser, header: FrameHeader) -> int:
    """Read on where `parser` stopped, after base_q_idx; return the bits of the whole uncompressed_header().

    Only for coded frames of streams without film grain parameters. Raises `BitstreamError` when the header is
    cut off, or when its end depends on the segmentation of an earlier frame or on the order hint of a
    reference that is not known.
    """
    assert not header.show_existing_frame
    assert not parser.seq.film_grain_params_present
    return _HeaderEnd(parser, header).read()


class _HeaderEnd:
    """uncompressed_header() from quantization_params() on (AV1 5.9.2), for one frame."""

    def __init__(self, parser: FrameHeaderParser, header: FrameHeader) -> None:
        self.r: BitReader = parser.r
        self.parser = parser
        self.seq = parser.seq
        self.header = header
        self.planes = 1 if self.seq.color.mono_chrome else 3

    def read(self) -> int:
        r, parser, header = self.r, self.parser, self.header
        has_q_deltas = self._quantization_params()
        lossless = self._segmentation_params(has_q_deltas)  # CodedLossless
        self._delta_q_and_lf_params()
        if not (lossless or parser.allow_intrabc):
            self._loop_filter_params()
            if self.seq.enable_cdef:
                self._cdef_params()
        all_lossless = lossless and parser.coded_width == parser.width
        if self.seq.enable_restoration and not (all_lossless or parser.allow_intrabc):
            self._lr_params()
        if not lossless:
            r.f(1)  # tx_mode_select
        if not header.is_intra:
            reference_select = r.flag()
            if reference_select and self._skip_mode_allowed():
                r.f(1)  # skip_mode_present
            if self.seq.enable_warped_motion and not parser.error_resilient_mode:
                r.f(1)  # allow_warped_motion
        r.f(1)  # reduced_tx_set
        if not header.is_intra:
            for _ in range(REFS_PER_FRAME):
                self._global_motion_params()
        return r.position

    def _quantization_params(self) -> bool:
        """quantization_params() after base_q_idx (AV1 5.9.12); return whether any delta is not zero."""
        r = self.r
        deltas = [self._delta_q()]  # DeltaQYDc
        if self.planes > 1:
            diff_uv_delta = self.seq.color.separate_uv_delta_q and r.flag()
            deltas += [self._delta_q() for _ in range(4 if diff_uv_delta else 2)]
        if r.flag():  # using_qmatrix
            r.f(12 if self.seq.color.separate_uv_delta_q else 8)  # qm_y, qm_u, qm_v
        return any(deltas)

    def _delta_q(self) -> int:
        # A su(7) as it stands: only zero is told from the rest.
        return self.r.f(7) if self.r.flag() else 0

    def _segmentation_params(self, has_q_deltas: bool) -> bool:
        """segmentation_params() (AV1 5.9.14); return CodedLossless."""
        r, base_q_idx = self.r, self.header.base_q_idx
        if not r.flag():  # segmentation_enabled
            return base_q_idx == 0 and not has_q_deltas
        if self.parser.primary_ref_frame != PRIMARY_REF_NONE:
            if r.flag():  # segmentation_update_map
                r.f(1)  # segmentation_temporal_update
            if not r.flag():  # segmentation_update_data
                if has_q_deltas:
                    return False
                raise BitstreamError("the segmentation parameters are those of an earlier frame")
        # get_qidx() of every segment (AV1 7.12.2)
        q_indices = [max(0, base_q_idx + self._segment()) for _ in range(_MAX_SEGMENTS)]
        return not (any(q_indices) or has_q_deltas)

    def _segment(self) -> int:
        """Read the features of one segment; return that of SEG_LVL_ALT_Q, 0 without it."""
        values = [self.r.f(bits) if self.r.flag() else 0 for bits in _FEATURE_BITS]
        sign = 1 << (_FEATURE_BITS[0] - 1)
        return (values[0] & (sign - 1)) - (values[0] & sign)

    def _delta_q_and_lf_params(self) -> None:
        """delta_q_params() and delta_lf_params() (AV1 5.9.17, 5.9.18)."""
        r = self.r
        if self.header.base_q_idx == 0 or not r.flag():  # delta_q_present
            return
        r.f(2)  # delta_q_res
        if not self.parser.allow_intrabc and r.flag():  # delta_lf_present
            r.f(3)  # delta_lf_res, delta_lf_multi

    def _loop_filter_params(self) -> None:
        """loop_filter_params() (AV1 5.9.11)."""
        r = self.r
        levels = r.f(12)  # loop_filter_level[0] and [1]
        if self.planes > 1 and levels:
            r.f(12)  # loop_filter_level[2] and [3]
        r.f(3)  # loop_filter_sharpness
        if r.flag() and r.flag():  # loop_filter_delta_enabled, loop_filter_delta_update
            for _ in range(_LOOP_FILTER_DELTAS):
                if r.flag():
                    r.f(7)

    def _cdef_params(self) -> None:
        """cdef_params() (AV1 5.9.19)."""
        r = self.r
        r.f(2)  # cdef_damping_minus_3
        strengths = 1 << r.f(2)
        r.f(strengths * (12 if self.planes > 1 else 6))

    def _lr_params(self) -> None:
        """lr_params() (AV1 5.9.20)."""
        r = self.r
        lr_types = [r.f(2) for _ in range(self.planes)]
        if not any(lr_types):
            return
        if r.flag() and not self.seq.use_128x128_superblock:  # lr_unit_shift
            r.f(1)  # lr_unit_extra_shift
        color = self.seq.color
        if color.subsampling_x and color.subsampling_y and any(lr_types[1:]):
            r.f(1)  # lr_uv_shift

    def _skip_mode_allowed(self) -> bool:
        """skipModeAllowed (AV1 5.9.22), given reference_select."""
        if not self.seq.enable_order_hint:
            return False
        parser, now = self.parser, self.header.order_hint
        distances = [
            parser.relative_dist(parser.slot(index).order_hint, now) for index in parser.ref_frame_idx
        ]
        forward = [distance for distance in distances if distance < 0]
        backward = any(distance > 0 for distance in distances)
        return bool(forward) and (backward or min(forward) < max(forward))

    def _global_motion_params(self) -> None:
        """Read the global motion of one reference (AV1 5.9.24, 5.9.25).

        Parameters are coded relative to earlier ones, but in as many bits whatever those are.
        """
        r = self.r
        if not r.flag():  # is_global
            return
        is_rot_zoom = r.flag()
        is_translation = not is_rot_zoom and r.flag()
        if not is_translation:
            for _ in range(2 if is_rot_zoom else 4):
                self._subexp(_GM_ABS_ALPHA_BITS)
        trans_bits = _GM_ABS_TRANS_BITS
        if is_translation:
            trans_bits = _GM_ABS_TRANS_ONLY_BITS - (not self.parser.allow_high_precision_mv)
        for _ in range(2):
            self._subexp(trans_bits)

    def _subexp(self, abs_bits: int) -> None:
        """decode_signed_subexp_with_ref() for values up to 2^abs_bits (AV1 5.9.26 to 5.9.28)."""
        r = self.r
        count = (2 << abs_bits) + 1
        base, bits = 0, _SUBEXP_K
        first = True
        while count > base + (3 << bits):
            if not r.flag():  # subexp_more_bits
                r.f(bits)  # subexp_bits
                return
            base += 1 << bits
            bits += not first
            first = False
        r.ns(count - base)  # subexp_final_bits
