"""Reports of what a file spends where."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import hybridprompt
from hybridprompt.bitstream.nal import NalCodec
from hybridprompt.bitstream.obu import insert_metadata
from hybridprompt.decode.inspect import AdapterReport, StillReport, inspect_file
from hybridprompt.errors import MediaError
from hybridprompt.generator.fake import FakeGenerator
from hybridprompt.prompt.carriage import METADATA_TYPE
from hybridprompt.prompt.sections import Adapter, Still, StillCodec, build_prompt
from hybridprompt.prompt.syntax import Prompt, Section, encode_prompt
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.peer_encoder import write_lossless
from nal_media import moving, mp4_file, read_mp4
from nal_prompted_media import still_of, still_prompt, write_nal_file
from prompted_media import (
    ANCHORS,
    GOP_LENGTH,
    HEIGHT,
    WIDTH,
    a_prompt,
    moving_pictures,
    with_prompt,
    write_mp4,
)

Gop = list[CodedPacket]
# OBU header, one byte of size, metadata type, trailing bits.
OBU_BYTES = 4


def test_every_byte_is_accounted_for(prompted_file: Path, base_gops: list[Gop]) -> None:
    report = inspect_file(prompted_file, generators=[FakeGenerator()])
    assert (report.width, report.height, report.picture_count) == (WIDTH, HEIGHT, 85)
    assert report.size_bytes == prompted_file.stat().st_size
    assert report.average_rate == 30
    assert report.duration_seconds == pytest.approx(85 / 30, abs=1e-3)
    prompt_bytes = len(encode_prompt(a_prompt())) + OBU_BYTES
    for number, (gop, packets) in enumerate(zip(report.gops, base_gops, strict=True)):
        assert gop.start_seconds == pytest.approx(number * GOP_LENGTH / 30, abs=1e-4)
        assert gop.duration_seconds == pytest.approx(GOP_LENGTH / 30, abs=1e-3)
        assert gop.picture_count == GOP_LENGTH
        # MP4 holds temporal units without their delimiter of two bytes (AV1-ISOBMFF 2.4).
        assert gop.base_bytes == sum(len(packet.data) - 2 for packet in packets)
        assert gop.prompt_bytes == len(ANCHORS) * prompt_bytes
    assert report.base_kbps == pytest.approx(report.base_bytes * 8 / 1000 / (85 / 30), rel=1e-3)
    assert report.prompt_kbps == pytest.approx(report.prompt_bytes * 8 / 1000 / (85 / 30), rel=1e-3)


def test_anchors_are_described(prompted_file: Path) -> None:
    report = inspect_file(prompted_file, generators=[FakeGenerator()])
    anchor = report.gops[1].anchors[1]
    assert anchor.is_ok
    assert anchor.pts_seconds == pytest.approx((GOP_LENGTH + ANCHORS[1]) / 30, abs=1e-4)
    assert (anchor.generator_id, anchor.generator_name) == (b"fakefake".hex(), "fake")
    assert [(section.type, section.name) for section in anchor.sections] == [(1, "quantiser"), (2, "gate")]
    assert anchor.sections[0].size_bytes == 1
    assert anchor.quantiser == 90
    # Five columns of blocks, of which the first is 0 and the others 1.
    assert anchor.gate_coverage == pytest.approx(0.8)
    assert anchor.gate_strength == pytest.approx(0.8)
    assert inspect_file(prompted_file).gops[0].anchors[0].generator_name is None


def test_adapters_are_described(tmp_path: Path, base_gops: list[Gop]) -> None:
    adapter = Adapter(np.array([0, 3, 0, -2], np.int8))
    prompt = build_prompt(b"fakefake", WIDTH, HEIGHT, 90, None, adapter=adapter)
    gop = [with_prompt(base_gops[0][0], encode_prompt(prompt)), *base_gops[0][1:]]
    (anchor,) = inspect_file(write_mp4(tmp_path / "adapted.mp4", gop)).anchors
    assert anchor.is_ok
    assert (anchor.sections[1].type, anchor.sections[1].name) == (4, "adapter")
    assert anchor.adapter == AdapterReport(4, 2, anchor.sections[1].size_bytes)
    json.dumps(inspect_file(tmp_path / "adapted.mp4").as_dict())


def test_bad_prompts_are_told_apart(tmp_path: Path, base_gops: list[Gop]) -> None:
    good = encode_prompt(a_prompt())
    gop = list(base_gops[0])
    gop[0] = with_prompt(gop[0], good[:20] + bytes([good[20] ^ 1]) + good[21:])
    gop[1] = with_prompt(gop[1], good[:-2])
    twice = insert_metadata(with_prompt(gop[2]).data, METADATA_TYPE, good)
    gop[2] = CodedPacket(twice, gop[2].pts, gop[2].dts, 1, False)
    gop[3] = with_prompt(
        gop[3], encode_prompt(Prompt(b"fakefake", WIDTH, HEIGHT, (Section(77, b"new"), Section(1, b"\x05"))))
    )
    gop[4] = CodedPacket(insert_metadata(gop[4].data, METADATA_TYPE, b"x HPRM"), 4, 4, 1, False)
    report = inspect_file(write_mp4(tmp_path / "bad.mp4", gop))
    assert [anchor.state.split(":")[0] for anchor in report.anchors] == [
        "damaged",
        "damaged",
        "damaged",
        "ok",
    ]
    assert "checksum" in report.anchors[0].state
    assert "truncated" in report.anchors[1].state
    assert "2 prompts" in report.anchors[2].state
    assert report.anchors[2].size_bytes == 2 * (len(good) + OBU_BYTES)
    assert report.anchors[0].quantiser is None
    assert [(s.type, s.name, s.size_bytes) for s in report.anchors[3].sections] == [
        (77, None, 3),
        (1, "quantiser", 1),
    ]
    assert report.anchors[3].gate_coverage == 1


def test_reports_go_into_json(prompted_file: Path) -> None:
    report = inspect_file(prompted_file)
    found = json.loads(json.dumps(report.as_dict()))
    assert found["totals"]["anchor_count"] == 10
    assert found["totals"]["base_bytes"] == report.base_bytes
    assert found["gops"][0]["anchors"][0]["generator_id"] == b"fakefake".hex()


def test_files_without_prompts(base_file: Path) -> None:
    report = inspect_file(base_file)
    assert report.anchors == ()
    assert report.prompt_kbps == 0


def test_other_codecs_are_not_inspected(tmp_path: Path) -> None:
    path = tmp_path / "ffv1.mkv"
    write_lossless(moving_pictures(3), path, Fraction(30))
    with pytest.raises(MediaError, match="ffv1, expected av1 or h264 or hevc"):
        inspect_file(path)


@pytest.mark.parametrize("codec", list(NalCodec))
def test_prompts_of_h264_and_h265(tmp_path: Path, codec: NalCodec) -> None:
    file = mp4_file(moving(24, 98, 70), codec)
    still = still_of(moving(1, 98, 70)[0])
    prompts = {0: still_prompt(still, 98, 70, quantiser=3), 16: a_prompt(size=(98, 70))}
    path = write_nal_file(tmp_path / "nal.mp4", file, codec, prompts)
    report = inspect_file(path, generators=[FakeGenerator()])
    assert (report.width, report.height) == (98, 70)
    assert [gop.picture_count for gop in report.gops] == [16, 8]
    plain = [len(data) for data, _ in read_mp4(file, codec).packets]
    assert [gop.base_bytes for gop in report.gops] == [sum(plain[:16]), sum(plain[16:])]
    first, second = report.anchors
    assert first.is_ok
    assert first.still == StillReport("AV1", 98, 70, len(still.data))
    assert (first.quantiser, first.generator_name) == (3, "fake")
    assert second.still is None
    assert second.pts_seconds == pytest.approx(16 / 30, abs=1e-4)
    # SEI: length, NAL unit header, payload type and size, UUID, trailing bits.
    assert second.size_bytes == pytest.approx(len(encode_prompt(prompts[16])) + 4 + 1 + 2 + 16 + 1, abs=1)


def test_a_still_that_is_none_is_damage(tmp_path: Path) -> None:
    file = mp4_file(moving(6, 98, 70), NalCodec.H264)
    prompt = still_prompt(Still(StillCodec.AV1, b"none"), 98, 70)
    path = write_nal_file(tmp_path / "nal.mp4", file, NalCodec.H264, {0: prompt})
    assert inspect_file(path).anchors[0].state.startswith("damaged")


@pytest.mark.parametrize(
    ("size", "still_size", "message"),
    [
        ((98, 70), (98, 72), "the still is 72 high, expected 18 to 70"),
        ((98, 70), (100, 70), "the still is 100 wide, expected 25 to 98"),
        ((64, 264), (64, 64), "the still is 64 high, expected 66 to 264"),
    ],
)
@pytest.mark.parametrize("codec", list(NalCodec))
def test_a_still_of_an_unfit_size_is_damage_as_for_players(
    tmp_path: Path, codec: NalCodec, size: tuple[int, int], still_size: tuple[int, int], message: str
) -> None:
    file = mp4_file(moving(6, *size), codec)
    prompt = still_prompt(still_of(moving(1, *still_size)[0]), *size)
    path = write_nal_file(tmp_path / "nal.mp4", file, codec, {0: prompt})
    (anchor,) = inspect_file(path).anchors
    assert anchor.state == f"damaged: {message}"
    assert anchor.still is None
    with hybridprompt.open(path, generators=[FakeGenerator()]) as video:
        assert not any(picture.is_anchor for picture in video)
        (warning,) = video.warnings
    assert message in warning.message


def test_a_still_that_is_larger_than_av1_pictures_is_damage(tmp_path: Path, base_gops: list[Gop]) -> None:
    larger, fit = (still_of(moving(1, WIDTH, height)[0]) for height in (HEIGHT + 2, HEIGHT))
    gop = list(base_gops[0])
    for index, still in enumerate((larger, fit)):
        gop[index] = with_prompt(gop[index], encode_prompt(still_prompt(still, WIDTH, HEIGHT)))
    first, second = inspect_file(write_mp4(tmp_path / "sizes.mp4", gop)).anchors
    assert first.state == "damaged: the still is 92 high, expected 23 to 90"
    assert second.is_ok
    assert second.still == StillReport("AV1", WIDTH, HEIGHT, len(fit.data))
