"""Losses against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch

from spd_core.losses import Loss, gradient_loss, inverse_huber_loss, l1_log_loss, silog_loss


def test_silog_by_hand():
    gt = torch.tensor([1.0, 2.0, 0.0, 4.0]).reshape(1, 1, 2, 2)
    pred = torch.tensor([2.0, 2.0, 9.0, 2.0]).reshape(1, 1, 2, 2)
    g = np.log([2, 1, 0.5])
    for lambda_var in (0.0, 0.5, 0.85):
        assert silog_loss(pred, gt, lambda_var).item() == pytest.approx(
            math.sqrt((g**2).mean() - lambda_var * g.mean() ** 2), rel=1e-5
        )


def test_silog_variants_by_hand():
    gt = torch.tensor([1.0, 2.0, 0.0, 4.0, 1.0, 1.0, 1.0, 1.0]).reshape(2, 1, 2, 2)
    pred = torch.tensor([2.0, 2.0, 9.0, 2.0, 3.0, 3.0, 3.0, 1.0]).reshape(2, 1, 2, 2)
    g = [np.log([2, 1, 0.5]), np.log([3, 3, 3, 1])]
    value = [(x**2).mean() - 0.85 * x.mean() ** 2 for x in (*g, np.concatenate(g))]
    assert silog_loss(pred, gt, square_root=False).item() == pytest.approx((value[0] + value[1]) / 2, rel=1e-5)
    assert silog_loss(pred, gt, per_image=False).item() == pytest.approx(math.sqrt(value[2]), rel=1e-5)


def test_l1_inverse_huber_and_gradient_loss_by_hand():
    gt = torch.tensor([1.0, 2.0, 0.0, 4.0]).reshape(1, 1, 2, 2)
    pred = torch.tensor([2.0, 2.0, 9.0, 3.0]).reshape(1, 1, 2, 2)
    assert l1_log_loss(pred, gt).item() == pytest.approx(np.log([2, 1, 4 / 3]).mean(), rel=1e-5)
    difference = np.array([0.5, 0.0, 1 / 3 - 1 / 4])
    huber = [0.1 * (d - 0.05) if d > 0.1 else 0.5 * d**2 for d in difference]
    assert inverse_huber_loss(pred, gt).item() == pytest.approx(np.mean(huber), rel=1e-5)
    g = np.log([[2.0, 1.0], [1.0, 0.75]])  # the lower left one is unknown: two differences remain
    assert gradient_loss(pred, gt, scales=1).item() == pytest.approx(
        (abs(g[0, 1] - g[0, 0]) + abs(g[1, 1] - g[0, 1])) / 2, rel=1e-5
    )


@pytest.mark.parametrize(
    "loss",
    [
        Loss(),
        Loss(per_image=False),
        Loss(square_root=False),
        Loss(silog=0, l1_log=1),
        Loss(silog=0, inverse_huber=1),
        Loss(silog=0, gradient=1),
        Loss(gradient=0.5, inverse_huber=2),
    ],
)
def test_losses_ignore_what_is_not_valid(loss):
    torch.manual_seed(0)
    gt = torch.rand(3, 1, 16, 16) + 1
    gt[0, :, :4] = 0
    gt[0, :, 4:6] = float("nan")
    gt[0, :, 6] = float("inf")
    gt[1] = 0
    pred = (torch.rand(3, 1, 16, 16) + 1).requires_grad_()
    value = loss(pred, gt)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(pred.grad).all()
    assert (pred.grad[1] == 0).all()
    assert (pred.grad[0, :, :7] == 0).all()
    assert pred.grad[0, :, 7:].abs().sum() > 0
    changed = pred.detach().clone()
    changed[0, :, :7], changed[1] = 77.0, 0.0
    assert loss(changed, gt).item() == pytest.approx(value.item(), rel=1e-6)
    assert loss(pred.detach()[[0, 2]], gt[[0, 2]]).item() == pytest.approx(
        value.item(), rel=1e-5
    )  # an empty image does not count
    assert loss(pred, torch.zeros_like(gt)).item() == 0


def test_loss_weights_are_checked():
    with pytest.raises(ValueError, match="one of depth positive"):
        Loss(silog=0)
    with pytest.raises(ValueError, match=r"lambda_var must be in 0 \.\.\. 1, got 2"):
        Loss(lambda_var=2)
