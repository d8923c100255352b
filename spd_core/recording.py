"""Replay evaluation: what a model answers at points of a recording with depth, and how long it takes. The bag, the
points and the report; the answers come from a `Predictor` here, or from the node over ROS 2 (`spd_ros.replay`)."""

from __future__ import annotations

import csv
import json
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from .camera import cell_centres, inside_image
from .data.bag import BagFrame, Topics, read_frames
from .extras import extra
from .metrics import depth_metrics, mean_metrics
from .pictures import draw_overlay
from .predictor import Predictor
from .status import Status

SHOWN = ("abs_rel", "d1", "rmse", "s_star")


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
        if self.points < 1 or (self.grid is not None and min(self.grid) < 1):
            raise ValueError(f"points and grid must be positive, got {self.points} and {self.grid}")
        if self.recorded and self.grid is not None:
            raise ValueError("recorded and grid exclude each other")


def frames_to_ask(
    path: str | Path, topics: Topics, sampling: Sampling, tolerance_s: float = 0.02
) -> Iterator[BagFrame]:
    """The frames of a bag with the queries to ask about each; ids count through the whole bag, so that an answer names
    its question."""
    first_id = 0
    for index, frame in enumerate(read_frames(path, topics, tolerance_s)):
        height, width = frame.rgb.shape[:2]
        if sampling.recorded:
            points = [uv for uv, _ in frame.queries]
        elif sampling.grid is not None:
            points = [cell_centres((height, width), *sampling.grid)]
        else:
            known = np.ones((height, width), dtype=bool) if frame.depth_m is None else frame.depth_m > 0
            v, u = np.nonzero(known)
            chosen = np.random.default_rng([sampling.seed, index]).permutation(len(u))[: sampling.points]
            points = [np.stack([u[chosen], v[chosen]], axis=1).astype(np.float64)]
        queries = []
        for uv in points:
            if len(uv):
                queries.append((uv, np.arange(first_id, first_id + len(uv), dtype=np.uint32)))
                first_id += len(uv)
        yield replace(frame, queries=queries)


@dataclass
class Answer:
    """The answer to one query: arrays [K] of depth (m) and status, and how long it took; None of them where none
    came."""

    depth_m: np.ndarray | None = None
    status: np.ndarray | None = None
    latency_s: float = float("nan")


@dataclass
class Replayed:
    """What is kept of a frame once it is played: its questions, their true depth (NaN where unknown) and the
    answers."""

    stamp_ns: int
    uv: list[np.ndarray]
    ids: list[np.ndarray]
    truth_m: list[np.ndarray]
    answers: list[Answer] = field(default_factory=list)
    rgb: np.ndarray | None = None

    @classmethod
    def of(cls, frame: BagFrame, keep_picture: bool = False) -> Replayed:
        truth = [_true_depth(frame.depth_m, uv) for uv, _ in frame.queries]
        answers = [Answer() for _ in frame.queries]
        return cls(
            frame.stamp_ns,
            [uv for uv, _ in frame.queries],
            [ids for _, ids in frame.queries],
            truth,
            answers,
            frame.rgb if keep_picture else None,
        )


def _true_depth(depth_m: np.ndarray | None, uv: np.ndarray) -> np.ndarray:
    """Depth, m, of the pixel under each point; NaN where there is none."""
    truth = np.full(len(uv), np.nan)
    if depth_m is not None:
        inside = inside_image(uv, depth_m.shape)
        height, width = depth_m.shape
        x, y = np.clip(uv[inside].round().astype(int), 0, [width - 1, height - 1]).T
        truth[inside] = np.where(depth_m[y, x] > 0, depth_m[y, x], np.nan)
    return truth


def answer_offline(frames: Iterator[BagFrame], predictor: Predictor) -> Iterator[Replayed]:
    """Ask the predictor; latency is that of encoding the image and decoding the points. The first frame is encoded
    twice, to warm up."""
    for index, frame in enumerate(frames):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # no intrinsics: the status of every point says so
            if index == 0:
                predictor.warm_up()  # as the node does
                predictor.encode(frame.rgb, frame.camera).depth_at(np.zeros((1, 2)))
            started = time.monotonic()
            encoded = predictor.encode(frame.rgb, frame.camera)
        played = Replayed.of(frame, keep_picture=index == 0)
        for i, (uv, _) in enumerate(frame.queries):
            depth_m = encoded.depth_at(uv)
            status = np.full(len(uv), Status.OK if frame.camera is not None else Status.NO_CAMERA_INFO, np.uint8)
            status[np.isnan(depth_m)] = Status.OUTSIDE_IMAGE
            status[~np.isfinite(uv).all(axis=1)] = Status.NOT_FINITE
            played.answers[i] = Answer(depth_m, status, time.monotonic() - started)
            started = time.monotonic()
        yield played


