"""Does generating harm what a generator may spoil, and does the encoder's gate leave it alone?

    python benchmarks/studies/harm.py [--generator small|medium|FILE] [--crf 60] [--frames 64] [--medium]
        [--only CONTENT ...] [--faces IMAGE_OR_FOLDER ...] [--clip FILE ...] [--csv FILE] [--pictures FOLDER]

Makes short clips (1280x720, 30 Hz, the same for the same seed) of what photographs teach little about:
  text, text on black  pages of many sizes that scroll; many bits, and near lossless
  filmed text          such a page as a camera sees it, which is not
  flat sky             a smooth gradient with a sun that drifts
  animation            flat shapes with outlines that move over a flat background
  film grain           soft blobs that move, under grain of 6 levels, new in every frame
  sharp                a zone plate, line grids and checkers in focus that pan
and, where given, of pictures of faces that pan, and of clips of one's own.  Codes each as one GOP at one CRF
as the encoder does, and shows it
  base    without prompts
  blind   the keyframe generated everywhere at strength 1
  measured  the same, and later anchors as `enhance` does without a reference
  fast    with the anchors and gates that preset fast decides
  medium  with those of preset medium, fitted end to end; where asked for
by real decodes.  Distances are means of six frames that no gate was judged by; LPIPS-VGG and DISTS are of the
central 640 pixels of three of them.  The rows of prompts have changes against the base; "blocks on" has
the share of the picture that each anchor generates, and the mean strength there.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from pathlib import Path
from statistics import fmean
from typing import NoReturn

import av
import numpy as np
import torch
from figures import save_csv
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps
from rich.console import Console
from rich.table import Table

from hybridprompt.decode.injection import GopDecoding, decode_gop
from hybridprompt.decode.warnings import DecodeWarning
from hybridprompt.encode.arrived import measured_anchors
from hybridprompt.encode.base import BaseEncoder
from hybridprompt.encode.blocks import area_shares
from hybridprompt.encode.gate import AnchorDecision, GopGate, attach_prompts, make_adapter_fitter, make_fitter
from hybridprompt.encode.gop import Gop
from hybridprompt.encode.judge import LpipsJudge
from hybridprompt.encode.settings import PRESETS, EncodeSettings, PresetName
from hybridprompt.encode.trials import Choice, Trials
from hybridprompt.evaluate.compare import METRICS, picture_to_rgb, psnr_y
from hybridprompt.evaluate.perceptual import Dists, Lpips, quick_dtype
from hybridprompt.evaluate.sampling import sample_frames
from hybridprompt.generator.base import Generator
from hybridprompt.generator.registry import GeneratorRegistry, load_chosen
from hybridprompt.prompt.gate import GateMap
from hybridprompt.prompt.sections import parse_sections
from hybridprompt.prompt.syntax import decode_prompt, encode_prompt
from hybridprompt.video.peer_encoder import write_lossless
from hybridprompt.video.picture import Picture, picture_from_frame
from hybridprompt.video.source import VideoSource

Rgb = NDArray[np.uint8]
"""(H, W, 3)."""

WIDTH, HEIGHT, RATE = 1280, 720, Fraction(30)
GRAIN_LEVELS = 6.0
HARM = 1.01
"""A distance that is more than this many times the base's."""

_FRAMES, _FEW, _PATCH = 6, 3, 640
_LEAST_FRAMES = 24
_PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_WORDS = (
    "the", "keyframe", "of", "each", "group", "is", "generated", "and", "9,471", "references", "to", "it",
    "carry", "detail", "through", "Quality", "Wxyz", "fjord", "a", "bank", "$3.75", "glyphs", "vext", "in",
)  # fmt: skip
_COLUMNS = ("content", "stream", "kbps", "blocks_on", "prompt_bytes", *METRICS)


def panned(canvas: Image.Image, count: int, right: float, down: float) -> Iterator[Rgb]:
    """Windows of a larger picture, which move by so many samples a frame."""
    for i in range(count):
        x, y = right * i, down * i
        box = (x, y, x + WIDTH, y + HEIGHT)
        yield np.asarray(canvas.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box=box))


