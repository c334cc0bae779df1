"""Other keyframes in H.264 and H.265 streams: identity, two independent ways to the same pictures, damage."""

import contextlib
from collections.abc import Callable

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridprompt.bitstream.nal import NalCodec, split_nal_units
from hybridprompt.decode.nal_injection import H264InjectingDecoder, HevcInjectingDecoder
from hybridprompt.errors import BitstreamError, CodecError
from hybridprompt.generator.base import Planes
from hybridprompt.video.picture import Picture
from nal_media import TICK, Stream, differing, encode, encode_mp4, moving, play, same

KINDS = {NalCodec.H264: H264InjectingDecoder, NalCodec.H265: HevcInjectingDecoder}
each_codec = pytest.mark.parametrize("codec", list(NalCodec))
containers = pytest.mark.parametrize("is_mp4", [False, True])
Generate = Callable[[Picture], Planes | None]


def decoded(stream: Stream, generate: dict[int, Generate], *, threads: int = 1) -> dict[int, Picture]:
    """Decode, with the pictures of some pts replaced; copies, so that later changes would not be seen."""
    shown = {}
    with KINDS[stream.codec](stream.extradata, time_base=TICK, threads=threads) as decoder:
        for data, pts in stream.packets:
            for frame in decoder.decode(data, pts, generate.get(pts)):
                shown[frame.pts or 0] = frame.picture.copied()
        for frame in decoder.flush():
            shown[frame.pts or 0] = frame.picture.copied()
    return shown


def always(planes: Planes) -> Generate:
    return lambda base: planes


@each_codec
@containers
def test_without_generation_all_is_as_before(codec: NalCodec, is_mp4: bool) -> None:
    stream = (encode_mp4 if is_mp4 else encode)(moving(24, 98, 70), codec)
    plain = play(stream)
    bases: list[Picture] = []

    def keep(base: Picture) -> None:
        bases.append(base.copied())

    assert not differing(decoded(stream, {}), plain)
    assert not differing(decoded(stream, {0: keep, 16: keep}), plain)
    assert same(bases[0], plain[0])
    assert same(bases[1], plain[16])


@containers
def test_hevc_pictures_come_in_decoding_order_at_once(is_mp4: bool) -> None:
    stream = (encode_mp4 if is_mp4 else encode)(moving(20, 98, 70), NalCodec.H265)
    with HevcInjectingDecoder(stream.extradata, time_base=TICK) as decoder:
        for data, pts in stream.packets:
            assert [frame.pts for frame in decoder.decode(data, pts)] == [pts]
        assert decoder.flush() == []
    assert [pts for _, pts in stream.packets] != list(range(20))


@each_codec
@containers
@pytest.mark.parametrize("size", [(96, 64), (98, 70)])
def test_a_picture_replaced_by_itself_changes_nothing(
    codec: NalCodec, is_mp4: bool, size: tuple[int, int]
) -> None:
    stream = (encode_mp4 if is_mp4 else encode)(moving(24, *size), codec)
    # Hidden samples belong to what following pictures predict from.
    own = play(stream, cropped=False)
    generate = {pts: always(own[pts].planes) for pts in (0, 16)}
    assert not differing(decoded(stream, generate), play(stream))


def test_hevc_any_reference_can_be_replaced_by_itself() -> None:
    stream = encode(moving(24, 98, 70), NalCodec.H265)
    own = play(stream, cropped=False)
    generate = {pts: always(own[pts].planes) for pts in range(24)}
    assert not differing(decoded(stream, generate), play(stream))


@each_codec
def test_the_result_is_that_of_another_coded_keyframe(codec: NalCodec) -> None:
    # An independent way to the same references: another picture, coded with the same parameter sets, whose
    # packet takes the keyframe's place in the stream. An unmodified decoder plays that. 96x64 has no hidden
    # samples.
    stream, other = (encode(moving(n, 96, 64, seed=n), codec) for n in (16, 1))
    first, exchanged = stream.packets[0][0], (other.packets[0], *stream.packets[1:])
    sets = [
        [nal.data for nal in split_nal_units(data) if nal.data[0] in (0x67, 0x68, 0x40, 0x42, 0x44)]
        for data in (first, other.packets[0][0])
    ]
    assert sets[0] == sets[1]
    assert len(sets[0]) >= 2
    injected = decoded(stream, {0: always(play(other)[0].planes)})
    assert not differing(injected, play(Stream(codec, None, exchanged, None)))
    assert len(differing(injected, play(stream))) == 16


