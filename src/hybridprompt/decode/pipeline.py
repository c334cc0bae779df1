"""Decoding a stream: GOPs in parallel, pictures in display order, memory bounded.

Note [Decoding threads]: one thread reads packets and cuts them into GOPs, some workers decode one GOP each,
the thread of the caller takes the pictures. All meet at one condition. The GOP whose pictures are being taken
is the *head*. Two rules keep memory bounded without a deadlock:

* Decoded pictures wait within a common budget of bytes; but the head may always have a few waiting, so the
  GOPs after it can never take away all the room it needs.
* Packets wait within a budget too. The file is read in order, so when the reader waits for room, the head
  either has all its packets or owns some that it is about to use.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Generic

from hybridprompt.decode.gop import D, Decoding, GopPicture
from hybridprompt.decode.warnings import DecodeWarning, WarningKind
from hybridprompt.errors import BitstreamError, CodecError, ConfigError
from hybridprompt.video.av1_encoder import CodedPacket

MAX_PICTURE_BYTES: Final = 256 << 20
MAX_PACKET_BYTES: Final = 32 << 20
HEAD_PICTURES: Final = 4
MAX_DEFAULT_WORKERS: Final = 4


def usable_cores() -> int:
    """Return how many CPU cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this operating system
        return os.cpu_count() or 1


def default_workers() -> int:
    """Return how many GOPs to decode at a time here: one per usable core, at most four."""
    return min(usable_cores(), MAX_DEFAULT_WORKERS)


def decode_packets(
    packets: Iterable[CodedPacket],
    decoding: Decoding[D],
    *,
    workers: int | None = None,
    max_picture_bytes: int = MAX_PICTURE_BYTES,
) -> Iterator[GopPicture]:
    """Decode a stream; yield its pictures in display order.

    packets: in decoding order, consumed in another thread. decoding: `GopDecoding` for AV1, `NalDecoding` for
    H.264 and H.265. workers: GOPs decoded at a time (default: see `default_workers`). max_picture_bytes: how
    much may be decoded ahead. Where a packet cannot be decoded, the rest of its GOP is left out and one
    warning given. Closing the iterator, or an exception, ends all threads.

    Raises ConfigError for less than one worker, and whatever reading packets or decoding raises.
    """
    workers = default_workers() if workers is None else workers
    if workers < 1:
        raise ConfigError(f"{workers} decoding workers, expected at least 1")
    return _Pipeline(packets, decoding, workers, max_picture_bytes).run()


@dataclass(eq=False)
class _Gop:
    """What is waiting of one GOP: packets for its worker, pictures for the caller."""

    packets: deque[CodedPacket] = field(default_factory=deque)
    pictures: deque[GopPicture] = field(default_factory=deque)
    all_read: bool = False
    all_decoded: bool = False
    given_up: bool = False


class _Stopped(BaseException):
    """Leaves a thread's loops when the pipeline stops; no error."""


