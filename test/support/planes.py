"""A data set of planes, whose points are known."""

from collections.abc import Iterable

import numpy as np

from spd_core.camera import Camera
from spd_core.data.samples import DataError, Sample

from .data_sets import Samples

CAMERA = Camera(300.0, 300.0, 161.3, 118.7)
NO_COLOUR = {"colour": 0.0}


def plane(camera=CAMERA, size=(240, 320)) -> np.ndarray:
    """Depth of the plane z = 3 + 0.5 x - 0.4 y, analytically at every pixel."""
    y, x = np.mgrid[: size[0], : size[1]]
    return (3 / (1 - 0.5 * (x - camera.cx) / camera.fx + 0.4 * (y - camera.cy) / camera.fy)).astype(np.float32)


def rgb(depth_m):
    return np.repeat((depth_m * 40).astype(np.uint8)[..., None], 3, -1)


def planes(count: int = 6, broken: Iterable[int] = (2,)) -> Samples:
    """Planes at different depths, some of them broken."""
    depths_m = [plane() + i for i in range(count)]
    whole = [Sample(f"plane {i}", rgb(depth_m), depth_m, CAMERA) for i, depth_m in enumerate(depths_m)]
    return Samples([DataError(f"plane {i} is broken") if i in broken else whole[i] for i in range(count)])
