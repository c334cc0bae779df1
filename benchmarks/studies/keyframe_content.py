"""What content of a prompt is worth its bytes: fitted strengths against fitted weights, on one keyframe.

    python benchmarks/studies/keyframe_content.py CLIP [CLIP ...] [--steps 120] [--crf 64.5]

Codes the GOP of each clip that begins at --share of its length (tune 0), takes the keyframe, and fits to it,
with the loss of training and the same random crops,
  blind       nothing: strength 1 everywhere
  strengths   one strength in 0..2 per block of 64 samples: what the encoder sends
  film        a gain and an offset per channel of every convolution
  rank 1      an update of rank 1 of every convolution, and offsets
  weights     every weight of the network: the bound of all adaptations, too large to be sent per GOP
What is fitted is quantised before it is measured.  Bytes are the entropy of the indices, each kind of
parameter with its own distribution: what an ideal coder would need that knows these distributions.  LPIPS-VGG
and DISTS are of the central 512 samples.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from figures import FIGURES, save_csv
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.func import functional_call

from hybridprompt.decode.injection import GopDecoding, decode_gop
from hybridprompt.encode.gop import Gop, find_candidates
from hybridprompt.evaluate.colour import yuv420_to_rgb
from hybridprompt.evaluate.loss import GeneratorLoss, LossWeights
from hybridprompt.evaluate.perceptual import Dists, Lpips
from hybridprompt.generator.base import Planes
from hybridprompt.generator.network import ALIGNMENT, GeneratorNetwork
from hybridprompt.generator.torch_weights import config_of
from hybridprompt.train.teacher import read_weights
from hybridprompt.video.av1_encoder import Av1Settings, encode_gop
from hybridprompt.video.source import VideoSource

WEIGHTS = Path(__file__).parents[2] / "src/hybridprompt/generator/weights/generator_v2.onnx"
KINDS = ("strengths", "film", "rank 1", "weights")
_RATES = {"strengths": 0.08, "film": 6e-3, "rank 1": 2e-3, "weights": 3e-4}
_BLOCK = 64
_CROP = 224
_CROPS = 4
_COLUMNS = (
    "clip", "content", "parameters", "bytes", "lpips_alex", "alex_percent", "vgg_percent", "dists_percent",
    "psnr_db", "seconds",
)  # fmt: skip

Tensors = tuple[torch.Tensor, torch.Tensor]
Content = dict[str, torch.Tensor]


def tensors(planes: Planes) -> Tensors:
    """Planes in [0, 1], cut to what the network takes."""
    y, u, v = planes
    height, width = (size // ALIGNMENT * ALIGNMENT for size in y.shape)
    uv = np.stack([u, v])[:, : height // 2, : width // 2]
    luma = torch.from_numpy(y[:height, :width].copy())[None, None].float() / 255
    return luma, torch.from_numpy(uv.copy())[None].float() / 255


class Keyframe:
    """The keyframe of one GOP, and how near to its source a picture is."""

    def __init__(self, path: Path, share: float, crf: float) -> None:
        source = VideoSource(path)
        start = share * (source.duration_seconds or 0)
        pictures = [p.copied() for p in itertools.islice(source.frames(start_seconds=start), 96)]
        settings = Av1Settings(
            width=source.width, height=source.height, frame_rate=source.average_rate,
            time_base=source.time_base, crf=crf, preset=5, threads=2, color=source.color,
            extra=(("tune", "0"),),
        )  # fmt: skip
        packets = encode_gop(pictures, settings)
        first = next(iter(decode_gop(packets[:1], GopDecoding(source.time_base))))
        self.base, self.source = tensors(first.picture.copied().planes), tensors(pictures[0].planes)
        found = find_candidates(Gop(packets, None, source.time_base, pictures.__getitem__), None)
        self.quantiser = torch.full((1, 1, 1, 1), found[0].base_q_idx / 255)
        self._alex = Lpips("alex", dtype=torch.bfloat16)
        self._vgg, self._dists = Lpips("vgg", dtype=torch.bfloat16), Dists(dtype=torch.bfloat16)

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.base[0].shape[-2:]
        return height, width

    @torch.no_grad()
    def distances(self, picture: Tensors) -> tuple[float, float, float, float]:
        """LPIPS-Alex, LPIPS-VGG, DISTS and PSNR of luma."""
        mine, wanted = (yuv420_to_rgb(p[0].clamp(0, 1), p[1].clamp(0, 1)) for p in (picture, self.source))
        side = min(512, *self.size)
        top, left = ((length - side) // 2 for length in self.size)
        patches = [p[..., top : top + side, left : left + side] for p in (mine, wanted)]
        error = float(((picture[0].clamp(0, 1) - self.source[0]) ** 2).mean())
        return (
            float(self._alex(mine, wanted)),
            float(self._vgg(*patches)),
            float(self._dists(*patches)),
            -10 * math.log10(error),
        )


class Adaptation:
    """The generator with content of one kind."""

    def __init__(self, kind: str, size: tuple[int, int]) -> None:
        weights = read_weights(WEIGHTS, torch.device("cpu"), integers=True)
        self.network = GeneratorNetwork(config_of(weights))
        self.network.load_state_dict(weights)
        self.network.eval().requires_grad_(False)
        self.kind, self.size = kind, size
        self.content = self._start()

    def _start(self) -> Content:
        rng = torch.Generator().manual_seed(0)
        if self.kind == "strengths":
            return {"strengths": torch.ones(1, 1, *(-(-length // _BLOCK) for length in self.size))}
        content: Content = {}
        for name, conv in self.network.named_modules():
            if not isinstance(conv, nn.Conv2d):
                continue
            outputs, inputs = conv.weight.shape[0], conv.weight[0].numel()
            content[f"{name} offset"] = torch.zeros(outputs)
            if self.kind == "film":
                content[f"{name} gain"] = torch.zeros(outputs)
            elif self.kind == "rank 1":
                content[f"{name} left"] = torch.zeros(outputs, 1)
                content[f"{name} right"] = torch.randn(1, inputs, generator=rng) / inputs**0.5
            elif self.kind == "weights":
                content[f"{name} weight"] = torch.zeros_like(conv.weight)
        return content

    def _weights(self, content: Content) -> dict[str, torch.Tensor]:
        weights = dict(self.network.named_parameters())
        for key, value in content.items():
            name, _, what = key.rpartition(" ")
            if what == "offset":
                weights[f"{name}.bias"] = weights[f"{name}.bias"] + value
            elif what == "gain":
                weights[f"{name}.weight"] = weights[f"{name}.weight"] * (1 + value)[:, None, None, None]
            elif what == "weight":
                weights[f"{name}.weight"] = weights[f"{name}.weight"] + value
            elif what == "left":
                update = (value @ content[f"{name} right"]).view_as(weights[f"{name}.weight"])
                weights[f"{name}.weight"] = weights[f"{name}.weight"] + update
        return weights

    def generate(self, base: Tensors, quantiser: torch.Tensor, content: Content, at: list[tuple[int, int]]):
        """The pictures whose top left corners are ``at``."""
        strength = None
        if self.kind == "strengths":
            full = F.interpolate(content["strengths"], scale_factor=_BLOCK // 4, mode="nearest")
            height, width = base[0].shape[-2:]
            strength = torch.cat(
                [full[..., y // 4 : (y + height) // 4, x // 4 : (x + width) // 4] for y, x in at]
            )
        told = quantiser.expand(len(base[0]), 1, 1, 1)
        return functional_call(self.network, self._weights(content), (*base, told, strength))

    def fit(self, keyframe: Keyframe, steps: int) -> None:
        """Gradient descent on random crops of the keyframe."""
        rng = torch.Generator().manual_seed(1)
        loss = GeneratorLoss(LossWeights(vgg_every=2, vgg_crops=2, vgg_size=128), torch.device("cpu"), rng)
        for value in self.content.values():
            value.requires_grad_()
        optimizer = torch.optim.Adam(list(self.content.values()))
        for step in range(steps):
            rate = _RATES[self.kind] * min(1, (step + 1) / 10)
            optimizer.param_groups[0]["lr"] = rate * (0.5 + 0.5 * math.cos(math.pi * step / steps))
            at = [
                (
                    int(torch.randint((self.size[0] - _CROP) // 8 + 1, (1,), generator=rng)) * 8,
                    int(torch.randint((self.size[1] - _CROP) // 8 + 1, (1,), generator=rng)) * 8,
                )
                for _ in range(_CROPS)
            ]
            base, source = (crops(planes, at) for planes in (keyframe.base, keyframe.source))
            total = loss(self.generate(base, keyframe.quantiser, self.content, at), source, step).total
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            if self.kind == "strengths":
                with torch.no_grad():
                    self.content["strengths"].clamp_(0, 2)

    def quantised(self) -> tuple[Content, float]:
        """The content in steps of half of each tensor's deviation (strengths: 1/4), and its bytes."""
        out, bits = {}, 0.0
        for key, value in self.content.items():
            value = value.detach()
            step = 0.25 if self.kind == "strengths" else max(float(value.std()) / 2, 1e-9)
            indices = (value / step).round()
            _, counts = np.unique(indices.numpy(), return_counts=True)
            bits -= float((counts * np.log2(counts / counts.sum())).sum())
            out[key] = indices * step
        return out, bits / 8


