"""The sub-commands that make and play recordings."""

from __future__ import annotations

import math
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.progress import track
from rich.table import Table

from spd_core.camera import Camera
from spd_core.camera_info import is_rectified_topic
from spd_core.data.bag import TOLERANCE_S, Bag, BagFrame, RecordedFrame
from spd_core.data.bag_writing import write_bag
from spd_core.data.pairing import Pairing
from spd_core.data.rgbd import RGBDFolder
from spd_core.data.samples import DataError, Sample
from spd_core.data.topics import COMPRESSED, Choice, Topics
from spd_core.errors import SPDError, at_least
from spd_core.evaluation import Protocol
from spd_core.extras import extra
from spd_core.files import printable
from spd_core.metrics import doubt_units
from spd_core.pixels import random_pixels
from spd_core.predictor import Predictor
from spd_core.recording import Replayed, Report, Sampling, answer_offline, frames_to_ask, report, write
from spd_core.reports import report_folder

from .console import make_console, say
from .parser import check_unused

SHOWN = ("abs_rel", "d1", "rmse", "s_star")
MOST_OFFSET_S = 4e9  # from uptime to the time of day, and more; nanoseconds in 64 bits hold it on top of a stamp
DEMO_FRAMES, DEMO_RATE_HZ, QUERIES_PER_FRAME, POINTS_PER_QUERY = 20, 5.0, 4, 32


def demo(image_dir: Path | None = None, camera: list[float] | None = None, out: Path = Path("demo")) -> None:
    """Start the node, play images and query points to it over ROS 2, and print what it answers.

    Args:
        image_dir: folder of images (with `*.depth.png` beside them the error is printed too); without it a synthetic
            room is filmed.
        camera: fx, fy, cx, cy in px of the images in `image_dir`; a file camera.txt in that folder says the same.
        out: folder for the bag and what `spd replay` writes.
    """
    if camera is not None and len(camera) != 4:
        raise SPDError(f"camera must be fx,fy,cx,cy in px, got {camera}")
    pinhole = Camera(camera[0], camera[1], camera[2], camera[3]) if camera else None
    if image_dir is None:
        from spd_rooms.film import film

        samples: Iterable[Sample] = track(film(DEMO_FRAMES), "drawing a room", total=DEMO_FRAMES)
    else:
        samples = _samples(image_dir, pinhole)
    write_bag(out / "bag", _frames(samples, DEMO_RATE_HZ, QUERIES_PER_FRAME))
    result = replay(out / "bag", recorded=True, out=out)
    if result.summary["answered"] < result.summary["queries"]:
        raise SPDError(f"{result.summary['queries'] - result.summary['answered']} queries stayed without an answer")
    spd, bag = "spd" if shutil.which("spd") else sys.argv[0], shlex.quote(str(out / "bag"))
    tips = {
        f"{spd} view {bag}": "point at these frames in your browser",
        f"{spd} ask {bag} 320,240 --frames 5": "the same in words",
        f"{spd} ask photo.jpg 320,240": "a photograph of your own",
    }
    say("What to try next:", "bold")
    for command, what in tips.items():
        say(f"  {command:{max(map(len, tips))}}  {what}")


def make_bag(out: Path, folder: Path | None = None, rooms: int = 20, rate: float = 10.0, storage: str = "mcap") -> None:
    """Make a bag from an RGB-D folder, or from synthetic rooms: a sample for `spd replay`, or for any other node.

    Args:
        out: the bag's folder; a bag that is there is replaced.
        folder: `<name>.rgb.png|jpg` and `<name>.depth.png`, or rgb/ and depth/, and camera.txt; without it rooms are
            drawn.
        rooms: number of synthetic rooms, 640x480.
        rate: frames per second.
        storage: mcap or sqlite3.
    """
    if not 0 < rate < math.inf or rooms < 1:
        raise SPDError(f"rate and rooms must be positive, got {rate} and {rooms}")
    at_least(1e-3, rate=rate)  # the seconds of a stamp have 31 bits
    count = write_bag(out, _frames(_samples(folder) if folder is not None else _drawn(rooms), rate), storage)
    say(f"wrote {out}: {count} frames")


