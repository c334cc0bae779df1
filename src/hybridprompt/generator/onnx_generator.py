"""The generator in ONNX Runtime: what a client runs."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from hybridprompt.errors import GeneratorError
from hybridprompt.generator.base import (
    USUAL_GRID,
    USUAL_MARGIN,
    Plane,
    Planes,
    identity_of,
    strength_plane,
)

if TYPE_CHECKING:
    from hybridprompt.generator.adapter import AdaptableModel

GRID_KEY, MARGIN_KEY = "hybridprompt.grid", "hybridprompt.margin"
"""In a file's metadata: NetworkConfig.grid and NetworkConfig.margin, where they are not the usual ones."""

_MAX_GRID, _MAX_MARGIN = 64, 1024

_INPUTS = ("y", "u", "v", "quantiser", "strength")
_OUTPUTS = ("y_out", "u_out", "v_out")
_MAX_PIXELS = 8192 * 8192


def _pad(plane: Plane, height: int, width: int) -> Plane:
    if plane.shape == (height, width):
        return np.ascontiguousarray(plane)
    return np.pad(plane, ((0, height - plane.shape[0]), (0, width - plane.shape[1])), "edge")


def _round_up(value: int) -> int:
    return -(-value // USUAL_GRID) * USUAL_GRID


def _geometry(metadata: Mapping[str, str], name: str) -> tuple[int, int]:
    """Grid and margin of a file.  Raises GeneratorError where they are none."""
    try:
        grid = int(metadata.get(GRID_KEY, USUAL_GRID))
        margin = int(metadata.get(MARGIN_KEY, USUAL_MARGIN))
    except ValueError as error:
        raise GeneratorError(f"{name}: its grid or margin is no number: {error}") from error
    if grid % USUAL_GRID or not USUAL_GRID <= grid <= _MAX_GRID or not 0 <= margin <= _MAX_MARGIN:
        raise GeneratorError(
            f"{name}: a grid of {grid} and a margin of {margin} pixels are not a generator's"
        )
    return grid, margin


class OnnxGenerator:
    """A generator read from an ONNX file.

    weights: the file's bytes.  threads: of one run; several runs may go on in parallel Python threads.
    identity: other than that of the file, for one with an adapter.  lean: give memory back after every run,
    which takes a little longer from the second run on.  Safe to share between threads.  Raises GeneratorError
    when ONNX Runtime refuses the file or it is not a generator.
    """

    def __init__(
        self,
        weights: bytes,
        *,
        name: str = "onnx",
        threads: int = 1,
        identity: bytes | None = None,
        lean: bool = False,
    ) -> None:
        self.weights = weights
        self._identity = identity or identity_of(weights)
        self._name = name
        self._threads = threads
        self._lock = threading.Lock()
        self._adaptable: AdaptableModel | None = None
        options = ort.SessionOptions()
        options.enable_cpu_mem_arena = not lean
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # Threads that spin while they wait would take the cores from the decoders beside them.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(weights, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors share no narrower base class
            raise GeneratorError(f"ONNX Runtime refuses the generator {name}: {error}") from error
        names = tuple(i.name for i in self._session.get_inputs())
        if set(names) != set(_INPUTS):
            raise GeneratorError(f"{name}: inputs are {names}, a generator has {_INPUTS}")
        outputs = {o.name: o.type for o in self._session.get_outputs()}
        if {outputs.get(o) for o in _OUTPUTS} != {"tensor(uint8)"}:
            raise GeneratorError(f"{name}: outputs are {outputs}, a generator has {_OUTPUTS} of 8 bits")
        self.grid, self.margin = _geometry(self._session.get_modelmeta().custom_metadata_map, name)

    @property
    def identity(self) -> bytes:
        return self._identity

    @property
    def name(self) -> str:
        return self._name

    @property
    def adapter_length(self) -> int:
        with self._lock:
            return self._adaptable_model().adapter_length

    def _adaptable_model(self) -> AdaptableModel:
        if self._adaptable is None:
            self._adaptable = _adaptable(self.weights)
        return self._adaptable

    def adapted(self, values: NDArray[np.int8]) -> OnnxGenerator:
        """See Generator.adapted.  It is lean."""
        with self._lock:
            weights = self._adaptable_model().adapted(values)
        return OnnxGenerator(
            weights, name=self._name, threads=self._threads, identity=self._identity, lean=True
        )

    def generate(
        self, planes: Planes, *, quantiser: int, strengths: NDArray[np.float32], block_size: int
    ) -> Planes:
        """Generate one picture as Generator.generate says; only what the gate lets through is computed."""
        y, u, v = planes
        height, width = y.shape
        if height * width > _MAX_PIXELS:
            raise GeneratorError(f"picture of {width}x{height} is too large for a generator")
        out = y.copy(), u.copy(), v.copy()
        box = self._changed_box(strengths, block_size, width, height)
        if box is None:
            return out
        top, bottom, left, right = box
        # Boxes begin on multiples of four.
        quarter = slice(top // 4, -(-bottom // 4)), slice(left // 4, -(-right // 4))
        gate = strength_plane(strengths, block_size, width, height, 4)[quarter]
        ph, pw = _round_up(bottom - top), _round_up(right - left)
        luma = _pad(y[top:bottom, left:right], ph, pw)
        chroma = [
            _pad(c[top // 2 : (bottom + 1) // 2, left // 2 : (right + 1) // 2], ph // 2, pw // 2)
            for c in (u, v)
        ]
        strength = np.pad(gate, ((0, ph // 4 - gate.shape[0]), (0, pw // 4 - gate.shape[1])))
        feeds = {
            "y": luma[None, None],
            "u": chroma[0][None, None],
            "v": chroma[1][None, None],
            "quantiser": np.full((1, 1, 1, 1), quantiser / 255, np.float32),
            "strength": strength[None, None],
        }
        try:
            generated = self._session.run(list(_OUTPUTS), feeds)
        except Exception as error:  # see above
            raise GeneratorError(f"generator {self._name} failed on {width}x{height}: {error}") from error
        for found, given in zip(generated, (luma, *chroma), strict=True):
            if found.shape != (1, 1, *given.shape):
                raise GeneratorError(
                    f"generator {self._name} gave a plane of {found.shape} for one of {given.shape}"
                )
        out[0][top:bottom, left:right] = generated[0][0, 0, : bottom - top, : right - left]
        for target, plane in zip(out[1:], generated[1:], strict=True):
            part = target[top // 2 : (bottom + 1) // 2, left // 2 : (right + 1) // 2]
            part[...] = plane[0, 0, : part.shape[0], : part.shape[1]]
        return out

    def _changed_box(
        self, strengths: NDArray[np.float32], block_size: int, width: int, height: int
    ) -> tuple[int, int, int, int] | None:
        """Bounds (top, bottom, left, right) of the blocks that change, with what the network must see.

        They begin on its grid, so that what it makes of a block does not depend on the others.
        """
        rows, columns = np.nonzero(strengths > 0)
        if rows.size == 0:
            return None
        top, left = (
            max(int(blocks.min()) * block_size - self.margin, 0) // self.grid * self.grid
            for blocks in (rows, columns)
        )
        bottom, right = (
            min((int(blocks.max()) + 1) * block_size + self.margin, whole)
            for blocks, whole in ((rows, height), (columns, width))
        )
        return top, bottom, left, right


def _adaptable(weights: bytes) -> AdaptableModel:
    # Reading the file takes a library that a file without adapters spares its player.
    try:
        from hybridprompt.generator.adapter import AdaptableModel
    except ImportError as error:
        raise GeneratorError(f"the generator cannot be adapted: {error}") from error
    return AdaptableModel(weights)
