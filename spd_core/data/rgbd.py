"""Plain folders of RGB-D images: `<name>.rgb.png|jpg` (or `<name>.png|jpg`) with `<name>.depth.png` (uint16 mm, 0 = no
reading) beside it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from ..camera import Camera
from .samples import DataError, Sample, checked

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
LAYOUT = (
    "  RGB-D folder                     <name>.rgb.png|jpg, <name>.depth.png (16-bit, mm) and camera.txt (fx fy cx cy"
    " in px)"
)


def read_camera(folder: str | Path) -> Camera | None:
    """Intrinsics from the file camera.txt in the folder: four numbers fx fy cx cy in px. None if there is no such
    file."""
    file = Path(folder) / "camera.txt"
    if not file.exists():
        return None
    try:
        return Camera(*map(float, file.read_text().split()))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{file} holds {file.read_text()[:80]!r}; expected four numbers: fx fy cx cy in pixels"
        ) from error


class RGBDFolder:
    """The images of a folder in order of name, those without depth too (`depth_m` None) unless `with_depth`."""

    layout = "RGB-D folder"

    def __init__(self, folder: str | Path, camera: Camera | None = None, with_depth: bool = False):
        folder = Path(folder)
        self.files = (
            sorted(f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and not f.stem.endswith(".depth"))
            if folder.is_dir()
            else []
        )
        if with_depth:
            self.files = [f for f in self.files if _depth_file(f).exists()]
        if not self.files:
            raise DataError(
                f"no images ({', '.join(IMAGE_SUFFIXES)}){' with <name>.depth.png beside them' if with_depth else ''}"
                f" in {folder}"
            )
        self.camera = camera or read_camera(folder)

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return self.files[index].stem.removesuffix(".rgb")

    def __getitem__(self, index: int) -> Sample:
        file = self.files[index]
        bgr = cv2.imread(str(file), cv2.IMREAD_COLOR)
        if bgr is None:
            raise DataError(f"{file} cannot be decoded as an image")
        rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
        depth_file = _depth_file(file)
        if not depth_file.exists():
            return Sample(self.name(index), rgb, None, self.camera)
        depth_mm = cv2.imread(str(depth_file), cv2.IMREAD_UNCHANGED)
        if depth_mm is None or depth_mm.dtype != np.uint16:
            raise DataError(
                f"{depth_file} holds {'nothing readable' if depth_mm is None else depth_mm.dtype}; expected uint16"
                " millimetres"
            )
        return checked(self.name(index), rgb, depth_mm.astype(np.float32) / 1000, self.camera)


def _depth_file(image_file: Path) -> Path:
    return image_file.with_name(f"{image_file.stem.removesuffix('.rgb')}.depth.png")


def open_folder(path: Path, split: str) -> RGBDFolder | None:
    """The folder as a data set, or None where it has no `*.depth.png`; it has one split."""
    return RGBDFolder(path, with_depth=True) if path.is_dir() and next(path.glob("*.depth.png"), None) else None
