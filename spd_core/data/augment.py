"""Training augmentation of a sample: another camera at the same place, then another exposure.

All geometry is one virtual camera: turned (roll, pitch, yaw), of another focal length, looking at a crop. A turned
pinhole sees a homography of the same picture, and z-depth changes by the third coordinate of the turned ray, so depth
and intrinsics stay exact.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from ..camera import Camera
from ..errors import SPDError, at_least
from .samples import DataError, Sample, TrainingSample

# [left, top, right, bottom] that BTS (Lee et al. 2019) keeps of NYU's 480x640 images: inside their white border.
NYU_BORDER_CROP = (43, 45, 608, 472)
ASKEW_DEG = 45.0
CROP_STEP_PX = 8  # not each of a thousand sizes: libraries prepare for one at its first use
GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@dataclass
class Augmentation:
    """Random views, flips and exposures.

    Args:
        border_crop: keep [43, 45, 608, 472] (left, top, right, bottom) of NYU's 480x640 images first.
        border_px: columns and rows at each side of the image that are not shown.
        rotate_deg: largest roll about the optical axis. Corners that the picture does not have are its mirror image,
            without depth.
        askew: probability of a roll up to 45 degrees instead, as of a camera in a hand.
        tilt_deg: largest pitch and yaw, likewise.
        scale: smallest and largest factor of the focal length; the depth that is trained follows it.
        crop: height, width of the random crop; without it the model's input size.
        crop_variation: each side of the crop is up to this share shorter, drawn once for a batch: images come in many
            shapes, and of lenses of narrower view they are smaller where the focal length is to be the same.
        flip: probability of a mirror image.
        colour: probability of a change of colour.
        gamma: range of that change's exponent.
        brightness: range of its factor.
        gain: range of one more factor for each channel.
        grey: probability of a picture without colour.
        blur_px: largest standard deviation of a Gaussian blur, or length / 4 of a straight motion blur; half of the
            pictures stay sharp, and of the others more are blurred a little than a lot.
        noise: largest standard deviation of sensor noise, of 255; half of the pictures have none.
        jpeg: probability of another JPEG compression, of quality 20 to 90.
        cut_depth: probability that a vertical stripe shows its depth (white at 10 m) instead of the picture (vertical
            CutDepth, Kim et al. 2022): against learning pictures by heart.
        frame: probability that up to 3 % of the picture at each side are of one grey, without depth, as in NYU's own
            images (white) and in rectified ones (black).
    """

    border_crop: bool = False
    border_px: int = 0
    rotate_deg: float = 2.5
    askew: float = 0.0
    tilt_deg: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    crop: tuple[int, int] | None = None
    crop_variation: float = 0.0
    flip: float = 0.5
    colour: float = 0.5
    gamma: tuple[float, float] = (0.9, 1.1)
    brightness: tuple[float, float] = (0.75, 1.25)
    gain: tuple[float, float] = (0.9, 1.1)
    grey: float = 0.0
    blur_px: float = 0.0
    noise: float = 0.0
    jpeg: float = 0.0
    cut_depth: float = 0.0
    frame: float = 0.0

    def __post_init__(self):
        for name in ("scale", "gamma", "brightness", "gain"):
            least, most = getattr(self, name)
            if not 0 < least <= most < np.inf:
                raise SPDError(f"augment.{name} must be two positive numbers, the smaller first, got {(least, most)}")
        for name in ("askew", "flip", "colour", "grey", "jpeg", "cut_depth", "frame"):
            if not 0 <= getattr(self, name) <= 1:
                raise SPDError(f"augment.{name} must be a probability, 0 to 1, got {getattr(self, name)}")
        for name, most in {"rotate_deg": 180, "tilt_deg": 45, "blur_px": 100, "noise": 255}.items():
            at_least(0, most, **{f"augment.{name}": getattr(self, name)})
        if not 0 <= self.crop_variation < 1:
            raise SPDError(f"augment.crop_variation must be a share below 1, got {self.crop_variation}")
        if self.crop is not None and min(self.crop) < 1:
            raise SPDError(f"augment.crop must be a height and a width, px, got {self.crop}")
        if self.border_px < 0 or (self.border_crop and self.border_px):
            raise SPDError(
                "augment.border_px must not be negative, and border_crop cuts a border of its own; got"
                f" border_px={self.border_px} and border_crop={self.border_crop}"
            )

    def __call__(self, sample: Sample, rng: np.random.Generator, focal_px: float | None = None) -> TrainingSample:
        """The augmented sample, of size `crop`.

        Args:
            focal_px: scale the image to this focal length before anything is random, or as far down as the crop allows.

        Raises:
            DataError: the sample has no depth or camera, or is smaller than the crop.
        """
        if sample.depth_m is None or sample.camera is None:
            missing = "depth" if sample.depth_m is None else "intrinsics (camera.txt)"
            raise DataError(f"{sample.name}: training needs {missing}, there is none")
        rgb, depth_m, camera = self._without_border(sample.name, sample.rgb, sample.depth_m, sample.camera)
        square = camera.squared()  # as the pixels of the view are
        extent = np.array(depth_m.shape) * [1, camera.pixel_aspect]
        height, width = self.crop or map(int, extent)
        factor = float(np.exp(rng.uniform(*np.log(self.scale))))
        smallest = max(height / extent[0], width / extent[1])
        if focal_px is not None:
            factor = max(factor * focal_px / square.focal_px, smallest)
        elif factor < smallest - 1e-9:
            raise DataError(
                f"{sample.name}: {list(depth_m.shape)} px, scaled by {factor:.3g}, are fewer than the crop"
                f" {[height, width]}; set a smaller augment.crop"
            )
        roll_deg = ASKEW_DEG if self.askew > 0 and rng.random() < self.askew else self.rotate_deg
        turn = rotation(*np.radians(rng.uniform(-1, 1, 3) * [self.tilt_deg, self.tilt_deg, roll_deg]))
        view = self._view(square.scaled(factor), turn, (height, width), extent * factor, rng)
        rgb, depth_m = seen_by(view, turn, (height, width), rgb, depth_m, camera)
        if rng.random() < self.flip:
            rgb, depth_m, view = rgb[:, ::-1], depth_m[:, ::-1], view.mirrored(width)
        rgb = self._exposed(np.ascontiguousarray(rgb), rng)
        if self.cut_depth > 0 and rng.random() < self.cut_depth:
            rgb = _with_depth_stripe(rgb, depth_m, rng)
        if self.frame > 0 and rng.random() < self.frame:
            rgb, depth_m = _framed(rgb, depth_m, rng)
        return TrainingSample(sample.name, rgb, np.ascontiguousarray(depth_m), view)

    def of_batch(self, rng: np.random.Generator) -> Augmentation:
        """This with the crop that the samples of one batch share."""
        if self.crop is None or not self.crop_variation:
            return self
        steps = np.ceil(np.array(self.crop) * rng.uniform(1 - self.crop_variation, 1, 2) / CROP_STEP_PX)
        height, width = (min(int(count) * CROP_STEP_PX, side) for count, side in zip(steps, self.crop))
        return replace(self, crop=(height, width))

    def _without_border(
        self, name: str, rgb: np.ndarray, depth_m: np.ndarray, camera: Camera
    ) -> tuple[np.ndarray, np.ndarray, Camera]:
        height, width = depth_m.shape
        left, top, right, bottom = self.border_px, self.border_px, width - self.border_px, height - self.border_px
        if self.border_crop:
            if (height, width) != (480, 640):
                raise DataError(f"{name}: border_crop is for 480x640 images of NYU, this one is {[height, width]}")
            left, top, right, bottom = NYU_BORDER_CROP
        if left >= right or top >= bottom:
            raise DataError(f"{name}: border_px={self.border_px} leaves nothing of an image of {[height, width]} px")
        return rgb[top:bottom, left:right], depth_m[top:bottom, left:right], camera.cropped(left, top)

    def _view(
        self,
        camera: Camera,
        turn: np.ndarray,
        size: tuple[int, int],
        scaled_size: np.ndarray,
        rng: np.random.Generator,
    ) -> Camera:
        """The camera of a crop of `size` (height, width) px, turned by `turn`, of a picture of `scaled_size` that
        `camera` took: its centre looks where that of a crop of the unturned picture would."""
        height, width = size
        spare_y, spare_x = (int(extent) for extent in np.maximum(np.round(scaled_size - size), 0))
        left, top = int(rng.integers(spare_x + 1)), int(rng.integers(spare_y + 1))
        view = camera.cropped(left, top)
        if (turn == np.eye(3)).all():
            return view
        centre = np.array([(width - 1) / 2, (height - 1) / 2])
        ray = turn.T @ [(centre[0] - view.cx) / view.fx, (centre[1] - view.cy) / view.fy, 1.0]
        focal = view.focal_px
        return Camera(focal, focal, centre[0] - focal * ray[0] / ray[2], centre[1] - focal * ray[1] / ray[2])

    def _exposed(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Another lens, light, sensor and file, in that order."""
        if self.blur_px > 0 and rng.random() < 0.5:
            rgb = _blurred(rgb, rng.uniform(0.2, 1) ** 2 * self.blur_px, rng)
        if rng.random() < self.colour:
            level = (np.arange(256, dtype=np.float32) / 255) ** rng.uniform(*self.gamma) * rng.uniform(*self.brightness)
            table = np.clip(level[:, None] * rng.uniform(*self.gain, 3), 0, 1) * 255
            rgb = cv2.LUT(rgb, table.round().astype(np.uint8)[None])
        if rng.random() < self.grey:
            rgb = np.repeat((rgb @ GREY).round().astype(np.uint8)[..., None], 3, axis=-1)
        if self.noise > 0 and rng.random() < 0.5:
            noise = rng.standard_normal(rgb.shape, dtype=np.float32) * (rng.random() * self.noise)
            rgb = np.clip(rgb + noise, 0, 255).round().astype(np.uint8)
        if rng.random() < self.jpeg:
            coded = cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 91))])[1]
            # Either order of channels: it is the same there and back.
            rgb = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))
        return rgb


