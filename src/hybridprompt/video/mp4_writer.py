"""Writing AV1 packets to MP4, with the sound of another file."""

import io
import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
from av.container import InputContainer, OutputContainer
from av.video.stream import VideoStream

from hybridprompt.errors import MediaError
from hybridprompt.video.audio import AudioTrack
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.files import FFMPEG_FAILURES, PartialFile, close_quietly, reason
from hybridprompt.video.picture import ColorInfo


class Mp4Writer:
    """An MP4 file of AV1 packets, with the sound of another file if wanted; complete or not there at all.

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
        self._color, self._aspect = color, sample_aspect_ratio
        self._origin = round(origin_seconds / time_base)
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
        self._template, template = _template(first)
        self._output = av.open(
            f"file:{self._partial.path}", mode="w", format="mp4", container_options={"movflags": "+faststart"}
        )
        stream = self._output.add_stream_from_template(template, opaque=True)
        context = stream.codec_context
        context.framerate = self._frame_rate
        if self._color is not None:
            context.colorspace, context.color_primaries = self._color.matrix, self._color.primaries
            context.color_trc, context.color_range = self._color.transfer, 2 if self._color.full_range else 1
        if self._aspect is not None:
            context.sample_aspect_ratio = self._aspect
        stream.time_base = self._time_base
        self._stream = stream
        if self._audio is not None:
            self._audio.add_to(self._output)

    def _close_inputs(self) -> None:
        if self._audio is not None:
            self._audio.close()
        if self._template is not None:
            self._template.close()


def _template(packet: CodedPacket) -> tuple[InputContainer, VideoStream]:
    """Return a stream that describes packet's codec, size and color, and the container it lives in.

    PyAV can only copy codec parameters from a stream that was read, so one packet goes through an MP4 in
    memory.
    """
    buffer = io.BytesIO()
    with av.open(buffer, mode="w", format="mp4") as output:
        stream = output.add_mux_stream("libdav1d", width=16, height=16)
        coded = av.Packet(packet.data)
        coded.stream, coded.time_base = stream, Fraction(1, 1000)
        coded.pts = coded.dts = 0
        coded.is_keyframe = True
        output.mux(coded)
    buffer.seek(0)
    container = av.open(buffer, mode="r")
    return container, container.streams.video[0]
