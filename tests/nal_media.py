"""H.264 and H.265 streams for tests, made with PyAV directly, and decoded with it as players do."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from hybridprompt.bitstream.nal import NalCodec
from hybridprompt.video.picture import Picture, plane_views

TICK = Fraction(1, 30)
LIBRARIES = {NalCodec.H264: "libx264", NalCodec.H265: "libx265"}
DECODERS = {NalCodec.H264: "h264", NalCodec.H265: "hevc"}
# Three references, adaptive B-frames that are references, weighted prediction: all that looks back.
PARAMS = {
    NalCodec.H264: "keyint=16:min-keyint=16:scenecut=0:ref=3:bframes=3:b-pyramid=normal:weightp=2:threads=1",
    NalCodec.H265: "keyint=16:min-keyint=16:scenecut=0:open-gop=0:ref=3:bframes=4:b-adapt=2:b-pyramid=1:"
    "weightp=1:log-level=none:info=0:pools=1:frame-threads=1",
}


@dataclass(frozen=True)
class Stream:
    """extradata (None: parameter sets are in band) and packets in decoding order with their pts."""

    codec: NalCodec
    extradata: bytes | None
    packets: tuple[tuple[bytes, int], ...]
    length_size: int | None


def moving(count: int, width: int, height: int, *, seed: int = 1) -> list[Picture]:
    """Texture that pans three pixels left and one up per picture under a still, brighter square."""
    rng = np.random.default_rng(seed)
    made = []
    big = [
        np.kron(
            rng.integers(30, 220, ((height // s + count) // 6 + 2, (width // s + 3 * count) // 6 + 2)),
            np.ones((6, 6)),
        ).astype(np.uint8)
        for s in (1, 2, 2)
    ]
    for index in range(count):
        planes = []
        for plane, s in zip(big, (1, 2, 2), strict=True):
            h, w = -(-height // s), -(-width // s)
            view = plane[index // s : index // s + h, 3 * index // s : 3 * index // s + w].copy()
            view[h // 3 : h // 2, w // 3 : w // 2] = 235 if s == 1 else 100
            planes.append(view)
        made.append(Picture(planes[0], planes[1], planes[2], index, TICK))
    return made


def encode(pictures: Sequence[Picture], codec: NalCodec, *, crf: int = 30, params: str = "") -> Stream:
    """Encode pictures of even size into Annex B, with parameter sets in band."""
    context = av.CodecContext.create(LIBRARIES[codec], "w")
    _set_up(context, pictures[0], codec, crf, params)
    context.time_base, context.framerate = TICK, Fraction(30)
    coded = [packet for picture in pictures for packet in context.encode(picture.to_frame())]
    coded += context.encode(None)
    return Stream(codec, None, tuple((bytes(packet), packet.pts) for packet in coded), None)


def encode_mp4(pictures: Sequence[Picture], codec: NalCodec, *, crf: int = 30, params: str = "") -> Stream:
    """The same as an MP4 file hands it out: avcC or hvcC, and lengths before the NAL units."""
    return read_mp4(mp4_file(pictures, codec, crf=crf, params=params), codec)


def mp4_file(pictures: Sequence[Picture], codec: NalCodec, *, crf: int = 30, params: str = "") -> bytes:
    """Encode pictures of even size into an MP4 file."""
    # With fewer, FFmpeg's x265 wrapper sometimes has no dts for its muxer.
    assert len(pictures) >= 6
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        track = output.add_stream(LIBRARIES[codec], rate=30)
        assert isinstance(track, av.VideoStream)
        _set_up(track.codec_context, pictures[0], codec, crf, params)
        for picture in pictures:
            output.mux(track.encode(picture.to_frame()))
        output.mux(track.encode(None))
    return file.getvalue()


def read_mp4(file: bytes, codec: NalCodec) -> Stream:
    with av.open(io.BytesIO(file)) as container:
        track = container.streams.video[0]
        packets = tuple(
            (bytes(packet), round(packet.pts * packet.time_base / TICK))
            for packet in container.demux(track)
            if packet.size
        )
        return Stream(codec, track.codec_context.extradata, packets, 4)


def _set_up(context: av.VideoCodecContext, first: Picture, codec: NalCodec, crf: int, params: str) -> None:
    context.width, context.height, context.pix_fmt = first.width, first.height, "yuv420p"
    context.thread_count = 1
    joined = ":".join(part for part in (PARAMS[codec], params) if part)
    context.options = {"crf": str(crf), "preset": "fast", f"{LIBRARIES[codec][3:]}-params": joined}


def play(stream: Stream, *, cropped: bool = True) -> dict[int, Picture]:
    """Decode with an unmodified decoder; pictures by pts."""
    context = av.CodecContext.create(DECODERS[stream.codec], "r")
    context.thread_count = 1
    context.options = {"apply_cropping": str(int(cropped))}
    if stream.extradata:
        context.extradata = stream.extradata
    shown = {}
    for data, pts in (*stream.packets, (None, 0)):
        packet = None
        if data is not None:
            packet = av.Packet(data)
            packet.pts, packet.time_base = pts, TICK
        for frame in context.decode(packet):
            y, u, v = (np.array(plane) for plane in plane_views(frame))
            shown[frame.pts] = Picture(y, u, v, frame.pts, TICK)
    return shown


def same(a: Picture, b: Picture) -> bool:
    return all(np.array_equal(p, q) for p, q in zip(a.planes, b.planes, strict=True))


def differing(a: dict[int, Picture], b: dict[int, Picture]) -> list[int]:
    """pts of pictures that differ."""
    assert sorted(a) == sorted(b)
    return [pts for pts in sorted(a) if not same(a[pts], b[pts])]