def test_h264_splice_and_overwritten_reference_agree() -> None:
    # Without B-frames H.264 pictures come out at once, so that overwriting works, too: by Plane.update and
    # plain PyAV.
    stream = encode(moving(16, 96, 64), NalCodec.H264, params="bframes=0")
    other = moving(1, 96, 64, seed=7)[0]
    context = av.CodecContext.create("h264", "r")
    context.thread_count = 1
    context.flags |= av.codec.context.Flags.low_delay
    overwritten = {}
    for data, pts in stream.packets:
        packet = av.Packet(data)
        packet.pts, packet.time_base = pts, TICK
        (frame,) = context.decode(packet)
        if pts == 0:
            for plane, samples in zip(frame.planes, other.planes, strict=True):
                buffer = bytearray(memoryview(plane))
                for row, values in enumerate(samples):
                    start = row * plane.line_size
                    buffer[start : start + len(values)] = values.tobytes()
                plane.update(bytes(buffer))
        shapes = [np.frombuffer(bytes(p), np.uint8).reshape(-1, p.line_size) for p in frame.planes]
        planes = [rows[: p.height, : p.width].copy() for rows, p in zip(shapes, frame.planes, strict=True)]
        overwritten[pts] = Picture(planes[0], planes[1], planes[2])
    assert not differing(decoded(stream, {0: always(other.planes)}), overwritten)


def test_wavefront_threads_give_the_same() -> None:
    stream = encode(moving(12, 320, 192), NalCodec.H265, params="ctu=16:pools=2:wpp=1")
    other = always(moving(1, 320, 192, seed=7)[0].planes)
    alone = decoded(stream, {0: other})
    for _ in range(3):
        assert not differing(decoded(stream, {0: other}, threads=2), alone)


def test_only_idr_pictures_of_h264_are_replaced() -> None:
    stream = encode(moving(4, 96, 64), NalCodec.H264)
    with H264InjectingDecoder() as decoder:
        decoder.decode(*stream.packets[0])
        with pytest.raises((BitstreamError, CodecError)):
            decoder.decode(*stream.packets[1], always(moving(1, 96, 64)[0].planes))


@each_codec
def test_planes_of_another_shape_are_refused(codec: NalCodec) -> None:
    stream = encode(moving(6, 98, 70), codec)
    with KINDS[codec]() as decoder, pytest.raises((BitstreamError, CodecError), match=r"expected \(70, 98\)"):
        decoder.decode(*stream.packets[0], always(moving(1, 96, 64)[0].planes))


@settings(deadline=None, max_examples=80)
@given(
    st.sampled_from(list(NalCodec)),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 255)), max_size=5),
    st.one_of(st.none(), st.integers(0, 900)),
)
def test_damage_gives_pictures_or_our_errors(
    codec: NalCodec, is_mp4: bool, damage: list[tuple[int, int]], cut: int | None
) -> None:
    stream = _STREAMS[codec, is_mp4]
    data = bytearray(stream.packets[0][0][:cut])
    extradata = bytearray(stream.extradata or b"")
    for position, mask in damage:
        for target in (data, extradata):
            if target and position % 3:
                target[position % len(target)] ^= mask
    other = always(moving(1, 96, 64, seed=7)[0].planes)
    with contextlib.suppress(BitstreamError, CodecError), KINDS[codec](bytes(extradata)) as decoder:
        decoder.decode(bytes(data), 0, other)
        decoder.decode(*stream.packets[1])
        decoder.flush()


_STREAMS = {
    (codec, is_mp4): (encode_mp4 if is_mp4 else encode)(moving(6, 96, 64), codec)
    for codec in NalCodec
    for is_mp4 in (False, True)
}
