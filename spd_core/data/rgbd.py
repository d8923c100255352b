"""Plain folders of RGB-D images: `<name>.rgb.png|jpg` (or `<name>.color.png|jpg`, `<name>.png|jpg`) with
`<name>.depth.png` (uint16 mm; 0, or 65535 as in 7-Scenes, is no reading) beside it; or `rgb/<name>.png|jpg` (or in
`color/`, `image/`, `images/`) with `depth/<name>.png`; or as TUM's benchmark (Sturm et al. 2012) and ICL-NUIM have
them: lists of stamps and files, and depth in 1/5000 m."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from .. import files
from ..camera import MOST_SKEW, Camera
from ..plausibility import check_upright
from .images import read_colour, read_colour_and_depth
from .pairing import TOLERANCE_S, Series, pair
from .samples import DataError, Dataset, Sample, attempt, checked

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
PICTURE_FOLDERS = ("rgb", "color", "image", "images")  # beside one called depth
TUM_LISTS = ("rgb.txt", "depth.txt", "associations.txt")
TUM_ENTRY = re.compile(r"(?<!\d)(\d{1,10}(?:\.\d+)?)[ \t]+(rgb|depth)/(\S+)")  # a stamp, s, and a file
TUM, TUM_UNIT = "RGB-D folder as TUM's, depth in 1/5000 m", 1000 / 5000
LAYOUT = (
    "  RGB-D folder                     <name>.rgb.png|jpg, <name>.depth.png (16-bit, mm) and camera.txt (fx fy cx cy"
    " in px),\n                                   or rgb/<name>.png|jpg, depth/<name>.png and camera.txt\n"
    "                                   or rgb.txt, depth.txt and camera.txt beside them (TUM: 16-bit, 1/5000 m)"
)


def four_numbers(text: str) -> tuple[float, float, float, float]:
    """fx fy cx cy in a text, with commas or without; of a matrix K row by row (3x3, 3x4 or 4x4) those. A ValueError
    says that it is none."""
    numbers = [float(number) for number in re.sub(r"[\[\],;]", " ", text).split()]
    if len(numbers) in (9, 12, 16):
        k = np.reshape(numbers, (4 if len(numbers) == 16 else 3, -1))
        if (k[1, 0], *k[2, :3]) == (0, 0, 0, 1) and abs(k[0, 1]) <= MOST_SKEW * abs(k[0, 0]):
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
        picture_folder = _picture_folder(folder)
        pattern = "*.depth.png" if picture_folder == folder else "depth/*.png"
        self.files, by_stamp = pictures_in(picture_folder), _by_stamp(folder)
        by_name = {file: folder / pattern.replace("*", _name(file)) for file in self.files}
        self.depth_files = by_stamp or {file: depth for file, depth in by_name.items() if depth.exists()}
        self.layout, self.unit = (TUM, TUM_UNIT) if by_stamp else (self.layout, 1.0)
        if with_depth:
            self.files = _with_depth(self.files, self.depth_files, folder, pattern)
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
        file = self.files[index]
        if file not in self.depth_files:
            return Sample(self.name(index), read_colour(file), None, self.camera)
        rgb, depth_m = read_colour_and_depth(file, self.depth_files[file])
        return replace(checked(str(file), rgb, depth_m * self.unit, self.camera), name=self.name(index))

    @cached_property
    def _first_size(self) -> tuple[int, ...]:
        """(height, width) px of the first picture that can be read."""
        samples = (attempt(self._read, index) for index in range(len(self)))
        return next(sample.rgb.shape[:2] for sample in samples if isinstance(sample, Sample))


def _with_depth(pictures: list[Path], depth_files: dict[Path, Path], folder: Path, pattern: str) -> list[Path]:
    """Of pictures those with depth, one for each: `<name>.rgb.*` and `<name>.color.*` before `<name>.*`. What is left
    over is said, depth that is called as `pattern` says, too."""
    by_depth: dict[Path, Path] = {}
    for file in sorted(depth_files, key=lambda file: file.stem == _name(file)):
        by_depth.setdefault(depth_files[file], file)
    chosen = set(by_depth.values())
    left = [file.name for file in pictures if file not in chosen]
    left += [file.name for file in files.listed(folder, pattern) if file not in by_depth]
    if left and chosen:
        names = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
        said = f"{folder}: left out {len(left)} files that are no pair of picture and depth: {names}"
        warnings.warn(said, stacklevel=4)
    return [file for file in pictures if file in chosen]


def _picture_folder(folder: Path) -> Path:
    """Where the pictures of a data set lie: in its folder, beside their depth, or in one of it beside that of depth."""
    is_apart = (folder / "depth").is_dir() and not files.listed(folder, "*.depth.png")
    return next((folder / name for name in PICTURE_FOLDERS if is_apart and (folder / name).is_dir()), folder)


def _by_stamp(folder: Path) -> dict[Path, Path]:
    """The pictures that TUM's lists name, and the depth nearest to each in time."""
    lists = [files.read_text(folder / name, DataError) for name in TUM_LISTS if (folder / name).exists()]
    stamps_ns: dict[str, dict[Path, int]] = {"rgb": {}, "depth": {}}
    for stamp_s, kind, name in TUM_ENTRY.findall("\n".join(lists)):
        stamps_ns[kind][folder / kind / name] = round(1e9 * float(stamp_s))
    pictures, depth_files = map(list, stamps_ns.values())
    stamps = (np.array([*of_kind.values()], np.int64) for of_kind in stamps_ns.values())
    images, depths = (Series(own, own) for own in stamps)
    return {pictures[i]: depth_files[j] for i, j in pair(images, depths, TOLERANCE_S).partner.items()}


def _name(image_file: Path) -> str:
    """Of the frame: without what says that it is its picture."""
    return image_file.stem.removesuffix(".rgb").removesuffix(".color")


def open_folder(path: Path, split: str) -> RGBDFolder | None:
    """The folder as a data set, or None where it has no depth; it has one split."""
    has_depth = _picture_folder(path) != path or files.listed(path, "*.depth.png")
    return RGBDFolder(path, with_depth=True) if has_depth else None
