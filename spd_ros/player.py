"""Replay over ROS 2: the frames of a bag to a node, in their own time, and its answers back."""

from __future__ import annotations

import itertools
import math
import subprocess
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.client import Client
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.parameter_client import AsyncParameterClient
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rclpy.signals import SignalHandlerOptions
from rich.progress import track
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header

from spd_core.data.bag import RecordedFrame
from spd_core.errors import SPDError
from spd_core.messages import cloud_to_array
from spd_core.names import ANSWER_TOPIC, FRAME_ID, IMAGE_TOPIC, INFO_TOPIC, QUERY_TOPIC, REMAPPINGS
from spd_core.recording import Asked, Replayed, Reply

from .conversions import own_id, query_cloud
from .processes import use_fastdds_profile

WAIT_FOR_NODE_S, WAIT_FOR_ANSWERS_S, WAIT_FOR_REPLY_S = 60.0, 5.0, 5.0
WAIT_FOR_COMPILER_S = 900.0  # a node that is configured may compile its network
WARM_UP_ID = 2**32 - 1  # of a point that no recording asks about
REFUSALS = 5  # how often a first image may have no depth
LATE_S = 0.5  # a replay that is later than that at its end has not had the rate that was asked for
LEAST_PAUSE_S = 0.001  # between two frames, to read answers also where the replay is late
LONGEST_PAUSE_S = 10.0  # between two frames: a recording that was paused, or one wrong stamp

EVERY_ONE = QoSProfile(history=HistoryPolicy.KEEP_ALL, reliability=ReliabilityPolicy.RELIABLE)


class ReplayError(SPDError):
    """There is no node that answers."""


