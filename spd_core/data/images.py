"""Pictures from files and to files: colour, and depth as 16-bit PNG in millimetres.

Their pixels are the file's own, as the sensor saw them: a rotation that EXIF asks for is not applied. Only depth that
was made from the turned picture, which its size shows, has the picture turned to it.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from ..coded import CodingError, decoded
from ..files import PNM, problem, write_bytes
from .samples import DataError

STORED = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
TURNED = cv2.IMREAD_COLOR
MAGIC: dict[str, bytes | tuple[bytes, ...]] = {
    **dict.fromkeys((".jpg", ".jpeg"), b"\xff\xd8\xff"),
    **dict.fromkeys((".pbm", ".pgm", ".ppm", ".pnm"), PNM),
}


def _decoded(file: Path, flags: int) -> np.ndarray:
    try:
        return decoded(file.read_bytes(), flags)
    except (OSError, CodingError) as error:
        magic = MAGIC.get(file.suffix.lower(), b"\x89PNG")
        what = f"; it cannot be decoded as an image: {error}" if file.exists() else ""
        raise DataError(f"{file} {problem(file, magic)}{what}") from error


def read_colour(file: Path, flags: int = STORED) -> np.ndarray:
    """A picture as RGB uint8 [H, W, 3].

    Raises:
        DataError: it cannot be read.
    """
    return cv2.cvtColor(_decoded(file, flags), cv2.COLOR_BGR2RGB)


def read_colour_and_depth(colour_file: Path, depth_file: Path) -> tuple[np.ndarray, np.ndarray]:
    """A picture, RGB uint8 [H, W, 3], and its depth, float32 [H, W] m.

    Raises:
        DataError: one of them cannot be read, or depth is not 16-bit millimetres.
    """
    rgb, depth_mm = read_colour(colour_file), _decoded(depth_file, cv2.IMREAD_UNCHANGED)
    if depth_mm.dtype != np.uint16:
        raise DataError(f"{depth_file} holds {depth_mm.dtype}; expected uint16 millimetres")
    if depth_mm.shape == rgb.shape[1::-1] != rgb.shape[:2]:
        turned = read_colour(colour_file, TURNED)
        rgb = turned if turned.shape[:2] == depth_mm.shape else rgb
    return rgb, depth_mm.astype(np.float32) / 1000


def check_picture_name(file: Path) -> None:
    """Raise DataError where the suffix of a file is that of no format that OpenCV writes colour in."""
    try:
        is_written = cv2.imencode(file.suffix, np.zeros((8, 8, 3), np.uint8))[0]
    except cv2.error:
        is_written = False
    if not is_written:
        raise DataError(f"{file} has no suffix of a picture in colour, such as .png or .jpg")


def write_picture(file: Path, rgb: np.ndarray) -> None:
    """RGB uint8 [H, W, 3] to a file, in the format of its suffix.

    Raises:
        FileError: it cannot be written.
        DataError: there is no such format.
    """
    check_picture_name(file)
    write_bytes(file, cv2.imencode(file.suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].tobytes())
