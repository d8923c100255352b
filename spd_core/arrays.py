"""Arrays of numbers as callers give them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def all_finite(*values: Any) -> bool:
    """Whether all of them are numbers, no text of one, and finite."""
    return all(isinstance(value, int | float | np.number) and math.isfinite(value) for value in values)


def float64(values: Any) -> np.ndarray:
    """As float64; NaN where a masked array hides what is no number."""
    if isinstance(values, np.ma.MaskedArray):
        values = np.ma.filled(values.astype(np.float64), np.nan)
    return np.asarray(values, dtype=np.float64)