def replay(
    bag: Path,
    offline: bool = False,
    node: str = "fresh",
    weights: str = "embedded",
    device: str = "auto",
    runtime: str = "auto",
    image: str | None = None,
    depth: str | None = None,
    camera_info: str | None = None,
    query: str | None = None,
    points: int = 128,
    grid: tuple[int, int] | None = None,
    recorded: bool = False,
    seed: int = 0,
    rate: float = 1.0,
    tolerance_s: float = TOLERANCE_S,
    depth_offset_s: float = 0.0,
    references: int = 0,
    max_depth_m: float = 10.0,
    out: Path | None = None,
) -> Report:
    """Ask about the frames of a bag and compare with its depth: accuracy, latency, and what was not answered.

    Args:
        bag: ROS 2 bag (a folder, or a file: sqlite3 or MCAP) or ROS 1 bag, with a colour image, and depth (16UC1 mm,
            32FC1 m or compressedDepth) registered to it.
        offline: without ROS: the predictor answers. Otherwise the node does, over DDS.
        node: "fresh" starts one, "running" takes the one that is there (listening to /camera/image_raw and
            /camera/camera_info).
        weights: "embedded" or a checkpoint file; of a running node its own.
        device: auto, cpu, cuda or cuda:<n>.
        runtime: what runs the encoder, as the node's parameter: auto, torch, onnxruntime, compile or cuda_graph.
        image: colour topic, instead of the one found by name and content.
        depth: depth topic, likewise.
        camera_info: calibration topic, likewise.
        query: topic of recorded queries, likewise.
        points: random pixels asked per frame, of those with depth.
        grid: columns, rows: a grid is asked instead.
        recorded: the queries of the bag are asked instead.
        seed: of the random pixels.
        rate: speed of playing, times the recorded one.
        tolerance_s: image and depth whose stamps differ by at most this belong together.
        depth_offset_s: added to the stamps of depth, where its camera has a clock of its own.
        references: learn the scale from so many depths of each frame, noisy and some of them outliers; with --offline.
        max_depth_m: points are compared whose true depth lies below, and answers are clamped to it.
        out: folder for result.json, frames.csv, depths.csv, report.png and overlay.png.
    """
    if node not in ("fresh", "running"):
        raise SPDError(f"node must be fresh or running, got {node!r}")
    if not 0 < rate < math.inf:
        raise SPDError(f"rate must be positive and finite, got {rate}")
    Protocol(max_depth_m=max_depth_m)  # refuses what is no depth
    if references < 0 or (references and not offline):
        raise SPDError(f"references must be 0, or positive with --offline, got {references}")
    if offline:
        check_unused(replay, "only for a replay to a node, which --offline does not ask", rate=rate, node=node)
    elif node == "running":
        why = "only for a fresh node; a running one keeps its own parameters"
        check_unused(replay, why, weights=weights, device=device, runtime=runtime)
    sampling, exit_code = Sampling(points, grid, recorded, seed), 0
    with opened_bag(bag, image, depth, camera_info, query, tolerance_s, depth_offset_s) as (recording, choice, pairing):
        topics = choice.topics
        if recorded and topics.query is None:
            raise DataError(f"{bag} has no query topic (PointCloud2 with u and v) to take recorded queries from")
        if out is not None:
            report_folder(out)
        frames = frames_to_ask(recording.frames(topics, tolerance_s, depth_offset_s), sampling)
        total = recording.count(topics.image)
        if offline:
            predictor = Predictor.load(weights, device, runtime=runtime)
            answered = answer_offline(frames, predictor, references)
            played = list(track(answered, "answering", total=total))
        else:
            own = {"weights": weights, "device": device, "runtime": runtime} if node == "fresh" else None
            played, exit_code = _played_live(frames, own, _heard(recording, topics), rate, total)
    if not played:
        raise DataError(f"{bag} has no frame that can be read on {topics.image}")
    about = {
        "bag": str(bag),
        "mode": "offline" if offline else "live",
        "weights": weights if offline or node == "fresh" else "of the running node",
        "sampling": asdict(sampling),
        "rate": None if offline else rate,
        "references": references,
        "topics": vars(topics),
        "pairing": str(pairing) if topics.depth is not None else None,
        "left_out": [*recording.faults, *recording.left_out()],
    }
    result = report(played, about, max_depth_m)
    _show(result)
    if out is not None:
        write(result, out)
        say(f"wrote {out}/result.json, frames.csv, depths.csv, report.png and overlay.png")
    if exit_code:
        raise SPDError(f"the node ended with exit code {exit_code}")
    _check_said_something(result, choice, pairing, recorded)
    return result


