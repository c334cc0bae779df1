"""Adding prompts to files that exist already."""

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from encode_media import TICK, LumaJudge, Oracle, audio_packets, packets_of, scenes, write_source

from hybridprompt.bitstream.obu import ObuType, iterate_obus
from hybridprompt.decode.video_file import VideoFile
from hybridprompt.encode import enhance
from hybridprompt.encode.enhance import BLIND_LATER_QUANTISERS, BLIND_QUANTISERS, enhance_file
from hybridprompt.encode.progress import Progress
from hybridprompt.errors import ConfigError, GeneratorError, MediaError
from hybridprompt.generator.fake import FakeGenerator
from hybridprompt.prompt.carriage import attach, detach, extract
from hybridprompt.prompt.gate import GateMap
from hybridprompt.prompt.sections import build_prompt, parse_sections
from hybridprompt.prompt.syntax import decode_prompt, encode_prompt
from hybridprompt.video.av1_encoder import Av1Settings, CodedPacket, encode_gop
from hybridprompt.video.container import Mp4Writer
from hybridprompt.video.picture import Picture
from nal_prompted_media import still_of
from prompted_media import assert_same, ffmpeg_decode

LENGTHS = (40, 30)
WIDTH, HEIGHT = 160, 96


@pytest.fixture(autouse=True, scope="module")
def luma_judge() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(enhance, "make_judge", lambda scale: LumaJudge())
        yield


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return scenes(*LENGTHS, width=WIDTH, height=HEIGHT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("enhance")


@pytest.fixture(scope="module")
def source(pictures: list[Picture], folder: Path) -> Path:
    return write_source(folder / "source.mp4", pictures, audio_seconds=2.0)


def coded(
    pictures: list[Picture], *, lengths: tuple[int, ...] = LENGTHS, **options: object
) -> list[CodedPacket]:
    settings = Av1Settings(
        width=pictures[0].width,
        height=pictures[0].height,
        frame_rate=Fraction(30),
        time_base=TICK,
        preset=10,
        **{"crf": 62.0, **options},
    )
    packets: list[CodedPacket] = []
    for length in lengths:
        first = len(packets)
        packets += encode_gop(pictures[first : first + length], settings)
    return packets


def write(path: Path, packets: list[CodedPacket], audio_from: Path | None = None) -> Path:
    with Mp4Writer(path, time_base=TICK, frame_rate=Fraction(30), audio_from=audio_from) as writer:
        for packet in packets:
            writer.write(packet)
        writer.commit()
    return path


@pytest.fixture(scope="module")
def base(pictures: list[Picture], source: Path, folder: Path) -> Path:
    return write(folder / "base.mp4", coded(pictures), source)


@pytest.fixture(scope="module")
def enhanced(base: Path, source: Path, pictures: list[Picture], folder: Path):
    told: list[Progress] = []
    out = folder / "enhanced.mp4"
    summary = enhance_file(
        base, out, reference=source, preset="fast", generator=Oracle(pictures), progress=told.append
    )
    return out, summary, told


def prompts_of(path: Path) -> dict[int, bytes]:
    found = {index: extract(packet.data) for index, packet in enumerate(packets_of(path))}
    return {index: prompt for index, prompt in found.items() if prompt is not None}


def assert_only_prompts_differ(enhanced: Path, base: Path) -> None:
    before, after = packets_of(base), packets_of(enhanced)
    assert [replace(packet, data=detach(packet.data)) for packet in after] == before


def test_packets_are_the_same_but_for_the_prompts(enhanced, base: Path) -> None:
    path, _, _ = enhanced
    assert_only_prompts_differ(path, base)
    assert audio_packets(path) == audio_packets(base)
    assert_same(ffmpeg_decode(path), ffmpeg_decode(base))


def test_prompts_help(enhanced, base: Path, pictures: list[Picture]) -> None:
    path, summary, _ = enhanced
    assert {0, 40} <= set(prompts_of(path))
    with VideoFile(path, generators=[Oracle(pictures)]) as video:
        shown = [p.y.astype(int) for p in video]
        assert video.warnings == ()
    plain = [planes[0].astype(int) for planes in ffmpeg_decode(base)]

    def distance(decoded: list[np.ndarray]) -> float:
        return float(np.mean([np.abs(d - p.y).mean() for d, p in zip(decoded, pictures, strict=True)]))

    assert distance(shown) < distance(plain)
    assert summary.distances is not None
    assert summary.distances.decoded < summary.distances.base


def test_summary_is_what_the_file_holds(enhanced, base: Path) -> None:
    path, summary, told = enhanced
    assert summary.frames == sum(LENGTHS)
    assert summary.gops == 2
    assert summary.anchors == len(prompts_of(path))
    assert summary.base_bytes == sum(len(p.data) for p in packets_of(base))
    assert summary.base_bytes + summary.prompt_bytes == sum(len(p.data) for p in packets_of(path))
    assert summary.duration_seconds == pytest.approx(sum(LENGTHS) / 30)
    assert summary.notes == ()
    assert [(p.stage, p.done) for p in told] == [("encode", 40), ("encode", 70), ("write", 70)]


def test_enhancing_again_replaces_the_prompts(enhanced, source: Path, pictures, tmp_path: Path) -> None:
    path, first, _ = enhanced
    again = tmp_path / "again.mp4"
    summary = enhance_file(path, again, reference=source, preset="fast", generator=Oracle(pictures))
    assert again.read_bytes() == path.read_bytes()
    assert (summary.base_bytes, summary.prompt_bytes) == (first.base_bytes, first.prompt_bytes)
    # With a generator that harms, none are left.
    none = tmp_path / "none.mp4"
    summary = enhance_file(path, none, reference=source, preset="fast", generator=FakeGenerator(90))
    assert prompts_of(none) == {}
    assert "no prompts" in summary.notes[0]


def test_blind_mode_generates_keyframes_of_known_quantisers(base: Path, pictures, tmp_path: Path) -> None:
    out = tmp_path / "blind.mp4"
    summary = enhance_file(base, out, generator=FakeGenerator())
    assert_only_prompts_differ(out, base)
    prompts = prompts_of(out)
    assert list(prompts) == [0, 40]
    assert summary.anchors == 2
    assert summary.distances is None
    for data in prompts.values():
        prompt = decode_prompt(data)
        content = parse_sections(prompt)
        assert content.quantiser in BLIND_QUANTISERS
        assert (content.gate.strengths() == 1).all()
        assert prompt.generator_id == b"fakefake"
    fine = write(tmp_path / "fine.mp4", coded(pictures, crf=15.0))
    summary = enhance_file(fine, tmp_path / "fine-out.mp4", generator=FakeGenerator())
    assert prompts_of(tmp_path / "fine-out.mp4") == {}
    assert "no prompts" in summary.notes[0]


@pytest.fixture(scope="module")
def long_gop(folder: Path) -> Path:
    """One GOP with a base picture of a later mini-GOP in it."""
    return write(folder / "long.mp4", coded(scenes(72, width=WIDTH, height=HEIGHT), lengths=(72,)))


def test_blind_mode_generates_later_anchors_by_what_has_arrived(long_gop: Path, tmp_path: Path) -> None:
    enhance_file(long_gop, tmp_path / "blind.mp4", generator=FakeGenerator())
    assert_only_prompts_differ(tmp_path / "blind.mp4", long_gop)
    first, *later = (
        parse_sections(decode_prompt(data)) for data in prompts_of(tmp_path / "blind.mp4").values()
    )
    assert (first.gate.strengths() == 1).all()
    assert len(later) == 1
    assert later[0].quantiser in BLIND_LATER_QUANTISERS
    # The generator's brightness comes along with motion.
    assert later[0].gate.strengths().mean() < 0.75
    assert later[0].gate.strengths().min() >= 0.25
    enhance_file(long_gop, tmp_path / "keyframe.mp4", generator=FakeGenerator(), anchor_interval=None)
    assert list(prompts_of(tmp_path / "keyframe.mp4")) == [0]


def test_blind_mode_of_a_gop_that_breaks_off_generates_the_keyframe(
    long_gop: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = tmp_path / "damaged.mp4"
    packets = packets_of(long_gop)
    frame = next(o for o in iterate_obus(packets[5].data) if o.type in (ObuType.FRAME, ObuType.FRAME_HEADER))
    damage(long_gop, damaged, 5, keep=frame.payload_offset, until=frame.stop)
    enhance_file(damaged, tmp_path / "out.mp4", generator=FakeGenerator())
    assert list(prompts_of(tmp_path / "out.mp4")) == [0]
    assert "keyframe only" in caplog.text


@pytest.mark.parametrize("suffix", [".mkv", ".webm"])
def test_other_containers(base: Path, source: Path, pictures, tmp_path: Path, suffix: str) -> None:
    copied = tmp_path / f"copied{suffix}"
    with av.open(str(base)) as reader, av.open(str(copied), "w") as writer:
        stream = reader.streams.video[0]
        target = writer.add_stream_from_template(stream, opaque=True)
        for packet in reader.demux(stream):
            if packet.size:
                packet.stream = target
                writer.mux(packet)
    out = tmp_path / f"out{suffix}"
    enhance_file(copied, out, reference=source, preset="fast", generator=Oracle(pictures))
    assert {0, 40} <= set(prompts_of(out))
    assert_only_prompts_differ(out, copied)
    assert_same(ffmpeg_decode(out), ffmpeg_decode(base))


def test_a_reference_with_another_start_and_clock(base: Path, enhanced, pictures, tmp_path: Path) -> None:
    late = [replace(p, pts=90 + i) for i, p in enumerate(pictures)]
    reference = write_source(tmp_path / "late.mkv", late, codec="ffv1")
    out = tmp_path / "out.mp4"
    summary = enhance_file(base, out, reference=reference, preset="fast", generator=Oracle(pictures))
    assert {0, 40} <= set(prompts_of(out))
    assert summary.distances.base == pytest.approx(enhanced[1].distances.base, abs=0.3)


# ------------------------------------------------------------------------------ what cannot carry prompts


def test_film_grain_is_left_alone(pictures, source: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noisy = [
        replace(p, y=np.clip(p.y + rng.normal(0, 9, p.y.shape), 0, 255).astype(np.uint8)) for p in pictures
    ]
    base = write(tmp_path / "grain.mp4", coded(noisy, extra=(("film-grain", "30"),)))
    for reference in (None, source):
        out = tmp_path / f"out-{reference is None}.mp4"
        summary = enhance_file(base, out, reference=reference, preset="fast", generator=Oracle(pictures))
        assert prompts_of(out) == {}
        assert "2 of 2 GOPs cannot carry prompts: film grain" in summary.notes[0]
        assert_only_prompts_differ(out, base)


def test_ten_bits_are_left_alone(pictures, source: Path, tmp_path: Path) -> None:
    encoder = av.CodecContext.create("libsvtav1", "w")
    encoder.width, encoder.height, encoder.pix_fmt = WIDTH, HEIGHT, "yuv420p10le"
    encoder.time_base, encoder.framerate = TICK, Fraction(30)
    encoder.options = {"preset": "12", "crf": "62", "svtav1-params": "keyint=240:lp=1"}
    coded = []
    for index, picture in enumerate(pictures[:20]):
        frame = picture.to_frame().reformat(format="yuv420p10le")
        frame.pts, frame.time_base = index, TICK
        coded += encoder.encode(frame)
    coded += encoder.encode(None)
    packets = [CodedPacket(bytes(p), i, i, 1, i == 0) for i, p in enumerate(coded)]
    base = write(tmp_path / "ten.mp4", packets)
    for reference in (None, source):
        out = tmp_path / f"out-{reference is None}.mp4"
        summary = enhance_file(base, out, reference=reference, preset="fast", generator=FakeGenerator())
        assert prompts_of(out) == {}
        assert "1 of 1 GOPs" in summary.notes[0]


def damage(base: Path, damaged: Path, packet: int, *, keep: int, until: int | None = None) -> None:
    """Fill part of a packet of an MP4 file with ones."""
    data = packets_of(base)[packet].data
    whole = base.read_bytes()
    assert whole.count(data) == 1
    end = len(data) if until is None else until
    damaged.write_bytes(whole.replace(data, data[:keep] + b"\xff" * (end - keep) + data[end:]))


@pytest.mark.parametrize("blind", [False, True])
def test_a_gop_that_cannot_be_decoded_is_left_alone(
    base: Path, pictures, source: Path, tmp_path: Path, blind: bool
) -> None:
    damaged = tmp_path / "damaged.mp4"
    packets = packets_of(base)
    broken = 40 if blind else 41
    # All OBU headers stay, the frames' own headers do not.
    frame = next(o for o in iterate_obus(packets[broken].data) if o.type is ObuType.FRAME)
    damage(base, damaged, broken, keep=frame.payload_offset, until=frame.stop)
    out = tmp_path / "out.mp4"
    reference = None if blind else source
    summary = enhance_file(damaged, out, reference=reference, preset="fast", generator=Oracle(pictures))
    before, after = packets_of(damaged), packets_of(out)
    assert len(before) == len(after) == summary.frames == 70
    assert [p.data for p in after[40:]] == [p.data for p in before[40:]]
    assert extract(after[0].data) is not None
    assert "1 of 2 GOPs cannot carry prompts" in summary.notes[0]


@pytest.mark.parametrize("packet", [40, 45])
def test_a_packet_that_is_no_av1_is_an_error(base: Path, tmp_path: Path, packet: int) -> None:
    """FFmpeg's MP4 muxer would write a file that breaks off there."""
    damaged = tmp_path / "damaged.mp4"
    damage(base, damaged, packet, keep=0)
    with pytest.raises(MediaError, match=r"damaged\.mp4: the packet with pts \d+ is damaged"):
        enhance_file(damaged, tmp_path / "out.mp4", generator=FakeGenerator())
    assert [p.name for p in tmp_path.iterdir()] == ["damaged.mp4"]


def test_endless_gop_is_judged_by_its_beginning(
    pictures, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = []

    class Watched(enhance.GopGate):
        def decide(self):
            lengths.append(len(self.gop.packets))
            return super().decide()

    monkeypatch.setattr(enhance, "GopGate", Watched)
    monkeypatch.setattr(enhance, "MAX_GOP_FRAMES", 24)
    base = write(tmp_path / "base.mp4", coded(pictures))
    out = tmp_path / "out.mp4"
    summary = enhance_file(base, out, reference=source, preset="fast", generator=Oracle(pictures))
    assert (summary.frames, summary.gops) == (70, 2)
    assert list(prompts_of(out)) == [0, 40]
    assert lengths == [24, 24]
    assert summary.base_bytes == sum(len(p.data) for p in packets_of(base))
    assert summary.duration_seconds == pytest.approx(70 / 30)
    assert_only_prompts_differ(out, base)


def test_pictures_before_the_first_keyframe_keep_their_place(pictures, source, tmp_path: Path) -> None:
    """A file cut in the middle of a GOP: prompts must not move to other packets."""
    base = tmp_path / "cut.mp4"
    whole = write(tmp_path / "whole.mp4", coded(pictures))
    with av.open(str(whole)) as reader, av.open(str(base), "w") as writer:
        stream = reader.streams.video[0]
        target = writer.add_stream_from_template(stream, opaque=True)
        for packet in reader.demux(stream):
            if packet.size and packet.pts * packet.time_base >= Fraction(37, 30):
                packet.stream = target
                packet.pts = packet.dts = packet.pts - round(Fraction(37, 30) / packet.time_base)
                writer.mux(packet)
    reference = write_source(
        tmp_path / "reference.mkv", [replace(p, pts=i) for i, p in enumerate(pictures[37:])], codec="ffv1"
    )
    out = tmp_path / "out.mp4"
    summary = enhance_file(base, out, reference=reference, preset="fast", generator=Oracle(pictures))
    assert summary.gops == 1
    assert min(prompts_of(out)) == 3
    assert_only_prompts_differ(out, base)


# -------------------------------------------------------------------------------------------------- refusals


def test_reference_must_fit(base: Path, pictures, tmp_path: Path) -> None:
    small = write_source(tmp_path / "small.mp4", scenes(70, width=128, height=96))
    with pytest.raises(ConfigError, match="is 128x96, the video is 160x96"):
        enhance_file(base, tmp_path / "out.mp4", reference=small, generator=FakeGenerator())
    short = write_source(tmp_path / "short.mp4", pictures[:50])
    with pytest.raises(MediaError, match="has no picture at"):
        enhance_file(base, tmp_path / "out.mp4", reference=short, preset="fast", generator=FakeGenerator())
    with pytest.raises(MediaError, match=r"nothing\.mp4"):
        enhance_file(
            base, tmp_path / "out.mp4", reference=tmp_path / "nothing.mp4", generator=FakeGenerator()
        )
    assert not (tmp_path / "out.mp4").exists()


def test_input_must_be_av1(source: Path, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="h264"):
        enhance_file(source, tmp_path / "out.mp4", generator=FakeGenerator())
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(MediaError, match=r"text\.mp4"):
        enhance_file(tmp_path / "text.mp4", tmp_path / "out.mp4", generator=FakeGenerator())
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize("keyframe", [0, 40])
@pytest.mark.parametrize("judged", [False, True])
def test_a_keyframe_that_is_in_its_prompt_only_is_never_taken_away(
    base: Path, source: Path, pictures, tmp_path: Path, keyframe: int, judged: bool
) -> None:
    """Files of mode replace, whose prompts may generate nothing."""
    gate = GateMap.uniform(WIDTH, HEIGHT, index=0)
    prompt = build_prompt(b"fakefake", WIDTH, HEIGHT, None, gate, still_of(pictures[keyframe]))
    packets = packets_of(base)
    packets = [replace(p, pts=i, dts=i, duration=1) for i, p in enumerate(packets)]
    stub = attach(packets[keyframe].data, encode_prompt(prompt))
    packets[keyframe] = replace(packets[keyframe], data=stub)
    replaced = write(tmp_path / "replaced.mp4", packets)
    before, reference = replaced.read_bytes(), source if judged else None
    with pytest.raises(MediaError, match=r"replaced\.mp4: the keyframe with pts \d+ is in its prompt only"):
        enhance_file(
            replaced, tmp_path / "out.mp4", reference=reference, preset="fast", generator=FakeGenerator()
        )
    assert [path.name for path in tmp_path.iterdir()] == ["replaced.mp4"]
    assert replaced.read_bytes() == before


def test_prompts_that_no_player_can_read_are_replaced(base: Path, tmp_path: Path) -> None:
    gate = GateMap.uniform(WIDTH, HEIGHT)
    good = encode_prompt(build_prompt(b"stranger", WIDTH, HEIGHT, 90, gate))
    packets = [replace(p, pts=i, dts=i, duration=1) for i, p in enumerate(packets_of(base))]
    for index in (0, 40):
        packets[index] = replace(packets[index], data=attach(packets[index].data, good[:-1]))
    out = tmp_path / "out.mp4"
    enhance_file(write(tmp_path / "damaged.mp4", packets), out, generator=FakeGenerator())
    assert [decode_prompt(p).generator_id for p in prompts_of(out).values()] == [b"fakefake"] * 2


def test_output_is_protected(base: Path, tmp_path: Path) -> None:
    before = base.read_bytes()
    with pytest.raises(ConfigError, match="same file"):
        enhance_file(base, base, generator=FakeGenerator(), overwrite=True)
    (tmp_path / "out.mp4").write_bytes(b"precious")
    with pytest.raises(MediaError, match="exists already"):
        enhance_file(base, tmp_path / "out.mp4", generator=FakeGenerator())
    assert (tmp_path / "out.mp4").read_bytes() == b"precious"
    enhance_file(base, tmp_path / "out.mp4", generator=FakeGenerator(), overwrite=True)
    assert len(packets_of(tmp_path / "out.mp4")) == 70
    assert base.read_bytes() == before


@pytest.mark.parametrize("bad", [{"preset": "placebo"}, {"anchor_interval": 0}, {"anchor_interval": 20}])
def test_settings_are_checked(base: Path, tmp_path: Path, bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        enhance_file(base, tmp_path / "out.mp4", generator=FakeGenerator(), **bad)


def test_a_failing_generator_is_an_error(base: Path, source: Path, tmp_path: Path) -> None:
    class Failing(FakeGenerator):
        def generate(self, *arguments: object, **options: object):
            raise GeneratorError("no memory")

    with pytest.raises(GeneratorError, match="no memory"):
        enhance_file(base, tmp_path / "out.mp4", reference=source, preset="fast", generator=Failing())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stage", ["encode", "write"])
def test_interruption_leaves_nothing(base: Path, tmp_path: Path, stage: str) -> None:
    def stop(progress: Progress) -> None:
        if progress.stage == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        enhance_file(base, tmp_path / "out.mp4", generator=FakeGenerator(), progress=stop)
    assert list(tmp_path.iterdir()) == []
