"""Which frames are looked at."""

import numpy as np
import pytest

from hybridprompt.evaluate.sampling import sample_frames


@pytest.mark.parametrize("start", [0, 32])
@pytest.mark.parametrize("frames", [3, 6, 10])
@pytest.mark.parametrize("count", [33, 34, 40, 120, 600])
def test_samples_are_spread_evenly(count: int, frames: int, start: int) -> None:
    found = sample_frames(count, frames, start)
    assert found == sorted(set(found))
    assert len(found) == min(frames, count - start)
    assert start <= found[0]
    assert found[-1] < count
    if count - start > 4 * frames:
        gaps = np.diff([2 * start - 1 - found[0], *found, 2 * count - found[-1] - 1])
        assert gaps.max() - gaps.min() <= 2
