"""RVL, the lossless code of depth images that image_transport's compressedDepth offers beside PNG.

A. D. Wilson, "Fast lossless depth image compression", 2017. The image is a sequence of (number of zeros, number of
readings, readings): each reading as its difference from the one before, sign in the lowest bit. Every number is written
as groups of three bits, the lowest first, with a fourth bit that says whether another group follows; eight groups fill
a 32-bit little-endian word from its top.
"""

from __future__ import annotations

import numpy as np


def decode(code: np.ndarray, pixels: int) -> np.ndarray:
    """uint16 [pixels] from the code, uint8 [bytes].

    Raises:
        ValueError: the code ends early, or holds more than `pixels`.
    """
    words = code[: len(code) // 4 * 4].reshape(-1, 4)[:, ::-1].reshape(-1)  # the bytes from each word's top
    groups = np.stack([words >> 4, words & 15], axis=1).reshape(-1)
    ends = np.flatnonzero(groups < 8)
    begins = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
    if len(ends) == 0 or (ends - begins).max() > 10:  # 11 groups hold 32 bits
        raise ValueError(f"RVL code of {len(code)} bytes holds a number of more than 32 bits, or none")
    places = np.arange(ends[-1] + 1) - np.repeat(begins, ends - begins + 1)
    numbers = np.add.reduceat((groups[: ends[-1] + 1] & 7).astype(np.int64) << (3 * places), begins)
    differences, at = _readings(numbers.tolist(), pixels)
    steps = numbers[differences]
    depth = np.zeros(pixels, np.uint16)
    depth[at] = (np.cumsum((steps >> 1) ^ -(steps & 1)) & 0xFFFF).astype(np.uint16)
    return depth


def _readings(numbers: list[int], pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of the numbers are differences, and the pixel of each; run by run."""
    runs, pixel, i = [], 0, 0
    while pixel < pixels:
        zeros, count = numbers[i : i + 2] if i + 2 <= len(numbers) else (0, 0)
        first, pixel, i = i + 2, pixel + zeros + count, i + 2 + count
        if zeros + count == 0 or pixel > pixels or i > len(numbers):
            raise ValueError(f"RVL code is damaged: {len(numbers)} numbers do not make {pixels} pixels")
        if count:
            runs.append((first, pixel - count, count))
    firsts, pixels_at, counts = np.array(runs, np.int64).reshape(-1, 3).T
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(firsts, counts) + within, np.repeat(pixels_at, counts) + within
