"""What an answer is: from an image, a calibration and a query to the message that leaves. Knows no topics: where the
answers go is handed in."""

from __future__ import annotations

import math
import time
import weakref
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from nav_msgs.msg import Path
from rclpy.publisher import Publisher
from sensor_msgs.msg import CameraInfo, PointCloud2
from std_msgs.msg import Header

from spd_core.camera import DISTORTION_MODELS, Camera, cell_centres
from spd_core.camera_info import (
    calibration_doubt,
    camera_from_info,
    distortion_model,
    intrinsics_of,
    is_rectified_topic,
)
from spd_core.errors import MessageError, SPDError
from spd_core.messages import point_count, query_points
from spd_core.pictures import draw_overlay
from spd_core.predictor import EncodedFrame, Predictor
from spd_core.scale import MetricScale
from spd_core.status import Answer, Status

from .conversions import answer_cloud, depth_to_image, message_to_rgb, rgb_to_image, stamp_ns
from .diagnostics import Problems, Statistics
from .frames import PendingImage
from .notes import Note
from .parameters import Settings
from .scaling import Scaling
from .scheduler import ANSWER, Query
from .waypoints import TF_WAIT_S, FrameTransforms, NoTransformError, path_frame, path_points, projected

REMEMBERED_INFOS = 30
OVERLAY_PICTURES = 8  # of the last images, while someone looks at the overlay; of all frames kept: 187 MB at 1080p
MOST_DRAWN = 5_000  # points of an answer: 200,000 take the thread that answers for seconds
WITHOUT_CAMERA = "depths assume the training focal length, x y z are NaN"


@dataclass(frozen=True)
class CameraFrame:
    """An encoded image with what its answers need, its picture [H, W, 3] as long as `Answers` holds it for the overlay,
    and when it came."""

    header: Header
    rgb: weakref.ref[np.ndarray]
    encoded: EncodedFrame
    received_s: float


@dataclass
class Calibration:
    """The camera that `camera_info` says the images have, or what is wrong with it."""

    image_topic: str  # its name may say that the images are rectified
    statistics: Statistics
    problems: Problems
    info_topic: str = "camera_info"
    infos: deque[CameraInfo] = field(default_factory=lambda: deque(maxlen=REMEMBERED_INFOS))  # the newest last

    def receive(self, msg: CameraInfo) -> None:
        self.infos.append(msg)

    def info(self, image: Header) -> CameraInfo | None:
        """The camera_info with an image's stamp, else the newest; None where none came."""
        infos = tuple(self.infos)[::-1]  # another thread adds to them
        return next((info for info in infos if info.header.stamp == image.stamp), infos[0] if infos else None)

    def camera(self, image: Header, size: tuple[int, int], rectified: str) -> Camera | None:
        """The camera of an image of `size` (height, width) px; `rectified` is true, false or auto. None where it is not
        known; the reason is reported."""
        info = self.info(image)
        is_rectified = is_rectified_topic(self.image_topic) if rectified == "auto" else rectified == "true"
        try:
            if info is None:
                raise MessageError(f"no camera_info on {self.info_topic}")
            camera = camera_from_info(info, size, is_rectified)
        except Exception as error:  # whatever it holds, images are answered without it
            self.statistics.state("camera", "")
            self.problems.report("calibration", f"{error}; {WITHOUT_CAMERA}")
            return None
        source = intrinsics_of(info, is_rectified)[0] + ", D" * bool(camera.distortion)
        self.statistics.state("camera", f"{source} of camera_info: fx {camera.fx:.1f} px, fy {camera.fy:.1f} px")
        doubts = [doubt] if (doubt := calibration_doubt(info, size, is_rectified)) else []
        if image.frame_id and info.header.frame_id not in ("", image.frame_id):
            frames = f"camera_info is of the frame {info.header.frame_id!r}, the image of {image.frame_id!r}"
            doubts.append(f"{frames}: is it another camera's?")
        # rational_polynomial of 5 coefficients is plumb_bob, and so the other way: one formula, nothing to say
        if camera.distortion and info.distortion_model not in DISTORTION_MODELS:
            known = f"the distortion model {info.distortion_model!r} of camera_info is not one of ROS's names"
            doubts.append(f"{known}; taken for {camera.distortion_model}")
        if not camera.distortion and not is_rectified and distortion_model(info.distortion_model) == "equidistant":
            doubts.append("camera_info has the distortion model of a fisheye without coefficients; taken for a pinhole")
        if doubts:
            self.problems.report("calibration", "; ".join(doubts))
        else:
            self.problems.resolved("calibration")
        return camera


