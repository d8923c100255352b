"""What every data set yields and says about itself, and parts of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..camera import Camera
from ..errors import SPDError

# Nothing that these cameras measure is farther away; a larger median is a wrong unit.
PLAUSIBLE_MEDIAN_M = 100.0
LEAST_MEDIAN_M = 0.02  # nearer than the near end of depth cameras
ONE_SPLIT = ("all",)


def __getattr__(name: str):
    if name != "open_dataset":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .layouts import open_dataset  # it was defined here, and is imported from here by those who use the library

    return open_dataset


class DataError(SPDError):
    """A folder or file that is not what a data set needs; the message names it, what was found and what was
    expected."""


@dataclass(frozen=True)
class Sample:
    """One image: `name` says where it is from, `rgb` uint8 [H, W, 3], `depth_m` float32 [H, W] (0 where unknown) or
    None, `camera` or None."""

    name: str
    rgb: np.ndarray
    depth_m: np.ndarray | None
    camera: Camera | None

    @property
    def truth_m(self) -> np.ndarray:
        """`depth_m`, where it is needed.

        Raises:
            DataError: there is none.
        """
        if self.depth_m is None:
            raise DataError(f"{self.name} has no depth to compare with")
        return self.depth_m


@dataclass(frozen=True)
class TrainingSample(Sample):
    """One whose depth and camera are known."""

    depth_m: np.ndarray
    camera: Camera


class Dataset(ABC):
    """`[i]` opens a sample and raises DataError if it is broken, `name(i)` names one without opening it.

    Attributes:
        layout: name of the format.
        splits: those that the data come in; ONE_SPLIT where they are not divided, and open the same for any.
        evaluation_crop: "eigen" or "none": which part of an image published evaluations count.
    """

    layout: str
    splits: tuple[str, ...] = ONE_SPLIT
    evaluation_crop = "none"

    def __init__(self, names: list[str]):
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...

    def name(self, index: int) -> str:
        return self.names[index]


class Subset(Dataset):
    """The samples of `dataset` at `indices`."""

    def __init__(self, dataset: Dataset, indices: Sequence[int]):
        super().__init__([dataset.name(index) for index in indices])
        self.dataset, self.indices = dataset, indices
        self.layout, self.splits, self.evaluation_crop = dataset.layout, dataset.splits, dataset.evaluation_crop

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self.indices[index]]


class InMemory(Subset):
    """A data set read once and kept, for small ones: decoding a picture takes longer than augmenting it. A sample that
    cannot be read stays that way."""

    def __init__(self, dataset: Dataset):
        super().__init__(dataset, range(len(dataset)))
        self.samples = [attempt(dataset.__getitem__, index) for index in self.indices]

    def __getitem__(self, index: int) -> Sample:
        sample = self.samples[index]
        if isinstance(sample, DataError):
            raise sample
        return sample


def attempt(read: Callable[[Any], Any], what: Any) -> Any:
    """What reading gives, or the DataError that it raised."""
    try:
        return read(what)
    except DataError as error:
        return error


def limited(dataset: Dataset, limit: int | None) -> Dataset:
    """At most `limit` samples, evenly spread."""
    if limit is None or limit >= len(dataset):
        return dataset
    return Subset(dataset, np.linspace(0, len(dataset) - 1, limit).round().astype(int).tolist())


def unit_fault(depth_m: np.ndarray) -> str:
    """What is wrong with a depth map [H, W] m that is of no room and no street, or ""."""
    known_m = depth_m[depth_m > 0]
    median_m = np.median(known_m) if known_m.size else 0.0
    if median_m > PLAUSIBLE_MEDIAN_M:
        return f"the median depth is {median_m:.0f} m; is it in millimetres?"
    if 0 < median_m < LEAST_MEDIAN_M:
        return f"the median depth is {median_m:.2g} m; is it in metres where 16 bits hold millimetres?"
    return ""


def checked(name: str, rgb: np.ndarray, depth_m: np.ndarray, camera: Camera | None) -> Sample:
    """A sample whose arrays fit each other and whose depth is in metres; readings that are not finite or not positive
    become 0.

    Raises:
        DataError: naming the sample and what is wrong with it.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise DataError(f"{name}: the image is {rgb.dtype} {list(rgb.shape)}, expected uint8 [H, W, 3]")
    if depth_m.shape != rgb.shape[:2]:
        raise DataError(
            f"{name}: depth is {list(depth_m.shape)} and the image {list(rgb.shape[:2])}; they must have the same size"
        )
    if depth_m.dtype.kind not in "fiu":
        raise DataError(f"{name}: depth is {depth_m.dtype}, expected numbers")
    depth_m = np.where(np.isfinite(depth_m) & (depth_m > 0), depth_m, 0).astype(np.float32)
    if fault := unit_fault(depth_m):
        raise DataError(f"{name}: {fault} Depth must be metres, or 16-bit PNG millimetres")
    return Sample(name, rgb, depth_m, camera)
