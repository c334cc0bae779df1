"""Turning and mirroring pictures the way a display matrix says."""

from typing import cast

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer, Type

from hybridprompt.video.picture import Plane

Matrix = tuple[int, int, int, int]
"""Signs (a, b, c, d) of the mapping x' = a x + c y, y' = b x + d y."""


def display_matrix(frame: av.VideoFrame) -> Matrix | None:
    """Return the matrix a frame carries; None if nothing is to be turned."""
    side_data = cast(SideDataContainer, frame.side_data)
    if Type.DISPLAYMATRIX not in side_data:
        return None
    data = side_data[Type.DISPLAYMATRIX]
    values = np.frombuffer(bytes(data), np.int32)
    a, b, c, d = (int(values[index]) for index in (0, 1, 3, 4))
    if abs(b) + abs(c) > abs(a) + abs(d):
        matrix = (0, int(np.sign(b)), int(np.sign(c)), 0)
    else:
        matrix = (int(np.sign(a)), 0, 0, int(np.sign(d)))
    return None if matrix == (1, 0, 0, 1) else matrix


def swaps_axes(matrix: Matrix) -> bool:
    """Return whether width and height change places."""
    return matrix[0] == 0 and matrix[1] != 0


def oriented(plane: Plane, matrix: Matrix) -> Plane:
    """Return a view of a plane (H, W), turned: (H, W) or (W, H)."""
    a, b, c, d = matrix
    if swaps_axes(matrix):
        plane, flip_x, flip_y = plane.T, c < 0, b < 0
    else:
        flip_x, flip_y = a < 0, d < 0
    return plane[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
