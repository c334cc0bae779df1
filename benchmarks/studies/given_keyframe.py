"""Can x265 and x264 code a GOP against a keyframe that is given, so that the stream need not hold it?

    python benchmarks/studies/given_keyframe.py [CLIP] [--frames 96] [--height 720] [--crf 36]

A region of interest over the whole first picture makes the encoder code it almost without loss, at no
effect on how the others are quantised.  Its packet is then dropped: a stub, a grey picture coded with the
same parameter sets, takes its place, and the decoder gets the given picture injected.  Two pictures are
given: the source's own, and what an ordinary encode makes of it.  Printed per encode:

* the bytes of the stub and of the other packets, the latter also against the ordinary encode's;
* the drift: PSNR between the last picture as the encoder knows it and as the client decodes it.  They differ
  because the encoder predicted from its almost lossless copy, the client from the given picture itself;
* the distance to the source of the last picture, and the mean of all but the first.

"exact": with the encoder's own copy injected into the stub's place, all pictures must be the encoder's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import av.filter
import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import data_folder

from hybridprompt.bitstream.nal import join_nal_units, split_nal_units
from hybridprompt.decode.nal_injection import H264InjectingDecoder, HevcInjectingDecoder
from hybridprompt.evaluate.compare import psnr_y
from hybridprompt.generator.base import Planes
from hybridprompt.video.h264_decoder import H264Decoder
from hybridprompt.video.peer_encoder import scaled
from hybridprompt.video.picture import Picture
from hybridprompt.video.source import VideoSource

TICK = Fraction(1, 30)
CODECS = {"x265": ("libx265", HevcInjectingDecoder), "x264": ("libx264", H264InjectingDecoder)}
Packets = list[tuple[bytes, int]]


@dataclass(frozen=True)
class Encode:
    """Packets in decoding order, and the pictures the encoder knows, in display order."""

    packets: Packets
    pictures: list[Picture]

    @property
    def inter_bytes(self) -> int:
        return sum(len(data) for data, _ in self.packets[1:])


def with_region(frame: av.VideoFrame, offset: int) -> av.VideoFrame:
    """Ask for the finest quantiser everywhere in this picture (-1), or for none in particular (0)."""
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format="yuv420p", time_base=frame.time_base
    )
    region = graph.add("addroi", f"x=0:y=0:w=iw:h=ih:qoffset={offset}/1")
    sink = graph.add("buffersink")
    source.link_to(region)
    region.link_to(sink)
    graph.configure()
    graph.push(frame)
    pulled = graph.pull()
    assert isinstance(pulled, av.VideoFrame)
    return pulled


def encode_packets(codec: str, pictures: Sequence[Picture], crf: int, *, given_first: bool) -> Packets:
    """Encode one closed GOP; parameter sets are in band."""
    context = av.CodecContext.create(CODECS[codec][0], "w")
    context.width, context.height, context.pix_fmt = pictures[0].width, pictures[0].height, "yuv420p"
    context.time_base, context.framerate = TICK, 1 / TICK
    params = "keyint=600:min-keyint=600:scenecut=0:open-gop=0"
    params += ":log-level=none:info=0:pools=2" if codec == "x265" else ""
    context.options = {"crf": str(crf), "preset": "medium", f"{codec}-params": params}
    coded = []
    for index, picture in enumerate(pictures):
        frame = replace(picture, pts=index, time_base=TICK).to_frame()
        # x265 keeps the offsets in its picture buffers: a later picture that gets the first one's buffer
        # would be coded almost without loss, too, were it not told otherwise.
        coded += context.encode(with_region(frame, -int(index == 0)) if given_first else frame)
    coded += context.encode(None)
    return [(bytes(packet), packet.pts or 0) for packet in coded]


def decode(codec: str, packets: Packets, keyframe: Planes | None = None) -> list[Picture]:
    """Decode into display order, with another keyframe if one is given."""
    shown = {}
    with CODECS[codec][1](time_base=TICK) as decoder:
        for index, (data, pts) in enumerate(packets):
            replaces = keyframe is not None and index == 0
            frames = decoder.decode(data, pts, (lambda base: keyframe) if replaces else None)
            shown |= {frame.pts: frame.picture.copied() for frame in frames}
        shown |= {frame.pts: frame.picture.copied() for frame in decoder.flush()}
    return [shown[pts] for pts in sorted(shown)]


def encode(codec: str, pictures: Sequence[Picture], crf: int, *, given_first: bool = False) -> Encode:
    packets = encode_packets(codec, pictures, crf, given_first=given_first)
    return Encode(packets, decode(codec, packets))


def stub_of(codec: str, like: Encode, crf: int) -> bytes:
    """A grey keyframe with the parameter sets of another one, which is checked."""
    grey = like.pictures[0].copied()
    for plane in grey.planes:
        plane[:] = 128
    data = encode_packets(codec, [grey] * 8, crf, given_first=False)[0][0]
    if headers(codec, data) != headers(codec, like.packets[0][0]):
        raise SystemExit(f"{codec}: the stub has other parameter sets than the stream")
    # Without x264's 700 bytes of text about its settings.
    sei = {"x265": (0x4E,), "x264": (0x06,)}[codec]
    return join_nal_units(nal.data for nal in split_nal_units(data) if nal.data[0] not in sei)


def headers(codec: str, data: bytes) -> list[bytes]:
    kinds = {"x265": (0x40, 0x42, 0x44), "x264": (0x67, 0x68)}[codec]
    return [nal.data for nal in split_nal_units(data) if nal.data[0] in kinds]


def own_planes(codec: str, encoded: Encode) -> Planes:
    """The encoder's own keyframe, for H.264 with its hidden samples."""
    if codec == "x265":
        return encoded.pictures[0].planes
    with H264Decoder(time_base=TICK, cropped=False) as decoder:
        return decoder.decode_alone(*encoded.packets[0]).picture.copied().planes


