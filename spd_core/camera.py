"""Pinhole camera geometry, and the one definition of what a pixel coordinate means.

**The pixel-centre rule.** A point is `(x, y)` in pixels, x to the right, y down, and the centre of the first pixel is
(0, 0). A pixel covers half a pixel on each side of its centre, so an image of width W spans x in [-0.5, W - 0.5].
Scaling an image by `s` therefore moves a point to `(x + 0.5) * s - 0.5`. Everything that scales, crops or asks whether
a point is inside goes through this file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

# Focal length, at 640 px width, of the Kinect that recorded NYU Depth V2 (`data/nyu.py` has the whole camera): what the
# presets train at.
NYU_FOCAL_PX = 518.8579

# distortion models of sensor_msgs/CameraInfo, as OpenCV defines them, with the numbers of coefficients they may have
DISTORTION_MODELS = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,)}


def scale_points(points_px: np.ndarray, scale: float) -> np.ndarray:
    """Points [..., 2] px of an image after that image was resized by `scale` (the pixel-centre rule)."""
    return (points_px + 0.5) * scale - 0.5


def inside_image(points_px: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Which points [..., 2] (x, y) px lie on the image of `size` (height, width); NaN and inf lie outside. bool
    [...]."""
    height, width = size
    x, y = points_px[..., 0], points_px[..., 1]
    return (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)


def cell_centres(size: tuple[int, int], columns: int, rows: int) -> np.ndarray:
    """Centres [columns * rows, 2] (x, y) px of a grid of cells that covers an image of `size` (height, width), row by
    row."""
    x, y = ((np.arange(count) + 0.5) * extent / count - 0.5 for count, extent in ((columns, size[1]), (rows, size[0])))
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


@dataclass(frozen=True)
class Camera:
    """Pinhole intrinsics in pixels: `fx, fy` focal lengths, `cx, cy` principal point (pixel-centre rule above).

    `distortion` are the coefficients of `distortion_model` (a key of DISTORTION_MODELS); empty for a rectified image.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...] = ()
    distortion_model: str = "plumb_bob"

    def __post_init__(self):
        if not all(map(math.isfinite, (self.fx, self.fy, self.cx, self.cy))) or self.fx <= 0 or self.fy <= 0:
            raise ValueError(f"camera intrinsics must be finite with positive focal lengths, got {self}")

    @property
    def focal_px(self) -> float:
        """The one focal length that scales depth: the geometric mean of fx and fy."""
        return math.sqrt(self.fx * self.fy)

    def scaled(self, scale_x: float, scale_y: float | None = None) -> Camera:
        """Intrinsics after the image was resized by `scale_x` (and `scale_y`, the same where it is not given)."""
        scale_y = scale_x if scale_y is None else scale_y
        return replace(
            self,
            fx=self.fx * scale_x,
            fy=self.fy * scale_y,
            cx=(self.cx + 0.5) * scale_x - 0.5,
            cy=(self.cy + 0.5) * scale_y - 0.5,
        )

    def cropped(self, left: float, top: float) -> Camera:
        """Intrinsics after `left` columns and `top` rows were cut off."""
        return replace(self, cx=self.cx - left, cy=self.cy - top)

    def mirrored(self, width: int) -> Camera:
        """Intrinsics of the mirror image of an image of `width` px: a point at (x, y, z) m is seen where (-x, y, z)
        was."""
        return replace(self, cx=width - 1 - self.cx)

    def project(self, xyz_m: np.ndarray) -> np.ndarray:
        """Points [..., 3] m in the optical frame (x right, y down, z forward) to pixels [..., 2]; NaN where z <= 0."""
        z = np.where(xyz_m[..., 2] > 0, xyz_m[..., 2], np.nan)
        x, y = xyz_m[..., 0] / z, xyz_m[..., 1] / z
        if self.distortion:
            x, y = np.moveaxis(self._distort(np.stack([x, y], axis=-1)), -1, 0)
        return np.stack([self.fx * x + self.cx, self.fy * y + self.cy], axis=-1)

    def unproject(self, points_px: np.ndarray, depth_m: np.ndarray) -> np.ndarray:
        """Pixels [..., 2] with z-depth [...] m to points [..., 3] m in the optical frame; distorted pixels are
        undistorted first."""
        rays = (points_px - [self.cx, self.cy]) / [self.fx, self.fy]
        if self.distortion:
            rays = self._undistort(rays)
        return np.concatenate([rays * np.asarray(depth_m)[..., None], np.asarray(depth_m)[..., None]], axis=-1)

    def _distort(self, rays: np.ndarray) -> np.ndarray:
        """Ideal (x / z, y / z) [..., 2] to distorted ones."""
        flat = np.ascontiguousarray(rays.reshape(-1, 1, 2), dtype=np.float64)
        if flat.size == 0:
            return rays
        if self.distortion_model == "equidistant":
            return cv2.fisheye.distortPoints(flat, np.eye(3), np.array(self.distortion)).reshape(rays.shape)
        xyz = np.concatenate([flat, np.ones_like(flat[..., :1])], axis=-1)
        return cv2.projectPoints(xyz, np.zeros(3), np.zeros(3), np.eye(3), np.array(self.distortion))[0].reshape(
            rays.shape
        )

    def _undistort(self, rays: np.ndarray) -> np.ndarray:
        """The inverse of `_distort`, found by iteration; NaN stays NaN."""
        flat = np.ascontiguousarray(rays.reshape(-1, 1, 2), dtype=np.float64)
        if flat.size == 0:
            return rays
        until = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 50, 1e-9)
        if self.distortion_model == "equidistant":
            return cv2.fisheye.undistortPoints(flat, np.eye(3), np.array(self.distortion), criteria=until).reshape(
                rays.shape
            )
        return cv2.undistortPointsIter(flat, np.eye(3), np.array(self.distortion), np.eye(3), np.eye(3), until).reshape(
            rays.shape
        )


def focal_correction(camera: Camera, training_focal_px: float) -> float:
    """Factor from network depth to metres for an image taken by `camera` (its intrinsics *at the network's input
    size*).

    A network sees angles, not metres: the same picture from a lens of twice the focal length shows things twice as far.
    It learned metres at one focal length, so depth = network depth * focal_px / training_focal_px (CamConvs, Facil et
    al. 2019; Metric3D, Yin et al. 2023, "canonical camera").
    """
    return camera.focal_px / training_focal_px