class Player(Node):
    """Publishes frames and queries, and collects what comes back."""

    def __init__(self, is_compressed: bool):
        super().__init__("spd_replay")
        image = (CompressedImage, REMAPPINGS["image/compressed"]) if is_compressed else (Image, IMAGE_TOPIC)
        self.images = self.create_publisher(*image, 5)
        self.infos = self.create_publisher(CameraInfo, INFO_TOPIC, 5)
        self.queries = self.create_publisher(PointCloud2, QUERY_TOPIC, EVERY_ONE)
        self.create_subscription(PointCloud2, ANSWER_TOPIC, lambda msg: self.on_answer(msg), EVERY_ONE)
        self.on_answer: Callable[[PointCloud2], None] = lambda msg: None

    def spin(self, until: Callable[[], bool], timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while not until() and time.monotonic() < deadline:
            rclpy.spin_once(self, timeout_sec=0.005)
        return until()

    def activate(self, process: subprocess.Popen) -> None:
        """Bring up a node that was started for this replay and does not start by itself: only so does it say at once
        that it cannot."""
        service: Client = self.create_client(ChangeState, "/spd/change_state")
        self.spin(lambda: service.service_is_ready() or process.poll() is not None, WAIT_FOR_NODE_S)
        self.spin(lambda: process.poll() is not None, 1.0)  # until it knows where its reply goes
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            request = ChangeState.Request()
            request.transition.id = transition
            reply = service.call_async(request)
            self.spin(lambda: reply.done() or process.poll() is not None, WAIT_FOR_COMPILER_S)  # noqa: B023  # at once
            response = reply.result() if reply.done() else None
            if response is None or not response.success:
                raise ReplayError("the node cannot start; its output above says why")

    def connect(self) -> None:
        def is_connected() -> bool:
            publishers = (self.images, self.infos, self.queries)
            return all(p.get_subscription_count() for p in publishers) and self.count_publishers(ANSWER_TOPIC) > 0

        if not self.spin(is_connected, WAIT_FOR_NODE_S):
            raise ReplayError(
                f"no node listens to {self.images.topic_name}, {INFO_TOPIC} and {QUERY_TOPIC}; start one with these"
                " topics: ros2 launch spd_ros spd.launch.py"
                f"{' image_transport:=compressed' * (self.images.msg_type is CompressedImage)}"
            )

    def change(self, name: str, before: str, after: str) -> bool:
        """Set a parameter of the node where it has the value `before`; whether it had."""
        parameters = AsyncParameterClient(self, "/spd")
        if not self.spin(parameters.services_are_ready, WAIT_FOR_REPLY_S):
            return False
        found = parameters.get_parameters([name])
        self.spin(found.done, WAIT_FOR_REPLY_S)
        answer: Any = found.result() if found.done() else None
        if answer is None or answer.values[0].string_value != before:
            return False
        return self.spin(parameters.set_parameters([Parameter(name, value=after)]).done, WAIT_FOR_REPLY_S)

    def show(self, frame: RecordedFrame) -> None:
        if frame.info_data is not None:
            self.infos.publish(frame.info_data)
        self.images.publish(frame.image_data)

    def warm_up(self, frame: RecordedFrame) -> None:
        """Show the first image until a query about the newest frame is answered with a depth, so that the first latency
        is not a cold start's; or some times without one, where a node has none for it."""
        answered: list[float] = []

        def receive(msg: PointCloud2) -> None:
            points = cloud_to_array(msg)
            if points["id"].tolist() == [WARM_UP_ID]:
                answered.append(float(points["depth"][0]))

        self.on_answer = receive
        deadline = time.monotonic() + WAIT_FOR_NODE_S
        while not any(map(math.isfinite, answered)) and len(answered) < REFUSALS and time.monotonic() < deadline:
            before = len(answered)
            self.show(frame)
            ids = np.full(1, WARM_UP_ID, np.uint32)
            self.queries.publish(query_cloud(np.zeros((1, 2)), Header(frame_id=FRAME_ID), ids))
            self.spin(lambda: len(answered) > before, 2.0)  # noqa: B023  # at once
        if not answered:
            raise ReplayError(f"no answer on {ANSWER_TOPIC} within {WAIT_FOR_NODE_S:g} s")
        self.spin(lambda: False, 0.5)  # late answers to the warm-up


def _prefetched(frames: Iterable[RecordedFrame], ahead: int = 8) -> Generator[RecordedFrame]:
    """The same frames, read and decoded by a thread: decoding between two publications would count as latency."""
    unread = iter(frames)
    reader = ThreadPoolExecutor(1, "spd_bag_reader")
    try:
        ready = deque(reader.submit(next, unread, None) for _ in range(ahead))
        while (frame := ready.popleft().result()) is not None:
            ready.append(reader.submit(next, unread, None))
            yield frame
    finally:
        reader.shutdown(cancel_futures=True)  # before the bag is closed


def replay_live(
    frames: Iterable[RecordedFrame],
    rate: float = 1.0,
    node: subprocess.Popen | None = None,
    total: int | None = None,
    is_rectified: bool = False,
) -> list[Replayed]:
    """Publish each frame and its queries at the recorded rate times `rate`, and wait for the answers.

    A node that dies on the way leaves a gap; the replay goes on (someone may start it again) and ends by itself.

    Args:
        node: the process of a node started for this replay, with `autostart` false; without it one that runs.
        total: number of frames, for the progress bar.
        is_rectified: the recorded topic's name says that the images are, and that under which they are played does not.
            A node whose parameter `rectified` is "auto" is told for as long as the replay lasts.

    Raises:
        ReplayError: the node cannot start, none is there within a minute, or a query was answered twice.
    """
    ready = _prefetched(frames)
    first = next(ready, None)
    if first is None:
        return []
    played: list[Replayed] = []
    first_id = np.uint32(own_id())  # of the recording's first point
    waiting: dict[int, tuple[Asked, float]] = {}  # by the id of a query's first point; when it was sent

    def receive(msg: PointCloud2) -> None:
        points = cloud_to_array(msg)
        key = int(points["id"][0]) if len(points) else -1
        asked, sent_s = waiting.get(key, (None, 0.0))
        if asked is None or not np.array_equal(points["id"], asked.ids + first_id):
            return  # someone else's question
        if asked.reply is not None:
            twice = f"the query of point {asked.ids[0]} was answered twice"
            raise ReplayError(f"{twice}: do two nodes listen to {QUERY_TOPIC}?")
        depth_m, sigma_m, status = (points[name].copy() for name in ("depth", "sigma", "status"))
        asked.reply = Reply(depth_m, sigma_m, status, time.monotonic() - sent_s)

    use_fastdds_profile()
    with ExitStack() as stack:
        stack.callback(ready.close)
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)  # of ROS, which would end the context under us
        stack.callback(rclpy.try_shutdown)
        player = Player(first.image_type.endswith("CompressedImage"))
        stack.callback(player.destroy_node)
        if node is not None:
            player.activate(node)
        player.connect()
        if is_rectified and player.change("rectified", "auto", "true"):
            stack.callback(player.change, "rectified", "true", "auto")
        player.warm_up(first)
        player.on_answer = receive
        due_s, last_ns = time.monotonic(), first.stamp_ns
        for frame in track(itertools.chain([first], ready), "playing", total=total):
            due_s += min(max((frame.stamp_ns - last_ns) / 1e9, 0.0), LONGEST_PAUSE_S) / rate
            last_ns = frame.stamp_ns
            player.spin(lambda: False, max(due_s - time.monotonic(), LEAST_PAUSE_S))
            played.append(Replayed.of(frame, keep_picture=frame is first))
            player.show(frame)
            header = deserialize_message(frame.image_data, player.images.msg_type).header
            for asked in played[-1].asked:
                ids = asked.ids + first_id
                waiting[int(ids[0])] = asked, time.monotonic()
                player.queries.publish(query_cloud(asked.uv, header, ids))
        if (late_s := time.monotonic() - due_s) > LATE_S:
            what = f"the last frame was played {late_s:.1f} s later than a rate of {rate:g} asks"
            player.get_logger().warning(f"{what}: reading and playing take longer here, and the node had more time")
        player.spin(lambda: all(a.reply is not None for frame in played for a in frame.asked), WAIT_FOR_ANSWERS_S)
    return played
