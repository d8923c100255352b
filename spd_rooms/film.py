"""A camera that moves through one synthetic room: the demo's sequence."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch

from spd_core.camera import Camera
from spd_core.data.samples import Sample

from .casting import Pose
from .rooms import random_room
from .synthetic import draw, random_pose

SEED = 4_000_025
SIZE = (480, 640)
CAMERA = Camera(525.0, 525.0, 319.5, 239.5)


def film(frames: int) -> Iterator[Sample]:
    """`frames` images of the room with their depth."""
    room = random_room(SEED)
    start = random_pose(room, np.random.default_rng(SEED), CAMERA, SIZE)
    steps = np.linspace(-0.5, 0.5, frames)
    drift = np.array([np.cos(start.yaw), 0.0, -np.sin(start.yaw)]) * 0.5
    poses = [Pose(start.position + drift * step, start.yaw + 0.35 * step, start.pitch, start.roll) for step in steps]
    threads = torch.get_num_threads()  # what one thread sets, later ones of the process begin with
    try:
        # Threads: processes would hear a Ctrl-C too, each for itself.
        with ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for i, drawn in enumerate(pool.map(partial(draw, room, CAMERA, size=SIZE, seed=SEED), poses)):
                yield Sample(f"room {i}", drawn.rgb, drawn.depth_m, CAMERA)
    finally:
        torch.set_num_threads(threads)
