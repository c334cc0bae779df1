"""What a file spends where: per GOP and per anchor, without decoding a picture."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from hybridprompt.decode.carriage import NAL_CODECS, PacketCarriage
from hybridprompt.decode.generation import GeneratorLookup
from hybridprompt.decode.generators import LazyGenerators
from hybridprompt.decode.injection import GopDecoding
from hybridprompt.decode.nal_gop import NalDecoding
from hybridprompt.decode.still import checked_header
from hybridprompt.errors import BitstreamError, GeneratorError, MediaError
from hybridprompt.generator.base import Generator
from hybridprompt.prompt.sections import Adapter, SectionType, Still, parse_sections
from hybridprompt.prompt.syntax import MAGIC, Prompt, decode_prompt
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.packet_reader import PacketReader

OK = "ok"


@dataclass(frozen=True, slots=True)
class SectionReport:
    """One section of a prompt; `name` is None for types this version does not know."""

    type: int
    name: str | None
    size_bytes: int


@dataclass(frozen=True, slots=True)
class StillReport:
    """The still of a prompt. codec: its name; width, height: as coded, luma samples."""

    codec: str
    width: int
    height: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class AdapterReport:
    """The adapter of a prompt. value_count, changed_count: how many values there are, and are not 0."""

    value_count: int
    changed_count: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class AnchorReport:
    """One prompt. What cannot be told, because it is damaged or does not say so, is None.

    size_bytes: the prompt with the OBU or SEI around it. generator_id: hexadecimal. generator_name: None
    where the generator is not known here. state: "ok" or "damaged: ...". gate_coverage: share of blocks with
    a strength above 0. gate_strength: mean strength of all blocks.
    """

    pts_seconds: float
    size_bytes: int
    state: str
    sections: tuple[SectionReport, ...] = ()
    generator_id: str | None = None
    generator_name: str | None = None
    quantiser: int | None = None
    gate_coverage: float | None = None
    gate_strength: float | None = None
    still: StillReport | None = None
    adapter: AdapterReport | None = None

    @property
    def is_ok(self) -> bool:
        return self.state == OK


@dataclass(frozen=True, slots=True)
class GopReport:
    """One GOP. base_bytes are those of its packets less prompt_bytes."""

    start_seconds: float
    duration_seconds: float
    picture_count: int
    base_bytes: int
    prompt_bytes: int
    anchors: tuple[AnchorReport, ...]


@dataclass(frozen=True, slots=True)
class FileReport:
    """What inspecting a file found; times count from the first picture. size_bytes: the whole file."""

    path: str
    size_bytes: int
    width: int
    height: int
    average_rate: float
    duration_seconds: float
    gops: tuple[GopReport, ...]

    @property
    def anchors(self) -> tuple[AnchorReport, ...]:
        """All anchors of the file in order."""
        return tuple(anchor for gop in self.gops for anchor in gop.anchors)

    @property
    def picture_count(self) -> int:
        return sum(gop.picture_count for gop in self.gops)

    @property
    def base_bytes(self) -> int:
        return sum(gop.base_bytes for gop in self.gops)

    @property
    def prompt_bytes(self) -> int:
        return sum(gop.prompt_bytes for gop in self.gops)

    @property
    def base_kbps(self) -> float:
        """Rate of the base in kbit/s; 0 for a file without duration."""
        return self._kbps(self.base_bytes)

    @property
    def prompt_kbps(self) -> float:
        """Rate of the prompts in kbit/s; 0 for a file without duration."""
        return self._kbps(self.prompt_bytes)

    def as_dict(self) -> dict[str, object]:
        """Return everything, totals included, as values that JSON can hold."""
        totals = {
            "picture_count": self.picture_count,
            "gop_count": len(self.gops),
            "anchor_count": len(self.anchors),
            "base_bytes": self.base_bytes,
            "prompt_bytes": self.prompt_bytes,
            "base_kbps": self.base_kbps,
            "prompt_kbps": self.prompt_kbps,
        }
        fields = asdict(self)
        gops = fields.pop("gops")
        return {**fields, "totals": totals, "gops": gops}

    def _kbps(self, size_bytes: int) -> float:
        return size_bytes * 8 / 1000 / self.duration_seconds if self.duration_seconds > 0 else 0.0


def inspect_file(
    path: str | PathLike[str], *, generators: Iterable[Generator | str | PathLike[str]] = ()
) -> FileReport:
    """Read all packets of an AV1, H.264 or H.265 file and report on them, one at a time.

    generators: further ones that shall be known by name. Raises MediaError when the file cannot be read or
    holds no such video.
    """
    reader = PacketReader(path, ("av1", *NAL_CODECS))
    lookup = LazyGenerators(Path(g) if isinstance(g, str | PathLike) else g for g in generators)
    gops = tuple(_gops(reader, lookup))
    duration_seconds = gops[-1].start_seconds + gops[-1].duration_seconds if gops else 0.0
    return FileReport(
        path=str(reader.path),
        size_bytes=reader.path.stat().st_size,
        width=reader.width,
        height=reader.height,
        average_rate=float(reader.average_rate),
        duration_seconds=duration_seconds,
        gops=gops,
    )


def _gops(reader: PacketReader, lookup: GeneratorLookup) -> Iterator[GopReport]:
    try:
        carriage = PacketCarriage.of(reader.codec, reader.extradata)
    except BitstreamError as error:
        raise MediaError(f"{reader.path}: {error}") from error
    decoding: GopDecoding | NalDecoding = GopDecoding(reader.time_base, reader.extradata)
    if carriage.codec is not None:
        decoding = NalDecoding(reader.time_base, reader.extradata, codec=carriage.codec)
    gop: _GopSum | None = None
    for packet in reader.packets():
        if gop is None or decoding.starts_gop(packet):
            if gop is not None:
                yield gop.report()
            gop = _GopSum(reader, carriage, lookup, packet.pts)
        gop.add(packet)
    if gop is not None:
        yield gop.report()


class _GopSum:
    """Adds up the packets of one GOP."""

    def __init__(
        self, reader: PacketReader, carriage: PacketCarriage, lookup: GeneratorLookup, start_pts: int
    ) -> None:
        self._reader = reader
        self._carriage = carriage
        self._lookup = lookup
        self._start_pts = self._end_pts = start_pts
        self._count = self._bytes = 0
        self._anchors: list[AnchorReport] = []

    def add(self, packet: CodedPacket) -> None:
        self._count += 1
        self._bytes += len(packet.data)
        self._end_pts = max(self._end_pts, packet.pts + packet.duration)
        anchor = _anchor(packet, self._carriage, self._seconds(packet.pts), self._lookup)
        if anchor is not None:
            self._anchors.append(anchor)

    def report(self) -> GopReport:
        prompt_bytes = sum(anchor.size_bytes for anchor in self._anchors)
        return GopReport(
            start_seconds=self._seconds(self._start_pts),
            duration_seconds=float((self._end_pts - self._start_pts) * self._reader.time_base),
            picture_count=self._count,
            base_bytes=self._bytes - prompt_bytes,
            prompt_bytes=prompt_bytes,
            anchors=tuple(self._anchors),
        )

    def _seconds(self, pts: int) -> float:
        return float((pts - self._reader.start_pts) * self._reader.time_base)


def _anchor(
    packet: CodedPacket, carriage: PacketCarriage, pts_seconds: float, lookup: GeneratorLookup
) -> AnchorReport | None:
    if MAGIC not in packet.data:
        return None
    try:
        size_bytes = len(packet.data) - len(carriage.detach(packet.data))
    except BitstreamError as error:
        # Where the prompt ends is not known; its bytes count for the base.
        return AnchorReport(pts_seconds, 0, f"damaged: {error}")
    if size_bytes == 0:
        return None
    try:
        prompt_bytes = carriage.extract(packet.data)
        assert prompt_bytes is not None
        return _described(decode_prompt(prompt_bytes), pts_seconds, size_bytes, lookup)
    except BitstreamError as error:
        return AnchorReport(pts_seconds, size_bytes, f"damaged: {error}")


def _described(prompt: Prompt, pts_seconds: float, size_bytes: int, lookup: GeneratorLookup) -> AnchorReport:
    names = {int(known): known.name.lower() for known in SectionType}
    content = parse_sections(prompt)
    strengths = content.gate.strengths()
    return AnchorReport(
        pts_seconds=pts_seconds,
        size_bytes=size_bytes,
        state=OK,
        sections=tuple(
            SectionReport(section.type, names.get(section.type), len(section.payload))
            for section in prompt.sections
        ),
        generator_id=prompt.generator_id.hex(),
        generator_name=_name(prompt.generator_id, lookup),
        quantiser=content.quantiser,
        gate_coverage=float((strengths > 0).mean()),
        gate_strength=float(strengths.mean()),
        still=None if content.still is None else _still(content.still, prompt.width, prompt.height),
        adapter=None if content.adapter is None else _adapter(content.adapter, prompt),
    )


def _still(still: Still, width: int, height: int) -> StillReport:
    header = checked_header(still, width, height)
    return StillReport(still.codec.name, header.width, header.height, len(still.data))


def _adapter(adapter: Adapter, prompt: Prompt) -> AdapterReport:
    (section,) = (section for section in prompt.sections if section.type == SectionType.ADAPTER)
    return AdapterReport(adapter.values.size, int(np.count_nonzero(adapter.values)), len(section.payload))


def _name(identity: bytes, lookup: GeneratorLookup) -> str | None:
    try:
        generator = lookup.find(identity)
    except GeneratorError:
        return None
    return None if generator is None else generator.name