@contextmanager
def opened_bag(
    bag: Path,
    image: str | None,
    depth: str | None,
    camera_info: str | None,
    query: str | None = None,
    tolerance_s: float = TOLERANCE_S,
    depth_offset_s: float = 0.0,
) -> Iterator[tuple[Bag, Choice, Pairing]]:
    """A recording, its topics and which depth is of which image. What it is is said at once: its faults, the choice,
    the pairing; what could not be used of it, at the end.

    Raises:
        SPDError: a tolerance or an offset that is none, or as `Bag` and `Bag.choose`.
    """
    at_least(0, tolerance_s=tolerance_s)
    if not abs(depth_offset_s) <= MOST_OFFSET_S:
        raise SPDError(f"depth_offset_s must be finite, of {MOST_OFFSET_S:g} s at most, got {depth_offset_s}")
    with Bag(bag) as recording:
        for line in recording.faults:
            say(line, "yellow")
        choice = recording.choose(image, depth, camera_info, query)
        for line in choice.lines:
            say(line)
        pairing = recording.pairing(choice.topics, tolerance_s, depth_offset_s)
        if choice.topics.depth is not None:
            say(str(pairing))
        try:
            yield recording, choice, pairing
        finally:
            for line in recording.left_out():
                say(line, "yellow")


def _heard(recording: Bag, topics: Topics) -> dict[str, str]:
    """Parameters of a node that hears the images of a bag."""
    is_compressed = recording.topics[topics.image].type_name == COMPRESSED
    return {
        "image_transport": "compressed" if is_compressed else "raw",
        # The node hears them under another name, which does not say it.
        "rectified": "true" if is_rectified_topic(topics.image) else "false",
    }


def _check_said_something(result: Report, choice: Choice, pairing: Pairing, recorded: bool) -> None:
    """Raises SPDError for a replay that was for nothing, and says why it was."""
    if not result.summary["queries"]:
        what = f"no query on {choice.topics.query} names an image" if recorded else "no depth image has a reading"
        raise SPDError(f"nothing to ask: {what}")
    if not result.summary["answered"]:
        raise SPDError("no query was answered")
    if result.summary["points_without_depth"] == result.summary["points"]:
        statuses = ", ".join(f"{count} {name}" for name, count in result.summary["points_by_status"].items())
        raise SPDError(f"no point was answered with a depth: {statuses}")
    if result.summary["metrics"] is None and choice.expects_depth:
        if choice.topics.depth is None:
            why = "no depth topic was taken, see above"
        else:
            why = f"{pairing}, and no point has both an answer and a depth" if pairing.partner else str(pairing)
            if beyond := result.summary["points_beyond"]:
                why += f" below max_depth_m, {result.summary['max_depth_m']:g} m ({beyond} are farther away)"
        raise SPDError(f"nothing to compare: {why}")


def _played_live(
    frames: Iterator[RecordedFrame], own: dict[str, str] | None, heard: dict[str, str], rate: float, total: int
) -> tuple[list[Replayed], int]:
    """The frames played to a fresh node with settings of its `own`, or to the one that runs, and the fresh node's exit
    code."""
    with extra("ros"):
        from spd_ros.player import WAIT_FOR_NODE_S, replay_live
        from spd_ros.processes import isolate, running_node

    if own is None:
        say(f"looking for a node that listens to /camera/image_raw, for {WAIT_FOR_NODE_S:.0f} s at most", stderr=True)
        return replay_live(frames, rate, None, total, is_rectified=heard["rectified"] == "true"), 0
    isolate()
    with running_node(parameters={**own, **heard, "autostart": False}) as process:
        played = replay_live(frames, rate, process, total)
    return played, process.returncode


