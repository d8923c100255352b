"""Synthetic rooms on disk: drawn once, read many times. A folder of shards `rooms_<first seed>.npz`, each complete or absent."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from ..camera import Camera
from .synthetic import random_frame

SHARD = 250  # frames


def _draw_shard(first_seed: int, folder: Path, size: tuple[int, int]) -> None:
    torch.set_num_threads(1)
    frames = [random_frame(seed, size) for seed in range(first_seed, first_seed + SHARD)]
    partial_file = folder / f"rooms_{first_seed:08d}.partial.npz"
    np.savez(
        partial_file,
        rgb=np.stack([frame.rgb for frame in frames]),
        depth_mm=np.stack([np.round(frame.depth_m * 1000).astype(np.uint16) for frame in frames]),
        camera=np.array([[c.fx, c.fy, c.cx, c.cy] for c in (frame.camera for frame in frames)]),
    )
    partial_file.rename(folder / f"rooms_{first_seed:08d}.npz")


def draw_rooms(folder: str | Path, count: int = 8000, first_seed: int = 1_000_000, size: tuple[int, int] = (192, 256), workers: int = 2) -> None:
    """Draw `count` rooms into `folder`, in several processes. Interrupted, it goes on with the shards that are missing.

    Args:
        folder: where the shards go.
        count: number of rooms, rounded up to whole shards of 250.
        first_seed: seed of the first room; training, validation and test rooms differ in their seeds.
        size: (height, width) px.
        workers: processes.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    missing = [seed for seed in range(first_seed, first_seed + count, SHARD) if not (folder / f"rooms_{seed:08d}.npz").exists()]
    with ProcessPoolExecutor(workers) as pool:
        for _ in track(pool.map(partial(_draw_shard, folder=folder, size=tuple(size)), missing), f"rooms -> {folder}", total=len(missing)):
            pass


class RoomShards(torch.utils.data.Dataset):
    """The rooms of a folder as (rgb uint8 [H, W, 3], depth_m float32 [H, W], Camera), in order of seed."""

    def __init__(self, folder: str | Path):
        self.files = sorted(Path(folder).glob("rooms_????????.npz"))
        if not self.files:
            raise FileNotFoundError(f"no rooms_*.npz in {folder}; draw some with: spd data rooms {folder}")
        shards = [np.load(file) for file in self.files]
        self.rgb, self.depth_mm, self.cameras = ([shard[name] for shard in shards] for name in ("rgb", "depth_mm", "camera"))

    def __len__(self) -> int:
        return len(self.files) * SHARD

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, Camera]:
        shard, i = divmod(index, SHARD)
        return self.rgb[shard][i], self.depth_mm[shard][i].astype(np.float32) / 1000, Camera(*self.cameras[shard][i])