def canvas_size(count: int, right: float, down: float) -> tuple[int, int]:
    """(width, height) that `panned` needs."""
    return WIDTH + ceil(right * count), HEIGHT + ceil(down * count)


def text_page(count: int, seed: int, ink: str, paper: str) -> Image.Image:
    """Lines of 11 to 48 samples, enough to scroll by a sample a frame."""
    rng = np.random.default_rng(seed)
    width, height = canvas_size(count, 0, 1)
    page = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(page)
    top = 8
    for size in itertools.cycle((24, 13, 13, 16, 34, 11, 11, 18, 20, 48, 14)):
        if top > height:
            break
        words = " ".join(rng.choice(_WORDS, 2400 // size))
        draw.text((20, top), words[: round(2.1 * width / size)], fill=ink, font=ImageFont.load_default(size))
        top += round(1.35 * size)
    return page


def filmed_text(count: int, seed: int) -> Iterator[Rgb]:
    """A page as a camera sees it: grainy paper, not quite in focus, unevenly lit."""
    page = text_page(count, seed, "#202028", "#e8e4d8").filter(ImageFilter.GaussianBlur(0.8))
    y, x = np.mgrid[0 : page.height, 0 : page.width].astype(np.float64)
    light = 1 - 0.5 * np.hypot(x / page.width - 0.3, y / page.height - 0.2)
    paper = np.random.default_rng(seed).normal(0, 3, light.shape)
    return panned(
        Image.fromarray(as_levels((np.asarray(page) * light[..., None]) + paper[..., None])), count, 0, 0.7
    )


def sky(count: int, seed: int) -> Iterator[Rgb]:
    """Blue to white, with a sun."""
    right, down = 0.5, 0.25
    width, height = canvas_size(count, right, down)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    share = np.clip(y / height + 0.08 * np.sin(2 * np.pi * (x / width + seed / 7)), 0, 1)[..., None]
    rgb = (1 - share) * np.array([62.0, 122.0, 205.0]) + share * np.array([226.0, 236.0, 246.0])
    far = np.hypot(x - 0.6 * width, y - 0.4 * height)[..., None]
    sun = np.clip(56 - far, 0, 1) + (far >= 56) * 0.5 * np.exp(-(far - 56) / 90)
    rgb += np.clip(sun, 0, 1) * (np.array([255.0, 250.0, 228.0]) - rgb)
    return panned(Image.fromarray(as_levels(rgb)), count, right, down)


def animation(count: int, seed: int) -> Iterator[Rgb]:
    """Drawn at twice the size, for smooth edges."""
    rng = np.random.default_rng(seed)
    shapes = 14
    colours = [tuple(int(level) for level in rng.integers(40, 256, 3)) for _ in range(shapes)]
    places = rng.uniform((0, 0), (2 * WIDTH, 2 * HEIGHT), (shapes, 2))
    speeds = rng.uniform(-7, 7, (shapes, 2))
    radii = rng.uniform(80, 230, shapes)
    for i in range(count):
        image = Image.new("RGB", (2 * WIDTH, 2 * HEIGHT), (126, 196, 236))
        draw = ImageDraw.Draw(image)
        draw.rectangle((-9, 1000, 2 * WIDTH + 9, 2 * HEIGHT + 9), (112, 176, 84), "black", 8)
        for shape, (colour, place, radius) in enumerate(zip(colours, places, radii, strict=True)):
            x, y = (float(c) for c in (place + speeds[shape] * i) % (2 * WIDTH, 2 * HEIGHT))
            box = (x - radius, y - radius, x + radius, y + radius)
            if shape % 3 == 0:
                draw.ellipse(box, colour, "black", 8)
                for eye in (x - radius / 3, x + radius / 3):
                    draw.ellipse((eye - 18, y - 40, eye + 18, y + 20), "white", "black", 5)
                draw.arc(
                    (x - radius / 2, y - radius / 3, x + radius / 2, y + radius / 2), 20, 160, "black", 9
                )
            elif shape % 3 == 1:
                draw.rounded_rectangle(box, radius / 4, colour, "black", 8)
            else:
                draw.regular_polygon((x, y, radius), 3 + shape % 4, 2 * i, colour, "black", 8)
        yield np.asarray(image.reduce(2))


def grain(count: int, seed: int) -> Iterator[Rgb]:
    """Grey noise of GRAIN_LEVELS over blobs."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : HEIGHT // 8, 0 : WIDTH // 8].astype(np.float64)
    blobs = 16
    places = rng.uniform((0, 0), (WIDTH // 8, HEIGHT // 8), (blobs, 2))
    speeds = rng.uniform(-0.2, 0.2, (blobs, 2))
    radii, colours = rng.uniform(6, 22, blobs), rng.uniform(-110, 110, (blobs, 3))
    for i in range(count):
        scene = np.full((*x.shape, 3), 118.0)
        for place, speed, radius, colour in zip(places, speeds, radii, colours, strict=True):
            left, top = place + speed * i
            scene += np.exp(-((x - left) ** 2 + (y - top) ** 2) / (2 * radius**2))[..., None] * colour
        large = Image.fromarray(as_levels(scene)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        yield as_levels(np.asarray(large) + rng.normal(0, GRAIN_LEVELS, (HEIGHT, WIDTH, 1)))


def sharp(count: int, seed: int) -> Iterator[Rgb]:
    """Four panels of black and white, turned a little and unevenly lit, which pan.

    Upright, two-valued and moving by whole samples they would be copied bit by bit at next to no cost.
    """
    right, down = 0.7, 0.3
    width, height = canvas_size(count, right, down)
    y, x = np.mgrid[0 : 2 * height, 0 : 2 * width] / 2
    light = 1 - 0.3 * np.hypot(x / width - 0.7, y / height - 0.3)
    turn = np.deg2rad(6 + seed)
    x, y = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn) + 0.2 * width
    plate = np.cos(np.pi * ((x - 0.3 * width) ** 2 + (y - 0.4 * height) ** 2) / (0.7 * width)) > 0
    pitch = 4 + 2 * (y * 8 // height)
    lines = x % pitch < pitch / 2
    cell = 3 + x * 8 // width
    checker = (x // cell + y // cell) % 2 == 0
    grid = (x % 12 < 1.5) | (y % 12 < 1.5) | ((x + y) % 40 < 2)
    left, upper = x < 0.55 * width, y < 0.65 * height
    white = np.where(upper, np.where(left, plate, lines), np.where(left, grid, checker))
    levels = np.where(white, 236, 20) * light
    return panned(Image.fromarray(as_levels(levels)).reduce(2).convert("RGB"), count, right, down)


def still(path: Path, count: int) -> Iterator[Rgb]:
    """A picture cut to the shape of the clip, which pans."""
    right, down = 0.75, 0.25
    with Image.open(path) as image:
        picture = ImageOps.exif_transpose(image).convert("RGB")
    size = canvas_size(count, right, down)
    # Faces are rather above the middle.
    canvas = ImageOps.fit(picture, size, Image.Resampling.LANCZOS, centering=(0.5, 0.35))
    return panned(canvas, count, right, down)


def as_levels(values: NDArray[np.floating]) -> Rgb:
    levels: Rgb = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return levels


SYNTHETIC: Mapping[str, Callable[[int, int], Iterator[Rgb]]] = {
    "text": lambda count, seed: panned(text_page(count, seed, "#181818", "#f4f2ea"), count, 0, 1),
    "text on black": lambda count, seed: panned(text_page(count, seed, "#e8e8e8", "#101418"), count, 0, 1),
    "filmed text": filmed_text,
    "flat sky": sky,
    "animation": animation,
    "film grain": grain,
    "sharp": sharp,
}


def as_pictures(frames: Iterator[Rgb]) -> Iterator[Picture]:
    """The frames of a clip as its source has them."""
    for index, rgb in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), "rgb24")
        yield replace(picture_from_frame(frame), pts=index, time_base=1 / RATE)


def image_files(paths: Sequence[Path]) -> list[Path]:
    """Image files, and those of folders."""
    found = []
    for path in paths:
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        found += [p for p in inside if p.suffix.lower() in _PICTURE_SUFFIXES]
    if paths and not found:
        sys.exit(f"no pictures in {', '.join(map(str, paths))}: expected {', '.join(_PICTURE_SUFFIXES)}")
    return found


@dataclass(frozen=True)
class Shown:
    """What a stream shows: values of METRICS, mean over the measured frames."""

    stream: str
    anchors: str
    prompt_bytes: int
    values: Mapping[str, float]

    def is_worse_than(self, base: Shown) -> bool:
        return any(self.values[m] > HARM * base.values[m] for m in ("LPIPS-Alex", "DISTS"))

    def changes(self, base: Shown) -> list[str]:
        """In percent, and dB."""
        pairs = [(self.values[m], base.values[m]) for m in METRICS]
        *distances, (psnr, base_psnr) = pairs
        return [*(f"{100 * (a / b - 1):+.1f} %" for a, b in distances), f"{psnr - base_psnr:+.2f} dB"]


class Meter:
    """Measures shown frames against the sources."""

    def __init__(self) -> None:
        dtype = quick_dtype(torch.device("cpu"))
        self._alex = Lpips("alex")
        self._few: dict[str, Lpips | Dists] = {"LPIPS-VGG": Lpips("vgg", dtype=dtype)}
        self._few["DISTS"] = Dists(dtype=dtype)

    @torch.inference_mode()
    def measure(
        self, sources: Mapping[int, Picture], streams: Mapping[str, Mapping[int, Picture]]
    ) -> dict[str, dict[str, float]]:
        """Mean of each of METRICS for every stream."""
        found: dict[str, dict[str, list[float]]] = {s: {m: [] for m in METRICS} for s in streams}
        frames = sorted(sources)
        few = [frames[i] for i in sample_frames(len(frames), _FEW)]
        for frame in frames:
            source = sources[frame]
            wanted = picture_to_rgb(source)
            alex = self._alex.features(wanted)
            features = {m: net.features(centre(wanted)) for m, net in self._few.items() if frame in few}
            for name, pictures in streams.items():
                rgb = picture_to_rgb(replace(pictures[frame], color=source.color))
                found[name]["LPIPS-Alex"].append(float(self._alex.distance(self._alex.features(rgb), alex)))
                found[name]["PSNR-Y"].append(psnr_y(pictures[frame], source))
                for metric, target in features.items():
                    net = self._few[metric]
                    found[name][metric].append(float(net.distance(net.features(centre(rgb)), target)))
        return {name: {m: fmean(values) for m, values in lists.items()} for name, lists in found.items()}


def centre(rgb: torch.Tensor) -> torch.Tensor:
    """The central square of _PATCH samples."""
    top, left = (max(size - _PATCH, 0) // 2 for size in rgb.shape[-2:])
    return rgb[..., top : top + _PATCH, left : left + _PATCH]


class Study:
    """One GOP of one clip, coded at a CRF."""

    def __init__(
        self, source: VideoSource, pictures: list[Picture], crf: float, generator: Generator
    ) -> None:
        self.pictures = pictures
        settings = EncodeSettings(crf=crf, preset="medium")
        factor = settings.effort.key_lambda_factors[0]
        base = BaseEncoder(source, settings, LpipsJudge).encode(self.pictures, crf, factor)
        self.gop = Gop(base.packets, None, source.time_base, self.pictures.__getitem__)
        self.kbps = base.size_bytes * 8 / 1000 * float(source.average_rate) / len(self.pictures)
        self._interval = settings.anchor_interval
        self._generator = generator
        self._judge = LpipsJudge()

    def compare(self, presets: Sequence[PresetName], meter: Meter) -> tuple[list[Shown], dict[str, Picture]]:
        """The base, and the streams to compare with it; and a picture of each, and of the source."""
        gates = {preset: self.gate(preset) for preset in presets}
        sources = self.measured(gates.values())
        decisions: dict[str, Sequence[AnchorDecision]] = {"base": (), "blind": (self.blind(),)}
        candidates, first = self.gop.candidates(self._interval), self.pictures[0]
        decisions["measured"] = measured_anchors(
            self.gop, self._generator, candidates, first.width, first.height
        )
        decisions |= {preset: gate.decide().anchors for preset, gate in gates.items()}
        streams = {name: self.decoded(anchors, sources) for name, anchors in decisions.items()}
        means = meter.measure(sources, streams)
        shown = [
            Shown(name, ", ".join(map(self._told, anchors)), self.prompt_bytes(anchors), means[name])
            for name, anchors in decisions.items()
        ]
        middle = sorted(sources)[len(sources) // 2]
        return shown, {name: frames[middle] for name, frames in {"source": sources, **streams}.items()}

    def measured(self, gates: Iterable[GopGate]) -> dict[int, Picture]:
        """Sources of some frames that no gate is judged by."""
        judged = {0, *(frame for gate in gates for frame in gate.wanted_frames())}
        free = [frame for frame in range(len(self.pictures)) if frame not in judged]
        return {free[i]: self.pictures[free[i]] for i in sample_frames(len(free), _FRAMES)}

    def gate(self, preset: PresetName) -> GopGate:
        """What decides the anchors."""
        effort = PRESETS[preset]
        return GopGate(
            self.gop,
            self._generator,
            self._judge,
            effort,
            self._interval,
            make_fitter(effort.fit),
            make_adapter_fitter(effort.adapter, self._generator),
        )

    def blind(self) -> AnchorDecision:
        """The keyframe at strength 1 everywhere."""
        trials = Trials(self.gop, self._generator, self._judge)
        keyframe = self.gop.candidates(None)[0]
        choice = Choice(keyframe.base_q_idx, GateMap.uniform(*trials.size))
        prompt = encode_prompt(trials.prompt(keyframe.packet, choice))
        return AnchorDecision(keyframe.packet, keyframe.frame, prompt, 1.0, choice.quantiser)

    def decoded(self, anchors: Sequence[AnchorDecision], frames: Mapping[int, Picture]) -> dict[int, Picture]:
        """Frames of the stream with these anchors."""
        generators = GeneratorRegistry([self._generator], shipped=False)
        decoding = GopDecoding(self.gop.time_base, None, generators, threads=2, on_warning=_fail)
        shown = decode_gop(attach_prompts(self.gop, anchors), decoding)
        return {p.index: p.picture.copied() for p in shown if p.index in frames}

    def prompt_bytes(self, anchors: Sequence[AnchorDecision]) -> int:
        """What the prompts add to the packets."""
        pairs = zip(attach_prompts(self.gop, anchors), self.gop.packets, strict=True)
        return sum(len(new.data) - len(old.data) for new, old in pairs)

    def _told(self, anchor: AnchorDecision) -> str:
        """The frame of an anchor, its share of blocks, and their mean strength."""
        gate = parse_sections(decode_prompt(anchor.prompt_bytes)).gate
        assert gate is not None
        first = self.pictures[0]
        shares = area_shares(first.width, first.height, gate.block_log2)
        on = float((shares * (gate.indices > 0)).sum())
        return f"{anchor.frame}: {100 * on:.0f} % at {anchor.coverage / max(on, 1e-9):.2f}"


def _fail(warning: DecodeWarning) -> NoReturn:
    # The base in place of what was asked for would count as harmless.
    sys.exit(f"a prompt was not used: {warning}")


def clips_of(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Path]]:
    """Name and file of every content, made as it is asked for."""
    count: int = arguments.frames
    for name, make in SYNTHETIC.items():
        if name in arguments.only:
            write_lossless(as_pictures(make(count, arguments.seed)), folder / "made.mkv", RATE)
            yield name, folder / "made.mkv"
    for path in image_files(arguments.faces):
        write_lossless(as_pictures(still(path, count)), folder / "made.mkv", RATE)
        yield f"face {path.stem}", folder / "made.mkv"
    for path in arguments.clip:
        yield path.stem, path


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--generator", type=Path, help="small, medium or an ONNX file")
    parser.add_argument("--crf", type=float, default=60.0, help="of the base")
    parser.add_argument("--frames", type=int, default=64, help="of every clip, at least 24")
    parser.add_argument("--seed", type=int, default=1, help="of the clips that are made")
    parser.add_argument("--medium", action="store_true", help="let preset medium decide, too")
    parser.add_argument("--only", nargs="*", choices=SYNTHETIC, default=list(SYNTHETIC), metavar="CONTENT")
    parser.add_argument("--faces", nargs="+", type=Path, default=[], help="pictures, or folders of some")
    parser.add_argument("--clip", nargs="+", type=Path, default=[], help="clips; their first frames count")
    parser.add_argument("--csv", type=Path, help="where to write the values")
    parser.add_argument("--pictures", type=Path, help="folder for a frame of every stream")
    arguments = parser.parse_args()
    if arguments.frames < _LEAST_FRAMES:
        parser.error(f"--frames {arguments.frames}: some must be left that no gate is judged by")
    return arguments


def save_pictures(folder: Path, content: str, pictures: Mapping[str, Picture]) -> None:
    """A PNG file of every stream."""
    folder.mkdir(parents=True, exist_ok=True)
    for stream, picture in pictures.items():
        path = folder / f"{content.replace(' ', '_')}-{stream}.png"
        Image.fromarray(picture.to_rgb()).save(path)


def add_to(table: Table, content: str, kbps: float, base: Shown, others: Sequence[Shown]) -> None:
    """The base's values, and the changes of the others."""
    *distances, psnr = (base.values[m] for m in METRICS)
    values = [*(f"{d:.4f}" for d in distances), f"{psnr:.2f} dB"]
    table.add_row(content, base.stream, f"{kbps:.1f}", "", "", *values)
    for shown in others:
        anchors = shown.anchors or "none"
        table.add_row("", shown.stream, "", anchors, str(shown.prompt_bytes), *shown.changes(base))
    table.add_section()


def verdict(harmed: Mapping[str, Sequence[str]], contents: int) -> str:
    """In how many contents each way is worse than the base."""
    told = []
    for stream, names in harmed.items():
        listed = f" ({', '.join(names)})" if names else ""
        told.append(f"{stream} in {len(names)}{listed}")
    limit = f"{100 * (HARM - 1):.0f} % in LPIPS-Alex or DISTS"
    return f"Worse than the base by more than {limit}, of {contents} contents: {'; '.join(told)}"


def main() -> None:
    arguments = parse_arguments()
    generator = load_chosen(arguments.generator, threads=2)
    presets: list[PresetName] = ["fast", "medium"] if arguments.medium else ["fast"]
    meter = Meter()
    title = f"Generator {generator.name}, CRF {arguments.crf:g}"
    table = Table("content", "stream", "kbit/s", "blocks on", "prompt bytes", *METRICS, title=title)
    rows: list[tuple[object, ...]] = []
    harmed: dict[str, list[str]] = {stream: [] for stream in ("blind", "measured", *presets)}
    console = Console(width=150)
    contents = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, path in clips_of(arguments, Path(folder)):
            contents += 1
            source = VideoSource(path)
            frames = [picture.copied() for picture in itertools.islice(source.frames(), arguments.frames)]
            study = Study(source, frames, arguments.crf, generator)
            (base, *others), pictures = study.compare(presets, meter)
            add_to(table, name, study.kbps, base, others)
            console.print(name, *(f"{s.stream} {s.values['LPIPS-Alex']:.4f}" for s in (base, *others)))
            for shown in (base, *others):
                numbers = (f"{shown.values[m]:.5f}" for m in METRICS)
                rows.append(
                    (name, shown.stream, f"{study.kbps:.1f}", shown.anchors, shown.prompt_bytes, *numbers)
                )
            for shown in others:
                if shown.is_worse_than(base):
                    harmed[shown.stream].append(name)
            if arguments.pictures is not None:
                save_pictures(arguments.pictures, name, pictures)
    console.print(table)
    if arguments.csv is not None:
        save_csv(arguments.csv, _COLUMNS, rows)
    console.print(verdict(harmed, contents))


if __name__ == "__main__":
    main()
