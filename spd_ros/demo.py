"""The demo: a bag made on the spot, played over ROS 2 to a node in its own process, and its answers held against the truth."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np
import rclpy
import torch
from ament_index_python.packages import get_package_share_directory
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from spd_core.camera import Camera
from spd_core.data.bag import DEPTH_TOPIC, FRAME_ID, IMAGE_TOPIC, INFO_TOPIC, QUERY_TOPIC, BagFrame, BagMessage, read_messages, write_bag
from spd_core.data.rgbd import RGBDFolder
from spd_core.data.rooms import random_room
from spd_core.data.synthetic import Pose, draw, random_pose
from spd_core.messages import cloud_to_array
from spd_core.metrics import depth_metrics

from .conversions import Status, query_cloud
from .overlay import draw_overlay

FRAMES, QUERIES_PER_FRAME, POINTS_PER_QUERY = 20, 4, 32
PERIOD_S = 0.2
ROOM_SEED = 4_000_008
SIZE = (480, 640)
CAMERA = Camera(525.0, 525.0, 319.5, 239.5)
# Fast DDS 3 (Kilted) renamed the variable and warns about the old name.
PROFILE_VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE" if os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy") else "FASTDDS_DEFAULT_PROFILES_FILE"


def fastdds_profile() -> Path:
    """config/fastdds.xml, of the source tree or of the installed package."""
    source = Path(__file__).parent.parent / "config" / "fastdds.xml"
    return source if source.exists() else Path(get_package_share_directory("spd_ros")) / "config" / "fastdds.xml"


def run_demo(image_dir: Path | None, camera: list[float] | None, out: Path) -> int:
    """Run the demo and print its table; returns the process's exit code (1 if a query stayed without its one answer)."""
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    isolate()
    frames = _film_room() if image_dir is None else _photographs(image_dir, camera)
    write_bag(out / "bag", frames)
    messages = list(read_messages(out / "bag"))
    node = start_node({"image": IMAGE_TOPIC, "camera_info": INFO_TOPIC})
    try:
        answers, latency_s = _play(messages, node)
    finally:
        exit_code = stop_node(node)
    return _report(messages, answers, latency_s, out, console) or exit_code


def isolate() -> None:
    """Settings that child processes inherit: the Fast DDS profile, and a DDS domain of our own on this machine."""
    os.environ.setdefault(PROFILE_VARIABLE, str(fastdds_profile()))
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randrange(1, 100))


def start_node(remappings: dict[str, str] | None = None, parameters: dict[str, object] | None = None, **kwargs) -> subprocess.Popen:
    """`spd_node` as a process of its own."""
    arguments = [part for source, target in (remappings or {}).items() for part in ("-r", f"{source}:={target}")]
    arguments += [part for name, value in (parameters or {}).items() for part in ("-p", f"{name}:={value}")]
    return subprocess.Popen([sys.executable, "-m", "spd_ros.node", "--ros-args", *arguments], **kwargs)


def stop_node(process: subprocess.Popen) -> int:
    """End it as `ros2 launch` does; its exit code."""
    process.send_signal(signal.SIGINT)
    return process.wait(timeout=30)


# --- what is played


def _film_room() -> Iterator[BagFrame]:
    """A camera moving through one synthetic room."""
    room = random_room(ROOM_SEED)
    start = random_pose(room, np.random.default_rng(ROOM_SEED), CAMERA, SIZE)
    steps = np.linspace(-0.5, 0.5, FRAMES)
    drift = np.array([np.cos(start.yaw), 0.0, -np.sin(start.yaw)]) * 0.5
    poses = [Pose(start.position + drift * step, start.yaw + 0.35 * step, start.pitch, start.roll) for step in steps]
    with ProcessPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        drawn = pool.map(partial(draw, room, CAMERA, size=SIZE, seed=ROOM_SEED), poses)
        for i, frame in enumerate(track(drawn, "drawing a room", total=FRAMES)):
            yield BagFrame(_stamp(i), frame.rgb, frame.depth_m, CAMERA, _random_queries(i, frame.depth_m))


