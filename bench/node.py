"""The node under load, over real DDS: a camera with a query per image, late queries from a second publisher, or
thousands of broken messages.

python bench/node.py --seconds 600   # 30 Hz 640x480, 128 points each, 5 Hz later queries: answers, latency, memory
python bench/node.py --sweep         # image sizes, numbers of points, rates: message in to answer out
python bench/node.py --fuzz 10000    # so many malformed messages on every input; the node must live, answer and count
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rclpy
from matplotlib import pyplot as plt
from rich.console import Console
from rich.table import Table
from sensor_msgs.msg import CameraInfo, PointCloud2
from std_msgs.msg import Header
from timing import machine, write

sys.path.insert(0, str(Path(__file__).parent.parent / "test"))
from support.robot import CAMERA, TOPICS, Client, mutated, path, resident_mb

from spd_core.messages import cloud_to_array
from spd_rooms.synthetic import random_frame
from spd_ros.conversions import query_cloud, rgb_to_image
from spd_ros.processes import isolate, running_node

# Image (height, width), points, images per second, network input (None: the weights' own).
SWEEP = (
    ((480, 640), 16, 10.0, None),
    ((480, 640), 128, 10.0, None),
    ((480, 640), 1024, 10.0, None),
    ((720, 1280), 128, 10.0, None),
    ((480, 640), 128, 15.0, None),
    ((480, 640), 128, 30.0, None),
    ((480, 640), 128, 45.0, None),
    ((480, 640), 128, 60.0, None),
    ((480, 640), 128, 8.0, (480, 640)),
)


def by_tenths(series: list[float]) -> list[float]:
    """The medians of ten parts of a run, or of fewer where it is that short."""
    return [round(float(np.median(part)), 1) for part in np.array_split(series, min(10, max(len(series), 1)))]


def soak(
    client: Client, pid: int, rgb: np.ndarray, seconds: float, rate_hz: float, points: int, late_hz: float = 5.0
) -> dict:
    """Publish at `rate_hz` with a query per image, and `late_hz` queries a second for an image half a second old or the
    newest, in turns; what was answered and how."""
    rng, late = np.random.default_rng(0), client.create_publisher(PointCloud2, "/spd/query_points", 50)
    sent_s, latency_ms, statuses, memory, headers = {}, defaultdict(list), Counter(), [], []
    asked, asks_newest, high = 0, False, (rgb.shape[1] - 1, rgb.shape[0] - 1)

    def receive(msg: PointCloud2) -> None:
        answer = cloud_to_array(msg)
        first = int(answer["id"][0])
        kind, asked_s = sent_s.pop(first)  # a second answer to the same query is a KeyError
        latency_ms[kind].append(1000 * (time.monotonic() - asked_s))
        statuses.update(answer["status"].tolist())

    def ask(kind: str, publisher, header: Header) -> None:
        nonlocal asked
        ids = np.arange(asked, asked + points, dtype=np.uint32)
        asked += points
        sent_s[int(ids[0])] = kind, time.monotonic()
        publisher.publish(query_cloud(rng.uniform(0, high, (points, 2)), header, ids))

    client.answers = None
    client.create_subscription(PointCloud2, "/spd/depths", receive, 500)
    client.idle(1.0)
    started, next_late = time.monotonic(), time.monotonic() + 1
    frame = 0
    while time.monotonic() < started + seconds:
        header = client.header()
        client.images.publish(rgb_to_image(rgb, header))
        ask("latency_ms", client.queries, header)
        headers.append((time.monotonic(), header))
        if late_hz and time.monotonic() >= next_late:
            next_late += 1 / late_hz
            if asks_newest := not asks_newest:
                ask("newest_latency_ms", late, Header(frame_id=header.frame_id))
            else:
                ask("late_latency_ms", late, next(h for t, h in reversed(headers) if time.monotonic() - t >= 0.5))
        headers = headers[-60:]
        frame += 1
        if frame % int(rate_hz) == 0:
            memory.append(resident_mb(pid))
        while (left_s := started + frame / rate_hz - time.monotonic()) > 0:
            rclpy.spin_once(client, timeout_sec=left_s)  # sleeps until something comes: the cores are the node's
    client.idle(3.0)
    diagnostics = {v.key: v.value for v in client.diagnostics.values}
    return {
        "images": frame,
        "queries": asked // points,
        "answered": sum(map(len, latency_ms.values())),
        "points_by_status": {str(k): v for k, v in statuses.items()},
        **{
            kind: dict(zip(("p50", "p90", "p99"), np.percentile(series, [50, 90, 99]).round(2).tolist()))
            for kind, series in latency_ms.items()
        },
        "overhead_ms": {p: float(diagnostics[f"node overhead {p} [ms]"]) for p in ("p50", "p99")},
        "encode_ms": {p: float(diagnostics[f"encode {p} [ms]"]) for p in ("p50", "p99")},
        "images_encoded": int(diagnostics["images encoded"]),
        "memory_mb": by_tenths(memory),
        "memory_after_a_minute": f"{100 * (memory[-1] / memory[min(60, len(memory) - 1)] - 1):+.2f} %",
    }


def loaded(
    settings: dict,
    seconds: float,
    rate_hz: float,
    points: int,
    size: tuple[int, int] = (480, 640),
    when_ready: Callable[[], object] = lambda: None,
) -> dict:
    """`soak` without late queries of a fresh node with these parameters, and the share of points "with_depth".
    `when_ready` is called between the start and the load."""
    client, rgb = Client(), random_frame(42, size).rgb
    with running_node(TOPICS, {"diagnostics_period_s": 0.5, **settings}) as process:
        client.connect(process)
        client.show(rgb, CAMERA.scaled(size[1] / 640))
        client.idle(1.0)
        when_ready()
        result = soak(client, process.pid, rgb, seconds, rate_hz, points, late_hz=0.0)
    client.destroy_node()
    asked = result["queries"] * points
    return result | {"with_depth": result["points_by_status"].get("0", 0) / asked}


def sweep(settings: dict, seconds: float) -> list[dict]:
    """`loaded` for each row of `SWEEP`."""
    rows = []
    for size, points, rate_hz, input_size in SWEEP:
        own = {"input_size": list(input_size)} if input_size else {}
        result = loaded(settings | own, seconds, rate_hz, points, size)
        row = {
            "image": f"{size[1]}x{size[0]}",
            "network": "own" if input_size is None else f"{input_size[1]}x{input_size[0]}",
            "points": points,
            "rate_hz": rate_hz,
        }
        rows.append(row | {name: result[name] for name in ("with_depth", "latency_ms", "overhead_ms", "encode_ms")})
    return rows


def fuzz(client: Client, process, rgb: np.ndarray, count: int) -> dict:
    """`count` malformed messages on each input; the counts by reason, and whether the node still answers."""
    from nav_msgs.msg import Path as PathMessage

    paths = client.create_publisher(PathMessage, "/spd/waypoints", 10)
    small, rng, memory, asked = np.ascontiguousarray(rgb[::8, ::8]), np.random.default_rng(1), [], 0
    client.answers.clear()
    for i in range(count):
        header = client.header()
        k = rng.choice([0.0, -1.0, np.nan, np.inf, 500.0], 9)
        client.infos.publish(
            CameraInfo(
                header=header,
                width=int(rng.integers(0, 3000)),
                height=80,
                k=k,
                d=rng.normal(size=int(rng.integers(0, 9))).tolist(),
                distortion_model="plumb_bob",
            )
        )
        client.images.publish(mutated(rng, rgb_to_image(small, header)))
        client.queries.publish(mutated(rng, query_cloud(rng.uniform(0, 60, (8, 2)), header)))
        paths.publish(
            path(
                rng.choice([np.nan, np.inf, -1.0, 1e300, 0.0, 2.0], (4, 3)),
                str(rng.choice(["", "map", "camera_optical_frame"])),
                header.stamp,
            )
        )
        asked += 1
        client.idle(0.004)
        if i % 100 == 0:
            memory.append(resident_mb(process.pid))
            client.spin(lambda due=asked - 20: len(client.answers) >= due, 60)
    client.spin(lambda: len(client.answers) >= asked, 60)
    client.idle(1.5)
    counts = {v.key: int(v.value) for v in client.diagnostics.values if v.value.isdigit()}
    return {
        "sent": count,
        "answered": len(client.answers),
        "alive": process.poll() is None,
        "counts": counts,
        "memory_mb": by_tenths(memory),
    }


def main() -> None:
    """Start a node, load it, print a table and write bench/node.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=30.0)
    parser.add_argument("--points", type=int, default=128)
    parser.add_argument("--weights", default="embedded")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int, default=0, help="of the node; 0: one for each core")
    parser.add_argument("--fuzz", type=int, default=0, help="send so many malformed messages instead")
    parser.add_argument("--sweep", action="store_true", help="measure the rows of SWEEP instead")
    given = parser.parse_args()
    isolate()
    rclpy.init()
    settings = {"weights": given.weights, "precision": given.precision, "threads": given.threads}
    title = f"node, {', '.join(f'{name} {value}' for name, value in settings.items())}, {machine()}"
    if given.sweep:
        rows = sweep(settings, min(given.seconds, 10.0))
        table = Table(*rows[0], title=title)
        for row in rows:
            table.add_row(*(f"{value:.0%}" if name == "with_depth" else str(value) for name, value in row.items()))
        Console(width=170).print(table)
        write("node_sweep", {"title": table.title, "rows": rows}, draw(rows, str(table.title)))
        return
    client = Client()
    rgb = random_frame(42, (480, 640)).rgb
    with running_node(TOPICS, settings | {"diagnostics_period_s": 0.5}) as process:
        client.connect(process)
        client.show(rgb)
        client.idle(1.0)
        result = (
            fuzz(client, process, rgb, given.fuzz)
            if given.fuzz
            else soak(client, process.pid, rgb, given.seconds, given.rate, given.points)
        )
    table = Table("", "", title=title)
    for name, value in {**result, "exit code": process.returncode}.items():
        table.add_row(name, str(value))
    Console().print(table)
    write("node", result)


def draw(rows: list[dict], title: str):
    figure, axis = plt.subplots(figsize=(9, 4))
    names = [
        f"{row['image']}, {row['points']} points, {row['rate_hz']:.0f} Hz, network {row['network']}" for row in rows
    ]
    for offset, percentile in ((-0.2, "p50"), (0.2, "p99")):
        axis.barh(np.arange(len(rows)) + offset, [row["latency_ms"][percentile] for row in rows], 0.4, label=percentile)
    axis.set_yticks(range(len(rows)), names, fontsize=8)
    axis.set_xlabel("image and query published to answer received, ms")
    axis.legend()
    axis.set_title(title, fontsize=8)
    return figure


if __name__ == "__main__":
    main()
