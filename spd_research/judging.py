"""What a decoder answers at the points it was trained for, and at others: alone, in a crowd, on a grid."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from spd_core.data.samples import Dataset, Sample, Subset, limited
from spd_core.evaluation import Protocol, chosen_pixels, crop_of, encode, evaluate
from spd_core.model import SPD
from spd_core.pixels import random_pixels
from spd_core.predictor import Predictor

from .model import QuerySPD
from .v13 import V13, routing_diversity

POINTS = 128
ALONE = 8  # points of an image that are asked one by one
GRID = (16, 12)  # columns, rows


def judge(model: SPD, dataset: Dataset, protocol: Protocol, device: str = "auto") -> dict[str, Any]:
    """Score a model.

    Args:
        protocol: what counts as valid, and how images are scaled; where the points lie is decided here.

    Returns:
        Mean metrics by place: "random": 128 random valid pixels, as in training; "grid": those of 16 x 12 cell centres;
        "crowd": 128 within a window of a quarter of the image's sides. AbsRel "alone": of the first 8 of "random", one
        by one; "together": as they were answered among the 128. "change": mean relative change between the two.
        "routing": for `V13`, the number of different tokens chosen for the 128 by level, mean over images.
    """
    predictor = Predictor(model, device, runtime="torch")
    dataset, protocol = limited(dataset, protocol.limit), replace(protocol, limit=None, points=POINTS, grid=None)
    return {
        "random": evaluate(predictor, dataset, protocol)["mean"],
        "grid": evaluate(predictor, dataset, replace(protocol, points=None, grid=GRID))["mean"],
        "crowd": evaluate(predictor, Crowds(dataset, range(len(dataset))), protocol)["mean"],
        **_company(predictor, dataset, protocol),
    }


class Crowds(Subset):
    """A data set whose depth is known in a window of each image alone: of a quarter of both sides, around a random
    valid pixel."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        half_height, half_width = (extent // 8 for extent in sample.truth_m.shape)
        window = np.zeros_like(sample.truth_m)
        for column, row in random_pixels(sample.truth_m > 0, 1, [index]):
            window[max(row - half_height, 0) : row + half_height, max(column - half_width, 0) : column + half_width] = 1
        return replace(sample, depth_m=sample.truth_m * window)


def _company(predictor: Predictor, dataset: Dataset, protocol: Protocol) -> dict[str, Any]:
    """What depends on who else is asked: "alone", "together", "change" and "routing" of `judge`."""
    decoder = predictor.model.decoder
    alone_off, together_off, changes = [], [], []
    routing: dict[str, list[float]] = {}
    for index in range(len(dataset)):
        sample = dataset[index]
        at = chosen_pixels(protocol, sample, crop_of(protocol, dataset), index)
        assert at is not None  # as points are asked for
        frame = encode(predictor, sample, protocol)
        together_m = frame.depth_at(at)[:ALONE]
        if isinstance(decoder, V13):
            for level, chosen in decoder.chosen.items():
                routing.setdefault(level, []).append(routing_diversity(chosen))
        truth_m = sample.truth_m[at[:ALONE, 1], at[:ALONE, 0]]
        alone_m = np.array([frame.depth_at(point[None])[0] for point in at[:ALONE]])
        alone_off += abs(alone_m / truth_m - 1).tolist()
        together_off += abs(together_m / truth_m - 1).tolist()
        changes += abs(alone_m / together_m - 1).tolist()
    return {
        "alone": float(np.mean(alone_off)),
        "together": float(np.mean(together_off)),
        "change": float(np.mean(changes)),
        "routing": {level: float(np.mean(counts)) for level, counts in routing.items()},
    }


def multiply_accumulates(model: SPD) -> tuple[int, int]:
    """Of the encoder, and of all that follows it for 128 random points, of one image of the input size. `dpt` answers
    them from its whole map: that is what it is compared as."""
    height, width = model.config.input_size
    image = torch.zeros(1, 3, height, width, device=next(model.parameters()).device)
    points = np.random.default_rng(0).uniform(0, [width - 1, height - 1], (1, POINTS, 2)).astype(np.float32)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        features = model.encode(image)
        if model.config.decoder == "dpt" and not isinstance(model, QuerySPD):
            model.decode_dense(features)
        else:
            model.decode_points(features, points)
    encoder = sum(counter.get_flop_counts()[type(model.encoder).__name__].values()) // 2
    return encoder, counter.get_total_flops() // 2 - encoder
