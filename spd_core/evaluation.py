"""Evaluation: a predictor on a data set, by an explicit protocol, with files that say how every number was made."""

from __future__ import annotations

import itertools
import json
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich.progress import track

from . import files
from .camera import Camera, cell_centres
from .data.loader import read_all
from .data.samples import DataError, Dataset, Sample, Subset
from .errors import SPDError
from .extras import extra
from .metrics import EIGEN_CROP, depth_metrics, mean_metrics, range_metrics
from .model import MIN_SIZE
from .pictures import colour_depth, depth_range
from .predictor import Predictor


@dataclass(kw_only=True)
class Protocol:
    """How a model is evaluated. The defaults on NYU are the published protocol of BTS: native 480x640, Eigen crop, 1e-3
    < gt < 10 m, mean over images.

    Args:
        crop: "eigen" cuts 480x640 images to [45:471, 41:601], "none" does not, "auto" does so for NYU.
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
        for name, value in (
            ("points", self.points),
            ("limit", self.limit),
            *(("grid", extent) for extent in self.grid or ()),
        ):
            if value is not None and value < 1:
                raise SPDError(f"{name} must be positive, got {value}")


def evaluate(
    predictor: Predictor,
    dataset: Dataset,
    protocol: Protocol | None = None,
    *,
    constant_m: float | None = None,
    workers: int = 0,
    progress: bool = False,
) -> dict:
    """Score every sample.

    Args:
        constant_m: also score this depth, predicted everywhere.
        workers: processes that read samples; 0 reads in this one.

    Returns:
        {"protocol": {...}, "layout", "mean": metrics, "per_image": [{"name", metrics...}], "constant": metrics if
        asked}.

    Raises:
        DataError: a sample cannot be read; a mean over what is left would not be comparable.
    """
    protocol = protocol or Protocol()
    dataset = limited(dataset, protocol.limit)
    crop = _crop(protocol, dataset)
    settings = {"min_depth": protocol.min_depth_m, "max_depth": protocol.max_depth_m}
    per_image, constant = [], []
    for index, sample in enumerate(
        track(read_all(dataset, workers), "evaluate", total=len(dataset), disable=not progress)
    ):
        if isinstance(sample, DataError):
            raise sample
        if sample.depth_m is None:
            raise DataError(f"{sample.name} has no depth to compare with")
        at = _chosen_pixels(protocol, sample, crop, index)
        pred_m = predict(predictor, sample, protocol, at)
        gt_m, cut = (sample.depth_m, crop) if at is None else (sample.depth_m[at[:, 1], at[:, 0]], None)
        metrics = depth_metrics(pred_m, gt_m, crop=cut, **settings)
        per_image.append({"name": sample.name, **metrics, **range_metrics(pred_m, gt_m, crop=cut, **settings)})
        if constant_m is not None:
            constant.append(depth_metrics(np.full_like(gt_m, constant_m), gt_m, crop=cut, **settings))
    mean = mean_metrics(per_image)
    result = {
        "protocol": {**asdict(protocol), "crop": crop or "none"},
        "layout": dataset.layout,
        "mean": mean,
        "per_image": per_image,
    }
    return {**result, "constant_m": constant_m, "constant": mean_metrics(constant)} if constant else result


def _crop(protocol: Protocol, dataset: Dataset) -> str | None:
    """The crop that `depth_metrics` takes."""
    wanted = ("eigen" if dataset.layout.startswith("NYU") else "none") if protocol.crop == "auto" else protocol.crop
    return None if wanted == "none" else wanted


def limited(dataset: Dataset, limit: int | None) -> Dataset:
    """At most `limit` samples, evenly spread."""
    if limit is None or limit >= len(dataset):
        return dataset
    return Subset(dataset, np.linspace(0, len(dataset) - 1, limit).round().astype(int).tolist())


def predict(predictor: Predictor, sample: Sample, protocol: Protocol, at: np.ndarray | None = None) -> np.ndarray:
    """Depth, m, by the protocol: the map [H, W], or [K] at pixels `at` [K, 2]."""
    camera = None if protocol.ignore_intrinsics else sample.camera
    pred_m = _answer(predictor, sample.rgb, camera, protocol, at)
    if not protocol.flip_average:
        return pred_m
    last = sample.rgb.shape[1] - 1
    mirrored = None if camera is None else camera.mirrored(last + 1)
    there = None if at is None else [last, 0] + at * [-1, 1]
    other = _answer(predictor, np.ascontiguousarray(sample.rgb[:, ::-1]), mirrored, protocol, there)
    return (pred_m + (other if at is not None else other[:, ::-1])) / 2


def _answer(
    predictor: Predictor, rgb: np.ndarray, camera: Camera | None, protocol: Protocol, at: np.ndarray | None
) -> np.ndarray:
    height, width = (max(extent, MIN_SIZE) for extent in rgb.shape[:2])
    own_size = None if predictor.model.config.fit == "focal" else (height, width)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # no intrinsics: the result file says so
        frame = predictor.encode(rgb, camera, protocol.resize_eval or own_size)
    return frame.dense_depth() if at is None else frame.depth_at(at)


def _chosen_pixels(protocol: Protocol, sample: Sample, crop: str | None, index: int) -> np.ndarray | None:
    """Pixels (x, y) [K, 2] with valid truth that the protocol asks for; None for all."""
    if protocol.points is None and protocol.grid is None:
        return None
    gt_m = np.where(
        (sample.depth_m > protocol.min_depth_m) & (sample.depth_m < protocol.max_depth_m), sample.depth_m, 0
    )
    if crop == "eigen":
        top, bottom, left, right = EIGEN_CROP
        inside = np.zeros_like(gt_m, dtype=bool)
        inside[top:bottom, left:right] = True
        gt_m = np.where(inside, gt_m, 0)
    if protocol.grid is not None:
        at = (cell_centres(gt_m.shape, *protocol.grid) + 0.5).astype(int)
        return at[gt_m[at[:, 1], at[:, 0]] > 0]
    y, x = np.nonzero(gt_m)
    chosen = np.random.default_rng([protocol.seed, index]).permutation(len(x))[: protocol.points]
    return np.stack([x[chosen], y[chosen]], axis=1)


def write_report(result: dict, predictor: Predictor, dataset: Dataset, folder: str | Path) -> None:
    """`result` of `evaluate` as result.json (all but the images), per_image.csv and report.png: errors, and the best
    and worst images."""
    folder = files.make_folder(folder)
    summary = {key: value for key, value in result.items() if key != "per_image"}
    files.write_text(folder / "result.json", json.dumps(summary, indent=1))
    columns = list(max(result["per_image"], key=len))
    rows = ([image.get(name, "") for name in columns] for image in result["per_image"])
    files.write_csv(folder / "per_image.csv", columns, rows)
    _draw_report(result, predictor, dataset, folder / "report.png")


def _draw_report(result: dict, predictor: Predictor, dataset: Dataset, path: Path) -> None:
    with extra("train"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    protocol = Protocol(**result["protocol"])
    dataset = limited(dataset, protocol.limit)
    errors = np.array([image["abs_rel"] for image in result["per_image"]])
    order = [i for i in np.argsort(errors) if np.isfinite(errors[i])]
    shown = [(title, i) for title, chosen in (("best", order[:2]), ("worst", order[::-1][:2])) for i in chosen]
    figure = Figure(figsize=(15, 3.4 * (1 + len(shown))), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subfigures(1 + len(shown), 1) if shown else [figure]
    histogram, against = rows[0].subplots(1, 2)
    histogram.hist(errors[order], bins=min(50, max(5, len(order) // 4)), color="tab:blue")
    histogram.axvline(result["mean"]["abs_rel"], color="black", label=f"mean {result['mean']['abs_rel']:.3f}")
    histogram.set(xlabel="AbsRel of an image", ylabel="images", title=f"{len(order)} images, {result['layout']}")
    histogram.legend()
    _draw_error_against_depth(against, [dataset[i] for i in order[:: max(1, len(order) // 24)]], predictor, protocol)
    for row, (title, i) in zip(rows[1:], shown):
        sample = dataset[i]
        pred_m = predict(predictor, sample, replace(protocol, points=None, grid=None))
        near, far = depth_range(sample.depth_m)
        error = np.where(sample.depth_m > 0, np.abs(pred_m - sample.depth_m) / np.maximum(sample.depth_m, 1e-3), np.nan)
        axes = row.subplots(1, 4)
        pictures = (sample.rgb, colour_depth(sample.depth_m, near, far), colour_depth(pred_m, near, far))
        for axis, picture, name in zip(
            axes,
            pictures,
            (
                f"{title}: {sample.name[-40:]}",
                f"truth, {near:.1f} ... {far:.1f} m",
                f"prediction, AbsRel {errors[i]:.3f}",
            ),
        ):
            axis.imshow(picture)
            axis.set_title(name, fontsize=9, parse_math=False)
        bar = axes[3].imshow(error, vmin=0, vmax=0.5, cmap="magma")
        axes[3].set_title("relative error", fontsize=9)
        row.colorbar(bar, ax=axes[3])
        for axis in axes:
            axis.axis("off")
    with files.replaced(path) as partial:
        figure.savefig(partial, dpi=80, format="png")


def _draw_error_against_depth(axis, samples: list[Sample], predictor: Predictor, protocol: Protocol) -> None:
    """Median and quartiles of the signed relative error by depth, at random pixels of some images."""
    at_points = replace(protocol, grid=None, points=2000)
    truth, errors = [], []
    for index, sample in enumerate(samples):
        at = _chosen_pixels(at_points, sample, None, index)
        gt = sample.depth_m[at[:, 1], at[:, 0]]
        truth.append(gt)
        errors.append(predict(predictor, sample, at_points, at) / gt - 1)
    truth, errors = np.concatenate(truth or [[]]), np.concatenate(errors or [[]])
    edges = np.linspace(0, protocol.max_depth_m, 21)
    bins = [(0.5 * (a + b), errors[(truth >= a) & (truth < b)]) for a, b in itertools.pairwise(edges)]
    bins = [(middle, np.percentile(inside, [25, 50, 75])) for middle, inside in bins if len(inside) >= 20]
    if bins:
        middle, quartiles = np.array([b[0] for b in bins]), np.array([b[1] for b in bins])
        axis.fill_between(middle, quartiles[:, 0], quartiles[:, 2], alpha=0.3, label="quartiles")
        axis.plot(middle, quartiles[:, 1], marker=".", label="median")
        axis.legend()
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set(xlabel="depth, m", ylabel="prediction / truth - 1", title=f"error against depth ({len(samples)} images)")
