"""AV1 encoding with SVT-AV1.

Note [One packet per picture]: SVT-AV1 puts hidden frames into the temporal unit of the next shown one, so
a stream has exactly one packet per picture, in display order, with dts = pts. The encoder is therefore fed
plain picture numbers, and the pictures' own timestamps are put on the packets afterwards: variable frame
rates survive, and the bytes do not depend on the timestamps.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from threading import Event
from typing import Final, Protocol

import av
from av.video.codeccontext import VideoCodecContext

from hybridprompt.errors import CodecError, ConfigError
from hybridprompt.video.picture import ColorInfo, Picture, tag_colors
from hybridprompt.video.scheduling import ordinary_priority

# SVT-AV1 reads this once, when its first instance is made; without it, it writes to stderr.
os.environ.setdefault("SVT_LOG", "-1")

CRF_STEP: Final = 0.25
CRF_RANGE: Final = (1.0, 70.0)
PRESET_RANGE: Final = (-1, 13)
SIZE_RANGE: Final = (4, 16384)
_MIN_PARALLEL_SIDE: Final = 64
_RATE_RANGE: Final = (Fraction(1), Fraction(240))
_LAMBDA_RANGE: Final = (1 / 8, 16.0)
_LAMBDA_UNIT: Final = 128
_OBU_SEQUENCE_HEADER: Final = 1


@dataclass(frozen=True)
class CodedPacket:
    """One temporal unit: the coded bytes of one shown picture, times in units of the stream's time base."""

    data: bytes
    pts: int
    dts: int
    duration: int
    is_keyframe: bool

    def __repr__(self) -> str:
        kind = "keyframe, " if self.is_keyframe else ""
        return f"CodedPacket({kind}{len(self.data)} bytes, pts={self.pts}, dts={self.dts})"


def _check_range(name: str, value: float, bounds: tuple[float, float]) -> None:
    if not bounds[0] <= value <= bounds[1]:
        raise ConfigError(f"{name} is {value}, expected {bounds[0]:g} to {bounds[1]:g}")


@dataclass(frozen=True, kw_only=True)
class PictureLambdas:
    """Factors of Lagrange multipliers by kind of picture: below 1 for more detail at the same quantiser.

    key: keyframes.  base: base pictures of mini-GOPs.  inner: pictures between them that others refer to.
    leaf: those that none refers to.  Raises ConfigError.
    """

    key: float = 1.0
    base: float = 1.0
    inner: float = 1.0
    leaf: float = 1.0

    def __post_init__(self) -> None:
        for name, factor in vars(self).items():
            _check_range(f"Lagrange multiplier's factor ({name})", factor, _LAMBDA_RANGE)


LAMBDAS = PictureLambdas(base=0.78, inner=1.25, leaf=1.4)
"""Bytes are better spent on pictures that others are predicted from: LPIPS-Alex falls by another 2 % at equal
bytes.  Half as much again would gain one more, but things that move get blocky."""


