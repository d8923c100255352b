"""Finding the data set in a folder: one line here for each layout that SPD reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..files import expanded
from . import nyu, rgbd, shards
from .samples import DataError, Dataset

BAGS = (".mcap", ".db3", ".zstd", ".bag")


def open_dataset(path: str | Path, split: str = "train") -> Dataset:
    """The data set in a folder (or `nyu_depth_v2_labeled.mat`), found by looking at it.

    Args:
        path: see the layouts in `nyu.py`, `rgbd.py` and `shards.py`.
        split: "train" or "test" where the data come in both (`Dataset.splits`).

    Raises:
        DataError: the path does not exist, or holds no known layout, or a part of it is missing; the message lists what
            is looked for.
    """
    if split not in ("train", "test"):
        raise DataError(f"split must be 'train' or 'test', got {split!r}")
    path = expanded(path)
    if not path.exists():
        raise DataError(f"{path} does not exist")
    openers: tuple[Callable[[Path, str], Dataset | None], ...] = (
        nyu.open_h5,
        nyu.open_bts,
        nyu.open_labeled,
        shards.open_rooms,
        rgbd.open_folder,
    )
    for opener in openers:
        if (dataset := opener(path, split)) is not None:
            return dataset
    found = sorted(p.name for p in path.iterdir())[:8] if path.is_dir() else [path.name]
    if any(name.lower().endswith(BAGS) for name in found):
        raise DataError(f"{path} is a recording; expected a data set. `spd replay` compares a recording with its depth")
    raise DataError(
        f"{path} holds no data set that SPD knows; it has {found or 'nothing in it'}. Known"
        f" layouts:\n{nyu.LAYOUTS}\n{rgbd.LAYOUT}\n{shards.LAYOUT}"
    )
