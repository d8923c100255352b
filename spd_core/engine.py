"""The exact sparse engine: runs a decoder's own `forward` at the sites that some query points can see, and nowhere
else.

The law it keeps, for every decoder, image, size, point and number of points:

    decode_points(features, p) == bilinear_sample(decode_dense(features), p)

1. `SparseDecoder` traces the decoder's `forward` once (torch.fx) into a list of layers.
2. `plan` walks that list backwards from the points: each layer says which input sites its output sites need, one site
   set per value. Where a set covers most of its map the value is computed dense, because a dense convolution is cheaper
   per site.
3. `run` walks it forwards on rows, every value at each of its sites exactly once.
4. Several queries of the same feature maps share work: `resume` starts from what earlier ones evaluated (`Known`), with
   a plan that leaves it out, and answers what is known afterwards.

Shapes: B batch, K points, S sites, T taps. A sparse value is rows [S, C], a dense value is a map [B, H, W, C]. What a
convolution on rows reads has its border with it (a row of zeros for each border site that is needed, or for all of
them), so that no neighbour is a special case.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from .layers import POINTWISE, Conv3x3, TapLayer, weighted_sum
from .sites import Grid, Sites, point_taps

# A value needed at more than this share of its map is computed dense: where it comes from a 3x3 convolution, and where
# not. Per site a dense convolution is cheaper than gather + GEMM: 1.5 x on AVX2, 2.6 x on AVX-512 (CPU time of one
# thread, 64 channels). A resize to a large map is bound by memory, and gains nothing.
DENSE_ABOVE = (0.35 if "AVX512" in torch.backends.cpu.get_cpu_capability() else 0.65, 0.65)


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


@dataclass
class Step:
    """One value of the decoder: computed dense on whole maps, or on rows at its site set.

    `zero`: rows of border sites, if convolutions read the value. `merged` [S'] says how what was known before, followed
    by the new rows, becomes rows in ascending order. `last_use`: values not needed any more.
    """

    value: int
    dense: bool
    reads: list[Read]
    sites: int
    zero: Tensor | None = None
    merged: Tensor | None = None
    last_use: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Coverage:
    """Where values of a decoder are known, by value: at these sites, or everywhere in a map without border (None).
    Equal is only what is identical: a plan goes on from one such state, and a kept plan is found by it."""

    sites: dict[int, Sites | None] = field(default_factory=dict)


NOTHING = Coverage()


@dataclass(frozen=True)
class Known:
    """What is known of a decoder's values for some feature maps: rows or maps by value, where `coverage` says. Never
    changed, so that threads may share it: a query makes another.

    Bounded: only values that another query may need are in it, and none of a grid finer than the finest feature map's;
    each has at most the rows of its map and border.
    """

    coverage: Coverage = NOTHING
    values: dict[int, Tensor] = field(default_factory=dict)


@dataclass
class Plan:
    """What to compute for a set of points; depends on the points, the map sizes and on where values are known before,
    so it is reused while those stay.

    `bordered`: values whose map is read at sites by convolutions, and gets its border as soon as it is there.
    """

    grids: tuple[Grid, ...]
    steps: list[Step]
    sample: TapRead
    shape: tuple[int, int]
    bordered: set[int]
    before: Coverage
    after: Coverage

    def to(self, device: torch.device) -> Plan:
        """The same plan with its index tensors on `device`: one copy for each type of number, not one for each of some
        twenty tensors."""
        if device.type == "cpu":  # where they are made
            return self
        owners = [self.sample, *self.steps, *(read for step in self.steps for read in step.reads)]
        tensors = [
            (owner, name, x)
            for owner in owners
            for name in ("taps", "weights", "zero", "merged")
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
        self._readers: list[list[int]] = [[] for _ in nodes]
        for value, arguments in enumerate(self.read_arguments, start=len(self.inputs)):
            for argument in arguments:
                self._readers[argument].append(value)
        # Whether a value is a convolution's, pointwise layers after it included.
        self._is_convolution = [False] * len(self.inputs)
        for layer, arguments in zip(self.layers, self.read_arguments):
            is_passed_on = not isinstance(layer, TapLayer) and any(self._is_convolution[a] for a in arguments)
            self._is_convolution.append(isinstance(layer, Conv3x3) or is_passed_on)

    def _layer(self, value: int) -> Callable[..., Tensor]:
        return self.layers[value - len(self.inputs)]

    def _is_convolved(self, value: int) -> bool:
        return any(isinstance(self._layer(reader), Conv3x3) for reader in self._readers[value])

    def _grids(self, inputs: tuple[Grid, ...]) -> tuple[Grid, ...]:
        """Grid of every value: the inputs, then each layer's output."""
        grids = list(inputs)
        for layer, arguments in zip(self.layers, self.arguments):
            sizes = [(grids[a].height, grids[a].width) for a in arguments]
            size = layer.output_size(*sizes) if isinstance(layer, TapLayer) else sizes[0]
            grids.append(Grid(grids[0].batch, *size))
        return tuple(grids)

    def plan(
        self,
        points_px: np.ndarray,
        inputs: tuple[Grid, ...],
        dense_above: tuple[float, float] = DENSE_ABOVE,
        before: Coverage = NOTHING,
    ) -> Plan:
        """Plan the evaluation at `points_px` [B, K, 2] (x, y) px of the output map, for input maps of the given
        grids, of which values are known `before`."""
        grids = self._grids(inputs)
        first = len(self.inputs)
        sites: list[Sites | None] = [None] * len(grids)  # where a value stands when it is read; None: a map
        # Per value: site numbers, Sites objects (shared as they are), or "all".
        wanted: list[list[np.ndarray | Sites | str]] = [[] for _ in grids]
        bordered: set[int] = set()  # values that a convolution reads at sites
        sample_numbers, sample_weights = point_taps(points_px, grids[-1])
        wanted[-1].append(sample_numbers)
        pending = []
        changed: dict[int, Sites | None] = {}  # where values are known that were not, or not there, before
        for value in range(len(grids) - 1, first - 1, -1):
            known = before.sites.get(value)
            if not wanted[value]:  # every reader is known
                continue
            if value in before.sites and (known is None or known.is_all):
                sites[value] = known
                if known is None and value in bordered:
                    sites[value] = changed[value] = Sites.all(grids[value])
                continue
            layer, arguments = self._layer(value), self.read_arguments[value - first]
            limit = dense_above[0 if self._is_convolution[value] else 1]
            out = _gather_wishes(grids[value], wanted[value], known, limit)
            if known is not None and out is not None and len(out) == 0:
                sites[value] = known
                continue
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
            merged = None
            if out is None:
                sites[value] = Sites.all(grids[value]) if value in bordered else None
            elif known is None:
                sites[value] = out
            else:
                sites[value], merged = known.merge(out)
            changed[value] = sites[value]
            pending.append((value, out, numbers, weights, merged))
        for value in bordered & set(range(first)):
            sites[value] = Sites.all(grids[value])
        steps: list[Step] = []
        unused = set(range(len(grids) - 1))
        for value, out, numbers, weights, merged in pending:  # backwards still: the first reader met is the last to run
            arguments = self.read_arguments[value - first]
            reads: list[Read]
            if out is None:
                reads = [Read(a) for a in arguments]
            elif numbers is None:
                reads = [_read_same_sites(a, sites[a], out, grids[a]) for a in arguments]
            else:
                reads = [_read_taps(a, sites[a], grids[a], numbers, weights) for a in arguments]
            step = Step(value, out is None, reads, grids[value].count if out is None else len(out))
            if out is not None and self._is_convolved(value) and len(out.border_rows):
                step.zero = torch.from_numpy(out.border_rows)
            if merged is not None:
                step.merged = torch.from_numpy(merged)
            step.last_use = tuple(unused & set(arguments))
            unused -= set(arguments)
            steps.append(step)
        sample = _read_taps(len(grids) - 1, sites[-1], grids[-1], sample_numbers, sample_weights)
        after = self._coverage(before, changed, grids)
        return Plan(grids, steps[::-1], sample, (points_px.shape[0], points_px.shape[1]), bordered, before, after)

    def _coverage(self, before: Coverage, changed: dict[int, Sites | None], grids: tuple[Grid, ...]) -> Coverage:
        """What to keep when values are known where `changed` says: those of which readers may want more."""
        if not changed:
            return before
        known, finest = before.sites | changed, max(grid.count for grid in grids[: len(self.inputs)])
        kept: dict[int, Sites | None] = {}
        is_open = [True] * len(grids)  # may have to be evaluated again
        for value in range(len(grids) - 1, len(self.inputs) - 1, -1):
            readers = self._readers[value]
            is_read_again = not readers or any(is_open[reader] for reader in readers)
            # What only a pointwise layer reads is needed where that is computed: its output stands for both.
            is_passed_on = len(readers) == 1 and not isinstance(self._layer(readers[0]), TapLayer)
            if value in known and is_read_again and not is_passed_on and grids[value].count <= finest:
                kept[value] = known[value]
            is_complete = value in kept and ((sites := kept[value]) is None or sites.is_all)
            is_open[value] = is_read_again and not is_complete
        return Coverage(kept)

    def multiply_accumulates(self, work: Plan | tuple[Grid, ...]) -> int:
        """Multiply-accumulates of the convolutions and linear layers for a plan, or of the dense pass over inputs of
        these grids."""
        if isinstance(work, Plan):
            sites = [(step.sites, self._layer(step.value)) for step in work.steps]
        else:
            sites = [(grid.count, layer) for grid, layer in zip(self._grids(work)[len(self.inputs) :], self.layers)]
        return sum(count * layer.weight.numel() for count, layer in sites if isinstance(layer, (Conv3x3, nn.Linear)))

    def run(self, plan: Plan, inputs: list[Tensor], on_step: Callable[[int], None] | None = None) -> Tensor:
        """Evaluate the planned points. `inputs`: dense maps [B, H, W, C] in the order of `self.inputs` -> [B, K, C'].

        `on_step` is called with -1 at first, then with the number of each step done: a stop-watch for `bench/`.
        """
        if plan.before.sites:
            raise ValueError("the plan goes on from known values: resume it with them")
        return self._run(plan, inputs, {}, None, on_step)

    def resume(self, plan: Plan, inputs: list[Tensor], known: Known) -> tuple[Tensor, Known]:
        """As `run`, going on from what is known of these inputs -> [B, K, C'], and what is known then."""
        if known.coverage is not plan.before:
            raise ValueError("the plan goes on from other known values than those given")
        kept: dict[int, Tensor] = {}
        out = self._run(plan, inputs, known.values, kept, None)
        return out, Known(plan.after, kept)

    def _run(
        self,
        plan: Plan,
        inputs: list[Tensor],
        known: dict[int, Tensor],
        kept: dict[int, Tensor] | None,
        on_step: Callable[[int], None] | None,
    ) -> Tensor:
        given = tuple(Grid(*x.shape[:3]) for x in inputs)
        if given != plan.grids[: len(inputs)]:
            raise ValueError(f"the plan was made for feature maps {plan.grids[: len(inputs)]}, got {given}")
        maps = dict(enumerate(inputs)) | known
        for value in plan.bordered & maps.keys():
            if maps[value].dim() == 4:
                maps[value] = _with_border(maps[value])
        if kept is not None:
            kept |= {value: maps[value] for value in plan.after.sites.keys() & maps.keys()}
        if on_step is not None:
            on_step(-1)
        for index, step in enumerate(plan.steps):
            layer = self._layer(step.value)
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
                if step.zero is not None:
                    out = _cleared(out, step.zero)
                if step.merged is not None:
                    out = torch.cat([maps[step.value], out]).index_select(0, step.merged)
            maps[step.value] = out
            if kept is not None and step.value in plan.after.sites:
                kept[step.value] = out
            for value in step.last_use:
                del maps[value]
            if on_step is not None:
                on_step(index)
        sample = plan.sample
        assert sample.weights is not None  # a point is a weighted sum
        at_points = weighted_sum(_as_rows(maps[sample.value]), sample.taps, sample.weights)
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


def _gather_wishes(
    grid: Grid, wanted: list[np.ndarray | Sites | str], known: Sites | None, dense_above: float
) -> Sites | None:
    """The sites wanted of a value that are not known; None where it is computed dense."""
    if len(wanted) == 1 and isinstance(wanted[0], Sites) and known is None:
        return wanted[0]
    numbers = []
    for wish in wanted:
        if isinstance(wish, str):  # "all"
            return None
        numbers.append(wish.numbers if isinstance(wish, Sites) else wish)
    sites = Sites.union(grid, numbers, known)
    return None if len(sites) > dense_above * grid.count else sites


def _read_same_sites(argument: int, source: Sites | None, out: Sites, grid: Grid) -> Read:
    """A pointwise layer reads its own sites, which are among those of its input: as many means the same."""
    if source is None:
        return TapRead(argument, torch.from_numpy(grid.map_rows(out.numbers)))
    return Read(argument) if len(source) == len(out) else TapRead(argument, torch.from_numpy(source.rows(out.numbers)))


def _read_taps(
    argument: int, source: Sites | None, grid: Grid, numbers: np.ndarray, weights: np.ndarray | None
) -> TapRead:
    rows = grid.map_rows(numbers) if source is None else source.rows(numbers)
    return TapRead(argument, torch.from_numpy(rows), None if weights is None else torch.from_numpy(weights))
