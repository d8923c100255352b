"""Batches for training and parallel reading for checks. Sample number n of a run is the same whatever the workers,
processes or interruptions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch.utils.data import DataLoader

from .augment import Augmentation
from .samples import DataError, Dataset, Sample, attempt

MAX_BROKEN_IN_A_ROW = 20


@dataclass
class AugmentedSamples(torch.utils.data.Dataset):
    """Sample n of a run: a data set drawn by weight, one shuffle of it after the other, each sample augmented by its
    own random generator.

    A broken sample is replaced by the one after it in its data set and named in "broken".
    """

    datasets: list[tuple[Dataset, float]]  # one or several, with the share of each in the samples
    augment: Augmentation
    training_focal_px: float  # depth is trained as a camera of this focal length would see it
    seed: int
    to_focal: bool = False  # scale images to that focal length first, as `SPDConfig.fit` "focal" does

    def __post_init__(self) -> None:
        total = sum(weight for _, weight in self.datasets)
        self.shares = [weight / total for _, weight in self.datasets]
        self._orders: dict[int, tuple[int, np.ndarray]] = {}  # by data set: the epoch, and its shuffle

    def __len__(self) -> int:
        """Samples until each data set was seen once on average."""
        return sum(len(dataset) for dataset, _ in self.datasets)

    def _place(self, position: int) -> tuple[Dataset, int]:
        """The data set of a position, and which of its samples."""
        chosen = 0
        if len(self.datasets) > 1:
            draw = np.random.default_rng([self.seed, 3, position]).random()
            chosen = min(int(np.searchsorted(np.cumsum(self.shares), draw, side="right")), len(self.shares) - 1)
        dataset, _ = self.datasets[chosen]
        epoch, i = divmod(int(position * self.shares[chosen]), len(dataset))
        if self._orders.get(chosen, (None,))[0] != epoch:
            of_set = [chosen] if chosen else []  # the first one's shuffles are those of a run without others
            order = np.random.default_rng([self.seed, epoch, *of_set]).permutation(len(dataset))
            self._orders[chosen] = epoch, order
        return dataset, int(self._orders[chosen][1][i])

    def __getitem__(self, position: int) -> dict:
        dataset, start = self._place(position)
        broken: list[str] = []
        for offset in range(min(len(dataset), MAX_BROKEN_IN_A_ROW)):
            rng = np.random.default_rng([self.seed, 1, position])
            try:
                opened = dataset[(start + offset) % len(dataset)]
                sample = self.augment(opened, rng, self.training_focal_px if self.to_focal else None)
            except DataError as error:
                broken.append(str(error))
                continue
            # The depth that a camera of the training focal length would have to see for this picture
            # (`camera.focal_correction`).
            target_m = sample.depth_m * np.float32(self.training_focal_px / sample.camera.focal_px)
            return {"rgb": sample.rgb, "depth_m": target_m[None], "name": sample.name, "broken": broken}
        raise DataError(f"{len(broken)} samples in a row are broken, the first: {broken[0]}")


def _collate(samples: list[dict]) -> dict:
    batch = {key: torch.from_numpy(np.stack([s[key] for s in samples])) for key in ("rgb", "depth_m")}
    return {**batch, "names": [s["name"] for s in samples], "broken": [name for s in samples for name in s["broken"]]}


def training_batches(
    samples: AugmentedSamples,
    first: int,
    last: int,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    pin: bool = False,
) -> DataLoader:
    """Micro-batches `first` ... `last` of this process: rgb uint8 [B, H, W, 3], depth_m [B, 1, H, W] at the training
    focal length, names, broken. Micro-batch m of the run is `batch_size` positions for each of `world` processes."""
    starts = ((micro * world + rank) * batch_size for micro in range(first, last))
    return DataLoader(
        samples,
        batch_sampler=[list(range(start, start + batch_size)) for start in starts],
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
    )


def opened(dataset: Dataset, doing: str, workers: int = 0, progress: bool = False) -> Iterator[Sample]:
    """Every sample in order, as `read_all`, with a bar that says what is done.

    Raises:
        DataError: that of the first sample that cannot be read.
    """
    for sample in track(read_all(dataset, workers), doing, total=len(dataset), disable=not progress):
        if isinstance(sample, DataError):
            raise sample
        yield sample


def read_all(dataset: Dataset, workers: int = 0) -> Iterator[Sample | DataError]:
    """Every sample in order, or the error that opening it raised, read by `workers` processes."""
    numbers: Any = range(len(dataset))  # a data set for torch: what is collated is the sample
    read = partial(attempt, dataset.__getitem__)
    yield from DataLoader(numbers, batch_size=None, num_workers=workers, collate_fn=read)
