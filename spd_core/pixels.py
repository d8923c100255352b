"""Which pixels are asked about, and which pixel a point lies on: one rule for evaluation and replay."""

from __future__ import annotations

from typing import Any

import numpy as np

from .arrays import float64
from .camera import cell_centres, inside_image
from .errors import SPDError, first_line

MOST_CELLS = 10_000_000  # of a grid: more do not fit into memory with their answers


def checked_points(uv: Any) -> np.ndarray:
    """Points as float64 [K, 2]; those that a masked array hides are NaN.

    Raises:
        SPDError: they are no such numbers.
    """
    expected = "points must be an array [K, 2] of (u, v) px"
    try:
        values = uv if isinstance(uv, np.ma.MaskedArray) else np.asarray(uv)
    except (ValueError, TypeError, RuntimeError) as error:  # lists of several lengths; tensors that numpy cannot take
        raise SPDError(f"{expected}, got {type(uv).__name__}: {first_line(error)}") from error
    if values.dtype.kind not in "iuf":
        raise SPDError(f"{expected}, got {type(uv).__name__} of {values.dtype}")
    if values.shape != (0,) and (values.ndim != 2 or values.shape[1] != 2):  # an empty list is no points
        raise SPDError(f"{expected}, got shape {list(values.shape)}")
    return float64(values).reshape(-1, 2)


def check_grid(columns: int, rows: int) -> None:
    """Raise SPDError for a grid of no cells, or of too many."""
    if min(columns, rows) < 1 or columns * rows > MOST_CELLS:
        raise SPDError(f"grid must be columns and rows of 1 to {MOST_CELLS:,} cells, got {columns}x{rows}")


def pixel_under(uv: np.ndarray) -> np.ndarray:
    """The pixel (column, row) int [K, 2] that each point [K, 2] px lies on: pixel i reaches from i - 0.5 to i + 0.5."""
    return np.floor(np.asarray(uv) + 0.5).astype(np.int64)


def at_pixels(values: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """The values [K] of a map [H, W] under points [K, 2] px; NaN outside and where a point is not finite."""
    found = np.full(len(uv), np.nan)
    inside = inside_image(uv, values.shape[:2])
    column, row = np.minimum(pixel_under(uv[inside]), [values.shape[1] - 1, values.shape[0] - 1]).T
    found[inside] = values[row, column]
    return found


def random_pixels(candidates: np.ndarray, count: int, seed: list[int]) -> np.ndarray:
    """At most `count` different pixels (column, row) int [K, 2] of `candidates`, bool [H, W]."""
    row, column = np.nonzero(candidates)
    chosen = np.random.default_rng(seed).permutation(len(column))[:count]
    return np.stack([column[chosen], row[chosen]], axis=1)


def grid_pixels(candidates: np.ndarray, columns: int, rows: int) -> np.ndarray:
    """The pixels (column, row) int [K, 2] under a grid's cell centres that are `candidates`, bool [H, W]."""
    at = pixel_under(cell_centres(candidates.shape[:2], columns, rows))
    return at[candidates[at[:, 1], at[:, 0]]]
