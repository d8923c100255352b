"""What to compute for some points: a walk through a decoder's layers, backwards from the points."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .layer_graph import LayerGraph
from .layers import TapLayer
from .sites import Grid, Sites, point_taps

# A value needed at more than this share of its map is computed dense: where it comes from a 3x3 convolution, and where
# not. Per site a dense convolution is cheaper than gather + GEMM: 1.8 x on AVX2, 2.6 x on AVX-512. Maps that are dense
# also serve the next query of the frame: where one follows that pays for them earlier, for small maps most, so that
# convolutions wait longer on large ones (bench/decoder.py --dense_above, bench/network.py). A resize to a large map is
# bound by memory, and gains nothing.
DENSE_ABOVE, DENSE_ABOVE_SHARED = (0.45, 0.65), (0.3, 0.65)
LARGE_SITES, LARGE_TIMES = 16384, 1.5


@dataclass
class Read:
    """How a layer reads one input value: rows of it, `taps` [S, T] their numbers, with the `weights` [S, T] of a
    weighted sum; without `taps` the whole map, or the very same rows in order."""

    value: int
    taps: Tensor | None = None
    weights: Tensor | None = None


@dataclass
class Step:
    """One value of the decoder: computed dense on whole maps, or on rows at its site set.

    `zero`: rows of border sites, if layers read them. `merged` [S'] says how what was known before, followed by the new
    rows, becomes rows in ascending order. `last_use`: values not needed any more.
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
    Compared by identity: a plan continues from one particular state, and is looked up by it."""

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


UNKNOWN = Known()


@dataclass
class Plan:
    """What to compute for a set of points; depends on the points, the map sizes and on where values are known before,
    so it is reused while those stay.

    `bordered`: values whose map is read at sites by convolutions, and gets its border as soon as it is there.
    """

    grids: tuple[Grid, ...]
    steps: list[Step]
    sample: Read
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


# What a reader asks of a value: sites by their numbers, those of a set, or the whole map (None). Numbers without
# weights are the first of three consecutive sites each, as a convolution reads them.
Wanted = np.ndarray | Sites | None


class _Walk:
    """Where the values of a plan stand, and how they are read: last value first, so that all readers of a value have
    asked for it when it is visited.

    Attributes:
        steps: what is evaluated, last first.
        bordered: values that a convolution reads at sites.
        changed: where values are known that were not, or not there, before.
    """

    def __init__(self, graph: LayerGraph, grids: tuple[Grid, ...], dense_above: tuple[float, float], before: Coverage):
        self._graph, self._grids, self._dense_above = graph, grids, dense_above
        self._before: dict[int, Sites | None] = dict.fromkeys(range(len(graph.inputs))) | before.sites
        self.steps: list[Step] = []
        self.bordered: set[int] = set()
        self.changed: dict[int, Sites | None] = {}
        self._asked: list[list[tuple[Read, Wanted]]] = [[] for _ in grids]

    def ask(self, value: int, wanted: Wanted, weights: np.ndarray | None = None) -> Read:
        """How a reader reads a value; its rows are known once the value is visited."""
        read = Read(value, weights=None if weights is None else torch.from_numpy(weights))
        self._asked[value].append((read, wanted))
        return read

    def visit(self, value: int) -> None:
        """Settle where a value stands, evaluate what is not known of it, and tell its readers their rows."""
        grid, asked = self._grids[value], self._asked[value]
        if not asked:  # every reader is known
            return
        everywhere = None  # as a map
        if any(_is_runs(read, wanted) for read, wanted in asked):
            self.bordered.add(value)
            everywhere = Sites.all(grid)
        is_known, known = value in self._before, self._before.get(value)
        if is_known and known is None:  # as inputs are
            sites = everywhere
        elif known is not None and known.is_all:
            sites = known
        else:
            sites = self._evaluate(value, known, everywhere)
        if not (is_known and sites is known):
            self.changed[value] = sites
        for read, wanted in asked:
            if isinstance(wanted, Sites):  # those of the value, or some of them: as many means the same
                wanted = None if sites is not None and len(sites) == len(wanted) else wanted.numbers
            if wanted is not None:
                read.taps = torch.from_numpy(grid.map_rows(wanted) if sites is None else sites.rows(wanted))

    def _evaluate(self, value: int, known: Sites | None, everywhere: Sites | None) -> Sites | None:
        """Plan what is asked of a value and not known; where it stands then, `everywhere` if it is computed dense."""
        graph, grid = self._graph, self._grids[value]
        limit = self._dense_above[1]
        if graph.from_convolution[value]:
            limit = self._dense_above[0] * (LARGE_TIMES if grid.count > LARGE_SITES else 1)
        out = _missing_sites(grid, self._asked[value], known, limit)
        if known is not None and out is not None and len(out) == 0:
            return known
        layer, arguments = graph.layer(value), graph.reads(value)
        if out is not None and isinstance(layer, TapLayer):
            reads = [self.ask(arguments[0], *layer.taps(out, self._grids[arguments[0]]))]
        else:
            reads = [self.ask(argument, out) for argument in arguments]
        step = Step(value, out is None, reads, grid.count if out is None else len(out))
        self.steps.append(step)
        if out is None:
            return everywhere
        if graph.is_read_at_taps(value) and len(out.border_rows):
            step.zero = torch.from_numpy(out.border_rows)
        if known is None:
            return out
        sites, merged = known.merge(out)
        step.merged = torch.from_numpy(merged)
        return sites


def make_plan(
    graph: LayerGraph,
    points_px: np.ndarray,
    inputs: tuple[Grid, ...],
    dense_above: tuple[float, float] = DENSE_ABOVE,
    before: Coverage = NOTHING,
) -> Plan:
    """The plan for points [B, K, 2] (x, y) px of the output map, for input maps of the given grids, of which values are
    known `before`."""
    grids = graph.grids(inputs)
    values = range(len(grids))
    walk = _Walk(graph, grids, dense_above, before)
    sample = walk.ask(values[-1], *point_taps(points_px, grids[-1]))
    for value in reversed(values):
        walk.visit(value)
    unused = set(values[:-1])
    for step in walk.steps:  # backwards: the first reader met is the last to run
        step.last_use = tuple(unused & {read.value for read in step.reads})
        unused -= set(step.last_use)
    after = _coverage(graph, before, walk.changed, grids)
    return Plan(grids, walk.steps[::-1], sample, (points_px.shape[0], points_px.shape[1]), walk.bordered, before, after)


def _is_runs(read: Read, wanted: Wanted) -> bool:
    """Whether numbers are those of runs of three sites."""
    return isinstance(wanted, np.ndarray) and read.weights is None


def _missing_sites(
    grid: Grid, asked: list[tuple[Read, Wanted]], known: Sites | None, dense_above: float
) -> Sites | None:
    """The sites asked of a value that are not known; None where it is computed dense."""
    numbers = []
    for read, wanted in asked:
        if wanted is None:
            return None
        if isinstance(wanted, Sites) and len(asked) == 1 and known is None:
            return wanted
        first = wanted.numbers if isinstance(wanted, Sites) else wanted
        numbers += [first, first + 1, first + 2] if _is_runs(read, wanted) else [first]
    sites = Sites.union(grid, numbers, known)
    return None if len(sites) > dense_above * grid.count else sites


def _coverage(
    graph: LayerGraph, before: Coverage, changed: dict[int, Sites | None], grids: tuple[Grid, ...]
) -> Coverage:
    """What to keep when values are known where `changed` says: those of which readers may want more."""
    if not changed:
        return before
    known, finest = before.sites | changed, max(grid.count for grid in grids[: len(graph.inputs)])
    kept: dict[int, Sites | None] = {}
    is_open = [True] * len(grids)  # may have to be evaluated again
    for value in range(len(grids) - 1, len(graph.inputs) - 1, -1):
        readers = graph.readers[value]
        is_read_again = not readers or any(is_open[reader] for reader in readers)
        # What only a pointwise layer reads is needed where that is computed: its output stands for both.
        is_passed_on = len(readers) == 1 and not isinstance(graph.layer(readers[0]), TapLayer)
        if value in known and is_read_again and not is_passed_on and grids[value].count <= finest:
            kept[value] = known[value]
        is_complete = value in kept and ((sites := kept[value]) is None or sites.is_all)
        is_open[value] = is_read_again and not is_complete
    return Coverage(kept)
