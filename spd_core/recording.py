"""Replay evaluation: what a model answers at points of a recording with depth, and how long it takes. The points and
the report; the answers come from a `Predictor` here, or from the node over ROS 2 (`spd_ros.player`)."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import files
from .camera import cell_centres, inside_image
from .data.bag import BagFrame, RecordedFrame
from .data.images import write_picture
from .errors import SPDError, at_least
from .metrics import depth_metrics, mean_metrics
from .pictures import draw_overlay
from .pixels import at_pixels, check_grid, pixel_under, random_pixels
from .predictor import Predictor
from .reports import new_figure, save_figure, say_instead
from .scale import ScaleFilter
from .scale_evaluation import draw_references, sigma_report
from .status import Status

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DROPPED = ("FRAME_SKIPPED", "TIMED_OUT", "NO_IMAGE", "NO_ANSWER")  # statuses of a frame that nothing was answered about


@dataclass
class Sampling:
    """Which points of each frame are asked.

    Args:
        points: random pixels per frame, of those with known depth where the bag has depth.
        grid: columns, rows: these instead.
        recorded: the points of the bag's own query topic instead.
        seed: of the random pixels.
    """

    points: int = 128
    grid: tuple[int, int] | None = None
    recorded: bool = False
    seed: int = 0

    def __post_init__(self):
        at_least(1, points=self.points)
        if self.grid is not None:
            check_grid(*self.grid)
        at_least(0, seed=self.seed)
        if self.recorded and self.grid is not None:
            raise SPDError("recorded and grid exclude each other")


def frames_to_ask(frames: Iterable[RecordedFrame], sampling: Sampling) -> Iterator[RecordedFrame]:
    """The frames with the queries to ask about each; ids count through the whole recording, so that an answer names its
    question."""
    first_id = 0
    for index, frame in enumerate(frames):
        known = np.ones(frame.rgb.shape[:2], dtype=bool) if frame.depth_m is None else frame.depth_m > 0
        if sampling.recorded:
            points = [uv for uv, _ in frame.queries]
        elif sampling.grid is not None:
            points = [cell_centres(known.shape, *sampling.grid)]
        else:
            points = [random_pixels(known, sampling.points, [sampling.seed, index]).astype(np.float64)]
        queries = []
        for uv in points:
            if len(uv):
                queries.append((uv, np.arange(first_id, first_id + len(uv), dtype=np.uint32)))
                first_id += len(uv)
        yield replace(frame, queries=queries)


@dataclass(frozen=True)
class Reply:
    """The answer to one query: arrays [K] of depth, its sigma (m) and status, and how long it took."""

    depth_m: np.ndarray
    sigma_m: np.ndarray
    status: np.ndarray
    latency_s: float


@dataclass
class Asked:
    """One query: its points [K, 2] px and ids, their true depth [K] (m, NaN where unknown), and the reply, if any
    came."""

    uv: np.ndarray
    ids: np.ndarray
    truth_m: np.ndarray
    reply: Reply | None = None


@dataclass
class Replayed:
    """What is kept of a frame once it is played; `rgb` of the one that is pictured."""

    stamp_ns: int
    asked: list[Asked]
    rgb: np.ndarray | None = None

    @classmethod
    def of(cls, frame: BagFrame, keep_picture: bool = False) -> Replayed:
        depth_m = np.zeros(frame.rgb.shape[:2]) if frame.depth_m is None else frame.depth_m
        known_m = np.where(depth_m > 0, depth_m, np.nan)
        asked = [Asked(uv, ids, at_pixels(known_m, uv)) for uv, ids in frame.queries]
        return cls(frame.stamp_ns, asked, frame.rgb if keep_picture else None)

    def answered(self) -> list[tuple[Asked, Reply]]:
        """The queries that were answered."""
        return [(asked, asked.reply) for asked in self.asked if asked.reply is not None]


def answer_offline(frames: Iterable[BagFrame], predictor: Predictor, references: int = 0) -> Iterator[Replayed]:
    """Ask the predictor; latency is that of encoding the image and decoding the points. The first frame is encoded
    twice, to warm up. With `references`, a scale is learned from so many of each frame's depths, noisy and some of them
    outliers (`scale_evaluation.draw_references`), at other pixels than those asked about."""
    scale = ScaleFilter(predictor) if references else None
    for index, frame in enumerate(frames):
        # Without intrinsics the status of every point says so.
        if index == 0:
            predictor.warm_up()  # as the node does
            predictor.encode_quietly(frame.rgb, frame.camera).answer(np.zeros((1, 2)))
        started = time.monotonic()
        encoded = predictor.encode_quietly(frame.rgb, frame.camera)
        encoding_s = time.monotonic() - started
        played = Replayed.of(frame, keep_picture=index == 0)
        if scale is not None:
            scale.advance(frame.stamp_ns * 1e-9)
        if scale is not None and frame.depth_m is not None:
            known = frame.depth_m > 0
            for asked in played.asked:
                column, row = pixel_under(asked.uv[inside_image(asked.uv, known.shape)]).T
                known[np.minimum(row, len(known) - 1), np.minimum(column, len(known[0]) - 1)] = False
            uv = random_pixels(known, references, [references, index])
            rng = np.random.default_rng([references, index])
            chosen, said_m = draw_references(at_pixels(frame.depth_m, uv), references, rng)
            scale.update(encoded, uv[chosen], said_m, stamp_s=frame.stamp_ns * 1e-9)
        for asked in played.asked:
            started = time.monotonic() - encoding_s
            answer = encoded.answer(asked.uv, scale)
            asked.reply = Reply(answer.depth_m, answer.sigma_m, answer.status, time.monotonic() - started)
            encoding_s = 0.0  # for the first query of an image
        yield played


@dataclass
class Report:
    """The result of a replay: `summary` (JSON), `frames` (rows) and `played`."""

    summary: dict
    frames: list[dict]
    played: list[Replayed]


def report(played: list[Replayed], about: dict, max_depth_m: float = 10.0) -> Report:
    """Metrics (mean over the frames that have any), how good sigma is (`sigma_report`), latency percentiles (ms) of the
    queries that got a depth, and what was not answered. Points whose truth is `max_depth_m` or more are not compared:
    `points_beyond` counts them."""
    metrics = [_metrics(frame, max_depth_m) for frame in played]
    depth_m, sigma_m, truth_m = _compared(played, max_depth_m)
    rows = [_row(number, frame) | metrics[number] for number, frame in enumerate(played)]
    replies = [reply for frame in played for _, reply in frame.answered()]
    statuses = Counter(Status(int(s)).name for reply in replies for s in reply.status)
    summary = {
        **about,
        "frames": len(rows),
        "queries": sum(row["queries"] for row in rows),
        "answered": len(replies),
        "points": sum(row["points"] for row in rows),
        "points_without_depth": sum(row["points"] - row["points_with_depth"] for row in rows),
        "points_by_status": dict(statuses),
        "max_depth_m": max_depth_m,
        "points_beyond": sum(int((asked.truth_m >= max_depth_m).sum()) for frame in played for asked in frame.asked),
        "dropped_frames": sum(bool(row["status"] in DROPPED and row["queries"]) for row in rows),
        "latency_ms": {f"p{p}": float(np.percentile(_latency_ms(replies) or np.nan, p)) for p in (50, 90, 99)},
        "metrics": mean_metrics(metrics) if any(m["n_valid"] for m in metrics) else None,
        "sigma": sigma_report(depth_m, sigma_m / depth_m, truth_m),
        "gaps": gaps(played),
    }
    return Report(summary, rows, played)


def _metrics(frame: Replayed, max_depth_m: float) -> dict[str, float]:
    depth_m, _, truth_m = _compared([frame], max_depth_m)
    return depth_metrics(depth_m, truth_m, max_depth=max_depth_m)


def _compared(played: list[Replayed], max_depth_m: float) -> np.ndarray:
    """Depth, its sigma and the truth [3, K], m, of the points that have depth and a truth below `max_depth_m`."""
    answered = [both for frame in played for both in frame.answered()]
    parts = [[reply.depth_m, reply.sigma_m, asked.truth_m] for asked, reply in answered]
    depth_m, _, truth_m = every = np.concatenate([np.empty((3, 0)), *parts], axis=1)
    return every[:, np.isfinite(depth_m) & (truth_m < max_depth_m)]


def _row(number: int, frame: Replayed) -> dict:
    replies = [reply for _, reply in frame.answered()]
    reason = Counter(Status(int(s)).name for reply in replies for s in reply.status).most_common(1)
    return {
        "frame": number,
        "stamp_s": frame.stamp_ns / 1e9,
        "queries": len(frame.asked),
        "answered": len(replies),
        "points": sum(len(asked.uv) for asked in frame.asked),
        "points_with_depth": sum(int(np.isfinite(reply.depth_m).sum()) for reply in replies),
        "latency_ms": float(np.median(_latency_ms(replies) or np.nan)),
        "status": reason[0][0] if reason else "NO_ANSWER",
    }


def _latency_ms(replies: list[Reply]) -> list[float]:
    """Of those that hold a depth: a refusal is fast, and no answer to the question."""
    return [1000 * reply.latency_s for reply in replies if np.isfinite(reply.depth_m).any()]


def gaps(played: list[Replayed]) -> list[dict]:
    """Runs of frames of which no query was answered at all: from and to (stamps, s) and how many."""
    runs = itertools.groupby(played, lambda frame: bool(frame.asked) and not frame.answered())
    silent = [[frame.stamp_ns / 1e9 for frame in run] for is_silent, run in runs if is_silent]
    return [{"from_s": stamps[0], "to_s": stamps[-1], "frames": len(stamps)} for stamps in silent]


def write(result: Report, folder: str | Path) -> None:
    """result.json, frames.csv, depths.csv (every point) and report.png, and overlay.png where a picture was kept."""
    folder = files.make_folder(folder)
    files.write_json(folder / "result.json", result.summary)
    files.write_csv(folder / "frames.csv", next(iter(result.frames), {}), (row.values() for row in result.frames))
    columns = ["frame", "id", "u_px", "v_px", "depth_m", "true_depth_m", "status", "sigma_m"]
    files.write_csv(folder / "depths.csv", columns, _points(result.played))
    pictured = next((f for f in result.played if f.rgb is not None and f.answered()), None)
    if pictured is not None and pictured.rgb is not None:
        uv = np.concatenate([asked.uv for asked, _ in pictured.answered()])
        depth_m = np.concatenate([reply.depth_m for _, reply in pictured.answered()])
        overlay = draw_overlay(pictured.rgb, uv, depth_m)
        write_picture(folder / "overlay.png", overlay)
    save_figure(draw(result), folder / "report.png")


def _points(played: list[Replayed]) -> Iterator[list]:
    """The rows of depths.csv, one by one: an hour has some ten million."""
    for number, frame in enumerate(played):
        for asked in frame.asked:
            unknown = np.full(len(asked.uv), np.nan)
            reply = asked.reply or Reply(unknown, unknown, np.full(len(asked.uv), ""), np.nan)
            rows = zip(asked.ids, *asked.uv.T, reply.depth_m, asked.truth_m, reply.status, reply.sigma_m)
            yield from ([number, *row] for row in rows)


def draw(result: Report) -> Figure:
    """Errors by frame, latency, answers against truth, and statuses; words where there is nothing to draw."""
    figure = new_figure(14, 7)
    figure.suptitle(f"{result.summary['mode']}: {result.summary['bag']}", parse_math=False)
    error_axis, latency_axis, scatter_axis, status_axis = figure.subplots(2, 2).ravel()
    answered = [both for frame in result.played for both in frame.answered()]
    unanswered = f"no query was answered{' with a depth' * bool(answered)}"
    unanswered = unanswered if result.summary["queries"] else "nothing was asked"
    depth_m, _, truth_m = _compared(result.played, result.summary["max_depth_m"])
    if len(truth_m):
        _draw_errors(error_axis, result.frames)
        scatter_axis.scatter(truth_m[:20_000], depth_m[:20_000], s=2, alpha=0.3)
        top_m = truth_m.max()
        scatter_axis.plot([0, top_m], [0, top_m], color="black", linewidth=0.8)
        scatter_axis.set(xlabel="true depth, m", ylabel="answered depth, m")
    else:
        depth_m = np.concatenate([[], *(reply.depth_m for _, reply in answered)])
        known_m = depth_m[np.isfinite(depth_m)]
        say_instead(error_axis, "no true depth to compare with" if len(known_m) else unanswered)
        if len(known_m):
            scatter_axis.hist(known_m, bins=30)
            scatter_axis.set(xlabel="answered depth, m", ylabel="points")
        else:
            say_instead(scatter_axis, unanswered)
    latency_ms = _latency_ms([reply for _, reply in answered])
    if len(latency_ms) > 1:
        latency_axis.hist(latency_ms, bins=30)
        latency_axis.set(xlabel="latency, ms", ylabel="queries")
    else:
        say_instead(latency_axis, f"one answer, after {latency_ms[0]:.1f} ms" if len(latency_ms) else unanswered)
    _draw_statuses(status_axis, result.summary["points_by_status"], unanswered)
    return figure


def _draw_errors(axis: Axes, frames: list[dict]) -> None:
    abs_rel = [row["abs_rel"] for row in frames]
    if len(abs_rel) == 1:
        return say_instead(axis, f"one frame, AbsRel {abs_rel[0]:.3f}")
    axis.plot([row["frame"] for row in frames], abs_rel, marker=".")
    axis.set(xlabel="frame", ylabel="AbsRel", ylim=(0, None))
    axis.locator_params("x", integer=True)


def _draw_statuses(axis: Axes, counts: dict[str, int], unanswered: str) -> None:
    if len(counts) < 2:
        return say_instead(
            axis, "".join(f"all {count:,} points: {name}" for name, count in counts.items()) or unanswered
        )
    bars = axis.barh(list(counts), list(counts.values()))
    axis.bar_label(bars, fmt="{:,.0f}", padding=3)
    axis.set(xlabel="points", title="status")
    axis.margins(x=0.1)
