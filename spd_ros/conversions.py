"""numpy to ROS messages: pictures, queries and answers. Reading them is `spd_core.messages`, but for stamps
and for which of the two a picture is."""

from __future__ import annotations

import array
import math
import random
from typing import Any

import numpy as np
from sensor_msgs.msg import CompressedImage, Image, PointCloud2, PointField
from std_msgs.msg import Header

from spd_core.message_fields import cloud_fields, image_fields, query_array
from spd_core.messages import compressed_to_rgb, image_to_rgb
from spd_core.status import Answer


def stamp_ns(header: Header) -> int:
    """A header's stamp, ns; of any sign, where rclpy's Time refuses what a driver with an overflow sends."""
    return header.stamp.sec * 10**9 + header.stamp.nanosec


def message_to_rgb(message: Image | CompressedImage) -> np.ndarray:
    """The picture of an Image or a CompressedImage, RGB uint8 [H, W, 3]."""
    return image_to_rgb(message) if isinstance(message, Image) else compressed_to_rgb(message)


def rgb_to_image(rgb: np.ndarray, header: Header) -> Image:
    """RGB uint8 [H, W, 3] as an Image of encoding rgb8."""
    return Image(header=header, **_with_buffer(image_fields(rgb, "rgb8")))


def depth_to_image(depth_m: np.ndarray, header: Header) -> Image:
    """Depth float32 [H, W] m as an Image of encoding 32FC1."""
    return Image(header=header, **_with_buffer(image_fields(depth_m.astype("<f4", copy=False), "32FC1")))


def array_to_cloud(points: np.ndarray, header: Header) -> PointCloud2:
    """A structured array [K] as an unorganised little-endian cloud."""
    return PointCloud2(header=header, **_with_buffer(cloud_fields(points, PointField)))


def query_cloud(uv: np.ndarray, header: Header, ids: np.ndarray | None = None) -> PointCloud2:
    """A query message for points [K, 2] px, with ids [K] uint32 if given."""
    return array_to_cloud(query_array(uv, ids), header)


def own_id() -> int:
    """A first id for queries of one's own: everyone hears all answers, and the ids of grids and of queries without any
    count from 0."""
    return random.SystemRandom().randrange(2**30, 2**31)


def _with_buffer(fields: dict[str, Any]) -> dict[str, Any]:
    """`data` in the buffer type that message setters take without a copy per element (25 times faster than a list)."""
    buffer = array.array("B")
    buffer.frombytes(fields["data"])
    return {**fields, "data": buffer}


@np.errstate(over="ignore")  # of pixels that only a float64 holds
def answer_cloud(
    header: Header,
    uv: np.ndarray,
    ids: np.ndarray,
    answer: Answer,
    waypoint_depth_m: np.ndarray | None = None,
) -> PointCloud2:
    """An answer at points [K, 2] px with ids [K]: x y z (m, optical frame), depth and its standard deviation sigma (m),
    the scale that is in it, u v (px), id, status; for waypoints also their own z-depth [K] m, and the probability
    that something is in the way, where sigma says one. NaN where there is no answer, but the scale may be a number."""
    layout: list[tuple[str, Any]] = [(name, "<f4") for name in ("x", "y", "z", "depth", "sigma", "scale", "u", "v")]
    layout += [("id", ids.dtype), ("status", "u1")]
    if waypoint_depth_m is not None:
        layout += [("waypoint_depth", "<f4"), ("blocked", "<f4")]
    points = np.zeros(len(uv), dtype=np.dtype(layout, align=True))
    points["x"], points["y"], points["z"] = answer.xyz_m.T
    points["u"], points["v"] = uv.T
    points["depth"], points["sigma"], points["status"] = answer.depth_m, answer.sigma_m, answer.status
    points["id"], points["scale"] = ids, answer.scale
    if waypoint_depth_m is not None:
        points["waypoint_depth"] = waypoint_depth_m
        points["blocked"] = blocked_probability(answer, waypoint_depth_m)
    return array_to_cloud(points, header)


def blocked_probability(answer: Answer, waypoint_depth_m: np.ndarray) -> np.ndarray:
    """Probability [K] that what is seen in the direction of waypoints stands nearer than they are, if the error of log
    depth is normal with the answer's sigma."""
    with np.errstate(all="ignore"):
        beyond = np.log(waypoint_depth_m / answer.depth_m) / answer.sigma_log
    return np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in beyond.tolist()], np.float32)
