"""What fitting the prompts brings: blind, fitted on the anchors alone, and end to end, by real decodes.

    python benchmarks/studies/prompt_ablation.py [CLIP ...] [--share 0.5] [--seconds 4] [--kbps 200 120]

Codes one GOP of each clip as the encoder does, at or below the first rate (clips of more than 900 lines) or
the second, and shows it
  base          without prompts
  blind         the keyframe generated everywhere at strength 1
  blind anchors the same, and the later anchors at half strength
  strong anchors the same, these at three quarters
  measured anchors the same, these at what `enhance` without a reference measures
  adapted       the same as blind with an adapter of the generator, fitted to the keyframe
  fast          the search of preset fast, all anchors
  own           adapter and strengths fitted on the anchors' own pictures only
  own keyframe  the same, the keyframe alone
  keyframe      strengths of the keyframe alone, fitted end to end on frames of the whole GOP, no adapter
  strengths     the same with later anchors: preset medium without an adapter
  end to end    preset medium: the same with an adapter
  no anchors    the same without later anchors: the keyframe alone
  free pixels   the keyframe's picture itself, fitted end to end through the operator from the source on
  original      the source as the keyframe's picture
Free pixels start from a real decode with the source as the keyframe; of some points on the way to what the
descent found, the one that is really nearest on the frames that supervise is taken.
Frames that are measured are not among those that supervise.  LPIPS-VGG and DISTS are of the central 640
pixels of two of them.  Bytes are the prompts'.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from figures import FIGURES, save_csv
from rich.console import Console
from rich.table import Table

from hybridprompt.decode.injection import GopDecoding, decode_gop
from hybridprompt.encode.arrived import measured_anchors
from hybridprompt.encode.base import BaseEncoder
from hybridprompt.encode.gate import AnchorDecision, GopGate, attach_prompts, make_adapter_fitter, make_fitter
from hybridprompt.encode.gop import Gop, find_candidates
from hybridprompt.encode.judge import LpipsJudge
from hybridprompt.encode.operator.decode_operator import DecodeOperator, PlaneTensors
from hybridprompt.encode.operator.decoders import Av1AnchorDecoder
from hybridprompt.encode.operator.probe import probe
from hybridprompt.encode.rate_control import crf_at, relative_log_bytes
from hybridprompt.encode.settings import PRESETS, AdapterSettings, EncodeSettings, FitSettings, PresetName
from hybridprompt.encode.worth import WORTH_OF_BYTES
from hybridprompt.evaluate.colour import yuv420_to_rgb
from hybridprompt.evaluate.compare import psnr_y
from hybridprompt.evaluate.loss import GeneratorLoss, LossWeights
from hybridprompt.evaluate.perceptual import Dists, Lpips, quick_dtype
from hybridprompt.evaluate.sampling import sample_frames
from hybridprompt.generator.base import Generator, Planes
from hybridprompt.generator.registry import GeneratorRegistry, load_shipped
from hybridprompt.prompt.gate import GateMap
from hybridprompt.prompt.sections import Adapter, build_prompt, encode_adapter
from hybridprompt.prompt.syntax import encode_prompt
from hybridprompt.video.av1_encoder import CodedPacket
from hybridprompt.video.picture import Picture
from hybridprompt.video.source import VideoSource

_SUPERVISED_TOO_CLOSE = 1
_INTERVAL = 32
_RATE_ENCODES = 6
_FREE_STEPS, _FREE_RATE, _FREE_EPSILON = 120, 0.2 / 255, 1e-5
"""A large epsilon: most samples are in no crop of a step, and Adam would walk them about at random."""

_FREE_WAYS = (0.0, 0.3, 0.6, 1.0)
_PATCH = 640
_FITTED: tuple[PresetName, ...] = ("medium", "slow")
_COLUMNS = (
    "clip", "kbps", "prompt", "anchors", "bytes", "lpips_alex", "lpips_vgg", "dists", "psnr_y",
    "alex_percent", "vgg_percent", "dists_percent", "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """What a set of prompts shows, on average over the measured frames; seconds: of deciding."""

    prompt: str
    anchors: int
    size_bytes: int
    alex: float
    vgg: float
    dists: float
    psnr: float
    seconds: float


def as_tensors(planes: Planes) -> PlaneTensors:
    """y (H, W) and uv (2, H/2, W/2) in [0, 1]."""
    y, u, v = (torch.from_numpy(np.array(plane)).float() / 255 for plane in planes)
    return y, torch.stack([u, v])


def patch(planes: Planes) -> torch.Tensor:
    """The central square as RGB."""
    y, uv = as_tensors(planes)
    height, width = y.shape
    side = min(_PATCH, height // 2 * 2, width // 2 * 2)
    top, left = (height - side) // 4, (width - side) // 4
    half = slice(top, top + side // 2), slice(left, left + side // 2)
    full = slice(2 * top, 2 * top + side), slice(2 * left, 2 * left + side)
    return yuv420_to_rgb(y[full][None, None], uv[:, *half][None])


def crops(
    shown: PlaneTensors, wanted: PlaneTensors, count: int, size: int, rng: torch.Generator
) -> tuple[PlaneTensors, PlaneTensors]:
    """Some squares of both at the same places: luma (N, 1, S, S), chroma (N, 2, S/2, S/2)."""
    half = min(size, *shown[0].shape) // 2
    places = [
        [int(torch.randint(edge // 2 - half + 1, (1,), generator=rng)) for edge in shown[0].shape]
        for _ in range(count)
    ]

    def cut(planes: PlaneTensors) -> PlaneTensors:
        luma = [
            planes[0][2 * top : 2 * (top + half), 2 * left : 2 * (left + half)][None] for top, left in places
        ]
        chroma = [planes[1][:, top : top + half, left : left + half] for top, left in places]
        return torch.stack(luma), torch.stack(chroma)

    return cut(shown), cut(wanted)


class Meter:
    """Measures shown frames against the sources."""

    def __init__(self, pictures: list[Picture], frames: list[int]) -> None:
        self.frames = frames
        self.few = frames[1::2][:2]
        self._pictures = pictures
        self._judge = LpipsJudge()
        quick = quick_dtype(torch.device("cpu"))
        self._vgg = Lpips("vgg", dtype=quick)
        self._dists = Dists(dtype=quick)
        self._references = {f: self._judge.prepare(pictures[f]) for f in frames}

    def alex(self, frame: int, planes: Planes) -> float:
        """LPIPS-Alex of any frame."""
        source, (y, u, v) = self._pictures[frame], planes
        if frame not in self._references:
            self._references[frame] = self._judge.prepare(source)
        picture = replace(source, y=y, u=u, v=v)
        # One block that holds the picture: its mean is the distance.
        return float(self._judge.distance_map(picture, self._references[frame], 1 << 15).mean())

    def measure(
        self, shown: Mapping[int, Planes], name: str, anchors: int, size_bytes: int, seconds: float
    ) -> Shown:
        """Mean distances of the frames."""
        alex, psnr, vgg, dists = [], [], [], []
        for frame in self.frames:
            source, (y, u, v) = self._pictures[frame], shown[frame]
            alex.append(self.alex(frame, shown[frame]))
            psnr.append(psnr_y(replace(source, y=y, u=u, v=v), source))
        with torch.inference_mode():
            for frame in self.few:
                mine, wanted = patch(shown[frame]), patch(self._pictures[frame].planes)
                vgg.append(float(self._vgg(mine, wanted)))
                dists.append(float(self._dists(mine, wanted)))
        means = (float(np.mean(values)) for values in (alex, vgg, dists, psnr))
        return Shown(name, anchors, size_bytes, *means, seconds)


class Study:
    """One GOP of one clip."""

    def __init__(self, path: Path, share: float, seconds: float, rates: list[float]) -> None:
        self.name = path.stem
        source = VideoSource(path)
        start = share * (source.duration_seconds or 0)
        count = round(seconds * float(source.average_rate))
        pictures = itertools.islice(source.frames(start_seconds=start), count)
        self.pictures = [picture.copied() for picture in pictures]
        self.source = source
        self.target = rates[0] if source.height > 900 else rates[-1]
        self.packets, self.kbps, self.crf = self._coded()
        self.gop = Gop(self.packets, None, source.time_base, self.pictures.__getitem__)
        supervising = {
            f + d
            for preset in _FITTED
            for frames in _supervised(preset)
            for f in sample_frames(len(self.pictures), frames)
            for d in range(-_SUPERVISED_TOO_CLOSE, _SUPERVISED_TOO_CLOSE + 1)
        }
        free = [f for f in range(1, len(self.pictures)) if f not in supervising]
        self.meter = Meter(self.pictures, [free[i] for i in sample_frames(len(free), 6)])
        self.size = source.width, source.height

    def _coded(self) -> tuple[list[CodedPacket], float, float]:
        """The GOP as the encoder codes it, as near below the rate as a few encodes come; kbit/s and CRF."""
        encoder = BaseEncoder(self.source, EncodeSettings(crf=64.0, preset="medium"), LpipsJudge)
        factor = PRESETS["medium"].key_lambda_factors[0]
        seconds = len(self.pictures) / float(self.source.average_rate)
        crf = 64.0
        found: tuple[list[CodedPacket], float, float] | None = None
        for _ in range(_RATE_ENCODES):
            base = encoder.encode(self.pictures, crf, factor)
            kbps = base.size_bytes * 8 / 1000 / seconds
            if kbps <= self.target and (found is None or kbps > found[1]):
                found = base.packets, kbps, crf
            if 0.985 * self.target <= kbps <= self.target:
                break
            crf = crf_at(relative_log_bytes(crf) + math.log(0.993 * self.target / kbps))
        if found is None:
            raise SystemExit(f"{self.name}: {self.target:g} kbit/s are not met in {_RATE_ENCODES} encodes")
        return found

    def _decoder(self) -> Av1AnchorDecoder:
        return Av1AnchorDecoder(
            packets=self.packets, size=self.size, time_base=self.source.time_base, threads=2
        )

    def injected(self, name: str, picture: Planes | None) -> Shown:
        """The stream with another keyframe picture, None for its own."""
        decoder = self._decoder()
        injection = None if picture is None else lambda base: picture
        shown = {f: planes for f, planes in decoder.decode(0, self.meter.frames, injection)}
        return self.meter.measure(shown, name, int(picture is not None), 0, 0.0)

    def decoded(
        self, packets: list[CodedPacket], generator: Generator, frames: Collection[int]
    ) -> Iterator[tuple[int, Picture]]:
        """Some frames of packets of this GOP with prompts, as a player shows them."""
        generators = GeneratorRegistry([generator], shipped=False)
        for shown in decode_gop(packets, GopDecoding(self.source.time_base, None, generators, threads=2)):
            if shown.index in frames:
                yield shown.index, shown.picture

    def prompted(
        self,
        name: str,
        generator: Generator,
        preset: PresetName,
        *,
        fit: FitSettings | None = None,
        adapter: AdapterSettings | None = None,
        interval: int | None = _INTERVAL,
    ) -> Shown:
        """The stream with prompts that a preset decides, with another fit."""
        started = time.perf_counter()
        fitters = make_fitter(fit), make_adapter_fitter(adapter, generator)
        decision = GopGate(self.gop, generator, LpipsJudge(), PRESETS[preset], interval, *fitters).decide()
        return self.played(name, generator, decision.anchors, time.perf_counter() - started)

    def played(
        self, name: str, generator: Generator, anchors: Sequence[AnchorDecision], seconds: float
    ) -> Shown:
        """The stream with prompts; seconds: that deciding about them took."""
        packets = attach_prompts(self.gop, anchors)
        added = sum(len(p.data) for p in packets) - sum(len(p.data) for p in self.packets)
        decoded = self.decoded(packets, generator, self.meter.frames)
        shown = {frame: picture.copied().planes for frame, picture in decoded}
        return self.meter.measure(shown, name, len(anchors), added, seconds)

    def blind_anchors(self, name: str, generator: Generator, quarters: int) -> Shown:
        """The stream with all its anchors generated everywhere; quarters: strength of the later ones."""
        anchors = []
        for candidate in find_candidates(self.gop, _INTERVAL):
            # Of five levels, from none to all of the strength.
            gate = GateMap.uniform(*self.size, levels=5, index=quarters if candidate.frame else 4)
            quantiser = candidate.base_q_idx
            prompt = encode_prompt(build_prompt(generator.identity, *self.size, quantiser, gate))
            coverage = float(gate.strengths().mean())
            anchors.append(AnchorDecision(candidate.packet, candidate.frame, prompt, coverage, quantiser))
        return self.played(name, generator, anchors, 0.0)

    def measured_anchors(self, name: str, generator: Generator) -> Shown:
        """The stream with its keyframe generated everywhere, later anchors as `enhance` measures them."""
        started = time.perf_counter()
        candidates = find_candidates(self.gop, _INTERVAL)
        anchors = measured_anchors(self.gop, generator, candidates, *self.size)
        return self.played(name, generator, anchors, time.perf_counter() - started)

    def free_pixels(self) -> Shown:
        """The stream with the keyframe picture that serves the whole GOP best, every sample of it free."""
        started = time.perf_counter()
        fit = _fit_of("medium")
        frames = sorted({0, *sample_frames(len(self.pictures), fit.frames)})
        decoder = self._decoder()
        original = self.pictures[0].planes
        decoded = {f: as_tensors(p) for f, p in decoder.decode(0, frames, lambda base: original)}
        operators = {m.frame: DecodeOperator(m) for m in probe(decoder, 0, frames[1:])}
        sources = {f: as_tensors(self.pictures[f].planes) for f in frames}
        base = sources[0]
        free = [plane.clone().requires_grad_() for plane in base]
        rng = torch.Generator().manual_seed(fit.seed)
        weights = LossWeights(vgg_every=2, vgg_crops=2, vgg_size=128)
        loss = GeneratorLoss(weights, torch.device("cpu"), torch.Generator().manual_seed(fit.seed))
        optimizer = torch.optim.Adam(free, _FREE_RATE, eps=_FREE_EPSILON)
        for step in range(_FREE_STEPS):
            frame = frames[step % len(frames)]
            shown = tuple(free)
            if frame:
                shown = operators[frame].predict((free[0], free[1]), base=base, decoded=decoded[frame])
            predicted, wanted = crops(shown, sources[frame], fit.crops, fit.crop_size, rng)
            optimizer.zero_grad()
            loss(predicted, wanted, step).total.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            with torch.no_grad():
                for plane in free:
                    plane.clamp_(0, 1)
        found = [plane.detach() for plane in free]
        best = min(
            (self._between(base, found, way) for way in _FREE_WAYS), key=lambda p: self._distance(p, frames)
        )
        return replace(self.injected("free pixels", best), seconds=time.perf_counter() - started)

    @staticmethod
    def _between(start: Sequence[torch.Tensor], end: Sequence[torch.Tensor], way: float) -> Planes:
        y, uv = (
            (255 * a.lerp(b, way)).round().to(torch.uint8).numpy() for a, b in zip(start, end, strict=True)
        )
        return y, uv[0].copy(), uv[1].copy()

    def _distance(self, keyframe: Planes, frames: Collection[int]) -> float:
        """Mean LPIPS-Alex of frames with another keyframe picture."""
        decoded = self._decoder().decode(0, frames, lambda base: keyframe)
        return float(np.mean([self.meter.alex(frame, planes) for frame, planes in decoded]))

    def base(self) -> Shown:
        """The stream without prompts."""
        return self.injected("base", None)

    def _blindly(self, generator: Generator, names: list[str]) -> Iterator[Shown]:
        """Later anchors generated without looking at the source."""
        for name, quarters in (("blind-anchors", 2), ("strong-anchors", 3)):
            if name in names:
                yield self.blind_anchors(name.replace("-", " "), generator, quarters)
        if "measured-anchors" in names:
            yield self.measured_anchors("measured anchors", generator)

    def compared(self, generator: Generator, names: list[str]) -> Iterator[Shown]:
        """What the table compares with the base."""
        medium, slow = PRESETS["medium"], PRESETS["slow"]
        fit, adapter = _fit_of("medium"), medium.adapter
        for name in ("blind", "adapted"):
            if name in names:
                yield self.blind(name, generator, adapter if name == "adapted" else None)
        yield from self._blindly(generator, names)
        if "fast" in names:
            yield self.prompted("fast", generator, "fast")
        if "own" in names:
            alone = adapter and replace(adapter, frames=0)
            yield self.prompted("own", generator, "medium", fit=replace(fit, frames=0), adapter=alone)
        if "own-keyframe" in names:
            alone, own = adapter and replace(adapter, frames=0), replace(fit, frames=0)
            yield self.prompted("own keyframe", generator, "medium", fit=own, adapter=alone, interval=None)
        if "keyframe" in names:
            yield self.prompted("keyframe", generator, "medium", fit=fit, interval=None)
        if "strengths" in names:
            yield self.prompted("strengths", generator, "medium", fit=fit)
        if "end-to-end" in names:
            yield self.prompted("end to end", generator, "medium", fit=fit, adapter=adapter)
        if "no-anchors" in names:
            yield self.prompted("no anchors", generator, "medium", fit=fit, adapter=adapter, interval=None)
        if "slow" in names:
            yield self.prompted("slow", generator, "slow", fit=slow.fit, adapter=slow.adapter)
        if "free" in names:
            yield self.free_pixels()
        if "original" in names:
            yield self.injected("original", self.pictures[0].planes)

    def blind(self, name: str, generator: Generator, adapter: AdapterSettings | None) -> Shown:
        """The stream with its keyframe generated everywhere, with an adapter fitted to it or without."""
        started = time.perf_counter()
        quantiser = find_candidates(self.gop, None)[0].base_q_idx
        ones = np.ones((-(-self.size[1] // 64), -(-self.size[0] // 64)), np.float32)
        keyframe = next(iter(decode_gop(self.packets[:1], GopDecoding(self.source.time_base))))
        planes, added = keyframe.picture.copied().planes, 0
        fitter = make_adapter_fitter(adapter, generator)
        if fitter is not None:
            byte_price = WORTH_OF_BYTES / self.gop.size_bytes
            values = fitter.fit(planes, self.pictures[0].planes, quantiser, byte_price=byte_price)
            added = len(encode_adapter(Adapter(values)))
            generator = generator.adapted(values)
        made = generator.generate(planes, quantiser=quantiser, strengths=ones, block_size=64)
        shown = self.injected(name, made)
        return replace(shown, size_bytes=added, seconds=time.perf_counter() - started)


def _fit_of(preset: PresetName) -> FitSettings:
    fit = PRESETS[preset].fit
    assert fit is not None
    return fit


def _supervised(preset: PresetName) -> tuple[int, int]:
    """Frames of a GOP that a preset's fits look at."""
    adapter = PRESETS[preset].adapter
    return _fit_of(preset).frames, 0 if adapter is None else adapter.frames


