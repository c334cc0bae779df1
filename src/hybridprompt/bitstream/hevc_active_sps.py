"""Which sequence parameter set of H.265 is in force (7.4.2.4): a slice names its PPS, that one its SPS."""

from collections.abc import Iterable
from typing import Final

from hybridprompt.bitstream.bits import BitReader
from hybridprompt.bitstream.exp_golomb import read_ue
from hybridprompt.bitstream.hevc_sps import H265Sps, parse_sps
from hybridprompt.bitstream.nal import H265Nal, parse_h265_header, remove_emulation_prevention
from hybridprompt.errors import BitstreamError

_HEADER_BYTES: Final = 2
_HEAD_BYTES: Final = 16
_IRAP: Final = range(16, 24)
_MAX_PPS_ID: Final = 63


class ActiveSps:
    """Follows the parameter sets of the base layer, NAL unit by NAL unit in decoding order."""

    def __init__(self) -> None:
        self._sets: dict[int, H265Sps] = {}
        self._sps_of_pps: dict[int, int] = {}
        self._active: H265Sps | None = None

    @property
    def sps(self) -> H265Sps | None:
        """The one in force since the last slice; None before the first, and where it was not sent."""
        return self._active

    def update(self, nals: Iterable[bytes]) -> None:
        """Take the NAL units of a codec configuration or an access unit, up to its first slice.

        Raises `BitstreamError` for malformed ones.
        """
        for nal in nals:
            header = parse_h265_header(nal[:_HEADER_BYTES])
            if header.nuh_layer_id:
                continue
            if header.nal_unit_type == H265Nal.SPS:
                sps = parse_sps(nal)
                self._sets[sps.id] = sps
            elif header.nal_unit_type == H265Nal.PPS:
                reader = _reader(nal)
                pps_id = read_ue(reader, name="pps_pic_parameter_set_id", maximum=_MAX_PPS_ID)
                self._sps_of_pps[pps_id] = read_ue(reader, name="pps_seq_parameter_set_id", maximum=15)
            elif header.nal_unit_type in H265Nal.VCL:
                reader = _reader(nal)
                reader.f(1)  # first_slice_segment_in_pic_flag
                if header.nal_unit_type in _IRAP:
                    reader.f(1)  # no_output_of_prior_pics_flag
                pps_id = read_ue(reader, name="slice_pic_parameter_set_id", maximum=_MAX_PPS_ID)
                self._active = self._sets.get(self._sps_of_pps.get(pps_id, -1))
                return


def _reader(nal: bytes) -> BitReader:
    """A reader of the first fields. What the cut makes of the end only ever shortens it."""
    head = nal[_HEADER_BYTES:_HEAD_BYTES].rstrip(b"\0")
    if not head:
        raise BitstreamError(f"H.265 NAL unit of {len(nal)} bytes has no payload")
    return BitReader(remove_emulation_prevention(head))
