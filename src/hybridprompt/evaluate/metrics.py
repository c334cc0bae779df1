"""All metrics of one decoded clip in one walk through it and its source, in step."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from hybridprompt.errors import CodecError, ConfigError, MediaError
from hybridprompt.evaluate.compare import picture_to_rgb, psnr_y
from hybridprompt.evaluate.perceptual import Dists, Lpips
from hybridprompt.evaluate.sampling import sample_frames
from hybridprompt.evaluate.settings import METRIC_NAMES, Precision
from hybridprompt.evaluate.vmaf import MODELS, VmafRun, find_vmaf
from hybridprompt.video.picture import Picture

METRICS_VERSION = 1
"""Goes into the key of every result: raise it when a metric's values change."""

HEAVY_METRICS = frozenset({"LPIPS-VGG", "DISTS"})
_KEPT_BYTES = 4 * 10**9
_MS_SSIM_MIN_SIDE = 161
_DIGITS = 6

PictureMetric = Callable[[Picture, Picture], float]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SamplePlan:
    """Which frames are measured, as indices in display order; VMAF takes every vmaf_step-th."""

    light: tuple[int, ...]
    heavy: tuple[int, ...]
    vmaf_step: int

    @property
    def frames(self) -> frozenset[int]:
        return frozenset(self.light) | frozenset(self.heavy)


def sample_plan(count: int, light: int, heavy: int, *, vmaf_step: int = 1, seed: int = 0) -> SamplePlan:
    """Spread samples over ``count`` frames: at the middles of equal parts, or (seed > 0) drawn in them."""
    return SamplePlan(_samples(count, light, seed), _samples(count, heavy, seed), vmaf_step)


def _samples(count: int, parts: int, seed: int) -> tuple[int, ...]:
    if seed == 0 or parts >= count:
        return tuple(sample_frames(count, parts))
    draws = np.random.default_rng([seed, count, parts]).random(parts)
    return tuple(sorted({min(int((i + draw) * count / parts), count - 1) for i, draw in enumerate(draws)}))


@dataclass
class Measurement:
    """Means by metric; values of single frames, as (frame, value); and why which metric is not there."""

    values: dict[str, float] = field(default_factory=dict)
    per_frame: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, metric: str, rows: list[tuple[int, float]]) -> None:
        """Take a metric's values.  Raises CodecError when one is no number."""
        if not all(np.isfinite(value) for _, value in rows):
            raise CodecError(f"{metric} gave a value that is no number")
        self.values[metric] = round(float(np.mean([value for _, value in rows])), _DIGITS)
        self.per_frame[metric] = [(frame, round(value, _DIGITS)) for frame, value in rows]


def flicker(previous: tuple[Picture, Picture], now: tuple[Picture, Picture]) -> float:
    """The temporal distance of one frame; pairs are (source, decoded).

    The mean over all luma samples of |(d_t - d_(t-1)) - (s_t - s_(t-1))| / 255, where d is the decoded and s
    the source picture: 0 if and only if the decoded pictures change exactly as the source does.  An error
    that stands still costs nothing; one that comes and goes, or does not move with the content, costs its
    change.
    """
    (s0, d0), (s1, d1) = previous, now
    decoded = d1.y.astype(np.int16) - d0.y.astype(np.int16)
    source = s1.y.astype(np.int16) - s0.y.astype(np.int16)
    return float(np.mean(np.abs(decoded - source), dtype=np.float64) / 255)


def ms_ssim_y(source: Picture, decoded: Picture) -> float:
    """MS-SSIM (Wang et al. 2003) of luma by pytorch-msssim: 5 scales, 11x11 Gaussian window, range 255."""
    import pytorch_msssim

    pair = [torch.from_numpy(np.array(p.y))[None, None].float() for p in (source, decoded)]
    return float(pytorch_msssim.ms_ssim(pair[0], pair[1], data_range=255, size_average=True))


