"""Packets on disk."""

import pytest

from hybridprompt.encode.spool import PacketSpool
from hybridprompt.errors import MediaError
from hybridprompt.video.av1_encoder import CodedPacket


def packets(first: int, count: int, fill: int, *, step: int = 2) -> list[CodedPacket]:
    return [
        CodedPacket(bytes([fill]) * (10 + i), first + i * step, first + i * step, 99, i == 0)
        for i in range(count)
    ]


def test_packets_come_back_in_order_whatever_order_they_came_in() -> None:
    with PacketSpool() as spool:
        spool.put(1, packets(8, 3, 2))
        spool.put(0, packets(0, 4, 1))
        found = list(spool.packets())
        assert [p.data for p in found] == [p.data for p in packets(0, 4, 1) + packets(8, 3, 2)]
        assert [p.pts for p in found] == [0, 2, 4, 6, 8, 10, 12]
        assert [p.dts for p in found] == [p.pts for p in found]
        assert [p.is_keyframe for p in found] == [True, False, False, False, True, False, False]
        assert spool.pts(1) == [8, 10, 12]
        assert (spool.length(0), spool.length(1)) == (4, 3)


def test_durations_reach_to_the_next_packet() -> None:
    with PacketSpool() as spool:
        spool.put(0, packets(0, 2, 1, step=5))
        spool.put(1, packets(40, 2, 2, step=1))
        assert [p.duration for p in spool.packets()] == [5, 35, 1, 99]


def test_a_gop_is_replaced() -> None:
    with PacketSpool() as spool:
        for gop in range(3):
            spool.put(gop, packets(10 * gop, 3, gop))
        spool.put(1, packets(10, 3, 77))
        first = list(spool.packets())
        assert [p.data[0] for p in first] == [0, 0, 0, 77, 77, 77, 2, 2, 2]
        # Reading does not disturb writing.
        spool.put(2, packets(20, 1, 88))
        assert [p.data[0] for p in spool.packets()] == [0, 0, 0, 77, 77, 77, 88]


def test_reordered_packets_are_decoded_before_they_are_shown() -> None:
    """Decoding order of two GOPs with B-frames, the pictures at odd times."""
    times = [0, 8, 4, 2, 6], [11, 30, 29, 31, 100]
    with PacketSpool() as spool:
        for gop, shown in enumerate(times):
            spool.put(gop, [CodedPacket(bytes([t]), t, 0, 7, i == 0) for i, t in enumerate(shown)])
        found = list(spool.packets())
    assert [p.pts for p in found] == [*times[0], *times[1]]
    assert [p.data[0] for p in found] == [p.pts for p in found]
    # Those of display order, 4 earlier: of all pictures, the one at 2 comes out last against its place.
    assert [p.dts for p in found] == [t - 4 for t in (0, 2, 4, 6, 8, 11, 29, 30, 31, 100)]
    assert all(p.dts <= p.pts for p in found)
    lasting = {0: 2, 2: 2, 4: 2, 6: 2, 8: 3, 11: 18, 29: 1, 30: 1, 31: 69, 100: 7}
    assert {p.pts: p.duration for p in found} == lasting


def test_nothing_stored_is_nothing() -> None:
    with PacketSpool() as spool:
        assert list(spool.packets()) == []


def test_nowhere_to_write_is_a_media_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(MediaError, match="No space left"):
        PacketSpool()


def test_a_full_disk_is_a_media_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with PacketSpool() as spool:

        class Full:
            def __getattr__(self, name: str) -> object:
                raise OSError(28, "No space left on device")

            def close(self) -> None:
                pass

        monkeypatch.setattr(spool, "_file", Full())
        with pytest.raises(MediaError, match="No space left"):
            spool.put(0, packets(0, 1, 1))
