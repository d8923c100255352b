"""Plain folders of RGB-D images: `<name>.rgb.png|jpg` (or `<name>.color.png|jpg`, `<name>.png|jpg`) with
`<name>.depth.png` (uint16 mm; 0, or 65535 as in 7-Scenes, is no reading) beside it; or `rgb/<name>.png|jpg` (or in
`color/`, `image/`, `images/`) with `depth/<name>.png`."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from .. import files
from ..camera import Camera
from ..plausibility import check_upright
from .images import read_colour, read_colour_and_depth
from .samples import DataError, Dataset, Sample, attempt, checked

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
PICTURE_FOLDERS = ("rgb", "color", "image", "images")  # beside one called depth
LAYOUT = (
    "  RGB-D folder                     <name>.rgb.png|jpg, <name>.depth.png (16-bit, mm) and camera.txt (fx fy cx cy"
    " in px),\n                                   or rgb/<name>.png|jpg, depth/<name>.png and camera.txt"
)


def four_numbers(text: str) -> tuple[float, float, float, float]:
    """fx fy cx cy in a text, with commas or without; of a matrix K row by row (3x3, 3x4 or 4x4) those. A ValueError
    says that it is none."""
    numbers = [float(number) for number in re.sub(r"[\[\],;]", " ", text).split()]
    if len(numbers) in (9, 12, 16):
        k = np.reshape(numbers, (4 if len(numbers) == 16 else 3, -1))
        if (k[1, 0], *k[2, :3]) == (0, 0, 0, 1):
            numbers = [k[0, 0], k[1, 1], k[0, 2], k[1, 2]]
    fx, fy, cx, cy = numbers
    return fx, fy, cx, cy


def read_camera(folder: str | Path) -> Camera | None:
    """Intrinsics from the file camera.txt in the folder: four numbers fx fy cx cy in px. None if there is no such
    file."""
    file = files.expanded(folder) / "camera.txt"
    if not file.exists():
        return None
    text = files.read_text(file, DataError)
    try:
        return Camera(*four_numbers(text))
    except ValueError as error:
        raise DataError(
            f"{file} holds {text[:80]!r}; expected four numbers: fx fy cx cy in pixels, or the matrix K"
        ) from error


def pictures_in(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[Path]:
    """The pictures of a folder in order of name, without the depth beside them."""
    found = files.listed(folder, "*")
    return [file for file in found if file.suffix.lower() in suffixes and not file.stem.endswith(".depth")]


class RGBDFolder(Dataset):
    """The images of a folder in order of name, those without depth too (`depth_m` None) unless `with_depth`. With a
    camera, those of another size than the first are broken: it can be of one size only."""

    layout = "RGB-D folder"

    def __init__(self, folder: str | Path, camera: Camera | None = None, with_depth: bool = False):
        folder = files.expanded(folder)
        if not folder.is_dir():
            raise DataError(
                f"{folder} {'is no folder' if folder.exists() else 'does not exist'}; expected pictures in one"
            )
        self.files = pictures_in(_picture_folder(folder))
        if with_depth:
            self.files = _with_depth(self.files, folder)
        if not self.files:
            where = " with <name>.depth.png beside them, or depth/<name>.png of the same name," if with_depth else ""
            raise DataError(f"no images ({', '.join(IMAGE_SUFFIXES)}){where} in {folder}")
        super().__init__([_name(file) for file in self.files])
        self.camera = camera or read_camera(folder)
        self.source = "the camera given" if camera else str(folder / "camera.txt")

    def __getitem__(self, index: int) -> Sample:
        file, sample = self.files[index], self._read(index)
        if self.camera is not None:
            size = sample.rgb.shape[:2]
            if size != self._first_size:
                found, first = (f"{width}x{height} px" for height, width in (size, self._first_size))
                raise DataError(
                    f"{file} is {found} and the first picture {first}: {self.source} is of one size; put pictures of"
                    " each size in a folder with a camera.txt of its own"
                )
            check_upright(self.camera, size, f"{self.source} for {file.name}", DataError)
        return sample

    def _read(self, index: int) -> Sample:
        file, depth_file = self.files[index], _depth_file(self.files[index])
        if not depth_file.exists():
            return Sample(self.name(index), read_colour(file), None, self.camera)
        sample = checked(str(file), *read_colour_and_depth(file, depth_file), self.camera)
        return replace(sample, name=self.name(index))

    @cached_property
    def _first_size(self) -> tuple[int, ...]:
        """(height, width) px of the first picture that can be read."""
        samples = (attempt(self._read, index) for index in range(len(self)))
        return next(sample.rgb.shape[:2] for sample in samples if isinstance(sample, Sample))


def _with_depth(pictures: list[Path], folder: Path) -> list[Path]:
    """Of pictures those with depth, one for each: `<name>.rgb.*` and `<name>.color.*` before `<name>.*`. What is left
    over is said."""
    by_depth: dict[Path, Path] = {}
    for file in sorted(pictures, key=lambda file: file.stem == _name(file)):
        if (depth := _depth_file(file)).exists():
            by_depth.setdefault(depth, file)
    chosen = set(by_depth.values())
    left = [file.name for file in pictures if file not in chosen]
    depths = files.listed(folder, "*.depth.png" if _picture_folder(folder) == folder else "depth/*.png")
    left += [file.name for file in depths if file not in by_depth]
    if left and chosen:
        names = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
        said = f"{folder}: left out {len(left)} files that are no pair of picture and depth: {names}"
        warnings.warn(said, stacklevel=4)
    return [file for file in pictures if file in chosen]


def _picture_folder(folder: Path) -> Path:
    """Where the pictures of a data set lie: in its folder, or in one of it beside that of depth."""
    found = (folder / name for name in PICTURE_FOLDERS if (folder / "depth").is_dir() and (folder / name).is_dir())
    return next(found, folder)


def _depth_file(image_file: Path) -> Path:
    if image_file.parent == _picture_folder(image_file.parent.parent):
        return image_file.parent.with_name("depth") / f"{_name(image_file)}.png"
    return image_file.with_name(f"{_name(image_file)}.depth.png")


def _name(image_file: Path) -> str:
    """Of the frame: without what says that it is its picture."""
    return image_file.stem.removesuffix(".rgb").removesuffix(".color")


def open_folder(path: Path, split: str) -> RGBDFolder | None:
    """The folder as a data set, or None where it has no depth; it has one split."""
    has_depth = _picture_folder(path) != path or files.listed(path, "*.depth.png")
    return RGBDFolder(path, with_depth=True) if has_depth else None
