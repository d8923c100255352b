"""The exact sparse engine: runs a decoder's own `forward` at the sites that some query points can see, and nowhere
else.

The law it keeps, for every decoder, image, size, point and number of points:

    decode_points(features, p) == bilinear_sample(decode_dense(features), p)

1. `SparseDecoder` traces the decoder's `forward` once (torch.fx) into a list of layers.
2. `plan` walks that list backwards from the points: each layer says which input sites its output sites need, one site
   set per value. Where a set covers most of its map the value is computed dense, because a dense convolution is cheaper
   per site.
3. `run` walks it forwards on rows, every value at each of its sites exactly once.

Shapes: B batch, K points, S sites, T taps. A sparse value is rows [S, C], a dense value is a map [B, H, W, C]. What a
convolution reads has its border with it (a row of zeros for each border site that is needed, or a padded map), so that
no neighbour is a special case.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from .layers import POINTWISE, Conv3x3, TapLayer, weighted_sum
from .sites import Grid, Sites, point_taps

# A value needed at more than this share of its map is computed dense: per site, gather + GEMM costs about 1.5 x a dense
# convolution (2 AVX2 cores, 64 channels).
DENSE_ABOVE = 0.65


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return isinstance(module, (TapLayer, *POINTWISE))


@dataclass
class Read:
    """How a layer reads one input: the whole map, or the very same rows in order."""

    value: int


@dataclass
class TapRead(Read):
    """Reads chosen rows: `taps` [S, T] are row numbers of the input value, `weights` [S, T] those of a weighted sum."""

    taps: Tensor
    weights: Tensor | None = None
    pad: bool = False  # the input is a dense map, read with a border of zeros


@dataclass
class Step:
    """One value of the decoder: computed dense on whole maps, or on rows at its site set.

    `zero`: rows of border sites, if a convolution reads them. `last_use`: values not needed any more.
    """

    value: int
    dense: bool
    reads: list[Read]
    sites: int
    zero: Tensor | None = None
    last_use: tuple[int, ...] = ()


@dataclass
class Plan:
    """What to compute for a set of points; depends on the points and the map sizes alone, so it is reused while those
    stay."""

    grids: tuple[Grid, ...]
    steps: list[Step]
    sample: TapRead
    shape: tuple[int, int]

    def to(self, device: torch.device) -> Plan:
        """The same plan with its index tensors on `device`: one copy for each type of number, not one for each of some
        twenty tensors."""
        if device.type == "cpu":  # where they are made
            return self
        owners = [self.sample, *self.steps, *(read for step in self.steps for read in step.reads)]
        tensors = [
            (owner, name, x)
            for owner in owners
            for name in ("taps", "weights", "zero")
            if (x := getattr(owner, name, None)) is not None
        ]
        for dtype in {x.dtype for *_, x in tensors}:
            group = [(owner, name, x) for owner, name, x in tensors if x.dtype == dtype]
            parts = upload(torch.cat([x.reshape(-1) for *_, x in group]), device).split([x.numel() for *_, x in group])
            for (owner, name, x), part in zip(group, parts):
                setattr(owner, name, part.view(x.shape))
        return self


def upload(x: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on `device`; to CUDA from pinned memory, so that the host does not wait for the copy."""
    return (x.pin_memory() if device.type == "cuda" and torch.cuda.is_available() else x).to(device, non_blocking=True)


