"""The demo: a bag made on the spot, played over ROS 2 to a node in its own process, and its answers held against the
truth."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from spd_core.camera import Camera
from spd_core.data.bag import IMAGE_TOPIC, INFO_TOPIC, BagFrame, find_topics, write_bag
from spd_core.data.rgbd import RGBDFolder
from spd_core.recording import Sampling, frames_to_ask, report, show, write
from spd_rooms.rooms import random_room
from spd_rooms.synthetic import Pose, draw, random_pose

from .player import isolate, replay_live, start_node, stop_node

FRAMES, QUERIES_PER_FRAME, POINTS_PER_QUERY = 20, 4, 32
PERIOD_S = 0.2
ROOM_SEED = 4_000_025
SIZE = (480, 640)
CAMERA = Camera(525.0, 525.0, 319.5, 239.5)


def run_demo(image_dir: Path | None, camera: list[float] | None, out: Path) -> int:
    """Run the demo and print its table; returns the process's exit code (1 if a query stayed without its one
    answer)."""
    isolate()
    bag = out / "bag"
    write_bag(bag, _film_room() if image_dir is None else _photographs(image_dir, camera))
    frames = frames_to_ask(bag, find_topics(bag), Sampling(recorded=True))
    node = start_node({"image": IMAGE_TOPIC, "camera_info": INFO_TOPIC})
    try:
        played = replay_live(frames, node=node)
    finally:
        exit_code = stop_node(node)
    result = report(played, {"mode": "live", "bag": str(bag)})
    show(result, console := Console())
    write(result, out)
    console.print(f"wrote {out}/overlay.png, depths.csv, frames.csv, result.json and report.png")
    return exit_code or (0 if result.summary["answered"] == result.summary["queries"] else 1)


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
