"""Replay over ROS 2: the frames of a bag to a node, in their own time, and its answers back."""

from __future__ import annotations

import itertools
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import rclpy
from ament_index_python.packages import get_package_share_directory
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from rich.progress import track
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header

from spd_core.data.bag import FRAME_ID, BagFrame
from spd_core.messages import cloud_to_array
from spd_core.recording import Answer, Replayed

from .conversions import query_cloud

WAIT_FOR_NODE_S, WAIT_FOR_ANSWERS_S = 60.0, 5.0
IMAGE, INFO, QUERY, DEPTHS = "/camera/image_raw", "/camera/camera_info", "/spd/query_points", "/spd/depths"
# Fast DDS 3 (Kilted) renamed the variable and warns about the old name.
PROFILE_VARIABLE = (
    "FASTRTPS_DEFAULT_PROFILES_FILE"
    if os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy")
    else "FASTDDS_DEFAULT_PROFILES_FILE"
)


def fastdds_profile() -> Path:
    """config/fastdds.xml, of the source tree or of the installed package."""
    source = Path(__file__).parent.parent / "config" / "fastdds.xml"
    return source if source.exists() else Path(get_package_share_directory("spd_ros")) / "config" / "fastdds.xml"


def isolate() -> None:
    """Settings that child processes inherit: the Fast DDS profile, and a DDS domain of our own on this machine."""
    os.environ.setdefault(PROFILE_VARIABLE, str(fastdds_profile()))
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randrange(1, 100))


def start_node(
    remappings: dict[str, str] | None = None, parameters: dict[str, object] | None = None, **kwargs
) -> subprocess.Popen:
    """`spd_node` as a process of its own."""
    arguments = [part for source, target in (remappings or {}).items() for part in ("-r", f"{source}:={target}")]
    arguments += [part for name, value in (parameters or {}).items() for part in ("-p", f"{name}:={value}")]
    return subprocess.Popen([sys.executable, "-m", "spd_ros.node", "--ros-args", *arguments], **kwargs)


def stop_node(process: subprocess.Popen) -> int:
    """End it as `ros2 launch` does; its exit code."""
    process.send_signal(signal.SIGINT)
    return process.wait(timeout=30)


class Player(Node):
    """Publishes frames and queries, and collects what comes back."""

    def __init__(self, is_compressed: bool):
        super().__init__("spd_replay")
        image_type, image_topic = (CompressedImage, f"{IMAGE}/compressed") if is_compressed else (Image, IMAGE)
        self.images = self.create_publisher(image_type, image_topic, 5)
        self.infos = self.create_publisher(CameraInfo, INFO, 5)
        self.queries = self.create_publisher(PointCloud2, QUERY, 50)
        self.create_subscription(PointCloud2, DEPTHS, self._receive, 200)
        self.on_answer: Callable[[PointCloud2], None] = lambda msg: None

    def _receive(self, msg: PointCloud2) -> None:
        self.on_answer(msg)

    def spin(self, until: Callable[[], bool], timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while not until() and time.monotonic() < deadline:
            rclpy.spin_once(self, timeout_sec=0.005)
        return until()

    def is_connected(self) -> bool:
        return (
            all(p.get_subscription_count() for p in (self.images, self.infos, self.queries))
            and self.count_publishers(DEPTHS) > 0
        )

    def show(self, frame: BagFrame) -> None:
        if frame.camera_info_data is not None:
            self.infos.publish(frame.camera_info_data)
        self.images.publish(frame.image_message.data)

    def warm_up(self, frame: BagFrame) -> None:
        """Show the first image until a query about the newest frame is answered, so that the first latency is not a
        cold start's."""
        answered = []
        self.on_answer = answered.append
        deadline = time.monotonic() + WAIT_FOR_NODE_S
        while not answered and time.monotonic() < deadline:
            self.show(frame)
            self.queries.publish(query_cloud(_POINT, Header(frame_id=FRAME_ID)))
            self.spin(lambda: bool(answered), 2.0)
        self.spin(lambda: False, 0.5)  # late answers to the warm-up


_POINT = [[0.0, 0.0]]


def _prefetched(frames: Iterable[BagFrame], ahead: int = 8) -> Iterator[BagFrame]:
    """The same frames, read and decoded by a thread: decoding between two publications would count as latency."""
    ready: queue.Queue = queue.Queue(ahead)

    def read() -> None:
        try:
            for frame in frames:
                ready.put(frame)
            ready.put(None)
        except Exception as error:  # raised again where the frames are taken
            ready.put(error)

    threading.Thread(target=read, name="spd_bag_reader", daemon=True).start()
    while (item := ready.get()) is not None:
        if isinstance(item, Exception):
            raise item
        yield item


def replay_live(
    frames: Iterable[BagFrame], rate: float = 1.0, node: subprocess.Popen | None = None, total: int | None = None
) -> list[Replayed]:
    """Publish each frame and its queries at the recorded rate times `rate`, and wait for the answers.

    A node that dies on the way leaves a gap; the replay goes on (someone may start it again) and ends by itself.

    Args:
        node: the process of a node started for this replay, to tell a dead one from a slow one.
        total: number of frames, for the progress bar.

    Raises:
        ConnectionError: no node is there within a minute.
        RuntimeError: a query was answered twice.
    """
    frames = _prefetched(frames)
    first = next(frames, None)
    if first is None:
        return []
    played: list[Replayed] = []
    asked: dict[int, tuple[Replayed, int]] = {}  # by the id of a query's first point
    sent_s: dict[int, float] = {}

    def receive(msg: PointCloud2) -> None:
        points = cloud_to_array(msg)
        key = int(points["id"][0]) if len(points) else -1
        if key not in asked or len(points) != len(asked[key][0].uv[asked[key][1]]):
            return  # someone else's question
        frame, i = asked[key]
        if frame.answers[i].depth_m is not None:
            raise RuntimeError(f"the query of point {key} was answered twice")
        frame.answers[i] = Answer(points["depth"].copy(), points["status"].copy(), time.monotonic() - sent_s[key])

    rclpy.init()
    player = Player(first.image_message.type_name.endswith("CompressedImage"))
    try:
        player.spin(lambda: player.is_connected() or (node is not None and node.poll() is not None), WAIT_FOR_NODE_S)
        if not player.is_connected():
            hint = (
                "its output above says why"
                if node is not None
                else "start one with these topics: ros2 launch spd_ros spd.launch.py"
            )
            raise ConnectionError(f"no node listens to {player.images.topic_name}, {INFO} and {QUERY}; {hint}")
        player.warm_up(first)
        player.on_answer = receive
        started_s, recorded_ns = time.monotonic(), first.stamp_ns
        for frame in track(itertools.chain([first], frames), "playing", total=total):
            due_s = started_s + (frame.stamp_ns - recorded_ns) / 1e9 / rate
            player.spin(lambda due_s=due_s: time.monotonic() >= due_s, max(due_s - time.monotonic(), 0) + 1)
            played.append(Replayed.of(frame, keep_picture=frame is first))
            player.show(frame)
            header = deserialize_message(frame.image_message.data, player.images.msg_type).header
            for i, (uv, ids) in enumerate(frame.queries):
                key = int(ids[0])
                asked[key], sent_s[key] = (played[-1], i), time.monotonic()
                player.queries.publish(query_cloud(uv, header, ids))
        player.spin(lambda: all(a.depth_m is not None for frame in played for a in frame.answers), WAIT_FOR_ANSWERS_S)
    finally:
        player.destroy_node()
        rclpy.try_shutdown()
    return played