@dataclass
class Report:
    """The result of a replay: `summary` (JSON), `frames` (rows) and `played`."""

    summary: dict
    frames: list[dict]
    played: list[Replayed]


def report(played: list[Replayed], about: dict) -> Report:
    """Metrics (mean over the frames that have any), latency percentiles (ms), and what was not answered."""
    rows, per_frame = [], []
    for number, frame in enumerate(played):
        got = [(a, truth) for a, truth in zip(frame.answers, frame.truth_m) if a.depth_m is not None]
        parts = zip(*[(a.depth_m, truth, a.status) for a, truth in got]) if got else [[[]]] * 3
        depth_m, truth_m, status = (np.concatenate(part) for part in parts)
        known = np.isfinite(depth_m) & np.isfinite(truth_m)
        metrics = depth_metrics(np.where(known, depth_m, 1), np.where(known, truth_m, 0))
        per_frame.append(metrics)
        latency_ms = 1000 * np.array([a.latency_s for a, _ in got] or [np.nan])
        reason = Counter(Status(int(s)).name for s in status).most_common(1)
        rows.append(
            {
                "frame": number,
                "stamp_s": frame.stamp_ns / 1e9,
                "queries": len(frame.answers),
                "answered": len(got),
                "points": sum(map(len, frame.uv)),
                "points_with_depth": int(np.isfinite(depth_m).sum()),
                "latency_ms": float(np.median(latency_ms)),
                "status": reason[0][0] if reason else "NO_ANSWER",
                **metrics,
            }
        )
    answers = [a for frame in played for a in frame.answers]
    statuses = Counter(Status(int(s)).name for a in answers if a.status is not None for s in a.status)
    latency_ms = 1000 * np.array([a.latency_s for a in answers if a.depth_m is not None] or [np.nan])
    p50, p90, p99 = (float(v) for v in np.percentile(latency_ms, [50, 90, 99]))
    dropped = sum(
        1 for row in rows if row["status"] in ("FRAME_SKIPPED", "TIMED_OUT", "NO_IMAGE", "NO_ANSWER") and row["queries"]
    )
    summary = {
        **about,
        "frames": len(rows),
        "queries": len(answers),
        "answered": sum(a.depth_m is not None for a in answers),
        "points": int(sum(row["points"] for row in rows)),
        "points_without_depth": int(sum(row["points"] - row["points_with_depth"] for row in rows)),
        "points_by_status": dict(statuses),
        "dropped_frames": dropped,
        "latency_ms": {"p50": p50, "p90": p90, "p99": p99},
        "metrics": mean_metrics(per_frame) if any(m["n_valid"] for m in per_frame) else None,
        "gaps": gaps(played),
    }
    return Report(summary, rows, played)


def gaps(played: list[Replayed]) -> list[dict]:
    """Runs of frames of which no query was answered at all: from and to (stamps, s) and how many."""
    found: list[dict] = []
    was_silent = False
    for frame in played:
        silent = bool(frame.answers) and all(a.depth_m is None for a in frame.answers)
        if silent and was_silent:
            found[-1]["to_s"], found[-1]["frames"] = frame.stamp_ns / 1e9, found[-1]["frames"] + 1
        elif silent:
            found.append({"from_s": frame.stamp_ns / 1e9, "to_s": frame.stamp_ns / 1e9, "frames": 1})
        was_silent = silent
    return found


