import os
import resource
import signal
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import pytest
from video_media import RATE, TICK, pictures, write_audio_only, write_clip

from hybridprompt.bitstream.codec_config import map_parameter_sets
from hybridprompt.bitstream.nal import NalCodec, join_nal_units, nal_type, split_nal_units
from hybridprompt.errors import MediaError
from hybridprompt.video import packet_reader
from hybridprompt.video.av1_encoder import Av1Settings, CodedPacket, encode_gop
from hybridprompt.video.container import Mp4Writer, PacketReader, copy_with
from hybridprompt.video.nal_encoder import NalEncoderName, NalSettings, encode_nal_gop
from hybridprompt.video.picture import ColorInfo
from hybridprompt.video.source import VideoSource

SETTINGS = Av1Settings(width=96, height=64, frame_rate=RATE, time_base=TICK, crf=35, preset=10)
COLOR = ColorInfo(1, 1, 1)


def coded(count: int = 20, gop_length: int = 8) -> list[CodedPacket]:
    clip = pictures(count, color=COLOR)
    settings = replace(SETTINGS, color=COLOR)
    return [
        p
        for start in range(0, count, gop_length)
        for p in encode_gop(clip[start : start + gop_length], settings)
    ]


def bare(packet: CodedPacket) -> bytes:
    """The bytes without the temporal delimiter, which MP4 leaves out (AV1-ISOBMFF, 2.4)."""
    return packet.data.removeprefix(b"\x12\x00")


def write(path: Path, packets: list[CodedPacket], **options: object) -> Path:
    with Mp4Writer(path, time_base=TICK, frame_rate=RATE, **options) as writer:  # type: ignore[arg-type]
        for packet in packets:
            writer.write(packet)
        writer.commit()
    return path


def test_packets_come_back_as_they_went_in(tmp_path: Path) -> None:
    packets = coded()
    reader = PacketReader(write(tmp_path / "a.mp4", packets))
    assert (reader.width, reader.height, reader.average_rate, reader.rotation) == (96, 64, 30, 0)
    assert (reader.color, reader.packet_count, reader.pixel_format) == (COLOR, 20, "yuv420p")
    assert reader.extradata is not None
    assert reader.extradata[0] == 0x81  # av1C: marker and version 1
    back = list(reader)
    assert [p.data for p in back] == [bare(p) for p in packets]
    assert [p.is_keyframe for p in back] == [p.is_keyframe for p in packets]
    assert [p.pts * reader.time_base for p in back] == [p.pts * TICK for p in packets]
    assert [p.duration * reader.time_base for p in back] == [TICK] * 20
    assert list(tmp_path.iterdir()) == [tmp_path / "a.mp4"]
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 20


@pytest.mark.parametrize(("encoder", "codec", "tag"), [("x264", "h264", "avc1"), ("x265", "hevc", "hvc1")])
def test_other_codecs_have_their_parameter_sets_in_the_header(
    tmp_path: Path, encoder: NalEncoderName, codec: str, tag: str
) -> None:
    settings = NalSettings(
        encoder=encoder, width=96, height=64, frame_rate=RATE, time_base=TICK, crf=30, preset="fast"
    )
    packets = encode_nal_gop(pictures(9), settings)
    kind = NalCodec.H264 if codec == "h264" else NalCodec.H265
    nals = split_nal_units(packets[0].data)
    sets = [nal.data for nal in nals if nal_type(nal, kind) in (7, 8, 32, 33, 34)]
    with Mp4Writer(tmp_path / "a.mp4", time_base=TICK, frame_rate=RATE, color=COLOR) as writer:
        writer.describe(codec, join_nal_units(sets))
        for packet in packets:
            units = split_nal_units(packet.data)
            kept = join_nal_units((nal.data for nal in units if nal.data not in sets), length_size=4)
            writer.write(replace(packet, data=kept, dts=packet.dts - 4))
        writer.commit()
    reader = PacketReader(tmp_path / "a.mp4", ("h264", "hevc"))
    assert (reader.codec, reader.width, reader.height, reader.color) == (codec, 96, 64, COLOR)
    # To the byte: no zero of a start code is left at the end of one.
    assert reader.extradata is not None
    written: list[bytes] = []
    map_parameter_sets(reader.extradata, lambda nal: written.append(nal) or nal, codec=kind)  # type: ignore[func-returns-value]
    assert [nal for nal in written if nal in sets] == sets
    assert [len(nal) for nal in written[-len(sets) :]] == [len(nal) for nal in sets]
    times = [round(p.pts * reader.time_base / TICK) for p in reader]
    assert times == [p.pts for p in packets]
    with av.open(str(tmp_path / "a.mp4"), options={"err_detect": "explode"}) as container:
        assert container.streams.video[0].codec_context.codec_tag == tag
        assert sum(1 for _ in container.decode(video=0)) == 9


