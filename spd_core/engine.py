"""The exact sparse engine: runs a decoder's own `forward` at the sites that some query points can see, and nowhere
else.

The law it keeps, for every decoder, image, size, point and number of points:

    decode_points(features, p) == bilinear_sample(decode_dense(features), p)

1. `SparseDecoder` traces the decoder's `forward` once (torch.fx) into a list of layers.
2. `plan` walks that list backwards from the points: each layer says which input sites its output sites need, one site
   set per value. Where a set covers most of its map the value is computed dense, because a dense convolution is cheaper
   per site.
3. `run` walks it forwards on rows, every value at each of its sites exactly once.
4. Several queries of the same feature maps share work: `run` takes what earlier ones evaluated (`Known`), with a plan
   that leaves it out, and returns what is known afterwards.

Shapes: B batch, K points, S sites, T taps. A sparse value is rows [S, C], a dense value is a map [B, H, W, C]. What a
convolution on rows reads has its border with it (a row of zeros for each border site that is needed, or for all of
them), so that no neighbour is a special case.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layer_graph import LayerGraph
from .layers import Conv3x3, TapLayer, weighted_sum
from .plan import UNKNOWN, Known, Plan, Read, make_plan
from .sites import Grid


class SparseDecoder:
    """A decoder module that can be planned and run at points, as `LayerGraph` sees it: with the layers that it has when
    this is made, whatever replaces them later, and without the hooks of those that read neighbours."""

    def __init__(self, decoder: nn.Module):
        self.graph = LayerGraph(decoder)
        self.inputs = self.graph.inputs
        self.plan = partial(make_plan, self.graph)

    def multiply_accumulates(self, work: Plan | tuple[Grid, ...]) -> int:
        """Multiply-accumulates of the convolutions and linear layers for a plan, or of the dense pass over inputs of
        these grids."""
        if isinstance(work, Plan):
            sites = [(step.sites, self.graph.layer(step.value)) for step in work.steps]
        else:
            sites = [
                (grid.count, layer)
                for grid, layer in zip(self.graph.grids(work)[len(self.inputs) :], self.graph.layers)
            ]
        return sum(count * layer.weight.numel() for count, layer in sites if isinstance(layer, (Conv3x3, nn.Linear)))

    def run(self, plan: Plan, inputs: list[Tensor], known: Known = UNKNOWN) -> tuple[Tensor, Known]:
        """Evaluate the planned points, going on from what is known of these inputs.

        Args:
            inputs: dense maps [B, H, W, C] in the order of `self.inputs`.

        Returns:
            Values [B, K, C'], and what is known then.
        """
        if known.coverage is not plan.before:
            raise ValueError("the plan goes on from other known values than those given")
        given = tuple(Grid(*x.shape[:3]) for x in inputs)
        if given != plan.grids[: len(inputs)]:
            raise ValueError(f"the plan was made for feature maps {plan.grids[: len(inputs)]}, got {given}")
        maps = dict(enumerate(inputs)) | known.values
        for value in plan.bordered & maps.keys():
            if maps[value].dim() == 4:
                maps[value] = _with_border(maps[value])
        kept = {value: maps[value] for value in plan.after.sites.keys() & maps.keys()}
        for step in plan.steps:
            layer = self.graph.layer(step.value)
            if step.dense:
                values = [_as_map(maps[read.value], plan.grids[read.value]) for read in step.reads]
                grid = plan.grids[step.value]
                out = (
                    layer.on_map(values[0], (grid.height, grid.width))
                    if isinstance(layer, TapLayer)
                    else layer(*values)
                )
                if step.value in plan.bordered:
                    out = _with_border(out)
            else:
                out = _apply(layer, [(_as_rows(maps[read.value]), read) for read in step.reads])
                if step.zero is not None:  # autograd may need the values as they were
                    out = out.index_fill(0, step.zero, 0) if out.requires_grad else out.index_fill_(0, step.zero, 0)
                if step.merged is not None:
                    out = torch.cat([maps[step.value], out]).index_select(0, step.merged)
            maps[step.value] = out
            if step.value in plan.after.sites:
                kept[step.value] = out
            for value in step.last_use:
                del maps[value]
        sample = plan.sample
        assert sample.taps is not None
        assert sample.weights is not None  # a point is a weighted sum
        at_points = weighted_sum(_as_rows(maps[sample.value]), sample.taps, sample.weights)
        return at_points.reshape(*plan.shape, at_points.shape[1]), Known(plan.after, kept)


def _apply(layer: Callable[..., Tensor], inputs: list[tuple[Tensor, Read]]) -> Tensor:
    """A layer on rows, each input read as it says."""
    (rows, read), *_ = inputs
    if isinstance(layer, TapLayer):
        assert read.taps is not None  # as it was planned
        return layer.on_rows(rows, read.taps, read.weights)
    return layer(*(x if read.taps is None else x.index_select(0, read.taps) for x, read in inputs))


def _with_border(x: Tensor) -> Tensor:
    """A map [B, H, W, C] as rows of all sites, those of the border zero."""
    return F.pad(x, (0, 0, 1, 1, 1, 1)).flatten(0, 2)


def _as_rows(x: Tensor) -> Tensor:
    """Rows of a value: those of a map [B, H, W, C] without a copy."""
    return x if x.dim() == 2 else x.flatten(0, 2)


def _as_map(x: Tensor, grid: Grid) -> Tensor:
    """The map of a value that is known everywhere."""
    if x.dim() == 4:
        return x
    return x.view(grid.batch, grid.height + 2, grid.width + 2, -1)[:, 1:-1, 1:-1]
