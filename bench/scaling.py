"""How cost grows with points, image size, cameras and clients: docs/scaling.png, and bench/scaling.json.

OMP_WAIT_POLICY=PASSIVE python bench/scaling.py   # about five minutes on two cores; --small only shows that it runs
"""

from __future__ import annotations

import argparse
import os
import random
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import torch
from decoder import COUNTS, queries
from matplotlib import pyplot as plt
from rich import print_json
from timing import DEVICE, HERE, interleaved, machine, prepare, write

from spd_core import SPD, Predictor
from spd_core.predictor import EncodedFrame
from spd_core.preprocess import ImageTransform

POINTS = 128
# Sizes (height, width) px of network input; the second of each is the preset's own.
SIZES = {
    "lite": [(120, 160), (240, 320), (480, 640), (720, 960), (960, 1280)],
    "v15": [(208, 272), (416, 544), (624, 816)],
}
CAMERAS = (1, 2, 4, 6)
CAMERA_HZ = 10.0
CLIENTS = (1, 2, 4, 8, 16, 32)


def encoded(preset: str, size: tuple[int, int]) -> tuple[Predictor, torch.Tensor, EncodedFrame]:
    """A predictor with random weights, network input [1, 3, *size], and what became of it."""
    predictor = Predictor(SPD.from_preset(preset), str(DEVICE), input_size=size)
    images = torch.randn(1, 3, *size, device=DEVICE)
    predictor.encoder.prepare(size)
    transform = ImageTransform.for_image(predictor.model, size, None, size)
    return predictor, images, EncodedFrame(predictor, predictor.encoder(images), transform, None)


def points_and_sizes(sizes: dict, counts: tuple[int, ...], repeats: int) -> tuple[dict, dict]:
    """Milliseconds by (preset, number of pixels, or "dense") at the preset's own size; and by (preset, size, "encode",
    "decode" or "dense")."""
    by_count, by_size = {}, {}
    for preset in sizes:
        for size in sizes[preset]:
            predictor, images, frame = encoded(preset, size)
            model, features = predictor.model, frame.features
            pixels = {count: points for (kind, count), points in queries(size).items() if kind == "pixels"}
            dense = partial(model.decode_dense, features)
            by_size[preset, size, "encode"] = partial(predictor.encoder, images)
            by_size[preset, size, "decode"] = partial(model.decode_points, features, pixels[POINTS])
            by_size[preset, size, "dense"] = dense
            if size == sizes[preset][1]:
                by_count |= {(preset, k): partial(model.decode_points, features, pixels[k]) for k in counts}
                by_count[preset, "dense"] = dense
    return interleaved(by_count, repeats, "points"), interleaved(by_size, repeats, "sizes", warm=True)


def clients(sizes: dict, counts: tuple[int, ...], repeats: int) -> dict:
    """Milliseconds by (preset, kind, number of clients) for all answers about one frame at 128 points per client:
    "other" points of each, the "same" of all, or other points of a frame that forgets ("alone")."""
    variants, rng = {}, np.random.default_rng(0)

    def ask(frame: EncodedFrame, kind: str, count: int) -> None:
        fresh = partial(EncodedFrame, frame.predictor, frame.features, frame.transform, frame.camera)
        asked, uv = fresh(), rng.uniform(0, np.array(frame.size[::-1]) - 1, (count, POINTS, 2))
        for client in range(count):
            (fresh() if kind == "alone" else asked).depth_at(uv[0 if kind == "same" else client])

    for preset in sizes:
        frame = encoded(preset, sizes[preset][1])[2]
        for kind in ("alone", "other", "same"):
            variants |= {(preset, kind, count): partial(ask, frame, kind, count) for count in counts}
    return interleaved(variants, repeats, "clients")


def camera(domain_id: int, start, seconds: float) -> dict:
    """A process with a camera, a client and a node of their own, which waits for the others at the barrier `start`."""
    import rclpy
    from node import loaded

    from spd_ros.processes import isolate

    isolate()
    os.environ["ROS_DOMAIN_ID"] = str(domain_id)
    rclpy.init()
    return loaded({"weights": "embedded"}, seconds, CAMERA_HZ, POINTS, when_ready=start.wait)


def cameras(counts: tuple[int, ...], seconds: float) -> dict[int, dict[str, float]]:
    """By number of cameras, at 10 images a second each: latency ms, p50 and the worst p99, and the share of points with
    depth."""
    context, found = get_context("spawn"), {}
    for count in counts:
        with context.Manager() as manager, ProcessPoolExecutor(count, context) as pool:
            run = partial(camera, start=manager.Barrier(count, timeout=90), seconds=seconds)
            results = list(pool.map(run, random.sample(range(1, 100), count)))
        latency_ms = [result["latency_ms"] for result in results]
        found[count] = {
            "p50": float(np.median([ms["p50"] for ms in latency_ms])),
            "p99": max(ms["p99"] for ms in latency_ms),
            "with_depth": float(np.mean([result["with_depth"] for result in results])),
        }
    return found


