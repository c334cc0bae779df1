"""AV1 GOPs whose inter frames are coded closed loop against a keyframe that is given.

Note [Given keyframe]: the keyframe's own packet is not sent, so what follows must need nothing of it but its
samples, and the encoder's copy of them must be the given picture. Two switch frames (AV1 5.9.2) bring that
about. SVT-AV1 is fed the given picture twice. Its keyframe may be as coarse as it likes; the second time, the
picture is a switch frame at quantiser 0, which is lossless. The next picture is another switch frame: it
predicts from the lossless picture only, starts from default entropy contexts, and takes all reference slots,
so that nothing after it knows of what came before. Mini-GOPs of the random access structure begin behind it.
The quantisers of all other pictures are those of an ordinary encode.

The first two packets are then replaced by a stub, a grey keyframe. The second switch frame names its
references by order hint, and a decoder gives up references with other ones (AV1 5.9.2), so the stub's order
hint is the lossless picture's.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from threading import Event
from typing import Final

import numpy as np

from hybridprompt.errors import CodecError, ConfigError
from hybridprompt.video.av1_decoder import Av1Decoder
from hybridprompt.video.av1_encoder import (
    Av1Settings,
    CodedPacket,
    checked_pts,
    encode_gop,
    sequence_header,
)
from hybridprompt.video.picture import Picture, grey

# Faster presets write lossless switch frames that no decoder takes.
MAX_PRESET: Final = 10
# Positions are those of mini-GOPs' base pictures, and mode 3 makes mini-GOPs fit.
_SWITCHES: Final = (("sframe-mode", "3"), ("sframe-posi", "1,2"), ("sframe-qp-offset", "-63,0"))
_LOSSLESS_ORDER_HINT: Final = 1
_FRAME_OBU_WITH_SIZE: Final = 6 << 3 | 2
# At fast presets some chroma samples at the edges of sizes like 97x65 are up to 3 levels off.
_MAX_COPY_ERROR: Final = 1.0


def encode_given_keyframe(
    pictures: Iterable[Picture],
    settings: Av1Settings,
    *,
    stub: CodedPacket | None = None,
    cancelled: Event | None = None,
) -> list[CodedPacket]:
    """Encode one closed GOP against its first picture, which the decoder is given: Note [Given keyframe].

    pictures: the given keyframe, then the sources of the others; sizes, pts and time base as `encode_gop`
    wants them. Returns one packet per picture in decoding order, which is display order. The first is a stub
    of 40 to 100 bytes. A decoder that has it overwritten by the given keyframe (`DecodedFrame.overwrite`)
    reproduces exactly what the encoder knows (but see _MAX_COPY_ERROR). No pictures give no packets, one
    gives a stub. Random access structure; settings.extra must not place switch frames. stub: one of
    `make_stub` in place of a grey one. Another thread may set ``cancelled``.

    Raises ConfigError without a CRF, as SVT-AV1 sets the quantiser of switch frames in that mode only, and
    for presets above MAX_PRESET. Raises CodecError like `encode_gop`, and when the stub would not do: another
    sequence header than the stream's, or a picture that the decoder does not get as the encoder does.
    """
    if settings.preset > MAX_PRESET:
        raise ConfigError(f"preset is {settings.preset}, expected at most {MAX_PRESET} for a given keyframe")
    if settings.crf is None:
        raise ConfigError(f"a given keyframe needs a crf, found bitrate_kbps {settings.bitrate_kbps}")
    sequence = list(pictures)
    if not sequence:
        return []
    previous = None
    for number, picture in enumerate(sequence):
        previous = checked_pts(picture, settings, number, previous)
    given = sequence[0]
    assert given.pts is not None
    with_switches = replace(settings, extra=settings.extra + _SWITCHES)
    stub = stub or make_stub(grey(given), settings)
    if len(sequence) == 1:
        return [stub]
    twice = [replace(given, pts=given.pts - 1), *sequence]
    coded = encode_gop(twice, with_switches, cancelled=cancelled)
    found, expected = sequence_header(stub.data), sequence_header(coded[0].data)
    if found != expected:
        raise CodecError(
            f"the stub's sequence header is {_hex(found)}, expected the stream's {_hex(expected)}"
        )
    _check(stub.data, [packet.data for packet in coded], given)
    return [replace(stub, duration=coded[1].duration), *coded[2:]]


def make_stub(picture: Picture, settings: Av1Settings) -> CodedPacket:
    """Return a keyframe that can stand in a given one's place, with the order hint of the lossless picture.

    picture: what decoders show that are given nothing, at the given one's time. Raises CodecError.
    """
    # Without screen content tools, which would put one more field before the order hint.
    extra = (*settings.extra, *_SWITCHES, ("scm", "0"))
    (packet,) = encode_gop([picture], replace(settings, extra=extra))
    return replace(packet, data=_with_order_hint(packet.data, _LOSSLESS_ORDER_HINT))


def _with_order_hint(keyframe: bytes, order_hint: int) -> bytes:
    """Set the order hint, which must be 0, of a shown keyframe as SVT-AV1 writes it (AV1 5.9.2).

    Its header begins with show_existing_frame 0, frame_type 0 (2 bits), show_frame 1, disable_cdf_update,
    allow_screen_content_tools 0, frame_size_override_flag, order_hint (7 bits).
    """
    header = sequence_header(keyframe)
    start = -1 if header is None else keyframe.index(header) + len(header)
    if header is not None and keyframe[start : start + 1] == bytes([_FRAME_OBU_WITH_SIZE]):
        size_bytes = next((n for n, byte in enumerate(keyframe[start + 1 :], 1) if byte < 128), 0)
        start += 1 + size_bytes
        bits = int.from_bytes(keyframe[start : start + 2], "big")
        if len(keyframe) > start + 2 and bits & 0b1111_0101_1111_1100 == 0b0001_0000_0000_0000:
            changed = (bits | order_hint << 2).to_bytes(2, "big")
            return keyframe[:start] + changed + keyframe[start + 2 :]
    raise CodecError(
        f"stub is {_hex(keyframe[:64])}, expected a keyframe with order hint 0 as SVT-AV1 writes it"
    )


def _check(stub: bytes, coded: Sequence[bytes], given: Picture) -> None:
    """Check that the switch frames do what they are for, by decoding the stream's beginning both ways."""
    _, copy, known = _decode(coded[:3], None)
    for name, found, expected in zip("yuv", copy.planes, given.planes, strict=True):
        error = float(np.mean((found.astype(np.float32) - expected) ** 2))
        if error > _MAX_COPY_ERROR:
            raise CodecError(
                f"SVT-AV1's copy of the given keyframe is not lossless: the mean squared error of {name} is "
                f"{error:.3g}, expected at most {_MAX_COPY_ERROR:g}"
            )
    failure = (
        "the picture after a given keyframe does not decode behind the stub to what the encoder knows: "
        "SVT-AV1 did not place its switch frames as asked"
    )
    try:
        _, client = _decode([stub, coded[2]], copy)
    except CodecError as error:
        raise CodecError(failure) from error
    if not all(np.array_equal(a, b) for a, b in zip(client.planes, known.planes, strict=True)):
        raise CodecError(failure)


def _decode(packets: Sequence[bytes], first: Picture | None) -> list[Picture]:
    shown: list[Picture] = []
    with Av1Decoder() as decoder:
        for number, data in enumerate(packets):
            frames = decoder.decode(data, number)
            if len(frames) != 1:
                raise CodecError(f"packet {number} of a given keyframe's GOP shows {len(frames)} pictures")
            frame = frames[0]
            if first is not None and number == 0:
                frame.overwrite(*first.planes)
            shown.append(frame.picture.copied())
    return shown


def _hex(data: bytes | None) -> str:
    return "missing" if data is None else data.hex()
