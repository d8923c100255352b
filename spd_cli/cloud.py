"""The three-dimensional part of the page of `spd view`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .views import Pin

CLOUD_VIEW_DEG = 50  # vertical


class CloudScene:
    """The cloud of a picture in three dimensions, with its pins."""

    def __init__(self, ui: Any):
        # No click events: one would carry every point under it.
        self.scene = ui.scene(
            grid=False,
            camera=ui.scene.perspective_camera(fov=CLOUD_VIEW_DEG, near=0.05),
            click_events=[],
            background_color="#1d2229",
            fps=30,
        ).classes("scene")
        self._points = self.scene.point_cloud([], [])
        self._middle = (0.0, 1.0, 0.0)
        self._pins: list[Any] = []

    def show(self, xyz_m: np.ndarray, colours: np.ndarray, spacing_m: float) -> None:
        """Points [K, 3] of the optical frame with colours [K, 3] in 0 ... 1, so far apart."""
        points = _in_scene(xyz_m)
        if len(points):
            self._middle = tuple(np.median(points, axis=0).tolist())
        size = 1.3 * spacing_m / math.tan(math.radians(CLOUD_VIEW_DEG) / 2)  # three.js sizes points as of 90 degrees
        self._points.delete()
        self._points = self.scene.point_cloud(points.round(3).tolist(), colours.round(3).tolist(), point_size=size)

    def from_the_camera(self) -> None:
        """Look from a little behind and above where the camera was."""
        x, y, z = self._middle
        self.scene.move_camera(x=0.0, y=-0.35 * y, z=0.12 * y, look_at_x=x, look_at_y=y, look_at_z=z, duration=0)

    def clear(self) -> None:
        """Without pins."""
        for thing in self._pins:
            thing.delete()
        self._pins = []

    def mark(self, pin: Pin, colour: str) -> None:
        if all(map(math.isfinite, pin.xyz_m)):
            sphere = self.scene.sphere(0.02 * pin.depth_m).material(colour)
            self._pins.append(sphere.move(*_in_scene(np.array(pin.xyz_m)).tolist()))

    def join(self, start: Pin, end: Pin) -> None:
        """A line between two points; none where there is no distance."""
        if not math.isfinite(end.step_m):
            return
        ends = (_in_scene(np.array(pin.xyz_m)).tolist() for pin in (start, end))
        self._pins.append(self.scene.line(*ends).material("#ffffff"))


def _in_scene(xyz_m: np.ndarray) -> np.ndarray:
    """Points [..., 3] of the optical frame (x right, y down, z forward) as the scene has them: x right, y forward, z
    up."""
    return np.stack([xyz_m[..., 0], xyz_m[..., 2], -xyz_m[..., 1]], axis=-1)
