"""Metrics against numbers worked out by hand."""

import math

import numpy as np
import pytest

from spd_core.metrics import collapsed, depth_metrics, doubt_units, mean_metrics, range_metrics


def test_thresholds_are_strict():
    assert depth_metrics(np.array([1.25, 1.2]), np.array([1.0, 1.0]))["d1"] == 0.5


def test_predictions_are_clamped_to_the_range():
    assert depth_metrics(np.array([50.0]), np.array([5.0]))["abs_rel"] == 1.0
    assert depth_metrics(np.array([-2.0]), np.array([1.0]), min_depth=0.5)["abs_rel"] == 0.5


def test_eigen_crop():
    gt, pred = np.ones((480, 640)), np.full((480, 640), 2.0)
    pred[45:471, 41:601] = 1.0
    assert depth_metrics(pred, gt, crop="eigen")["abs_rel"] == 0
    assert depth_metrics(pred, gt, crop="eigen")["n_valid"] == 426 * 560
    with pytest.raises(ValueError, match="480x640"):
        depth_metrics(pred[:-1], gt[:-1], crop="eigen")


def test_no_valid_pixel_and_bad_arguments():
    m = depth_metrics(np.ones(3), np.zeros(3))
    assert m["n_valid"] == 0
    assert all(math.isnan(v) for k, v in m.items() if k != "n_valid")
    with pytest.raises(ValueError, match="differ in shape"):
        depth_metrics(np.ones(3), np.ones(4))
    with pytest.raises(ValueError, match="'garg'"):
        depth_metrics(np.ones(3), np.ones(3), crop="garg")


def test_mean_weighs_images_not_pixels():
    images = [depth_metrics(np.full(n, p), np.ones(n)) for n, p in ((1, 2.0), (99, 1.0))]
    mean = mean_metrics([*images, depth_metrics(np.ones(1), np.zeros(1))])
    assert mean["abs_rel"] == 0.5
    assert (mean["n_images"], mean["n_valid"]) == (2, 100)
    with pytest.raises(ValueError, match=r"none of 1 images has .* between min_depth_m and max_depth_m"):
        mean_metrics([depth_metrics(np.ones(1), np.zeros(1))])


def test_an_image_that_is_not_finite_flatters_no_mean():
    gt = np.array([1.0, 3.0])
    images = [
        {**depth_metrics(pred, gt), **range_metrics(pred, gt)}
        for pred in (np.array([1.5, 3.0]), np.array([1.0, np.nan]))
    ]
    mean = mean_metrics(images)
    assert (mean["n_images"], mean["n_nan"], mean["d1"]) == (2, 1, 0.5)
    for name in ("abs_rel", "rmse", "silog", "s_star", "scale_gap", "pred_max"):
        assert math.isnan(mean[name]), name
    assert not mean["abs_rel"] < images[0]["abs_rel"]  # as the best weights are chosen
    assert math.isnan(mean["abs_rel_5_10m"])  # which no image has
    assert mean["abs_rel_2_5m"] == 0
    assert mean_metrics(images[:1])["n_nan"] == 0


def published(pred, gt, min_depth=1e-3, max_depth=10.0):
    """As the BTS evaluation writes them, pixel by pixel."""
    pairs = [
        (min(max(float(p), min_depth), max_depth), float(g))
        for p, g in zip(pred.ravel(), gt.ravel())
        if min_depth < g < max_depth
    ]
    n = len(pairs)
    logs = [math.log(p) - math.log(g) for p, g in pairs]
    thresholds = [max(g / p, p / g) for p, g in pairs]
    ratios = sorted(g / p for p, g in pairs)
    s_star = ratios[n // 2] if n % 2 else (ratios[n // 2 - 1] + ratios[n // 2]) / 2
    abs_rel = sum(abs(g - p) / g for p, g in pairs) / n
    scaled = sum(abs(g - s_star * p) / g for p, g in pairs) / n
    return {
        "abs_rel": abs_rel,
        "sq_rel": sum((g - p) ** 2 / g for p, g in pairs) / n,
        "rmse": math.sqrt(sum((g - p) ** 2 for p, g in pairs) / n),
        "rmse_log": math.sqrt(sum(d**2 for d in logs) / n),
        "log10": sum(abs(math.log10(p) - math.log10(g)) for p, g in pairs) / n,
        "silog": 100 * math.sqrt(sum(d**2 for d in logs) / n - (sum(logs) / n) ** 2),
        "d1": sum(t < 1.25 for t in thresholds) / n,
        "d2": sum(t < 1.25**2 for t in thresholds) / n,
        "d3": sum(t < 1.25**3 for t in thresholds) / n,
        "s_star": s_star,
        "scaled_abs_rel": scaled,
        "scale_gap": 1 - scaled / abs_rel,
        "n_valid": n,
    }


@pytest.mark.parametrize("seed", range(6))
def test_metrics_are_the_published_formulas_on_maps_with_holes(seed):
    rng = np.random.default_rng(seed)
    gt = rng.uniform(0.2, 12, (30, 41))
    pred = gt * np.exp(rng.normal(0.1, 0.4, gt.shape))
    gt[rng.random(gt.shape) < 0.2] = 0
    gt[rng.random(gt.shape) < 0.05] = np.nan
    gt[rng.random(gt.shape) < 0.05] = np.inf
    gt[rng.random(gt.shape) < 0.05] = 10.0  # the end of the range does not count
    pred[rng.random(gt.shape) < 0.05] = 0
    pred[rng.random(gt.shape) < 0.05] = np.inf
    ties = rng.random(gt.shape) < 0.1
    pred[ties] = np.where(np.isfinite(gt), gt, 1)[ties]
    got, expected = depth_metrics(pred, gt), published(pred, gt)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, abs=1e-6), name


def test_ranges_and_collapse_by_hand():
    gt, pred = np.array([1.0, 1.5, 4.0, 8.0, 0.0]), np.array([2.0, 1.5, 3.0, 9.0, 5.0])
    m = range_metrics(pred, gt)
    assert (m["abs_rel_0_2m"], m["abs_rel_2_5m"], m["abs_rel_5_10m"]) == (0.5, 0.25, 0.125)
    assert (m["pred_min"], m["pred_max"], m["gt_min"], m["gt_max"]) == (1.5, 9.0, 1.0, 8.0)
    assert m["gt_cv"] == pytest.approx(gt[:4].std() / gt[:4].mean())
    assert math.isnan(range_metrics(pred[:2], gt[:2])["abs_rel_5_10m"])
    assert (
        mean_metrics([{**m, "n_valid": 4}, {**range_metrics(pred[:2], gt[:2]), "n_valid": 2}])["abs_rel_5_10m"] == 0.125
    )
    assert not collapsed(m)
    assert collapsed(range_metrics(np.full(5, 1e-6), gt))


def test_what_a_mask_hides_is_no_truth():
    hidden = np.ma.masked_array([1.0, 2.0, 3.0, 9.0], mask=[False, False, True, True])
    assert depth_metrics(np.array([1.0, 2.0, 4.0, 5.0]), hidden)["abs_rel"] == 0
    assert depth_metrics(np.array([1.0, 2.0, 4.0, 5.0]), hidden)["n_valid"] == 2


@pytest.mark.parametrize(
    ("ratio", "is_doubted"), [(0.0, True), (0.4, True), (0.6, False), (1.9, False), (np.inf, True), (np.nan, False)]
)
def test_truth_of_another_unit_is_doubted(recwarn, ratio, is_doubted):
    doubt_units(ratio)
    assert len(recwarn) == is_doubted
