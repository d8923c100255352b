"""Depth metrics of one image. The only place that defines them."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from .arrays import float64
from .errors import SPDError

# [top, bottom, left, right] of the crop that Eigen et al. (2014) evaluate on 480x640 NYU images.
EIGEN_CROP = (45, 471, 41, 601)
DOUBTFUL_FACTOR = 2.0  # of true to network depth: beyond, other units are likelier than such a camera
RANGES_M = {f"abs_rel_{near}_{far}m": (near, far) for near, far in ((0, 2), (2, 5), (5, 10))}


def depth_metrics(
    pred_m: np.ndarray, gt_m: np.ndarray, *, min_depth: float = 1e-3, max_depth: float = 10.0, crop: str | None = None
) -> dict[str, float]:
    """Metrics of predicted against true depth.

    Valid are the pixels with min_depth < gt < max_depth; predictions are clamped to that range, and one that is NaN
    makes errors NaN. Keys: `abs_rel`, `sq_rel`, `rmse`, `rmse_log`, `log10`, `silog` (100 * sqrt(E[g^2] - E[g]^2), g =
    ln pred - ln gt), `d1` `d2` `d3` (share within 1.25, 1.25^2, 1.25^3; NaN is not), `s_star` (median gt / pred),
    `scaled_abs_rel` (after multiplying by s_star), `scale_gap` (1 - scaled_abs_rel / abs_rel), `n_valid`.

    Args:
        pred_m, gt_m: depth, m, of the same shape (any for crop None, [480, 640] for "eigen").
        crop: None or "eigen".

    Returns:
        Floats; NaN for all but `n_valid` where no pixel is valid.
    """
    pred, gt = _evaluated(pred_m, gt_m, min_depth, max_depth, crop)
    if gt.size == 0:
        return {**dict.fromkeys(depth_metrics(np.ones(1), np.ones(1)), float("nan")), "n_valid": 0}
    pred = np.clip(pred, min_depth, max_depth)
    g = np.log(pred) - np.log(gt)
    ratio = np.maximum(pred / gt, gt / pred)
    abs_rel = np.mean(np.abs(pred - gt) / gt)
    s_star = np.median(gt / pred)
    scaled_abs_rel = np.mean(np.abs(s_star * pred - gt) / gt)
    return {
        "abs_rel": float(abs_rel),
        "sq_rel": float(np.mean((pred - gt) ** 2 / gt)),
        "rmse": float(np.sqrt(np.mean((pred - gt) ** 2))),
        "rmse_log": float(np.sqrt(np.mean(g**2))),
        "log10": float(np.mean(np.abs(g)) / np.log(10)),
        "silog": float(100 * np.sqrt(max(np.mean(g**2) - np.mean(g) ** 2, 0.0))),
        "d1": float(np.mean(ratio < 1.25)),
        "d2": float(np.mean(ratio < 1.25**2)),
        "d3": float(np.mean(ratio < 1.25**3)),
        "s_star": float(s_star),
        "scaled_abs_rel": float(scaled_abs_rel),
        "scale_gap": 0.0 if abs_rel == 0 else float(1 - scaled_abs_rel / abs_rel),
        "n_valid": int(gt.size),
    }


def _evaluated(
    pred_m: np.ndarray, gt_m: np.ndarray, min_depth: float, max_depth: float, crop: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Both depths [N] float64 m of the valid pixels in the part that is evaluated."""
    pred_m, gt_m = float64(pred_m), float64(gt_m)
    if pred_m.shape != gt_m.shape:
        raise ValueError(f"prediction {pred_m.shape} and ground truth {gt_m.shape} differ in shape")
    valid = evaluated_pixels(gt_m, min_depth, max_depth, crop)
    return pred_m[valid], gt_m[valid]


