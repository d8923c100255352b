"""Intrinsics of a picture that comes without a camera_info: from what its user knows, a file, or what the camera wrote
into it (EXIF)."""

from __future__ import annotations

import math
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import yaml

from . import files
from .camera import MOST_SKEW, Camera
from .camera_info import camera_from_info
from .data.images import exif_of, flips_of, orientation_of
from .data.rgbd import four_numbers, read_camera
from .errors import SPDError
from .plausibility import check_upright, off_centre

FILM_DIAGONAL_MM = math.hypot(36, 24)  # what "35 mm equivalent" is of, by CIPA DCG-001: the same angle of the diagonal
MM_PER_UNIT = {2: 25.4, 3: 10.0, 4: 1.0, 5: 1e-3}  # of EXIF's FocalPlaneResolutionUnit: inch, cm, mm, um
EXIF_FOCAL = (0.2, 50.0)  # least and most, in diagonals of the picture: 136 degrees of view to 1 degree
SHAPE_TOLERANCE = 0.02  # of the aspect of a whole picture, by its EXIF, to that of the picture
WIDEST = 2.5  # width to height, either way round, of one shot; longer ones are panoramas
DISTORTION_KEYS = ("distortion_coefficients", "d", "D", "distortion_coeffs", "dist_coeffs", "dist_coeff", "distCoeffs")
LENS_KEY = "(?i:(lens_)?dist(ort|_?co)|radial|tangential|k[1-6]$)|p[1-6]$"  # what others may be called; P1 is a camera
EXPECTED_KEYS = "camera_matrix, image_width and image_height (camera_calibration), or k, width and height (camera_info)"
KALIBR_KEYS = {"intrinsics", "resolution"}
# EXIF tags (EXIF 2.32, tables 4 and 8)
EXIF_IFD = 0x8769
FOCAL_MM, FOCAL_35MM, PIXELS_ACROSS, PIXELS_DOWN = 0x920A, 0xA405, 0xA002, 0xA003
PLANE_PER_UNIT_ACROSS, PLANE_UNIT, DIGITAL_ZOOM, CUSTOM_RENDERED = 0xA20E, 0xA210, 0xA404, 0xA401
PANORAMA = 6  # of CUSTOM_RENDERED, as phones write it
PANORAMA_XMP = b"GPano:ProjectionType"  # of spheres and cylinders, as viewers know them, whatever their shape


class IntrinsicsError(SPDError):
    """What was said of the camera cannot be used."""


@dataclass(frozen=True)
class KnownCamera:
    """A camera and in words where that comes from; or None and "nothing", with the reason where there is one."""

    camera: Camera | None
    source: str


def camera_of_picture(
    file: Path, size: tuple[int, int], told: str | None = None, fov_deg: float | None = None
) -> KnownCamera:
    """The camera of a picture, from the first that is there: what is told, camera.txt beside it, its EXIF.

    Args:
        file: the picture; a video has no EXIF.
        size: height and width as it is looked at, px: turned, where its EXIF asks for that.
        told: "fx,fy,cx,cy" in px of the picture as it is looked at, or a file, which as camera.txt is of the pixels
            that are stored: four such numbers, or the YAML that `read_calibration` takes.
        fov_deg: horizontal angle of view, degrees, instead.

    Raises:
        IntrinsicsError: what is told, or camera.txt, is not of this picture.
        DataError: camera.txt holds something else.
    """
    if told is not None and fov_deg is not None:
        raise IntrinsicsError(f"give the camera or the angle of view, not both; got {told!r} and {fov_deg:g} degrees")
    if fov_deg is not None:
        if not 1 <= fov_deg <= 170:
            raise IntrinsicsError(f"the horizontal angle of view must be 1 to 170 degrees, got {fov_deg:g}")
        focal_px = size[1] / 2 / math.tan(math.radians(fov_deg) / 2)
        return KnownCamera(centred_camera(focal_px, size), f"an angle of view of {fov_deg:g} degrees")
    if told is not None:
        return KnownCamera(_told(told, file, size), f"the intrinsics {told}")
    if camera := read_camera(file.parent):
        source = str(file.parent / "camera.txt")
        camera = _as_shown(camera, orientation_of(file), size)
        check_upright(camera, size, source, IntrinsicsError)
        return KnownCamera(camera, source)
    return _from_exif(file, size)


def centred_camera(focal_px: float, size: tuple[int, int]) -> Camera:
    """A pinhole that looks through the middle of an image of `size` (height, width) px."""
    height, width = size
    return Camera(focal_px, focal_px, (width - 1) / 2, (height - 1) / 2)


