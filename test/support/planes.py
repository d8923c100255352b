"""A data set of planes, whose points are known."""

import numpy as np

from spd_core.camera import Camera
from spd_core.data.samples import DataError, Sample

CAMERA = Camera(300.0, 300.0, 161.3, 118.7)
NO_COLOUR = {"colour": 0.0}


def plane(camera=CAMERA, size=(240, 320)) -> np.ndarray:
    """Depth of the plane z = 3 + 0.5 x - 0.4 y, analytically at every pixel."""
    y, x = np.mgrid[: size[0], : size[1]]
    return (3 / (1 - 0.5 * (x - camera.cx) / camera.fx + 0.4 * (y - camera.cy) / camera.fy)).astype(np.float32)


def rgb(depth_m):
    return np.repeat((depth_m * 40).astype(np.uint8)[..., None], 3, -1)


class Planes:
    """Planes at different depths, some of them broken."""

    layout = "planes"
    splits = ("all",)
    evaluation_crop = "none"

    def __init__(self, count=6, broken=(2,)):
        self.count, self.broken = count, broken

    def __len__(self):
        return self.count

    def name(self, index):
        return f"plane {index}"

    def __getitem__(self, index):
        if index in self.broken:
            raise DataError(f"plane {index} is broken")
        depth_m = plane() + index
        return Sample(f"plane {index}", rgb(depth_m), depth_m, CAMERA)
