"""H.265 decoding, and injection of other pixels into the reference pictures.

Overwriting a frame that came out changes what follows, as Note [Keyframe injection] in `video.av1_decoder`
says, if the decoder has not decoded further yet. So the stream must not hold pictures back: its SPS, in the
extradata and in packets, are to be rewritten first (`bitstream.hevc_sps`, Note [Decoding order]). Pictures
then come in decoding order, one from each packet, and `DisplayOrder` sorts them. Hidden samples outside the
conformance window stay those of the base picture.
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
        self._due = deque(sorted(times))
        self._held: dict[int, T] = {}
        self._missing: set[int] = set()

    def push(self, pts: int, item: T) -> list[T]:
        """Take what was decoded; return what is shown next, in order.

        A pts that was not announced, or is over, comes back at once: there is no better place for it.
        """
        if pts not in self._due or pts in self._held:
            return [item]
        self._held[pts] = item
        return self._ready()

    def skip(self, pts: int) -> list[T]:
        """Note that a packet gave no picture; return what need not wait for it any more, in order."""
        self._missing.add(pts)
        return self._ready()

    def flush(self) -> list[T]:
        """Return what is left, in order."""
        rest = [self._held[pts] for pts in sorted(self._held)]
        self._due.clear()
        self._held.clear()
        return rest

    def _ready(self) -> list[T]:
        ready = []
        while self._due:
            if self._due[0] in self._held:
                ready.append(self._held.pop(self._due.popleft()))
            elif self._due[0] in self._missing:
                self._missing.discard(self._due.popleft())
            else:
                break
        return ready