def show(result: Report, console: Console, rows: int = 25) -> None:
    """Print the table of frames (at most `rows` of them, evenly spread) and the summary."""
    summary = result.summary
    table = Table(
        "frame",
        "asked",
        "answered",
        *SHOWN,
        "ms",
        "status",
        title=f"{summary['mode']}: {summary['frames']} frames of {summary['bag']}",
    )
    chosen = np.unique(np.linspace(0, len(result.frames) - 1, min(rows, len(result.frames))).astype(int))
    for row in (result.frames[i] for i in chosen):
        table.add_row(
            str(row["frame"]),
            str(row["points"]),
            str(row["points_with_depth"]),
            *(_number(row[name]) for name in SHOWN),
            f"{row['latency_ms']:.1f}",
            row["status"],
        )
    console.print(table)
    latency, metrics = summary["latency_ms"], summary["metrics"]
    console.print(
        f"{summary['answered']} of {summary['queries']} queries answered, {summary['points_without_depth']} of"
        f" {summary['points']} points without depth, {summary['dropped_frames']} frames dropped, latency p50"
        f" {latency['p50']:.1f} ms, p90 {latency['p90']:.1f} ms, p99 {latency['p99']:.1f} ms",
        highlight=False,
    )
    console.print(
        (
            "no depth to compare with"
            if metrics is None
            else ", ".join(f"{name} {_number(metrics[name])}" for name in SHOWN)
        ),
        highlight=False,
    )
    for gap in summary["gaps"]:
        console.print(
            f"[red]no answer at all[/] from {gap['from_s']:.2f} s to {gap['to_s']:.2f} s ({gap['frames']} frames)",
            highlight=False,
        )


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"


def write(result: Report, folder: str | Path) -> None:
    """result.json, frames.csv, depths.csv (every point) and report.png, and overlay.png where a picture was kept."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result.summary, indent=1))
    with (folder / "frames.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(result.frames[0]))
        writer.writeheader()
        writer.writerows(result.frames)
    with (folder / "depths.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["frame", "id", "u_px", "v_px", "depth_m", "true_depth_m", "status"])
        for number, frame in enumerate(result.played):
            for uv, ids, truth, answer in zip(frame.uv, frame.ids, frame.truth_m, frame.answers):
                depth_m = answer.depth_m if answer.depth_m is not None else np.full(len(uv), np.nan)
                status = answer.status if answer.status is not None else [""] * len(uv)
                writer.writerows(
                    [number, i, u, v, z, t, s] for i, (u, v), z, t, s in zip(ids, uv, depth_m, truth, status)
                )
    pictured = next(
        (f for f in result.played if f.rgb is not None and f.answers and any(a.depth_m is not None for a in f.answers)),
        None,
    )
    if pictured is not None:
        answered = [(uv, a.depth_m) for uv, a in zip(pictured.uv, pictured.answers) if a.depth_m is not None]
        overlay = draw_overlay(pictured.rgb, *(np.concatenate(part) for part in zip(*answered)))
        cv2.imwrite(str(folder / "overlay.png"), overlay[..., ::-1])
    _draw(result, folder / "report.png")


def _draw(result: Report, path: Path) -> None:
    with extra("train"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 7), layout="constrained")
    FigureCanvasAgg(figure)
    error_axis, latency_axis, scatter_axis, status_axis = figure.subplots(2, 2).ravel()
    number = [row["frame"] for row in result.frames]
    error_axis.plot(number, [row["abs_rel"] for row in result.frames], marker=".")
    error_axis.set(
        xlabel="frame", ylabel="AbsRel", title=f"{result.summary['mode']}: {result.summary['bag']}", ylim=(0, None)
    )
    latency_axis.hist(
        1000 * np.array([a.latency_s for f in result.played for a in f.answers if a.depth_m is not None]), bins=30
    )
    latency_axis.set(xlabel="latency, ms", ylabel="queries")
    pairs = [(t, a.depth_m) for f in result.played for t, a in zip(f.truth_m, f.answers) if a.depth_m is not None]
    if pairs:
        truth, depth = (np.concatenate(part) for part in zip(*pairs))
        scatter_axis.scatter(truth[:20_000], depth[:20_000], s=2, alpha=0.3)
        top = np.nanmax([*truth[np.isfinite(truth)], 1.0])
        scatter_axis.plot([0, top], [0, top], color="black", linewidth=0.8)
    scatter_axis.set(xlabel="true depth, m", ylabel="answered depth, m")
    counts = result.summary["points_by_status"]
    status_axis.barh(list(counts), list(counts.values()))
    status_axis.set(xlabel="points", title="status")
    figure.savefig(path, dpi=80)
