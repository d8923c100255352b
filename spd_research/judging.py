"""What a decoder answers at the points it was trained for, and at others: alone, in a crowd, on a grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from spd_core.data.samples import Dataset, limited
from spd_core.evaluation import Protocol, chosen_pixels, crop_of, encode
from spd_core.metrics import depth_metrics, mean_metrics, range_metrics
from spd_core.model import SPD
from spd_core.pixels import grid_pixels, random_pixels
from spd_core.predictor import EncodedFrame, Predictor

from .model import QuerySPD
from .v13 import V13, routing_diversity

POINTS = 128
ALONE = 8  # points of an image that are asked one by one
GRID = (16, 12)  # columns, rows
PLACES = ("random", "grid", "crowd", "together", "alone")


def judge(model: SPD, dataset: Dataset, protocol: Protocol, device: str = "auto") -> dict[str, Any]:
    """Score a model.

    Args:
        protocol: what counts as valid, and how images are scaled; where the points lie is decided here.

    Returns:
        By place the mean metrics: "random": 128 random valid pixels, as in training; "grid": those of 16 x 12 cell
        centres; "crowd": 128 within a window of a quarter of the image's sides; "alone": the first 8 of "random", one
        by one; "together": those 8 as they were answered among the 128. `change`: mean relative change between the last
        two. `routing`: for `V13`, the number of different tokens chosen for the 128 by level, mean over images.
    """
    predictor = Predictor(model, device, runtime="torch")
    dataset = limited(dataset, protocol.limit)
    crop = crop_of(protocol, dataset)
    every = Protocol(points=1 << 30, min_depth_m=protocol.min_depth_m, max_depth_m=protocol.max_depth_m)
    scores: dict[str, list[dict[str, Any]]] = {place: [] for place in PLACES}
    changes: list[float] = []
    routing: dict[str, list[float]] = {}
    for index in range(len(dataset)):
        sample = dataset[index]
        all_valid = chosen_pixels(every, sample, crop, index)
        assert all_valid is not None  # as points are asked for
        valid = np.zeros(sample.truth_m.shape, bool)
        valid[all_valid[:, 1], all_valid[:, 0]] = True
        if not valid.any():
            continue
        frame = encode(predictor, sample.rgb, None if protocol.ignore_intrinsics else sample.camera, protocol)
        seed = [protocol.seed, index]
        points = {
            "random": random_pixels(valid, POINTS, seed),
            "grid": grid_pixels(valid, *GRID),
            "crowd": random_pixels(_crowded(valid, seed), POINTS, seed),
        }
        depth = {place: frame.depth_at(at) for place, at in points.items()}
        points["together"] = points["alone"] = points["random"][:ALONE]
        depth["together"] = depth["random"][:ALONE]
        depth["alone"] = np.array([frame.depth_at(point[None])[0] for point in points["alone"]])
        changes += (np.abs(depth["alone"] / depth["together"] - 1)).tolist()
        for place in PLACES:
            truth_m = sample.truth_m[points[place][:, 1], points[place][:, 0]]
            scores[place].append(_metrics(depth[place], truth_m, protocol))
        for level, different in _routing(frame, points["random"]).items():
            routing.setdefault(level, []).append(different)
    return {
        **{place: mean_metrics(scores[place]) for place in PLACES},
        "change": float(np.mean(changes)),
        "routing": {level: float(np.mean(counts)) for level, counts in routing.items()},
    }


def _metrics(depth_m: np.ndarray, truth_m: np.ndarray, protocol: Protocol) -> dict[str, float]:
    """All metrics of an image's points [K]."""
    near, far = protocol.min_depth_m, protocol.max_depth_m
    return depth_metrics(depth_m, truth_m, min_depth=near, max_depth=far) | range_metrics(
        depth_m, truth_m, min_depth=near, max_depth=far
    )


def _crowded(valid: np.ndarray, seed: list[int]) -> np.ndarray:
    """`valid` within a window of a quarter of both sides around one of its pixels, bool [H, W]."""
    (column, row), *_ = random_pixels(valid, 1, [*seed, 1])
    half_height, half_width = (extent // 8 for extent in valid.shape)
    window = np.zeros_like(valid)
    window[max(row - half_height, 0) : row + half_height, max(column - half_width, 0) : column + half_width] = True
    return valid & window


@torch.inference_mode()
def _routing(frame: EncodedFrame, uv: np.ndarray) -> dict[str, float]:
    """How many different tokens a `V13` chooses for points [K, 2] px of an image, by level."""
    model = frame.predictor.model
    if not isinstance(model.decoder, V13):
        return {}
    chosen: dict[str, torch.Tensor] = {}
    assert isinstance(model, QuerySPD)  # as no other has that decoder
    points = model.plan_points(frame.transform.points(uv)[None], frame.features.grids, frame.features.size)
    model.decoder(list(frame.features.maps.values()), points, chosen)
    return {level: routing_diversity(tokens) for level, tokens in chosen.items()}


def multiply_accumulates(model: SPD) -> tuple[int, int]:
    """Of the encoder, and of all that follows it for 128 random points, of one image of the input size. `dpt` answers
    them from its whole map: that is what it is compared as."""
    height, width = model.config.input_size
    first = next(model.parameters())
    image = torch.zeros(1, 3, height, width, device=first.device)
    points = np.random.default_rng(0).uniform(0, [width - 1, height - 1], (1, POINTS, 2)).astype(np.float32)
    with torch.no_grad(), FlopCounterMode(display=False) as encoding:
        model.encoder(model.padded(image))
    with torch.no_grad(), FlopCounterMode(display=False) as whole:
        features = model.encode(image)
        if model.config.decoder == "dpt" and not isinstance(model, QuerySPD):
            model.decode_dense(features)
        else:
            model.decode_point_values(features, points)
    encoder, total = (counter.get_total_flops() // 2 for counter in (encoding, whole))
    return encoder, total - encoder
