"""The sub-commands that measure a scale, and what a checkpoint must know to learn one."""

from __future__ import annotations

import math
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from rich.table import Table

from spd_core import checkpoint
from spd_core.data.bag import TOLERANCE_S
from spd_core.data.layouts import open_dataset
from spd_core.data.samples import DataError, Sample
from spd_core.errors import at_least
from spd_core.evaluation import Protocol
from spd_core.files import check_writable
from spd_core.floor_evaluation import evaluate_floor
from spd_core.predictor import Predictor
from spd_core.scale_evaluation import evaluate_scale, fit_prior, measure_scale, narrowed

from .console import make_console, say
from .recordings import opened_bag, say_sigma


def calibrate_scale(
    bag: Path,
    weights: str = "embedded",
    device: str = "auto",
    runtime: str = "auto",
    image: str | None = None,
    depth: str | None = None,
    camera_info: str | None = None,
    tolerance_s: float = TOLERANCE_S,
    depth_offset_s: float = 0.0,
    every: int = 1,
    max_depth_m: float = 10.0,
) -> None:
    """Measure a camera's scale from a recording with depth: prints the node's parameter scale_factor, and its sigma.

    Args:
        bag: as for `spd replay`.
        weights: "embedded" or a checkpoint file.
        device: auto, cpu, cuda or cuda:<n>.
        runtime: what runs the encoder: auto, torch, onnxruntime, compile or cuda_graph.
        image: colour topic, instead of the one found by name and content.
        depth: depth topic, likewise.
        camera_info: calibration topic, likewise.
        tolerance_s: image and depth whose stamps differ by at most this belong together.
        depth_offset_s: added to the stamps of depth, where its camera has a clock of its own.
        every: 3 takes only every third frame that has depth.
        max_depth_m: pixels count whose true depth lies below; 80 for weights that look outdoors.
    """
    at_least(1, every=every)
    Protocol(max_depth_m=max_depth_m)  # refuses what is no depth
    how = tolerance_s, depth_offset_s
    with opened_bag(bag, image, depth, camera_info, None, *how) as (recording, choice, pairing):
        topics = choice.topics
        if topics.depth is None:
            raise DataError(f"{bag} has no depth topic; a scale needs true distances to be measured by")
        if not pairing.partner:
            raise DataError(f"nothing to measure: {pairing}")
        frames = recording.frames(topics, *how)
        count = math.ceil(len(pairing.partner) / every)
        predictor = Predictor.load(weights, device, runtime=runtime)
        with_depth = (frame for frame in frames if frame.depth_m is not None)
        every_nth = track(islice(with_depth, 0, None, every), "measuring", total=count)
        measured = measure_scale(every_nth, predictor, max_depth_m)
    say_left_out(measured.pixels_beyond, max_depth_m)
    if measured.without_camera:
        say(
            f"{measured.without_camera} of {measured.frames} frames have no calibration: the factor makes up for the"
            " focal length too",
            "yellow",
            title="note: ",
        )
    say(f"scale_factor: {measured.factor:.3f}")
    if measured.frames == 1:
        say("of one frame, which does not say how much others differ")
        return
    say(
        f"of {measured.frames} frames; that of a single frame differs by {measured.sigma_log:.1%} (one sigma of its"
        " logarithm)"
    )


