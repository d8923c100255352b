"""What a known floor is worth: it is found in the true depth, and told to the scale with the errors of a robot that
knows its camera's height and tilt."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from .camera import Camera
from .data.loader import opened
from .data.samples import Dataset, limited
from .errors import SPDError
from .evaluation import Protocol, crop_of, encode
from .floor import FloorPlane
from .metrics import evaluated_pixels, mean_metrics
from .predictor import Predictor
from .scale import ScaleFilter
from .scale_prior import ScalePrior

HEIGHT_ERROR_M, TILT_ERROR_DEG = 0.02, 1.0
HEIGHTS_M = 0.4, 2.5
MOST_TILT_DEG, MOST_ROLL_DEG = 50.0, 15.0
VISIBLE = 0.05  # share of the pixels that must show floor
TRIALS, TRIED_PIXELS, STEP_PX = 400, 4000, 4


def find_floor(depth_m: np.ndarray, camera: Camera, seed: int = 0) -> tuple[FloorPlane, np.ndarray] | None:
    """The plane under everything in a true depth map [H, W] m, and which pixels show it, bool [H, W]; None where there
    is none. By random samples: of the planes that are level enough and have hardly anything below them, the one with
    the most points."""
    rng = np.random.default_rng(seed)
    height, width = depth_m.shape
    v, u = np.mgrid[:height, :width]
    rays = camera.unproject(np.stack([u, v], axis=-1).reshape(-1, 2), np.ones(height * width)).reshape(
        *depth_m.shape, 3
    )
    known = (depth_m > 0) & np.isfinite(rays).all(axis=-1)
    points = (rays * depth_m[..., None])[known]
    if len(points) < TRIED_PIXELS / 4:
        return None
    inverse = _sampled_floor(points[rng.permutation(len(points))[:TRIED_PIXELS]], rng)
    if inverse is None:
        return None
    for _ in range(3):
        on_floor = points[np.abs(points @ inverse - 1) / np.linalg.norm(inverse) < _tolerance(points)]
        if len(on_floor) < 3:
            return None
        rays_there = on_floor / on_floor[:, 2:]
        inverse = np.linalg.lstsq(rays_there, 1 / on_floor[:, 2], rcond=None)[0]
    down = inverse / np.linalg.norm(inverse)
    height_m = 1 / float(np.linalg.norm(inverse))
    if not _is_level(down, height_m):
        return None
    shows = np.zeros(depth_m.shape, bool)
    shows[known] = np.abs(points @ down - height_m) < _tolerance(points)
    return FloorPlane(height_m, tuple(down)), shows


def _sampled_floor(points: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """down / height, [3], of the plane through three of the points [K, 3] m that has the most of all on it and hardly
    any below."""
    lower = points[points[:, 1] >= np.median(points[:, 1])]  # all, of an exact level floor and nothing else
    most, inverse = -1.0, None
    for _ in range(TRIALS):
        first, second, third = lower[rng.choice(len(lower), 3, replace=False)]
        normal = np.cross(second - first, third - first)
        length = np.linalg.norm(normal)
        if length < 1e-6:
            continue
        normal = normal / length * (1 if normal[1] > 0 else -1)
        if not _is_level(normal, float(normal @ first)):
            continue
        below = (points @ normal - normal @ first) / _tolerance(points)
        share = float(np.mean(np.abs(below) < 1))
        if np.mean(below > 2.5) < 0.02 and share > most:
            most, inverse = share, normal / (normal @ first)
    return inverse


def _is_level(down: np.ndarray, height_m: float) -> bool:
    tilt, roll = math.degrees(math.asin(down[2])), math.degrees(math.asin(down[0]))
    return HEIGHTS_M[0] < height_m < HEIGHTS_M[1] and abs(tilt) < MOST_TILT_DEG and abs(roll) < MOST_ROLL_DEG


def _tolerance(points_m: np.ndarray) -> np.ndarray:
    """How far points [K, 3] m of the floor may be from it, m [K]."""
    return 0.03 + 0.01 * points_m[:, 2]


def misjudged(plane: FloorPlane, rng: np.random.Generator) -> FloorPlane:
    """The plane as a robot knows it: height and tilt are off by up to HEIGHT_ERROR_M and TILT_ERROR_DEG."""
    angle = math.radians(rng.uniform(-TILT_ERROR_DEG, TILT_ERROR_DEG))
    x, y, z = plane.down
    tilted = (x, math.cos(angle) * y - math.sin(angle) * z, math.sin(angle) * y + math.cos(angle) * z)
    return replace(plane, height_m=plane.height_m + rng.uniform(-HEIGHT_ERROR_M, HEIGHT_ERROR_M), down=tilted)


def check_floor_protocol(protocol: Protocol) -> None:
    """Raise SPDError for a protocol that leaves out what a floor needs."""
    if protocol.ignore_intrinsics:
        raise SPDError("the floor needs the camera's intrinsics, which ignore_intrinsics leaves out; give one of them")


def evaluate_floor(
    predictor: Predictor,
    dataset: Dataset,
    protocol: Protocol | None = None,
    prior: ScalePrior | None = None,
    *,
    progress: bool = False,
) -> dict:
    """Score every sample whose floor is found in its true depth, without and with it, at every fourth pixel of every
    fourth row. Of `protocol` its depth range, crop, `limit`, `resize_eval` and `seed` count.

    Returns:
        "visible" (VISIBLE of the pixels or more show floor) and "hidden": each "images", "claimed" (the share in which
        the scale was told the floor), "without" and "with", AbsRel; and "floor_log", how much larger the log scale of
        the floor is than that of the image, at those that are visible, None if none is.
    """
    protocol = protocol or Protocol()
    check_floor_protocol(protocol)
    crop = crop_of(protocol, dataset)
    dataset = limited(dataset, protocol.limit)
    groups: dict[str, list[tuple[bool, dict[str, float], dict[str, float]]]] = {"visible": [], "hidden": []}
    ratios = []
    for index, sample in enumerate(opened(dataset, "with the floor", progress=progress)):
        truth_m = sample.truth_m[::STEP_PX, ::STEP_PX]
        if sample.camera is None or (found := find_floor(truth_m, sample.camera.strided(STEP_PX), index)) is None:
            continue
        plane, shows = found
        frame, scale = encode(predictor, sample, protocol), ScaleFilter(predictor, prior)
        network_m = frame.dense_depth()[::STEP_PX, ::STEP_PX]
        claimed = scale.update_floor(frame, misjudged(plane, np.random.default_rng([protocol.seed, index])))
        corrected_m, _ = scale.correct(network_m, np.full_like(network_m, np.nan))
        judged = evaluated_pixels(sample.truth_m, protocol.min_depth_m, protocol.max_depth_m, crop)[
            ::STEP_PX, ::STEP_PX
        ]
        if not judged.any():
            continue
        scores = [protocol.metrics(depth_m[judged], truth_m[judged]) for depth_m in (network_m, corrected_m)]
        is_visible = bool(shows.mean() >= VISIBLE)
        groups["visible" if is_visible else "hidden"].append((claimed, scores[0], scores[1]))
        if is_visible:
            ratio = np.log(np.where(truth_m > 0, truth_m, np.nan) / network_m)
            ratios.append(float(np.nanmedian(ratio[shows]) - np.nanmedian(ratio)))
    result: dict = {"floor_log": float(np.median(ratios)) if ratios else None}
    for name, rows in groups.items():
        if rows:
            claims, before, after = zip(*rows)
            result[name] = {
                "images": len(rows),
                "claimed": float(np.mean(claims)),
                "without": mean_metrics(list(before))["abs_rel"],
                "with": mean_metrics(list(after))["abs_rel"],
            }
    return result
