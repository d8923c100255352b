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


@dataclass
class _Task:
    """A value that has to be evaluated: at the sites `out`, or dense (None). A layer with taps reads its input at the
    site numbers `numbers` with `weights`. `merged` as in `Step`."""

    value: int
    out: Sites | None
    numbers: np.ndarray | None
    weights: np.ndarray | None
    merged: np.ndarray | None


class _Walk:
    """Which values are evaluated, and where: last value first.

    Attributes:
        sites: by value, where it stands when it is read; None: a map.
        bordered: values that a convolution reads at sites.
        changed: where values are known that were not, or not there, before.
        tasks: in the order in which they were found, which is backwards.
    """

    def __init__(
        self,
        graph: LayerGraph,
        grids: tuple[Grid, ...],
        points: np.ndarray,
        dense_above: tuple[float, float],
        before: Coverage,
    ):
        self._graph, self._grids, self._dense_above = graph, grids, dense_above
        self.sites: list[Sites | None] = [None] * len(grids)
        self.bordered: set[int] = set()
        self.changed: dict[int, Sites | None] = {}
        self.tasks: list[_Task] = []
        # Per value: site numbers, Sites objects (shared as they are), or "all".
        self._wanted: list[list[np.ndarray | Sites | str]] = [[] for _ in grids]
        self._wanted[-1].append(points)
        first = len(graph.inputs)
        for value in range(len(grids) - 1, first - 1, -1):
            if self._wanted[value]:  # otherwise every reader is known
                self._visit(value, before)
        for value in self.bordered & set(range(first)):
            self.sites[value] = Sites.all(grids[value])

    def _visit(self, value: int, before: Coverage) -> None:
        known = before.sites.get(value)
        if value in before.sites and (known is None or known.is_all):
            self.sites[value] = known
            if known is None and value in self.bordered:
                self.sites[value] = self.changed[value] = Sites.all(self._grids[value])
            return
        limit = self._dense_above[1]
        if self._graph.from_convolution[value]:
            limit = self._dense_above[0] * (LARGE_TIMES if self._grids[value].count > LARGE_SITES else 1)
        out = _requested_sites(self._grids[value], self._wanted[value], known, limit)
        if known is not None and out is not None and len(out) == 0:
            self.sites[value] = known
            return
        numbers, weights = self._request_inputs(value, out)
        merged = None
        if out is None:
            self.sites[value] = Sites.all(self._grids[value]) if value in self.bordered else None
        elif known is None:
            self.sites[value] = out
        else:
            self.sites[value], merged = known.merge(out)
        self.changed[value] = self.sites[value]
        self.tasks.append(_Task(value, out, numbers, weights, merged))

    def _request_inputs(self, value: int, out: Sites | None) -> tuple[np.ndarray | None, np.ndarray | None]:
        """What is read of the inputs of a value; of a layer with taps, at which site numbers and with which weights."""
        layer, arguments = self._graph.layer(value), self._graph.reads(value)
        if out is None or not isinstance(layer, TapLayer):
            for argument in arguments:
                self._wanted[argument].append("all" if out is None else out)
            return None, None
        source = arguments[0]
        numbers, weights = layer.taps(out, self._grids[source])
        if weights is None:
            self._wanted[source] += [numbers, numbers + 1, numbers + 2]
            self.bordered.add(source)
        else:
            self._wanted[source].append(numbers)
        return numbers, weights


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
    numbers, weights = point_taps(points_px, grids[-1])
    walk = _Walk(graph, grids, numbers, dense_above, before)
    steps: list[Step] = []
    unused = set(range(len(grids) - 1))
    for task in walk.tasks:  # backwards: the first reader met is the last to run
        step = _step(graph, grids, walk.sites, task)
        arguments = set(graph.reads(task.value))
        step.last_use = tuple(unused & arguments)
        unused -= arguments
        steps.append(step)
    sample = _read_taps(len(grids) - 1, walk.sites[-1], grids[-1], numbers, weights)
    after = _coverage(graph, before, walk.changed, grids)
    return Plan(grids, steps[::-1], sample, (points_px.shape[0], points_px.shape[1]), walk.bordered, before, after)


def _step(graph: LayerGraph, grids: tuple[Grid, ...], sites: list[Sites | None], task: _Task) -> Step:
    value, out, arguments = task.value, task.out, graph.reads(task.value)
    reads: list[Read]
    if out is None:
        return Step(value, True, [Read(a) for a in arguments], grids[value].count)
    if task.numbers is None:
        reads = [_read_same_sites(a, sites[a], out, grids[a]) for a in arguments]
    else:
        reads = [_read_taps(a, sites[a], grids[a], task.numbers, task.weights) for a in arguments]
    step = Step(value, False, reads, len(out))
    if graph.read_by_convolution(value) and len(out.border_rows):
        step.zero = torch.from_numpy(out.border_rows)
    if task.merged is not None:
        step.merged = torch.from_numpy(task.merged)
    return step


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


def _requested_sites(
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
        return Read(argument, torch.from_numpy(grid.map_rows(out.numbers)))
    return Read(argument, None if len(source) == len(out) else torch.from_numpy(source.rows(out.numbers)))


def _read_taps(
    argument: int, source: Sites | None, grid: Grid, numbers: np.ndarray, weights: np.ndarray | None
) -> Read:
    rows = grid.map_rows(numbers) if source is None else source.rows(numbers)
    return Read(argument, torch.from_numpy(rows), None if weights is None else torch.from_numpy(weights))