@dataclass
class Answers:
    """Turns messages into frames, queries and answers: the client of a `FrameScheduler`, which says when.

    Every query gets one message, whatever it holds and whatever fails.
    """

    predictor: Predictor
    outputs: Mapping[str, Publisher]  # `depths`, `waypoint_depths`, `overlay` and `dense`
    transforms: FrameTransforms  # for waypoints
    scaling: Scaling
    settings: Settings
    calibration: Calibration
    statistics: Statistics
    problems: Problems

    def __post_init__(self) -> None:
        self._image_size: tuple[int, int] | None = None  # of the last one
        self._pictures: deque[np.ndarray] = deque(maxlen=OVERLAY_PICTURES)
        self._last_s = {"overlay": 0.0, "dense": 0.0}  # when the last of these pictures left
        self._newest_s = -np.inf  # when the newest image that is encoded came
        self._newest_ns: int | None = None  # its stamp
        self._threads = torch.get_num_threads()

    def change(self, settings: Settings) -> None:
        """Go on with other parameters; from any thread."""
        self.settings = settings
        self.scaling.change(settings)

    # --- messages in

    def read_query(self, msg: PointCloud2) -> Query:
        """The query of a message, with `failure` set if it cannot be read."""
        received_s, failure = time.monotonic(), None
        self.statistics.count("queries received")
        try:
            uv, ids = query_points(msg)
        except Exception as error:  # whatever it holds, it gets an answer
            self.statistics.count("queries bad")
            self.problems.report("query", str(error))
            count, failure = point_count(msg), Status.BAD_QUERY
            uv, ids = np.full((count, 2), np.nan), np.arange(count, dtype=np.uint32)
        parsing_s = time.monotonic() - received_s
        return Query(stamp_ns(msg.header), uv, ids, msg.header, failure, received_s=received_s, parsing_s=parsing_s)

    def read_waypoints(self, msg: Path) -> Query:
        self.statistics.count("queries received")
        self.statistics.count("waypoint paths received")
        points_m, failure = path_points(msg), None
        nowhere, ids = np.full((len(points_m), 2), np.nan), np.arange(len(points_m), dtype=np.uint32)
        try:
            msg.header.frame_id = path_frame(msg)
        except NoTransformError as error:
            self.problems.report("transform", error)
            failure = Status.NO_TRANSFORM
        return Query(stamp_ns(msg.header), nowhere, ids, msg.header, failure, waypoints_m=points_m)

    # --- for the scheduler: `encode` runs in one of its threads, the rest in the other

    def on_start(self, thread: str) -> None:
        """Images are encoded on all of torch's threads, queries answered on half of them: an answer is many small
        layers, and on cores that also encode the next image each waits for its slowest part (docs/history.md)."""
        torch.get_num_threads()  # a thread's first call takes over what any thread set last: that was it
        torch.set_num_threads(max(self._threads // 2, 1) if thread == ANSWER else self._threads)

    def encode(self, image: PendingImage) -> CameraFrame:
        started_s, message = time.monotonic(), image.message
        rgb = message_to_rgb(message)
        self._image_size = height, width = rgb.shape[:2]
        known = self.calibration.info(message.header)
        described = message.header, (height, width), self.settings.rectified
        camera = self.calibration.camera(*described)
        encoded = self.predictor.encode_quietly(rgb, camera)  # diagnostics judge the whole sensor
        # Many drivers send an image just ahead of its camera_info, which after a zoom is not as the one before.
        came = self.calibration.info(message.header) is not known
        if came and (own := self.calibration.camera(*described)) != camera:
            camera, encoded = own, self.predictor.encode_quietly(rgb, own)
        if camera is None and self.calibration.info(message.header) is not None:
            self.statistics.count("images with a bad camera_info")
        self.statistics.encoded(time.monotonic() - started_s)
        self.problems.resolved("image", "encode")
        if self.outputs["overlay"].get_subscription_count():
            self._pictures.append(rgb)
        else:
            self._pictures.clear()
        return CameraFrame(message.header, weakref.ref(rgb), encoded, image.received_s)

    def prepare(self, query: Query) -> None:
        if self._image_size is not None and query.waypoints_m is None:
            self.predictor.prepare(query.uv, self._image_size)

    def answer(self, query: Query, frame: CameraFrame) -> None:
        """Publish the one answer to a query: from its frame."""
        since_s, uv = time.monotonic(), query.uv
        scale: MetricScale | None = None
        waypoint_depth_m: np.ndarray | None = None
        try:
            status = np.full(len(uv), Status.OK, np.uint8)
            if query.waypoints_m is not None:
                uv, waypoint_depth_m, status = self._project(query.waypoints_m, query.header.frame_id, frame)
            scale = self.scaling.scale()
            answer = frame.encoded.answer(uv, scale)
            since_s = time.monotonic()  # waiting for transforms and decoding are no overhead
            answer = replace(answer, status=np.where(status == Status.OK, answer.status, status))
            self.problems.resolved("answer")
        except Exception as error:  # out of device memory, say
            self.problems.failed("answer", error)
            answer = _nothing(len(uv), Status.FAILED)
        if bad := np.count_nonzero(answer.status == Status.NETWORK_NAN):
            what = f"the network's depth is not a finite number at {bad} of {len(uv)} points"
            self.problems.report("network", what)
        elif (answer.status == Status.OK).any():
            self.problems.resolved("network")
        self._publish(query, frame.header, uv, answer, since_s, waypoint_depth_m)
        if (rgb := frame.rgb()) is not None and self._is_due("overlay", self.settings.overlay_rate_hz):
            caption = "" if scale is None else f"scale {scale.factor:.2f} +- {scale.factor * scale.sigma_log:.2f}"
            thin = slice(None, None, max(math.ceil(len(uv) / MOST_DRAWN), 1))
            picture = draw_overlay(rgb, uv[thin], answer.depth_m[thin], caption=caption)
            self.outputs["overlay"].publish(rgb_to_image(picture, frame.header))

    def refuse(self, query: Query, why: Status) -> None:
        """Publish the one answer to a query that has no frame: NaN, and why."""
        since_s = time.monotonic()
        if why == Status.NO_IMAGE and query.stamp_ns and self._newest_ns is not None:
            apart = f"its stamp is {(query.stamp_ns - self._newest_ns) * 1e-9:+.3g} s from that of the newest"
            expected = "expected an image's own, or 0 for the newest; stamp_tolerance_s allows for a difference"
            self.problems.report("query stamp", f"a query is of no image that is here: {apart}; {expected}")
        self._publish(query, query.header, query.uv, _nothing(len(query.uv), why), since_s)

    def on_frame(self, frame: CameraFrame) -> None:
        if frame.received_s > self._newest_s:  # of an older one, the stamp would say that a bag has started again
            self._newest_s, self._newest_ns = frame.received_s, stamp_ns(frame.header)
            self.scaling.on_frame(frame.encoded, frame.header)
        columns, rows = self.settings.grid
        if columns and rows:
            uv = cell_centres(frame.encoded.size, columns, rows)
            ids = np.arange(len(uv), dtype=np.uint32)
            self.answer(Query(stamp_ns(frame.header), uv, ids, frame.header, is_grid=True), frame)
        if self._is_due("dense", self.settings.dense_rate_hz):
            depth_m = frame.encoded.dense_depth(self.scaling.scale())
            self.outputs["dense"].publish(depth_to_image(depth_m, frame.header))

    def take(self, note: Note, frame: CameraFrame) -> bool:
        return self.scaling.take(note, frame.encoded, frame.header)

    def on_lost_notes(self, notes: list[Note]) -> None:
        self.scaling.give_up(notes)

    def on_skip(self) -> None:
        self.statistics.count("images skipped")

    def on_error(self, work: str, error: Exception) -> None:
        if work == "encode" and isinstance(error, SPDError):
            self.statistics.count("images bad")
            self.problems.report("image", error)
        else:
            self.problems.failed(work, error)

    # --- on the way

    def _project(
        self, points_m: np.ndarray, frame_id: str, frame: CameraFrame
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`projected` of waypoints [K, 3] m, from the frame that they are in."""
        try:
            points_m = self.transforms.to_optical(points_m, frame_id, frame.header, wait_s=TF_WAIT_S)
        except NoTransformError as error:
            self.problems.report("transform", error)
            count = len(points_m)
            return np.full((count, 2), np.nan), _nan(count), np.full(count, Status.NO_TRANSFORM, np.uint8)
        return projected(points_m, frame.encoded.camera)

    def _publish(
        self,
        query: Query,
        header: Header,
        uv: np.ndarray,
        answer: Answer,
        since_s: float,
        waypoint_depth_m: np.ndarray | None = None,
    ) -> None:
        """Publish an answer; the time since `since_s` is the node's own."""
        topic = "depths"
        if query.waypoints_m is not None:
            topic = "waypoint_depths"
            waypoint_depth_m = _nan(len(uv)) if waypoint_depth_m is None else waypoint_depth_m
        self.outputs[topic].publish(answer_cloud(header, uv, query.ids, answer, waypoint_depth_m))
        now_s = time.monotonic()
        if query.is_grid:
            self.statistics.count("grids answered")
        else:
            self.statistics.answered(answer.status, now_s - query.received_s, query.parsing_s + now_s - since_s)

    def _is_due(self, picture: str, rate_hz: float) -> bool:
        """Whether someone listens to `overlay` or `dense` and its rate allows another one now."""
        now_s = time.monotonic()
        if not self.outputs[picture].get_subscription_count() or now_s - self._last_s[picture] < 1 / rate_hz:
            return False
        self._last_s[picture] = now_s
        return True


def _nan(count: int) -> np.ndarray:
    return np.full(count, np.nan, np.float32)


def _nothing(count: int, why: Status) -> Answer:
    """The answer that says why there is none."""
    return Answer(_nan(count), _nan(count), np.full((count, 3), np.nan, np.float32), np.full(count, why, np.uint8))