def same(a: Sequence[Picture], b: Sequence[Picture]) -> bool:
    return all(
        np.array_equal(p, q)
        for x, y in zip(a, b, strict=True)
        for p, q in zip(x.planes, y.planes, strict=True)
    )


def study(codec: str, source: list[Picture], crf: int, table: Table) -> None:
    ordinary = encode(codec, source, crf)
    rows = [("ordinary", ordinary, len(ordinary.packets[0][0]), ordinary.pictures, "", "")]
    for name, given in (("given: source", source[0]), ("given: coded", ordinary.pictures[0])):
        encoded = encode(codec, [given, *source[1:]], crf, given_first=True)
        stub = stub_of(codec, encoded, crf)
        packets = [(stub, encoded.packets[0][1]), *encoded.packets[1:]]
        client = decode(codec, packets, given.planes)
        exact = same(decode(codec, packets, own_planes(codec, encoded)), encoded.pictures)
        copy = psnr_y(encoded.pictures[0], given)
        drift = f"{copy:.1f} / {psnr_y(client[-1], encoded.pictures[-1]):.1f}"
        rows.append((name, encoded, len(stub), client, drift, "yes" if exact else "NO"))
    for name, encoded, key_bytes, shown, drift, exact in rows:
        distances = [psnr_y(a, b) for a, b in zip(shown[1:], source[1:], strict=True)]
        table.add_row(
            codec,
            name,
            str(key_bytes),
            str(encoded.inter_bytes),
            f"{100 * (encoded.inter_bytes / ordinary.inter_bytes - 1):+.1f} %",
            f"{distances[-1]:.2f}",
            f"{sum(distances) / len(distances):.2f}",
            drift,
            exact,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clip", nargs="?", type=Path, default=data_folder() / "clips" / "sam2_dog_720p.mp4")
    parser.add_argument("--frames", type=int, default=96)
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--crf", type=int, default=36)
    arguments = parser.parse_args()
    video = VideoSource(arguments.clip)
    width = round(video.width * arguments.height / video.height / 8) * 8
    # H.265 codes whole blocks of 8.  The stub's grey samples outside the picture would be predicted from.
    if arguments.frames < 8 or arguments.height < 64 or arguments.height % 8:
        parser.error("frames are at least 8, the height is a multiple of 8 and at least 64")
    source = [
        scaled(picture, width, arguments.height) for picture in islice(video.frames(), arguments.frames)
    ]
    table = Table(
        title=f"{arguments.clip.name}, {len(source)} of {width}x{arguments.height}, CRF {arguments.crf}"
    )
    for column in (
        "codec",
        "keyframe",
        "key or stub, bytes",
        "others, bytes",
        "change",
        "last, dB",
        "mean, dB",
        "copy / drift, dB",
        "exact",
    ):
        table.add_column(column, justify="left" if column in ("codec", "keyframe") else "right")
    for codec in CODECS:
        study(codec, source, arguments.crf, table)
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
