"""Synthetic rooms on disk, drawn by `spd_rooms`: a folder of shards `rooms_<first seed>.npz`, whole or absent."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from ..camera import Camera
from .samples import DataError, Sample

SHARD = 250  # frames
LAYOUT = "  synthetic rooms                  rooms_<seed>.npz, drawn by: spd data rooms FOLDER"


class RoomShards:
    """The rooms of a folder, in order of seed."""

    layout = "synthetic rooms"

    def __init__(self, folder: str | Path):
        self.files = sorted(Path(folder).glob("rooms_????????.npz"))
        if not self.files:
            raise DataError(f"no rooms_*.npz in {folder}; draw some with: spd data rooms {folder}")
        try:
            shards = [np.load(file) for file in self.files]
            self.rgb, self.depth_mm, self.cameras = (
                [shard[name] for shard in shards] for name in ("rgb", "depth_mm", "camera")
            )
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise DataError(f"the rooms in {folder} cannot be read ({error}); draw them again") from error

    def __len__(self) -> int:
        return len(self.files) * SHARD

    def name(self, index: int) -> str:
        shard, i = divmod(index, SHARD)
        return f"{self.files[shard].stem}[{i}]"

    def __getitem__(self, index: int) -> Sample:
        shard, i = divmod(index, SHARD)
        return Sample(
            self.name(index),
            self.rgb[shard][i],
            self.depth_mm[shard][i].astype(np.float32) / 1000,
            Camera(*self.cameras[shard][i]),
        )


def open_rooms(path: Path, split: str) -> RoomShards | None:
    """The rooms of a folder, or None where it has none; a folder is one split."""
    return RoomShards(path) if path.is_dir() and next(path.glob("rooms_????????.npz"), None) else None