class MetricSet:
    """Metrics that are ready to be used for any number of clips; their networks are loaded once.

    precision: of the networks of LPIPS-VGG and DISTS.  missing: by name, why a metric that was asked for
    cannot be computed on this machine.
    """

    def __init__(
        self, metrics: Collection[str], *, threads: int = 2, precision: Precision = "float32"
    ) -> None:
        self.metrics = tuple(name for name in METRIC_NAMES if name in metrics)
        self.missing: dict[str, str] = {}
        self._threads = threads
        self._functions: dict[str, PictureMetric] = {}
        self._kept = _KeptFeatures(_KEPT_BYTES)
        for name, load in _loaders(precision, self._kept).items():
            if name in self.metrics:
                try:
                    self._functions[name] = load()
                except (ConfigError, ImportError) as error:
                    self.missing[name] = str(error)
        program, why = find_vmaf()
        if program is None:
            self.missing |= {name: why for name in MODELS if name in self.metrics}

    def forget_sources(self) -> None:
        """Give back the memory of source pictures that will not be met again."""
        self._kept.clear()

    @torch.inference_mode()
    def measure(
        self,
        source: Iterable[Picture],
        decoded: Iterable[Picture],
        plan: SamplePlan,
        *,
        metrics: Collection[str] | None = None,
    ) -> Measurement:
        """Measure one clip.  metrics: only these of the set.

        Raises MediaError when the decoded pictures are fewer or more, or of another size.
        """
        wanted = [n for n in self.metrics if metrics is None or n in metrics]
        out = Measurement(missing={n: why for n, why in self.missing.items() if n in wanted})
        walk = _Walk(self._functions, [n for n in wanted if n not in self.missing], plan, self._threads, out)
        try:
            for frame, (original, shown) in enumerate(_in_step(source, decoded)):
                walk.take(frame, original, shown)
            walk.finish()
        finally:
            walk.close()
        return out


class _Walk:
    """One clip being measured."""

    def __init__(
        self,
        functions: dict[str, PictureMetric],
        wanted: Sequence[str],
        plan: SamplePlan,
        threads: int,
        out: Measurement,
    ) -> None:
        self._functions = {name: function for name, function in functions.items() if name in wanted}
        self._flicker = "Flicker" in wanted
        self._models = [name for name in MODELS if name in wanted]
        self._plan, self._threads, self._out = plan, threads, out
        self._rows: dict[str, list[tuple[int, float]]] = {name: [] for name in wanted}
        self._previous: tuple[Picture, Picture] | None = None
        self._vmaf: VmafRun | None = None
        self._frames = 0

    def take(self, frame: int, source: Picture, decoded: Picture) -> None:
        self._frames += 1
        if self._models:
            self._feed_vmaf(source, decoded)
        for name, function in list(self._functions.items()):
            if frame in (self._plan.heavy if name in HEAVY_METRICS else self._plan.light):
                try:
                    self._rows[name].append((frame, function(source, decoded)))
                except CodecError as error:
                    self._give_up([name], str(error))
                    del self._functions[name]
        if self._flicker:
            # The first frame has none before it: its sample moves to the second.
            sampled = frame in self._plan.light or (frame == 1 and 0 in self._plan.light)
            if self._previous is not None and sampled:
                self._rows["Flicker"].append((frame, flicker(self._previous, (source, decoded))))
            self._previous = source, decoded

    def finish(self) -> None:
        if self._vmaf is not None:
            try:
                _, per_frame = self._vmaf.finish()
                for name in self._models:
                    self._rows[name] = per_frame[name]
            except CodecError as error:
                self._give_up(self._models, str(error))
        for name, rows in self._rows.items():
            if rows:
                self._out.add(name, rows)
            elif name not in self._out.missing and self._samples_of(name):
                self._out.missing[name] = f"none of the {self._frames} frames could be measured"

    def close(self) -> None:
        if self._vmaf is not None:
            self._vmaf.close()
            self._vmaf = None

    def _samples_of(self, name: str) -> bool:
        return bool(self._plan.heavy) or name not in HEAVY_METRICS

    def _feed_vmaf(self, source: Picture, decoded: Picture) -> None:
        try:
            if self._vmaf is None:
                self._vmaf = VmafRun(
                    source.width, source.height, step=self._plan.vmaf_step, threads=self._threads
                )
            self._vmaf.push(source, decoded)
        except CodecError as error:
            self._give_up(self._models, str(error))
            self._models = []
            self.close()

    def _give_up(self, names: Iterable[str], why: str) -> None:
        for name in names:
            _log.debug("%s is missing: %s", name, why)
            self._out.missing[name] = why
            self._rows[name] = []