class SparseDecoder:
    """A decoder module as a list of layers, which can be planned and run at points.

    Args:
        decoder: module whose `forward` takes maps [B, H, W, C] and returns one map, built from the layers of
            `layers.py` and `+`.
    """

    def __init__(self, decoder: nn.Module):
        nodes = [node for node in _Tracer().trace(decoder).nodes if node.op != "output"]
        number = {node: i for i, node in enumerate(nodes)}
        self.inputs = [node.target for node in nodes if node.op == "placeholder"]
        self.layers: list[Callable[..., Tensor]] = []
        self.arguments: list[list[int]] = []
        for node in nodes[len(self.inputs) :]:
            if node.op == "call_module":
                self.layers.append(decoder.get_submodule(node.target))
            elif node.op == "call_function" and node.target is operator.add:
                self.layers.append(operator.add)
            else:
                raise TypeError(
                    f"{type(decoder).__name__}.forward does {node.format_node()}: a decoder is built from"
                    " spd_core.layers and '+' only"
                )
            self.arguments.append([number[argument] for argument in node.args])
        # A resize may take a second input for its size alone: no sites are read from it.
        self.read_arguments = [
            arguments[:1] if isinstance(layer, TapLayer) else arguments
            for layer, arguments in zip(self.layers, self.arguments)
        ]

    def _grids(self, inputs: tuple[Grid, ...]) -> tuple[Grid, ...]:
        """Grid of every value: the inputs, then each layer's output."""
        grids = list(inputs)
        for layer, arguments in zip(self.layers, self.arguments):
            sizes = [(grids[a].height, grids[a].width) for a in arguments]
            size = layer.output_size(*sizes) if isinstance(layer, TapLayer) else sizes[0]
            grids.append(Grid(grids[0].batch, *size))
        return tuple(grids)

    def plan(self, points_px: np.ndarray, inputs: tuple[Grid, ...], dense_above: float = DENSE_ABOVE) -> Plan:
        """Plan the evaluation at `points_px` [B, K, 2] (x, y) px of the output map, for input maps of the given
        grids."""
        grids = self._grids(inputs)
        first = len(self.inputs)
        sites: list[Sites | None] = [None] * len(grids)  # None: dense
        # Per value: site numbers, Sites objects (shared as they are), or "all".
        wanted: list[list[np.ndarray | Sites | str]] = [[] for _ in grids]
        bordered: set[int] = set()  # values that a convolution reads at sites
        sample_numbers, sample_weights = point_taps(points_px, grids[-1])
        wanted[-1].append(sample_numbers)
        pending = []
        for value in range(len(grids) - 1, first - 1, -1):
            layer, arguments = self.layers[value - first], self.read_arguments[value - first]
            out = sites[value] = _gather_wishes(grids[value], wanted[value], dense_above)
            numbers = weights = None
            if out is not None and isinstance(layer, TapLayer):
                numbers, weights = layer.taps(out, grids[arguments[0]])
                if weights is None:
                    wanted[arguments[0]] += [numbers, numbers + 1, numbers + 2]
                    bordered.add(arguments[0])
                else:
                    wanted[arguments[0]].append(numbers)
            else:
                for argument in arguments:
                    wanted[argument].append("all" if out is None else out)
            pending.append((value, numbers, weights))
        steps: list[Step] = []
        unused = set(range(len(grids) - 1))
        for value, numbers, weights in pending:  # still backwards: the first reader met is the last one to run
            arguments, out = self.read_arguments[value - first], sites[value]
            reads: list[Read]
            if out is None:
                reads = [Read(a) for a in arguments]
            elif numbers is None:
                reads = [_read_same_sites(a, sites[a], out, grids[a]) for a in arguments]
            else:
                reads = [_read_taps(a, sites[a], grids[a], numbers, weights) for a in arguments]
            zero = (
                torch.from_numpy(out.border_rows)
                if out is not None and value in bordered and len(out.border_rows)
                else None
            )
            last_use = tuple(unused & set(arguments))
            unused -= set(arguments)
            steps.append(
                Step(value, out is None, reads, grids[value].count if out is None else len(out), zero, last_use)
            )
        sample = _read_taps(len(grids) - 1, sites[-1], grids[-1], sample_numbers, sample_weights)
        return Plan(grids, steps[::-1], sample, (points_px.shape[0], points_px.shape[1]))

    def multiply_accumulates(self, work: Plan | tuple[Grid, ...]) -> int:
        """Multiply-accumulates of the convolutions and linear layers for a plan, or of the dense pass over inputs of
        these grids."""
        if isinstance(work, Plan):
            sites = [step.sites for step in work.steps]
        else:
            sites = [grid.count for grid in self._grids(work)[len(self.inputs) :]]
        return sum(
            count * layer.weight.numel()
            for count, layer in zip(sites, self.layers)
            if isinstance(layer, (Conv3x3, nn.Linear))
        )

    def run(self, plan: Plan, inputs: list[Tensor], on_step: Callable[[int], None] | None = None) -> Tensor:
        """Evaluate the planned points. `inputs`: dense maps [B, H, W, C] in the order of `self.inputs` -> [B, K, C'].

        `on_step` is called with -1 at first, then with the number of each step done: a stop-watch for `bench/`.
        """
        given = tuple(Grid(*x.shape[:3]) for x in inputs)
        if given != plan.grids[: len(inputs)]:
            raise ValueError(f"the plan was made for feature maps {plan.grids[: len(inputs)]}, got {given}")
        first = len(inputs)
        maps = dict(enumerate(inputs))  # those that are needed still
        if on_step is not None:
            on_step(-1)
        for index, step in enumerate(plan.steps):
            layer = self.layers[step.value - first]
            if step.dense:
                values = [maps[read.value] for read in step.reads]
                grid = plan.grids[step.value]
                maps[step.value] = (
                    layer.on_map(values[0], (grid.height, grid.width))
                    if isinstance(layer, TapLayer)
                    else layer(*values)
                )
            else:
                rows = _apply(layer, [(_rows(maps[read.value], read), read) for read in step.reads])
                maps[step.value] = rows if step.zero is None else _cleared(rows, step.zero)
            for value in step.last_use:
                del maps[value]
            if on_step is not None:
                on_step(index)
        sample = plan.sample
        assert sample.weights is not None  # a point is a weighted sum
        at_points = weighted_sum(_rows(maps[sample.value], sample), sample.taps, sample.weights)
        return at_points.reshape(*plan.shape, at_points.shape[1])


