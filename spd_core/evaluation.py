"""Evaluation: a predictor on a data set, by an explicit protocol. `reports` writes the results."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, NotRequired, TypedDict

import numpy as np

from .data.loader import opened
from .data.samples import Dataset, Sample, limited
from .errors import SPDError, at_least
from .metrics import count_beyond, depth_metrics, evaluated_pixels, mean_metrics, range_metrics
from .model import MIN_SIZE
from .pixels import check_grid, grid_pixels, random_pixels
from .predictor import EncodedFrame, Predictor


@dataclass(kw_only=True)
class Protocol:
    """How a model is evaluated. The defaults on NYU are the published protocol of BTS: native 480x640, Eigen crop, 1e-3
    < gt < 10 m, mean over images.

    Args:
        crop: "eigen" cuts 480x640 images to [45:471, 41:601], "none" does not, "auto" is what the data set says
            (`Dataset.evaluation_crop`).
        min_depth_m: pixels count whose truth lies strictly above; predictions are clamped to it.
        max_depth_m: pixels count whose truth lies strictly below; predictions are clamped to it.
        resize_eval: height, width that images are scaled to fit before the network sees them; without it they are taken
            at their own size, or at the training focal length where that is how the model fits images
            (`SPDConfig.fit`).
        flip_average: average with the prediction of the mirror image (AdaBins, ZoeDepth and NeWCRFs do, BTS does not).
        ignore_intrinsics: leave out the focal correction.
        points: evaluate at this many random valid pixels of each image, by sparse queries, instead of at all pixels.
        grid: columns, rows: evaluate at this grid, by sparse queries.
        limit: number of images, evenly spread over the data set; without it all.
        seed: of `points`.
    """

    crop: str = "auto"
    min_depth_m: float = 1e-3
    max_depth_m: float = 10.0
    resize_eval: tuple[int, int] | None = None
    flip_average: bool = False
    ignore_intrinsics: bool = False
    points: int | None = None
    grid: tuple[int, int] | None = None
    limit: int | None = None
    seed: int = 0

    def __post_init__(self):
        if self.crop not in ("auto", "none", "eigen"):
            raise SPDError(f"crop must be auto, none or eigen, got {self.crop!r}")
        if self.points is not None and self.grid is not None:
            raise SPDError(f"points ({self.points}) and grid ({self.grid}) exclude each other")
        at_least(0, min_depth_m=self.min_depth_m, seed=self.seed)
        if not self.min_depth_m < self.max_depth_m < math.inf:
            raise SPDError(
                f"max_depth_m must be finite and above min_depth_m ({self.min_depth_m:g} m), got {self.max_depth_m:g}"
            )
        if self.grid is not None:
            check_grid(*self.grid)
        for name, value in (("points", self.points), ("limit", self.limit)):
            if value is not None and value < 1:
                raise SPDError(f"{name} must be positive, got {value}")

    def metrics(self, pred_m: np.ndarray, gt_m: np.ndarray, crop: str | None = None) -> dict[str, float]:
        """`depth_metrics` in this range of depths."""
        return depth_metrics(pred_m, gt_m, min_depth=self.min_depth_m, max_depth=self.max_depth_m, crop=crop)


class Evaluation(TypedDict):
    """What `evaluate` found: the protocol as it was applied, the mean over images, and each image with its name; with a
    constant, what predicting it everywhere would score. Left out are `pixels_beyond` the protocol's `max_depth_m`, and
    images `without_truth` below it."""

    protocol: dict[str, Any]
    layout: str
    mean: dict[str, float]
    per_image: list[dict[str, Any]]
    pixels_beyond: int
    without_truth: int
    constant_m: NotRequired[float]
    constant: NotRequired[dict[str, float]]


def evaluate(
    predictor: Predictor,
    dataset: Dataset,
    protocol: Protocol | None = None,
    *,
    constant_m: float | None = None,
    workers: int = 0,
    progress: bool = False,
) -> Evaluation:
    """Score every sample.

    Args:
        constant_m: also score this depth, predicted everywhere.
        workers: processes that read samples; 0 reads in this one.

    Raises:
        DataError: a sample cannot be read; a mean over what is left would not be comparable.
    """
    protocol = protocol or Protocol()
    dataset = limited(dataset, protocol.limit)
    crop = crop_of(protocol, dataset)
    per_image: list[dict[str, Any]] = []
    constant: list[dict[str, float]] = []
    pixels_beyond = 0
    for index, sample in enumerate(opened(dataset, "evaluate", workers, progress)):
        pixels_beyond += count_beyond(sample.truth_m, protocol.max_depth_m, crop)
        own, of_constant = score(predictor, sample, protocol, crop, index, constant_m)
        per_image.append(own)
        constant.append(of_constant)
    result: Evaluation = {
        "protocol": {**asdict(protocol), "crop": crop or "none"},
        "layout": dataset.layout,
        "mean": mean_metrics(per_image),
        "per_image": per_image,
        "pixels_beyond": pixels_beyond,
        "without_truth": sum(metrics["n_valid"] == 0 for metrics in per_image),
    }
    if constant_m is not None:
        result |= {"constant_m": constant_m, "constant": mean_metrics(constant)}
    return result


def score(
    predictor: Predictor,
    sample: Sample,
    protocol: Protocol,
    crop: str | None,
    index: int,
    constant_m: float | None = None,
) -> tuple[dict[str, Any], dict[str, float]]:
    """The metrics of sample number `index` with its name, and those of predicting `constant_m` everywhere, if that is
    asked."""
    at = chosen_pixels(protocol, sample, crop, index)
    pred_m = predict(predictor, sample, protocol, at)
    gt_m, cut = (sample.truth_m, crop) if at is None else (sample.truth_m[at[:, 1], at[:, 0]], None)
    ranges = range_metrics(pred_m, gt_m, min_depth=protocol.min_depth_m, max_depth=protocol.max_depth_m, crop=cut)
    own = {"name": sample.name, **protocol.metrics(pred_m, gt_m, cut), **ranges}
    return own, {} if constant_m is None else protocol.metrics(np.full_like(gt_m, constant_m), gt_m, cut)


def crop_of(protocol: Protocol, dataset: Dataset) -> str | None:
    """The crop that `depth_metrics` takes."""
    wanted = dataset.evaluation_crop if protocol.crop == "auto" else protocol.crop
    return None if wanted == "none" else wanted


def predict(predictor: Predictor, sample: Sample, protocol: Protocol, at: np.ndarray | None = None) -> np.ndarray:
    """Depth, m, by the protocol: the map [H, W], or [K] at pixels `at` [K, 2]."""
    pred_m = _answer(predictor, sample, protocol, at)
    if not protocol.flip_average:
        return pred_m
    last = sample.rgb.shape[1] - 1
    camera = None if sample.camera is None else sample.camera.mirrored(last + 1)
    mirrored = replace(sample, rgb=np.ascontiguousarray(sample.rgb[:, ::-1]), camera=camera)
    other = _answer(predictor, mirrored, protocol, None if at is None else [last, 0] + at * [-1, 1])
    return (pred_m + (other if at is not None else other[:, ::-1])) / 2


def _answer(predictor: Predictor, sample: Sample, protocol: Protocol, at: np.ndarray | None) -> np.ndarray:
    frame = encode(predictor, sample, protocol)
    return frame.dense_depth() if at is None else frame.depth_at(at)


def encode(predictor: Predictor, sample: Sample, protocol: Protocol) -> EncodedFrame:
    """The image of a sample, encoded by the protocol."""
    height, width = (max(extent, MIN_SIZE) for extent in sample.rgb.shape[:2])
    own_size = None if predictor.model.config.fit == "focal" else (height, width)
    camera = None if protocol.ignore_intrinsics else sample.camera
    # No intrinsics: the result file says so.
    return predictor.encode_quietly(sample.rgb, camera, protocol.resize_eval or own_size)


def chosen_pixels(protocol: Protocol, sample: Sample, crop: str | None, index: int) -> np.ndarray | None:
    """Pixels (x, y) [K, 2] with valid truth that the protocol asks for; None for all."""
    if protocol.points is None and protocol.grid is None:
        return None
    valid = evaluated_pixels(sample.truth_m, protocol.min_depth_m, protocol.max_depth_m, crop)
    if protocol.grid is not None:
        return grid_pixels(valid, *protocol.grid)
    return random_pixels(valid, protocol.points or 0, [protocol.seed, index])
