"""Which sites of a feature map a computation touches: grids, site sets, and the taps that a site reads.

A *site* is one spatial position of a feature map; a *tap* is a site of the input that a site of the output reads. All
of this is integer geometry in numpy: it depends on the query points and the map sizes, never on features, so it runs
while the encoder does.

Shapes: B batch, H, W map height and width, S sites, T taps of a site, K points.

Sites are numbered in a grid with a border of one: (b, y, x) -> (b * (H + 2) + y + 1) * (W + 2) + x + 1. A 3x3
neighbourhood is then three runs of three consecutive numbers, at fixed offsets. A site set may hold border sites: their
rows are zeroed, and that is zero padding.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np


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

    def number(self, b: np.ndarray | int, y: np.ndarray, x: np.ndarray | int) -> np.ndarray:
        return (b * (self.height + 2) + y + 1) * (self.width + 2) + x + 1

    def position(self, number: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rest, x = np.divmod(number, self.width + 2)
        b, y = np.divmod(rest, self.height + 2)
        return b, y - 1, x - 1

    def inside(self, numbers: np.ndarray) -> np.ndarray:
        """The same site numbers, border sites replaced by their nearest site inside."""
        return _inside(self).take(numbers)

    def map_rows(self, numbers: np.ndarray) -> np.ndarray:
        """Row numbers (int32) of sites in a dense map [B * H * W, C]."""
        return _map_rows(self).take(numbers)


@lru_cache(maxsize=64)
def _inside(grid: Grid) -> np.ndarray:
    b, y, x = grid.position(np.arange(grid.bordered_count))
    return grid.number(b, np.clip(y, 0, grid.height - 1), np.clip(x, 0, grid.width - 1))


@lru_cache(maxsize=64)
def _map_rows(grid: Grid) -> np.ndarray:
    b, y, x = grid.position(_inside(grid))
    return ((b * grid.height + y) * grid.width + x).astype(np.int32)


class Sites:
    """A set of sites of one grid, ascending; border sites may be among them. Rows of a sparse map [S, C] stand in this
    order."""

    def __init__(self, grid: Grid, numbers: np.ndarray):
        self.grid = grid
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @cached_property
    def inside(self) -> np.ndarray:
        """Site numbers [S], border sites replaced by their nearest site inside: what stands in their rows until they
        are zeroed."""
        return self.grid.inside(self.numbers)

    @cached_property
    def border_rows(self) -> np.ndarray:
        """Row numbers of the border sites."""
        return (self.inside != self.numbers).nonzero()[0]

    @property
    def is_all(self) -> bool:
        """Whether every site of the grid is in the set, those of the border too."""
        return len(self) == self.grid.bordered_count

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """Row numbers (int32) of the site numbers, all of which the set holds."""
        if self.is_all:
            return numbers.astype(np.int32)
        row_of_number = _scratch(self.grid, np.int32)
        row_of_number[self.numbers] = np.arange(len(self.numbers), dtype=np.int32)
        return row_of_number.take(numbers)

    def merge(self, others: Sites) -> tuple[Sites, np.ndarray]:
        """These sites and others that are not among them; and for each row of both, its number (int32) in the rows of
        this set followed by those of the others."""
        numbers = np.concatenate([self.numbers, others.numbers])
        order = numbers.argsort(kind="stable")  # merges two ascending runs
        return Sites(self.grid, numbers[order]), order.astype(np.int32)

    @staticmethod
    def all(grid: Grid) -> Sites:
        """Every site, those of the border too: row numbers are site numbers."""
        return Sites(grid, np.arange(grid.bordered_count))

    @staticmethod
    def union(grid: Grid, wanted: list[np.ndarray], known: Sites | None = None) -> Sites:
        """The sites named by any of the arrays of site numbers, without those that are known."""
        is_wanted = _scratch(grid, np.bool_)
        for numbers in wanted:
            is_wanted[numbers] = True
        if known is not None:
            is_wanted[known.numbers] = False
        numbers = is_wanted.nonzero()[0]
        is_wanted[numbers] = False
        return Sites(grid, numbers)


_thread = threading.local()


def _scratch(grid: Grid, dtype: type) -> np.ndarray:
    """An array with an entry for each site number; a boolean one is left all False. Kept per thread: touching fresh
    pages costs more."""
    kept = _thread.__dict__.setdefault("kept", {})
    key = (grid.bordered_count, dtype)
    if key not in kept:
        if len(kept) > 64:
            kept.clear()
        kept[key] = np.zeros(grid.bordered_count, dtype=dtype)
    return kept[key]


def neighbours_3x3(out: Sites) -> np.ndarray:
    """First site numbers [S, 3] of the three runs of three sites that a 3x3 convolution of stride 1 reads; same grid as
    `out`."""
    row = out.grid.width + 2
    return out.inside[:, None] + np.array([-row - 1, -1, row - 1])


def resize_taps(out: Sites, source: Grid, align_corners: bool) -> tuple[np.ndarray, np.ndarray]:
    """Site numbers [S, 4] in `source` and weights [S, 4] (float32) of a bilinear resize to `out.grid`.

    The arithmetic is `torch.nn.functional.interpolate(mode="bilinear", antialias=False)` in float32, step by step.
    """
    one_out, one_source = replace(out.grid, batch=1), replace(source, batch=1)
    b, within = (None, out.numbers) if out.grid.batch == 1 else np.divmod(out.numbers, one_out.bordered_count)
    numbers, weights = (x.take(within, axis=0) for x in _resize_table(one_out, one_source, align_corners))
    if b is not None:
        numbers += b[:, None] * one_source.bordered_count
    return numbers, weights


@lru_cache(maxsize=16)
def _resize_table(out: Grid, source: Grid, align_corners: bool) -> tuple[np.ndarray, np.ndarray]:
    """`resize_taps` for every site number of one image; border sites have those of the nearest site inside."""
    b, y, x = out.position(_inside(out))
    table_y = _axis_taps(out.height, source.height, align_corners)
    table_x = _axis_taps(out.width, source.width, align_corners)
    return _bilinear(source, b, [table[y] for table in table_y], [table[x] for table in table_x])


def point_taps(points_px: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Site numbers [B * K, 4] and weights [B * K, 4] (float32) of bilinear samples at `points_px` [B, K, 2] (x, y),
    centres at integers. Whole pixels have one tap instead of four.

    Points beyond the outer pixel centres take the value at the border. Non-finite points get NaN weights.
    """
    batch, count, _ = points_px.shape
    x, y = points_px[..., 0].reshape(-1), points_px[..., 1].reshape(-1)
    finite = np.isfinite(x) & np.isfinite(y)
    all_finite = finite.all()
    b: np.ndarray | int = 0 if batch == 1 else np.repeat(np.arange(batch), count)
    positions = [
        np.clip(position if all_finite else np.where(finite, position, 0.0), 0, size - 1)
        for position, size in ((y, grid.height), (x, grid.width))
    ]
    lows = y0, x0 = [position.astype(np.int64) for position in positions]  # rounds down: nothing is negative
    if all((position == low).all() for position, low in zip(positions, lows)):
        numbers = grid.number(b, y0, x0)[:, None]
        weights = np.ones(numbers.shape, np.float32)
    else:
        wy, wx = ((position - low).astype(np.float32) for position, low in zip(positions, lows))
        numbers, weights = _bilinear(grid, b, (y0, y0 + (wy > 0), wy), (x0, x0 + (wx > 0), wx))
    if not all_finite:
        weights[~finite] = np.nan
    return numbers, weights