def evaluated_pixels(gt_m: np.ndarray, min_depth: float, max_depth: float, crop: str | None) -> np.ndarray:
    """Where min_depth < gt < max_depth in the part that is evaluated: bool, of the shape of `gt_m`."""
    valid = (gt_m > min_depth) & (gt_m < max_depth)
    if crop == "eigen":
        if gt_m.shape != (480, 640):
            raise SPDError(f"the Eigen crop is defined on 480x640 images, got {gt_m.shape}")
        top, bottom, left, right = EIGEN_CROP
        valid[:top] = valid[bottom:] = valid[:, :left] = valid[:, right:] = False
    elif crop is not None:
        raise ValueError(f"crop must be None or 'eigen', got {crop!r}")
    return valid


def count_beyond(gt_m: np.ndarray, max_depth: float, crop: str | None) -> int:
    """How many pixels of the part that is evaluated are left out because their truth is above `max_depth`."""
    return int(evaluated_pixels(gt_m, max_depth, math.inf, crop).sum())


def range_metrics(
    pred_m: np.ndarray, gt_m: np.ndarray, *, min_depth: float = 1e-3, max_depth: float = 10.0, crop: str | None = None
) -> dict[str, float]:
    """What shows how a model fails: AbsRel of the ranges 0-2, 2-5 and 5-10 m (NaN where a range is empty), the smallest
    and largest prediction and truth, m, and the coefficient of variation (std / mean) of both. Arguments as in
    `depth_metrics`; AbsRel is of predictions clamped to the depth range, the rest of what they are."""
    pred, gt = _evaluated(pred_m, gt_m, min_depth, max_depth, crop)
    if gt.size == 0:
        return {}
    error = np.abs(np.clip(pred, min_depth, max_depth) - gt) / gt
    result = {}
    for name, (near, far) in RANGES_M.items():
        inside = (gt >= near) & (gt < far)
        result[name] = float(error[inside].mean()) if inside.any() else float("nan")
    for name, depth in (("pred", pred), ("gt", gt)):
        result |= {
            f"{name}_min": float(depth.min()),
            f"{name}_max": float(depth.max()),
            f"{name}_cv": float(depth.std() / max(abs(depth.mean()), 1e-9)),
        }
    return result


def collapsed(mean: dict[str, float]) -> bool:
    """Whether a model's output is (nearly) the same everywhere while the truth is not, from the mean of
    `range_metrics`."""
    return mean["pred_cv"] < 0.1 * mean["gt_cv"]


def doubt_units(ratio: float) -> None:
    """Warn of true depths, by their ratio to the network's, that are hardly metres."""
    if ratio > DOUBTFUL_FACTOR or ratio * DOUBTFUL_FACTOR < 1:
        warnings.warn(
            f"true depths are {ratio:.3g} times the network's: are they in metres (16-bit pictures in mm, which are"
            " 1/5000 m in TUM, 1/256 m in KITTI, and turned by three bits in SUN3D), and is the focal length right?",
            stacklevel=3,
        )


def mean_metrics(per_image: list[dict[str, Any]]) -> dict[str, float]:
    """Mean over images, each with the same weight; images without a valid pixel do not count, nor does a range where an
    image has none. `n_valid` is summed, a `name` left out.

    An image with a prediction that is not finite counts: its errors are NaN, and so is their mean, which is never the
    best. Otherwise a model would gain by failing on what is hard. `n_nan` says how many of the `n_images` these are;
    the ranges are of the others alone.
    """
    counted = [m for m in per_image if m["n_valid"] > 0]
    if not counted:
        raise SPDError(
            f"none of {len(per_image)} images has a pixel of known depth to compare with; depths count that lie between"
            " min_depth_m and max_depth_m (10 m, where it is not set), in the crop"
        )
    mean = {}
    for key in (key for key in counted[0] if key != "name"):
        values = [m[key] for m in counted if key not in RANGES_M or not np.isnan(m[key])]
        mean[key] = float(np.mean(values)) if values else float("nan")
    n_nan = sum(any(np.isnan(m[key]) for key in mean.keys() - RANGES_M.keys()) for m in counted)
    return {**mean, "n_valid": sum(m["n_valid"] for m in counted), "n_images": len(counted), "n_nan": n_nan}
