"""Training augmentation of a sample, in the order of BTS (Lee et al. 2019). The camera follows every geometric step, so
depth stays metric."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ..camera import Camera
from .samples import DataError, Sample

# [left, top, right, bottom] that BTS keeps of NYU's 480x640 images: inside their white border.
NYU_BORDER_CROP = (43, 45, 608, 472)


@dataclass
class Augmentation:
    """Random crops, flips and colours.

    Args:
        border_crop: keep [43, 45, 608, 472] (left, top, right, bottom) of NYU's 480x640 images first.
        rotate_deg: largest rotation about the principal point, which is a roll of the camera; corners become black,
            without depth.
        scale: smallest and largest factor of an isotropic resize; the focal length follows, and through it the depth
            that is trained.
        crop: height, width of the random crop; without it the model's input size.
        crop_scale: range of a factor of that size, one for each batch. Other than (1, 1) crops are taken around the
            principal point: cameras of wider and narrower view, which keep their focal length.
        flip: probability of a mirror image.
        colour: probability of a change of colour.
        gamma: range of that change's exponent.
        brightness: range of its factor.
        gain: range of one more factor for each channel.
    """

    border_crop: bool = False
    rotate_deg: float = 2.5
    scale: tuple[float, float] = (1.0, 1.0)
    crop: tuple[int, int] | None = None
    crop_scale: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.5
    colour: float = 0.5
    gamma: tuple[float, float] = (0.9, 1.1)
    brightness: tuple[float, float] = (0.75, 1.25)
    gain: tuple[float, float] = (0.9, 1.1)

    def __call__(
        self, sample: Sample, rng: np.random.Generator, crop_factor: float = 1.0, focal_px: float | None = None
    ) -> Sample:
        """The augmented sample, of size `crop`.

        Args:
            crop_factor: of `crop_scale`.
            focal_px: scale the image to this focal length before anything is random, or as far down as the crop allows.

        Raises:
            DataError: the sample has no depth or camera, or is smaller than the crop.
        """
        if sample.depth_m is None or sample.camera is None:
            raise DataError(
                f"{sample.name}: training needs {'depth' if sample.depth_m is None else 'intrinsics (camera.txt)'},"
                " there is none"
            )
        rgb, depth_m, camera = sample.rgb, sample.depth_m, sample.camera
        if self.border_crop:
            if depth_m.shape != (480, 640):
                raise DataError(
                    f"{sample.name}: border_crop is for 480x640 images of NYU, this one is {list(depth_m.shape)}"
                )
            rgb, depth_m, camera = crop(rgb, depth_m, camera, *NYU_BORDER_CROP)
        height, width = (
            round(extent * crop_factor / 8) * 8 if crop_factor != 1 else extent for extent in self.crop or depth_m.shape
        )
        if focal_px is not None:
            factor = max(focal_px / camera.focal_px, height / depth_m.shape[0], width / depth_m.shape[1])
            if abs(factor - 1) > 1e-3:
                rgb, depth_m, camera = resize(rgb, depth_m, camera, factor)
        if self.rotate_deg > 0:
            rgb, depth_m = rotate(rgb, depth_m, camera, rng.uniform(-self.rotate_deg, self.rotate_deg))
        if tuple(self.scale) != (1.0, 1.0):
            rgb, depth_m, camera = resize(rgb, depth_m, camera, np.exp(rng.uniform(*np.log(self.scale))))
        if self.crop is not None:
            spare_y, spare_x = depth_m.shape[0] - height, depth_m.shape[1] - width
            if spare_y < 0 or spare_x < 0:
                raise DataError(
                    f"{sample.name}: {list(depth_m.shape)} px are fewer than the crop {[height, width]}; set a smaller"
                    " augment.crop"
                )
            if tuple(self.crop_scale) == (1.0, 1.0):
                left, top = rng.integers(spare_x + 1), rng.integers(spare_y + 1)
            else:
                left, top = (
                    int(np.clip(round(c - (extent - 1) / 2), 0, spare))
                    for c, extent, spare in ((camera.cx, width, spare_x), (camera.cy, height, spare_y))
                )
            rgb, depth_m, camera = crop(rgb, depth_m, camera, left, top, left + width, top + height)
        if rng.random() < self.flip:
            rgb, depth_m, camera = flip(rgb, depth_m, camera)
        if rng.random() < self.colour:
            rgb = self._recolour(rgb, rng)
        return Sample(sample.name, np.ascontiguousarray(rgb), np.ascontiguousarray(depth_m), camera)

    def _recolour(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        level = (np.arange(256, dtype=np.float32) / 255) ** rng.uniform(*self.gamma) * rng.uniform(*self.brightness)
        table = np.clip(level[:, None] * rng.uniform(*self.gain, 3), 0, 1) * 255
        return cv2.LUT(np.ascontiguousarray(rgb), table.round().astype(np.uint8)[None])


def crop(
    rgb: np.ndarray, depth_m: np.ndarray, camera: Camera, left: int, top: int, right: int, bottom: int
) -> tuple[np.ndarray, np.ndarray, Camera]:
    """Columns left...right and rows top...bottom (exclusive), with the camera of the cut."""
    return rgb[top:bottom, left:right], depth_m[top:bottom, left:right], camera.cropped(left, top)


def flip(rgb: np.ndarray, depth_m: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray, Camera]:
    """The mirror image, and its camera."""
    return rgb[:, ::-1], depth_m[:, ::-1], camera.mirrored(rgb.shape[1])


def resize(rgb: np.ndarray, depth_m: np.ndarray, camera: Camera, scale: float) -> tuple[np.ndarray, np.ndarray, Camera]:
    """Isotropically resized; depth takes the nearest pixel, its metres do not change, the focal length does."""
    height, width = depth_m.shape
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    depth_m = cv2.resize(depth_m, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return rgb, depth_m, camera.scaled(size[0] / width, size[1] / height)


def rotate(rgb: np.ndarray, depth_m: np.ndarray, camera: Camera, angle_deg: float) -> tuple[np.ndarray, np.ndarray]:
    """Rotated about the principal point: z-depth and intrinsics stay (for fx = fy exactly)."""
    height, width = depth_m.shape
    turn = cv2.getRotationMatrix2D((camera.cx, camera.cy), angle_deg, 1.0)
    return cv2.warpAffine(rgb, turn, (width, height), flags=cv2.INTER_LINEAR), cv2.warpAffine(
        depth_m, turn, (width, height), flags=cv2.INTER_NEAREST
    )
