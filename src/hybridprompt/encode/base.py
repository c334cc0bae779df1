"""Encodes of GOPs by SVT-AV1: at any quality, with as many bytes for the keyframe as serve the GOP best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from threading import Event

from hybridprompt.bitstream.obu import ObuType
from hybridprompt.encode.gop import Gop
from hybridprompt.encode.judge import Judge
from hybridprompt.encode.rate_control import svt_quality
from hybridprompt.encode.settings import SVT_TUNES, EncodeSettings
from hybridprompt.encode.trials import base_distance
from hybridprompt.encode.worth import WORTH_OF_BYTES, at_equal_bytes
from hybridprompt.evaluate.sampling import sample_frames
from hybridprompt.prompt.gate import GateMap
from hybridprompt.prompt.sections import Adapter, Still
from hybridprompt.video.av1_encoder import LAMBDAS, Av1Settings, CodedPacket, PictureLambdas, encode_gop
from hybridprompt.video.mp4_writer import Mp4Writer
from hybridprompt.video.picture import Picture
from hybridprompt.video.source import VideoSource

_ANALYSIS_PRESET = 12
_TEMPORAL_DELIMITER = bytes([ObuType.TEMPORAL_DELIMITER << 3 | 0b010, 0])


@dataclass(frozen=True)
class GivenKeyframe:
    """A keyframe that the other pictures are coded against, in place of one of the codec's own.

    still_offset: of the still's CRF.  gate: of the generation that the encoder knows of (closed loop); None
    for none (open loop: the other pictures are coded against the still itself).  quantiser_offset:
    of the quantiser that its prompt tells from the still's own.  adapter: of the generator there.
    """

    still_offset: float
    gate: GateMap | None = None
    quantiser_offset: int = 0
    adapter: Adapter | None = None


_MAX_HELD_CHANGE = 0.75

Variant = float | GivenKeyframe
"""The factor of the keyframe's Lagrange multiplier, or the keyframe itself."""


def held(variant: Variant, crf_change: float) -> Variant:
    """The variant that keeps its still while the GOP's CRF changes a little: a still's bytes go in leaps."""
    if not isinstance(variant, GivenKeyframe) or abs(crf_change) > _MAX_HELD_CHANGE:
        return variant
    return replace(variant, still_offset=variant.still_offset - crf_change)


@dataclass(frozen=True)
class BaseGop:
    """A coded GOP and its sources.

    crf: any number, on SVT-AV1's scale whatever the codec; see ``svt_quality``.  variant: how the keyframe is
    coded.  still: what its prompt holds in place of the packet.
    """

    pictures: list[Picture]
    packets: list[CodedPacket]
    crf: float
    variant: Variant
    still: Still | None = None

    @property
    def size_bytes(self) -> int:
        return sum(len(packet.data) for packet in self.packets)


def without_delimiter(packet: CodedPacket) -> CodedPacket:
    """An AV1 packet as MP4 holds it: without temporal delimiter, as every byte counts."""
    return replace(packet, data=packet.data.removeprefix(_TEMPORAL_DELIMITER))


@dataclass
class BaseEncoder:
    """Encodes GOPs of one source.  judge: asked for only where something is to be judged."""

    source: VideoSource
    settings: EncodeSettings
    judge: Callable[[], Judge]
    lambdas: PictureLambdas = LAMBDAS
    """Of pictures but the keyframe."""
    worth_of_bytes: float = WORTH_OF_BYTES
    cancelled: Event = field(default_factory=Event)
    """Ends encodes that go on in another thread."""

    def encode(self, pictures: list[Picture], crf: float, variant: Variant) -> BaseGop:
        """Encode one GOP.  Raises CodecError."""
        assert isinstance(variant, float)
        settings = replace(
            self._settings(pictures, crf, preset=self.settings.effort.svt_preset, threads=2),
            picture_lambdas=replace(self.lambdas, key=variant),
        )
        coded = encode_gop(pictures, settings, cancelled=self.cancelled)
        packets = [without_delimiter(packet) for packet in coded]
        return BaseGop(pictures, packets, crf, variant)

    def again(self, base: BaseGop, crf: float, *, hold_still: bool = True) -> BaseGop:
        """Encode a GOP at another CRF.  hold_still: keep its still where the CRF changes but little."""
        variant = held(base.variant, crf - base.crf) if hold_still else base.variant
        return self.encode(base.pictures, crf, variant)

    def gop(self, base: BaseGop) -> Gop:
        """The GOP as trials decode it."""
        return Gop(base.packets, None, self.source.time_base, base.pictures.__getitem__, base.still)

    def best(self, pictures: list[Picture], crf: float) -> BaseGop:
        """Encode one GOP with each share of bytes for the keyframe that the preset tries; keep the best.

        Note [Bytes for the keyframe].  A smaller Lagrange multiplier leaves more detail in the keyframe at
        the same quantiser, and motion compensation carries it through the GOP.  Where the same things stay in
        view that lowers LPIPS-Alex by 5 to 20 % at equal bytes; where they do not it costs a little.
        """
        bases = [self.encode(pictures, crf, factor) for factor in self.settings.effort.key_lambda_factors]
        return self.cheapest(bases)

    def other_still(self, base: BaseGop) -> BaseGop | None:
        """The GOP at the same CRF with a still that serves it better than its own, where there is one."""
        return None

    def cheapest(self, bases: Sequence[BaseGop]) -> BaseGop:
        """The base that is nearest to its source at equal bytes."""
        return min(bases, key=self._cost) if len(bases) > 1 else bases[0]

    def start_file(self, writer: Mp4Writer) -> Callable[[bytes], bytes]:
        """Tell a file what its packets are; return what brings a packet to how the file holds it."""
        return bytes

    def told_crf(self, crf: float) -> float:
        """A CRF as a user knows it: on the codec's own scale."""
        return crf

    def marked(self, packet: bytes) -> bytes:
        """The first keyframe's packet of a file with prompts, so that players see that there are any."""
        return packet

    def note(self, gops: int) -> str | None:
        """What a user should know about the keyframes of a file of some GOPs, all of which were encoded."""
        return None

    def distance(self, base: BaseGop) -> float:
        """The judge's distance of the base from its source, mean of the preset's sample frames."""
        frames = sample_frames(len(base.pictures), self.settings.effort.sample_frames)
        return base_distance(self.gop(base), self.judge(), frames)

    def _cost(self, base: BaseGop) -> float:
        """Log of the distance from the source, at equal bytes."""
        return at_equal_bytes(self.distance(base), base.size_bytes, self.worth_of_bytes)

    def analysis_bytes(self, pictures: list[Picture], crf: float, *, threads: int) -> int:
        """Bytes of a GOP by SVT-AV1 at its fastest useful preset; the pictures may be scaled."""
        settings = self._settings(pictures, crf, preset=_ANALYSIS_PRESET, threads=threads)
        return sum(len(packet.data) for packet in encode_gop(pictures, settings, cancelled=self.cancelled))

    def _settings(self, pictures: list[Picture], crf: float, *, preset: int, threads: int) -> Av1Settings:
        quarter, lambda_factor = svt_quality(crf)
        return Av1Settings(
            width=pictures[0].width,
            height=pictures[0].height,
            frame_rate=self.source.average_rate,
            time_base=self.source.time_base,
            crf=quarter,
            preset=preset,
            threads=threads,
            lambda_factor=lambda_factor,
            color=self.source.color,
            extra=(("tune", str(SVT_TUNES[self.settings.tune])),),
        )
