"""Base encodes of GOPs by x264 and x265: with a keyframe of their own, or against a given one.

CRFs are on SVT-AV1's scale, as everywhere in the encoder, and brought to x264's and x265's here, so that
about as many bytes come out of a CRF whatever the codec, and one rate control serves all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from hybridprompt.bitstream.nal import (
    H264Nal,
    H265Nal,
    NalCodec,
    join_nal_units,
    nal_type,
    reframe,
    split_nal_units,
)
from hybridprompt.decode.carriage import NAL_CODECS
from hybridprompt.decode.still import still_header
from hybridprompt.encode.base import BaseGop, GivenKeyframe, Variant
from hybridprompt.encode.given_keyframe import GivenKeyframeEncoder
from hybridprompt.encode.gop import Gop
from hybridprompt.encode.nal_gop import NalGop
from hybridprompt.encode.rate_control import crf_at, relative_log_bytes
from hybridprompt.errors import CodecError
from hybridprompt.prompt.carriage_nal import attach, extract
from hybridprompt.prompt.gate import GateMap
from hybridprompt.prompt.sections import build_prompt
from hybridprompt.prompt.syntax import encode_prompt
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.mp4_writer import Mp4Writer
from hybridprompt.video.nal_encoder import (
    NAL_CRF_RANGE,
    NalEncoderName,
    NalSettings,
    encode_nal_gop,
)
from hybridprompt.video.picture import Picture, grey

ENCODERS: Final[dict[NalCodec, NalEncoderName]] = {NalCodec.H264: "x264", NalCodec.H265: "x265"}

_SLOPE: Final = 0.115
"""By how much the log of the bytes falls per CRF of x264 and x265."""

_CRF_AT_COARSE_ANALYSIS: Final = {NalCodec.H264: 34.0, NalCodec.H265: 35.0}
"""CRF of about as many bytes as SVT-AV1's at which `relative_log_bytes` is 0."""

_WORTH_OF_BYTES: Final = 1.2
"""See worth.WORTH_OF_BYTES; at the rates this is made for, x264 and x265 are nearer to falling apart."""

_FFMPEG_NAMES: Final = {codec: name for name, codec in NAL_CODECS.items()}
_LENGTH_SIZE: Final = 4
_STUB_CRF: Final = 66.0
_FINEST_TOLD, _COARSEST_TOLD = 60, 225
_PARAMETER_SETS: Final = {
    NalCodec.H264: frozenset({H264Nal.SPS, H264Nal.PPS}),
    NalCodec.H265: frozenset({H265Nal.VPS, H265Nal.SPS, H265Nal.PPS}),
}
_MESSAGES: Final = {
    NalCodec.H264: frozenset({H264Nal.SEI}),
    NalCodec.H265: frozenset({H265Nal.PREFIX_SEI, H265Nal.SUFFIX_SEI}),
}


def nal_crf(crf: float, codec: NalCodec) -> float:
    """CRF of x264 or x265 that stands for one on SVT-AV1's scale: about the same bytes."""
    wanted = _CRF_AT_COARSE_ANALYSIS[codec] - relative_log_bytes(crf) / _SLOPE
    return min(max(wanted, NAL_CRF_RANGE[0]), NAL_CRF_RANGE[1])


def svt_crf(crf: float, codec: NalCodec) -> float:
    """The inverse of `nal_crf`, as near as CRFs are told apart."""
    return crf_at((_CRF_AT_COARSE_ANALYSIS[codec] - crf) * _SLOPE)


def told_quantiser(crf: float) -> int:
    """What the generator is told of a picture that x264 or x265 has coded, by a CRF on SVT-AV1's scale.

    It knows AV1's quantisers only: the base_q_idx of a picture that SVT-AV1 codes at that CRF.
    """
    return round(min(max(4 * (crf - 24), _FINEST_TOLD), _COARSEST_TOLD))


