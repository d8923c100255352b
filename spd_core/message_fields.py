"""What is in the fields of a message that carries pixels, points or a calibration.

`Image(header=header, **image_fields(rgb, "rgb8"))` is a message, with the classes of rclpy or those of rosbags.
Reading is `messages.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .camera import Camera
from .messages import DATATYPES


def image_fields(pixels: np.ndarray, encoding: str) -> dict[str, Any]:
    """Of an Image: pixels [H, W] or [H, W, C] of this machine's byte order."""
    height, width = pixels.shape[:2]
    data = np.ascontiguousarray(pixels).reshape(-1).view(np.uint8)
    return {
        "height": height,
        "width": width,
        "encoding": encoding,
        "is_bigendian": 0,
        "step": data.size // height,
        "data": data,
    }


def camera_info_fields(camera: Camera, size: tuple[int, int]) -> dict[str, Any]:
    """Of a CameraInfo for images of `size` (height, width) px; without binning and region of interest."""
    k = np.array([camera.fx, 0, camera.cx, 0, camera.fy, camera.cy, 0, 0, 1], dtype=np.float64)
    return {
        "height": size[0],
        "width": size[1],
        "distortion_model": camera.distortion_model if camera.distortion else "plumb_bob",
        "d": np.array(camera.distortion or (0.0,) * 5, dtype=np.float64),
        "k": k,
        "r": np.eye(3).reshape(-1),
        "p": np.insert(k, [3, 6, 9], 0.0),
    }


def cloud_fields(points: np.ndarray, point_field: type) -> dict[str, Any]:
    """Of a PointCloud2: a structured array [K] as an unorganised little-endian cloud; `point_field` is the class of its
    fields."""
    step, names = points.dtype.itemsize, points.dtype.names or ()
    fields: Mapping[str, Any] = points.dtype.fields or {}
    return {
        "height": 1,
        "width": len(points),
        "fields": [
            point_field(name=name, offset=fields[name][1], datatype=DATATYPES[fields[name][0]], count=1)
            for name in names
        ],
        "is_bigendian": False,
        "point_step": step,
        "row_step": step * len(points),
        "data": np.ascontiguousarray(points).view(np.uint8).reshape(-1),
        "is_dense": bool(np.isfinite(points["z"]).all()) if "z" in names else True,
    }


def query_array(uv: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
    """The points [K] of a query at pixels [K, 2], with ids [K] uint32 if given."""
    points = np.zeros(len(uv), dtype=[("u", "<f4"), ("v", "<f4"), *([("id", "<u4")] if ids is not None else [])])
    points["u"], points["v"] = np.asarray(uv).T
    if ids is not None:
        points["id"] = ids
    return points
