"""Metrics and losses against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch

from spd_core.losses import silog_loss
from spd_core.metrics import depth_metrics, mean_metrics


def test_metrics_by_hand():
    # ratios pred/gt: 1, 2, 1/2, 1.2; the zero is no reading, 11 is beyond the range
    gt = np.array([2.0, 1.0, 4.0, 5.0, 0.0, 11.0])
    pred = np.array([2.0, 2.0, 2.0, 6.0, 3.0, 3.0])
    m = depth_metrics(pred, gt)
    assert m["n_valid"] == 4
    assert m["abs_rel"] == pytest.approx((0 + 1 + 0.5 + 0.2) / 4)
    assert m["sq_rel"] == pytest.approx((0 + 1 + 1 + 0.2) / 4)
    assert m["rmse"] == pytest.approx(math.sqrt((0 + 1 + 4 + 1) / 4))
    logs = np.log([1, 2, 0.5, 1.2])
    assert m["rmse_log"] == pytest.approx(math.sqrt((logs**2).mean()))
    assert m["log10"] == pytest.approx(np.abs(np.log10([1, 2, 0.5, 1.2])).mean())
    assert m["silog"] == pytest.approx(100 * logs.std())
    assert (m["d1"], m["d2"], m["d3"]) == (0.5, 0.5, 0.5)
    assert m["s_star"] == pytest.approx((1 + 5 / 6) / 2)
    scaled = m["s_star"] * np.array([2.0, 2.0, 2.0, 6.0])
    assert m["scaled_abs_rel"] == pytest.approx(np.mean(np.abs(scaled - gt[:4]) / gt[:4]))
    assert m["scale_gap"] == pytest.approx(1 - m["scaled_abs_rel"] / m["abs_rel"])


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
    with pytest.raises(ValueError, match="none of 1 images"):
        mean_metrics([depth_metrics(np.ones(1), np.zeros(1))])


def test_silog_by_hand():
    gt = torch.tensor([1.0, 2.0, 0.0, 4.0]).reshape(1, 1, 2, 2)
    pred = torch.tensor([2.0, 2.0, 9.0, 2.0]).reshape(1, 1, 2, 2)
    g = np.log([2, 1, 0.5])
    for lambda_var in (0.0, 0.5, 0.85):
        assert silog_loss(pred, gt, lambda_var).item() == pytest.approx(math.sqrt((g**2).mean() - lambda_var * g.mean() ** 2), rel=1e-5)


def test_silog_ignores_images_and_pixels_without_truth():
    gt = torch.rand(3, 1, 4, 4) + 1
    pred = (torch.rand(3, 1, 4, 4) + 1).requires_grad_()
    alone = silog_loss(pred[:1], gt[:1])
    gt[1] = 0
    gt[2] = float("nan")
    loss = silog_loss(pred, gt)
    assert loss.item() == pytest.approx(alone.item())
    loss.backward()
    assert torch.isfinite(pred.grad).all()
    assert (pred.grad[1:] == 0).all()
    empty = silog_loss(pred, torch.zeros_like(gt))
    assert empty.item() == 0
