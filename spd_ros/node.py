"""The lifecycle node `spd`: camera topic and query points in, metric depths out.

Callbacks only decode small messages and hand them to the `FrameScheduler`; its two threads encode images and answer
queries.
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
from nav_msgs.msg import Path
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import qos_policy_name_from_kind
from rclpy.signals import SignalHandlerOptions
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header

from spd_core.camera import Camera, cell_centres, inside_image
from spd_core.messages import MessageError, camera_from_info, compressed_to_rgb, image_to_rgb, point_count, query_points
from spd_core.pictures import draw_overlay
from spd_core.predictor import EncodedFrame, Predictor
from spd_core.process import keep_freed_memory
from spd_core.status import Status

from . import parameters
from .conversions import answer_cloud, depth_to_image, rgb_to_image
from .diagnostics import SILENCE_S, Statistics, diagnostic_array
from .frames import FrameScheduler, PendingImage, Query
from .waypoints import FrameTransforms, NoTransformError, path_points


@dataclass(frozen=True)
class CameraFrame:
    """An encoded image with what its answers need; `rgb` while someone looks at the overlay, because the ring keeps
    many of these."""

    header: Header
    rgb: np.ndarray | None
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
        self.add_on_set_parameters_callback(self._on_set_parameters)
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
            self._predictor = Predictor.load(p.weights, p.device, p.precision, input_size, p.runtime)
            self._predictor.warm_up()
        except (ValueError, OSError, RuntimeError) as error:
            self.get_logger().error(f"cannot configure: {error}")
            return TransitionCallbackReturn.FAILURE
        self._statistics = Statistics()
        outputs = (("depths", PointCloud2), ("waypoint_depths", PointCloud2), ("overlay", Image), ("dense", Image))
        self._outputs = {
            name: self.create_lifecycle_publisher(
                type_,
                f"~/{name}",
                parameters.qos(p, name),
                event_callbacks=PublisherEventCallbacks(incompatible_qos=self._on_qos(f"~/{name}")),
            )
            for name, type_ in outputs
        }
        self._last_s = {"overlay": 0.0, "dense": 0.0}
        self._camera_info: CameraInfo | None = None
        self._image_size: tuple[int, int] | None = None
        height, width = self._predictor.input_size
        self.get_logger().info(
            f"weights {p.weights} ({self._predictor.model.config.encoder}) on {self._predictor.device},"
            f" {self._predictor.runtime}, {p.precision}, input {width}x{height}"
        )
        return TransitionCallbackReturn.SUCCESS

    @transition
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        p = self._settings
        self._scheduler = FrameScheduler(
            self._encode,
            self._answer,
            self._on_frame,
            self._on_skip,
            self._on_error,
            p.frame_buffer,
            p.query_timeout_s,
            round(p.stamp_tolerance_s * 1e9),
        )
        super().on_activate(state)
        self._scheduler.start()
        self._statistics.started_s = time.monotonic()
        self._transforms = FrameTransforms(self, p.waypoint_frame, p.waypoint_transform)
        image = (Image, "image") if p.image_transport == "raw" else (CompressedImage, "image/compressed")
        inputs = (
            (*image, self._on_image, "image"),
            (CameraInfo, "camera_info", self._on_camera_info, "camera_info"),
            (PointCloud2, "~/query_points", self._on_query, "query"),
            (Path, "~/waypoints", self._on_waypoints, "waypoints"),
        )
        self._inputs = [
            self.create_subscription(
                type_,
                topic,
                callback,
                parameters.qos(p, name),
                event_callbacks=SubscriptionEventCallbacks(
                    incompatible_qos=self._on_qos(self.resolve_topic_name(topic))
                ),
            )
            for type_, topic, callback, name in inputs
        ]
        # The steady clock: under use_sim_time, diagnostics must come also while no clock does.
        self._diagnostics_timer = self.create_timer(
            p.diagnostics_period_s, self._publish_diagnostics, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self.get_logger().info(f"listening to {', '.join(subscription.topic_name for subscription in self._inputs)}")
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
            self._transforms.close()
            self._publish_diagnostics()
        if self._diagnostics_timer is not None:
            self.destroy_timer(self._diagnostics_timer)
            self._diagnostics_timer = None

    def _release(self) -> None:
        if self._predictor is not None:
            for publisher in self._outputs.values():
                self.destroy_lifecycle_publisher(publisher)
            self._predictor = None

    def close(self) -> None:
        """End whatever state the node is in; waiting queries are answered first."""
        self._stop()
        self.destroy_node()

    # --- messages in

    def _on_image(self, msg: Image | CompressedImage) -> None:
        self._statistics.image_received()
        if self._scheduler.add_image(Time.from_msg(msg.header.stamp).nanoseconds, msg):
            self._statistics.count("time jumps")
            self.get_logger().warning(
                "image stamps jumped back: a bag that loops? Frames from before the jump are forgotten"
            )

    def _on_camera_info(self, msg: CameraInfo) -> None:
        self._camera_info = msg

    def _on_query(self, msg: PointCloud2) -> None:
        received_s = time.monotonic()
        self._statistics.count("queries received")
        stamp_ns = Time.from_msg(msg.header.stamp).nanoseconds
        try:
            query = Query(stamp_ns, *query_points(msg), msg.header)
        except MessageError as error:
            self._statistics.count("queries bad")
            self._complain(str(error))
            count = point_count(msg)
            query = Query(
                stamp_ns, np.full((count, 2), np.nan), np.arange(count, dtype=np.uint32), msg.header, Status.BAD_QUERY
            )
        query.received_s, query.parsing_s = received_s, time.monotonic() - received_s
        if self._scheduler.add_query(query) and self._image_size is not None and query.failure is None:
            self._predictor.prepare(query.uv, self._image_size)  # while its image is encoded

    def _on_waypoints(self, msg: Path) -> None:
        self._statistics.count("waypoint paths received")
        points_m = path_points(msg)
        unknown = np.full((len(points_m), 2), np.nan)
        stamp_ns = Time.from_msg(msg.header.stamp).nanoseconds
        self._scheduler.add_query(
            Query(stamp_ns, unknown, np.arange(len(points_m), dtype=np.uint32), msg.header, waypoints_m=points_m)
        )

    # --- parameters while running

    def _on_set_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        known = [change for change in changes if change.name in parameters.PARAMETERS]
        for change in known:
            if self._predictor is not None and not parameters.PARAMETERS[change.name].at_run_time:
                return SetParametersResult(
                    successful=False,
                    reason=f"{change.name} is fixed while the node is configured: deactivate and clean up first",
                )
            try:
                parameters.checked(change.name, change.value)
            except parameters.ParameterError as error:
                return SetParametersResult(successful=False, reason=str(error))
        if self._predictor is not None:
            for change in known:
                setattr(self._settings, change.name, parameters.checked(change.name, change.value))
            if self._scheduler is not None:
                self._scheduler.timeout_s, self._scheduler.tolerance_ns = (
                    self._settings.query_timeout_s,
                    round(self._settings.stamp_tolerance_s * 1e9),
                )
        return SetParametersResult(successful=True)

    # --- the scheduler's two threads: `_encode` runs in one, the rest in the other

    def _encode(self, image: PendingImage) -> CameraFrame:
        started = time.monotonic()
        try:
            rgb = (image_to_rgb if isinstance(image.message, Image) else compressed_to_rgb)(image.message)
        except MessageError:
            self._statistics.count("images bad")
            raise
        self._image_size = rgb.shape[:2]
        encoded = self._predictor.encode(rgb, self._camera(self._image_size))
        self._statistics.encoded(time.monotonic() - started)
        self._statistics.last_error = ""
        return CameraFrame(
            image.message.header, rgb if self._outputs["overlay"].get_subscription_count() else None, encoded
        )

    def _camera(self, size: tuple[int, int]) -> Camera | None:
        info = self._camera_info
        if info is None:
            return None
        try:
            camera = camera_from_info(info, size)
        except MessageError as error:
            self._statistics.count("camera_infos bad")
            self._complain(str(error))
            return None
        self._statistics.has_camera_info = True
        return camera

    def _on_frame(self, frame: CameraFrame) -> None:
        columns, rows = self._settings.grid
        if columns and rows:
            uv = cell_centres(frame.encoded.size, columns, rows)
            stamp_ns = Time.from_msg(frame.header.stamp).nanoseconds
            self._answer(Query(stamp_ns, uv, np.arange(len(uv), dtype=np.uint32), frame.header), frame, None)
        if self._is_due("dense"):
            self._outputs["dense"].publish(depth_to_image(frame.encoded.dense_depth(), frame.header))

    def _answer(self, query: Query, frame: CameraFrame | None, failure: Status | None) -> None:
        """Publish the one answer to a query: from `frame`, or NaN with `failure` as the status of every point."""
        started_s, decoding_s = time.monotonic(), 0.0
        count, uv, waypoint_depth_m = len(query.uv), query.uv, None
        depth_m, xyz_m = np.full(count, np.nan, np.float32), np.full((count, 3), np.nan, np.float32)
        header, status = query.header, np.full(count, Status.OK if failure is None else failure, np.uint8)
        if query.waypoints_m is not None:
            waypoint_depth_m = np.full(count, np.nan, np.float32)
        if frame is not None:
            header, camera = frame.header, frame.encoded.camera
            if query.waypoints_m is not None:
                uv, waypoint_depth_m, status = self._project(query, frame)
            status[(status == Status.OK) & ~np.isfinite(uv).all(axis=1)] = Status.NOT_FINITE
            status[(status == Status.OK) & ~inside_image(uv, frame.encoded.size)] = Status.OUTSIDE_IMAGE
            decoding_from_s = time.monotonic()
            try:
                depth_m = frame.encoded.depth_at(uv)
                decoding_s = time.monotonic() - decoding_from_s
            except RuntimeError as error:  # out of device memory, say
                self._complain(f"cannot answer {count} points: {error}")
                status[:] = Status.BAD_IMAGE
            else:
                if camera is not None:
                    xyz_m = camera.unproject(uv, depth_m).astype(np.float32)
                else:
                    status[status == Status.OK] = Status.NO_CAMERA_INFO
        topic = "depths" if query.waypoints_m is None else "waypoint_depths"
        self._outputs[topic].publish(answer_cloud(header, uv, query.ids, depth_m, xyz_m, status, waypoint_depth_m))
        now_s = time.monotonic()
        self._statistics.answered(status, now_s - query.received_s, query.parsing_s + now_s - started_s - decoding_s)
        if frame is not None and frame.rgb is not None and self._is_due("overlay"):
            self._outputs["overlay"].publish(rgb_to_image(draw_overlay(frame.rgb, uv, depth_m), frame.header))

    def _project(self, query: Query, frame: CameraFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels [K, 2], z-depth [K] m and status [K] of a query's waypoints in a frame; pixels are NaN where they are
        not in front of it."""
        points_m, camera = query.waypoints_m, frame.encoded.camera
        nowhere, status = np.full((len(points_m), 2), np.nan), np.full(len(points_m), Status.OK, np.uint8)
        try:
            points_m = self._transforms.to_optical(points_m, query.header.frame_id, frame.header)
        except NoTransformError as error:
            self._complain(str(error))
            status[:] = Status.NO_TRANSFORM
            return nowhere, np.full(len(points_m), np.nan, np.float32), status
        z_m = points_m[:, 2].astype(np.float32)
        status[~(points_m[:, 2] > 0)] = Status.BEHIND_CAMERA
        status[~np.isfinite(points_m).all(axis=1)] = Status.NOT_FINITE
        if camera is None:
            status[status == Status.OK] = Status.NO_CAMERA_INFO
            return nowhere, z_m, status
        uv = camera.project(points_m)
        uv[status != Status.OK] = np.nan
        return uv, z_m, status

    def _is_due(self, picture: str) -> bool:
        """Whether someone listens to `overlay` or `dense` and its rate allows another one now."""
        now = time.monotonic()
        if self._outputs[picture].get_subscription_count() == 0 or now - self._last_s[picture] < 1 / getattr(
            self._settings, f"{picture}_rate_hz"
        ):
            return False
        self._last_s[picture] = now
        return True

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

    def _on_qos(self, topic: str):
        """An event callback that says which topic has a peer that it cannot hear, and why."""

        def complain(event) -> None:
            policy = qos_policy_name_from_kind(event.last_policy_kind)
            text = (
                f"{topic} has a publisher or subscriber with incompatible QoS ({policy}); set the topic's QoS"
                " parameters"
            )
            self._statistics.qos_problems[topic] = text
            self.get_logger().error(text)

        return complain

    def _publish_diagnostics(self) -> None:
        p = self._settings
        facts = {
            "weights": p.weights,
            "device": str(self._predictor.device),
            "runtime": self._predictor.runtime,
            "precision": p.precision,
        }
        is_active = self._scheduler is not None
        where = ""
        if is_active and self._statistics.is_silent():
            expected = self._inputs[0].topic_name
            kind = "sensor_msgs/msg/Image" if p.image_transport == "raw" else "sensor_msgs/msg/CompressedImage"
            own = self.get_fully_qualified_name() + "/"
            others = [
                name
                for name, types in self.get_topic_names_and_types()
                if kind in types and self.count_publishers(name) and not name.startswith(own)
            ]
            where = f" on {expected}; image topics with a publisher: {', '.join(others) or 'none'}"
            self.get_logger().warning(f"no image for {SILENCE_S:.0f} s{where}", throttle_duration_sec=10.0)
        self._diagnostics.publish(
            diagnostic_array(
                self.get_clock().now(), self.get_fully_qualified_name(), self._statistics, is_active, facts, where
            )
        )


def main() -> int:
    """`spd_node`: spin until SIGINT or SIGTERM, then answer what waits and leave with 0."""
    stop = False

    def request_stop(signum, frame):
        nonlocal stop
        stop = True

    keep_freed_memory()
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