def rotation(pitch: float, yaw: float, roll: float) -> np.ndarray:
    """Rotation matrix [3, 3] from the turned optical frame to the unturned one; radians about x, y and z."""
    return cv2.Rodrigues(np.array([0, 0, roll]))[0] @ cv2.Rodrigues(np.array([pitch, yaw, 0.0]))[0]


def seen_by(
    view: Camera, turn: np.ndarray, size: tuple[int, int], rgb: np.ndarray, depth_m: np.ndarray, camera: Camera
) -> tuple[np.ndarray, np.ndarray]:
    """What another camera at the same place sees of a picture.

    Args:
        view: intrinsics of that camera.
        turn: [3, 3], from its optical frame to that of `camera`.
        size: (height, width) px of its image.
        rgb: uint8 [H, W, 3] taken by `camera`.
        depth_m: [H, W] m, 0 where unknown.
        camera: intrinsics of the picture; both cameras without distortion.

    Returns:
        rgb of `size`, bilinear, mirrored beyond the picture's border; depth_m of `size` along the new optical axis, of
        the nearest pixel, 0 beyond the border.
    """
    height, width = size
    depth_m = cv2.warpPerspective(
        depth_m,
        _matrix(camera) @ turn @ np.linalg.inv(_matrix(view)),
        (width, height),
        flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
    )
    x = (np.arange(width) - view.cx) / view.fx
    y = (np.arange(height) - view.cy) / view.fy
    depth_m = depth_m / (turn[2, 0] * x + (turn[2, 1] * y)[:, None] + turn[2, 2]).astype(np.float32)
    shrink = view.focal_px / camera.focal_px
    if shrink < 1:  # by area first: a warp takes single pixels
        shrunk = (max(1, round(rgb.shape[1] * shrink)), max(1, round(rgb.shape[0] * shrink)))
        camera = camera.scaled(shrunk[0] / rgb.shape[1], shrunk[1] / rgb.shape[0])
        rgb = cv2.resize(rgb, shrunk, interpolation=cv2.INTER_AREA)
    rgb = cv2.warpPerspective(
        np.ascontiguousarray(rgb),
        _matrix(camera) @ turn @ np.linalg.inv(_matrix(view)),
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return rgb, depth_m


def _with_depth_stripe(rgb: np.ndarray, depth_m: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    width = rgb.shape[1]
    left = int(rng.integers(width))
    right = left + max(1, int((width - left) * 0.75 * rng.random()))
    rgb[:, left:right] = np.clip(depth_m[:, left:right, None] * 25.5, 0, 255)
    return rgb


def _framed(rgb: np.ndarray, depth_m: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    height, width = depth_m.shape
    top, bottom, left, right = (int(rng.integers(int(0.03 * extent) + 1)) for extent in (height, height, width, width))
    inside = np.zeros((height, width), bool)
    inside[top : height - bottom, left : width - right] = True
    grey = np.uint8(rng.choice([0, 255, int(rng.integers(256))]))
    return np.where(inside[..., None], rgb, grey), np.where(inside, depth_m, np.float32(0))


def _matrix(camera: Camera) -> np.ndarray:
    return np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]])


def _blurred(rgb: np.ndarray, sigma_px: float, rng: np.random.Generator) -> np.ndarray:
    """Out of focus, or moved in a straight line, with equal probability."""
    if rng.random() < 0.5:
        return cv2.GaussianBlur(rgb, (0, 0), sigma_px)
    length, angle = 4 * sigma_px, rng.uniform(0, np.pi)
    side = 2 * int(np.ceil(length / 2)) + 1
    kernel = np.zeros((side, side), np.float32)
    end = length / 2 * np.array([np.cos(angle), np.sin(angle)])
    centre = np.array([side // 2, side // 2])
    for t in np.linspace(-1, 1, 4 * side):
        x, y = np.round(centre + t * end).astype(int)
        kernel[y, x] += 1
    return cv2.filter2D(rgb, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)