def percent(value: float, base: float, digits: int = 1) -> str:
    """Change against the base."""
    return f"{100 * (value / base - 1):+.{digits}f}"


METRICS = ("alex", "vgg", "dists")
"""Distances of Shown, in the order of tables."""

Key = tuple[str, ...]


class Changes:
    """Changes of distances against the base, in percent, by what was compared, for their means over clips."""

    def __init__(self) -> None:
        self._found: dict[Key, list[list[float]]] = defaultdict(list)

    def add(self, key: Key, shown: Shown, base: Shown) -> list[str]:
        """Keep a clip's; return them as a table shows them, in the order of METRICS."""
        pairs = [(getattr(shown, name), getattr(base, name)) for name in METRICS]
        self._found[key].append([100 * (value / before - 1) for value, before in pairs])
        return [percent(value, before) for value, before in pairs]

    def means(self) -> Iterator[tuple[Key, list[str]]]:
        """Means over the clips, as a table shows them."""
        for key, values in self._found.items():
            yield key, [f"{value:+.1f}" for value in np.mean(values, 0)]


NAMES = [
    *("blind", "blind-anchors", "strong-anchors", "adapted", "fast", "own", "own-keyframe", "keyframe"),
    *("strengths", "end-to-end", "no-anchors", "free", "original"),
]


