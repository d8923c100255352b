"""What a scale and a sigma are worth: depths with references drawn from the truth, and how often sigma is right.

References are as a robot's are: a few of many pixels, noisy, some of them outliers. Errors are scored at other pixels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import files
from .data.bag import BagFrame
from .data.loader import opened
from .data.samples import DataError, Dataset, Sample, limited
from .errors import SPDError
from .evaluation import Protocol, chosen_pixels, crop_of, encode
from .metrics import count_beyond, doubt_units, evaluated_pixels, mean_metrics
from .pixels import random_pixels
from .predictor import EncodedFrame, Predictor
from .reports import new_figure, save_figure
from .scale import ScaleFilter
from .scale_posterior import NU
from .scale_prior import ScalePrior
from .status import Answer

SCORED, MEASURED = 4000, 1000  # pixels of an image that errors and a scale are measured at
NOISE, OUTLIERS = 0.05, 0.2  # of references: sigma of the log, and the share that are outliers: any depth
NEAREST_M, FARTHEST_M = 0.3, 10.0  # of outliers
MARGIN = 1.2  # other cameras and rooms are harder than those held out
DRAWS = 200  # of references, at least, for a mean that is not of chance: several for each image of a small set
LEAST_IMAGES = 10  # the standard deviation of so many scales is known to a quarter: 1 / sqrt(2 (n - 1))
# Shares of the standard deviation of images' scales that a prior may have, the narrowest first, and by how much the
# error with references may be above the least.
NARROWER, AS_GOOD = (0.7, 0.8, 0.9, 1.0), 1.01
SHARES = np.linspace(0.1, 1.0, 10)  # of the most certain points
COVERED = {"68": 1.0, "95": 1.96}  # half-widths of the intervals, in sigmas


class Points(NamedTuple):
    """Pixels [K, 2] of an encoded image, with their true depth [K] m and what the network answers there."""

    frame: EncodedFrame
    at: np.ndarray
    truth_m: np.ndarray
    answer: Answer


def draw_references(
    depth_m: np.ndarray, count: int, rng: np.random.Generator, noise: float = NOISE, outliers: float = OUTLIERS
) -> tuple[np.ndarray, np.ndarray]:
    """Which of depths [K] are references, and what they say, m: noisy, and a share `outliers` of them anything."""
    chosen = rng.permutation(len(depth_m))[:count]
    said_m = depth_m[chosen] * np.exp(noise * rng.standard_normal(len(chosen)))
    is_outlier = rng.random(len(chosen)) < outliers
    return chosen, np.where(is_outlier, rng.uniform(NEAREST_M, FARTHEST_M, len(chosen)), said_m)


def evaluate_scale(
    predictor: Predictor,
    dataset: Dataset,
    protocol: Protocol | None = None,
    counts: Sequence[int] = (1, 5, 20),
    prior: ScalePrior | None = None,
    *,
    sigma_of: Predictor | None = None,
    least_draws: int = DRAWS,
    progress: bool = False,
    workers: int = 0,
) -> dict:
    """Score every sample without references, with `counts` of them per image, and with the exact median ratio. Where
    there are few images, references are drawn several times for each, `least_draws` times in all at least. With
    `sigma_of` it is that network's sigma that the errors are held against.

    Returns:
        {"references": {"0" | count: mean metrics, with `scale_68` and `scale_95`, how often the image's own scale lies
        within one and 1.96 sigma}, "exact": mean metrics, "sigma": see `sigma_report`, "noise", "outliers", "prior",
        "pixels_beyond": how many have a truth above the protocol's `max_depth_m`, and are left out, "without_truth":
        how many images have no pixel with another, and are left out}.

    Raises:
        DataError: a sample cannot be read, or none has a pixel of known depth below `max_depth_m`.
    """
    check_counts(counts)
    protocol = protocol or Protocol()
    dataset = limited(dataset, protocol.limit)
    scored: dict[str, list[dict[str, float]]] = {name: [] for name in ("0", *map(str, counts), "exact")}
    draws = math.ceil(least_draws / max(len(dataset), 1))
    at_points, pixels_beyond, crop = [], 0, crop_of(protocol, dataset)
    for index, sample in enumerate(opened(dataset, "with references", workers, progress)):
        pixels_beyond += count_beyond(sample.truth_m, protocol.max_depth_m, crop)
        if (points := _points_of(predictor, sample, protocol, crop, index)) is None:
            continue
        said = points.answer if sigma_of is None else encode(sigma_of, sample, protocol).answer(points.at)
        at_points.append((points.answer.depth_m, said.sigma_log, points.truth_m))
        for count in (0, *counts):
            seeds = ([protocol.seed, index, count, draw] for draw in range(draws if count else 1))
            of_draws = [_with_references(ScaleFilter(predictor, prior), points, count, s, protocol) for s in seeds]
            held_out_count = of_draws[0]["n_valid"]  # of each draw; none where the image has no more pixels than that
            scored[str(count)].append(
                mean_metrics(of_draws) | {"n_valid": held_out_count} if held_out_count else of_draws[0]
            )
        exact = np.median(points.truth_m / points.answer.depth_m)
        scored["exact"].append(protocol.metrics(points.answer.depth_m * exact, points.truth_m))
    _check_enough(len(at_points), len(dataset), protocol)
    means = {name: mean_metrics(metrics) for name, metrics in scored.items()}
    exact_mean = means.pop("exact")
    return {
        "references": means,
        "exact": exact_mean,
        "sigma": sigma_report(*(np.concatenate(part) for part in zip(*at_points))),
        "noise": NOISE,
        "outliers": OUTLIERS,
        "prior": asdict(prior or ScalePrior.of(predictor)),
        "pixels_beyond": pixels_beyond,
        "without_truth": len(dataset) - len(at_points),
    }


def _with_references(
    scale: ScaleFilter, points: Points, count: int, seed: list[int], protocol: Protocol
) -> dict[str, float]:
    """Metrics with a new scale to which `count` of the points are references, at all others."""
    chosen, said_m = draw_references(points.truth_m, count, np.random.default_rng(seed))
    scale.update(points.frame, points.at[chosen], said_m)
    depth_m, _ = scale.correct(points.answer.depth_m, points.answer.sigma_log)
    metrics = protocol.metrics(np.delete(depth_m, chosen), np.delete(points.truth_m, chosen))
    off = abs(math.log(metrics["s_star"])) / scale.sigma_log
    return metrics | {f"scale_{name}": float(off < width) for name, width in COVERED.items()}


def check_counts(counts: Sequence[int]) -> None:
    """Raise SPDError for numbers of references that leave nothing to score, or are none."""
    if not all(1 <= count < SCORED for count in counts):
        raise SPDError(f"references must be 1 to {SCORED - 1} of the pixels that are scored, got {list(counts)}")


def _check_enough(count: int, of: int, protocol: Protocol, least: int = 1) -> None:
    """Raise DataError for fewer than `least` images that something can be measured at."""
    if count < least:
        raise DataError(
            f"{count or 'none'} of {of} images {'has' if count < 2 else 'have'} a pixel of known depth below"
            f" {protocol.max_depth_m:g} m (max_depth_m); expected {least} at least"
        )


def _points_of(predictor: Predictor, sample: Sample, protocol: Protocol, crop: str | None, index: int) -> Points | None:
    """A sample at random pixels; None where it has none of known depth."""
    at = chosen_pixels(replace(protocol, points=SCORED, grid=None), sample, crop, index)
    if at is None or not len(at):
        return None
    truth_m = sample.truth_m[at[:, 1], at[:, 0]].astype(np.float64)
    frame = encode(predictor, sample, protocol)
    return Points(frame, at, truth_m, frame.answer(at))


def sigma_report(depth_m: np.ndarray, sigma_log: np.ndarray, truth_m: np.ndarray) -> dict:
    """How good sigma [K] is at points of all images: `covered_68` and `covered_95`, the shares of errors of log depth
    within one and 1.96 sigma; `mean`, of sigma; `temperature`, what sigma must be multiplied with to cover 68.3 %;
    `abs_rel_by_share`, the error of the most certain points, and `oracle_by_share`, of those that are best indeed, for
    `shares` of them; `certain_half`, the error of the more certain half over that of all. Empty for a network that says
    no sigma."""
    if np.isnan(sigma_log).all():
        return {}
    off = np.abs(np.log(truth_m / depth_m)) / sigma_log
    error = np.abs(depth_m / truth_m - 1)
    ends = np.ceil(SHARES * len(error)).astype(int)
    by_certainty, by_error = (np.cumsum(error[np.argsort(key)])[ends - 1] / ends for key in (sigma_log, error))
    return {
        **{f"covered_{name}": float(np.mean(off < width)) for name, width in COVERED.items()},
        "mean": float(np.mean(sigma_log)),
        "temperature": float(np.quantile(off, 0.683)),
        "certain_half": float(np.interp(0.5, SHARES, by_certainty) / by_certainty[-1]),
        "shares": SHARES.tolist(),
        "abs_rel_by_share": by_certainty.tolist(),
        "oracle_by_share": by_error.tolist(),
    }


class MeasuredScale(NamedTuple):
    """The scale of a camera.

    Attributes:
        factor: what makes the network's metres true: the median of the frames' median ratios of true to network depth.
        sigma_log: the standard deviation of the log of single frames' ratios; NaN of one frame.
        frames: how many were measured.
        without_camera: of those, how many have no intrinsics, so that the factor makes up for the focal length too.
        pixels_beyond: how many pixels have a truth above `max_depth_m`, and are left out.
    """

    factor: float
    sigma_log: float
    frames: int
    without_camera: int
    pixels_beyond: int


def measure_scale(frames: Iterable[BagFrame], predictor: Predictor, max_depth_m: float = 10.0) -> MeasuredScale:
    """The scale of a camera, from frames of which some have depth below `max_depth_m`.

    Raises:
        DataError: no frame has.
        SPDError: the network's depth is not finite.
    """
    ratios, without_camera, pixels_beyond = [], 0, 0
    for index, frame in enumerate(frames):
        if frame.depth_m is None:
            continue
        pixels_beyond += count_beyond(frame.depth_m, max_depth_m, None)
        at = random_pixels(evaluated_pixels(frame.depth_m, 0, max_depth_m, None), MEASURED, [0, index])
        if not len(at):
            continue
        without_camera += frame.camera is None
        network_m = predictor.encode_quietly(frame.rgb, frame.camera).depth_at(at)  # no intrinsics: the caller says so
        if not np.isfinite(network_m).all():
            raise SPDError("the network's depth of a frame is not finite: no scale can be measured by it")
        ratios.append(float(np.median(np.log(frame.depth_m[at[:, 1], at[:, 0]] / network_m))))
    if not ratios:
        raise DataError(
            f"no frame of the recording has depth below {max_depth_m:g} m (max_depth_m): a scale needs true distances"
            " to be measured by"
        )
    doubt_units(math.exp(np.median(ratios)))
    sigma_log = float(np.std(ratios, ddof=1)) if len(ratios) > 1 else math.nan
    return MeasuredScale(math.exp(np.median(ratios)), sigma_log, len(ratios), without_camera, pixels_beyond)


def fit_prior(
    predictor: Predictor, dataset: Dataset, protocol: Protocol | None = None, *, progress: bool = False
) -> ScalePrior:
    """The prior that held-out images give: write it as `scale_prior` of the checkpoint's provenance. Its `floor_log` is
    the default: `evaluate_floor` measures it.

    Raises:
        DataError: there are fewer images with depth than LEAST_IMAGES, or one cannot be read.
        SPDError: the network's depth is not finite.
    """
    protocol = protocol or Protocol()
    dataset = limited(dataset, protocol.limit)
    if len(dataset) < LEAST_IMAGES:
        raise DataError(
            f"{len(dataset)} images are too few for a prior: what differs between images cannot be measured on fewer"
            f" than {LEAST_IMAGES}"
        )
    at_points, sigmas = [], []
    for index, sample in enumerate(opened(dataset, "prior", progress=progress)):
        if (points := _points_of(predictor, sample, protocol, crop_of(protocol, dataset), index)) is None:
            continue
        network_m = points.answer.depth_m.astype(np.float64)
        if not np.isfinite(network_m).all():
            raise SPDError(f"the network's depth of {sample.name} is not finite: no prior can be fitted to its errors")
        at_points.append((network_m, points.truth_m))
        sigmas.append(np.mean(points.answer.sigma_log))
    _check_enough(len(at_points), len(dataset), protocol, LEAST_IMAGES)
    pivot_m = math.exp(np.mean([np.log(np.median(network_m)) for network_m, _ in at_points]))
    scales, slopes, left = [], [], []
    for network_m, truth_m in at_points:
        ratio, weights = np.log(truth_m / network_m), np.ones(len(truth_m))
        rows = np.stack([np.ones(len(ratio)), np.log(network_m / pivot_m)], axis=1)
        for _ in range(10):  # Student's t by weights
            weighted = rows * weights[:, None]
            fit = np.linalg.solve(weighted.T @ rows + 1e-3 * len(ratio) * np.diag([0, 1]), weighted.T @ ratio)
            errors = ratio - rows @ fit
            weights = (NU + 1) / (NU + (errors / _width(errors)) ** 2)
        scales.append(np.median(ratio))
        slopes.append(fit[1])
        left.append(ratio - scales[-1])
    doubt_units(math.exp(np.median(scales)))
    slope = 1.48 * float(np.median(np.abs(slopes)))  # the standard deviation, not that of a few odd images
    network_sigma = 0.0 if np.isnan(sigmas).any() else float(np.mean(sigmas))
    spread = MARGIN * _width(np.concatenate(left))
    return ScalePrior(float(np.std(scales)), slope, spread, pivot_m, network_sigma=network_sigma)


def narrowed(
    prior: ScalePrior,
    predictor: Predictor,
    dataset: Dataset,
    protocol: Protocol | None = None,
    counts: Sequence[int] = (1, 5, 20),
    *,
    progress: bool = False,
) -> ScalePrior:
    """`prior` with the narrowest of the `sigma_log` under which references gain as good as most: a few odd images make
    most of the standard deviation, and a prior that wide also lets outliers move a scale that was right."""
    protocol = protocol or Protocol()
    dataset = limited(dataset, protocol.limit)
    candidates = [replace(prior, sigma_log=share * prior.sigma_log) for share in NARROWER]
    scored: dict[tuple[ScalePrior, int], list] = {pair: [] for pair in itertools.product(candidates, counts)}
    for index, sample in enumerate(opened(dataset, "narrowing", progress=progress)):
        if points := _points_of(predictor, sample, protocol, crop_of(protocol, dataset), index):
            for (candidate, count), metrics in scored.items():
                scale, seed = ScaleFilter(predictor, candidate), [protocol.seed, index, count, 0]
                metrics.append(_with_references(scale, points, count, seed, protocol))
    errors = [np.mean([mean_metrics(scored[one, count])["abs_rel"] for count in counts]) for one in candidates]
    return next(candidate for candidate, error in zip(candidates, errors) if error <= AS_GOOD * min(errors))


def _width(errors: np.ndarray) -> float:
    """Of Student's t of NU, whose half lies within 0.765 of it."""
    return max(float(np.median(np.abs(errors))) / 0.765, 1e-3)


def write_scale_report(result: dict, folder: str | Path) -> None:
    """`result` of `evaluate_scale` as scale.json and scale.png: error by number of references, and by certainty."""
    folder = files.make_folder(folder)
    files.write_json(folder / "scale.json", result)
    figure = new_figure(11, 4)
    by_count, by_share = figure.subplots(1, 2)
    counts = list(result["references"])
    by_count.bar(counts, [result["references"][count]["abs_rel"] for count in counts])
    by_count.axhline(result["exact"]["abs_rel"], color="black", linewidth=0.8, label="exact median ratio")
    by_count.set(xlabel="references per image", ylabel="AbsRel")
    by_count.legend()
    if sigma := result["sigma"]:
        by_share.plot(sigma["shares"], sigma["abs_rel_by_share"], marker=".", label="most certain by sigma")
        by_share.plot(sigma["shares"], sigma["oracle_by_share"], marker=".", label="best indeed")
        by_share.legend()
    by_share.set(xlabel="share of the points", ylabel="AbsRel", ylim=(0, None))
    save_figure(figure, folder / "scale.png")