def _in_step(source: Iterable[Picture], decoded: Iterable[Picture]) -> Iterator[tuple[Picture, Picture]]:
    others = iter(decoded)
    frame = 0
    for frame, original in enumerate(source):
        shown = next(others, None)
        if shown is None:
            raise MediaError(f"the decoded video ends before frame {frame} of its source")
        if shown.y.shape != original.y.shape:
            raise MediaError(f"decoded frame {frame} is {shown}, expected the size of {original}")
        yield original, shown
    if next(others, None) is not None:
        raise MediaError(f"the decoded video goes on after frame {frame}, the last of its source")


class _FeatureDistance:
    """LPIPS or DISTS; features of source pictures are kept, as many results are compared with the same."""

    def __init__(self, network: Lpips | Dists, kept: _KeptFeatures, *, half: bool) -> None:
        self._network, self._kept, self._half = network, kept, half

    def __call__(self, source: Picture, decoded: Picture) -> float:
        wanted = self._kept.get(self, source)
        if wanted is None:
            wanted = self._network.features(picture_to_rgb(source))
            if self._half:
                # Whether they were kept or not must make no difference.
                wanted = [x.bfloat16() for x in wanted]
            self._kept.put(self, source, wanted)
        found = self._network.features(picture_to_rgb(decoded))
        return float(self._network.distance(found, [x.float() for x in wanted]))


class _KeptFeatures:
    """Features of source pictures by content, up to a limit in bytes; what does not fit is not kept.

    A run meets the same few frames over and over, clip by clip.  Throwing out the oldest would throw out each
    just before it is met again; so those that came first stay, until `clear` at the end of the clip.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit, self._size = limit_bytes, 0
        self._found: dict[tuple[int, bytes], list[torch.Tensor]] = {}

    def get(self, metric: _FeatureDistance, picture: Picture) -> list[torch.Tensor] | None:
        return self._found.get((id(metric), _content(picture)))

    def put(self, metric: _FeatureDistance, picture: Picture, features: list[torch.Tensor]) -> None:
        size = sum(x.element_size() * x.numel() for x in features)
        if self._size + size <= self._limit:
            self._found[id(metric), _content(picture)] = features
            self._size += size

    def clear(self) -> None:
        self._found.clear()
        self._size = 0


def _content(picture: Picture) -> bytes:
    digest = hashlib.blake2b(repr((picture.y.shape, picture.color)).encode(), digest_size=16)
    for plane in picture.planes:
        digest.update(plane.tobytes())
    return digest.digest()


def _ms_ssim() -> PictureMetric:
    import pytorch_msssim  # noqa: F401 (tells at once whether it is there)

    def metric(source: Picture, decoded: Picture) -> float:
        if min(source.width, source.height) < _MS_SSIM_MIN_SIDE:
            raise CodecError(f"MS-SSIM needs {_MS_SSIM_MIN_SIDE} pixels a side, not {source}")
        return ms_ssim_y(source, decoded)

    return metric


def _loaders(precision: Precision, kept: _KeptFeatures) -> dict[str, Callable[[], PictureMetric]]:
    half = precision == "bfloat16"
    dtype = torch.bfloat16 if half else torch.float32
    return {
        "LPIPS-Alex": lambda: _FeatureDistance(Lpips("alex"), kept, half=False),
        "LPIPS-VGG": lambda: _FeatureDistance(Lpips("vgg", dtype=dtype), kept, half=half),
        "DISTS": lambda: _FeatureDistance(Dists(dtype=dtype), kept, half=half),
        "PSNR-Y": lambda: lambda source, decoded: psnr_y(decoded, source),
        "MS-SSIM": _ms_ssim,
    }