def _as_shown(camera: Camera, turn: int, size: tuple[int, int]) -> Camera:
    """The camera of camera.txt for a picture that is turned (`orientation_of`) to `size` (height, width) px. camera.txt
    is of the pixels that are stored, as in a data set; of those that are shown where its optical axis is nearer to
    their middle."""
    (height, width), turned = size, camera
    is_transposed, is_mirrored, is_upside_down = flips_of(turn)
    if is_transposed:
        turned = turned.transposed()
    if is_mirrored:
        turned = turned.mirrored(width)
    if is_upside_down:
        turned = turned.transposed().mirrored(height).transposed()
    return turned if not is_transposed or off_centre(turned, size) <= off_centre(camera, size) else camera


def _told(told: str, file: Path, size: tuple[int, int]) -> Camera:
    try:
        numbers = four_numbers(told)
    except ValueError as error:
        if "," in told and not os.path.exists(files.expanded(told)):  # which takes names of any length
            raise IntrinsicsError(f"expected fx,fy,cx,cy in px, or a file, got {told!r}") from error
        camera = _calibrated(files.expanded(told), orientation_of(file), size)
    else:
        camera = Camera(*numbers)
    check_upright(camera, size, told, IntrinsicsError)
    return camera


def _calibrated(calibration: Path, turn: int, size: tuple[int, int]) -> Camera:
    """The camera in a file for a picture that is turned (`orientation_of`) to `size` (height, width) px: of the pixels
    that are stored, or, where it says so, of those that are shown."""
    stored = size[::-1] if flips_of(turn)[0] else size
    try:
        return _as_shown(read_calibration(calibration, stored), turn, size)
    except IntrinsicsError:
        if stored == size:
            raise
        return read_calibration(calibration, size)


