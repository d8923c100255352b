"""Pinhole camera geometry, and the one definition of what a pixel coordinate means.

**The pixel-centre rule.** A point is `(x, y)` in pixels, x to the right, y down, and the centre of the first pixel is
(0, 0). A pixel covers half a pixel on each side of its centre, so an image of width W spans x in [-0.5, W - 0.5].
Scaling an image by `s` therefore moves a point to `(x + 0.5) * s - 0.5`. Everything that scales, crops or asks whether
a point is inside goes through this file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from .arrays import float64
from .errors import SPDError
from .lens import DISTORTION_MODELS, lens

# Focal length, at 640 px width, of the Kinect that recorded NYU Depth V2 (`data/nyu.py` has the whole camera): what the
# presets train at.
NYU_FOCAL_PX = 518.8579
INTRINSICS = ("fx", "fy", "cx", "cy")
MOST_PIXEL_ASPECT = 4.0  # of a sensor that is binned or skips lines; beyond it intrinsics are wrong
MOST_SKEW = 0.01  # of a matrix K, in fx: `Camera` has none, and with more x would be off by over a hundredth of y


class CameraError(SPDError):
    """Intrinsics or distortion that no camera has; the message says which."""


def scale_points(points_px: np.ndarray, scale: float | np.ndarray) -> np.ndarray:
    """Points [..., 2] px of an image after it was resized by `scale`, a number or [2] (the pixel-centre rule)."""
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
        try:
            is_finite = all([math.isfinite(getattr(self, name)) for name in INTRINSICS])  # refuses text; float does not
            for name in INTRINSICS:
                object.__setattr__(self, name, float(getattr(self, name)))
            object.__setattr__(self, "distortion", tuple(map(float, np.ravel(self.distortion))))  # OpenCV's are [1, K]
        except (TypeError, ValueError, OverflowError) as error:
            raise CameraError(f"camera intrinsics and distortion must be numbers, got {self}: {error}") from error
        product = self.fx * self.fy  # it may overflow, or vanish
        if not is_finite or min(self.fx, self.fy, product) <= 0 or math.isinf(product):
            raise CameraError(f"camera intrinsics must be finite with positive focal lengths, got {self}")
        counts = (0, *DISTORTION_MODELS.get(self.distortion_model, ()))
        is_known = self.distortion_model in DISTORTION_MODELS and len(self.distortion) in counts
        if not is_known or not all(map(math.isfinite, self.distortion)):
            known = ", ".join(f"{name} ({' or '.join(map(str, counts))})" for name, counts in DISTORTION_MODELS.items())
            raise CameraError(
                f"distortion must be the finite coefficients of one of {known}, got {list(self.distortion)} of"
                f" {self.distortion_model!r}"
            )

    @property
    def focal_px(self) -> float:
        """The one focal length that scales depth: the geometric mean of fx and fy."""
        return math.sqrt(self.fx * self.fy)

    @property
    def pixel_aspect(self) -> float:
        """Width of a pixel over its height: 1 where a calibration differs from that by less than 1 %, as those of
        square pixels do; never more than MOST_PIXEL_ASPECT, nor less than its inverse."""
        aspect = self.fy / self.fx
        return 1.0 if abs(aspect - 1) < 0.01 else min(max(aspect, 1 / MOST_PIXEL_ASPECT), MOST_PIXEL_ASPECT)

    def squared(self) -> Camera:
        """Intrinsics after the image was made `pixel_aspect` times as wide: pixels are as high as wide then."""
        return self if self.pixel_aspect == 1 else self.scaled(self.pixel_aspect, 1)

    @property
    def _is_distorted(self) -> bool:
        """Whether rays are not straight: a fisheye's are not for zero coefficients either."""
        return any(self.distortion) or (bool(self.distortion) and self.distortion_model == "equidistant")

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

    def strided(self, step: int) -> Camera:
        """Intrinsics of every `step`-th pixel of the image and row, the first included: [::step, ::step]. `scaled` is
        of pixels that are means."""
        return replace(self, fx=self.fx / step, fy=self.fy / step, cx=self.cx / step, cy=self.cy / step)

    def cropped(self, left: float, top: float) -> Camera:
        """Intrinsics after `left` columns and `top` rows were cut off."""
        return replace(self, cx=self.cx - left, cy=self.cy - top)

    def mirrored(self, width: int) -> Camera:
        """Intrinsics of the mirror image of an image of `width` px: a point at (x, y, z) m is seen where (-x, y, z)
        was."""
        distortion = self.distortion
        if self.distortion_model != "equidistant":  # whatever moves images sideways: p2, s1, s2 and the tilt about y
            distortion = tuple(-value if i in (3, 8, 9, 13) else value for i, value in enumerate(distortion))
        return replace(self, cx=width - 1 - self.cx, distortion=distortion)

    def transposed(self) -> Camera:
        """Intrinsics of an image whose rows became its columns: a point at (x, y, z) m is seen where (y, x, z) was. Of
        a sensor that is tilted both ways nearly so."""
        d = self.distortion
        if self.distortion_model != "equidistant":  # p2 p1, and as far as there are any s3 s4 s1 s2 and the tilts
            d = (*d[:2], *d[2:4][::-1], *d[4:8], *d[10:12], *d[8:10], *(-tilt for tilt in d[12:][::-1]))
        return replace(self, fx=self.fy, fy=self.fx, cx=self.cy, cy=self.cx, distortion=d)

    def project(self, xyz_m: np.ndarray) -> np.ndarray:
        """Points [..., 3] m in the optical frame (x right, y down, z forward) to pixels [..., 2]; NaN where z <= 0 and
        where the lens model is not valid."""
        xyz_m = float64(xyz_m)
        z = np.where(xyz_m[..., 2:] > 0, xyz_m[..., 2:], np.nan)
        with np.errstate(all="ignore"):  # what overflows is in no image, and a lens answers NaN
            rays = xyz_m[..., :2] / z
            if self._is_distorted:
                rays = lens(self.distortion_model, self.distortion).distort(rays.reshape(-1, 2)).reshape(rays.shape)
            return rays * [self.fx, self.fy] + [self.cx, self.cy]

    def unproject(self, points_px: np.ndarray, depth_m: np.ndarray) -> np.ndarray:
        """Pixels [..., 2] with z-depth [...] m to points [..., 3] m in the optical frame; NaN where the lens model has
        no ray for a pixel."""
        rays = (float64(points_px) - [self.cx, self.cy]) / [self.fx, self.fy]
        z = float64(depth_m)[..., None]
        if self._is_distorted:
            with np.errstate(all="ignore"):
                rays = lens(self.distortion_model, self.distortion).undistort(rays.reshape(-1, 2)).reshape(rays.shape)
            z = np.where(np.isnan(rays).any(axis=-1, keepdims=True), np.nan, z)
        return np.concatenate([rays * z, z], axis=-1)


def focal_correction(camera: Camera, training_focal_px: float) -> float:
    """Factor from network depth to metres for an image taken by `camera` (its intrinsics *at the network's input
    size*).

    A network sees angles, not metres: the same picture from a lens of twice the focal length shows things twice as far.
    It learned metres at one focal length, so depth = network depth * focal_px / training_focal_px (CamConvs, Facil et
    al. 2019; Metric3D, Yin et al. 2023, "canonical camera").
    """
    return camera.focal_px / training_focal_px
