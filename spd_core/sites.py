"""Which sites of a feature map a computation touches: grids, site sets, and the taps that a site reads.

A *site* is one spatial position of a feature map; a *tap* is a site of the input that a site of the output reads. All of this is
integer geometry in numpy: it depends on the query points and the map sizes, never on features, so it runs while the encoder does.

Shapes: B batch, H, W map height and width, S sites, T taps of a site, K points.

Sites are numbered in a grid with a border of one: (b, y, x) -> (b * (H + 2) + y + 1) * (W + 2) + x + 1. A 3x3 neighbourhood is then nine
fixed offsets, and a neighbour outside the map is a border number, which no site set contains: that is zero padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

OUTSIDE = -1


@dataclass(frozen=True)
class Grid:
    """The positions of a feature map [B, H, W]."""

    batch: int
    height: int
    width: int

    @property
    def count(self) -> int:
        return self.batch * self.height * self.width

    @property
    def bordered_count(self) -> int:
        return self.batch * (self.height + 2) * (self.width + 2)

    def number(self, b: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return (b * (self.height + 2) + y + 1) * (self.width + 2) + x + 1

    def position(self, number: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rest, x = np.divmod(number, self.width + 2)
        b, y = np.divmod(rest, self.height + 2)
        return b, y - 1, x - 1


class Sites:
    """A set of sites of one grid, ascending; the rows of a sparse feature map [S, C] stand in this order."""

    def __init__(self, grid: Grid, numbers: np.ndarray):
        self.grid = grid
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def is_full(self) -> bool:
        return len(self) == self.grid.count

    @cached_property
    def _row_of_number(self) -> np.ndarray:
        rows = np.full(self.grid.bordered_count, OUTSIDE, dtype=np.int64)
        rows[self.numbers] = np.arange(len(self.numbers))
        return rows

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """Row of each site number, `OUTSIDE` where the set does not hold it."""
        return self._row_of_number[numbers]

    @staticmethod
    @lru_cache(maxsize=64)
    def full(grid: Grid) -> Sites:
        """Every site of the grid: the rows of a dense map [B, H, W, C] flattened to [B * H * W, C]."""
        numbers = np.arange(grid.bordered_count).reshape(grid.batch, grid.height + 2, grid.width + 2)
        return Sites(grid, numbers[:, 1:-1, 1:-1].reshape(-1))

    @staticmethod
    def union(grid: Grid, wanted: list[np.ndarray]) -> Sites:
        """The sites named by any of the arrays of site numbers (border numbers are ignored)."""
        mask = np.zeros(grid.bordered_count, dtype=bool)
        for numbers in wanted:
            mask[numbers.reshape(-1)] = True
        bordered = mask.reshape(grid.batch, grid.height + 2, grid.width + 2)
        bordered[:, [0, -1]] = False
        bordered[:, :, [0, -1]] = False
        return Sites(grid, np.flatnonzero(mask))


def neighbours_3x3(out: Sites) -> np.ndarray:
    """Site numbers [S, 9] that a 3x3 convolution of stride 1 reads, row-major like its kernel; same grid as `out`."""
    row = out.grid.width + 2
    offsets = np.array([dy * row + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    return out.numbers[:, None] + offsets


def resize_taps(out: Sites, source: Grid, align_corners: bool) -> tuple[np.ndarray, np.ndarray]:
    """Site numbers [S, 4] in `source` and weights [S, 4] (float32) of a bilinear resize from `source` to `out.grid`.

    The arithmetic is `torch.nn.functional.interpolate(mode="bilinear", antialias=False)` in float32, step by step.
    """
    b, y, x = out.grid.position(out.numbers)
    y0, y1, wy = (table[y] for table in _axis_taps(out.grid.height, source.height, align_corners))
    x0, x1, wx = (table[x] for table in _axis_taps(out.grid.width, source.width, align_corners))
    return _bilinear(source, b, y0, y1, wy, x0, x1, wx)


def point_taps(points_px: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Site numbers [B * K, 4] and weights [B * K, 4] of bilinear samples at `points_px` [B, K, 2] (x, y), centres at integers.

    Points beyond the outer pixel centres take the value at the border. Non-finite points get NaN weights.
    """
    batch, count, _ = points_px.shape
    finite = np.isfinite(points_px).all(axis=-1)
    points_px = np.where(finite[..., None], points_px, 0.0)
    taps = []
    for axis, size in ((1, grid.height), (0, grid.width)):
        position = np.clip(points_px[..., axis].reshape(-1).astype(np.float64), 0, size - 1)
        low = np.floor(position).astype(np.int64)
        weight = (position - low).astype(np.float32)
        taps += [low, low + (weight > 0), weight]
    b = np.repeat(np.arange(batch), count)
    numbers, weights = _bilinear(grid, b, *taps)
    weights[~finite.reshape(-1)] = np.nan
    return numbers, weights


@lru_cache(maxsize=64)
def _axis_taps(out_size: int, in_size: int, align_corners: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower tap, upper tap and weight of the upper tap for every output position of one axis."""
    position = np.arange(out_size, dtype=np.float32)
    if align_corners:
        scale = np.float32((in_size - 1) / (out_size - 1)) if out_size > 1 else np.float32(0)
        source = position * scale
    else:
        source = np.maximum((position + np.float32(0.5)) * np.float32(in_size / out_size) - np.float32(0.5), np.float32(0))
    low = np.minimum(source.astype(np.int64), in_size - 1)
    weight = np.clip(source - low.astype(np.float32), np.float32(0), np.float32(1))
    high = np.minimum(low + (weight > 0), in_size - 1)  # an unused tap must not claim a site
    return low, high, weight


def _bilinear(grid, b, y0, y1, wy, x0, x1, wx) -> tuple[np.ndarray, np.ndarray]:
    top, bottom = grid.number(b, y0, 0), grid.number(b, y1, 0)
    numbers = np.stack([top + x0, top + x1, bottom + x0, bottom + x1], axis=1)
    weights = np.stack([(1 - wy) * (1 - wx), (1 - wy) * wx, wy * (1 - wx), wy * wx], axis=1)
    return numbers, weights