def test_codecs_that_cannot_be_described(tmp_path: Path) -> None:
    with (
        Mp4Writer(tmp_path / "a.mp4", time_base=TICK, frame_rate=RATE) as writer,
        pytest.raises(MediaError, match="codec 'vp9', expected one of h264, hevc"),
    ):
        writer.describe("vp9", b"")


def test_index_comes_first(tmp_path: Path) -> None:
    data = write(tmp_path / "fast.mp4", coded(4)).read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_irregular_times_survive(tmp_path: Path) -> None:
    times = [0, 7, 9, 100, 101, 777]
    unit = Fraction(1, 1000)
    clip = pictures(6, pts=times, time_base=unit)
    packets = encode_gop(clip, replace(SETTINGS, time_base=unit))
    path = tmp_path / "vfr.mp4"
    with Mp4Writer(path, time_base=unit, frame_rate=RATE, sample_aspect_ratio=Fraction(4, 3)) as writer:
        for packet in packets:
            writer.write(packet)
        writer.commit()
    reader = PacketReader(path)
    assert [p.pts * reader.time_base * 1000 for p in reader] == times
    assert reader.sample_aspect_ratio == Fraction(4, 3)


def test_gops_and_seeking(tmp_path: Path) -> None:
    packets = coded(20, 8)
    reader = PacketReader(write(tmp_path / "gops.mp4", packets))
    gops = list(reader.iter_gops())
    assert [len(gop.packets) for gop in gops] == [8, 8, 4]
    assert [gop.index for gop in gops] == [0, 1, 2]
    assert reader.keyframe_pts() == [gop.pts for gop in gops]
    assert gops[1].size_bytes == sum(len(bare(p)) for p in packets[8:16])
    (last,) = reader.iter_gops(start_seconds=17 / 30)
    assert [p.data for p in last.packets] == [bare(p) for p in packets[16:]]
    assert len(list(reader.iter_gops(start_seconds=16 / 30))) == 1
    assert len(list(reader.iter_gops(start_seconds=15.9 / 30))) == 2


def test_overlong_gop_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = PacketReader(write(tmp_path / "limit.mp4", coded(10, 10)))
    monkeypatch.setattr(packet_reader, "MAX_GOP_PACKETS", 9)
    with pytest.raises(MediaError, match="GOP 0 has 10 packets"):
        list(reader.iter_gops())


