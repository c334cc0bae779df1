"""A coded GOP of H.264 or H.265: in decoding order, with prompts in SEI messages."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from hybridprompt.bitstream.nal import NalCodec
from hybridprompt.decode.injection import GeneratorLookup
from hybridprompt.decode.nal_gop import NalDecoding, decode_nal_gop
from hybridprompt.encode.gop import Candidate, Gop, Warn
from hybridprompt.errors import CodecError
from hybridprompt.prompt.carriage_nal import attach, detach
from hybridprompt.prompt.syntax import Prompt
from hybridprompt.video.picture import Picture

if TYPE_CHECKING:
    from hybridprompt.encode.operator.decoders import AnchorDecoder


@dataclass(frozen=True)
class NalGop(Gop):
    """See Gop.  codec: of the packets, which are in Annex B.  extradata: parameter sets in Annex B.
    quantiser: what the generator is told of its pictures, on the scale of AV1's base_q_idx.
    """

    codec: NalCodec = NalCodec.H265
    quantiser: int = 0

    def candidates(self, anchor_interval: int | None) -> list[Candidate]:
        """See Gop.candidates.  H.264's anchors are its IDR pictures alone."""
        found = [Candidate(0, 0, self.quantiser)]
        if anchor_interval is None or self.codec is NalCodec.H264:
            return found
        latest = -1
        for index, packet in enumerate(self.packets):
            frame = self._frames[packet.pts]
            # Those that advance the time are what others in between are predicted from.
            if frame > latest:
                latest = frame
                far = frame - found[-1].frame >= anchor_interval - anchor_interval // 4
                if far and frame < len(self.packets) - anchor_interval // 4:
                    found.append(Candidate(index, frame, self.quantiser))
        return found

    def shown(
        self,
        prompts: Mapping[int, Prompt],
        frames: Collection[int],
        *,
        generators: GeneratorLookup | None,
        on_warning: Warn,
    ) -> Iterator[tuple[int, Picture]]:
        """See Gop.shown."""
        decoding = NalDecoding(
            codec=self.codec,
            time_base=self.time_base,
            extradata=self.extradata,
            generators=generators,
            threads=2,
            on_warning=on_warning,
        )
        numbers = [self._frames[packet.pts] for packet in self.packets]
        missing = set(frames)
        # Pictures come in display order, so those before the last one wanted must be there, too.
        end = 1 + max(index for index, frame in enumerate(numbers) if frame <= max(frames))
        for shown in decode_nal_gop(self.packets[:end], decoding, prompts=self._in_place_of_all(prompts)):
            frame = numbers[shown.index]
            if frame in missing:
                missing.discard(frame)
                yield frame, shown.picture
            if not missing:
                return
        raise CodecError(f"frames {sorted(missing)} of a GOP are not shown by its packets")

    def anchor_decoder(self, size: tuple[int, int]) -> AnchorDecoder:
        """See Gop.anchor_decoder."""
        from hybridprompt.encode.operator.nal_decoders import NalAnchorDecoder

        return NalAnchorDecoder(
            codec=self.codec,
            packets=self.packets,
            size=size,
            time_base=self.time_base,
            extradata=self.extradata,
        )

    def carry(self, packet: bytes, prompt_bytes: bytes) -> bytes:
        """See Gop.carry."""
        return attach(self.without_prompt(packet), prompt_bytes, codec=self.codec)

    def without_prompt(self, packet: bytes) -> bytes:
        """See Gop.without_prompt."""
        return detach(packet, codec=self.codec)

    @cached_property
    def _frames(self) -> dict[int, int]:
        """Frame index by pts."""
        return {pts: frame for frame, pts in enumerate(sorted(packet.pts for packet in self.packets))}
