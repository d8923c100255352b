"""The floor found in true depths, and what it is worth: on drawn rooms, whose floor is known exactly."""

import math
from dataclasses import replace

import numpy as np
import pytest
from support.data_sets import Samples, drawn

from spd_core import Camera
from spd_core.data.samples import DataError, Sample
from spd_core.errors import SPDError
from spd_core.evaluation import Protocol
from spd_core.floor import FloorPlane
from spd_core.floor_evaluation import evaluate_floor, find_floor, misjudged
from spd_core.scale_prior import ScalePrior
from spd_rooms.synthetic import random_frame

SIZE = (120, 160)


@pytest.fixture(scope="module")
def rooms():
    return [random_frame(4_100_000 + i, SIZE) for i in range(12)]


def test_the_floor_of_a_room_is_found_where_enough_of_it_is_seen(rooms):
    checked = 0
    for room in rooms:
        down = room.pose.rotation().T @ [0, -1, 0]
        true_m, _ = FloorPlane(room.pose.position[1], tuple(down)).depth(room.camera, _pixels())
        is_floor = (np.abs(room.depth_m.ravel() / true_m - 1) < 0.001).reshape(SIZE)
        noisy = room.depth_m + 0.02 * np.random.default_rng(0).standard_normal(SIZE)
        found = find_floor(noisy, room.camera)
        if is_floor.mean() < 0.15:
            continue
        checked += 1
        plane, shows = found
        assert plane.height_m == pytest.approx(room.pose.position[1], abs=0.03)
        assert math.degrees(math.acos(min(np.dot(plane.down, down), 1))) < 1.5
        assert (shows & is_floor).sum() > 0.8 * is_floor.sum()
    assert checked >= 4


def _pixels():
    v, u = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.stack([u, v], axis=-1).reshape(-1, 2).astype(float)


def test_a_level_floor_at_every_fourth_pixel_is_level():
    camera, plane = Camera(518.0, 518.0, 319.5, 239.5), FloorPlane.from_tilt(1.2, 0)
    v, u = np.mgrid[:480, :640]
    true_m, _ = plane.depth(camera, np.stack([u, v], axis=-1).reshape(-1, 2).astype(float))
    depth_m = np.where(np.isfinite(true_m) & (true_m < 9), true_m, 0).reshape(480, 640)
    found, _ = find_floor(depth_m[::4, ::4], camera.strided(4))
    assert math.degrees(math.asin(found.down[2])) == pytest.approx(0, abs=1e-6)
    assert found.height_m == pytest.approx(1.2, abs=1e-6)


def test_a_wall_is_no_floor(rooms):
    camera = rooms[0].camera
    assert find_floor(np.full(SIZE, 2.0), camera) is None
    assert find_floor(np.zeros(SIZE), camera) is None


def test_a_misjudged_floor_is_off_by_as_much_as_is_said():
    plane, rng = FloorPlane.from_tilt(1.3, 15, 3), np.random.default_rng(0)
    others = [misjudged(plane, rng) for _ in range(300)]
    heights = np.array([other.height_m - 1.3 for other in others])
    angles = np.degrees([math.acos(min(np.dot(other.down, plane.down), 1)) for other in others])
    assert 0.019 < np.abs(heights).max() <= 0.02
    assert 0.95 < angles.max() <= 1.0 + 1e-6


def test_a_network_of_another_scale_is_told_by_the_floor(embedded, rooms):
    """The truth is stretched, so that the embedded weights see every room too small."""
    stretched = drawn(replace(room, depth_m=room.depth_m * np.float32(1.2)) for room in rooms)
    result = evaluate_floor(embedded, stretched, prior=ScalePrior(sigma_log=0.25))
    assert result["visible"]["images"] >= 6
    assert result["visible"]["claimed"] > 0.5
    assert result["visible"]["with"] < 0.95 * result["visible"]["without"]
    assert abs(result["floor_log"]) < 0.3


def test_samples_without_floor_or_camera_do_not_count_and_those_without_depth_are_named(embedded, rooms):
    blind = Samples([Sample("a", room.rgb, room.depth_m, None) for room in rooms[:2]])
    assert evaluate_floor(embedded, blind) == {"floor_log": None}
    blind.samples = [Sample("b", blind.samples[0].rgb, None, None)]
    with pytest.raises(DataError, match="b has no depth"):
        evaluate_floor(embedded, blind)


def test_the_floor_is_scored_by_the_protocol_or_not_at_all(embedded, rooms):
    with pytest.raises(SPDError, match="the floor needs the camera's intrinsics, which ignore_intrinsics leaves out"):
        evaluate_floor(embedded, drawn(rooms), Protocol(ignore_intrinsics=True))
    with pytest.raises(SPDError, match="the Eigen crop is defined on 480x640 images"):
        evaluate_floor(embedded, drawn(rooms), Protocol(crop="eigen"))