def calibrate(
    weights: Path,
    data: Path,
    out: Path,
    split: str = "train",
    limit: int | None = None,
    half: bool = False,
    depth_factor: float = 1.0,
    errors_of: Path | None = None,
    max_depth_m: float = 10.0,
) -> None:
    """Measure on held-out images what a checkpoint must know of its errors, and write it with that.

    Args:
        weights: "embedded" or a checkpoint file.
        data: images that its training has not seen.
        out: the checkpoint to write, with `scale_prior`, `sigma_temperature` and `calibrated_to_m` in its provenance.
        split: "train" or "test" where the data come in both.
        limit: number of images, evenly spread; without it all.
        half: store float16, half of the size.
        depth_factor: multiply the depths of a network with an "exp" head by this first, where `spd eval` says that they
            are too small or too large everywhere (its s*).
        errors_of: checkpoint file whose errors are measured in place of those of `weights`, which has seen all images
            there are.
        max_depth_m: pixels count whose true depth lies below; 80 for weights that look outdoors.
    """
    check_writable(out)  # before all the measuring
    model, dtype = checkpoint.load(weights), torch.float16 if half else checkpoint.stored_type(weights)
    tried = model if errors_of is None else checkpoint.load(errors_of)
    if depth_factor != 1:
        for network in {model, tried}:
            network.multiply_depth(depth_factor)
    predictor = Predictor(tried)  # without what was measured before
    dataset, how = open_dataset(data, split), Protocol(limit=limit, max_depth_m=max_depth_m)
    say_without_camera(dataset[0])
    measure_sigma = partial(evaluate_scale, predictor, dataset, how, counts=(), progress=True)
    # Sigma is that of the weights that are written: of two trainings the longer one says a smaller one.
    scored = own = measure_sigma(sigma_of=None if tried is model else Predictor(model))
    if scored["sigma"]:  # what the prior goes with, as references are weighed by sigma
        own = own if tried is model else measure_sigma()
        predictor.provenance = {"sigma_temperature": own["sigma"]["temperature"]}
    fitted = fit_prior(predictor, dataset, how, progress=True)
    prior = asdict(narrowed(fitted, predictor, dataset, how, progress=True))
    floor_log = evaluate_floor(predictor, dataset, how, progress=True)["floor_log"]
    if floor_log is not None:
        prior["floor_log"] = floor_log
    measured: dict[str, Any] = {"scale_prior": prior, "calibrated_to_m": max_depth_m}
    known = checkpoint.provenance(weights)
    known.pop("sigma_temperature", None)
    if sigma := scored["sigma"]:
        measured["sigma_temperature"] = sigma["temperature"]
        prior["network_sigma"] = sigma["temperature"] * sigma["mean"]
    checkpoint.save(model, out, dtype, **{**known, **measured})
    say(f"wrote {out}, with")
    for name, value in measured.items():
        parts = value.items() if isinstance(value, dict) else ()
        say(f"  {name}: " + (", ".join(f"{part} {number:.4g}" for part, number in parts) or f"{value:.4g}"))
    say_left_out(scored["pixels_beyond"], max_depth_m, scored["without_truth"])


def say_without_camera(sample: Sample) -> None:
    """Print that a data set, of which this is a sample, has no intrinsics."""
    if sample.camera is None:
        say("no intrinsics (camera.txt): depth assumes the training focal length", "yellow", title="note: ")


def say_left_out(pixels_beyond: int, max_depth_m: float, without_truth: int = 0) -> None:
    """Print what an evaluation did not score."""
    if pixels_beyond:
        say(
            f"left out: {pixels_beyond:,} pixels whose true depth is more than {max_depth_m:g} m (max_depth_m)",
            "yellow",
        )
    if without_truth:
        say(f"left out: {without_truth} images without a known depth below {max_depth_m:g} m (max_depth_m)", "yellow")


def show_floor(result: dict) -> None:
    """Print `evaluate_floor`'s result."""
    for name in ("visible", "hidden"):
        if group := result.get(name):
            say(
                f"floor {name} in {group['images']} images: AbsRel {group['without']:.3f} without it,"
                f" {group['with']:.3f} with it; told to the scale in {group['claimed']:.0%} of them"
            )
    if "visible" not in result and "hidden" not in result:
        say("no image has a floor and a camera")


def show_scale(result: dict) -> None:
    """Print `evaluate_scale`'s result."""
    table = Table("references", "AbsRel", "delta 1", "RMSE", "s*", "scale within 1 / 1.96 sigma")
    for count, mean in result["references"].items():
        covered = f"{mean['scale_68']:.0%} / {mean['scale_95']:.0%}"
        table.add_row(count, *(f"{mean[name]:.3f}" for name in ("abs_rel", "d1", "rmse", "s_star")), covered)
    exact = result["exact"]
    table.add_row("exact median", *(f"{exact[name]:.3f}" for name in ("abs_rel", "d1", "rmse", "s_star")), "")
    table.title = f"with references: noise {result['noise']:.0%}, {result['outliers']:.0%} of them outliers"
    make_console().print(table)
    if without_truth := result["without_truth"]:
        say(f"left out: {without_truth} images without a known depth in the range that is evaluated", "yellow")
    say_sigma(result["sigma"])
