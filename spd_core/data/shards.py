"""Synthetic rooms on disk, drawn by `spd_rooms`: a folder of shards `rooms_<first seed>.npz`, whole or absent."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .. import files
from ..camera import Camera, CameraError
from .samples import DataError, Dataset, Sample, attempt

SHARD = 250  # frames
PATTERN = "rooms_????????.npz"
LAYOUT = "  synthetic rooms                  rooms_<seed>.npz, drawn by: spd data rooms FOLDER"


class RoomShards(Dataset):
    """The rooms of a folder, in order of seed. Those of a shard that cannot be read say so when they are asked for."""

    layout = "synthetic rooms"

    def __init__(self, folder: str | Path):
        found = files.listed(files.expanded(folder), PATTERN)
        if not found:
            raise DataError(f"no rooms_*.npz in {folder}; draw some with: spd data rooms {folder}")
        super().__init__([f"{file.stem}[{i}]" for file in found for i in range(SHARD)])
        self._shards = [attempt(_read, file) for file in found]
        if all(isinstance(shard, DataError) for shard in self._shards):
            raise next(shard for shard in self._shards if isinstance(shard, DataError))

    def __getitem__(self, index: int) -> Sample:
        number, i = divmod(index, SHARD)
        shard = self._shards[number]
        if isinstance(shard, DataError):
            raise shard
        rgb, depth_mm, cameras = shard
        try:
            camera = Camera(*cameras[i])
        except CameraError as error:
            raise DataError(f"{self.name(index)}: {error}") from error
        return Sample(self.name(index), rgb[i], depth_mm[i].astype(np.float32) / 1000, camera)


def _read(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """rgb uint8 [SHARD, H, W, 3], depth uint16 [SHARD, H, W] mm and cameras [SHARD, 4] of a shard.

    Raises:
        DataError: it is damaged, or something else.
    """
    redraw = f"delete it and draw it again with: spd data rooms {file.parent}"
    with files.read_as(f"a shard of rooms: {redraw}", file, b"PK", DataError), np.load(file) as shard:
        rgb, depth_mm, cameras = (shard[name] for name in ("rgb", "depth_mm", "camera"))
    if (
        (rgb.dtype, depth_mm.dtype) != (np.uint8, np.uint16)
        or (rgb.ndim, rgb.shape[-1], cameras.shape) != (4, 3, (SHARD, 4))
        or (len(rgb), depth_mm.shape) != (SHARD, rgb.shape[:3])
    ):
        raise DataError(
            f"{file} holds rgb {rgb.dtype} {list(rgb.shape)}, depth_mm {depth_mm.dtype} {list(depth_mm.shape)} and"
            f" camera {list(cameras.shape)}; expected {SHARD} frames of one size: {redraw}"
        )
    return rgb, depth_mm, cameras


def open_rooms(path: Path, split: str) -> RoomShards | None:
    """The rooms of a folder, or None where it has none; a folder is one split."""
    return RoomShards(path) if files.listed(path, PATTERN) else None