def _axis_taps(out_size: int, in_size: int, align_corners: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower tap, upper tap and weight of the upper tap for every output position of one axis."""
    position = np.arange(out_size, dtype=np.float32)
    if align_corners:
        scale = np.float32((in_size - 1) / (out_size - 1)) if out_size > 1 else np.float32(0)
        source = position * scale
    else:
        source = np.maximum(
            (position + np.float32(0.5)) * np.float32(in_size / out_size) - np.float32(0.5), np.float32(0)
        )
    low = np.minimum(source.astype(np.int64), in_size - 1)
    weight = np.clip(source - low.astype(np.float32), np.float32(0), np.float32(1))
    high = np.minimum(low + (weight > 0), in_size - 1)  # an unused tap must not claim a site
    return low, high, weight


def _bilinear(
    grid: Grid, b: np.ndarray | int, taps_y: Sequence[np.ndarray], taps_x: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Site numbers [N, 4] and weights [N, 4] of the four corners, from `_axis_taps` [N] of both axes."""
    (y0, y1, wy), (x0, x1, wx) = taps_y, taps_x
    top, bottom = grid.number(b, y0, 0), grid.number(b, y1, 0)
    numbers = np.stack([top + x0, top + x1, bottom + x0, bottom + x1], axis=1)
    weights = np.stack([(1 - wy) * (1 - wx), (1 - wy) * wx, wy * (1 - wx), wy * wx], axis=1)
    return numbers, weights