def read_calibration(file: Path, size: tuple[int, int]) -> Camera:
    """The camera in a file: four numbers fx fy cx cy or the matrix K; or the YAML of ROS's camera_calibration, of
    OpenCV, of Kalibr or of a camera_info, which is scaled to an image of `size` (height, width) px.

    Raises:
        IntrinsicsError: it is neither.
    """
    text = files.read_text(file, IntrinsicsError)
    numbers = None
    with suppress(ValueError):
        numbers = four_numbers(text)  # before YAML, which knows no tabs
    try:
        return Camera(*numbers) if numbers else camera_from_info(_as_message(_first_document(text)), size)
    except SPDError as error:
        raise IntrinsicsError(f"{file}: {error}") from error
    except (yaml.YAMLError, ValueError, OverflowError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise IntrinsicsError(
            f"{file} {files.problem(file)}; expected four numbers fx fy cx cy in px, or the YAML of a calibration with"
            f" {EXPECTED_KEYS}"
        ) from error


def _first_document(text: str) -> Any:
    """What YAML says: of OpenCV's too, whose header and tags are its own, and of `ros2 topic echo`, which goes on."""
    text = text.removeprefix("%YAML:1.0").replace("!!opencv-matrix", "")
    return next(iter(yaml.safe_load_all(text)), None)


def _is_nothing(value: Any) -> bool:
    """Whether a key's value says of a lens that there is none: zeros, as a list, one by one, or as OpenCV's matrix."""
    value = value.get("data", [*value.values()]) if isinstance(value, dict) else value
    return not any(np.ravel(value).tolist())


def _as_message(content: dict) -> SimpleNamespace:
    """What a calibration file says, by the names of camera_calibration, of a CameraInfo or of Kalibr (one camera), as a
    CameraInfo says it."""
    chain = [camera for camera in content.values() if isinstance(camera, dict) and camera.keys() >= KALIBR_KEYS]
    if chain:
        if len(chain) > 1 or len(chain[0]["intrinsics"]) != 4:  # of other models than the pinhole they are more
            models = ", ".join(str(camera.get("camera_model")) for camera in chain)
            raise IntrinsicsError(f"it is Kalibr's, of {models}; expected one camera, a pinhole with fx fy cx cy")
        fx, fy, cx, cy = chain[0]["intrinsics"]
        width, height = chain[0]["resolution"]
        content = {**chain[0], "k": [fx, 0, cx, 0, fy, cy, 0, 0, 1], "width": width, "height": height}

    def said(*names: str) -> Any:
        return next((content[name] for name in names if content.get(name) is not None), None)

    def numbers(*names: str) -> list:
        value = said(*names)
        if isinstance(value, dict) and "data" not in value:
            raise IntrinsicsError(f"it has {', '.join(map(str, value))}; expected {names[0]} as a list of numbers")
        value = value.get("data") if isinstance(value, dict) else value
        return [] if value is None else np.ravel(value).tolist()

    k = numbers("camera_matrix", "k", "K")
    if not k:
        keys = ", ".join(map(str, list(content)[:8])) or "none"
        raise IntrinsicsError(f"it has the keys {keys}; expected {EXPECTED_KEYS}")
    if len(k) != 9 or k[2] == k[5] == 0 != k[6] or abs(k[1]) > MOST_SKEW * abs(k[0]):
        raise IntrinsicsError(f"its camera matrix is {k}; expected nine numbers, fx 0 cx 0 fy cy 0 0 1")
    p = numbers("projection_matrix", "p", "P") or [0.0] * 12
    others = [key for key, value in content.items() if re.match(LENS_KEY, str(key)) and not _is_nothing(value)]
    if unknown := set(others) - {*DISTORTION_KEYS, "distortion_model"}:
        raise IntrinsicsError(f"it has the key {min(unknown)!r}; expected a lens as {' or '.join(DISTORTION_KEYS)}")
    d = numbers(*(key for key in DISTORTION_KEYS if not _is_nothing(content.get(key))))
    d = d or [0.0] * 4  # as a fisheye they are no pinhole
    # OpenCV's calibration sample has a flag in its place.
    model = str(said("distortion_model", "camera_model") or ("fisheye" if said("fisheye_model") else ""))
    width, height = (int(said(f"image_{name}", name) or 0) for name in ("width", "height"))
    part = said("roi") or {}
    roi = SimpleNamespace(**{name: int(part.get(name, 0)) for name in ("x_offset", "y_offset", "width", "height")})
    binning = {name: int(said(name) or 0) for name in ("binning_x", "binning_y")}
    return SimpleNamespace(k=k, p=p, d=d, distortion_model=model, width=width, height=height, roi=roi, **binning)


def _from_exif(file: Path, size: tuple[int, int]) -> KnownCamera:
    """The camera of a picture of `size` (height, width) px by its EXIF, or why that says none.

    From the 35 mm equivalent, which phones write, else from the focal length and the sensor's pixels per length, which
    cameras with exchangeable lenses write. A picture that was made smaller afterwards has its focal length too; of one
    that was cut out of what the camera took, EXIF does not say how much was left, and a panorama is no pinhole's.
    """
    tags = exif_of(file, EXIF_IFD)
    diagonal_px = math.hypot(*size)
    across, down = (_number(tags.get(tag)) for tag in (PIXELS_ACROSS, PIXELS_DOWN))
    found = []
    if equivalent_mm := _number(tags.get(FOCAL_35MM)):
        found.append((equivalent_mm * diagonal_px / FILM_DIAGONAL_MM, f"EXIF ({equivalent_mm:g} mm in 35 mm film)"))
    focal_mm, per_unit = _number(tags.get(FOCAL_MM)), _number(tags.get(PLANE_PER_UNIT_ACROSS))
    if focal_mm and per_unit:
        unit_mm = MM_PER_UNIT.get(tags.get(PLANE_UNIT, 2), 25.4)
        taken_px = math.hypot(across, down) if across and down else 0
        zoom = max(_number(tags.get(DIGITAL_ZOOM)), 1.0)  # 0: none; the 35 mm equivalent has it in it
        focal_px = zoom * focal_mm * per_unit / unit_mm * (diagonal_px / taken_px if taken_px else 1)
        zoomed = f", zoomed {zoom:g} times" if zoom > 1 else ""
        found.append((focal_px, f"EXIF ({focal_mm:g} mm, {per_unit / unit_mm:.0f} px/mm{zoomed})"))
    least, most = (share * diagonal_px for share in EXIF_FOCAL)
    plausible = [(px, source) for px, source in found if least <= px <= most]
    if not plausible:
        return KnownCamera(None, "nothing")
    if across and down and not _is_same_shape((down, across), size):
        whole, part = f"{across:g}x{down:g} px", f"{size[1]}x{size[0]} px"
        return KnownCamera(None, f"nothing (EXIF is of {whole}, and this picture of {part} was cut out of it)")
    is_panorama = tags.get(CUSTOM_RENDERED) == PANORAMA or PANORAMA_XMP in file.read_bytes()
    if is_panorama or max(size) > WIDEST * min(size):
        return KnownCamera(None, "nothing (EXIF is of one shot, and this picture is a panorama or a strip of one)")
    focal_px, source = plausible[0]
    return KnownCamera(centred_camera(focal_px, size), source)


def _is_same_shape(a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Whether two sizes have one aspect, either way round, but for a pixel or two of rounding."""
    ratio = max(a) * min(b) / (min(a) * max(b))
    return max(ratio, 1 / ratio) <= 1 + SHAPE_TOLERANCE + 1 / min(b)


def _number(value: object) -> float:
    """A number of EXIF, 0 where it is none, unknown, or the 0/0 that some cameras write."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError):
        return 0.0
    return number if math.isfinite(number) and number > 0 else 0.0
