"""Training losses on dense depth maps [B, 1, H, W] in metres. Pixels without ground truth (depth 0 or not finite) never
contribute."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from .errors import SPDError

MIN_DEPTH_M = 1e-4  # predictions are clamped to this before a logarithm or a division


@dataclass
class Loss:
    """Weighted sum of dense losses.

    Args:
        silog: weight of the scale-invariant logarithmic loss.
        lambda_var: how much of a common scale error SILog forgives: 1 all of it, 0 none (RMSE of log depth). BTS uses
            0.85.
        per_image: SILog of each image, then the mean; otherwise over all pixels of the batch.
        square_root: of the SILog; BTS takes it, Eigen et al. do not.
        l1_log: weight of the mean absolute error of log depth.
        inverse_huber: weight of the Huber loss on inverse depth.
        huber_delta: of that loss, 1/m.
        gradient: weight of the gradient matching loss.
        sigma: weight of the likelihood of the errors under the model's own sigma, for models that answer one. Depth
            is held: it moves only with the features that both are made of.
    """

    silog: float = 1.0
    lambda_var: float = 0.85
    per_image: bool = True
    square_root: bool = True
    l1_log: float = 0.0
    inverse_huber: float = 0.0
    huber_delta: float = 0.1
    gradient: float = 0.0
    sigma: float = 0.0

    def __post_init__(self):
        weights = (self.silog, self.l1_log, self.inverse_huber, self.gradient)  # of depth
        if not all(0 <= weight < math.inf for weight in (*weights, self.sigma)) or not any(weights):
            raise SPDError(f"loss weights must be finite and not negative, and one of depth positive, got {self}")
        if not 0 <= self.lambda_var <= 1:
            raise SPDError(f"lambda_var must be in 0 ... 1, got {self.lambda_var}")
        if not self.huber_delta > 0:
            raise SPDError(f"huber_delta must be positive, got {self.huber_delta}")

    def __call__(self, pred: Tensor, gt_m: Tensor) -> Tensor:
        """`pred` [B, 1, H, W] depth, m, or [B, 2, H, W] with sigma; `gt_m` [B, 1, H, W] m -> a scalar."""
        pred_m = pred[:, :1]
        losses = (
            (self.sigma, lambda: laplace_loss(pred_m.detach(), pred[:, 1:], gt_m)),
            (self.silog, lambda: silog_loss(pred_m, gt_m, self.lambda_var, self.per_image, self.square_root)),
            (self.l1_log, lambda: l1_log_loss(pred_m, gt_m)),
            (self.inverse_huber, lambda: inverse_huber_loss(pred_m, gt_m, self.huber_delta)),
            (self.gradient, lambda: gradient_loss(pred_m, gt_m)),
        )
        return sum((weight * loss() for weight, loss in losses if weight), pred_m.new_zeros(()))


def valid_pixels(gt_m: Tensor) -> Tensor:
    """Where there is ground truth, bool, shape of `gt_m`."""
    return torch.isfinite(gt_m) & (gt_m > 0)


def _log_difference(pred_m: Tensor, gt_m: Tensor, valid: Tensor) -> Tensor:
    return torch.where(valid, pred_m.clamp(min=MIN_DEPTH_M).log() - torch.where(valid, gt_m, 1.0).log(), 0.0)


def _mean_of_images(per_image: Tensor, valid: Tensor) -> Tensor:
    """Mean of [B] over the images that have a valid pixel; 0 (with zero gradients) if none has."""
    has_pixels = valid.flatten(1).any(1)
    return (per_image * has_pixels).sum() / has_pixels.sum().clamp(min=1)


def _mean_of_pixels(loss: Tensor, valid: Tensor) -> Tensor:
    """Mean of [B, 1, H, W], zero where not valid, over the valid pixels of each image, then over images."""
    return _mean_of_images(loss.flatten(1).sum(1) / valid.flatten(1).sum(1).clamp(min=1), valid)


def silog_loss(
    pred_m: Tensor, gt_m: Tensor, lambda_var: float = 0.85, per_image: bool = True, square_root: bool = True
) -> Tensor:
    """Scale-invariant logarithmic loss: E[g^2] - lambda_var * E[g]^2 with g = log pred - log gt (Eigen et al. 2014), or
    its root (BTS 2019).

    The expectations are over the valid pixels of each image, the result averaged over images; `per_image` False takes
    all pixels of the batch.
    """
    valid = valid_pixels(gt_m)
    g = _log_difference(pred_m, gt_m, valid)
    g, valid = (g.flatten(1), valid.flatten(1)) if per_image else (g.reshape(1, -1), valid.reshape(1, -1))
    count = valid.sum(1).clamp(min=1)
    mean, mean_square = g.sum(1) / count, g.square().sum(1) / count
    loss = (mean_square - lambda_var * mean.square()).clamp(min=1e-8)
    return _mean_of_images(loss.sqrt() if square_root else loss, valid)


def l1_log_loss(pred_m: Tensor, gt_m: Tensor) -> Tensor:
    """|log pred - log gt|, mean over the valid pixels of each image, then over images: nearly AbsRel, and a pixel that
    is far off counts no more than it is off."""
    valid = valid_pixels(gt_m)
    return _mean_of_pixels(_log_difference(pred_m, gt_m, valid).abs(), valid)


def inverse_huber_loss(pred_m: Tensor, gt_m: Tensor, delta: float = 0.1) -> Tensor:
    """Huber loss on inverse depth, 1/m, mean over the valid pixels of each image, then over images."""
    valid = valid_pixels(gt_m)
    inverse_pred = torch.where(valid, pred_m.clamp(min=MIN_DEPTH_M), 1.0).reciprocal()
    inverse_gt = torch.where(valid, gt_m, 1.0).reciprocal()
    loss = huber_loss(inverse_pred, inverse_gt, reduction="none", delta=delta)  # 0 where both are 1
    return _mean_of_pixels(loss, valid)


def laplace_loss(pred_m: Tensor, sigma_log: Tensor, gt_m: Tensor) -> Tensor:
    """Negative log likelihood of log depth under a Laplace distribution of scale `sigma_log` [B, 1, H, W] about the
    prediction, |g| / b + log b (Kendall & Gal 2017), mean over the valid pixels of each image, then over images."""
    valid = valid_pixels(gt_m)
    g = _log_difference(pred_m, gt_m, valid)
    return _mean_of_pixels((g.abs() / sigma_log + sigma_log.log()) * valid, valid)


def gradient_loss(pred_m: Tensor, gt_m: Tensor, scales: int = 4) -> Tensor:
    """Multi-scale gradient matching of log depth (MegaDepth, Li & Snavely 2018): |grad g| at every 1st, 2nd, 4th, 8th
    pixel, summed over scales.

    A difference counts where both of its pixels are valid; mean over those of an image, then over images.
    """
    valid = valid_pixels(gt_m)
    g = _log_difference(pred_m, gt_m, valid)
    total = pred_m.new_zeros(())
    for step in (2**scale for scale in range(scales)):
        g_s, valid_s = g[..., ::step, ::step], valid[..., ::step, ::step]
        both_x, both_y = valid_s[..., 1:] & valid_s[..., :-1], valid_s[..., 1:, :] & valid_s[..., :-1, :]
        difference_x = ((g_s[..., 1:] - g_s[..., :-1]).abs() * both_x).flatten(1).sum(1)
        difference_y = ((g_s[..., 1:, :] - g_s[..., :-1, :]).abs() * both_y).flatten(1).sum(1)
        count = (both_x.flatten(1).sum(1) + both_y.flatten(1).sum(1)).clamp(min=1)
        total = total + _mean_of_images((difference_x + difference_y) / count, valid)
    return total
