"""Distances that a robot knows, as pixels with a true depth: of clouds, of a laser scan, of a single range finder.

Points come in the frame of their sensor; where the camera sees them is known once they are in its optical frame (x
right, y down, z forward). What the camera sees at such a pixel may stand in front of it, and a surface moves between
stamps: `ScaleFilter` expects some of them to be outliers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .camera import inside_image
from .messages import Message, MessageError, cloud_to_array, float_fields
from .predictor import EncodedFrame

LASER_SIGMA = 0.03  # of the log of a distance: the sensor's own error and that of where it is mounted
RANGE_SIGMA = 0.05  # likewise, of a sonar or a single beam
CONE_RINGS = 2
MOST_POINTS = 4096  # of a cloud in metres, before they are transformed and projected: `ScaleFilter` takes far fewer


@dataclass(frozen=True)
class References:
    """Pixels [K, 2] with their true z-depth [K] m and its standard deviation [K] m, NaN where unknown."""

    uv: np.ndarray
    depth_m: np.ndarray
    sigma_m: np.ndarray


@dataclass(frozen=True)
class KnownPoints:
    """Points [K, 3] m in the frame of their sensor, and the standard deviation of the log of their distance [K], NaN
    where unknown. `is_cone`: they are one reading, of the nearest thing in any of those directions."""

    points_m: np.ndarray
    sigma_log: np.ndarray
    is_cone: bool = False


def cloud_references(msg: Message) -> References | KnownPoints:
    """A PointCloud2 with fields `u` `v` (px) and `depth` (m), or `x` `y` `z` (m, in its own frame), floats; `sigma` (m,
    along the depth or the distance) if there is one. Of `x` `y` `z`, MOST_POINTS of the finite ones, drawn at random.

    Raises:
        MessageError: it has neither, or they cannot be read.
    """
    points = cloud_to_array(msg)
    expected = "'u', 'v' (px) and 'depth' (m), or 'x', 'y' and 'z' (m), and optionally 'sigma' (m)"
    wanted = float_fields("reference cloud", points, (("u", "v", "depth"), ("x", "y", "z")), expected, "sigma")
    if wanted[0] == "x":
        chosen = np.logical_and.reduce([np.isfinite(points[name]) for name in wanted]).nonzero()[0]
        if len(chosen) > MOST_POINTS:
            chosen = np.sort(np.random.default_rng(0).choice(chosen, MOST_POINTS, replace=False))
        points = points[chosen]
    values = np.stack([points[name].astype(np.float64) for name in wanted], axis=1)
    sigma_m = (
        points["sigma"].astype(np.float64) if "sigma" in (points.dtype.names or ()) else np.full(len(points), np.nan)
    )
    if wanted[0] == "u":
        return References(values[:, :2], values[:, 2], sigma_m)
    with np.errstate(all="ignore"):
        return KnownPoints(values, sigma_m / np.linalg.norm(values, axis=1))


def scan_references(msg: Message) -> KnownPoints:
    """The returns of a LaserScan in its frame (x forward, z up); those without one are left out.

    Raises:
        MessageError: its angles or limits are not numbers.
    """
    ranges_m = np.asarray(msg.ranges, np.float64)
    with np.errstate(all="ignore"):
        angles = msg.angle_min + msg.angle_increment * np.arange(len(ranges_m))
    if not np.isfinite(angles).all() or not msg.range_min < msg.range_max:
        raise MessageError(
            f"laser scan of {len(ranges_m)} ranges from {msg.angle_min} rad by {msg.angle_increment} rad, within"
            f" {msg.range_min} ... {msg.range_max} m; expected finite angles and a range above 0"
        )
    with np.errstate(invalid="ignore"):
        seen = (ranges_m >= max(msg.range_min, 1e-3)) & (ranges_m <= msg.range_max)
    seen &= np.isfinite(ranges_m)
    directions = np.stack([np.cos(angles), np.sin(angles), np.zeros(len(angles))], axis=1)[seen]
    return KnownPoints(directions * ranges_m[seen, None], np.full(len(directions), LASER_SIGMA))


def range_references(msg: Message) -> KnownPoints:
    """A Range in its frame (x forward): points on its cone at the distance read, none where it read nothing.

    Raises:
        MessageError: its cone or limits are not numbers.
    """
    half = msg.field_of_view / 2
    if not 0 <= half < math.pi / 2 or not msg.min_range <= msg.max_range:
        raise MessageError(
            f"range with a field of view of {msg.field_of_view} rad within {msg.min_range} ... {msg.max_range} m;"
            " expected 0 ... pi rad and a range above 0"
        )
    is_read = math.isfinite(msg.range) and max(msg.min_range, 1e-3) <= msg.range <= msg.max_range
    directions = [(1.0, 0.0, 0.0)]
    for ring in range(1, CONE_RINGS + 1) if half > 0 else ():
        off = half * ring / CONE_RINGS
        for around in np.linspace(0, 2 * math.pi, 6 * ring, endpoint=False):
            directions.append((math.cos(off), math.sin(off) * math.cos(around), math.sin(off) * math.sin(around)))
    points_m = np.array(directions if is_read else []).reshape(-1, 3) * (msg.range if is_read else 1.0)
    return KnownPoints(points_m, np.full(len(points_m), RANGE_SIGMA), is_cone=True)


def references_in(known: KnownPoints, frame: EncodedFrame) -> References:
    """References of points in the optical frame of an encoded image that has a camera, but for those that it does not
    show. Of a cone that is seen whole it is the direction in which the network says the nearest thing is, for that is
    what its sensor has met."""
    assert frame.camera is not None, "a frame without a camera has no place for points"
    uv, depth_m = frame.camera.project(known.points_m), known.points_m[:, 2]
    shown = inside_image(uv, frame.size).nonzero()[0]
    if known.is_cone and 0 < len(shown) == len(uv):
        nearness = frame.answer(uv).depth_m / depth_m
        shown = shown[[np.argmin(np.where(np.isfinite(nearness), nearness, np.inf))]]
    elif known.is_cone:
        shown = shown[:0]
    return References(uv[shown], depth_m[shown], depth_m[shown] * known.sigma_log[shown])
