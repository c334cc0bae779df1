"""Exports the torch network to ONNX, and checks that both compute the same pictures."""

from __future__ import annotations

import io
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from hybridprompt.errors import GeneratorError
from hybridprompt.generator.base import identity_of
from hybridprompt.generator.layout import BYTE_MIDDLE, BYTE_STEP, CHANGE_STEP
from hybridprompt.generator.network import GeneratorNetwork
from hybridprompt.generator.onnx_generator import OnnxGenerator
from hybridprompt.generator.torch_weights import config_of
from hybridprompt.train.graph import CHANGE, STEM_BYTES, build, build_for_bytes
from hybridprompt.train.idle import without_idle
from hybridprompt.train.prune import pruned
from hybridprompt.train.sample_files import Sample
from hybridprompt.train.samples import coded_planes, even_samples
from hybridprompt.train.teacher import read_weights


@dataclass(frozen=True)
class Equivalence:
    """Differences between torch and ONNX Runtime over a number of random pictures, in 8-bit levels."""

    largest: int
    differing: int
    samples: int


def load_weights(path: Path, *, strength: float = 1.0) -> GeneratorNetwork:
    """Load a network from a run's ``ema.pt``, or from an exported file, whose integers are multiplied out.

    What it adds to a picture is multiplied by ``strength``.  Raises GeneratorError.
    """
    if not 0 < strength <= _LARGEST_STRENGTH:
        raise GeneratorError(f"strength = {strength}: expected above 0, to {_LARGEST_STRENGTH}")
    try:
        found = read_weights(path, torch.device("cpu"), integers=True)
        network = GeneratorNetwork(config_of(found))
        network.load_state_dict(found)
        with torch.no_grad():
            for parameter in network.head.parameters():
                parameter.mul_(strength)
    except (OSError, EOFError, UnpicklingError, LookupError, TypeError, RuntimeError, ValueError) as error:
        raise GeneratorError(f"{path}: not the weights of a generator: {error}") from error
    return network.eval()


