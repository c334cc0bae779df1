"""LPIPS and DISTS against the authors' own code on pictures made from a seed."""

import importlib.util
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from hybridprompt.evaluate import weights  # noqa: E402
from hybridprompt.evaluate.perceptual import Dists, Lpips  # noqa: E402

if not weights.have_metric_weights():
    pytest.skip("the weights of LPIPS and DISTS are not installed", allow_module_level=True)

# Printed by independent/compute.py, which says how: lpips 0.1.4, dists-pytorch 0.1, torch 2.13.0, CPU.
EXPECTED = {
    ("alex", 96, 128): 0.2675570,
    ("vgg", 96, 128): 0.3487894,
    ("dists", 96, 128): 0.2134004,
    ("alex", 131, 77): 0.2744923,
    ("vgg", 131, 77): 0.3240958,
    ("dists", 131, 77): 0.2352480,
}


def _script():
    spec = importlib.util.spec_from_file_location(
        "independent_compute", Path(__file__).parent / "independent" / "compute.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "height", "width"), EXPECTED)
def test_values_are_those_of_the_authors_code(name: str, height: int, width: int) -> None:
    metric = Dists() if name == "dists" else Lpips(name)
    a, b = (torch.from_numpy(p)[None] for p in _script().picture_pair(height, width))
    assert float(metric(a, b)) == pytest.approx(EXPECTED[name, height, width], abs=2e-5)