def _apply(layer: Callable[..., Tensor], inputs: list[tuple[Tensor, Read]]) -> Tensor:
    """A layer on rows, each input read as it says."""
    (rows, read), *_ = inputs
    if isinstance(layer, TapLayer):
        assert isinstance(read, TapRead)  # as it was planned
        return layer.on_rows(rows, read.taps, read.weights)
    return layer(*(x.index_select(0, read.taps) if isinstance(read, TapRead) else x for x, read in inputs))


def _cleared(rows: Tensor, zero: Tensor) -> Tensor:
    if rows.requires_grad:  # autograd may need the values as they were
        return rows.index_fill(0, zero, 0)
    return rows.index_fill_(0, zero, 0)


def _rows(x: Tensor, read: Read) -> Tensor:
    """Rows of a value: a dense map [B, H, W, C] is the rows of all its sites, without a copy unless its border is
    needed."""
    if x.dim() == 2:
        return x
    return (F.pad(x, (0, 0, 1, 1, 1, 1)) if isinstance(read, TapRead) and read.pad else x).flatten(0, 2)


def _gather_wishes(grid: Grid, wanted: list[np.ndarray | Sites | str], dense_above: float) -> Sites | None:
    """The sites wanted of a value; None where it is computed dense."""
    if len(wanted) == 1 and isinstance(wanted[0], Sites):
        return wanted[0]
    numbers = []
    for wish in wanted:
        if isinstance(wish, str):  # "all"
            return None
        numbers.append(wish.numbers if isinstance(wish, Sites) else wish)
    sites = Sites.union(grid, numbers)
    return None if len(sites) > dense_above * grid.count else sites


def _read_same_sites(argument: int, source: Sites | None, out: Sites, grid: Grid) -> Read:
    """A pointwise layer reads its own sites, which are among those of its input: as many means the same."""
    if source is None:
        return TapRead(argument, torch.from_numpy(grid.map_rows(out.numbers)))
    return Read(argument) if len(source) == len(out) else TapRead(argument, torch.from_numpy(source.rows(out.numbers)))


def _read_taps(
    argument: int, source: Sites | None, grid: Grid, numbers: np.ndarray, weights: np.ndarray | None
) -> TapRead:
    pad = source is None and weights is None
    if source is not None:
        rows = source.rows(numbers)
    elif pad:
        rows = numbers.astype(np.int32)  # rows of a padded map are numbered like its sites
    else:
        rows = grid.map_rows(numbers)
    return TapRead(argument, torch.from_numpy(rows), None if weights is None else torch.from_numpy(weights), pad)
