"""Results as files: JSON, CSV and pictures."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import files
from .data.samples import Dataset, Sample, limited
from .evaluation import Evaluation, Protocol, chosen_pixels, crop_of, predict
from .extras import extra
from .pictures import colour_depth, depth_range
from .predictor import Predictor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure


def report_folder(path: str | Path) -> Path:
    """A folder for a report, made before all the work that goes into it.

    Raises:
        SPDError: it cannot be written to, or nothing here draws figures.
    """
    new_figure(1, 1)
    return files.make_folder(path)


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty figure that needs no display."""
    with extra("train"):
        from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), layout="constrained")


def say_instead(axis: Axes, text: str) -> None:
    """Words in the place of a plot that would show nothing."""
    axis.axis("off")
    axis.text(0.5, 0.5, text, ha="center", va="center", fontsize=14, parse_math=False, transform=axis.transAxes)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with files.replaced(path) as partial:
        figure.savefig(partial, dpi=80, format="png")


def write_evaluation(
    result: Evaluation, predictor: Predictor, dataset: Dataset, folder: str | Path, **about: object
) -> None:
    """`result` of `evaluate` as result.json (`about` it, and all but the images), per_image.csv and report.png: errors,
    and the best and worst images."""
    folder = files.make_folder(folder)
    summary = {**about, **{key: value for key, value in result.items() if key != "per_image"}}
    files.write_json(folder / "result.json", summary)
    columns = list(dict.fromkeys(name for image in result["per_image"] for name in image))
    rows = ([image.get(name, "") for name in columns] for image in result["per_image"])
    files.write_csv(folder / "per_image.csv", columns, rows)
    _draw_evaluation(result, predictor, dataset, folder / "report.png")


def _draw_evaluation(result: Evaluation, predictor: Predictor, dataset: Dataset, path: Path) -> None:
    protocol = Protocol(**result["protocol"])
    dataset = limited(dataset, protocol.limit)
    errors = np.array([image["abs_rel"] for image in result["per_image"]])
    order = [i for i in np.argsort(errors) if np.isfinite(errors[i])]
    shown = [(title, i) for title, chosen in (("best", order[:2]), ("worst", order[::-1][:2])) for i in chosen]
    figure = new_figure(15, 3.4 * (1 + len(shown)))
    top, *rows = figure.subfigures(1 + len(shown), 1, squeeze=False).ravel()
    histogram, against = top.subplots(1, 2)
    n_nan = result["mean"]["n_nan"]
    mean = f"mean {result['mean']['abs_rel']:.3f}" + (f", {n_nan} images not finite" if n_nan else "")
    if len(order) > 1:
        histogram.hist(errors[order], bins=min(50, max(5, len(order) // 4)), color="tab:blue")
        histogram.axvline(result["mean"]["abs_rel"], color="black", label=mean)
        histogram.set(xlabel="AbsRel of an image", ylabel="images", title=f"{len(order)} images, {result['layout']}")
        histogram.legend()
    else:
        say_instead(
            histogram, f"one image of {result['layout']}\nAbsRel {mean}" if order else f"no image has an error: {mean}"
        )
    some = [dataset[i] for i in order[:: max(1, len(order) // 24)]]
    _draw_error_against_depth(against, some, predictor, protocol, crop_of(protocol, dataset))
    for row, (title, i) in zip(rows, shown):
        pred_m = predict(predictor, dataset[i], replace(protocol, points=None, grid=None))
        _draw_sample(row, dataset[i], pred_m, title, f"prediction, AbsRel {errors[i]:.3f}")
    save_figure(figure, path)


def _draw_sample(row: SubFigure, sample: Sample, pred_m: np.ndarray, title: str, pred_title: str) -> None:
    """Image, true depth, predicted depth and relative error, side by side."""
    near, far = depth_range(sample.truth_m)
    error = np.where(sample.truth_m > 0, np.abs(pred_m - sample.truth_m) / np.maximum(sample.truth_m, 1e-3), np.nan)
    pictures = {
        f"{title}: {files.printable(sample.name[-40:])}": sample.rgb,
        f"truth, {near:.1f} ... {far:.1f} m": colour_depth(sample.truth_m, near, far),
        pred_title: colour_depth(pred_m, near, far),
        "relative error": error,
    }
    axes = row.subplots(1, len(pictures))
    for axis, (name, picture) in zip(axes, pictures.items()):
        shown = axis.imshow(picture, vmin=0, vmax=0.5, cmap="magma")  # of the error alone: the others are RGB
        axis.set_title(name, fontsize=9, parse_math=False)
        axis.axis("off")
    row.colorbar(shown, ax=axes[-1])


def _draw_error_against_depth(
    axis: Axes, samples: list[Sample], predictor: Predictor, protocol: Protocol, crop: str | None
) -> None:
    """Median and quartiles of the signed relative error by depth, at random pixels of some images."""
    at_points = replace(protocol, grid=None, points=2000)
    truths, relative = [], []
    for index, sample in enumerate(samples):
        at = chosen_pixels(at_points, sample, crop, index)
        assert at is not None  # as many as `points`
        gt = sample.truth_m[at[:, 1], at[:, 0]]
        truths.append(gt)
        relative.append(predict(predictor, sample, at_points, at) / gt - 1)
    truth, errors = np.concatenate([*truths, []]), np.concatenate([*relative, []])
    edges = np.linspace(0, protocol.max_depth_m, 21)
    bins = [(0.5 * (a + b), errors[(truth >= a) & (truth < b)]) for a, b in itertools.pairwise(edges)]
    bins = [(middle, np.percentile(inside, [25, 50, 75])) for middle, inside in bins if len(inside) >= 20]
    if not bins:
        return say_instead(axis, "too few pixels with depth to draw the error against it")
    middle, quartiles = (np.array(part) for part in zip(*bins))
    axis.fill_between(middle, quartiles[:, 0], quartiles[:, 2], alpha=0.3, label="quartiles")
    axis.plot(middle, quartiles[:, 1], marker=".", label="median")
    axis.legend()
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set(xlabel="depth, m", ylabel="prediction / truth - 1", title=f"error against depth ({len(samples)} images)")