@pytest.mark.parametrize("suffix", [".mkv", ".webm"])
def test_other_containers_are_read(tmp_path: Path, suffix: str) -> None:
    path = write_clip(
        tmp_path / f"b{suffix}", pictures(12), codec="libsvtav1", options={"preset": "10", "g": "6"}
    )
    reader = PacketReader(path)
    assert [len(gop.packets) for gop in reader.iter_gops()] == [6, 6]
    assert len(reader.keyframe_pts()) == 2


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize(("library", "codec"), [("libx264", "h264"), ("libx265", "hevc")])
def test_other_codecs_come_in_decoding_order(tmp_path: Path, library: str, codec: str, suffix: str) -> None:
    params = "keyint=12:min-keyint=12:scenecut=0:open-gop=0:bframes=3:b-adapt=0"
    options = {"preset": "fast", f"{library[3:]}-params": params}
    path = write_clip(tmp_path / f"a.{suffix}", pictures(40), codec=library, options=options)
    reader = PacketReader(path, ("av1", "h264", "hevc"))
    assert reader.codec == codec
    packets = list(reader)
    times = [round((p.pts - reader.start_pts) * reader.time_base / TICK) for p in packets]
    assert sorted(times) == list(range(40))
    assert times != sorted(times)
    assert [t for t, p in zip(times, packets, strict=True) if p.is_keyframe] == [0, 12, 24, 36]
    assert all(p.dts <= p.pts for p in packets)
    if suffix == "mp4":  # Matroska has no decoding times
        assert [p.dts for p in packets] == sorted({p.dts for p in packets})
    assert reader.keyframe_pts() == [p.pts for p in packets if p.is_keyframe]
    for start in range(40):
        pts = packets[times.index(start)].pts - reader.start_pts
        found = list(reader.packets(float(pts * reader.time_base)))
        first = times.index(start // 12 * 12)
        if suffix == "ts":  # which has no index
            first = len(packets) - len(found)
            assert found[0].is_keyframe
            assert times[first] <= start
        assert [(p.data, p.pts) for p in found] == [(p.data, p.pts) for p in packets[first:]]
    assert PacketReader(path, (codec,)).codec == codec
    with pytest.raises(MediaError, match=f"its video is {codec}, expected av1$"):
        PacketReader(path)
    with pytest.raises(MediaError, match=f"its video is {codec}, expected av1 or vp9"):
        PacketReader(path, ("av1", "vp9"))


@pytest.mark.parametrize(
    ("library", "suffix", "has_times"),
    [
        *((library, suffix, True) for library in ("libx264", "libx265") for suffix in ("mp4", "mkv", "ts")),
        ("libx264", "h264", False),
        ("libx265", "hevc", False),
        ("libx264", "avi", False),
    ],
)
def test_which_containers_say_when_pictures_are_shown(
    tmp_path: Path, library: str, suffix: str, has_times: bool
) -> None:
    path = tmp_path / f"a.{suffix}"
    options = {"bf": "3", f"{library[3:]}-params": "log-level=none:b-adapt=0:bframes=3"}
    with av.open(str(path), "w") as output:
        stream = output.add_stream(library, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for picture in pictures(12):
            output.mux(stream.encode(picture.to_frame()))
        output.mux(stream.encode(None))
    reader = PacketReader(path, ("h264", "hevc"))
    assert reader.has_times is has_times
    assert len(list(reader)) == 12


def test_not_av1(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"c\.mp4: its video is h264, expected av1"):
        PacketReader(write_clip(tmp_path / "c.mp4", pictures(2)))
    with pytest.raises(MediaError, match="no video track"):
        PacketReader(write_audio_only(tmp_path / "d.mp4"))


@pytest.mark.parametrize(
    ("suffix", "codec", "expected"),
    [
        (".mp4", "aac", "aac"),
        (".mkv", "libmp3lame", "mp3"),
        (".mkv", "libopus", "opus"),
        (".mkv", "flac", "flac"),
        (".mkv", "pcm_s16le", "aac"),
        (".ts", "aac", "aac"),
    ],
)
def test_audio_is_copied_or_transcoded(tmp_path: Path, suffix: str, codec: str, expected: str) -> None:
    source = write_clip(tmp_path / f"source{suffix}", pictures(20), audio=codec, audio_seconds=0.7)
    path = write(tmp_path / "out.mp4", coded(), audio_from=source)
    with av.open(str(source)) as a, av.open(str(path)) as b:
        original, copy = a.streams.audio[0], b.streams.audio[0]
        assert copy.codec_context.codec.canonical_name == expected
        before, after = ([bytes(p) for p in c.demux(s) if p.size] for c, s in ((a, original), (b, copy)))
    # MPEG-TS wraps AAC in ADTS headers, which MP4 drops.
    if suffix != ".ts" and codec != "pcm_s16le":
        assert before == after
    with av.open(str(path)) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
    assert samples / 48000 == pytest.approx(0.7, abs=0.08)
    assert len(list(PacketReader(path))) == 20


def test_audio_follows_the_origin(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "source.mp4", pictures(30), audio="aac", audio_seconds=1.0)
    packets = [p for p in coded(30, 10) if p.pts >= 10]
    path = write(
        tmp_path / "out.mp4",
        packets,
        audio_from=source,
        origin_seconds=Fraction(1, 3),
        audio_end_seconds=Fraction(2, 3),
    )
    reader = PacketReader(path)
    assert next(iter(reader)).pts == 0
    with av.open(str(path)) as container:
        times = [float(f.time) for f in container.decode(audio=0)]
    assert times[0] == pytest.approx(0, abs=0.03)
    assert times[-1] == pytest.approx(1 / 3, abs=0.05)


def test_source_without_audio_gives_none(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "silent.mp4", pictures(2))
    path = write(tmp_path / "out.mp4", coded(4), audio_from=source)
    assert not VideoSource(path).has_audio


def test_existing_file_needs_overwrite(tmp_path: Path) -> None:
    packets = coded(4)
    path = write(tmp_path / "e.mp4", packets)
    before = path.read_bytes()
    with pytest.raises(MediaError, match="exists already"):
        write(path, packets)
    assert path.read_bytes() == before
    write(path, packets[:2], overwrite=True)
    assert len(list(PacketReader(path))) == 2


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_interruption_leaves_nothing(tmp_path: Path, failure: type[BaseException]) -> None:
    packets = coded(4)

    def interrupted() -> None:
        with Mp4Writer(tmp_path / "f.mp4", time_base=TICK, frame_rate=RATE) as writer:
            writer.write(packets[0])
            assert [p.name[:11] for p in tmp_path.iterdir()] == [".f.mp4.part"]
            raise failure

    with pytest.raises(failure):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_unwritable_targets(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="there is no directory"):
        Mp4Writer(tmp_path / "nowhere" / "g.mp4", time_base=TICK, frame_rate=RATE)
    with pytest.raises(MediaError, match="is a directory"):
        Mp4Writer(tmp_path, time_base=TICK, frame_rate=RATE, overwrite=True)
    with pytest.raises(MediaError, match="no video packet"):
        write(tmp_path / "h.mp4", [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_directory(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(MediaError, match="cannot be written"):
        Mp4Writer(tmp_path / "i.mp4", time_base=TICK, frame_rate=RATE)


def test_full_disk(tmp_path: Path) -> None:
    packets = coded(20)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
    try:
        with pytest.raises(MediaError, match=r"full\.mp4: cannot be written"):
            write(tmp_path / "full.mp4", packets)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_copy_with_changes_only_what_it_is_told(tmp_path: Path, suffix: str) -> None:
    source = write_clip(
        tmp_path / "in.mp4", pictures(20), codec="libsvtav1", options={"preset": "10", "g": "8"},
        rotation=90, audio="aac", audio_seconds=0.6,
    )  # fmt: skip
    metadata_obu = bytes([0x2A, 4, 4, 1, 2, 0x80])

    def transform(packet: CodedPacket) -> bytes:
        return packet.data + metadata_obu if packet.is_keyframe else packet.data

    path = tmp_path / f"out{suffix}"
    copy_with(source, path, transform)
    before, after = PacketReader(source), PacketReader(path)
    old, new = list(before), list(after)
    assert [p.data for p in new] == [transform(p) for p in old]
    shift = float(new[0].pts * after.time_base - old[0].pts * before.time_base)
    # The AAC encoder's priming makes sound start 1024 samples before 0, which only MP4 can express.
    assert shift == pytest.approx(0 if suffix == ".mp4" else 1024 / 48000, abs=1e-3)
    for a, b in zip(old, new, strict=True):
        assert float(b.pts * after.time_base) - shift == pytest.approx(
            float(a.pts * before.time_base), abs=2e-3
        )
    assert after.rotation == before.rotation == 90
    assert after.extradata == before.extradata
    sound = []
    for name in (source, path):
        with av.open(str(name)) as container:
            sound.append([bytes(p) for p in container.demux(audio=0) if p.size])
    assert sound[0] == sound[1]
    assert sound[0]


def test_copy_with_failure_leaves_nothing(tmp_path: Path) -> None:
    source = write(tmp_path / "in.mp4", coded(4))

    def broken(packet: CodedPacket) -> bytes:
        raise RuntimeError("transform failed")

    with pytest.raises(RuntimeError):
        copy_with(source, tmp_path / "out.mp4", broken)
    with pytest.raises(MediaError, match="unknown file type"):
        copy_with(source, tmp_path / "out.avi", lambda packet: packet.data)
    assert list(tmp_path.iterdir()) == [source]