@dataclass
class NalBaseEncoder(GivenKeyframeEncoder):
    """See GivenKeyframeEncoder; of mode `enhance`, too.  codec: H.264 or H.265.

    Raises ConfigError for a source of a size that cannot be coded.
    """

    codec: NalCodec = NalCodec.H265
    worth_of_bytes: float = _WORTH_OF_BYTES
    parameter_sets: bytes | None = None
    """In Annex B, once something has been encoded; the same for all GOPs."""
    _grey: bytes | None = field(default=None, repr=False)
    """A grey keyframe's packet, once one has been encoded; the same for all GOPs."""

    def __post_init__(self) -> None:
        self._nal_settings = NalSettings(
            encoder=ENCODERS[self.codec],
            width=self.source.width,
            height=self.source.height,
            frame_rate=self.source.average_rate,
            time_base=self.source.time_base,
            crf=NAL_CRF_RANGE[1],
            preset=self.settings.effort.nal_preset,
            color=self.source.color,
        )

    def encode(self, pictures: list[Picture], crf: float, variant: Variant) -> BaseGop:
        """See BaseEncoder.encode."""
        if not isinstance(variant, GivenKeyframe):
            return BaseGop(pictures, self._packets(pictures, crf), crf, variant)
        still, given = self.keyframes.make(pictures[0], crf, variant)
        packets = self._packets([given, *pictures[1:]], crf, given_first=True)
        stub = attach(self._stand_in(pictures[0]), self.keyframes.showing(still, given), codec=self.codec)
        packets[0] = replace(packets[0], data=stub)
        return BaseGop(pictures, packets, crf, variant, still)

    def best(self, pictures: list[Picture], crf: float) -> BaseGop:
        """See BaseEncoder.best."""
        if self.settings.mode == "enhance":
            return self.encode(pictures, crf, 1.0)
        return super().best(pictures, crf)

    def gop(self, base: BaseGop) -> Gop:
        """See BaseEncoder.gop."""
        return NalGop(
            base.packets,
            self.parameter_sets,
            self.source.time_base,
            base.pictures.__getitem__,
            base.still,
            codec=self.codec,
            quantiser=self._quantiser(base),
        )

    def start_file(self, writer: Mp4Writer) -> Callable[[bytes], bytes]:
        """See BaseEncoder.start_file."""
        assert self.parameter_sets is not None, "nothing has been encoded"
        writer.describe(_FFMPEG_NAMES[self.codec], self.parameter_sets)
        return partial(reframe, source=None, target=_LENGTH_SIZE)

    def told_crf(self, crf: float) -> float:
        """See BaseEncoder.told_crf."""
        return round(nal_crf(crf, self.codec), 2)

    def marked(self, packet: bytes) -> bytes:
        """See BaseEncoder.marked."""
        if extract(packet, codec=self.codec) is not None:
            return packet
        assert self.generator is not None, "prompts name their generator"
        size = self.source.width, self.source.height
        gate = GateMap.uniform(*size, index=0)
        prompt = build_prompt(self.generator.identity, *size, _COARSEST_TOLD, gate)
        return attach(packet, encode_prompt(prompt), codec=self.codec)

    def _stand_in(self, source: Picture) -> bytes:
        """A keyframe's packet for clients that see no more of it: grey, or as good as its bytes allow."""

        def code(picture: Picture, crf: float) -> bytes:
            return self._packets([picture], crf)[0].data

        data = self.legacy_keyframe(source, code)
        if data is None:
            data = self._grey = self._grey or code(grey(source), _STUB_CRF)
        return data

    def _packets(
        self, pictures: Sequence[Picture], crf: float, *, given_first: bool = False
    ) -> list[CodedPacket]:
        """Encode; take out the parameter sets, which must be those of all GOPs, and encoders' messages."""
        settings = replace(self._nal_settings, crf=nal_crf(crf, self.codec), given_first=given_first)
        packets = []
        for packet in encode_nal_gop(pictures, settings, cancelled=self.cancelled):
            nals = split_nal_units(packet.data)
            sets = [nal.data for nal in nals if nal_type(nal, self.codec) in _PARAMETER_SETS[self.codec]]
            if sets:
                self._check_parameter_sets(join_nal_units(sets))
            dropped = _PARAMETER_SETS[self.codec] | _MESSAGES[self.codec]
            kept = [nal.data for nal in nals if nal_type(nal, self.codec) not in dropped]
            packets.append(replace(packet, data=join_nal_units(kept)))
        return packets

    def _check_parameter_sets(self, found: bytes) -> None:
        if self.parameter_sets is None:
            self.parameter_sets = found
        if found != self.parameter_sets:
            raise CodecError(f"{ENCODERS[self.codec]} wrote other parameter sets than for the first GOP")

    def _quantiser(self, base: BaseGop) -> int:
        if base.still is not None:
            return still_header(base.still).base_q_idx
        return told_quantiser(base.crf)
