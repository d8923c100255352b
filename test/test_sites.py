"""Taps and rows against torch's own operators."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from spd_core.layers import Conv3x3, Resize, weighted_sum
from spd_core.sites import Grid, Sites, neighbours_3x3, point_taps, resize_taps


def all_numbers(grid: Grid) -> np.ndarray:
    """Site numbers [B * H * W] of the map, without the border, in the order of its rows."""
    return grid.number(*np.indices((grid.batch, grid.height, grid.width))).reshape(-1)


def subset(grid: Grid, share: float, seed: int = 0) -> Sites:
    full = all_numbers(grid)
    return Sites(grid, np.sort(np.random.default_rng(seed).choice(full, max(1, int(share * len(full))), replace=False)))


def flat(grid: Grid, numbers: np.ndarray) -> np.ndarray:
    b, y, x = grid.position(numbers)
    return (b * grid.height + y) * grid.width + x


def test_numbers_and_positions_are_inverse():
    grid = Grid(3, 5, 7)
    numbers = all_numbers(grid)
    assert len(numbers) == grid.count == 105
    assert (grid.number(*grid.position(numbers)) == numbers).all()
    assert (flat(grid, numbers) == np.arange(105)).all()
    assert (grid.map_rows(numbers) == np.arange(105)).all()


def test_union_has_no_duplicates_and_knows_its_border():
    grid = Grid(2, 4, 4)
    corner = Sites(grid, grid.number(np.array([0]), np.array([0]), np.array([0])))
    runs = neighbours_3x3(corner).reshape(-1)
    assert len(corner.border_rows) == 0
    reached = Sites.union(grid, [runs, runs, runs + 1, runs + 2])
    assert len(reached) == 9
    assert reached.border_rows.tolist() == [0, 1, 2, 3, 6]
    assert flat(grid, reached.inside).tolist() == [
        0,
        0,
        1,
        0,
        0,
        1,
        4,
        4,
        5,
    ]  # border sites stand for their nearest inside
    assert reached.rows(runs).tolist() == [0, 3, 6]


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((5, 7), (10, 14)),
        ((13, 17), (26, 34)),
        ((6, 9), (7, 5)),
        ((1, 4), (3, 11)),
        ((8, 8), (8, 8)),
        ((37, 37), (518, 37)),
        ((4, 4), (1, 1)),
    ],
)
def test_resize_taps_are_interpolate(source, target, align_corners):
    x = torch.randn(2, *source, 3, generator=torch.Generator().manual_seed(0))
    reference = (
        F.interpolate(x.permute(0, 3, 1, 2), size=target, mode="bilinear", align_corners=align_corners)
        .permute(0, 2, 3, 1)
        .flatten(0, 2)
    )
    out, grid = subset(Grid(2, *target), 0.7), Grid(2, *source)
    numbers, weights = resize_taps(out, grid, align_corners)
    rows = weighted_sum(x.flatten(0, 2), torch.from_numpy(flat(grid, numbers)), torch.from_numpy(weights))
    torch.testing.assert_close(rows, reference[flat(out.grid, out.numbers)], rtol=0, atol=2e-5)
    assert (grid.inside(numbers) == numbers).all(), "a resize reads inside its map only"


def test_unused_resize_taps_claim_no_sites():
    grid = Grid(1, 9, 9)
    numbers, _ = resize_taps(Sites(grid, all_numbers(grid)), grid, align_corners=True)  # the identity
    assert (numbers == all_numbers(grid)[:, None]).all()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("share", [0.05, 0.6, 1.0])
def test_convolution_on_rows_is_conv2d(share, bias, monkeypatch):
    monkeypatch.setattr(Conv3x3, "CPU_CHUNK", 50)
    torch.manual_seed(0)
    conv, grid = Conv3x3(6, 4, bias), Grid(2, 7, 9)
    if bias:
        torch.nn.init.normal_(conv.bias)
    x = torch.randn(2, 7, 9, 6)
    out = subset(grid, share)
    numbers, _ = conv.taps(out, grid)
    source, taps = (
        F.pad(x, (0, 0, 1, 1, 1, 1)).flatten(0, 2),
        torch.from_numpy(numbers.astype(np.int32)),
    )  # a padded map has a row for each site number
    sparse = conv.on_rows(source, taps, None)
    for _ in range(2):  # the second time with the kept matrix
        with torch.inference_mode():
            torch.testing.assert_close(conv.on_rows(source, taps, None), sparse)
            reference = (
                F.conv2d(x.permute(0, 3, 1, 2), conv.weight, conv.bias, padding=1).permute(0, 2, 3, 1).flatten(0, 2)
            )
        torch.testing.assert_close(sparse.detach(), reference[flat(grid, out.numbers)])
        conv.weight.data = 2 * conv.weight.data  # other storage: what was kept is stale
        sparse = conv.on_rows(source, taps, None)


def test_point_taps_are_bilinear():
    grid = Grid(1, 4, 5)
    values = np.arange(20.0)
    numbers, weights = point_taps(np.array([[[1.25, 2.5], [4.0, 3.0], [-3.0, 9.0], [np.nan, 1.0]]]), grid)
    out = (values[flat(grid, numbers)] * weights).sum(1)
    assert out[:3] == pytest.approx([2.5 * 5 + 1.25, 19, 15])
    assert np.isnan(out[3])


def test_resize_to_the_size_of_another_map():
    x, like = torch.randn(1, 4, 6, 2), torch.zeros(1, 7, 5, 9)
    assert Resize()(x, like).shape == (1, 7, 5, 2)
    assert Resize(3)(x).shape == (1, 12, 18, 2)
