"""Plain folders of RGB-D images: `<name>.rgb.png|jpg` (or `<name>.png|jpg`) with `<name>.depth.png` (uint16 mm, 0 = no reading) beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ..camera import Camera

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class RGBDImage:
    """One image of a folder: `rgb` uint8 [H, W, 3], `depth_m` float32 [H, W] (0 where unknown) or None."""

    name: str
    rgb: np.ndarray
    depth_m: np.ndarray | None


def read_camera(folder: str | Path) -> Camera | None:
    """Intrinsics from the file camera.txt in the folder: four numbers fx fy cx cy in px. None if there is no such file."""
    file = Path(folder) / "camera.txt"
    if not file.exists():
        return None
    try:
        return Camera(*map(float, file.read_text().split()))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} holds {file.read_text()[:80]!r}; expected four numbers: fx fy cx cy in pixels") from error


def read_folder(folder: str | Path) -> Iterator[RGBDImage]:
    """The images of a folder in order of name.

    Raises:
        FileNotFoundError: no folder, or no images in it.
        ValueError: a file that cannot be decoded, or a depth image of another size or type.
    """
    folder = Path(folder)
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and not f.stem.endswith(".depth")) if folder.is_dir() else []
    if not files:
        raise FileNotFoundError(f"no images ({', '.join(IMAGE_SUFFIXES)}) in {folder}")
    for file in files:
        bgr = cv2.imread(str(file), cv2.IMREAD_COLOR)
        if bgr is None:
            raise ValueError(f"{file} cannot be decoded as an image")
        name = file.stem.removesuffix(".rgb")
        yield RGBDImage(name, cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), _read_depth(folder / f"{name}.depth.png", bgr.shape[:2]))


def _read_depth(file: Path, size: tuple[int, int]) -> np.ndarray | None:
    if not file.exists():
        return None
    depth_mm = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    if depth_mm is None or depth_mm.dtype != np.uint16 or depth_mm.shape != size:
        found = "nothing readable" if depth_mm is None else f"{depth_mm.dtype} {list(depth_mm.shape)}"
        raise ValueError(f"{file} holds {found}; expected uint16 millimetres {list(size)}")
    return depth_mm.astype(np.float32) / 1000
