"""Encoding GOPs with x264 and x265, also against a first picture that is given.

Note [Given keyframe]: a region of interest over the whole first picture makes both encoders code it almost
without loss, and changes nothing in how the others are quantised.  So they predict from the given picture
itself, up to an error of one level.  Its packet is then of no use: a stub takes its place, and whoever
decodes injects the given picture.

Note [Stitched GOPs]: each GOP has an encoder of its own.  All must write the same parameter sets, whatever
their quality, as a file has them once: x264 puts its quantiser there unless told to make streams that can be
joined (`stitchable`).

Note [x264 without AVX-512]: with these instructions x264's macroblock tree depends on what memory held
before, at some sizes (192x96 is one): the same input gives other bytes from time to time.  Without them it
does not, and is as fast.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Final, Literal, cast, get_args

import av
import av.filter
from av.video.codeccontext import VideoCodecContext

from hybridprompt.errors import CodecError, ConfigError
from hybridprompt.video.av1_encoder import CodedPacket, checked_pts
from hybridprompt.video.files import FFMPEG_FAILURES, reason
from hybridprompt.video.picture import ColorInfo, Picture, tag_colors
from hybridprompt.video.scheduling import ordinary_priority

NalEncoderName = Literal["x264", "x265"]

NAL_CRF_RANGE: Final = (1.0, 51.0)
_MIN_SIDE: Final = 32
_KEYINT: Final = 4096
"""A period no GOP reaches; the same for all, as it is in what x264 and x265 derive their headers from."""


@dataclass(frozen=True, kw_only=True)
class NalSettings:
    """Settings of an encode by x264 or x265.

    width, height: luma samples, even, at least 32.  frame_rate: nominal pictures per second.  time_base: of
    the pictures' pts.  crf: 1 to 51, lower is finer, any number.  preset: x264's and x265's own name.
    given_first: code the first picture almost without loss, see Note [Given keyframe].  extra: further
    parameters of the library.

    Raises ConfigError.
    """

    encoder: NalEncoderName
    width: int
    height: int
    frame_rate: Fraction
    time_base: Fraction
    crf: float
    preset: str = "slow"
    given_first: bool = False
    threads: int = 2
    color: ColorInfo = field(default_factory=ColorInfo)
    extra: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.encoder not in get_args(NalEncoderName):
            raise ConfigError(f"encoder is {self.encoder!r}, expected x264 or x265")
        if self.width % 2 or self.height % 2 or min(self.width, self.height) < _MIN_SIDE:
            raise ConfigError(
                f"{self.encoder} cannot code {self.width}x{self.height} here, "
                f"expected even sizes of at least {_MIN_SIDE}"
            )
        if not NAL_CRF_RANGE[0] <= self.crf <= NAL_CRF_RANGE[1]:
            low, high = NAL_CRF_RANGE
            raise ConfigError(f"CRF of {self.encoder} is {self.crf:g}, expected {low:g} to {high:g}")
        if self.frame_rate <= 0 or self.time_base <= 0 or self.threads < 1:
            raise ConfigError(
                f"frame rate {self.frame_rate}, time base {self.time_base} and threads {self.threads} "
                "must be above 0"
            )


def encode_nal_gop(
    pictures: Sequence[Picture], settings: NalSettings, *, cancelled: Event | None = None
) -> list[CodedPacket]:
    """Encode pictures as one closed GOP: Annex B, parameter sets in the first packet, in decoding order.

    pts are the pictures' own.  dts are those of display order, and so may be greater than the pts: by how
    much decoding has to be ahead is for the whole file to say.  Another thread may set ``cancelled``.

    Raises CodecError when a picture does not fit the settings, when pts do not increase, when the encoder
    fails, makes another keyframe, or is cancelled.
    """
    times = [checked_pts(picture, settings, number) for number, picture in enumerate(pictures)]
    if any(later <= earlier for earlier, later in pairwise(times)):
        raise CodecError("pts of the pictures of a GOP do not increase")
    usual = max(1, round(1 / (settings.frame_rate * settings.time_base)))
    durations = [b - a for a, b in pairwise(times)] + [usual]
    packets: list[CodedPacket] = []
    try:
        for data, number, is_keyframe in _encoded(pictures, settings, cancelled):
            if not 0 <= number < len(times):
                raise CodecError(f"{settings.encoder} gave a packet for picture {number} of {len(times)}")
            dts = times[min(len(packets), len(times) - 1)]
            packets.append(CodedPacket(data, times[number], dts, durations[number], is_keyframe))
    except FFMPEG_FAILURES as error:
        raise CodecError(f"{settings.encoder} failed ({reason(error)})") from error
    if len({packet.pts for packet in packets}) != len(times) or len(packets) != len(times):
        raise CodecError(f"{settings.encoder} gave {len(packets)} packets for {len(times)} pictures")
    keyframes = [index for index, packet in enumerate(packets) if packet.is_keyframe]
    if keyframes != [0][: len(packets)]:
        raise CodecError(f"{settings.encoder} made keyframes at packets {keyframes} of a GOP, expected 0")
    return packets


def _encoded(
    pictures: Sequence[Picture], settings: NalSettings, cancelled: Event | None
) -> Iterator[tuple[bytes, int, bool]]:
    """Coded bytes, number of the picture and whether it is a keyframe, in decoding order."""
    if not pictures:
        return
    context = _open(settings)
    regions: dict[int, _Region] = {}
    time_base = 1 / settings.frame_rate
    for number, picture in enumerate(pictures):
        if cancelled is not None and cancelled.is_set():
            raise CodecError("the encode was cancelled")
        frame = replace(picture, pts=number, time_base=time_base).to_frame()
        if settings.given_first:
            # x265 keeps the offsets in its picture buffers: one that is used again would be coded almost
            # without loss, too, were it not told otherwise.
            offset = -int(number == 0)
            if offset not in regions:
                regions[offset] = _Region(frame, offset)
            frame = regions[offset].mark(frame)
        yield from _described(context.encode(frame))
    yield from _described(context.encode(None))


def _described(packets: "list[av.Packet[av.stream.Stream]]") -> Iterator[tuple[bytes, int, bool]]:
    for packet in packets:
        yield bytes(packet), -1 if packet.pts is None else packet.pts, packet.is_keyframe


class _Region:
    """Marks pictures as a region of interest: -1 asks for the finest quantiser, 0 for none in particular."""

    def __init__(self, like: av.VideoFrame, offset: int) -> None:
        self._graph = graph = av.filter.Graph()
        # PyAV's own add_buffer leaves the colors open, and FFmpeg complains of every picture that has some.
        source = graph.add(
            "buffer",
            f"video_size={like.width}x{like.height}:pix_fmt={like.format.name}:time_base={like.time_base}"
            f":colorspace={int(like.colorspace)}:range={int(like.color_range)}",
        )
        region = graph.add("addroi", f"x=0:y=0:w=iw:h=ih:qoffset={offset}/1")
        sink = graph.add("buffersink")
        source.link_to(region)
        region.link_to(sink)
        graph.configure()

    def mark(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The frame with the region."""
        self._graph.push(frame)
        pulled = self._graph.pull()
        assert isinstance(pulled, av.VideoFrame)
        return pulled


