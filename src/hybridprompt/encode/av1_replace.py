"""Base encodes of mode `replace` in AV1: the keyframe is given, its packet a stub."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hybridprompt.encode.base import BaseGop, GivenKeyframe, Variant, without_delimiter
from hybridprompt.encode.given_keyframe import GivenKeyframeEncoder
from hybridprompt.prompt.carriage import attach
from hybridprompt.video.av1_encoder import Av1Settings, CodedPacket
from hybridprompt.video.av1_given_keyframe import encode_given_keyframe, make_stub
from hybridprompt.video.picture import Picture


@dataclass
class Av1ReplaceEncoder(GivenKeyframeEncoder):
    """See GivenKeyframeEncoder."""

    def encode(self, pictures: list[Picture], crf: float, variant: Variant) -> BaseGop:
        """See BaseEncoder.encode."""
        assert isinstance(variant, GivenKeyframe)
        still, given = self.keyframes.make(pictures[0], crf, variant)
        settings = replace(
            self._settings(pictures, crf, preset=self.settings.effort.svt_preset, threads=2),
            picture_lambdas=self.lambdas,
        )
        coded = encode_given_keyframe(
            [given, *pictures[1:]],
            settings,
            stub=self._stand_in(pictures[0], settings),
            cancelled=self.cancelled,
        )
        packets = [without_delimiter(packet) for packet in coded]
        stub = attach(packets[0].data, self.keyframes.showing(still, given))
        packets[0] = replace(packets[0], data=stub)
        return BaseGop(pictures, packets, crf, variant, still)

    def _stand_in(self, source: Picture, settings: Av1Settings) -> CodedPacket | None:
        """What stands in the given keyframe's place; None for a grey picture."""

        def code(picture: Picture, crf: float) -> bytes:
            return make_stub(picture, replace(settings, crf=crf, lambda_factor=1.0)).data

        data = self.legacy_keyframe(source, code)
        return None if data is None else replace(make_stub(source, settings), data=data)