@torch.no_grad()
def check_equivalence(
    network: GeneratorNetwork, generator: OnnxGenerator, *, seed: int = 0, size: int = 256
) -> Equivalence:
    """Compare both on smooth and noisy random pictures at several quantisers and half a gate."""
    rng = np.random.default_rng(seed)
    largest = differing = samples = 0
    for quantiser in (0, 90, 160, 255):
        coarse = rng.integers(0, 256, (3, size // 16, size // 16)).astype(np.uint8)
        full = coarse.repeat(16, 1).repeat(16, 2)
        noisy = np.clip(full + rng.normal(0, 8, full.shape), 0, 255).astype(np.uint8)
        y, u, v = noisy[0], noisy[1, ::2, ::2].copy(), noisy[2, ::2, ::2].copy()
        strengths = rng.integers(0, 3, (size // 64, size // 64)).astype(np.float32) * np.float32(0.5)
        strengths[0, 0] = strengths[-1, -1] = 1
        got = generator.generate((y, u, v), quantiser=quantiser, strengths=strengths, block_size=64)
        gate = torch.from_numpy(strengths.repeat(16, 0).repeat(16, 1))[None, None]
        wanted = network(
            torch.from_numpy(y)[None, None].float() / 255,
            torch.from_numpy(np.stack([u, v]))[None].float() / 255,
            torch.full((1, 1, 1, 1), quantiser / 255),
            gate,
        )
        pairs = [(got[0], wanted[0][0, 0]), (got[1], wanted[1][0, 0]), (got[2], wanted[1][0, 1])]
        for plane, reference in pairs:
            levels = (reference * 255).round().clamp(0, 255).numpy().astype(int)
            difference = np.abs(plane.astype(int) - levels)
            largest = max(largest, int(difference.max()))
            differing += int((difference > 0).sum())
            samples += difference.size
    return Equivalence(largest, differing, samples)


_QUANTISED_OPERATORS = ["Conv", "Add", "Relu", "Reshape", "Transpose", "Slice"]
_CALIBRATION_PICTURES = 24
_CALIBRATION_SIDE = 384
_CALIBRATION_PERCENTILE = 99.999
"""Of the values that a range holds: those beyond are so rare that steps that are finer for all others win."""

_BYTES, _CHANGE = (
    {"scale": np.array(step, np.float32), "zero_point": np.array(BYTE_MIDDLE, np.uint8)}
    for step in (BYTE_STEP, CHANGE_STEP)
)
_LARGEST_STRENGTH = 2.0
_LARGEST_FLOAT16_LEVELS = 2
_LARGEST_RMS = 0.5
"""Of 8-bit integers against float32, in levels."""


@dataclass(frozen=True)
class Fidelity:
    """Root mean square difference of luma between two generators, in 8-bit levels, over whole pictures."""

    rms: float
    pictures: int


class _Calibration:
    """Feeds the centres of coded pictures, all of one size, to ONNX Runtime's calibrator."""

    def __init__(self, samples: list[Sample]) -> None:
        self._feeds = self._make(samples)

    @staticmethod
    def _make(samples: list[Sample]) -> Iterator[dict[str, NDArray[Any]]]:
        side = min(_CALIBRATION_SIDE, *(min(sample.width, sample.height) for sample in samples))
        for sample in samples:
            y, u, v = coded_planes(sample, side)
            yield {
                "y": y[None, None],
                "u": u[None, None],
                "v": v[None, None],
                "quantiser": np.full((1, 1, 1, 1), sample.base_q_idx / 255, np.float32),
                "strength": np.ones((1, 1, y.shape[0] // 4, y.shape[1] // 4), np.float32),
            }

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._feeds, None)


def _quantise(model: onnx.ModelProto, samples: list[Sample]) -> bytes:
    """Turn the network's convolutions to 8-bit integers, the planes' own arithmetic left alone.

    Weights keep seven bits: with eight, processors without VNNI saturate in their 16-bit sums, and would make
    other pictures than the rest.  See ONNX Runtime, "Quantize ONNX models".
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    names = [node.name for node in model.graph.node]
    network = [i for i, node in enumerate(model.graph.node) if node.op_type == "Conv"]
    outside = names[: network[0]] + names[network[-1] + 1 :]
    # Its advice to run its graph optimiser first does not hold for a graph that has nothing to fuse.
    quiet = logging.getLogger()
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        # Its calibrator prints what it was asked for.
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
            path = Path(folder) / "int8.onnx"
            quantize_static(
                model,
                path,
                _Calibration(samples),
                quant_format=QuantFormat.QDQ,
                calibrate_method=CalibrationMethod.Percentile,
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=outside,
                op_types_to_quantize=_QUANTISED_OPERATORS,
                extra_options={
                    "CalibPercentile": _CALIBRATION_PERCENTILE,
                    # Of the stem's bias; the bytes themselves are left as they are.
                    "TensorQuantOverrides": {STEM_BYTES: [_BYTES], CHANGE: [_CHANGE]},
                },
            )
            return path.read_bytes()
    finally:
        quiet.setLevel(level)


def compare_generators(reference: OnnxGenerator, other: OnnxGenerator, samples: list[Sample]) -> Fidelity:
    """Generate whole coded pictures with both, at full strength."""
    squares = 0.0
    for sample in samples:
        planes = coded_planes(sample)
        gate = np.ones((-(-planes[0].shape[0] // 64), -(-planes[0].shape[1] // 64)), np.float32)
        y, other_y = (
            g.generate(planes, quantiser=sample.base_q_idx, strengths=gate, block_size=64)[0].astype(
                np.float64
            )
            for g in (reference, other)
        )
        squares += float(((y - other_y) ** 2).mean())
    return Fidelity((squares / len(samples)) ** 0.5, len(samples))


def _write(output: Path, data: bytes) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.partial")
    temporary.write_bytes(data)
    os.replace(temporary, output)


def export(weights: Path, output: Path, *, strength: float = 1.0) -> Equivalence:
    """Export ``ema.pt`` to ONNX; the file is written only when both runtimes agree to one level.

    strength: as in `load_weights`.  Raises GeneratorError.
    """
    network = load_weights(weights, strength=strength)
    data = build(network).SerializeToString()
    result = _checked(network, data, output)
    _write(output, data)
    return result


def export_float16(weights: Path, output: Path, *, strength: float = 1.0) -> Equivalence:
    """Export ``ema.pt`` to ONNX whose network computes in 16-bit floats, in half the bytes.

    Returns how far it is from torch in float32; the file is written only when that is at most two levels.
    Raises GeneratorError.
    """
    network = load_weights(weights, strength=strength)
    data = build(network, half=True).SerializeToString()
    result = check_equivalence(network, OnnxGenerator(data, name=output.stem))
    if result.largest > _LARGEST_FLOAT16_LEVELS:
        raise GeneratorError(f"{output}: 16-bit floats differ from torch: {result}")
    _write(output, data)
    return result


def export_int8(
    weights: Path, output: Path, corpus: Path, *, strength: float = 1.0, idle: float = 0.0, seen: int = 0
) -> tuple[Equivalence, Fidelity]:
    """Export ``ema.pt`` to ONNX in 8-bit integers, their ranges taken from the corpus's training pictures.

    idle: the share of what a block adds whose channels are left out, as `without_idle` does.  seen: how many
    channels of the first convolution stay, where not all, chosen and fitted as `pruned` does.  Returns how
    torch and float32 ONNX agree, and how 8-bit integers and float32 do on held-out pictures, all without
    those channels; the file is written only when both are close.  Raises GeneratorError, and ConfigError for
    the corpus.
    """
    network = load_weights(weights, strength=strength)
    samples = even_samples(corpus / "train", _CALIBRATION_PICTURES)
    if seen:
        network = _seeing(network, samples, seen)
    if idle:
        network = without_idle(network, samples, idle)
    data = build(network).SerializeToString()
    equivalence = _checked(network, data, output)
    quantised = _quantise(build_for_bytes(network), samples)
    fidelity = compare_generators(
        OnnxGenerator(data, name="float32", threads=2),
        OnnxGenerator(quantised, name=output.stem, threads=2),
        even_samples(corpus / "validation", _CALIBRATION_PICTURES),
    )
    if not fidelity.rms <= _LARGEST_RMS:
        raise GeneratorError(f"{output}: 8-bit integers differ from float32 by {fidelity.rms:.2f} levels RMS")
    _write(output, quantised)
    return equivalence, fidelity


def _seeing(network: GeneratorNetwork, samples: list[Sample], channels: int) -> GeneratorNetwork:
    """A network that does nearly the same with so many channels in its first convolution."""
    if not 0 < channels <= network.config.first_channels:
        raise GeneratorError(f"{channels} channels of {network.config.first_channels} that see the picture")
    config = replace(network.config, seen_channels=channels)
    slim = GeneratorNetwork(config)
    slim.load_state_dict(pruned(network.state_dict(), config, samples))
    return slim.eval()


def _checked(network: GeneratorNetwork, data: bytes, output: Path) -> Equivalence:
    result = check_equivalence(network, OnnxGenerator(data, name=output.stem))
    if result.largest > 1 or result.differing > result.samples // 1000:
        raise GeneratorError(f"{output}: ONNX Runtime differs from torch: {result}")
    return result


def describe(path: Path) -> str:
    """Identity of an exported file, as people and prompts name it."""
    return identity_of(path.read_bytes()).hex()