class CodedPictures(Protocol):
    """What settings of an encoder say of the pictures it takes: their size, and the unit of their pts."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def time_base(self) -> Fraction: ...


@dataclass(frozen=True, kw_only=True)
class Av1Settings:
    """Settings of an SVT-AV1 encode; exactly one of crf and bitrate_kbps is given.

    width, height: pixels, 4 to 16384, odd sizes allowed. frame_rate: nominal pictures per second, used
    by rate control only. time_base: of the pictures' pts. crf: 1 to 70 in steps of 0.25, lower is finer.
    preset: -1 (slow) to 13 (fast). threads: SVT-AV1's level of parallelism `lp`, 1 to 6; the bytes
    do not depend on it in CRF mode. lambda_factor: of all Lagrange multipliers, above 1 for fewer bytes at
    the same quantisers; picture_lambdas: on top of it; both taken in steps of 1/128. extra: further
    `svtav1-params`, applied last.

    Raises ConfigError for values out of range.
    """

    width: int
    height: int
    frame_rate: Fraction
    time_base: Fraction
    crf: float | None = None
    bitrate_kbps: float | None = None
    preset: int = 6
    threads: int = 1
    lambda_factor: float = 1.0
    picture_lambdas: PictureLambdas = field(default_factory=PictureLambdas)
    color: ColorInfo = field(default_factory=ColorInfo)
    extra: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for name, size in (("width", self.width), ("height", self.height)):
            _check_range(name, size, SIZE_RANGE)
        _check_range("preset", self.preset, PRESET_RANGE)
        _check_range("threads", self.threads, (1, 6))
        _check_range("lambda_factor", self.lambda_factor, _LAMBDA_RANGE)
        if self.frame_rate <= 0 or self.time_base <= 0:
            raise ConfigError(
                f"frame rate {self.frame_rate} and time base {self.time_base} must both be above 0"
            )
        if (self.crf is None) == (self.bitrate_kbps is None):
            raise ConfigError(
                f"AV1 encoder got crf {self.crf} and bitrate_kbps {self.bitrate_kbps}, expected exactly one"
            )
        if self.crf is not None:
            _check_range("crf", self.crf, CRF_RANGE)
            if self.crf % CRF_STEP:
                raise ConfigError(f"crf is {self.crf}, expected a multiple of {CRF_STEP}")
        if self.bitrate_kbps is not None:
            _check_range("bitrate_kbps", self.bitrate_kbps, (1, 100000))

    def svt_params(self, keyint: int) -> str:
        """Return the `svtav1-params` of these settings for a keyframe every keyint pictures."""
        params: dict[str, str] = {
            "keyint": str(keyint),
            "irefresh-type": "2",  # closed GOPs: every keyframe is a random access point
            "scd": "0",
            "film-grain": "0",
            "enable-overlays": "0",
            # SVT-AV1 hangs with more where one side is at most 24 pixels and the other above 64.
            "lp": str(1 if min(self.width, self.height) < _MIN_PARALLEL_SIDE else self.threads),
        }
        if self.crf is not None:
            # FFmpeg's own crf option is an integer; SVT-AV1 itself takes quarters.
            params["crf"] = f"{self.crf:g}"
        else:
            params["rc"] = "1"
        kinds = self.picture_lambdas
        # As SVT-AV1 tells pictures apart; golden frames and overlays do not come in these structures.
        factors = (kinds.key, kinds.leaf, 1.0, kinds.base, 1.0, 1.0, kinds.inner)
        scales = [max(round(self.lambda_factor * factor * _LAMBDA_UNIT), 1) for factor in factors]
        if any(scale != _LAMBDA_UNIT for scale in scales):
            params["lambda-scale-factors"] = ",".join(map(str, scales))
        params.update(self.extra)
        return ":".join(f"{key}={value}" for key, value in params.items())


def encode_gop(
    pictures: Iterable[Picture], settings: Av1Settings, *, cancelled: Event | None = None
) -> list[CodedPacket]:
    """Encode pictures as exactly one closed GOP (one keyframe, first) with an encoder of its own.

    Random access structure. Returns one packet per picture in decoding order, which is display order (see
    Note [One packet per picture]). An empty GOP gives no packets. Another thread may set ``cancelled``.

    Raises CodecError when a picture does not fit the settings, when pts do not increase, when SVT-AV1
    fails, or when cancelled.
    """
    sequence = list(pictures)

    def until_cancelled() -> Iterator[Picture]:
        for picture in sequence:
            if cancelled is not None and cancelled.is_set():
                raise CodecError("the encode was cancelled")
            yield picture

    # A period no sequence reaches: the only keyframe is the first picture.
    packets = list(_encode(until_cancelled(), settings, keyint=len(sequence) + 256))
    keyframes = [index for index, packet in enumerate(packets) if packet.is_keyframe]
    if packets and keyframes != [0]:
        raise CodecError(f"SVT-AV1 made keyframes at pictures {keyframes} of a GOP, expected only at 0")
    return packets


def encode_stream(
    pictures: Iterable[Picture], settings: Av1Settings, gop_length: int
) -> Iterator[CodedPacket]:
    """Encode a whole sequence with one SVT-AV1 instance and a keyframe every gop_length pictures.

    Yields packets as they come; pictures are consumed lazily. This is what an ordinary user of SVT-AV1
    would do, and hence the peer to measure against. Raises like `encode_gop`.
    """
    if gop_length < 1:
        raise ConfigError(f"gop_length is {gop_length}, expected at least 1")
    return _encode(pictures, settings, keyint=gop_length)


def sequence_header(packet: bytes) -> bytes | None:
    """Return the sequence header OBU (with its header) at the start of a temporal unit, or None.

    Containers want it as extradata. The one SVT-AV1 offers before encoding differs in tool flags from the
    one it writes in band, so the in-band one is the truth. (AV1 specification, 5.3.)
    """
    position = 0
    while position < len(packet):
        start, header = position, packet[position]
        kind, extension, has_size = (header >> 3) & 15, (header >> 2) & 1, (header >> 1) & 1
        position += 1 + extension
        if not has_size:
            return None
        size = shift = 0
        while position < len(packet):
            byte = packet[position]
            position += 1
            size |= (byte & 127) << shift
            shift += 7
            if byte < 128 or shift > 56:
                break
        position += size
        if kind == _OBU_SEQUENCE_HEADER and position <= len(packet):
            return packet[start:position]
    return None


def _encode(pictures: Iterable[Picture], settings: Av1Settings, keyint: int) -> Iterator[CodedPacket]:
    context = _open(settings, keyint)
    times: list[int] = []
    held: CodedPacket | None = None
    count = 0

    def collect(packets: "list[av.Packet[av.stream.Stream]]") -> Iterator[tuple[bytes, bool]]:
        for packet in packets:
            yield bytes(packet), packet.is_keyframe

    def units() -> Iterator[tuple[bytes, bool]]:
        try:
            for number, picture in enumerate(pictures):
                times.append(checked_pts(picture, settings, number, times[-1] if times else None))
                frame = picture.to_frame()
                frame.pts, frame.time_base = number, context.time_base
                yield from collect(context.encode(frame))
            if times:
                yield from collect(context.encode(None))
        except av.error.FFmpegError as error:
            raise CodecError(f"SVT-AV1 failed at picture {len(times)}: {error}") from error

    # A packet's duration is known once the next picture's time is, so one packet is always held back.
    for data, is_keyframe in units():
        if count >= len(times):
            raise CodecError(f"SVT-AV1 gave more packets than the {len(times)} pictures it got")
        pts = times[count]
        count += 1
        if held is not None:
            yield _with_duration(held, pts - held.pts)
        held = CodedPacket(data, pts, pts, 0, is_keyframe)
    if held is not None:
        yield _with_duration(held, max(1, round(1 / (settings.frame_rate * settings.time_base))))
    if count != len(times):
        raise CodecError(f"SVT-AV1 gave {count} packets for {len(times)} pictures")


def _open(settings: Av1Settings, keyint: int) -> VideoCodecContext:
    context = av.CodecContext.create("libsvtav1", "w")
    rate = min(max(settings.frame_rate, _RATE_RANGE[0]), _RATE_RANGE[1]).limit_denominator(1001)
    context.width, context.height, context.pix_fmt = settings.width, settings.height, "yuv420p"
    context.framerate, context.time_base = rate, 1 / rate
    tag_colors(context, settings.color)
    context.options = {"preset": str(settings.preset), "svtav1-params": settings.svt_params(keyint)}
    if settings.bitrate_kbps is not None:
        context.bit_rate = round(settings.bitrate_kbps * 1000)
    try:
        with ordinary_priority():
            context.open()
    except av.error.FFmpegError as error:
        raise CodecError(f"SVT-AV1 refuses {settings}: {error}") from error
    return context


def checked_pts(picture: Picture, settings: CodedPictures, number: int, previous: int | None = None) -> int:
    """Return the pts of the number-th picture; raise CodecError unless its size and times fit."""
    if (picture.width, picture.height) != (settings.width, settings.height):
        raise CodecError(
            f"picture {number} is {picture.width}x{picture.height}, "
            f"expected {settings.width}x{settings.height}"
        )
    if picture.pts is None or picture.time_base != settings.time_base:
        raise CodecError(
            f"picture {number} has pts {picture.pts} in units of {picture.time_base} s, "
            f"expected one in units of {settings.time_base} s"
        )
    if previous is not None and picture.pts <= previous:
        raise CodecError(f"picture {number} has pts {picture.pts}, expected more than {previous}")
    return picture.pts


def _with_duration(packet: CodedPacket, duration: int) -> CodedPacket:
    return CodedPacket(packet.data, packet.pts, packet.dts, duration, packet.is_keyframe)
