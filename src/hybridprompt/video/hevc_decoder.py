"""H.265 decoding, and injection of other pixels into the reference pictures.

Overwriting a frame that came out changes what follows, as Note [Keyframe injection] in `video.av1_decoder`
says, if the decoder has not decoded further yet. So the stream must not hold pictures back: its SPS, in the
extradata and in packets, are to be rewritten first (`bitstream.hevc_sps`, Note [Decoding order]). Pictures
then come in decoding order, one from each packet, and `DisplayOrder` sorts them. To have the hidden samples
outside the conformance window overwritten, too, decode with cropped False: motion vectors may point there.
"""

from collections import deque
from collections.abc import Iterable
from typing import ClassVar, Generic, TypeVar

from hybridprompt.video.nal_decoder import NalDecoder

T = TypeVar("T")


class HevcDecoder(NalDecoder):
    """Decodes one H.265 stream; with rewritten SPS, each packet's picture comes out of its own call."""

    codec_name: ClassVar[str] = "hevc"
    label: ClassVar[str] = "H.265"


class DisplayOrder(Generic[T]):
    """Puts what comes in decoding order into display order, holding back as little as possible.

    times: the pts of all packets of the GOP, in any order.
    """

    def __init__(self, times: Iterable[int]) -> None:
        self._due = deque(sorted(set(times)))
        self._awaited = set(self._due)
        self._held: dict[int, T] = {}

    def push(self, pts: int, item: T) -> list[T]:
        """Take what was decoded; return what is shown next, in order.

        A pts that was not announced, or is over, comes back at once: there is no better place for it.
        """
        if pts not in self._awaited:
            return [item]
        self._awaited.discard(pts)
        self._held[pts] = item
        return self._ready()

    def skip(self, pts: int) -> list[T]:
        """Note that a packet gave no picture; return what need not wait for it any more, in order."""
        self._awaited.discard(pts)
        return self._ready()

    def flush(self) -> list[T]:
        """Return what is left, in order."""
        rest = [self._held[pts] for pts in sorted(self._held)]
        self._due.clear()
        self._awaited.clear()
        self._held.clear()
        return rest

    def _ready(self) -> list[T]:
        ready = []
        while self._due and self._due[0] not in self._awaited:
            pts = self._due.popleft()
            if pts in self._held:
                ready.append(self._held.pop(pts))
        return ready
