"""Copying a file with AV1 video while changing bytes of its video packets."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import av
from av.container import InputContainer, OutputContainer
from av.stream import Stream
from av.video.stream import VideoStream

from hybridprompt.errors import MediaError
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.files import FFMPEG_FAILURES, PartialFile, close_quietly, open_input, reason
from hybridprompt.video.packet_reader import av1_stream

_FORMATS: Final = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}

_log = logging.getLogger(__name__)


def copy_with(
    path_in: str | os.PathLike[str],
    path_out: str | os.PathLike[str],
    transform: Callable[[CodedPacket], bytes],
    *,
    overwrite: bool = False,
) -> None:
    """Copy a file with AV1 video, all tracks and metadata; transform may change the bytes of AV1 packets.

    transform gets each packet of the (best) AV1 track in file order and returns what to write instead. All
    other packets stay byte-identical. Times stay, too, unless some are negative and the output is Matroska or
    WebM: then all tracks move by the same offset. Tracks that the output format (from the
    suffix of path_out: mp4, m4v, mov, mkv, webm) cannot hold are left out with a warning. Raises MediaError.
    """
    path_in, path_out = Path(path_in), Path(path_out)
    output_format = _FORMATS.get(path_out.suffix.lower())
    if output_format is None:
        raise MediaError(f"{path_out}: unknown file type, expected one of {', '.join(_FORMATS)}")
    partial = PartialFile(path_out, overwrite=overwrite)
    try:
        with open_input(path_in) as source:
            av1 = av1_stream(source, path_in)
            options = {"movflags": "+faststart"} if output_format in ("mp4", "mov") else {}
            output = av.open(
                f"file:{partial.path}", mode="w", format=output_format, container_options=options
            )
            try:
                _copy_packets(source, output, av1, path_in, transform)
                output.close()
            except BaseException:
                close_quietly(output)
                raise
        partial.commit()
    except FFMPEG_FAILURES as error:
        partial.discard()
        raise MediaError(f"{path_out}: cannot be written ({reason(error)})") from error
    except BaseException:
        partial.discard()
        raise


def _copy_packets(
    source: InputContainer,
    output: OutputContainer,
    av1: VideoStream,
    path: Path,
    transform: Callable[[CodedPacket], bytes],
) -> None:
    output.metadata.update(source.metadata)
    output.set_chapters(source.chapters())
    targets = {stream.index: _copied_stream(stream, output, path) for stream in source.streams}
    kept = [stream for stream in source.streams if targets[stream.index] is not None]
    for packet in source.demux(*kept):
        target = targets[packet.stream.index]
        if target is None or not packet.size:
            continue
        if packet.stream.index == av1.index:
            packet = _transformed(packet, transform)
        packet.stream = target
        output.mux(packet)


def _copied_stream(stream: Stream, output: OutputContainer, path: Path) -> Stream | None:
    try:
        target = output.add_stream_from_template(stream, opaque=True)
    except FFMPEG_FAILURES as error:
        _log.warning("%s: track %d (%s) is left out (%s)", path, stream.index, stream.type, reason(error))
        return None
    target.metadata.update(stream.metadata)
    target.disposition = stream.disposition
    if isinstance(target, VideoStream) and isinstance(stream, VideoStream) and stream.average_rate:
        target.codec_context.framerate = stream.average_rate
    return target


def _transformed(
    packet: "av.Packet[Stream]", transform: Callable[[CodedPacket], bytes]
) -> "av.Packet[Stream]":
    pts = packet.pts if packet.pts is not None else packet.dts or 0
    dts = packet.dts if packet.dts is not None else pts
    before = CodedPacket(bytes(packet), pts, dts, packet.duration or 0, packet.is_keyframe)
    data = transform(before)
    if data == before.data:
        return packet
    changed = av.Packet(data)
    changed.pts, changed.dts, changed.duration = packet.pts, packet.dts, packet.duration
    changed.time_base, changed.is_keyframe = packet.time_base, packet.is_keyframe
    for side_data in packet.iter_sidedata():
        changed.set_sidedata(side_data)
    return changed
