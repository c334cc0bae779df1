"""The peer to beat: plain SVT-AV1, at as many bytes or a few more."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hybridprompt.encode.settings import SVT_TUNES, TuneName
from hybridprompt.video.av1_encoder import CRF_RANGE, CRF_STEP, Av1Settings, CodedPacket, encode_stream
from hybridprompt.video.mp4_writer import Mp4Writer
from hybridprompt.video.source import VideoSource

TOLERANCE = 0.02
"""How many more bytes than ours the peer may have before a closer one is looked for."""

SAME = 0.001
"""How many fewer bytes than ours count as the same: CRF has steps of some 3 % of the bytes."""

_MAX_ENCODES = 7
_MAX_STEP = 6.0
"""How far, in CRF, the search goes at a time: far too fine an encode takes minutes."""

_TYPICAL_SLOPE = -0.05
"""Change of the log of the bytes per CRF, until two encodes have told it."""


@dataclass(frozen=True)
class PeerEncode:
    """One encode of the peer.  seconds: what it took, without the search for its CRF."""

    crf: float
    packets: Sequence[CodedPacket]
    seconds: float

    @property
    def size_bytes(self) -> int:
        return sum(len(packet.data) for packet in self.packets)


def encode_peer(
    source: VideoSource, crf: float, *, svt_preset: int, gop_seconds: float, tune: TuneName
) -> PeerEncode:
    """Encode a whole video as a user of SVT-AV1 would.  Raises CodecError, MediaError."""
    settings = Av1Settings(
        width=source.width,
        height=source.height,
        frame_rate=source.average_rate,
        time_base=source.time_base,
        crf=crf,
        preset=svt_preset,
        threads=2,
        color=source.color,
        extra=(("tune", str(SVT_TUNES[tune])),),
    )
    gop_length = max(1, round(gop_seconds * float(source.average_rate)))
    started = time.monotonic()
    packets = list(encode_stream(source.frames(), settings, gop_length))
    return PeerEncode(crf, packets, time.monotonic() - started)


def match_bytes(encode: Callable[[float], PeerEncode], target_bytes: int, first_crf: float) -> PeerEncode:
    """Find the peer with at least ``target_bytes``, or SAME fewer, and as few more as the steps of CRF allow.

    Stops at TOLERANCE, or when the next coarser CRF would give fewer bytes.  Where even the finest CRF tried
    gives fewer bytes, the largest encode found is returned: look at its size_bytes.
    """
    tried: dict[float, PeerEncode] = {}
    least_bytes = math.ceil(target_bytes * (1 - SAME))
    crf = _quantised(first_crf)
    for _ in range(_MAX_ENCODES):
        found = tried[crf] = encode(crf)
        if least_bytes <= found.size_bytes <= target_bytes * (1 + TOLERANCE):
            break
        following = _next_crf(tried, found, least_bytes)
        if following is None:
            break
        crf = following
    enough = [peer for peer in tried.values() if peer.size_bytes >= least_bytes]
    if enough:
        return min(enough, key=lambda peer: peer.size_bytes)
    return max(tried.values(), key=lambda peer: peer.size_bytes)


def write_peer(peer: PeerEncode, source: VideoSource, path: Path) -> None:
    """Write the peer as MP4.  Raises MediaError."""
    writer = Mp4Writer(
        path,
        time_base=source.time_base,
        frame_rate=source.average_rate,
        color=source.color,
        overwrite=True,
    )
    with writer:
        for packet in peer.packets:
            writer.write(packet)
        writer.commit()


def _quantised(crf: float) -> float:
    low, high = CRF_RANGE
    return min(max(round(crf / CRF_STEP) * CRF_STEP, low), high)


def _next_crf(tried: dict[float, PeerEncode], last: PeerEncode, least_bytes: int) -> float | None:
    """Where to look next: by the slope so far, between the nearest known; None when those are adjacent."""
    fine = max((c for c, p in tried.items() if p.size_bytes >= least_bytes), default=None)
    coarse = min((c for c, p in tried.items() if p.size_bytes < least_bytes), default=None)
    low = CRF_RANGE[0] if fine is None else fine + CRF_STEP
    high = CRF_RANGE[1] if coarse is None else coarse - CRF_STEP
    if low > high:
        return None
    # Aim into the middle of what is allowed.
    wanted = math.log(least_bytes * (1 + TOLERANCE / 2) / max(last.size_bytes, 1))
    step = min(max(wanted / _slope(tried), -_MAX_STEP), _MAX_STEP)
    crf = min(max(_quantised(last.crf + step), low), high)
    return None if crf in tried else crf


def _slope(tried: dict[float, PeerEncode]) -> float:
    if len(tried) < 2:
        return _TYPICAL_SLOPE
    (a, first), (b, second) = sorted(tried.items())[:: len(tried) - 1]
    measured = math.log(max(second.size_bytes, 1) / max(first.size_bytes, 1)) / (b - a)
    return min(measured, -0.005)
