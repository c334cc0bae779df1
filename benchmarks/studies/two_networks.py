"""What two networks say of the prompts of a GOP, step by step, while the encoder decides about them.

    python benchmarks/studies/two_networks.py CLIP ... [--prompts gop keyframe] [--share 0.5] [--seconds 4]
                                              [--kbps 200 120]

One GOP of each clip, coded at or below the first rate (clips of more than 900 lines) or the second.  For
every real decode that the encoder makes, whether there was an adapter, and the change against the base of
  alex  LPIPS-Alex of the judged frames, by which the encoder decides
  vgg   LPIPS-VGG of twelve tiles of each of them
and for what it decides, the same and DISTS of whole pictures beside the judged ones.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from statistics import fmean

import torch
from figures import FIGURES, save_csv
from prompt_ablation import Study, gop_parser, percent
from rich.console import Console
from rich.table import Table

from hybridprompt.encode import gate as gate_module
from hybridprompt.encode.gate import AnchorDecision, GopGate, attach_prompts, make_adapter_fitter, make_fitter
from hybridprompt.encode.judge import LpipsJudge, MapArray
from hybridprompt.encode.settings import PRESETS
from hybridprompt.encode.trials import Choice, Maps, Trials
from hybridprompt.evaluate.compare import picture_to_rgb
from hybridprompt.evaluate.perceptual import Dists, Lpips
from hybridprompt.evaluate.sampling import sample_frames
from hybridprompt.generator.base import Generator
from hybridprompt.generator.registry import load_shipped
from hybridprompt.video.picture import Picture

_GRID = (3, 4)
_TILE = 192
_BESIDE = 3
_SHOWN_FRAMES = 4
COLUMNS = ("clip", "prompts", "decode", "adapter", "anchors", "alex", "vgg", "dists")


class TwoNetworks(LpipsJudge):
    """The encoder's judge, which notes what LPIPS-VGG says of what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[float] = []
        self._vgg = Lpips("vgg", dtype=torch.bfloat16)

    def prepare(self, source: Picture) -> object:
        """See Judge.prepare."""
        return super().prepare(source), tiles(picture_to_rgb(source))

    def distance_map(self, picture: Picture, reference: object, block_size: int) -> MapArray:
        """See Judge.distance_map."""
        assert isinstance(reference, tuple)
        own, wanted = reference
        with torch.inference_mode():
            self.noted.append(float(self._vgg(tiles(picture_to_rgb(picture)), wanted).mean()))
        return super().distance_map(picture, own, block_size)


def tiles(rgb: torch.Tensor) -> torch.Tensor:
    """From the middles of the cells of a grid over a picture, (rows * columns, 3, h, w)."""
    places = []
    for whole, count in zip(rgb.shape[-2:], _GRID, strict=True):
        side = min(_TILE, whole // count)
        firsts = [(2 * i + 1) * whole // (2 * count) - side // 2 for i in range(count)]
        places.append([slice(at, at + side) for at in firsts])
    return torch.cat([rgb[..., rows, columns] for rows in places[0] for columns in places[1]])


class Watched(Trials):
    """Trials that tell what they measured: adapter, anchors, LPIPS-Alex and LPIPS-VGG."""

    said: list[tuple[bool, int, float, float]]

    def measure(self, choices: Mapping[int, Choice], frames: Collection[int]) -> Maps:
        """See Trials.measure."""
        assert isinstance(self._judge, TwoNetworks)
        self._judge.noted.clear()
        maps = super().measure(choices, frames)
        vgg = fmean(self._judge.noted)
        self.said.append((self.adapter is not None, len(choices), self.mean(maps), vgg))
        return maps


class Whole:
    """Whole pictures, beside the frames that were judged.  tiled: the networks of VGG16 see twelve tiles."""

    def __init__(
        self, study: Study, generator: Generator, *, frames: int = _SHOWN_FRAMES, tiled: bool = False
    ) -> None:
        self._study, self._generator = study, generator
        self._alex = Lpips("alex")
        self._vgg16 = Lpips("vgg", dtype=torch.bfloat16), Dists(dtype=torch.bfloat16)
        self._seen = tiles if tiled else lambda rgb: rgb
        last = len(study.pictures) - 1
        self._frames = {min(f + _BESIDE, last) for f in sample_frames(last + 1, frames, 0)}

    def distances(self, anchors: tuple[AnchorDecision, ...]) -> list[float]:
        """Mean LPIPS-Alex, LPIPS-VGG and DISTS of the GOP with these anchors."""
        study = self._study
        found: list[list[float]] = []
        packets = attach_prompts(study.gop, anchors)
        for frame, picture in study.decoded(packets, self._generator, self._frames):
            mine, wanted = (picture_to_rgb(p) for p in (picture, study.pictures[frame]))
            with torch.inference_mode():
                parts = self._seen(mine), self._seen(wanted)
                others = (float(network(*parts).mean()) for network in self._vgg16)
                found.append([float(self._alex(mine, wanted)), *others])
        return [fmean(values) for values in zip(*found, strict=True)]


def main() -> None:
    parser = gop_parser("What two networks say of prompts, step by step.")
    parser.add_argument("--prompts", nargs="+", choices=["gop", "keyframe"], default=["gop", "keyframe"])
    arguments = parser.parse_args()
    gate_module.Trials = Watched  # type: ignore[misc]
    generator, judge = load_shipped(threads=2), TwoNetworks()
    table, rows = Table(*COLUMNS), []
    for path in arguments.clips:
        study = Study(path, arguments.share, arguments.seconds, arguments.kbps)
        whole = Whole(study, generator)
        before = whole.distances(())
        for prompts in arguments.prompts:
            Watched.said = []
            effort = PRESETS["medium"].with_prompts(prompts)
            fitters = make_fitter(effort.fit), make_adapter_fitter(effort.adapter, generator)
            decision = GopGate(study.gop, generator, judge, effort, 32, *fitters).decide()
            base = Watched.said[0][2:]
            for step, (adapter, anchors, *distances) in enumerate(Watched.said):
                changes = _percent(distances, base)
                told = "yes" if adapter else "no"
                rows.append((study.name, prompts, str(step), told, str(anchors), *changes, ""))
            shown = _percent(whole.distances(decision.anchors), before)
            rows.append((study.name, prompts, "decided", "", str(len(decision.anchors)), *shown))
            save_csv(FIGURES / "two_networks.csv", COLUMNS, rows)
    for row in rows:
        table.add_row(*row)
    Console(width=140).print(table)


def _percent(found: Sequence[float], base: Sequence[float]) -> list[str]:
    return [percent(a, b, digits=2) for a, b in zip(found, base, strict=True)]


if __name__ == "__main__":
    main()