def _open(settings: NalSettings) -> VideoCodecContext:
    context = cast(VideoCodecContext, av.CodecContext.create(f"lib{settings.encoder}", "w"))
    context.width, context.height, context.pix_fmt = settings.width, settings.height, "yuv420p"
    context.time_base, context.framerate = 1 / settings.frame_rate, settings.frame_rate
    tag_colors(context, settings.color)
    context.thread_count, context.thread_type = settings.threads, "FRAME"
    context.gop_size = _KEYINT
    params = {"keyint": str(_KEYINT), "min-keyint": str(_KEYINT), "scenecut": "0", "open-gop": "0"}
    if settings.encoder == "x265":
        params |= {"log-level": "none", "info": "0", "pools": str(settings.threads), "repeat-headers": "1"}
    else:
        params |= {"stitchable": "1", **_instructions()}
    params |= dict(settings.extra)
    context.options = {
        "crf": f"{settings.crf:g}",
        "preset": settings.preset,
        f"{settings.encoder}-params": ":".join(f"{key}={value}" for key, value in params.items()),
    }
    try:
        with ordinary_priority():
            context.open()
    except FFMPEG_FAILURES as error:
        raise CodecError(f"{settings.encoder} refuses {settings} ({reason(error)})") from error
    return context


@cache
def _instructions() -> dict[str, str]:
    """x264's parameter for Note [x264 without AVX-512]; where AVX-512 is, the others are, too."""
    try:
        has_avx512 = "avx512f" in Path("/proc/cpuinfo").read_text()
    except OSError:
        has_avx512 = False
    return {"asm": "AVX2,FMA3,BMI2,LZCNT"} if has_avx512 else {}
