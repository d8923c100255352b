"""Training losses on dense depth maps [B, 1, H, W] in metres. Pixels without ground truth (depth 0 or not finite) never contribute."""

from __future__ import annotations

import torch
from torch import Tensor


def silog_loss(pred_m: Tensor, gt_m: Tensor, lambda_var: float = 0.85) -> Tensor:
    """Scale-invariant logarithmic loss of each image over all its valid pixels, averaged over images (Eigen et al. 2014; BTS 2019).

    sqrt(E[g^2] - lambda_var * E[g]^2) with g = log pred - log gt. lambda_var = 1 forgives any scale, 0 is the RMSE of log depth.
    An image without a valid pixel does not count.
    """
    valid = torch.isfinite(gt_m) & (gt_m > 0)
    g = torch.where(valid, pred_m.clamp(min=1e-4).log() - torch.where(valid, gt_m, 1.0).log(), 0.0).flatten(1)
    count = valid.flatten(1).sum(1)
    has_pixels = count > 0
    count = count.clamp(min=1)
    mean, mean_square = g.sum(1) / count, g.square().sum(1) / count
    per_image = (mean_square - lambda_var * mean.square()).clamp(min=1e-8).sqrt()
    return (per_image * has_pixels).sum() / has_pixels.sum().clamp(min=1)
