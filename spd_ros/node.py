"""The lifecycle node `spd`: camera topic and query points in, metric depths out.

Callbacks only decode small messages and hand them to the `FrameScheduler`; its worker thread encodes images and answers queries.
"""

from __future__ import annotations

import functools
import signal
import sys
import time
import warnings
from dataclasses import dataclass

import numpy as np
import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header

from spd_core.camera import Camera, inside_image
from spd_core.predictor import EncodedFrame, Predictor

from . import parameters
from .conversions import (
    MessageError,
    Status,
    answer_cloud,
    camera_from_info,
    compressed_to_rgb,
    image_to_rgb,
    point_count,
    query_points,
    rgb_to_image,
)
from .diagnostics import Statistics, diagnostic_array
from .frames import FrameScheduler, PendingImage, Query
from .overlay import draw_overlay


@dataclass(frozen=True)
class CameraFrame:
    """An encoded image with what its answers need."""

    header: Header
    rgb: np.ndarray
    encoded: EncodedFrame


def transition(callback):
    """A lifecycle callback whose unexpected exceptions reach the log; rclpy turns them into ERROR without a word."""

    @functools.wraps(callback)
    def logged(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return callback(self, state)
        except Exception as error:
            self.get_logger().error(f"{callback.__name__} failed: {type(error).__name__}: {error}")
            raise

    return logged


class SPDNode(LifecycleNode):
    def __init__(self, **kwargs):
        super().__init__("spd", **kwargs)
        parameters.declare(self)
        self._scheduler: FrameScheduler | None = None
        self._predictor: Predictor | None = None
        self._inputs = []
        self._statistics = Statistics()
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._diagnostics_timer = None

    # --- lifecycle

    @transition
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self._settings = parameters.read(self)
            p = self._settings
            if p.threads:
                torch.set_num_threads(p.threads)
            input_size = tuple(p.input_size) if any(p.input_size) else None
            self._predictor = Predictor.load(p.weights, p.device, p.precision, input_size)
        except (ValueError, OSError, RuntimeError) as error:
            self.get_logger().error(f"cannot configure: {error}")
            return TransitionCallbackReturn.FAILURE
        self._statistics = Statistics()
        self._depths = self.create_lifecycle_publisher(PointCloud2, "~/depths", parameters.qos(p.depths_reliability, p.depths_depth))
        self._overlay = self.create_lifecycle_publisher(Image, "~/overlay", parameters.qos("reliable", 1))
        self._last_overlay_s = 0.0
        self._camera_info: CameraInfo | None = None
        self._grid: tuple[tuple[int, int], np.ndarray] | None = None
        height, width = self._predictor.input_size
        self.get_logger().info(f"weights {p.weights} ({self._predictor.model.config.encoder}) on {self._predictor.device}, {p.precision}, input {width}x{height}")
        return TransitionCallbackReturn.SUCCESS

    @transition
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        p = self._settings
        self._scheduler = FrameScheduler(
            self._encode, self._answer, self._on_frame, self._on_skip, self._on_error, p.frame_buffer, p.query_timeout_s, round(p.stamp_tolerance_s * 1e9)
        )
        super().on_activate(state)
        self._scheduler.start()
        self._statistics.started_s = time.monotonic()
        image_qos = parameters.qos(p.image_reliability, p.image_depth)
        raw = p.image_transport == "raw"
        image = (Image, "image") if raw else (CompressedImage, "image/compressed")
        self._inputs = [
            self.create_subscription(*image, self._on_image, image_qos),
            self.create_subscription(CameraInfo, "camera_info", self._on_camera_info, parameters.qos("best_effort", 5)),
            self.create_subscription(PointCloud2, "~/query_points", self._on_query, parameters.qos(p.query_reliability, p.query_depth)),
        ]
        self._diagnostics_timer = self.create_timer(p.diagnostics_period_s, self._publish_diagnostics)
        self.get_logger().info(f"listening to {self._inputs[0].topic_name}, {self._inputs[1].topic_name} and {self._inputs[2].topic_name}")
        return TransitionCallbackReturn.SUCCESS

    @transition
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop()
        return super().on_deactivate(state)

    @transition
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return TransitionCallbackReturn.SUCCESS

    @transition
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop()
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self.on_shutdown(state)

    def _stop(self) -> None:
        """No more input, and an answer for whoever still waits."""
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self._inputs = []
        if self._scheduler is not None:
            self._scheduler.stop()
            self._scheduler = None
            self._publish_diagnostics()
        if self._diagnostics_timer is not None:
            self.destroy_timer(self._diagnostics_timer)
            self._diagnostics_timer = None

    def _release(self) -> None:
        if self._predictor is not None:
            self.destroy_lifecycle_publisher(self._depths)
            self.destroy_lifecycle_publisher(self._overlay)
            self._predictor = None

    def close(self) -> None:
        """End whatever state the node is in; waiting queries are answered first."""
        self._stop()
        self.destroy_node()

    # --- messages in

    def _on_image(self, msg: Image | CompressedImage) -> None:
        self._statistics.image_received()
        self._scheduler.add_image(Time.from_msg(msg.header.stamp).nanoseconds, msg)

    def _on_camera_info(self, msg: CameraInfo) -> None:
        self._camera_info = msg

    def _on_query(self, msg: PointCloud2) -> None:
        self._statistics.count("queries received")
        stamp_ns = Time.from_msg(msg.header.stamp).nanoseconds
        try:
            query = Query(stamp_ns, *query_points(msg), msg.header)
        except MessageError as error:
            self._complain(str(error))
            count = point_count(msg)
            query = Query(stamp_ns, np.full((count, 2), np.nan), np.arange(count, dtype=np.uint32), msg.header, Status.BAD_QUERY)
        self._scheduler.add_query(query)

    # --- the worker thread

    def _encode(self, image: PendingImage) -> CameraFrame:
        started = time.monotonic()
        try:
            rgb = (image_to_rgb if isinstance(image.message, Image) else compressed_to_rgb)(image.message)
        except MessageError:
            self._statistics.count("images bad")
            raise
        encoded = self._predictor.encode(rgb, self._camera(rgb.shape[:2]))
        self._statistics.encoded(time.monotonic() - started)
        self._statistics.last_error = ""
        return CameraFrame(image.message.header, rgb, encoded)

    def _camera(self, size: tuple[int, int]) -> Camera | None:
        info = self._camera_info
        if info is None:
            return None
        try:
            camera = camera_from_info(info, size)
        except MessageError as error:
            self._complain(str(error))
            return None
        self._statistics.has_camera_info = True
        return camera

    def _on_frame(self, frame: CameraFrame) -> None:
        columns, rows = self._settings.grid
        if columns and rows:
            uv = self._grid_points(frame.encoded.size, columns, rows)
            stamp_ns = Time.from_msg(frame.header.stamp).nanoseconds
            self._answer(Query(stamp_ns, uv, np.arange(len(uv), dtype=np.uint32), frame.header), frame, None)

    def _grid_points(self, size: tuple[int, int], columns: int, rows: int) -> np.ndarray:
        """Centres [columns * rows, 2] px of a grid of cells that covers the image."""
        if self._grid is None or self._grid[0] != size:
            u, v = ((np.arange(n) + 0.5) * extent / n - 0.5 for n, extent in ((columns, size[1]), (rows, size[0])))
            self._grid = (size, np.stack(np.meshgrid(u, v), axis=-1).reshape(-1, 2))
        return self._grid[1]

    def _answer(self, query: Query, frame: CameraFrame | None, failure: Status | None) -> None:
        """Publish the one answer to a query: from `frame`, or NaN with `failure` as the status of every point."""
        count = len(query.uv)
        depth_m, xyz_m = np.full(count, np.nan, np.float32), np.full((count, 3), np.nan, np.float32)
        header, status = query.header, np.full(count, Status.OK if failure is None else failure, np.uint8)
        if frame is not None:
            header = frame.header
            try:
                depth_m = frame.encoded.depth_at(query.uv)
            except RuntimeError as error:  # out of device memory, say
                self._complain(f"cannot answer {count} points: {error}")
                status[:] = Status.BAD_IMAGE
            else:
                if frame.encoded.camera is not None:
                    xyz_m = frame.encoded.camera.unproject(query.uv, depth_m).astype(np.float32)
                else:
                    status[:] = Status.NO_CAMERA_INFO
                status[~inside_image(query.uv, frame.encoded.size)] = Status.OUTSIDE_IMAGE
                status[~np.isfinite(query.uv).all(axis=1)] = Status.NOT_FINITE
        self._depths.publish(answer_cloud(header, query.uv, query.ids, depth_m, xyz_m, status))
        self._statistics.answered(status, time.monotonic() - query.received_s)
        if frame is not None and self._overlay.get_subscription_count() > 0:
            self._publish_overlay(frame, query.uv, depth_m)

    def _publish_overlay(self, frame: CameraFrame, uv: np.ndarray, depth_m: np.ndarray) -> None:
        now = time.monotonic()
        if now - self._last_overlay_s >= 1 / self._settings.overlay_rate_hz:
            self._last_overlay_s = now
            self._overlay.publish(rgb_to_image(draw_overlay(frame.rgb, uv, depth_m), frame.header))

    def _on_skip(self, count: int) -> None:
        self._statistics.count("images skipped", count)

    def _on_error(self, error: Exception) -> None:
        self._complain(str(error) if isinstance(error, MessageError) else f"{type(error).__name__}: {error}")

    # --- saying so

    def _complain(self, text: str) -> None:
        """Into the log, at most every two seconds, and into diagnostics until an image is encoded again."""
        self._statistics.count("errors")
        self._statistics.last_error = text
        self.get_logger().error(text, throttle_duration_sec=2.0)

    def _publish_diagnostics(self) -> None:
        p = self._settings
        facts = {"weights": p.weights, "device": str(self._predictor.device), "precision": p.precision}
        is_active = self._scheduler is not None
        self._diagnostics.publish(diagnostic_array(self.get_clock().now(), self.get_fully_qualified_name(), self._statistics, is_active, facts))


def main() -> int:
    """`spd_node`: spin until SIGINT or SIGTERM, then answer what waits and leave with 0."""
    stop = False

    def request_stop(signum, frame):
        nonlocal stop
        stop = True

    signal.signal(signal.SIGINT, request_stop)
    signal.signal(signal.SIGTERM, request_stop)
    # rclpy's own handlers would close the publishers before the last queries are answered.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = SPDNode()
    warnings.showwarning = lambda message, *where: node.get_logger().warning(str(message))
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        if node.get_parameter("autostart").value and node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            node.trigger_activate()
        while not stop and rclpy.ok():
            executor.spin_once(timeout_sec=0.1)
    except ExternalShutdownException:
        pass
    finally:
        node.close()
        executor.shutdown()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
