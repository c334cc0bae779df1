"""Writing AV1, H.264 and H.265 packets to MP4, with the sound of another file."""

import io
import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import av
from av.container import InputContainer, OutputContainer
from av.video.stream import VideoStream

from hybridprompt.errors import MediaError
from hybridprompt.video.audio import AudioTrack
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.files import FFMPEG_FAILURES, PartialFile, close_quietly, reason
from hybridprompt.video.picture import ColorInfo, tag_colors

_TAGS: Final = {"h264": "avc1", "hevc": "hvc1"}
"""Sample entries that promise to hold all parameter sets."""

_MUXED_AS: Final = {"av1": "libdav1d"}
_START_CODE: Final = b"\0\0\1"
_LENGTH_BYTES: Final = 4


class Mp4Writer:
    """An MP4 file of AV1 packets (see `describe` for others), with the sound of another file if wanted;
    complete or not there at all.

    Use as a context manager and call `commit` at the end; leaving without it removes what was written.

    time_base, frame_rate: of the packets. color: tags for the container (None: those in the sequence
    header). audio_from: file whose best audio track is copied, or transcoded to AAC if MP4 cannot hold its
    codec. origin_seconds: this time of the packets and of audio_from becomes the start of the file; sound
    before it, and after audio_end_seconds, is left out. Raises MediaError when the file cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        time_base: Fraction,
        frame_rate: Fraction,
        color: ColorInfo | None = None,
        sample_aspect_ratio: Fraction | None = None,
        audio_from: str | os.PathLike[str] | None = None,
        origin_seconds: Fraction = Fraction(0),
        audio_end_seconds: Fraction | None = None,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        self._time_base, self._frame_rate = time_base, frame_rate
        self._color = color
        self.sample_aspect_ratio = sample_aspect_ratio
        """May be changed until the first packet is written."""
        self._origin = round(origin_seconds / time_base)
        self._codec, self._parameter_sets = "av1", b""
        self._audio: AudioTrack | None = None
        self._template: InputContainer | None = None
        self._output: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._partial = PartialFile(path, overwrite=overwrite)
        try:
            if audio_from is not None:
                self._audio = AudioTrack.open(audio_from, Fraction(origin_seconds), audio_end_seconds)
        except BaseException:
            self._partial.discard()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def describe(self, codec: str, parameter_sets: bytes) -> None:
        """Before the first packet: they are of "h264" or "hevc", not AV1.

        parameter_sets: in Annex B.  The file holds them once, so packets have none; their NAL units have
        lengths of 4 bytes.  Raises MediaError for another codec.
        """
        if codec not in _TAGS:
            raise MediaError(f"{self.path}: codec {codec!r}, expected one of {', '.join(_TAGS)}")
        self._codec, self._parameter_sets = codec, parameter_sets

    def write(self, packet: CodedPacket) -> None:
        """Append one packet, less its temporal delimiter OBU, and the sound up to its time."""
        try:
            if self._stream is None:
                self._start(packet)
            assert self._output is not None
            assert self._stream is not None
            if self._audio is not None:
                self._audio.write_until(self._output, (packet.dts - self._origin) * self._time_base)
            coded = av.Packet(packet.data)
            coded.stream, coded.time_base = self._stream, self._time_base
            coded.pts, coded.dts = packet.pts - self._origin, packet.dts - self._origin
            coded.duration, coded.is_keyframe = packet.duration, packet.is_keyframe
            self._output.mux(coded)
        except FFMPEG_FAILURES as error:
            self.abort()
            raise MediaError(f"{self.path}: cannot be written ({reason(error)})") from error

    def commit(self) -> None:
        """Write the rest and give the file its name. Raises MediaError also when there is no video."""
        if self._output is None:
            self.abort()
            raise MediaError(f"{self.path}: no video packet was written")
        try:
            if self._audio is not None:
                self._audio.write_until(self._output, None)
            self._output.close()
        except FFMPEG_FAILURES as error:
            self.abort()
            raise MediaError(f"{self.path}: cannot be written ({reason(error)})") from error
        self._close_inputs()
        self._partial.commit()

    def abort(self) -> None:
        """Remove what was written; does nothing after `commit`."""
        if self._output is not None:
            close_quietly(self._output)
            self._output = None
        self._close_inputs()
        self._partial.discard()

    def _start(self, first: CodedPacket) -> None:
        self._template, template = _template(self._codec, self._parameter_sets, first)
        self._output = av.open(
            f"file:{self._partial.path}", mode="w", format="mp4", container_options={"movflags": "+faststart"}
        )
        stream = self._output.add_stream_from_template(template, opaque=True)
        context = stream.codec_context
        if self._codec in _TAGS:
            context.codec_tag = _TAGS[self._codec]
        context.framerate = self._frame_rate
        if self._color is not None:
            tag_colors(context, self._color)
        if self.sample_aspect_ratio is not None:
            context.sample_aspect_ratio = self.sample_aspect_ratio
        stream.time_base = self._time_base
        self._stream = stream
        if self._audio is not None:
            self._audio.add_to(self._output)

    def _close_inputs(self) -> None:
        if self._audio is not None:
            self._audio.close()
        if self._template is not None:
            self._template.close()


def _template(codec: str, parameter_sets: bytes, packet: CodedPacket) -> tuple[InputContainer, VideoStream]:
    """Return a stream that describes packet's codec, size and color, and the container it lives in.

    PyAV can only copy codec parameters from a stream that was read, so one packet goes through an MP4 in
    memory.
    """
    buffer = io.BytesIO()
    with av.open(buffer, mode="w", format="mp4") as output:
        stream = output.add_mux_stream(_MUXED_AS.get(codec, codec), width=16, height=16)
        # FFmpeg takes parameter sets out of a first packet in Annex B.
        data = packet.data if not parameter_sets else parameter_sets + _annex_b(packet.data)
        coded = av.Packet(data)
        coded.stream, coded.time_base = stream, Fraction(1, 1000)
        coded.pts = coded.dts = 0
        coded.is_keyframe = True
        output.mux(coded)
    buffer.seek(0)
    container = av.open(buffer, mode="r")
    return container, container.streams.video[0]


def _annex_b(packet: bytes) -> bytes:
    """A packet's NAL units with start codes in place of their lengths.

    Those of 3 bytes: FFmpeg would count the zero before them to the parameter set that precedes.
    """
    out, position = bytearray(), 0
    while position + _LENGTH_BYTES <= len(packet):
        end = position + _LENGTH_BYTES + int.from_bytes(packet[position : position + _LENGTH_BYTES], "big")
        out += _START_CODE + packet[position + _LENGTH_BYTES : end]
        position = end
    return bytes(out)
