"""H.264 and H.265 with prompts for the fake generator: as packets, and as MP4 files."""

import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import av

from hybridprompt.bitstream.nal import NalCodec
from hybridprompt.bitstream.obu import ObuType, iterate_obus
from hybridprompt.prompt.carriage_nal import attach
from hybridprompt.prompt.sections import Still, StillCodec, build_prompt
from hybridprompt.prompt.syntax import Prompt, encode_prompt
from hybridprompt.video.av1_encoder import Av1Settings, CodedPacket, encode_gop
from hybridprompt.video.picture import Picture
from nal_media import TICK, Stream
from prompted_media import a_prompt


def packets_of(stream: Stream) -> list[CodedPacket]:
    """Packets in decoding order, with the times that a container would give them."""
    times = sorted(pts for _, pts in stream.packets)
    return [
        CodedPacket(data, pts, times[number] - 4, 1, pts % 16 == 0)
        for number, (data, pts) in enumerate(stream.packets)
    ]


def still_of(picture: Picture, *, crf: int = 30) -> Still:
    """Code a picture, as it is, with SVT-AV1; at least 64 samples each way."""
    settings = Av1Settings(
        width=picture.width,
        height=picture.height,
        frame_rate=1 / TICK,
        time_base=TICK,
        crf=crf,
        preset=10,
    )
    (packet,) = encode_gop([replace(picture, pts=0, time_base=TICK)], settings)
    obus = [obu.raw for obu in iterate_obus(packet.data) if obu.type is not ObuType.TEMPORAL_DELIMITER]
    return Still(StillCodec.AV1, b"".join(obus))


def still_prompt(
    still: Still, width: int, height: int, *, quantiser: int | None = None, generator_id: bytes = b"fakefake"
) -> Prompt:
    """A prompt with a still, whose gate leaves the left column of blocks alone."""
    with_gate = a_prompt(size=(width, height))
    return Prompt(
        generator_id,
        width,
        height,
        build_prompt(generator_id, width, height, quantiser, None, still).sections + with_gate.sections[1:],
    )


def with_prompts(
    packets: list[CodedPacket],
    prompts: Mapping[int, Prompt | bytes],
    codec: NalCodec,
    length_size: int | None = None,
) -> list[CodedPacket]:
    """Attach prompts by packet index."""
    changed = list(packets)
    for index, prompt in prompts.items():
        prompt_bytes = prompt if isinstance(prompt, bytes) else encode_prompt(prompt)
        data = attach(packets[index].data, prompt_bytes, codec=codec, length_size=length_size)
        changed[index] = replace(packets[index], data=data)
    return changed


def write_nal_file(
    path: Path,
    file: bytes,
    codec: NalCodec,
    prompts: Mapping[int, Prompt | bytes],
    *,
    rotation: int = 0,
    changes: Mapping[int, Callable[[bytes], bytes]] | None = None,
) -> Path:
    """Copy an MP4 file, with prompts, and other changes of packets, by packet index."""
    with av.open(io.BytesIO(file)) as source, av.open(str(path), "w") as output:
        track = source.streams.video[0]
        copied = output.add_stream_from_template(track, opaque=True)
        assert isinstance(copied, av.VideoStream)
        if rotation:
            copied.set_display_rotation(rotation)
        plain = [packet for packet in source.demux(track) if packet.size]
        coded = [CodedPacket(bytes(packet), 0, 0, 0, packet.is_keyframe) for packet in plain]
        for index, changed in enumerate(with_prompts(coded, prompts, codec, 4)):
            packet, change = plain[index], (changes or {}).get(index)
            muxed = av.Packet(changed.data if change is None else change(changed.data))
            muxed.pts, muxed.dts, muxed.duration = packet.pts, packet.dts, packet.duration
            muxed.time_base, muxed.stream, muxed.is_keyframe = packet.time_base, copied, packet.is_keyframe
            output.mux(muxed)
    return path
