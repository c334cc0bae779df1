"""The decode operator with H.264 and H.265: against plain decoders, and what real ones make of a change."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from operator_media import inner, tensors

from hybridprompt.bitstream.nal import NalCodec, split_nal_units
from hybridprompt.encode.operator.decode_operator import DecodeOperator
from hybridprompt.encode.operator.decoders import Injection
from hybridprompt.encode.operator.fidelity import measure_fidelity
from hybridprompt.encode.operator.frame_map import FrameMap
from hybridprompt.encode.operator.nal_decoders import NalAnchorDecoder
from hybridprompt.encode.operator.probe import probe
from hybridprompt.errors import CodecError, ConfigError
from hybridprompt.generator.base import Planes
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.picture import Picture
from nal_media import TICK, Stream, encode, encode_mp4, moving, play

WIDTH, HEIGHT, COUNT = 192, 128, 25
SPEED = (3, 1)
"""Samples per frame to the left and up, as `moving` pans."""
PROBED = (0, 1, 8, 20)
ONE_GOP = "keyint=60:min-keyint=60"

each_codec = pytest.mark.parametrize("codec", list(NalCodec))


def decoder_of(stream: Stream, pictures: Sequence[Picture]) -> NalAnchorDecoder:
    packets = [CodedPacket(data, pts, pts, 1, i == 0) for i, (data, pts) in enumerate(stream.packets)]
    return NalAnchorDecoder(
        codec=stream.codec,
        packets=packets,
        size=(pictures[0].width, pictures[0].height),
        time_base=TICK,
        extradata=stream.extradata,
    )


def equal(a: Planes, b: Planes) -> bool:
    return all(np.array_equal(p, q) for p, q in zip(a, b, strict=True))


def put(picture: Picture) -> Injection:
    """Puts a picture in place of the base picture."""
    return lambda base: picture.planes


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return moving(COUNT, WIDTH, HEIGHT)


@pytest.fixture(scope="module")
def streams(pictures: list[Picture]) -> dict[NalCodec, Stream]:
    return {codec: encode(pictures, codec, crf=36, params=ONE_GOP) for codec in NalCodec}


@pytest.fixture(scope="module")
def decoders(streams: dict[NalCodec, Stream], pictures: list[Picture]) -> dict[NalCodec, NalAnchorDecoder]:
    return {codec: decoder_of(stream, pictures) for codec, stream in streams.items()}


@pytest.fixture(scope="module")
def maps(decoders: dict[NalCodec, NalAnchorDecoder]) -> dict[NalCodec, list[FrameMap]]:
    return {codec: list(probe(decoder, 0, PROBED)) for codec, decoder in decoders.items()}


def mini_gop(stream: Stream) -> tuple[int, int]:
    """Packet and frame of a later picture that is coded first of a mini-GOP, and shown last of it."""
    times = [pts for _, pts in stream.packets]
    for packet in range(6, len(times)):
        if times[packet] >= packet + 2 and max(times[:packet]) < packet:
            return packet, times[packet]
    pytest.fail("no mini-GOP")


# The decoder, against a plain one.


@each_codec
@pytest.mark.parametrize("is_mp4", [False, True])
def test_without_injection_frames_are_those_of_a_player(codec: NalCodec, is_mp4: bool) -> None:
    pictures = moving(12, 96, 64)
    stream = (encode_mp4 if is_mp4 else encode)(pictures, codec, params=ONE_GOP)
    assert [pts for _, pts in stream.packets] != list(range(12)), "the pictures are to be reordered"
    plain = play(stream)
    decoder = decoder_of(stream, pictures)
    assert decoder.frame_count == 12
    decoded = list(decoder.decode(0, range(12), None))
    assert [frame for frame, _ in decoded] == list(range(12))
    for frame, planes in decoded:
        assert equal(planes, plain[frame].planes)
        assert not any(plane.flags.writeable for plane in planes)
    few = list(decoder.decode(0, {9, 2, 5}, None))
    assert [frame for frame, _ in few] == [2, 5, 9]


@each_codec
def test_frames_are_counted_by_their_times(codec: NalCodec) -> None:
    pictures = moving(12, 96, 64)
    decoder = decoder_of(encode(pictures, codec, params=ONE_GOP), pictures)
    spread = [replace(packet, pts=900 + 7 * packet.pts) for packet in decoder.packets]
    for (frame, planes), (same_frame, same_planes) in zip(
        decoder.decode(0, range(12), None),
        replace(decoder, packets=spread).decode(0, range(12), None),
        strict=True,
    ):
        assert frame == same_frame
        assert equal(planes, same_planes)


@each_codec
def test_the_injected_picture_is_shown_and_predicted_from(
    codec: NalCodec, decoders: dict[NalCodec, NalAnchorDecoder], streams: dict[NalCodec, Stream]
) -> None:
    """The base picture, given to the injection once, put back changes nothing; another changes all."""
    plain = play(streams[codec])
    bases: list[Planes] = []

    def itself(base: Planes) -> Planes:
        bases.append(tuple(plane.copy() for plane in base))
        return bases[0]

    for frame, planes in decoders[codec].decode(0, range(COUNT), itself):
        assert equal(planes, plain[frame].planes)
    assert len(bases) == 1
    assert equal(bases[0], plain[0].planes)
    other = moving(1, WIDTH, HEIGHT, seed=7)[0]
    shown = dict(decoders[codec].decode(0, range(COUNT), put(other)))
    assert equal(shown[0], other.planes)
    assert not any(equal(planes, plain[frame].planes) for frame, planes in shown.items())


# The operator, with the real decoders.


@each_codec
def test_the_adjoint_is_exact(codec: NalCodec, maps: dict[NalCodec, list[FrameMap]]) -> None:
    rng = torch.Generator().manual_seed(4)
    for found in maps[codec]:
        operator = DecodeOperator(found)
        x, z = (
            (
                torch.randn(HEIGHT, WIDTH, generator=rng, dtype=torch.float64),
                torch.randn(2, HEIGHT // 2, WIDTH // 2, generator=rng, dtype=torch.float64),
            )
            for _ in range(2)
        )
        assert inner(operator(*x), z) == pytest.approx(inner(x, operator.adjoint(*z)), rel=1e-10)


@each_codec
def test_motion_is_found(codec: NalCodec, maps: dict[NalCodec, list[FrameMap]]) -> None:
    """Where most of a sample comes from the anchor; the moving borders and the still square do not."""
    for found in maps[codec]:
        sure = np.zeros((HEIGHT, WIDTH), bool)
        sure[72:-28, 8:-72] = True
        sure &= found.gain_y > 0.7
        assert sure.sum() > 500
        expected = [s * found.frame for s in SPEED]
        medians = [np.median(axis[sure]) for axis in found.displacement]
        assert medians == pytest.approx(expected, abs=0.2)


@each_codec
def test_at_the_anchor_the_operator_is_the_identity(
    codec: NalCodec, maps: dict[NalCodec, list[FrameMap]]
) -> None:
    found = maps[codec][0]
    assert np.abs(found.displacement).max() < 0.05
    assert min(found.gain_y.min(), found.gain_uv.min()) > 0.98


# Luma, then chroma, at the probed frames.  Measured: H.264 0.981, 0.946, 0.850 and 0.962, 0.868, 0.758; H.265
# 0.942, 0.867, 0.718 and 0.891, 0.757, 0.676.
CORRELATIONS = {
    NalCodec.H264: ((0.999, 0.96, 0.91, 0.80), (0.999, 0.93, 0.83, 0.71)),
    NalCodec.H265: ((0.999, 0.91, 0.83, 0.67), (0.999, 0.86, 0.72, 0.63)),
}


@each_codec
def test_real_changes_are_predicted(
    codec: NalCodec,
    decoders: dict[NalCodec, NalAnchorDecoder],
    maps: dict[NalCodec, list[FrameMap]],
    pictures: list[Picture],
) -> None:
    found = list(measure_fidelity(decoders[codec], 0, maps[codec], put(pictures[0])))
    assert [one.distance for one in found] == list(PROBED)
    for one, luma, chroma in zip(found, *CORRELATIONS[codec], strict=True):
        assert one.luma.correlation > luma
        assert one.chroma.correlation > chroma
        assert one.luma.explained > luma**2 - 0.03
        assert one.chroma.explained > chroma**2 - 0.03


@each_codec
def test_prediction_is_nearer_to_the_real_frame(
    codec: NalCodec,
    decoders: dict[NalCodec, NalAnchorDecoder],
    maps: dict[NalCodec, list[FrameMap]],
    pictures: list[Picture],
) -> None:
    plain = {f: tensors(p) for f, p in decoders[codec].decode(0, PROBED, None)}
    real = {f: tensors(p) for f, p in decoders[codec].decode(0, PROBED, put(pictures[0]))}
    for found in maps[codec][1:]:
        before = plain[found.frame]
        predicted = DecodeOperator(found).predict(tensors(pictures[0].planes), base=plain[0], decoded=before)
        for p, r, b in zip(predicted, real[found.frame], before, strict=True):
            assert ((p - r) ** 2).mean() < 0.62 * ((b - r) ** 2).mean()


@each_codec
def test_sizes_with_hidden_samples(codec: NalCodec) -> None:
    """186x118 fills neither macroblocks nor coding blocks.  Measured: 0.988, 0.880; H.265 0.955, 0.839."""
    pictures = moving(12, 186, 118)
    decoder = decoder_of(encode(pictures, codec, crf=36, params=ONE_GOP), pictures)
    found = measure_fidelity(decoder, 0, probe(decoder, 0, [0, 1, 8]), put(pictures[0]))
    for one, expected in zip(found, (0.999, 0.92, 0.79), strict=True):
        assert one.luma.correlation > expected


def test_a_later_picture_of_hevc_is_an_anchor(
    decoders: dict[NalCodec, NalAnchorDecoder], streams: dict[NalCodec, Stream], pictures: list[Picture]
) -> None:
    """Pictures that are shown before it come from it, too.  Measured: 0.987, 1.000, 0.946."""
    at, shown = mini_gop(streams[NalCodec.H265])
    decoder = decoders[NalCodec.H265]
    found = {one.frame: one for one in probe(decoder, at, [at, shown, shown + 2])}
    assert np.abs(found[shown].displacement).max() < 0.05
    agreed = measure_fidelity(decoder, at, found.values(), put(pictures[shown]))
    for one, expected in zip(agreed, (0.96, 0.999, 0.91), strict=True):
        assert one.luma.correlation > expected
        assert one.luma.explained > expected**2 - 0.03


def test_an_anchor_within_a_mini_gop_changes_what_is_decoded_after_it(
    decoders: dict[NalCodec, NalAnchorDecoder], pictures: list[Picture]
) -> None:
    """The frames before it in decoding order, though shown after it, stay; none is given away before."""
    decoder = decoders[NalCodec.H265]
    times = [packet.pts for packet in decoder.packets]
    at = next(k for k in range(2, COUNT) if times[k] == k and max(times[:k]) > k)
    called: list[bool] = []

    def inject(base: Planes) -> Planes:
        called.append(True)
        return pictures[0].planes

    plain = dict(decoder.decode(at, range(at, COUNT), None))
    for frame, planes in decoder.decode(at, range(at, COUNT), inject):
        assert called
        if times.index(frame) < at:
            assert equal(planes, plain[frame])
    assert equal(dict(decoder.decode(at, [at], inject))[at], pictures[0].planes)
    before = next(frame for frame in range(at + 1, COUNT) if times.index(frame) < at)
    (found,) = probe(decoder, at, [before])
    assert found.gain_y.max() < 0.05


# Bad input.


@each_codec
@pytest.mark.parametrize(("anchor", "frames"), [(-1, [3]), (25, [25]), (0, []), (5, [4, 9]), (0, [3, 25])])
def test_anchors_and_frames_that_are_not_there(
    codec: NalCodec, decoders: dict[NalCodec, NalAnchorDecoder], anchor: int, frames: list[int]
) -> None:
    with pytest.raises(ConfigError, match=r"anchor is packet|frames are"):
        decoders[codec].decode(anchor, frames, None)


def test_h264_has_only_idr_pictures_as_anchors(decoders: dict[NalCodec, NalAnchorDecoder]) -> None:
    with pytest.raises(CodecError, match="packet 3 of the GOP has no IDR picture"):
        list(probe(decoders[NalCodec.H264], 3, [3]))


@each_codec
def test_odd_sizes_and_repeated_times_are_refused(
    codec: NalCodec, decoders: dict[NalCodec, NalAnchorDecoder]
) -> None:
    decoder = decoders[codec]
    with pytest.raises(ConfigError, match="191x128, expected even sizes"):
        replace(decoder, size=(191, 128))
    with pytest.raises(ConfigError, match="26 packets have 25 pts"):
        replace(decoder, packets=[*decoder.packets, decoder.packets[3]])


@each_codec
def test_the_size_must_be_the_real_one(
    codec: NalCodec, decoders: dict[NalCodec, NalAnchorDecoder], pictures: list[Picture]
) -> None:
    wrong = replace(decoders[codec], size=(WIDTH + 2, HEIGHT))
    for injection in (None, put(pictures[0])):
        with pytest.raises(CodecError, match="frame 0 is 192x128, expected 194x128"):
            list(wrong.decode(0, [0], injection))
    with pytest.raises(CodecError, match=r"expected \(128, 192\)"):
        list(decoders[codec].decode(0, [0], put(moving(1, WIDTH + 2, HEIGHT)[0])))


@each_codec
def test_packets_that_are_not_the_codecs_are_refused(
    codec: NalCodec, decoders: dict[NalCodec, NalAnchorDecoder], pictures: list[Picture]
) -> None:
    (other,) = set(NalCodec) - {codec}
    wrong = replace(decoders[codec], codec=other)
    for injection in (None, put(pictures[0])):
        with pytest.raises(CodecError, match=r"packet|missing"):
            list(wrong.decode(0, [0, 5], injection))
    with pytest.raises(CodecError, match=r"packet 0 of the GOP|extradata"):
        list(replace(decoders[codec], extradata=b"\1damaged").decode(0, [0], None))


@each_codec
def test_a_packet_without_a_picture_is_told(
    codec: NalCodec, decoders: dict[NalCodec, NalAnchorDecoder], streams: dict[NalCodec, Stream]
) -> None:
    """In the third packet's place are parameter sets alone."""
    packets = list(decoders[codec].packets)
    first, third = packets[0].data, packets[2]
    sets = b"".join(
        nal.raw for nal in split_nal_units(first) if nal.data[0] in (0x67, 0x68, 0x40, 0x42, 0x44)
    )
    packets[2] = replace(third, data=sets)
    cut = replace(decoders[codec], packets=packets)
    with pytest.raises(CodecError, match=rf"frames \[{third.pts}\] of the GOP are missing|cannot be decoded"):
        list(cut.decode(0, [0, third.pts], None))


def test_the_encoder_does_not_import_it() -> None:
    code = "import hybridprompt.encode.gate, hybridprompt.encode.pipeline, sys; "
    code += "sys.exit('hybridprompt.encode.operator.nal_decoders' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
