"""ROS messages to numpy: images, depth images, camera calibration, clouds. The only place that reads their raw bytes.

Messages are read by their fields alone, so that those of rclpy and those of a bag read without ROS are the same here.
numpy and OpenCV do the work: a pip-only machine and a ROS installation behave the same. Every function raises
`MessageError` with what was received and what was expected.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from . import rvl
from .camera_info import camera_from_info as camera_from_info  # for those who look for it among messages
from .coded import PNG_START, CodingError, decoded, eight_bits, metres
from .errors import MessageError as MessageError
from .status import Status as Status  # for those who read an answer's cloud here

Message = Any  # of rclpy or rosbags; named in each docstring


# --- images

# Two planes: brightness [H, W], then colour [H / 2, W].
_PLANAR = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21}
# encoding -> (dtype, channels, conversion to RGB or None). OpenCV's Bayer names count from the second row: ROS "rggb"
# is OpenCV "BG".
_ENCODINGS = {
    "rgb8": (np.uint8, 3, None),
    "bgr8": (np.uint8, 3, cv2.COLOR_BGR2RGB),
    "rgba8": (np.uint8, 4, cv2.COLOR_RGBA2RGB),
    "bgra8": (np.uint8, 4, cv2.COLOR_BGRA2RGB),
    "8UC3": (np.uint8, 3, cv2.COLOR_BGR2RGB),
    "mono8": (np.uint8, 1, cv2.COLOR_GRAY2RGB),
    "8UC1": (np.uint8, 1, cv2.COLOR_GRAY2RGB),
    "rgb16": (np.uint16, 3, None),
    "bgr16": (np.uint16, 3, cv2.COLOR_BGR2RGB),
    "rgba16": (np.uint16, 4, None),  # alpha is gone before
    "bgra16": (np.uint16, 4, cv2.COLOR_BGR2RGB),
    "mono16": (np.uint16, 1, cv2.COLOR_GRAY2RGB),
    "yuv422": (np.uint8, 2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": (np.uint8, 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (np.uint8, 2, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": (np.uint8, 2, cv2.COLOR_YUV2RGB_YUY2),
    "bayer_rggb8": (np.uint8, 1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": (np.uint8, 1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": (np.uint8, 1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": (np.uint8, 1, cv2.COLOR_BayerGB2RGB),
    "bayer_rggb16": (np.uint16, 1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr16": (np.uint16, 1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg16": (np.uint16, 1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg16": (np.uint16, 1, cv2.COLOR_BayerGB2RGB),
}
COLOUR_ENCODINGS = (*_ENCODINGS, *_PLANAR)
DEPTH_ENCODINGS = {"16UC1": np.uint16, "mono16": np.uint16, "32FC1": np.float32}


def image_to_rgb(msg: Message) -> np.ndarray:
    """An Image of any encoding in the tables as RGB uint8 [H, W, 3]; `step` padding and endianness are honoured, 16
    bits, of which a camera may use the low ones alone, become 8."""
    if msg.encoding in _PLANAR:
        if msg.width % 2 or msg.height % 2:
            raise MessageError(
                f"image of encoding {msg.encoding} is {msg.width}x{msg.height} px; both must be even, four pixels share"
                " their colour"
            )
        return cv2.cvtColor(_pixels(msg, np.uint8, 1, rows=msg.height * 3 // 2), _PLANAR[msg.encoding])
    dtype, channels, _ = _row(msg.encoding)
    if channels == 2 and msg.width % 2:
        raise MessageError(
            f"image of encoding {msg.encoding} has an odd width of {msg.width} px; two pixels share their colour"
        )
    return _converted(_pixels(msg, dtype, channels, msg.height), msg.encoding)


def _row(encoding: str) -> tuple[type, int, int | None]:
    """The row of an encoding in the table of those of colour."""
    if encoding not in _ENCODINGS:
        hint = "; that is a depth image, not a colour image" if encoding in DEPTH_ENCODINGS else ""
        raise MessageError(
            f"image encoding {encoding!r} is not supported{hint}; expected one of {', '.join(COLOUR_ENCODINGS)}"
        )
    return _ENCODINGS[encoding]


def _converted(pixels: np.ndarray, encoding: str) -> np.ndarray:
    """Pixels of an encoding, of 8 or 16 bits, as RGB uint8."""
    conversion = _row(encoding)[2]
    if pixels.dtype.itemsize == 2:
        pixels = eight_bits(pixels[..., :3] if pixels.ndim == 3 else pixels)  # alpha is full, however many bits
    return pixels if conversion is None else cv2.cvtColor(pixels, conversion)


def depth_to_metres(msg: Message) -> np.ndarray:
    """A depth Image (16UC1 or mono16 in mm, 32FC1 in m) as float32 [H, W] m; 0 where there is no reading."""
    if msg.encoding not in DEPTH_ENCODINGS:
        raise MessageError(
            f"depth encoding {msg.encoding!r} is not supported; expected one of {', '.join(DEPTH_ENCODINGS)}"
        )
    return _metres(_pixels(msg, DEPTH_ENCODINGS[msg.encoding], 1, msg.height)[..., 0])


def _metres(depth: np.ndarray) -> np.ndarray:
    depth_m = metres(depth) if depth.dtype.kind == "u" else depth.astype(np.float32)
    return np.where(np.isfinite(depth_m) & (depth_m > 0), depth_m, 0)


def _pixels(msg: Message, scalar: type, channels: int, rows: int) -> np.ndarray:
    """The pixels [rows, W, channels] of an Image without the padding of its rows, in the byte order of the message."""
    dtype = np.dtype(scalar).newbyteorder(">" if msg.is_bigendian else "<")
    height, width, row_bytes = msg.height, msg.width, msg.width * channels * dtype.itemsize
    if height == 0 or width == 0:
        raise MessageError(f"image is {width}x{height} px; expected at least 1x1")
    if msg.step < row_bytes:
        raise MessageError(f"image step is {msg.step} bytes; {width} px of {msg.encoding} need at least {row_bytes}")
    if len(msg.data) != msg.step * rows:
        raise MessageError(f"image data has {len(msg.data)} bytes; step {msg.step} x {rows} rows is {msg.step * rows}")
    data = np.frombuffer(msg.data, np.uint8).reshape(rows, msg.step)[:, :row_bytes]
    return np.ascontiguousarray(data).view(dtype).reshape(rows, width, channels)


def compressed_to_rgb(msg: Message, takes_depth: bool = False) -> np.ndarray:
    """A JPEG or PNG CompressedImage (16-bit PNG too) as RGB uint8 [H, W, 3], as the sensor saw it: a rotation in EXIF
    is not applied, Bayer's mosaic is made colour. With `takes_depth` also what JPEG left of depth."""
    encoding = msg.format.partition(";")[0].strip()  # image_transport says what the image was, and then what it is now
    if encoding in DEPTH_ENCODINGS and not takes_depth:
        _row(encoding)
    if encoding.startswith("bayer_"):
        mosaic = _decoded(msg, 0, cv2.IMREAD_UNCHANGED)
        if mosaic.ndim == 2:
            if mosaic.dtype.kind != "u":
                raise MessageError(
                    f"compressed image of format {msg.format!r} has pixels of {mosaic.dtype}; expected whole numbers"
                )
            return _converted(mosaic, encoding)
    bgr = _decoded(msg, 0, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def compressed_depth_to_metres(msg: Message) -> np.ndarray:
    """A CompressedImage of image_transport's compressedDepth (PNG or RVL; 16UC1, or 32FC1 quantised as inverse depth),
    or a plain 16-bit PNG, as float32 [H, W] m."""
    return _metres(compressed_depth(msg)[0])


def compressed_depth(msg: Message) -> tuple[np.ndarray, str]:
    """The pixels [H, W] of a compressed depth image, uint16 mm or float32 m, and the encoding that they had."""
    is_transport, is_float = "compressedDepth" in msg.format, msg.format.startswith("32FC1")
    # The transport's own header: an int32 format and two floats, A and B, of 32FC1: coded = A / depth + B.
    has_none = not is_float and bytes(msg.data[:4]) == PNG_START  # of publishers that know only the format's name
    offset = 12 if is_transport and not has_none else 0
    if len(msg.data) < offset:
        raise MessageError(f"compressedDepth image has {len(msg.data)} bytes; its header alone has 12")
    is_rvl = is_transport and msg.format.rstrip().endswith("rvl")
    coded = _decoded_rvl(msg) if is_rvl else _decoded(msg, offset, cv2.IMREAD_UNCHANGED)
    if coded.dtype != np.uint16 or coded.ndim != 2:
        raise MessageError(
            f"compressed image of format {msg.format!r} holds {coded.dtype.itemsize * 8}-bit pixels of"
            f" {1 if coded.ndim == 2 else coded.shape[2]} channel(s); depth needs one of 16 bits: JPEG and 8-bit PNG"
            " lose it, record compressedDepth or the raw image"
        )
    if not (is_transport and is_float):
        return coded, "16UC1"
    a, b = np.frombuffer(bytes(msg.data[4:12]), "<f4").astype(np.float64)
    inverse = coded - b
    is_reading = (coded > 0) & (inverse > 0)
    with np.errstate(all="ignore"):  # of a damaged header: what is not finite is no reading
        return np.where(is_reading, a / np.where(is_reading, inverse, 1), 0).astype(np.float32), "32FC1"


# More pixels than any depth camera has: a damaged header must not ask for all memory.
_MAX_RVL_PIXELS = 1 << 26


def _decoded_rvl(msg: Message) -> np.ndarray:
    """compressedDepth's RVL: after the header of 12 bytes, columns and rows as int32, then the code."""
    if len(msg.data) < 20:
        raise MessageError(f"compressedDepth image in RVL has {len(msg.data)} bytes; its headers alone have 20")
    width, height = (int(n) for n in np.frombuffer(bytes(msg.data[12:20]), "<i4"))
    if width < 1 or height < 1 or width * height > _MAX_RVL_PIXELS:
        raise MessageError(f"compressedDepth image in RVL says that it is {width}x{height} px")
    try:
        return rvl.decode(np.frombuffer(msg.data, np.uint8)[20:], width * height).reshape(height, width)
    except ValueError as error:
        raise MessageError(f"compressedDepth image of {width}x{height} px cannot be decoded: {error}") from error


def _decoded(msg: Message, offset: int, flags: int) -> np.ndarray:
    try:
        return decoded(np.frombuffer(msg.data, np.uint8)[offset:], flags)
    except CodingError as error:
        raise MessageError(
            f"compressed image of format {msg.format!r} and {len(msg.data)} bytes cannot be decoded: {error}"
        ) from error


# --- clouds

# PointField.INT8 is 1, ... FLOAT64 is 8
_FORMATS = dict(enumerate(("i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8"), start=1))
DATATYPES = {np.dtype(format_): datatype for datatype, format_ in _FORMATS.items()}


def cloud_to_array(msg: Message) -> np.ndarray:
    """The points of a PointCloud2 as a structured array [K], in its own byte order; organised clouds row by row."""
    dtype = _point_type(msg)
    row_bytes = msg.width * msg.point_step
    if msg.width * msg.height == 0:
        return np.zeros(0, dtype)
    if msg.row_step < row_bytes or len(msg.data) != msg.row_step * msg.height:
        raise MessageError(
            f"cloud data has {len(msg.data)} bytes with row_step {msg.row_step}; expected {msg.height} rows of"
            f" {msg.width} points of {msg.point_step} bytes"
        )
    rows = np.frombuffer(msg.data, np.uint8).reshape(msg.height, msg.row_step)[:, :row_bytes]
    return np.ascontiguousarray(rows).reshape(-1).view(dtype)


def _point_type(msg: Message) -> np.dtype:
    """The structured type of a cloud's points, in the cloud's byte order."""
    order = ">" if msg.is_bigendian else "<"
    formats: list[tuple[str, int] | str] = []
    fields: dict[str, Any] = {}
    for field in msg.fields:
        fields.setdefault(field.name, field)  # padding often has one name for all
    for field in fields.values():
        if field.datatype not in _FORMATS:
            raise MessageError(f"cloud field {field.name!r} has the unknown datatype {field.datatype}")
        scalar = order + _FORMATS[field.datatype]
        end = field.offset + np.dtype(scalar).itemsize * max(field.count, 1)
        if end > msg.point_step:
            raise MessageError(
                f"cloud fields do not fit in point_step {msg.point_step}: {field.name!r} ends at byte {end}"
            )
        formats.append((scalar, field.count) if field.count > 1 else scalar)
    offsets, itemsize = [field.offset for field in fields.values()], max(msg.point_step, 1)
    try:
        return np.dtype({"names": [*fields], "formats": formats, "offsets": offsets, "itemsize": itemsize})
    except (ValueError, OverflowError) as error:  # a point of gigabytes
        raise MessageError(f"cloud has fields that cannot be read: {error}") from error


def float_fields(
    what: str, points: np.ndarray, choices: tuple[tuple[str, ...], ...], expected: str, also: str = ""
) -> tuple[str, ...]:
    """The first of `choices` of fields that points have. They are a float each, and so is `also`, if it is there."""
    names = points.dtype.names or ()
    found = next((choice for choice in choices if set(choice) <= set(names)), None)
    if found is None:
        raise MessageError(f"{what} has the fields {list(names)}; expected {expected}")
    for name in (*found, *({also} & set(names))):
        if points.dtype[name].kind != "f" or points.dtype[name].shape:
            raise MessageError(f"{what} field {name!r} is {points.dtype[name]}; expected one float32 or float64")
    return found


def query_points(msg: Message) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates [K, 2] float64 and ids [K] of a query: fields `u` `v` (or `x` `y`, and no `z` but 0) of float
    type, optional `id`."""
    points = cloud_to_array(msg)
    expected = "'u' and 'v' (or 'x' and 'y') in pixels, and optionally 'id'"
    pair, names = float_fields("query cloud", points, (("u", "v"), ("x", "y")), expected), points.dtype.names or ()
    if pair == ("x", "y") and "z" in names and np.nan_to_num(points["z"]).any():
        raise MessageError(
            "query cloud has 'x', 'y' and 'z': a cloud in metres? Expected 'u' and 'v' in pixels; 3-D points go to"
            " waypoints, as a Path"
        )
    uv = np.stack([points[name].astype(np.float64) for name in pair], axis=1)
    has_id = "id" in names and not points.dtype["id"].shape
    ids = points["id"].astype(points.dtype["id"].newbyteorder("<")) if has_id else np.arange(len(uv), dtype=np.uint32)
    return uv, ids


def point_count(msg: Message) -> int:
    """K of a cloud, even of one whose fields cannot be read (bounded by the bytes that came, so that a lie costs
    nothing)."""
    return min(msg.width * msg.height, len(msg.data))
