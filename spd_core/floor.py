"""The floor that a robot stands on: how far away it is at every pixel, and which pixels may show it.

A camera's height and tilt give the depth of the floor behind every pixel below the horizon. What stands on the floor is
nearer, nothing is farther, and a network's depths grow up the picture as the floor's do where it is floor and hardly
where something stands. `ScaleFilter.update_floor` turns this into references.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .arrays import all_finite
from .camera import Camera, cell_centres
from .errors import SPDError

GRID = 16, 12  # columns, rows of the pixels that are looked at
FARTHEST_M = 8.0
MOST_SIGMA = 0.25  # of the log of the floor's depth: farther, a degree of tilt makes it anything
# How depths of the network grow from a pixel to the one above, in units of how the floor's do: Student's t about these
# (nu = 2), measured on NYU, and the share of pixels below the horizon that show floor there.
FLOOR_GROWTH, OTHER_GROWTH, GROWTH_WIDTH, FLOOR_SHARE = 0.8, 0.05, 0.35, 0.25


class FloorError(SPDError):
    """A pose of the camera that cannot be used."""


@dataclass(frozen=True)
class FloorPlane:
    """The floor in a camera's optical frame (x right, y down, z forward).

    Attributes:
        height_m: of the camera above the floor.
        down: unit vector to the floor, along gravity.
        height_sigma_m, tilt_sigma_rad: how well they are known.
    """

    height_m: float
    down: tuple[float, float, float]
    height_sigma_m: float = 0.02
    tilt_sigma_rad: float = math.radians(1.0)

    def __post_init__(self) -> None:
        sizes = self.height_m, self.height_sigma_m, self.tilt_sigma_rad
        is_unit = np.shape(self.down) == (3,) and all_finite(*self.down) and abs(math.hypot(*self.down) - 1) < 1e-3
        if not is_unit or not all_finite(*sizes) or min(sizes) < 0 or self.height_m == 0:
            raise FloorError(
                f"a floor needs a positive height of the camera, m, a unit vector down and sigmas >= 0; got {self}"
            )

    @classmethod
    def from_tilt(cls, height_m: float, tilt_deg: float, roll_deg: float = 0.0) -> FloorPlane:
        """Of a camera that looks `tilt_deg` below the horizon and is rolled clockwise by `roll_deg`."""
        if not all_finite(tilt_deg, roll_deg) or abs(tilt_deg) >= 90:
            raise FloorError(f"camera tilt must be within -90 ... 90 degrees, got {tilt_deg!r} (roll {roll_deg!r})")
        tilt, roll = math.radians(tilt_deg), math.radians(roll_deg)
        return cls(height_m, (math.sin(roll) * math.cos(tilt), math.cos(roll) * math.cos(tilt), math.sin(tilt)))

    def depth(self, camera: Camera, uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """z-depth [K] m of the floor at pixels [K, 2] and its standard deviation [K] m; NaN where there is none."""
        rays = camera.unproject(uv, np.ones(len(uv)))
        fall = rays @ self.down  # metres down for each metre forward
        forward = np.array([0.0, 0.0, 1.0]) - self.down[2] * np.array(self.down)
        length = max(float(np.linalg.norm(forward)), 1e-9)  # a camera that looks straight down tilts to no side
        with np.errstate(divide="ignore", invalid="ignore"):
            depth_m = np.where(fall > 0, self.height_m / fall, np.nan)
            # Tilting turns `down` towards where the camera looks.
            by_tilt = rays @ (forward / length) / fall * self.tilt_sigma_rad
        return depth_m, depth_m * np.hypot(self.height_sigma_m / self.height_m, by_tilt)


def floor_points(plane: FloorPlane, camera: Camera, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels [K, 2] of an image of `size` that may show floor, its depth [K] m there and the standard deviation of its
    logarithm [K]; NaN depths for those of the grid that cannot. K is that of the grid, row by row."""
    uv = cell_centres(size, *GRID)
    depth_m, sigma_m = plane.depth(camera, uv)
    sigma_log = sigma_m / depth_m
    usable = (depth_m < FARTHEST_M) & (sigma_log < MOST_SIGMA)
    return uv, np.where(usable, depth_m, np.nan), sigma_log


def floor_chance(plane: FloorPlane, floor_m: np.ndarray, network_m: np.ndarray) -> np.ndarray:
    """Probability [K] that the pixels of the grid show floor, from how the network's depth [K] grows against the
    floor's, both of `floor_points`."""
    logs = np.stack([np.log(values).reshape(GRID[::-1]) for values in (network_m, floor_m)])
    is_on_its_side = abs(plane.down[0]) > abs(plane.down[1])
    if is_on_its_side:
        logs = logs.transpose(0, 2, 1)
    network_growth, floor_growth = logs[:, :-1] - logs[:, 1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = network_growth / floor_growth
    of_pixel = np.full(logs.shape, np.nan)  # with the neighbour below, and the one above
    of_pixel[0, :-1] = of_pixel[1, 1:] = growth
    known = np.isfinite(of_pixel)
    growth = np.where(known, of_pixel, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    likelihood = [(1 + ((growth - about) / GROWTH_WIDTH) ** 2 / 2) ** -1.5 for about in (FLOOR_GROWTH, OTHER_GROWTH)]
    chance = FLOOR_SHARE * likelihood[0] / (FLOOR_SHARE * likelihood[0] + (1 - FLOOR_SHARE) * likelihood[1])
    chance = np.where(known.any(axis=0), chance, FLOOR_SHARE)
    return (chance.T if is_on_its_side else chance).ravel()
