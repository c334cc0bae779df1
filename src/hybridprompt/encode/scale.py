"""Chooses how many samples are coded: fewer than the source has, where a rate is too low for all of them.

At some 100 kbit/s a picture of 2/3 or 1/2 of the width and height, shown at full size, can be nearer to the
source than the full one at the same bytes.  But prompts gain less then: what is missing at full size cannot
be generated at a smaller one.  So the base must be nearer by more than prompts are worth at full size.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from fractions import Fraction
from statistics import fmean
from typing import Final

from hybridprompt.encode.base import BaseEncoder, BaseGop
from hybridprompt.encode.rate_control import crf_at, relative_log_bytes
from hybridprompt.encode.trials import base_distance
from hybridprompt.encode.worth import at_equal_bytes
from hybridprompt.evaluate.sampling import sample_frames
from hybridprompt.video.picture import Picture
from hybridprompt.video.scaling import scaled, scaled_size

logger = logging.getLogger(__name__)

SCALES: Final = (Fraction(2, 3), Fraction(1, 2))

LEAST_CRF: Final = 66.0
"""Nothing is tried where the rate affords a finer one; of clips below it none was nearer by even 2 %."""

_LEAST_GAIN: Final = 0.08
"""By how much the log of the base's distance must fall with every step down; prompts are worth less then."""

_LEAST_SIDE: Final = 128
_NEAR: Final = 0.03
"""Difference in the log of bytes; more of it, and what bytes are worth decides."""

_REPEATS: Final = 3
_LEAST_SLOPE: Final = 0.5
"""Of log bytes, to what is usual."""


def best_scale(encoder: BaseEncoder, gops: Iterable[tuple[list[Picture], float]]) -> Fraction:
    """The scale whose base is clearly nearest to the source at equal bytes.

    gops: pictures of full size, and the CRF at which they meet the rate.  A scale is tried only where the
    next larger one is nearer than that before it.  Raises CodecError.
    """
    costs: dict[Fraction, list[float]] = {}
    for pictures, crf in gops:
        if min(pictures[0].width, pictures[0].height) * min(SCALES) < _LEAST_SIDE:
            return Fraction(1)
        full = encoder.encode(pictures, crf, encoder.settings.effort.key_lambda_factors[0])
        last = at_equal_bytes(encoder.distance(full), full.size_bytes)
        costs.setdefault(Fraction(1), []).append(last)
        for scale in SCALES:
            cost = _scaled_cost(encoder, full, scale)
            costs.setdefault(scale, []).append(cost)
            if cost >= last:
                break
            last = cost
    full_costs = costs.get(Fraction(1), [])
    # Prompts lose with every step down.
    gains = {Fraction(1): 0.0} | {
        scale: fmean(full_costs) - fmean(costs[scale]) - step * _LEAST_GAIN
        for step, scale in enumerate(SCALES, 1)
        if full_costs and len(costs.get(scale, [])) == len(full_costs)
    }
    logger.debug("scales: %s", ", ".join(f"{scale} {-100 * gain:+.1f} %" for scale, gain in gains.items()))
    return max(gains, key=gains.__getitem__)


def _scaled_cost(encoder: BaseEncoder, full: BaseGop, scale: Fraction) -> float:
    """Log of the distance from the full source, at equal bytes, near the bytes of the full base."""
    first = full.pictures[0]
    width, height = scaled_size(first.width, first.height, scale)
    pictures = [scaled(picture, width, height) for picture in full.pictures]
    small = encoder.encode(pictures, full.crf, full.variant)
    slope = 1.0
    for _ in range(_REPEATS):
        missing = math.log(full.size_bytes / max(small.size_bytes, 1))
        if abs(missing) <= _NEAR:
            break
        crf = crf_at(relative_log_bytes(small.crf) + missing / slope)
        again = encoder.encode(pictures, crf, full.variant)
        if crf != small.crf and again.size_bytes != small.size_bytes:
            gained = math.log(max(again.size_bytes, 1) / max(small.size_bytes, 1))
            slope = max(gained / (relative_log_bytes(crf) - relative_log_bytes(small.crf)), _LEAST_SLOPE)
        small = again
    frames = sample_frames(len(pictures), encoder.settings.effort.sample_frames)
    distance = base_distance(encoder.gop(small), encoder.judge(), frames, full.pictures.__getitem__)
    return at_equal_bytes(distance, small.size_bytes)
