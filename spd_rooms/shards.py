"""Synthetic rooms drawn once, to be read many times by `spd_core.data.shards`."""

from __future__ import annotations

import signal
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context, resource_tracker
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from spd_core.data.shards import SHARD
from spd_core.files import make_folder, replaced

from .synthetic import FOCAL_RATIO, random_frame


def _draw_shard(first_seed: int, folder: Path, **options) -> None:
    torch.set_num_threads(1)
    frames = [random_frame(seed, **options) for seed in range(first_seed, first_seed + SHARD)]
    with replaced(folder / f"rooms_{first_seed:08d}.npz") as partial_file, partial_file.open("wb") as file:
        np.savez(
            file,
            rgb=np.stack([frame.rgb for frame in frames]),
            depth_mm=np.stack([np.round(frame.depth_m * 1000).astype(np.uint16) for frame in frames]),
            camera=np.array([[c.fx, c.fy, c.cx, c.cy] for c in (frame.camera for frame in frames)]),
        )


def draw_rooms(
    folder: str | Path,
    count: int = 8000,
    first_seed: int = 1_000_000,
    size: tuple[int, int] = (192, 256),
    focal_ratio: tuple[float, float] = FOCAL_RATIO,
    rooms: int | None = None,
    workers: int = 2,
) -> None:
    """Draw `count` frames into `folder`, in several processes. Interrupted, it goes on with the shards that are
    missing.

    Args:
        folder: where the shards go.
        count: number of frames, rounded up to whole shards of 250.
        first_seed: seed of the first frame; training, validation and test frames differ in their seeds.
        size: (height, width) px.
        focal_ratio: smallest and largest focal length, in image widths.
        rooms: number of different rooms that all frames show, whatever their seeds; without it each frame has a room of
            its own.
        workers: processes.
    """
    folder = make_folder(folder)
    missing = [
        seed for seed in range(first_seed, first_seed + count, SHARD) if not (folder / f"rooms_{seed:08d}.npz").exists()
    ]
    # Not forked: a copy of a process that has used torch waits for ever for threads that it does not have.
    pool = ProcessPoolExecutor(workers, get_context("spawn"))
    draw_shard = partial(_draw_shard, folder=folder, size=tuple(size), focal_ratio=tuple(focal_ratio), rooms=rooms)
    # Ctrl-C is this process's: the workers, which start here, inherit that they do not hear it, from their first
    # instruction on. One that comes meanwhile waits.
    resource_tracker.ensure_running()  # it would start with the first worker, and unblock the signal
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        drawn = pool.map(draw_shard, missing)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)
    try:
        for _ in track(drawn, "drawing rooms", total=len(missing)):
            pass
    finally:  # interrupted, it does not wait for the shards that no process has begun
        pool.shutdown(cancel_futures=True)
