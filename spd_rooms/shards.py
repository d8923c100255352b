"""Synthetic rooms drawn once, to be read many times by `spd_core.data.shards`."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context, resource_tracker
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from spd_core.data.samples import DataError
from spd_core.data.shards import PATTERN, SHARD
from spd_core.errors import MOST_WORKERS, at_least
from spd_core.files import listed, make_folder, read_as, read_text, replaced, write_json
from spd_core.process import uninterrupted

from .synthetic import FOCAL_RATIO, check_size, random_frame

_stop: Event  # set: what a process of `draw_rooms` draws is not wanted any more


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """A Ctrl-C within is heard at the end; processes that start within never hear it, from their first instruction
    on. Blocked is not enough: a thread that blocks nothing takes it, and it is raised in the main one."""
    resource_tracker.ensure_running()  # it would start with the first process, and unblock the signal
    with uninterrupted():
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _begin(stop: Event) -> None:
    """Of a process that draws: what all its shards share."""
    global _stop
    _stop = stop
    torch.set_num_threads(1)


def _draw_shard(first_seed: int, folder: Path, **options) -> None:
    frames = []
    for seed in range(first_seed, first_seed + SHARD):
        if _stop.is_set():
            return
        frames.append(random_frame(seed, **options))
    with replaced(folder / f"rooms_{first_seed:08d}.npz") as partial_file, partial_file.open("wb") as file:
        np.savez(
            file,
            rgb=np.stack([frame.rgb for frame in frames]),
            depth_mm=np.stack([np.round(frame.depth_m * 1000).astype(np.uint16) for frame in frames]),
            camera=np.array([[c.fx, c.fy, c.cx, c.cy] for c in (frame.camera for frame in frames)]),
        )


def _keep_settings(folder: Path, wanted: dict) -> None:
    """Write the settings of a folder without shards; raise DataError where its shards were drawn with others. Of those
    of before rooms.json was written, only the size is known."""
    file, shards = folder / "rooms.json", listed(folder, PATTERN)
    if not shards:
        if others := sorted(path.name for path in folder.iterdir() if path != file):  # rooms would hide them
            raise DataError(f"{folder} holds other files ({', '.join(others[:3])}); draw into a folder of its own")
        write_json(file, wanted)
        return
    if file.exists():
        with read_as("the settings of the rooms beside it", file, b"{", DataError):
            found = json.loads(read_text(file))
    else:
        with read_as("a shard of rooms", shards[0], b"PK", DataError), np.load(shards[0]) as shard:
            found = {"size": list(shard["rgb"].shape[1:3])}
    differ = [name for name in wanted.keys() & found.keys() if found[name] != wanted[name]]
    if differ:
        raise DataError(
            f"{folder} has rooms of other settings: "
            + ", ".join(f"{name} {found[name]}, wanted {wanted[name]}" for name in sorted(differ))
            + "; draw into another folder"
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
    """Draw frames of rooms into a folder, in several processes.

    Interrupted, or asked for more, it goes on with the shards that are missing; a folder holds frames of one kind,
    which its rooms.json says.

    Args:
        folder: where the shards go.
        count: number of frames, rounded up to whole shards of 250.
        first_seed: seed of the first frame; training, validation and test frames differ in their seeds.
        size: (height, width) px.
        focal_ratio: smallest and largest focal length, in image widths.
        rooms: number of different rooms that all frames show, whatever their seeds; without it each frame has a room of
            its own.
        workers: processes.

    Raises:
        SPDError: a setting cannot be, or the folder has frames that were drawn with others.
    """
    at_least(1, count=count, rooms=1 if rooms is None else rooms)
    at_least(1, MOST_WORKERS, workers=workers)
    at_least(0, first_seed=first_seed)
    check_size(size)
    folder = make_folder(folder)
    options: dict[str, Any] = {"size": list(size), "focal_ratio": list(focal_ratio), "rooms": rooms}
    _keep_settings(folder, {"first_seed": first_seed, **options})
    missing = [
        seed for seed in range(first_seed, first_seed + count, SHARD) if not (folder / f"rooms_{seed:08d}.npz").exists()
    ]
    # Not forked: a copy of a process that has used torch waits for ever for threads that it does not have.
    context = get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(stop,))
    draw_shard = partial(_draw_shard, folder=folder, **options)
    try:
        with _interrupts_wait():
            drawn = pool.map(draw_shard, missing)
        for _ in track(drawn, "drawing rooms", total=len(missing)):
            pass
    finally:  # interrupted, it waits for the frames that are being drawn, and their shards are left out
        stop.set()
        pool.shutdown(cancel_futures=True)