# --- frames


def _samples(folder: Path, camera: Camera | None = None) -> Iterator[Sample]:
    images = RGBDFolder(folder, camera)
    return (images[i] for i in range(len(images)))


def _drawn(rooms: int) -> Iterator[Sample]:
    from spd_rooms.synthetic import random_frame

    for i in track(range(rooms), "drawing rooms"):
        drawn = random_frame(5_000_000 + i, (480, 640))
        yield Sample(f"room {i}", drawn.rgb, drawn.depth_m, drawn.camera)


def _frames(samples: Iterable[Sample], rate_hz: float, queries: int = 0) -> Iterator[BagFrame]:
    """Frames to write, with that many queries each at random pixels with known depth; ids count through the
    sequence."""
    first_id = 0
    for i, sample in enumerate(samples):
        known = np.ones(sample.rgb.shape[:2], bool) if sample.depth_m is None else sample.depth_m > 0
        uv = random_pixels(known, queries * POINTS_PER_QUERY, [i]).astype(np.float64)
        ids, first_id = np.arange(first_id, first_id + len(uv)), first_id + len(uv)
        asked = list(zip(np.array_split(uv, queries), np.array_split(ids, queries))) if queries else []
        yield BagFrame(round((1 + i / rate_hz) * 1e9), sample.rgb, sample.depth_m, sample.camera, asked)


# --- printing


def _show(result: Report, rows: int = 25) -> None:
    """Print the table of frames (at most `rows` of them, evenly spread) and the summary."""
    summary = result.summary
    title = f"{summary['mode']}: {summary['frames']} frames of {summary['bag']}"
    table = Table("frame", "asked", "answered", *SHOWN, "ms", "status", title=printable(title))
    chosen = np.unique(np.linspace(0, len(result.frames) - 1, min(rows, len(result.frames))).astype(int))
    for row in (result.frames[i] for i in chosen):
        counts = (str(row[name]) for name in ("frame", "points", "points_with_depth"))
        table.add_row(*counts, *(_number(row[name]) for name in SHOWN), f"{row['latency_ms']:.1f}", row["status"])
    make_console().print(table)
    latency, metrics = summary["latency_ms"], summary["metrics"]
    say(
        f"{summary['answered']} of {summary['queries']} queries answered, {summary['points_without_depth']} of"
        f" {summary['points']} points without depth, {summary['dropped_frames']} frames dropped, latency p50"
        f" {latency['p50']:.1f} ms, p90 {latency['p90']:.1f} ms, p99 {latency['p99']:.1f} ms"
    )
    if blind := summary["points_by_status"].get("NO_CAMERA_INFO"):
        say(f"no intrinsics at {blind} points: depth assumes the training focal length", "yellow", title="note: ")
    if beyond := summary["points_beyond"]:
        say(
            f"left out: {beyond} points whose true depth is {summary['max_depth_m']:g} m or more (max_depth_m)",
            "yellow",
        )
    if metrics is not None:
        doubt_units(metrics["s_star"])
    say("no depth to compare with" if metrics is None else ", ".join(f"{n} {_number(metrics[n])}" for n in SHOWN))
    say_sigma(summary["sigma"])
    for gap in summary["gaps"]:
        say(f"no answer at all from {gap['from_s']:.2f} s to {gap['to_s']:.2f} s ({gap['frames']} frames)", "red")


def say_sigma(sigma: dict) -> None:
    """Print a `sigma_report`, where the network says a sigma."""
    if sigma:
        say(
            f"sigma covers {sigma['covered_68']:.0%} within one and {sigma['covered_95']:.0%} within 1.96 sigma; the"
            f" more certain half has {sigma['certain_half']:.2f} of the AbsRel of all"
        )


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"
