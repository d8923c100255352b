"""Data sets of samples at hand, and comparing data sets."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from spd_core.data.samples import ONE_SPLIT, DataError, Dataset, Sample
from spd_rooms.synthetic import Frame, random_frame


@dataclass
class Samples:
    """A data set from a list of samples, and of what reading one raises."""

    samples: list[Sample | DataError]
    layout: str = "list"
    splits: tuple[str, ...] = ONE_SPLIT
    evaluation_crop: str = "none"

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        if isinstance(sample := self.samples[index], DataError):
            raise sample
        return sample

    def name(self, index):
        return getattr(self.samples[index], "name", f"broken {index}")


def drawn(frames: Iterable[Frame]) -> Samples:
    return Samples([Sample(f"room {i}", f.rgb, f.depth_m, f.camera) for i, f in enumerate(frames)])


def rooms(count: int, size: tuple[int, int], first_seed: int = 4_000_000) -> Samples:
    return drawn(random_frame(first_seed + i, size) for i in range(count))


def write_rgbd(folder: Path, name: str, rgb: np.ndarray, depth_m: np.ndarray | float, camera: str = "") -> None:
    """A pair of an RGB-D folder, depth in whole millimetres; and the folder's camera.txt."""
    folder.mkdir(exist_ok=True)
    depth_mm = np.broadcast_to(np.round(np.multiply(depth_m, 1000)).astype(np.uint16), rgb.shape[:2])
    cv2.imwrite(str(folder / f"{name}.png"), rgb[..., ::-1])
    cv2.imwrite(str(folder / f"{name}.depth.png"), depth_mm)
    if camera:
        (folder / "camera.txt").write_text(camera)


def same_samples(dataset: Dataset, other: Dataset) -> None:
    assert [dataset.name(i) for i in range(len(dataset))] == [other.name(i) for i in range(len(other))]
    for i in range(len(dataset)):
        np.testing.assert_array_equal(dataset[i].rgb, other[i].rgb)
        np.testing.assert_array_equal(dataset[i].depth_m, other[i].depth_m)
        assert dataset[i].camera == other[i].camera
