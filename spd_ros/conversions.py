"""ROS messages to numpy and back: images, camera calibration, query and answer clouds. The only place that reads or writes raw bytes.

Works on the messages' buffers with numpy and OpenCV alone, so that a pip-only machine and a ROS installation behave the same.
Every function raises `MessageError` with what was received and what was expected.
"""

from __future__ import annotations

import array
from enum import IntEnum

import cv2
import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField
from std_msgs.msg import Header

from spd_core.camera import Camera


class MessageError(ValueError):
    """A message that cannot be used; the text says why."""


class Status(IntEnum):
    """Why a point has the depth it has; the `status` field of an answer."""

    OK = 0
    NO_CAMERA_INFO = 1  # depth is answered for the training focal length; x y z are NaN
    OUTSIDE_IMAGE = 2
    NOT_FINITE = 3  # the point itself is NaN or infinite
    NO_IMAGE = 4  # no image with that stamp (or none at all) came
    FRAME_SKIPPED = 5  # the image came, but a newer one was encoded instead
    TIMED_OUT = 6  # the image came, but was not encoded in time
    BAD_IMAGE = 7  # the image could not be decoded
    BAD_QUERY = 8  # the query message could not be read
    SHUTTING_DOWN = 9


# --- images

# encoding -> (dtype, channels, conversion to RGB or None). OpenCV's Bayer names count from the second row: ROS "rggb" is OpenCV "BG".
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
    "rgba16": (np.uint16, 4, cv2.COLOR_RGBA2RGB),
    "bgra16": (np.uint16, 4, cv2.COLOR_BGRA2RGB),
    "mono16": (np.uint16, 1, cv2.COLOR_GRAY2RGB),
    "yuv422": (np.uint8, 2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": (np.uint8, 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (np.uint8, 2, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": (np.uint8, 2, cv2.COLOR_YUV2RGB_YUY2),
    "bayer_rggb8": (np.uint8, 1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": (np.uint8, 1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": (np.uint8, 1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": (np.uint8, 1, cv2.COLOR_BayerGB2RGB),
}


def image_to_rgb(msg: Image) -> np.ndarray:
    """An Image of any encoding in the table as RGB uint8 [H, W, 3]; `step` padding and endianness are honoured, 16 bits become 8."""
    if msg.encoding not in _ENCODINGS:
        hint = "; that is a depth image, not a colour image" if msg.encoding in ("32FC1", "16UC1") else ""
        raise MessageError(f"image encoding {msg.encoding!r} is not supported{hint}; expected one of {', '.join(_ENCODINGS)}")
    dtype, channels, conversion = _ENCODINGS[msg.encoding]
    dtype = np.dtype(dtype).newbyteorder(">" if msg.is_bigendian else "<")
    height, width, row_bytes = msg.height, msg.width, msg.width * channels * dtype.itemsize
    if height == 0 or width == 0:
        raise MessageError(f"image is {width}x{height} px; expected at least 1x1")
    if msg.step < row_bytes:
        raise MessageError(f"image step is {msg.step} bytes; {width} px of {msg.encoding} need at least {row_bytes}")
    if len(msg.data) != msg.step * height:
        raise MessageError(f"image data has {len(msg.data)} bytes; step {msg.step} x height {height} is {msg.step * height}")
    if channels == 2 and width % 2:
        raise MessageError(f"image of encoding {msg.encoding} has an odd width of {width} px; two pixels share their colour")
    rows = np.frombuffer(msg.data, np.uint8).reshape(height, msg.step)[:, :row_bytes]
    pixels = np.ascontiguousarray(rows).view(dtype).reshape(height, width, channels)
    if dtype.itemsize == 2:
        pixels = (pixels >> 8).astype(np.uint8)
    return pixels if conversion is None else cv2.cvtColor(pixels, conversion)


def compressed_to_rgb(msg: CompressedImage) -> np.ndarray:
    """A JPEG or PNG CompressedImage as RGB uint8 [H, W, 3]."""
    bgr = cv2.imdecode(np.frombuffer(msg.data, np.uint8), cv2.IMREAD_COLOR) if len(msg.data) else None
    if bgr is None:
        raise MessageError(f"compressed image of format {msg.format!r} and {len(msg.data)} bytes cannot be decoded; expected JPEG or PNG")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def rgb_to_image(rgb: np.ndarray, header: Header) -> Image:
    """RGB uint8 [H, W, 3] as an Image of encoding rgb8."""
    msg = Image(header=header, height=rgb.shape[0], width=rgb.shape[1], encoding="rgb8", step=rgb.shape[1] * 3)
    msg.data = _bytes(rgb)
    return msg


def _bytes(values: np.ndarray) -> array.array:
    """The buffer type that message setters take without a copy per element (25 times faster than a list)."""
    buffer = array.array("B")
    buffer.frombytes(np.ascontiguousarray(values).tobytes())
    return buffer


# --- calibration


def camera_from_info(msg: CameraInfo, size: tuple[int, int]) -> Camera:
    """Intrinsics for an image of `size` (height, width) px: K after region of interest and binning, scaled if the image has another size."""
    fx, fy, cx, cy = msg.k[0], msg.k[4], msg.k[2], msg.k[5]
    if fx <= 0 or fy <= 0 or not np.isfinite([fx, fy, cx, cy]).all():
        raise MessageError(f"camera_info has fx = {fx}, fy = {fy}: the camera is not calibrated")
    roi, binning_x, binning_y = msg.roi, max(msg.binning_x, 1), max(msg.binning_y, 1)
    camera = Camera(fx, fy, cx, cy).cropped(roi.x_offset, roi.y_offset).scaled(1 / binning_x, 1 / binning_y)
    full_width, full_height = (roi.width or msg.width) / binning_x, (roi.height or msg.height) / binning_y
    if full_width <= 0 or full_height <= 0:
        return camera
    return camera.scaled(size[1] / full_width, size[0] / full_height)


# --- clouds

_FORMATS = {
    PointField.INT8: "i1",
    PointField.UINT8: "u1",
    PointField.INT16: "i2",
    PointField.UINT16: "u2",
    PointField.INT32: "i4",
    PointField.UINT32: "u4",
    PointField.FLOAT32: "f4",
    PointField.FLOAT64: "f8",
}
_DATATYPES = {np.dtype(format_): datatype for datatype, format_ in _FORMATS.items()}


def cloud_to_array(msg: PointCloud2) -> np.ndarray:
    """The points of a cloud as a structured array [K], in its own byte order; organised clouds row by row."""
    order = ">" if msg.is_bigendian else "<"
    names, formats, offsets = [], [], []
    for field in msg.fields:
        if field.datatype not in _FORMATS:
            raise MessageError(f"cloud field {field.name!r} has the unknown datatype {field.datatype}")
        names.append(field.name)
        formats.append(np.dtype((order + _FORMATS[field.datatype], (field.count,))) if field.count > 1 else np.dtype(order + _FORMATS[field.datatype]))
        offsets.append(field.offset)
    row_bytes = msg.width * msg.point_step
    if msg.width * msg.height == 0:
        return np.zeros(0, dtype=list(zip(names, formats)))
    if msg.row_step < row_bytes or len(msg.data) != msg.row_step * msg.height:
        raise MessageError(f"cloud data has {len(msg.data)} bytes with row_step {msg.row_step}; expected {msg.height} rows of {msg.width} points of {msg.point_step} bytes")
    try:
        dtype = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": msg.point_step})
    except ValueError as error:
        raise MessageError(f"cloud fields do not fit in point_step {msg.point_step}: {error}") from error
    rows = np.frombuffer(msg.data, np.uint8).reshape(msg.height, msg.row_step)[:, :row_bytes]
    return np.ascontiguousarray(rows).reshape(-1).view(dtype)


def query_points(msg: PointCloud2) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates [K, 2] float64 and ids [K] of a query: fields `u` `v` (or `x` `y`) of float type, optional `id`."""
    points = cloud_to_array(msg)
    names = points.dtype.names or ()
    pair = next((pair for pair in (("u", "v"), ("x", "y")) if set(pair) <= set(names)), None)
    if pair is None:
        raise MessageError(f"query cloud has the fields {list(names)}; expected 'u' and 'v' (or 'x' and 'y') in pixels, and optionally 'id'")
    for name in pair:
        if points.dtype[name].kind != "f" or points.dtype[name].shape:
            raise MessageError(f"query cloud field {name!r} is {points.dtype[name]}; expected one float32 or float64")
    uv = np.stack([points[pair[0]].astype(np.float64), points[pair[1]].astype(np.float64)], axis=1)
    has_id = "id" in names and not points.dtype["id"].shape
    ids = points["id"].astype(points.dtype["id"].newbyteorder("<")) if has_id else np.arange(len(uv), dtype=np.uint32)
    return uv, ids


def point_count(msg: PointCloud2) -> int:
    """K of a cloud, even of one whose fields cannot be read (bounded by the bytes that came, so that a lie costs nothing)."""
    return min(msg.width * msg.height, len(msg.data))


def array_to_cloud(points: np.ndarray, header: Header) -> PointCloud2:
    """A structured array [K] as an unorganised little-endian cloud."""
    fields = []
    for name in points.dtype.names:
        dtype, offset = points.dtype.fields[name][:2]
        fields.append(PointField(name=name, offset=offset, datatype=_DATATYPES[dtype], count=1))
    step = points.dtype.itemsize
    msg = PointCloud2(header=header, height=1, width=len(points), fields=fields, is_bigendian=False, point_step=step, row_step=step * len(points))
    msg.data = _bytes(points)
    msg.is_dense = bool(np.isfinite(points["z"]).all()) if "z" in points.dtype.names else True
    return msg


def query_cloud(uv: np.ndarray, header: Header) -> PointCloud2:
    """A query message for points [K, 2] px."""
    points = np.zeros(len(uv), dtype=[("u", "<f4"), ("v", "<f4")])
    points["u"], points["v"] = np.asarray(uv).T
    return array_to_cloud(points, header)


def answer_cloud(header: Header, uv: np.ndarray, ids: np.ndarray, depth_m: np.ndarray, xyz_m: np.ndarray, status: np.ndarray) -> PointCloud2:
    """An answer: x y z (m, optical frame), depth (m), u v (px), id, status. NaN where there is no answer."""
    layout = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("depth", "<f4"), ("u", "<f4"), ("v", "<f4"), ("id", ids.dtype), ("status", "u1")]
    points = np.zeros(len(uv), dtype=np.dtype(layout, align=True))
    points["x"], points["y"], points["z"] = xyz_m.T
    points["u"], points["v"] = uv.T
    points["depth"], points["id"], points["status"] = depth_m, ids, status
    return array_to_cloud(points, header)
