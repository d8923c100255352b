"""NYU Depth V2 (Silberman et al. 2012) in the three layouts that people have on disk. Images 480x640, depth in metres,
0 where unknown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import files
from ..camera import Camera
from ..extras import extra
from ..plausibility import check_camera
from .images import read_colour_and_depth
from .samples import DataError, Dataset, Sample, checked

if TYPE_CHECKING:
    import h5py

# Colour camera of the NYU toolbox (camera_params.m).
CAMERA = Camera(518.857901, 519.469611, 325.582449, 253.736166)
SIZE = (480, 640)

LAYOUTS = """\
  FastDepth / sparse-to-dense h5   train/<scene>/*.h5 and val/official/*.h5 with rgb uint8 [3, 480, 640] and
                                   depth float32 [480, 640] m (47,584 / 654 files; "nyudepthv2.tar.gz" of the
                                   sparse-to-dense and FastDepth projects)
  BTS folders                      nyudepthv2_{train,test}_files_with_gt.txt (also in train_test_inputs/), lines
                                   "<rgb> <depth> <focal>", under sync/ and official_splits/test/ (24,231 / 654 images;
                                   file lists and "sync.zip" of the BTS project)
  labelled .mat                    nyu_depth_v2_labeled.mat (v7.3) and splits.mat beside it (795 / 654 images; the NYU
                                   Depth V2 page)"""


# First bytes; MATLAB writes 512 bytes of its own before the HDF5.
MATLAB5, MATLAB73 = b"MATLAB 5.0", b"MATLAB 7.3"
HDF5 = b"\x89HDF\r\n"
MAT_CONTENT = "a MATLAB v7.3 file with 'images' and 'rawDepths'"


def _h5_reader() -> type[h5py.File]:
    with extra("train"):
        import h5py
    return h5py.File


class _Published(Dataset):
    """What all three layouts share: the split and the crop of published evaluations (Eigen et al. 2014)."""

    splits = ("train", "test")
    evaluation_crop = "eigen"

    def _sample(self, name: str, rgb: np.ndarray, depth_m: np.ndarray, camera: Camera) -> Sample:
        """One of NYU's shape, as its camera is of: others (KITTI) are published in the same layouts. Where it was made
        smaller, so is the camera's picture."""
        sample = checked(name, rgb, depth_m, camera)
        height, width = rgb.shape[:2]
        if abs(width / height * SIZE[0] / SIZE[1] - 1) > 0.02:
            raise DataError(
                f"{name} is {width}x{height} px; expected NYU's {SIZE[1]}x{SIZE[0]}, whose camera is assumed. Other"
                " pictures go into an RGB-D folder, with a camera.txt"
            )
        return replace(sample, camera=camera.scaled(width / SIZE[1], height / SIZE[0]))


class H5Files(_Published):
    """FastDepth / sparse-to-dense: one h5 file per frame."""

    layout = "NYU h5 (FastDepth, sparse-to-dense)"

    def __init__(self, root: Path, found: list[Path]):
        super().__init__([str(file.relative_to(root)) for file in found])
        self.files = found

    def __getitem__(self, index: int) -> Sample:
        file, h5 = self.files[index], _h5_reader()
        with files.read_as("an h5 file with 'rgb' and 'depth'", file, HDF5, DataError), h5(file, "r") as content:
            rgb, depth_m = np.asarray(content["rgb"]), np.asarray(content["depth"])
        if rgb.ndim != 3 or rgb.shape[0] != 3:
            raise DataError(f"{file}: rgb is {list(rgb.shape)}, expected [3, H, W]")
        return self._sample(str(file), np.ascontiguousarray(rgb.transpose(1, 2, 0)), depth_m, CAMERA)


def open_h5(path: Path, split: str) -> H5Files | None:
    """The h5 layout, or None where `path` has neither train/ nor val/ with h5 files in folders."""
    patterns = {"train": "train/*/*.h5", "test": "val/official/*.h5"}
    if found := files.listed(path, patterns[split]):
        return H5Files(path, found)
    if not any(next(path.glob(pattern), None) for pattern in patterns.values()):  # one will do: they are 47,584
        return None
    raise DataError(f"{path} is {H5Files.layout}, but has no {patterns[split]} for the split {split!r}")


class BTSList(_Published):
    """BTS: a list of `<rgb> <depth> <focal>` lines, the focal length of NYU's 640x480; colour JPEG or PNG, 16-bit PNG
    millimetres."""

    layout = "NYU file lists (BTS)"

    def __init__(self, base: Path, list_file: Path):
        self.base, self.list_file = base, list_file
        self.lines = [line.split() for line in files.read_text(list_file, DataError).splitlines() if line.strip()]
        if not self.lines:
            raise DataError(f"{list_file} is empty")
        for number, fields in enumerate(self.lines, start=1):
            if len(fields) != 3 or not _is_number(fields[2]):
                raise DataError(f"{list_file}, line {number}: {' '.join(fields)!r}; expected '<rgb> <depth> <focal>'")
        super().__init__([fields[0] for fields in self.lines])

    def __getitem__(self, index: int) -> Sample:
        rgb_name, depth_name, focal = self.lines[index]
        rgb_file, depth_file = (files.beside(self.base, name) for name in (rgb_name, depth_name))
        try:
            rgb, depth_m = read_colour_and_depth(rgb_file, depth_file)
        except DataError as error:
            raise DataError(f"{error} ({self.list_file.name}, line {index + 1})") from error
        camera = Camera(float(focal), float(focal) * CAMERA.fy / CAMERA.fx, CAMERA.cx, CAMERA.cy)
        check_camera(camera, SIZE, f"{self.list_file.name}, line {index + 1}", DataError)
        return self._sample(str(rgb_file), rgb, depth_m, camera)


def _is_number(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False


def open_bts(path: Path, split: str) -> BTSList | None:
    """The BTS layout, or None where `path` has no file list."""
    lists = {}
    for name in ("train", "test"):
        places = (path / folder / f"nyudepthv2_{name}_files_with_gt.txt" for folder in ("", "train_test_inputs"))
        lists[name] = next((file for file in places if file.exists()), None)
    if not any(lists.values()):
        return None
    list_file = lists[split]
    if list_file is None:
        raise DataError(f"{path} is {BTSList.layout}, but has no nyudepthv2_{split}_files_with_gt.txt")
    first = files.read_text(list_file, DataError).split(maxsplit=1)
    folders = {
        "train": ("sync", "nyu_depth_v2/sync", "."),
        "test": ("official_splits/test", "nyu_depth_v2/official_splits/test", "test", "."),
    }[split]
    bases = (path / folder for folder in folders)
    base = next((base for base in bases if base.is_dir() and first and files.beside(base, first[0]).exists()), None)
    return BTSList(base or path / folders[0], list_file)


class LabeledMat(_Published):
    """The labelled subset: one MATLAB v7.3 file, its axes reversed. Depth is `rawDepths` (unfilled), as published
    evaluations use it."""

    layout = "NYU labelled .mat"

    def __init__(self, file: Path, indices: np.ndarray):
        super().__init__([f"{file.name}[{index + 1}]" for index in indices])  # MATLAB counts from 1
        self.file, self.indices = file, indices

    def __getitem__(self, index: int) -> Sample:
        at = self.indices[index]  # opened for each image, 0.3 ms: an HDF5 handle must not reach other processes
        with files.read_as(MAT_CONTENT, self.file, MATLAB73, DataError), _h5_reader()(self.file, "r") as content:
            depths = content["rawDepths" if "rawDepths" in content else "depths"]
            rgb, depth_m = content["images"][at].transpose(2, 1, 0), depths[at].T
        return self._sample(f"{self.file}[{at + 1}]", np.ascontiguousarray(rgb), depth_m, CAMERA)


def open_labeled(path: Path, split: str) -> LabeledMat | None:
    """The labelled subset, `path` the .mat file or its folder; None where there is no such file."""
    file = path if path.suffix == ".mat" else path / "nyu_depth_v2_labeled.mat"
    if not file.exists():
        return None
    splits = file.parent / "splits.mat"
    if not splits.exists():
        raise DataError(f"{file} needs splits.mat beside it (the NYU Depth V2 page has it under 'train/test split')")
    h5 = _h5_reader()
    with extra("train"):
        from scipy.io import loadmat
    key = {"train": "trainNdxs", "test": "testNdxs"}[split]
    with files.read_as(f"a MATLAB file with {key!r}", splits, MATLAB5, DataError):
        indices = loadmat(splits)[key].ravel().astype(int) - 1
    with files.read_as(MAT_CONTENT, file, MATLAB73, DataError), h5(file, "r") as content:
        count = len(content["images"])
    outside = indices[(indices < 0) | (indices >= count)]
    if len(outside):
        raise DataError(f"{splits} names image {outside[0] + 1}, but {file} has {count}, counted from 1")
    return LabeledMat(file, indices)
