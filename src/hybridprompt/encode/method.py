"""HybridPrompt as a method of `evaluate`, which lies below the encoder and is handed this."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from hybridprompt import __version__
from hybridprompt.decode.video_file import VideoFile
from hybridprompt.encode.pipeline import encode_file, load_generator
from hybridprompt.encode.settings import CodecName, EncodeSettings, ModeName, PresetName, PromptsName
from hybridprompt.evaluate.methods import MethodName, Reference
from hybridprompt.evaluate.rates import Grid, bitrate_grid
from hybridprompt.evaluate.settings import EvaluateSettings
from hybridprompt.video.peer_encoder import library_versions, restored
from hybridprompt.video.picture import Picture

_MAX_ENCODES = 3
"""Each takes as long as several of a peer.  One that misses its rate then is called unmatched."""

_MARGIN = 0.99
"""What is asked for of the target: the encoder meets its rate from either side, a match is from below."""

_PACKAGE = Path(__file__).parents[1]
_ENTRY_POINTS = ("hybridprompt.encode.pipeline", "hybridprompt.decode.video_file")

_PROGRAM = """
import sys, time, json
start = time.perf_counter()
import hybridprompt
first, count = None, 0
with hybridprompt.open(sys.argv[1], generators=sys.argv[2:]) as video:
    for picture in video:
        picture.y, picture.u, picture.v
        if first is None: first = time.perf_counter()
        count += 1
end = time.perf_counter()
print(json.dumps(dict(fps=count / (end - start), first=first - start, peak=peak())))
"""


@dataclass(frozen=True)
class HybridPromptMethod:
    """One preset; implements `evaluate.methods.Method`."""

    name: MethodName
    preset: PresetName
    gop_seconds: float
    generator: Path | None = None
    mode: ModeName = "enhance"
    codec: CodecName = "av1"
    prompts: PromptsName = "gop"

    suffix: str = ".mp4"
    max_encodes: int = _MAX_ENCODES
    metrics: frozenset[str] | None = None
    max_frames: int | None = None

    @property
    def grid(self) -> Grid:
        return bitrate_grid()

    def first_index(self, reference: Reference, target_kbps: float) -> int:
        return self.grid.index(target_kbps * _MARGIN)

    def finer(self, index: int) -> None:
        return None

    def encode_settings(self, reference: Reference) -> dict[str, Any]:
        settings = self._settings(200.0)
        return {
            "preset": self.preset,
            "effort": asdict(settings.effort),
            "mode": settings.mode,
            "codec": settings.codec,
            "gop_seconds": settings.gop_seconds,
            "anchor_interval": settings.anchor_interval,
            "generator": _identity(self.generator),
            "code": code_digest(),
            "search": self.grid.kind,
            "versions": {"hybridprompt": __version__, **library_versions()},
        }

    def result_settings(self) -> dict[str, Any]:
        return {}

    def encode(self, reference: Reference, parameter: float, path: Path) -> None:
        encode_file(reference.path, path, self._settings(parameter))

    def decode(self, reference: Reference, path: Path, frames: frozenset[int]) -> Iterator[Picture]:
        generators = () if self.generator is None else (self.generator,)
        with VideoFile(path, generators=generators) as video:
            for decoded in video:
                shown = restored(decoded.picture, reference.width, reference.height)
                yield replace(shown, color=reference.color)

    def speed_program(self, path: Path) -> tuple[str, list[str]]:
        return _PROGRAM, [str(path), *([str(self.generator)] if self.generator else [])]

    def _settings(self, bitrate_kbps: float) -> EncodeSettings:
        return EncodeSettings(
            bitrate_kbps=bitrate_kbps,
            preset=self.preset,
            gop_seconds=self.gop_seconds,
            generator=self.generator,
            mode=self.mode,
            codec=self.codec,
            prompts=self.prompts,
            overwrite=True,
        )


def make_method(name: MethodName, settings: EvaluateSettings) -> HybridPromptMethod:
    """The method with the settings of an evaluation."""
    preset, *other = name.variant.split("-")
    prompts = other.pop() if len(other) == 1 else "gop"
    mode, codec = other or ("enhance", "av1")
    return HybridPromptMethod(
        name,
        preset,  # type: ignore[arg-type]  # methods.FULL_SIZE_METHODS has only these
        settings.gop_seconds,
        settings.generator,
        mode,  # type: ignore[arg-type]  # as above
        codec,  # type: ignore[arg-type]  # as above
        prompts,  # type: ignore[arg-type]  # as above
    )


@lru_cache(maxsize=4)
def _identity(path: Path | None) -> str:
    return load_generator(path).identity.hex()


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Digest of the code that encodes and decodes, less comments, docstrings and layout.

    With it in the key of a result, no result of other code is ever taken for one of this.  What counts is
    what the encoder and the decoder import, at the top or inside a function, directly or by others.
    """
    digest = hashlib.sha256()
    for name, source in sorted(imported_sources(_ENTRY_POINTS).items()):
        digest.update(f"{name}\n{normalised_code(source)}".encode())
    return digest.hexdigest()[:16]


def imported_sources(entries: tuple[str, ...]) -> dict[str, str]:
    """The sources of modules and of all that they import of this package, by module name."""
    found: dict[str, str] = {}
    waiting = list(entries)
    while waiting:
        name = waiting.pop()
        file = _source_file(name)
        if name in found or file is None:
            continue
        found[name] = file.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(found[name])):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                # What is imported from a package may be a module.
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def _source_file(module: str) -> Path | None:
    package, *parts = module.split(".")
    if package != "hybridprompt":
        return None
    place = _PACKAGE.joinpath(*parts)
    candidates = (place / "__init__.py", place.with_suffix(".py"))
    return next((file for file in candidates if file.is_file()), None)


def normalised_code(source: str) -> str:
    """Python source as its syntax tree, without texts that stand alone."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [n for n in body if not _is_text(n)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
