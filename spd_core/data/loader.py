"""Batches for training and parallel reading for checks. Sample number n of a run is the same whatever the workers,
processes or interruptions; but for the size of its crop, where that varies: the samples of a batch share it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from rich.progress import track
from torch.utils.data import DataLoader

from .augment import Augmentation
from .samples import DataError, Dataset, Sample, attempt

MAX_BROKEN_IN_A_ROW = 20
PATIENCE_S = 600.0  # for a batch: one that does not fit into shared memory is lost, and would be waited for for ever
BLOCK = 1000  # positions for each data set of a mixture, in which each has its share of samples, to one


@dataclass
class AugmentedSamples:
    """Sample n of a run: a data set drawn by its share, each walked one shuffle after the other, each sample augmented
    by its own random generator.

    A broken sample is replaced by the one after it in the shuffle (those of a damaged file stand together in the data
    set) and named in "broken".
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
        self._block = -1, np.empty(0, int)  # number of a block, and the data sets of its positions

    def __len__(self) -> int:
        """Samples until each data set was seen once on average."""
        return sum(len(dataset) for dataset, _ in self.datasets)

    def _place(self, position: int) -> tuple[int, int]:
        """The data set of a position, and how many samples of that set come before it."""
        if len(self.datasets) == 1:
            return 0, position
        block, i = divmod(position, BLOCK * len(self.datasets))
        before = self._drawn(block)
        if self._block[0] != block:
            of_sets = np.repeat(np.arange(len(before)), self._drawn(block + 1) - before)
            self._block = block, np.random.default_rng([self.seed, 3, block]).permutation(of_sets)
        order = self._block[1]
        return int(order[i]), int(before[order[i]] + np.count_nonzero(order[:i] == order[i]))

    def _drawn(self, blocks: int) -> np.ndarray:
        """How many samples of each data set the first blocks have: its share, rounded; the data set of the largest
        share takes what is left, so that they are all."""
        positions = blocks * BLOCK * len(self.shares)
        counts = np.rint(np.array(self.shares) * positions).astype(int)
        counts[np.argmax(self.shares)] += positions - counts.sum()
        return counts

    def _order(self, chosen: int, epoch: int) -> np.ndarray:
        """The shuffle of a data set in one of its epochs."""
        if self._orders.get(chosen, (None,))[0] != epoch:
            of_set = [chosen] if chosen else []  # the first one's shuffles are those of a run without others
            generator = np.random.default_rng([self.seed, epoch, *of_set])
            self._orders[chosen] = epoch, generator.permutation(len(self.datasets[chosen][0]))
        return self._orders[chosen][1]

    def __getitem__(self, position: int) -> dict:
        return self._sample(position, self.augment)

    def _sample(self, position: int, augment: Augmentation) -> dict:
        chosen, number = self._place(position)
        dataset, _ = self.datasets[chosen]
        epoch, start = divmod(number, len(dataset))
        order = self._order(chosen, epoch)
        broken: list[str] = []
        for offset in range(min(len(dataset), MAX_BROKEN_IN_A_ROW)):
            rng = np.random.default_rng([self.seed, 1, position])
            try:
                opened = dataset[int(order[(start + offset) % len(order)])]
                sample = augment(opened, rng, self.training_focal_px if self.to_focal else None)
            except DataError as error:
                broken.append(str(error))
                continue
            # The depth that a camera of the training focal length would have to see for this picture
            # (`camera.focal_correction`).
            target_m = sample.depth_m * np.float32(self.training_focal_px / sample.camera.focal_px)
            return {"rgb": sample.rgb, "depth_m": target_m[None], "name": sample.name, "broken": broken}
        raise DataError(f"{len(broken)} samples in a row are broken, the first: {broken[0]}")

    def batch(self, positions: list[int]) -> dict:
        """The samples of some positions as tensors, with their names and those of the broken ones."""
        augment = self.augment.of_batch(np.random.default_rng([self.seed, 4, positions[0]]))
        samples = [self._sample(position, augment) for position in positions]
        tensors = {key: torch.from_numpy(np.stack([s[key] for s in samples])) for key in ("rgb", "depth_m")}
        broken = [name for s in samples for name in s["broken"]]
        return {**tensors, "names": [s["name"] for s in samples], "broken": broken}


def training_batches(
    samples: AugmentedSamples,
    first: int,
    last: int,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    pin: bool = False,
) -> Iterator[dict]:
    """Micro-batches `first` ... `last` of this process: rgb uint8 [B, H, W, 3], depth_m [B, 1, H, W] at the training
    focal length, names, broken. Micro-batch m of the run is `batch_size` positions for each of `world` processes.

    Raises:
        DataError: too many samples in a row are broken.
        RuntimeError: torch's, that begins with "DataLoader": a worker was killed, or gives nothing for PATIENCE_S.
    """
    starts = ((micro * world + rank) * batch_size for micro in range(first, last))
    numbers: Any = range(last * world * batch_size)  # a data set for torch, as in `read_all`
    for batch in DataLoader(
        numbers,
        batch_sampler=(list(range(start, start + batch_size)) for start in starts),
        num_workers=workers,
        collate_fn=partial(attempt, samples.batch),  # an error that a worker raises comes with its traceback
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
        timeout=PATIENCE_S if workers else 0,
        worker_init_fn=_on_one_thread,
    ):
        if isinstance(batch, DataError):
            raise batch
        yield batch


def _on_one_thread(worker: int) -> None:
    """A process that reads: OpenCV's threads, one for each core, are for one process."""
    cv2.setNumThreads(0)  # none beside this one; 1 would wait for threads that a fork does not have


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
    yield from DataLoader(numbers, batch_size=None, num_workers=workers, collate_fn=read, worker_init_fn=_on_one_thread)