class _Pipeline(Generic[D]):
    """The threads and what they share; see Note [Decoding threads]."""

    def __init__(
        self, packets: Iterable[CodedPacket], decoding: Decoding[D], workers: int, max_picture_bytes: int
    ) -> None:
        self._source = packets
        self._decoding = decoding
        self._max_picture_bytes = max_picture_bytes
        self._changed = threading.Condition()
        # GOPs whose pictures are not all taken, in order; the first is the head.
        self._gops: deque[_Gop] = deque()
        self._unassigned: deque[_Gop] = deque()
        self._read_all = False
        self._stopping = False
        self._is_warm = False
        self._failure: BaseException | None = None
        self._picture_bytes = 0
        self._packet_bytes = 0
        self._threads = [
            threading.Thread(target=self._guard, args=(self._read,), name="gop-reader", daemon=True)
        ]
        for number in range(workers):
            thread = threading.Thread(
                target=self._guard, args=(self._work, number), name=f"gop-worker-{number}", daemon=True
            )
            self._threads.append(thread)

    # ------------------------------------------------------------------------------------ caller's thread

    def run(self) -> Iterator[GopPicture]:
        """Yield the pictures; end all threads when done, on failure, and when closed."""
        for thread in self._threads:
            thread.start()
        try:
            while (picture := self._next_picture()) is not None:
                yield picture
        finally:
            self._stop()

    def _next_picture(self) -> GopPicture | None:
        with self._changed:
            while True:
                if self._failure is not None:
                    raise self._failure
                while self._gops and self._gops[0].all_decoded and not self._gops[0].pictures:
                    self._gops.popleft()
                    self._changed.notify_all()
                if self._gops and self._gops[0].pictures:
                    picture = self._gops[0].pictures.popleft()
                    self._picture_bytes -= _size_bytes(picture)
                    self._is_warm = True
                    self._changed.notify_all()
                    return picture
                if self._read_all and not self._gops:
                    return None
                self._changed.wait()

    def _stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    # --------------------------------------------------------------------------------------- other threads

    def _guard(self, work: Callable[..., None], *arguments: int) -> None:
        """Run a thread's work; what it raises reaches the caller."""
        try:
            work(*arguments)
        except _Stopped:
            pass
        except BaseException as error:
            with self._changed:
                self._failure = self._failure or error
                self._changed.notify_all()

    def _wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait, holding the condition; raise _Stopped as soon as the pipeline stops."""
        self._changed.wait_for(lambda: self._stopping or ready())
        if self._stopping:
            raise _Stopped

    def _read(self) -> None:
        gop: _Gop | None = None
        source = iter(self._source)
        try:
            for packet in source:
                starts = gop is None or self._decoding.starts_gop(packet)
                with self._changed:
                    self._wait_until(lambda: self._packet_bytes < MAX_PACKET_BYTES)
                    if starts:
                        gop = self._start_gop(gop)
                    assert gop is not None
                    if not gop.given_up:
                        gop.packets.append(packet)
                        self._packet_bytes += len(packet.data)
                        self._changed.notify_all()
        finally:
            # In this thread, which alone knows that nobody is iterating any more.
            close = getattr(source, "close", None)
            if close is not None:
                close()
        with self._changed:
            if gop is not None:
                gop.all_read = True
            self._read_all = True
            self._changed.notify_all()

    def _start_gop(self, previous: _Gop | None) -> _Gop:
        if previous is not None:
            previous.all_read = True
        gop = _Gop()
        self._gops.append(gop)
        self._unassigned.append(gop)
        return gop

    def _work(self, number: int) -> None:
        # One decoder serves many GOPs: what starts a GOP leaves nothing of what was before.
        decoder: D | None = None
        while (gop := self._take_gop(number)) is not None:
            if decoder is None:
                decoder = self._decoding.new_decoder()
            packets = _Remembering(self._packets_of(gop))
            try:
                for picture in self._decoding.decode_gop(packets, decoder):
                    self._deliver(gop, picture)
            except (CodecError, BitstreamError) as error:
                decoder.close()
                decoder = None
                self._warn(packets.last, error)
            self._finish(gop)

    def _take_gop(self, number: int) -> _Gop | None:
        with self._changed:
            if number > 0:
                # The first picture comes sooner when its generation has all cores to itself.
                self._wait_until(lambda: self._is_warm)
            self._wait_until(lambda: bool(self._unassigned) or self._read_all)
            return self._unassigned.popleft() if self._unassigned else None

    def _packets_of(self, gop: _Gop) -> Iterator[CodedPacket]:
        while True:
            with self._changed:
                self._wait_until(lambda: bool(gop.packets) or gop.all_read)
                if not gop.packets:
                    return
                packet = gop.packets.popleft()
                self._packet_bytes -= len(packet.data)
                self._changed.notify_all()
            yield packet

    def _deliver(self, gop: _Gop, picture: GopPicture) -> None:
        size_bytes = _size_bytes(picture)

        def has_room() -> bool:
            if self._gops[0] is gop and len(gop.pictures) < HEAD_PICTURES:
                return True
            return self._picture_bytes + size_bytes <= self._max_picture_bytes

        with self._changed:
            self._wait_until(has_room)
            gop.pictures.append(picture)
            self._picture_bytes += size_bytes
            self._changed.notify_all()

    def _finish(self, gop: _Gop) -> None:
        with self._changed:
            self._packet_bytes -= sum(len(packet.data) for packet in gop.packets)
            gop.packets.clear()
            gop.given_up = gop.all_decoded = self._is_warm = True
            self._changed.notify_all()

    def _warn(self, packet: CodedPacket | None, error: CodecError | BitstreamError) -> None:
        pts_seconds = None if packet is None else float(packet.pts * self._decoding.time_base)
        message = f"{error}; left out the pictures up to the next keyframe"
        self._decoding.on_warning(DecodeWarning(WarningKind.PACKET_DAMAGED, message, pts_seconds))


class _Remembering:
    """Passes packets on and knows the last one."""

    def __init__(self, packets: Iterator[CodedPacket]) -> None:
        self._packets = packets
        self.last: CodedPacket | None = None

    def __iter__(self) -> Iterator[CodedPacket]:
        for packet in self._packets:
            self.last = packet
            yield packet


def _size_bytes(picture: GopPicture) -> int:
    return sum(plane.nbytes for plane in picture.picture.planes)