def _photographs(folder: Path, camera: list[float] | None) -> Iterator[BagFrame]:
    """The images of a folder."""
    if camera is not None and len(camera) != 4:
        raise ValueError(f"camera must be fx,fy,cx,cy in px, got {camera}")
    images = RGBDFolder(folder, Camera(*camera) if camera else None)
    for i, image in enumerate(images[i] for i in range(len(images))):
        candidates = image.depth_m if image.depth_m is not None else np.ones(image.rgb.shape[:2])
        yield BagFrame(_stamp(i), image.rgb, image.depth_m, image.camera, _random_queries(i, candidates))


def _stamp(frame: int) -> int:
    return 1_000_000_000 + round(frame * PERIOD_S * 1e9)


def _random_queries(frame: int, depth_m: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Queries at random pixels with known depth; ids count through the whole sequence."""
    rows, columns = np.nonzero(depth_m > 0)
    chosen = np.random.default_rng([frame, 0xD0]).choice(len(rows), QUERIES_PER_FRAME * POINTS_PER_QUERY)
    uv = np.stack([columns[chosen], rows[chosen]], axis=1).astype(np.float64)
    ids = np.arange(len(uv)) + frame * len(uv)
    return list(zip(np.split(uv, QUERIES_PER_FRAME), np.split(ids, QUERIES_PER_FRAME)))


# --- playing it


def _play(messages: list[BagMessage], node: subprocess.Popen) -> tuple[dict[int, np.ndarray], dict[int, float]]:
    """Publish the bag in its own time. Returns by id of a query's first point: the answer's points, and its latency, s."""
    rclpy.init()
    player = Node("spd_demo_player")
    types = {IMAGE_TOPIC: (Image, 5), INFO_TOPIC: (CameraInfo, 5), QUERY_TOPIC: (PointCloud2, 50)}
    publishers = {topic: player.create_publisher(type_, topic, depth) for topic, (type_, depth) in types.items()}
    answers: dict[int, np.ndarray] = {}
    sent_s, latency_s = {}, {}

    def receive(msg: PointCloud2) -> None:
        points = cloud_to_array(msg)
        if len(points) == 0 or points["id"][0] not in sent_s:
            return
        first = int(points["id"][0])
        if first in answers:
            raise RuntimeError(f"query {first} was answered twice")
        answers[first], latency_s[first] = points, time.monotonic() - sent_s[first]

    player.create_subscription(PointCloud2, "/spd/depths", receive, 100)

    def spin(until, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while not until() and time.monotonic() < deadline:
            rclpy.spin_once(player, timeout_sec=0.005)
        return until()

    try:
        spin(lambda: all(p.get_subscription_count() for p in publishers.values()) or node.poll() is not None, 60)
        if node.poll() is not None or not all(p.get_subscription_count() for p in publishers.values()):
            raise RuntimeError("the node did not come up; its output above says why")
        _warm_up(player, publishers, messages, spin)
        start_s, recorded_s = time.monotonic(), messages[0].stamp_ns / 1e9
        for message in messages:
            if message.topic in publishers:
                due_s = start_s + message.stamp_ns / 1e9 - recorded_s
                spin(lambda due_s=due_s: time.monotonic() >= due_s, 60)
                if message.topic == QUERY_TOPIC:
                    first = int(cloud_to_array(deserialize_message(message.data, PointCloud2))["id"][0])
                    sent_s[first] = time.monotonic()
                publishers[message.topic].publish(message.data)
        spin(lambda: len(answers) == len(sent_s), 5)
    finally:
        player.destroy_node()
        rclpy.try_shutdown()
    return answers, latency_s


def _warm_up(player: Node, publishers: dict, messages: list[BagMessage], spin) -> None:
    """Play the first image until a query about the newest frame is answered, so that the first frame of the table is not a cold start."""
    done = []
    listener = player.create_subscription(PointCloud2, "/spd/depths", done.append, 10)
    first = {topic: next((m for m in messages if m.topic == topic), None) for topic in (INFO_TOPIC, IMAGE_TOPIC)}
    for topic, message in first.items():
        if message is not None:
            publishers[topic].publish(message.data)
    header = deserialize_message(first[IMAGE_TOPIC].data, Image).header
    header.stamp.sec = header.stamp.nanosec = 0
    publishers[QUERY_TOPIC].publish(query_cloud(np.zeros((1, 2)), header))
    spin(lambda: bool(done), 30)
    player.destroy_subscription(listener)


# --- what came of it


def _report(messages: list[BagMessage], answers: dict[int, np.ndarray], latency_s: dict[int, float], out: Path, console: Console) -> int:
    table = Table("frame", "asked", "answered", "AbsRel", "median gt/pred", "latency p50 [ms]", "p99 [ms]", title=f"answers of the node on {FRAME_ID}")
    rows, errors, queries, answered, pictured = [], [], 0, 0, None
    for _, group in groupby(messages, key=lambda m: round(m.stamp_ns, -6)):
        by_topic = defaultdict(list)
        for message in group:
            by_topic[message.topic].append(message)
        rgb, depth_m = (_pixels(by_topic[topic][0]) if by_topic[topic] else None for topic in (IMAGE_TOPIC, DEPTH_TOPIC))
        asked = [cloud_to_array(deserialize_message(m.data, PointCloud2)) for m in by_topic[QUERY_TOPIC]]
        got = [answers[first] for query in asked if (first := int(query["id"][0])) in answers]
        queries, answered = queries + len(asked), answered + len(got)
        points = np.concatenate(got) if got else np.zeros(0, dtype=[(name, "f4") for name in ("u", "v", "depth", "id", "status")])
        truth = depth_m[points["v"].astype(int), points["u"].astype(int)] if depth_m is not None else np.full(len(points), np.nan)
        metrics = depth_metrics(points["depth"], truth)
        errors.append(metrics)
        ms = 1000 * np.array([latency_s[int(query["id"][0])] for query in asked if int(query["id"][0]) in latency_s] or [np.nan])
        good = np.isin(points["status"], (Status.OK, Status.NO_CAMERA_INFO))
        table.add_row(
            str(len(errors)),
            str(sum(map(len, asked))),
            str(int(good.sum())),
            _number(metrics["abs_rel"]),
            _number(metrics["s_star"]),
            *(f"{v:.1f}" for v in np.percentile(ms, [50, 99])),
        )
        rows += [(len(errors), p["id"], p["u"], p["v"], p["depth"], true, p["status"]) for p, true in zip(points, truth)]
        if len(points):
            pictured = draw_overlay(rgb, np.stack([points["u"], points["v"]], axis=1), points["depth"])
    console.print(table)
    all_ms = 1000 * np.array(list(latency_s.values()) or [np.nan])
    mean = np.nanmean([m["abs_rel"] for m in errors]) if any(m["n_valid"] for m in errors) else float("nan")
    p50, p99 = np.percentile(all_ms, [50, 99])
    console.print(f"{answered} of {queries} queries answered, AbsRel {_number(mean)}, latency p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    with open(out / "depths.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["frame", "id", "u_px", "v_px", "depth_m", "true_depth_m", "status"])
        writer.writerows(rows)
    if pictured is not None:
        cv2.imwrite(str(out / "overlay.png"), cv2.cvtColor(pictured, cv2.COLOR_RGB2BGR))
    console.print(f"wrote {out / 'overlay.png'} and {out / 'depths.csv'}")
    return 0 if answered == queries else 1


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"


def _pixels(message: BagMessage) -> np.ndarray:
    """Pixels of a recorded rgb8 or 32FC1 image."""
    msg = deserialize_message(message.data, Image)
    dtype = np.float32 if msg.encoding == "32FC1" else np.uint8
    pixels = np.frombuffer(msg.data, dtype).reshape(msg.height, msg.width, -1)
    return pixels[..., 0] if dtype == np.float32 else pixels