def gop_parser(description: str) -> argparse.ArgumentParser:
    """Options of what takes one GOP of each clip, see Study."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="where in the clip the GOP begins")
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--kbps", type=float, nargs=2, default=[200, 120])
    return parser


def main() -> None:
    parser = gop_parser("Ablation of the prompt's fitting, by real decodes.")
    parser.add_argument(
        "--prompts", nargs="+", default=NAMES, help="what to compare with the base; also slow"
    )
    arguments = parser.parse_args()
    generator = load_shipped(threads=2)
    table = Table(*_COLUMNS)
    rows, changes = [], Changes()
    console = Console(width=170)
    for path in arguments.clips:
        study = Study(path, arguments.share, arguments.seconds, arguments.kbps)
        base = study.base()
        for shown in itertools.chain([base], study.compared(generator, arguments.prompts)):
            relative = changes.add((shown.prompt,), shown, base)
            row = (
                study.name, f"{study.kbps:.1f}", shown.prompt, str(shown.anchors), str(shown.size_bytes),
                f"{shown.alex:.4f}", f"{shown.vgg:.4f}", f"{shown.dists:.4f}", f"{shown.psnr:.2f}",
                *relative, f"{shown.seconds:.0f}",
            )  # fmt: skip
            rows.append(row)
            table.add_row(*row)
            console.print(*row)
        save_csv(FIGURES / "prompt_ablation.csv", _COLUMNS, rows)
    for (prompt,), mean in changes.means():
        table.add_row("mean", "", prompt, "", "", "", "", "", "", *mean, "")
        rows.append(("mean", "", prompt, "", "", "", "", "", "", *mean, ""))
    console.print(table)
    save_csv(FIGURES / "prompt_ablation.csv", _COLUMNS, rows)


if __name__ == "__main__":
    main()
