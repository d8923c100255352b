"""Evaluation of a model on a data set: metrics per image and their mean, next to the best constant."""

from __future__ import annotations

from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track

from .camera import Camera, focal_correction
from .encoders import normalise
from .metrics import depth_metrics, mean_metrics
from .model import SPD


@torch.inference_mode()
def evaluate(model: SPD, samples, limit: int | None = None, downscale: int = 1, constant_m: float | None = None, progress: bool = False) -> dict:
    """Dense metrics with focal correction.

    Args:
        model: in eval mode.
        samples: iterable of (rgb uint8 [H, W, 3], depth_m [H, W], Camera), at the network's size.
        limit: number of samples; None takes all.
        downscale: evaluate on images smaller by this factor, as a run trained that way sees them.
        constant_m: also score this depth, predicted everywhere.

    Returns:
        {"mean": metrics, "per_image": [metrics], "constant": metrics if asked}.
    """
    device = next(model.parameters()).device
    count = len(samples) if limit is None else min(limit, len(samples))
    per_image, constant = [], []
    for rgb, depth_m, camera in track(islice(samples, count), "evaluate", total=count, disable=not progress):
        camera: Camera
        image = torch.from_numpy(rgb).to(device).permute(2, 0, 1)[None].float() / 255
        if downscale > 1:
            image = F.avg_pool2d(image, downscale)
            depth_m = depth_m[downscale // 2 :: downscale, downscale // 2 :: downscale]
        pred = model(normalise(image))[0, 0].cpu().numpy() * focal_correction(camera, model.config.training_focal_px)
        per_image.append(depth_metrics(pred, depth_m))
        if constant_m is not None:
            constant.append(depth_metrics(np.full_like(depth_m, constant_m), depth_m))
    result = {"mean": mean_metrics(per_image), "per_image": per_image}
    return {**result, "constant": mean_metrics(constant)} if constant else result
