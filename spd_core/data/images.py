"""Pictures from files and to files: colour, and depth as 16-bit PNG in millimetres.

Their pixels are the file's own, as the sensor saw them: a rotation that EXIF asks for is not applied. Only depth that
was made from the turned picture, which its size shows, has the picture turned to it.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from ..coded import PNG_START, TIFF_STARTS, CodingError, PixelTypeError, decoded, metres
from ..files import PNM, problem, write_bytes
from .samples import DataError

ORIENTATION = 0x0112  # EXIF 2.32, table 4
MAGIC: dict[str, bytes | tuple[bytes, ...]] = {
    **dict.fromkeys((".jpg", ".jpeg"), b"\xff\xd8\xff"),
    **dict.fromkeys((".pbm", ".pgm", ".ppm", ".pnm"), PNM),
}


@contextmanager
def _decoding(file: Path) -> Iterator[None]:
    try:
        yield
    except PixelTypeError as error:
        raise DataError(f"{file} is no picture in colours: {error}") from error
    except (OSError, CodingError) as error:
        magic = MAGIC.get(file.suffix.lower(), PNG_START)
        what = f"; it cannot be decoded as an image: {error}" if os.path.exists(file) else ""
        raise DataError(f"{file} {problem(file, magic)}{what}") from error


def exif_of(picture: Path | io.BytesIO, part: int | None = None) -> Mapping[int, Any]:
    """The tags of a picture's EXIF, or of a part of it; none where they cannot be read."""
    if isinstance(picture, Path) and not picture.is_file():  # a pipe gives its picture once
        return {}
    try:
        with warnings.catch_warnings(action="ignore"), _opened(picture) as opened:
            tags = opened.getexif()
            return tags if part is None else tags.get_ifd(part)
    except Exception:  # Pillow's parsers raise what they like of damaged tags; the picture may be a good one
        return {}


def _opened(picture: Path | io.BytesIO) -> Image.Image:
    """A picture whose pixels are not read; what is no JPEG, up to 179 megapixels."""
    with suppress(SyntaxError):  # no JPEG
        return JpegImageFile(picture)  # of any size: `Image.open` refuses the 200 megapixels that phones have
    return Image.open(picture)


def orientation_of(picture: Path | io.BytesIO) -> int:
    """How a picture is turned before it is looked at: 1 (not at all) to 8, as EXIF's orientation says, or XMP's."""
    turn = exif_of(picture).get(ORIENTATION, 1)
    return turn if turn in range(2, 9) else 1


def flips_of(turn: int) -> tuple[bool, bool, bool]:
    """What turns a picture (`orientation_of`), in this order: whether its rows and columns change places, whether its
    columns are reversed, and whether its rows are."""
    return turn >= 5, turn in (2, 3, 6, 7), turn in (3, 4, 7, 8)


def read_colour(file: Path, turned: bool = False) -> np.ndarray:
    """A picture as RGB uint8 [H, W, 3]: as it is stored, or `turned` as it is looked at; TIFF is always turned, by
    OpenCV.

    Raises:
        DataError: it cannot be read.
    """
    with _decoding(file):
        data = file.read_bytes()
        rgb = cv2.cvtColor(decoded(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION), cv2.COLOR_BGR2RGB)
    turn = orientation_of(io.BytesIO(data)) if turned and not data.startswith(TIFF_STARTS) else 1
    is_transposed, is_mirrored, is_upside_down = flips_of(turn)
    if is_transposed:
        rgb = rgb.swapaxes(0, 1)
    if is_mirrored:
        rgb = rgb[:, ::-1]
    if is_upside_down:
        rgb = rgb[::-1]
    return np.ascontiguousarray(rgb)


def read_colour_and_depth(colour_file: Path, depth_file: Path) -> tuple[np.ndarray, np.ndarray]:
    """A picture, RGB uint8 [H, W, 3], and its depth, float32 [H, W] m, 0 where there is no reading.

    Raises:
        DataError: one of them cannot be read, or depth is not 16-bit millimetres.
    """
    rgb = read_colour(colour_file)
    with _decoding(depth_file):
        depth_mm = decoded(depth_file.read_bytes(), cv2.IMREAD_UNCHANGED)
    if depth_mm.dtype != np.uint16:
        raise DataError(f"{depth_file} holds {depth_mm.dtype}; expected uint16 millimetres")
    if depth_mm.shape == rgb.shape[1::-1] != rgb.shape[:2]:
        turned = read_colour(colour_file, turned=True)
        rgb = turned if turned.shape[:2] == depth_mm.shape else rgb
    return rgb, metres(depth_mm)


def check_picture_name(file: Path) -> None:
    """Raise DataError where the suffix of a file is that of no format that OpenCV writes colour in."""
    if not _coded(file.suffix, np.zeros((64, 64, 3), np.uint8)):  # JPEG 2000 takes no smaller ones
        raise DataError(f"{file} has no suffix of a picture in colour, such as .png or .jpg")


def write_picture(file: Path, rgb: np.ndarray) -> None:
    """RGB uint8 [H, W, 3] to a file, in the format of its suffix.

    Raises:
        FileError: it cannot be written.
        DataError: there is no such format, or it holds no picture of that size.
    """
    check_picture_name(file)
    if not (data := _coded(file.suffix, rgb)):
        height, width = rgb.shape[:2]
        raise DataError(f"{file} cannot hold a picture of {width}x{height} px; expected another format, say .png")
    write_bytes(file, data)


def _coded(suffix: str, rgb: np.ndarray) -> bytes:
    """RGB uint8 [H, W, 3] in the format of a suffix; nothing where that cannot be."""
    try:
        is_coded, data = cv2.imencode(suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    except cv2.error:
        return b""
    return data.tobytes() if is_coded else b""
