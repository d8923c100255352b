"""A CameraInfo to the camera of an image: lens models by all their names, regions of interest, binning, what is not
calibrated."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from .camera import DISTORTION_MODELS, Camera, CameraError
from .errors import MessageError
from .plausibility import PLAUSIBLE_FOCAL, check_plausible, doubt

Message = Any  # of rclpy, rosbags, or what a calibration file says

# Other names of distortion models that drivers and calibrators write, in lower case and with underscores.
_ALIASES = {
    "plumb_bob": ("", "radtan", "radial_tangential", "brown", "brown_conrady", "opencv"),
    "rational_polynomial": ("full_opencv", "rational"),
    "equidistant": ("fisheye", "opencv_fisheye", "equi", "kannala_brandt", "kannala_brandt4", "kb4"),
}
# Of lenses that are no pinhole, whatever their coefficients.
_NO_PINHOLE = ("omni", "mei", "double_sphere", "ds", "eucm", "ucm", "fov", "atan", "scaramuzza", "ocam")
DISTORTION_ALIASES = {alias: model for model, aliases in _ALIASES.items() for alias in aliases}
ASPECT_TOLERANCE = 0.01  # of a width to a height: images are cut to multiples of 8 or 16 rows


def is_rectified_topic(topic: str) -> bool:
    """Whether the name of an image topic says that lens distortion was taken out: `image_rect`, `rect/image`."""
    return bool({"rect", "rectified"} & set(re.split("[/_]+", topic.lower())))


def camera_from_info(msg: Message, size: tuple[int, int], rectified: bool = False) -> Camera:
    """The camera of a CameraInfo for an image of `size` (height, width) px: K and D, or P for a `rectified` image;
    after region of interest and binning, scaled if the image has another size."""
    matrix, (fx, fy, cx, cy) = intrinsics_of(msg, rectified)
    if fx <= 0 or fy <= 0 or cx == cy == 0 or not np.isfinite([fx, fy, cx, cy]).all():
        hint = "; P is given: is the image rectified?" if not rectified and _field(msg, "P")[0] > 0 else ""
        raise MessageError(
            f"camera_info has fx = {fx:g}, fy = {fy:g}, cx = {cx:g}, cy = {cy:g} in {matrix}: the camera is not"
            f" calibrated{hint}"
        )
    d = list(map(float, _field(msg, "D")))
    model, distortion = ("plumb_bob", ()) if rectified else _distortion(msg.distortion_model, d)
    binning_x, binning_y = max(msg.binning_x, 1), max(msg.binning_y, 1)
    left, top, width, height = _region(msg, size == (msg.height // binning_y, msg.width // binning_x))
    width, height = width / binning_x, height / binning_y
    if width == 0 or height == 0:  # not every driver says
        width, height = size[1], size[0]
    scale_x, scale_y = size[1] / width, size[0] / height
    if abs(scale_x / scale_y - 1) > ASPECT_TOLERANCE + 1 / min(size):
        raise MessageError(
            f"camera_info is the calibration of an image of {width:g}x{height:g} px, this one has {size[1]}x{size[0]}"
            " px and shows another part of the view; expected the calibration of this image, or its region of interest"
        )
    try:
        camera = Camera(fx, fy, cx, cy, distortion, model)
        check_plausible(camera, (msg.height or math.inf, msg.width or math.inf))
        camera = camera.cropped(left, top).scaled(scale_x / binning_x, scale_y / binning_y)
    except CameraError as error:
        raise MessageError(f"camera_info has a calibration that cannot be used: {error}") from error
    least, most = (factor * max(size) for factor in PLAUSIBLE_FOCAL)
    if not least <= camera.focal_px <= most:
        raise MessageError(
            f"camera_info has a focal length of {camera.focal_px:g} px for an image of {size[1]}x{size[0]} px; the"
            f" camera is not calibrated: expected {least:g} to {most:g} px"
        )
    return camera


def calibration_doubt(msg: Message, size: tuple[int, int], rectified: bool = False) -> str:
    """Why what `camera_from_info` takes of a CameraInfo is hardly of the size that it says, or, where it says none, of
    its image of `size` (height, width) px: of drivers that load a calibration and fill in another mode's size. ""
    where it may well be."""
    _, intrinsics = intrinsics_of(msg, rectified)
    return doubt(Camera(*intrinsics), (msg.height or size[0], msg.width or size[1]))


def intrinsics_of(msg: Message, rectified: bool) -> tuple[str, tuple[float, float, float, float]]:
    """Which matrix of a CameraInfo holds for an image, "K" or, where it is `rectified`, "P", and its fx, fy, cx, cy."""
    k, d, p = (_field(msg, name) for name in "KDP")
    if rectified and (any(p) or any(d)):  # P may be left out where it would say the same as K
        return "P", (float(p[0]), float(p[5]), float(p[2]), float(p[6]))
    return "K", (float(k[0]), float(k[4]), float(k[2]), float(k[5]))


def _field(msg: Message, name: str) -> Any:
    """K, D or P, which ROS 2 writes in lower case."""
    return getattr(msg, name.lower() if hasattr(msg, name.lower()) else name)


def _region(msg: Message, is_whole: bool) -> tuple[int, int, int, int]:
    """Left, top, width and height of what an image shows of the sensor, px before binning, by the region of interest;
    of an image that `is_whole` all of it, as some drivers leave an old region there."""
    roi = msg.roi
    if 0 < msg.width < roi.x_offset + roi.width or 0 < msg.height < roi.y_offset + roi.height:
        raise MessageError(
            f"camera_info has a region of interest of {roi.width}x{roi.height} px at {roi.x_offset},{roi.y_offset};"
            f" expected a part of its {msg.width}x{msg.height} px"
        )
    if is_whole:
        return 0, 0, msg.width, msg.height
    return roi.x_offset, roi.y_offset, roi.width or msg.width, roi.height or msg.height


def distortion_model(name: str) -> str:
    """The name of `DISTORTION_MODELS` for one that drivers and calibrators write; unknown ones stay."""
    model = re.sub("[- ]+", "_", name.strip().lower())
    return DISTORTION_ALIASES.get(model, model)


def _distortion(name: str, coefficients: list[float]) -> tuple[str, tuple[float, ...]]:
    """A distortion model by a name of `DISTORTION_MODELS`, with its coefficients; none where they are all zero, but for
    a fisheye's: its rays are bent all the same."""
    if not np.isfinite(coefficients).all():
        raise MessageError(f"camera_info has distortion coefficients that are not finite: {coefficients[:14]}")
    model = distortion_model(name)
    is_pinhole = not model.startswith(_NO_PINHOLE) and not (coefficients and model == "equidistant")
    if is_pinhole and not any(coefficients):
        return "plumb_bob", ()
    # These two are one formula, cut at different lengths; and some drivers fill up with zeros.
    family = ("plumb_bob", "rational_polynomial") if model in ("plumb_bob", "rational_polynomial") else (model,)
    needed = 1 + max(np.flatnonzero(coefficients), default=-1)
    lengths = [(count, model) for model in family for count in DISTORTION_MODELS.get(model, ())]
    fitting = [(count, model) for count, model in lengths if needed <= count <= len(coefficients)]
    if fitting:
        count, model = max(fitting)
        return model, tuple(coefficients[:count])
    known = ", ".join(
        f"{model} ({' or '.join(map(str, counts))} coefficients)" for model, counts in DISTORTION_MODELS.items()
    )
    raise MessageError(
        f"camera_info has the distortion model {name!r} with {len(coefficients)} coefficients; expected {known}"
    )
