"""Coded pictures, JPEG, PNG and what else OpenCV knows, to pixels. Of messages and of files."""

from __future__ import annotations

import io
from contextlib import suppress

import cv2
import numpy as np
from PIL import Image

from .errors import SPDError

NOT_WHOLE = "expected JPEG or PNG, neither damaged nor cut short"
JPEG_START, JPEG_END, JPEG_SCAN = b"\xff\xd8", b"\xff\xd9", b"\xda"
SATURATED = 2**16 - 1  # mm in 16 bits: no reading, of sensors and data sets (7-Scenes) that have no 0 for it
PNG_START = b"\x89PNG"
TIFF_STARTS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")  # the last two of BigTIFF


class CodingError(SPDError):
    """A picture that cannot be decoded; the text says why."""


class PixelTypeError(CodingError):
    """A whole picture, of pixels that are no colours."""


def decoded(data: bytes | np.ndarray, flags: int) -> np.ndarray:
    """The pixels of a picture, as `cv2.imdecode` gives them, but for 16 bits that become 8: those as `eight_bits`.

    Args:
        data: its bytes; as an array, uint8 [N].
        flags: OpenCV's IMREAD_*.

    Raises:
        CodingError: there are none, or not all of them; or they are neither 8 nor 16 bits where 8 are asked for.
    """
    data = np.frombuffer(data, np.uint8)
    if data[:2].tobytes() == JPEG_START and _is_cut_short(data.tobytes()):
        raise CodingError("its JPEG data are cut short")
    try:
        pixels = cv2.imdecode(data, flags | cv2.IMREAD_ANYDEPTH) if len(data) else None
    except cv2.error as error:  # more pixels than OPENCV_IO_MAX_IMAGE_PIXELS
        raise CodingError(error.err or NOT_WHOLE) from error
    if pixels is None and len(data):  # of one channel of floats OpenCV makes no colour
        pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
        pixels = None if pixels is None or pixels.dtype in (np.uint8, np.uint16) else pixels
    if pixels is None:
        raise CodingError(NOT_WHOLE)
    if data[:4].tobytes() in TIFF_STARTS and flags != cv2.IMREAD_UNCHANGED and pixels.dtype == np.uint8:
        with suppress(Exception), Image.open(io.BytesIO(data.tobytes())) as picture:  # Pillow knows not every TIFF
            if picture.mode == "RGBA":  # which OpenCV multiplies with alpha: masked parts would be black
                return np.asarray(picture.convert("RGB"))[..., ::-1]
    if flags & cv2.IMREAD_ANYDEPTH or pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype != np.uint16:  # where white is, nothing says: at 1, or at 255
        raise PixelTypeError(f"its pixels are {pixels.dtype}; expected uint8 or uint16")
    return eight_bits(pixels)


def eight_bits(pixels: np.ndarray) -> np.ndarray:
    """Colour of 16 bits, uint16 [...], as uint8.

    Cameras of 10, 12 or 14 bits leave them in the low ones, as programs do that widen 8, and no message says how many
    there are: they are the fewest that hold the picture's largest value. One of more bits with nothing above a quarter
    of them is brightened by this; it would be nearly black otherwise.
    """
    largest = int(pixels.max())
    bits = next(bits for bits in (8, 10, 12, 14, 16) if largest < 1 << bits)
    return (pixels >> (bits - 8)).astype(np.uint8)


def _is_cut_short(jpeg: bytes) -> bool:
    """Whether no end follows the first scan. libjpeg makes up what is missing, and OpenCV hands it on as a picture.

    What stands before the scan is stepped over, as a thumbnail has an end of its own; the scan cannot hold one, and
    after the end there may be anything.
    """
    at = 2
    while jpeg[at : at + 1] == b"\xff" and jpeg[at + 1 : at + 2] != JPEG_SCAN:
        is_fill = jpeg[at + 1 : at + 2] == b"\xff"
        at += 1 if is_fill else 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return jpeg.find(JPEG_END, at) < 0


def metres(depth_mm: np.ndarray) -> np.ndarray:
    """Depth of unsigned numbers, mm, as float32 m; 0 where there is no reading."""
    return np.where(depth_mm == SATURATED, 0, depth_mm).astype(np.float32) / 1000