def crops(planes: Tensors, at: list[tuple[int, int]]) -> Tensors:
    """Squares of both planes."""
    y = torch.cat([planes[0][..., t : t + _CROP, x : x + _CROP] for t, x in at])
    half = _CROP // 2
    uv = torch.cat([planes[1][..., t // 2 : t // 2 + half, x // 2 : x // 2 + half] for t, x in at])
    return y, uv


def main() -> None:
    parser = argparse.ArgumentParser(description="Strengths against weights as a prompt's content.")
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="where in the clip the GOP begins")
    parser.add_argument("--crf", type=float, default=64.5)
    parser.add_argument("--steps", type=int, default=120)
    arguments = parser.parse_args()
    console, table, rows = Console(width=150), Table(*_COLUMNS), []
    for path in arguments.clips:
        keyframe = Keyframe(path, arguments.share, arguments.crf)
        before = keyframe.distances(keyframe.base)
        for kind in ("blind", *KINDS):
            started = time.perf_counter()
            adaptation = Adaptation(kind, keyframe.size)
            content, size_bytes = {}, 0.0
            if kind != "blind":
                adaptation.fit(keyframe, arguments.steps)
                content, size_bytes = adaptation.quantised()
            with torch.no_grad():
                shown = adaptation.generate(keyframe.base, keyframe.quantiser, content, [(0, 0)])
            found = keyframe.distances(shown)
            row = (
                path.stem, kind, str(sum(v.numel() for v in content.values())), f"{size_bytes:.0f}",
                f"{before[0]:.4f} -> {found[0]:.4f}",
                *(f"{100 * (new / old - 1):+.1f}" for new, old in zip(found[:3], before, strict=False)),
                f"{found[3] - before[3]:+.2f}", f"{time.perf_counter() - started:.0f}",
            )  # fmt: skip
            rows.append(row)
            console.print(*row)
            table.add_row(*row)
    console.print(table)
    save_csv(FIGURES / "keyframe_content.csv", _COLUMNS, rows)


if __name__ == "__main__":
    main()
