"""avcC and hvcC of real MP4 files, and damaged ones."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridprompt.bitstream.codec_config import length_size_of, map_parameter_sets, parameter_sets
from hybridprompt.bitstream.nal import NalCodec, join_nal_units
from hybridprompt.errors import BitstreamError
from nal_media import encode_mp4, moving

CONFIGURATIONS = {codec: encode_mp4(moving(6, 96, 64), codec).extradata or b"" for codec in NalCodec}
TYPES = {NalCodec.H264: [7, 8], NalCodec.H265: [32, 33, 34]}
codecs = pytest.mark.parametrize("codec", list(NalCodec))


@codecs
def test_parameter_sets_of_real_files(codec: NalCodec) -> None:
    configuration = CONFIGURATIONS[codec]
    sets = parameter_sets(configuration, codec=codec)
    kinds = [nal[0] & 31 if codec is NalCodec.H264 else nal[0] >> 1 for nal in sets]
    assert [kind for kind in kinds if kind in TYPES[codec]] == TYPES[codec]
    assert length_size_of(configuration, codec=codec) == 4
    assert map_parameter_sets(configuration, lambda nal: nal, codec=codec) == configuration
    longer = map_parameter_sets(configuration, lambda nal: nal + b"\x80", codec=codec)
    assert parameter_sets(longer, codec=codec) == [nal + b"\x80" for nal in sets]
    assert len(longer) == len(configuration) + len(sets)


@codecs
def test_annex_b_and_nothing_count_as_annex_b(codec: NalCodec) -> None:
    sets = parameter_sets(CONFIGURATIONS[codec], codec=codec)
    annex_b = join_nal_units(sets)
    assert parameter_sets(annex_b, codec=codec) == sets
    assert map_parameter_sets(annex_b, lambda nal: nal + b"\1", codec=codec) == b"".join(
        b"\0\0\0\1" + nal + b"\1" for nal in sets
    )
    for configuration in (annex_b, b"", None):
        assert length_size_of(configuration, codec=codec) is None
    assert parameter_sets(None, codec=codec) == []


def test_an_avcc_may_hold_many_parameter_sets() -> None:
    nal = b"\0\2\x68\x80"
    many = bytes.fromhex("0164000aff e0") + bytes([40]) + nal * 40
    assert parameter_sets(many, codec=NalCodec.H264) == [b"\x68\x80"] * 40


@codecs
def test_zeros_after_parameter_sets_are_none_of_theirs(codec: NalCodec) -> None:
    """As FFmpeg leaves them where it takes parameter sets from the byte stream."""
    configuration = CONFIGURATIONS[codec]
    padded = map_parameter_sets(configuration, lambda nal: nal + b"\0", codec=codec)
    assert parameter_sets(padded, codec=codec) == parameter_sets(configuration, codec=codec)


@codecs
def test_every_cut_is_found(codec: NalCodec) -> None:
    configuration = CONFIGURATIONS[codec]
    end = len(map_parameter_sets(configuration, lambda nal: nal, codec=codec))
    # The high profiles' four bytes after an avcC's parameter sets are only copied.
    tail = 4 if codec is NalCodec.H264 else 0
    for size in range(1, end - tail):
        with pytest.raises(BitstreamError, match="cut off"):
            parameter_sets(configuration[:size], codec=codec)


def test_lengths_of_three_bytes_are_refused() -> None:
    for codec, position in ((NalCodec.H264, 4), (NalCodec.H265, 21)):
        damaged = bytearray(CONFIGURATIONS[codec])
        damaged[position] = damaged[position] & ~3 | 2
        with pytest.raises(BitstreamError, match="lengths have 3 bytes"):
            length_size_of(bytes(damaged), codec=codec)


@settings(deadline=None)
@given(st.binary(max_size=80), st.booleans(), st.sampled_from(list(NalCodec)))
def test_random_bytes_give_values_or_bitstream_errors(data: bytes, is_record: bool, codec: NalCodec) -> None:
    for call in (length_size_of, parameter_sets):
        with contextlib.suppress(BitstreamError):
            call(b"\1" * is_record + data, codec=codec)
