"""The lifecycle node `spd`: camera topic and query points in, metric depths out.

Callbacks only decode small messages and hand them to the `FrameScheduler`; its two threads encode images and answer
queries.
"""

from __future__ import annotations

import functools
import signal
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from nav_msgs.msg import Path
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.exceptions import NameValidationException
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher, LifecycleState, TransitionCallbackReturn
from rclpy.logging import get_logger
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from rclpy.timer import Timer
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header

from spd_core.errors import SPDError
from spd_core.predictor import Predictor
from spd_core.process import keep_freed_memory
from spd_core.scale_prior import ScalePrior

from . import parameters
from .answers import Answers, Calibration
from .conversions import stamp_ns
from .diagnostics import Problems, Statistics, assess
from .inputs import Inputs
from .parameters import Settings
from .processes import spin
from .scaling import SOURCES, Scaling
from .scheduler import FrameScheduler, Query
from .waypoints import FrameTransforms

LATCHED_PERIOD_S = 0.5  # between looks for a camera_info that was published once, before this node was there
OUTPUTS = {"depths": PointCloud2, "waypoint_depths": PointCloud2, "overlay": Image, "dense": Image}
Transition = Callable[[Any, LifecycleState], TransitionCallbackReturn]


def transition(callback: Transition) -> Transition:
    """A lifecycle callback whose unexpected exceptions reach the log; rclpy turns them into ERROR without a word."""

    @functools.wraps(callback)
    def logged(self: SPDNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return callback(self, state)
        except Exception as error:
            self.get_logger().error(f"{callback.__name__} failed: {type(error).__name__}: {error}")
            raise

    return logged


class SPDNode(LifecycleNode):
    """Topics, parameters and lifecycle around `Answers`, which says what an answer is, and `FrameScheduler`, which says
    when.

    While it is configured there are a predictor and the outputs; while it is active, the answers, the scheduler and the
    inputs besides.
    """

    def __init__(self, **kwargs: Any):
        super().__init__("spd", **kwargs)
        self._settings = Settings()
        self._threads = torch.get_num_threads()  # torch's choice
        self._statistics = Statistics()
        self._problems = Problems(self._statistics, self.get_logger().error)
        self._predictor: Predictor | None = None
        self._outputs: dict[str, LifecyclePublisher] = {}
        self._transforms: FrameTransforms | None = None
        self._answers: Answers | None = None
        self._scheduler: FrameScheduler | None = None
        self._inputs: Inputs | None = None
        self._clockwork: list[Timer] = []
        self._failure = ""  # why it is not configured
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        parameters.declare(self)
        self.add_on_set_parameters_callback(self._on_set_parameters)

    @property
    def is_configured(self) -> bool:
        return self._predictor is not None

    # --- lifecycle

    @transition
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop()  # also the timer that tells of an earlier failure
        self._failure = ""
        self._statistics = Statistics()
        self._problems = Problems(self._statistics, self.get_logger().error)
        try:
            p = parameters.read(self)
            torch.set_num_threads(p.threads or self._threads)
            input_size = (p.input_size[0], p.input_size[1]) if any(p.input_size) else None
            predictor = Predictor.load(p.weights, p.device, p.precision, input_size, p.runtime)
            predictor.warm_up()
            ScalePrior.of(predictor)  # raises here what would else stop the answers
        except Exception as error:
            reason = str(error) if isinstance(error, (SPDError, OSError)) else f"{type(error).__name__}: {error}"
            self._failure = f"cannot configure: {reason}"
            self.get_logger().error(self._failure)
            self._every(1.0, "diagnostics", self._publish_diagnostics)
            return TransitionCallbackReturn.FAILURE
        self._settings, self._predictor = p, predictor
        quiet = PublisherEventCallbacks(use_default_callbacks=False)  # `assess` says it
        for name, type_ in OUTPUTS.items():
            publisher = self.create_lifecycle_publisher(type_, f"~/{name}", p.qos[name], event_callbacks=quiet)
            self._outputs[name] = publisher
        height, width = predictor.input_size
        where = f"{predictor.device}, {predictor.runtime}, {p.precision}, input {width}x{height}"
        self.get_logger().info(f"weights {p.weights} ({predictor.model.config.encoder}) on {where}")
        self._publish_diagnostics()  # or an earlier failure stays the last word until it is activated
        return TransitionCallbackReturn.SUCCESS

    @transition
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        assert self._predictor is not None, "the lifecycle activates only what it has configured"
        p, statistics, problems = self._settings, self._statistics, self._problems
        is_raw = p.image_transport == "raw"
        image_type, image_topic = (Image, "image") if is_raw else (CompressedImage, "image/compressed")
        problems.start()
        resolved = self.resolve_topic_name
        calibration = Calibration(resolved(image_topic), statistics, problems, resolved("camera_info"))
        self._transforms = FrameTransforms(self, p.waypoint_frame, p.waypoint_transform)
        scaling = Scaling(self._predictor, self._transforms, p, statistics, problems)
        answers = Answers(
            self._predictor, self._outputs, self._transforms, scaling, p, calibration, statistics, problems
        )
        scheduler = FrameScheduler(answers, p.frame_buffer, p.query_timeout_s, round(p.stamp_tolerance_s * 1e9))
        super().on_activate(state)
        scheduler.start()
        self._answers, self._scheduler = answers, scheduler
        statistics.start()
        inputs = self._inputs = Inputs(self, problems)
        inputs.add(image_type, image_topic, partial(self._on_image, scheduler, calibration.image_topic), p.qos["image"])
        inputs.add(CameraInfo, "camera_info", calibration.receive, p.qos["camera_info"])
        for type_, name, read in (
            (PointCloud2, "query_points", answers.read_query),
            (Path, "waypoints", answers.read_waypoints),
        ):
            inputs.add(type_, f"~/{name}", partial(self._on_query, scheduler, read), p.qos[name], is_answered=True)
        for name, (type_, _) in SOURCES.items():
            inputs.add(type_, f"~/{name}", partial(self._on_references, scheduler, scaling, name), p.qos[name])
        self.get_logger().info(f"listening to {', '.join(subscription.topic_name for subscription in inputs.usual)}")
        hear_latched = partial(inputs.add_latched, CameraInfo, "camera_info", calibration.receive)
        self._every(p.diagnostics_period_s, "diagnostics", self._publish_diagnostics)
        self._every(LATCHED_PERIOD_S, "camera_info", hear_latched)
        hear_latched()  # after another session it is known already who publishes
        return TransitionCallbackReturn.SUCCESS

    @transition
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop()
        return super().on_deactivate(state)

    @transition
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop()
        for publisher in self._outputs.values():
            self.destroy_lifecycle_publisher(publisher)
        self._outputs = {}
        self._predictor = None
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self.on_cleanup(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self.on_cleanup(state)

    def _every(self, period_s: float, kind: str, callback: Callable[[], Any]) -> None:
        """Call back until `_stop`. By the steady clock: under use_sim_time, diagnostics must come also while no clock
        does."""
        clock, guarded = Clock(clock_type=ClockType.STEADY_TIME), self._problems.guarded(kind, callback)
        self._clockwork.append(self.create_timer(period_s, guarded, clock=clock))

    def _stop(self) -> None:
        """No more input, and an answer for whoever still waits."""
        if self._inputs is not None:
            self._inputs.close()
            self._inputs = None
        if self._scheduler is not None:
            self._scheduler.stop()
            self._scheduler = self._answers = None
            self._publish_diagnostics()
        if self._transforms is not None:
            self._transforms.close()
            self._transforms = None
        for timer in self._clockwork:
            self.destroy_timer(timer)
        self._clockwork = []

    def close(self) -> None:
        """End whatever state the node is in; waiting queries are answered first."""
        self._stop()
        self.destroy_node()

    # --- callbacks

    def report(self, error: Exception) -> None:
        """Count and say an exception that came from outside of the callbacks' own guards."""
        self._problems.failed("spinning", error)

    def _on_image(self, scheduler: FrameScheduler, topic: str, msg: Image | CompressedImage) -> None:
        self._statistics.image_received()
        if scheduler.add_image(stamp_ns(msg.header), msg):
            self._statistics.count("time jumps")
            if self._transforms is not None:
                self._transforms.clear()
            count = self.count_publishers(topic)
            why = f"{count} publishers with clocks of their own?" if count > 1 else "a bag that loops?"
            self._problems.report("time jumps", f"image stamps on {topic} fell back: {why} Older frames are forgotten")

    def _on_query(self, scheduler: FrameScheduler, read: Callable[[Any], Query], msg: PointCloud2 | Path) -> None:
        scheduler.add_query(read(msg))

    def _on_references(self, scheduler: FrameScheduler, scaling: Scaling, kind: str, msg: Any) -> None:
        if (note := scaling.read(kind, msg)) is not None:
            scheduler.add_note(note)

    def _on_set_parameters(self, asked: list[Parameter]) -> SetParametersResult:
        try:
            values = parameters.changes(self, asked, self.is_configured)
        except Exception as error:
            return SetParametersResult(successful=False, reason=str(error))
        if self.is_configured:
            self._settings = p = replace(self._settings, **values)
            if self._answers is not None and self._scheduler is not None:
                self._answers.change(p)
                self._scheduler.change(p.query_timeout_s, round(p.stamp_tolerance_s * 1e9))
        return SetParametersResult(successful=True)

    def _publish_diagnostics(self) -> None:
        p, predictor = self._settings, self._predictor
        facts = {}
        if predictor is not None:
            facts = {"weights": p.weights, "precision": p.precision}
            facts |= {"device": str(predictor.device), "runtime": predictor.runtime}
        level = DiagnosticStatus.ERROR if self._failure else DiagnosticStatus.OK
        message = self._failure or "not active"
        if self._inputs is not None:
            level, message = assess(self, self._statistics, self._problems, self._inputs.usual, self._outputs.values())
        values = [KeyValue(key=key, value=value) for key, value in (facts | self._statistics.snapshot()).items()]
        name = self.get_fully_qualified_name()
        status = DiagnosticStatus(level=level, name=name, message=message, hardware_id="spd", values=values)
        stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(DiagnosticArray(header=Header(stamp=stamp), status=[status]))


def main() -> int:
    """Spin until SIGINT or SIGTERM, then answer what waits and leave with 0."""
    stop = False

    def request_stop(signum: int, frame: Any) -> None:
        nonlocal stop
        is_first, stop = not stop, True
        if is_first and not node.is_configured:  # nobody waits, and to configure may take minutes
            sys.exit(0)

    def warn(message: Warning | str, *where: Any, **more: Any) -> None:
        get_logger("spd").warning(" ".join(str(message).split()))

    warnings.showwarning = warn
    keep_freed_memory()
    try:
        # rclpy's own handlers would close the publishers before the last queries are answered.
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        node = SPDNode()
    except (RuntimeError, NameValidationException) as error:  # of rcl: arguments, parameter files or names
        hint = "; write 1.0, not 1, beside other numbers with a point" if "be of same type" in str(error) else ""
        hint = " after --ros-args mean nothing to ROS" if type(error).__name__ == "UnknownROSArgsError" else hint
        print(f"spd_node: {error}{hint}", file=sys.stderr)
        return 1
    try:
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, request_stop)
        is_wanted = node.get_parameter("autostart").value is not False  # what is no truth value, configuring refuses
        if is_wanted and node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            node.trigger_activate()
        spin(node, lambda: stop, node.report)
    finally:
        for signum in (signal.SIGINT, signal.SIGTERM):  # another one would kill the interpreter while it ends
            signal.signal(signum, signal.SIG_IGN)
        node.close()
        rclpy.try_shutdown()
    return 0