def draw(by_count: dict, by_size: dict, by_cameras: dict, by_clients: dict, sizes: dict):
    """A panel each, to be read at the width of a phone."""
    plt.rcParams.update({"font.size": 9, "lines.markersize": 4, "legend.fontsize": 7.5})
    figure, ((points, size), (camera, client)) = plt.subplots(2, 2, figsize=(5.6, 6.2), layout="constrained")
    colours = dict(zip(sizes, ("tab:blue", "tab:orange")))
    for preset, colour in colours.items():
        counts = [k for name, k in by_count if name == preset and k != "dense"]
        points.plot(counts, [by_count[preset, k] for k in counts], "o-", color=colour)
        points.axhline(by_count[preset, "dense"], linestyle=":", color=colour)
        megapixels = [height * width / 1e6 for height, width in sizes[preset]]
        for part, style in (("encode", "o-"), ("decode", "s--"), ("dense", ":")):
            size.plot(megapixels, [by_size[preset, s, part] for s in sizes[preset]], style, color=colour)
        for kind, style in (("other", "o-"), ("same", "s--"), ("alone", ":")):
            counts = [k for name, what, k in by_clients if (name, what) == (preset, kind)]
            client.plot(counts, [by_clients[preset, kind, k] for k in counts], style, color=colour)
    for percentile, style in (("p50", "o-"), ("p99", "s--")):
        camera.plot(list(by_cameras), [row[percentile] for row in by_cameras.values()], style, color="black")
    shares = [f"{count}\n{row['with_depth']:.0%}" for count, row in by_cameras.items()]
    camera.set(ylim=0, title=f"cameras with {CAMERA_HZ:.0f} images/s each", xlabel="cameras and nodes; with depth")
    camera.set_xticks(list(by_cameras), shares)
    points.set(title="points", xlabel="points", ylabel="ms")
    size.set(title="image size", xlabel="network input, megapixels")
    client.set(title="clients of one image", xlabel=f"clients, {POINTS} points each")
    camera.set_ylabel("image → answer, ms")
    for axis, labels, ticks in (
        (points, ("decoder at points", "_", "whole map"), (1, 16, 256, 4096, 65536)),
        (size, ("encoder", f"decoder, {POINTS} points", "decoder, whole map"), (0.03, 0.1, 0.3, 1)),
        (client, ("points of their own", "the same points", "if nothing were shared"), CLIENTS),
        (camera, ("p50", "worst p99"), None),
    ):
        for label, style in zip(labels, ("o-", "s--", ":")):
            axis.plot([], [], style, color="grey" if ticks else "black", label=label)
        if ticks:
            axis.set(xscale="log", yscale="log")
            axis.set_xticks(ticks, map(str, ticks))
            axis.xaxis.set_minor_formatter("")
            axis.yaxis.set_major_formatter("{x:g}")
            low, high = axis.get_ylim()
            axis.set_ylim(low, high * (high / low) ** 0.35)  # room for the legend
        axis.grid(alpha=0.3)
        axis.legend(loc="upper left", framealpha=0.5)
    figure.suptitle(", ".join(f"{c[4:]}: {preset}" for preset, c in colours.items()) + f"\n{machine()}", fontsize=7)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="few of everything, into bench/scaling_small.png")
    small = parser.parse_args().small
    prepare()
    sizes = {preset: found[:2] for preset, found in SIZES.items()} if small else SIZES
    repeats = 2 if small else 9
    with torch.inference_mode():
        by_count, by_size = points_and_sizes(sizes, COUNTS[:5] if small else COUNTS, repeats)
        by_clients = clients(sizes, CLIENTS[:3] if small else CLIENTS, repeats)
    by_cameras = cameras(CAMERAS[:2] if small else CAMERAS, 3.0 if small else 10.0)
    result: dict = {"title": machine(), "cameras": by_cameras}
    for name, times in (("points_ms", by_count), ("sizes_ms", by_size), ("clients_ms", by_clients)):
        result[name] = {", ".join(map(str, case)): ms for case, ms in times.items()}
    print_json(data=result)
    figure = draw(by_count, by_size, by_cameras, by_clients, sizes)
    write("scaling_small" if small else "scaling", result, figure)
    if not small:
        figure.savefig(HERE.parent / "docs" / "scaling.png", dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
