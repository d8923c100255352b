"""Waypoints: 3-D points in any frame to the camera's optical frame."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from geometry_msgs.msg import Transform
from nav_msgs.msg import Path
from rclpy.node import Node
from rclpy.time import Time
from std_msgs.msg import Header

from spd_core.camera import Camera
from spd_core.errors import SPDError
from spd_core.status import Status

# How long waypoints wait for TF to reach the image's stamp: broadcasters send every 10 to 50 ms, often after the image.
# Nothing else does: the thread that waits is the one that answers.
TF_WAIT_S = 0.1
PAUSE = 10  # waits: so long after one in vain nobody waits for that frame, or a TF that stands still holds up everyone


class NoTransformError(SPDError):
    """The points' frame is not known relative to the camera's; the text says what was tried."""


def path_points(msg: Path) -> np.ndarray:
    """Positions [K, 3] m of the poses of a Path, in its `path_frame`."""
    return np.array(
        [[p.pose.position.x, p.pose.position.y, p.pose.position.z] for p in msg.poses], dtype=np.float64
    ).reshape(-1, 3)


def path_frame(msg: Path) -> str:
    """The frame of a Path: of its header, or where that names none, the one that all of its poses name.

    Raises:
        NoTransformError: they name several.
    """
    frames = sorted({pose.header.frame_id for pose in msg.poses})
    if msg.header.frame_id or not frames:
        return msg.header.frame_id
    if len(frames) > 1:
        raise NoTransformError(f"the path's header names no frame, and its poses are in {frames}; expected one for all")
    return frames[0]


@np.errstate(over="ignore")  # of places that only a float64 holds
def projected(points_m: np.ndarray, camera: Camera | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels [K, 2], z-depth [K] m and status [K] of points [K, 3] m of the optical frame; pixels are NaN, and the
    status says why, where they have none."""
    status = np.full(len(points_m), Status.OK, np.uint8)
    status[~(points_m[:, 2] > 0)] = Status.BEHIND_CAMERA
    status[~np.isfinite(points_m).all(axis=1)] = Status.NOT_FINITE
    is_ok = status == Status.OK
    if camera is None:
        status[is_ok] = Status.NO_CAMERA_INFO
        uv = np.full((len(points_m), 2), np.nan)
    else:
        uv = np.where(is_ok[:, None], camera.project(points_m), np.nan)
        status[is_ok & ~np.isfinite(uv).all(axis=1)] = Status.OUTSIDE_IMAGE  # where no lens looks
    return uv, points_m[:, 2].astype(np.float32), status


def rigid_transform(values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Rotation [3, 3] and translation [3] m from x, y, z, qx, qy, qz, qw (the quaternion is normalised)."""
    translation, quaternion = np.asarray(values[:3], dtype=np.float64), np.asarray(values[3:], dtype=np.float64)
    x, y, z, w = quaternion / np.linalg.norm(quaternion)
    across = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * w * across + 2 * across @ across, translation


class FrameTransforms:
    """Where frames are: the same frame, a fixed transform from the parameters, or TF where tf2_ros is installed.

    Args:
        node: listens to TF.
        fixed_frame: the frame that `fixed` is for; "" takes none.
        fixed: x y z qx qy qz qw of `fixed_frame` in the optical frame.
    """

    def __init__(self, node: Node, fixed_frame: str, fixed: Sequence[float]):
        self._node, self._fixed_frame, self._fixed = node, fixed_frame, rigid_transform(fixed)
        self._buffer: Any = None
        self._listener: Any = None
        self._in_vain_s: dict[str, float] = {}  # by frame: when TF was last waited for and did not come
        try:
            import tf2_ros  # not on every machine, and nothing else needs it
        except ImportError:
            return
        self._buffer = tf2_ros.Buffer(node=node)
        self._listener = tf2_ros.TransformListener(self._buffer, node)

    def close(self) -> None:
        """Take from the node what the listener and the buffer gave it: subscriptions, a service, a watch for jumps of
        the clock."""
        if self._buffer is not None:
            self._listener.unregister()
            self._buffer.jump_handle.unregister()
            self._node.destroy_service(self._buffer.srv)
            self._buffer = self._listener = None

    def clear(self) -> None:
        """Forget TF of before a bag started again: beside transforms that are newer by its buffer's ten seconds, TF
        would take none of those that come. Static ones stay: they are sent once, and tf2 keeps them."""
        if self._buffer is not None:
            self._buffer.clear()

    def to_optical(self, points_m: np.ndarray, frame_id: str, image: Header, wait_s: float = 0.0) -> np.ndarray:
        """Points [K, 3] m of `frame_id` in the optical frame of an image, at its stamp; for TF to reach that this waits
        up to `wait_s`.

        Raises:
            NoTransformError: none of the ways leads there.
        """
        if frame_id in ("", image.frame_id):
            return points_m
        if frame_id == self._fixed_frame:
            rotation, translation = self._fixed
        elif self._buffer is not None:
            try:
                found = self._look_up(image, frame_id, wait_s)
            except Exception as error:  # tf2's exceptions have no common base that can be named without tf2
                raise NoTransformError(
                    f"TF does not know {frame_id!r} in {image.frame_id!r} at the image's stamp: {error}"
                ) from error
            t, q = found.translation, found.rotation
            rotation, translation = rigid_transform([t.x, t.y, t.z, q.x, q.y, q.z, q.w])
        else:
            raise NoTransformError(
                f"points are in frame {frame_id!r}, the image in {image.frame_id!r}; tf2_ros is not installed here,"
                " so send them in the image's frame, or set the parameters waypoint_frame and waypoint_transform"
            )
        return points_m @ rotation.T + translation

    def _look_up(self, image: Header, frame_id: str, wait_s: float) -> Transform:
        """Where `frame_id` is in the frame and at the stamp of an image."""
        link = image.frame_id, frame_id, Time.from_msg(image.stamp)
        # Not tf2's own timeout: it counts on the node's clock, which stands still while a bag is paused. Frames that
        # nothing has ever linked are not waited for.
        is_linked = wait_s > 0 and self._buffer.can_transform_core(*link[:2], Time())[0]
        begin_s = time.monotonic()
        is_awaited = is_linked and begin_s > self._in_vain_s.get(frame_id, -math.inf) + PAUSE * wait_s
        while is_awaited and not self._buffer.can_transform_core(*link)[0]:
            time.sleep(0.005)
            if time.monotonic() > begin_s + wait_s:
                self._in_vain_s[frame_id] = time.monotonic()
                break
        return self._buffer.lookup_transform(*link).transform
