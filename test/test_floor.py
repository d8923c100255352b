"""The floor as a reference: against rooms whose floor is drawn, and against derivatives by differences."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from spd_core import Camera, Predictor, checkpoint
from spd_core.floor import GRID, FloorError, FloorPlane, floor_chance, floor_points
from spd_core.predictor import Answer
from spd_core.scale import ScaleError, ScaleFilter, ScalePrior
from spd_rooms.synthetic import random_frame

SIZE = (240, 320)
CAMERA = Camera(260.0, 260.0, 159.5, 119.5)
PRIOR = ScalePrior(floor_log=0.0)


def plane_of(room) -> FloorPlane:
    """The floor of a drawn room, in its camera's frame: the plane y = 0 of the world."""
    down = room.pose.rotation().T @ [0, -1, 0]
    return FloorPlane(float(room.pose.position[1]), tuple(down))


def pixels(size=SIZE):
    y, x = np.mgrid[: size[0], : size[1]]
    return np.stack([x, y], axis=-1).reshape(-1, 2).astype(float)


@pytest.fixture(scope="module")
def rooms():
    return [random_frame(4_100_000 + i, SIZE) for i in range(12)]


class DrawnFrame:
    """What a network would be encoded to that sees a drawn room as it is, but for its scale."""

    def __init__(self, room, factor=1.0, depth_m=None):
        self.size, self.camera, self.predictor = SIZE, room.camera, None
        self.depth_m = (room.depth_m if depth_m is None else depth_m) / factor

    def answer(self, uv):
        x, y = np.clip(np.round(uv).astype(int), 0, [SIZE[1] - 1, SIZE[0] - 1]).T
        depth_m = self.depth_m[y, x].astype(np.float32)
        return Answer(depth_m, np.full(len(uv), np.nan, np.float32), np.zeros((len(uv), 3)), np.zeros(len(uv)))


def test_nothing_that_is_drawn_is_farther_than_the_floor_and_floor_is_as_far(rooms):
    shares = []
    for room in rooms:
        floor_m, sigma_m = plane_of(room).depth(room.camera, pixels())
        drawn_m = room.depth_m.ravel()
        below = np.isfinite(floor_m)
        assert (drawn_m[below] < floor_m[below] * 1.001).all()
        shares.append(np.mean(np.abs(drawn_m[below] / floor_m[below] - 1) < 0.001))
        assert (sigma_m[below] > 0).all()
        assert np.isnan(sigma_m[~below]).all()
    assert np.mean(shares) > 0.15


@pytest.mark.parametrize(("tilt_deg", "roll_deg"), [(0, 0), (15, 0), (-10, 0), (40, 25), (20, 90), (5, -170)])
def test_tilt_and_roll_are_those_of_the_camera(tilt_deg, roll_deg):
    """Against rotations one after the other: a level camera is tilted about x, then rolled about its own axis."""
    plane = FloorPlane.from_tilt(1.4, tilt_deg, roll_deg)
    t, r = math.radians(tilt_deg), math.radians(roll_deg)
    tilt = np.array([[1, 0, 0], [0, math.cos(t), math.sin(t)], [0, -math.sin(t), math.cos(t)]])
    roll = np.array([[math.cos(r), -math.sin(r), 0], [math.sin(r), math.cos(r), 0], [0, 0, 1]])
    to_world = tilt @ roll  # a world with x right, y down, z level ahead
    uv = pixels()[::977]
    floor_m, _ = plane.depth(CAMERA, uv)
    rays = CAMERA.unproject(uv, np.ones(len(uv))) @ to_world.T
    expected = np.where(rays[:, 1] > 0, 1.4 / np.where(rays[:, 1] > 0, rays[:, 1], 1), np.nan)
    np.testing.assert_allclose(floor_m, expected, rtol=1e-9)


def test_sigma_is_that_of_height_and_tilt(rooms):
    uv = np.array([[160.0, 235.0], [20.0, 200.0], [300.0, 150.0]])
    plane = FloorPlane.from_tilt(1.3, 20)
    depth_m, sigma_m = plane.depth(CAMERA, uv)
    by_height = plane.depth(CAMERA, uv)[0] - replace(plane, height_m=1.3 - 0.02).depth(CAMERA, uv)[0]
    by_tilt = (
        FloorPlane.from_tilt(1.3, 19.5).depth(CAMERA, uv)[0] - FloorPlane.from_tilt(1.3, 20.5).depth(CAMERA, uv)[0]
    )
    np.testing.assert_allclose(sigma_m, np.hypot(by_height, by_tilt), rtol=0.01)
    assert (sigma_m / depth_m)[0] < (sigma_m / depth_m)[2]


def test_pixels_of_the_floor_look_like_it(rooms):
    on_floor, elsewhere = [], []
    for room in rooms:
        plane = plane_of(room)
        uv, floor_m, _ = floor_points(plane, room.camera, SIZE)
        assert len(uv) == math.prod(GRID)
        drawn_m = DrawnFrame(room).answer(uv).depth_m
        chance = floor_chance(plane, floor_m, drawn_m * 1.3)  # whatever the scale is
        known = np.isfinite(floor_m)
        is_floor = np.abs(drawn_m / floor_m - 1) < 0.01
        on_floor.append(chance[known & is_floor])
        elsewhere.append(chance[known & ~is_floor])
    assert np.mean(np.concatenate(on_floor)) > 2 * np.mean(np.concatenate(elsewhere))
    assert np.concatenate(on_floor).max() < 1


def test_a_camera_on_its_side_sees_the_same_floor():
    plane, rolled = FloorPlane.from_tilt(1.3, 25), FloorPlane.from_tilt(1.3, 25, 90)
    for one in (plane, rolled):
        _, floor_m, _ = floor_points(one, CAMERA, SIZE)
        chance = floor_chance(one, floor_m, floor_m * 0.9)
        assert np.nanmin(chance[np.isfinite(floor_m)]) > 0.7
        walls = floor_chance(one, floor_m, np.full(len(floor_m), 2.0))
        assert np.nanmax(walls[np.isfinite(floor_m)]) < 0.3


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.25])
def test_the_floor_tells_the_scale_of_rooms(rooms, factor):
    claimed, errors = 0, []
    for room in rooms:
        scale = ScaleFilter(None, PRIOR)
        if scale.update_floor(DrawnFrame(room, factor), plane_of(room)):
            claimed += 1
            errors.append(math.log(scale.factor / factor))
        else:
            assert scale.factor == 1.0
    assert claimed > len(rooms) / 2
    assert abs(np.median(errors)) < 0.04 + 0.3 * abs(math.log(factor))  # the prior holds it back
    assert np.mean(np.abs(errors)) < 0.6 * max(abs(math.log(factor)), 0.15)


def test_floor_and_other_references_are_of_one_posterior(rooms):
    room = rooms[0]
    frame, uv = DrawnFrame(room, 1.2), np.array([[40.0, 60.0], [280.0, 80.0]])
    both, alone = ScaleFilter(None, PRIOR), ScaleFilter(None, PRIOR)
    for scale in (both, alone):
        scale.update(frame, uv, 1.2 * frame.answer(uv).depth_m)
    before = alone.sigma_log
    assert any(both.update_floor(DrawnFrame(r, 1.2), plane_of(r), 0.1) for r in rooms)
    assert both.sigma_log < before


def test_what_is_not_floor_is_not_claimed(rooms):
    for room in rooms:
        looks_up = FloorPlane.from_tilt(1.3, -45)
        assert not ScaleFilter(None, PRIOR).update_floor(DrawnFrame(room), looks_up)
        wall = DrawnFrame(room, depth_m=np.full(SIZE, 1.0))
        assert not ScaleFilter(None, PRIOR).update_floor(wall, FloorPlane.from_tilt(1.3, 15))
        nothing = DrawnFrame(room, depth_m=np.full(SIZE, np.nan))
        scale = ScaleFilter(None, PRIOR)
        assert not scale.update_floor(nothing, plane_of(room))
        assert (scale.factor, scale.sigma_log) == (1.0, pytest.approx(PRIOR.sigma_log))


@pytest.mark.parametrize(("share_of_height", "is_claimed"), [(0.3, False), (0.5, False), (0.6, False), (0.9, True)])
def test_a_table_is_a_floor_of_an_unlikely_scale(rooms, share_of_height, is_claimed):
    """A plane that fills the lower part of the picture, at a share of the camera's height above the floor."""
    plane = FloorPlane.from_tilt(1.3, 25)
    table_m, _ = replace(plane, height_m=1.3 * share_of_height).depth(rooms[0].camera, pixels())
    depth_m = np.where(table_m < 6, table_m, 6).reshape(SIZE)
    scale = ScaleFilter(None, PRIOR)
    assert scale.update_floor(DrawnFrame(rooms[0], depth_m=depth_m), plane) == is_claimed
    if is_claimed:
        assert scale.factor == pytest.approx(1 / share_of_height, rel=0.03)


def test_floor_in_the_upper_part_of_the_picture_is_seen_too(rooms):
    plane = FloorPlane.from_tilt(0.5, 50)
    floor_m, _ = plane.depth(rooms[0].camera, pixels())
    depth_m = np.where(pixels()[:, 1] < SIZE[0] / 3, floor_m, 0.3).reshape(SIZE)
    assert ScaleFilter(None, PRIOR).update_floor(DrawnFrame(rooms[0], depth_m=depth_m), plane)


def test_a_camera_that_looks_straight_down_sees_floor_everywhere(rooms):
    plane = FloorPlane(1.3, (0.0, 0.0, 1.0))
    depth_m, sigma_m = plane.depth(rooms[0].camera, pixels())
    np.testing.assert_allclose(depth_m, 1.3)
    np.testing.assert_allclose(sigma_m, plane.height_sigma_m, rtol=1e-6)


def test_depths_of_a_network_that_sees_all_too_near_come_nearer_to_the_truth(rooms):
    """The embedded weights, whose errors are those of a network, off by a quarter more."""
    model, errors = checkpoint.load("embedded"), []
    model.multiply_depth(0.75)
    predictor = Predictor(model, "cpu")
    uv = pixels()[::53]
    for room in rooms:
        frame, scale = predictor.encode(room.rgb, room.camera), ScaleFilter(predictor)
        if scale.update_floor(frame, plane_of(room)):
            truth_m = room.depth_m[uv[:, 1].astype(int), uv[:, 0].astype(int)]
            errors.append([np.abs(frame.answer(uv, s).depth_m / truth_m - 1).mean() for s in (None, scale)])
    before, after = np.array(errors).T
    assert len(errors) > len(rooms) / 3
    assert after.mean() < 0.8 * before.mean()
    assert np.mean(after < 1.02 * before) > 0.7


def test_bad_poses_and_frames_without_a_camera_are_named(rooms):
    bad_down = ((0, 2, 0), (0, np.nan, 1), (0, 1))
    poses = [*((height, (0, 1, 0)) for height in (0.0, np.nan, "1.3")), *((1.3, down) for down in bad_down)]
    for bad in (*poses, (1.3, (0, 1, 0), np.nan), (1.3, (0, 1, 0), 0.02, -1.0)):
        with pytest.raises(FloorError, match="positive height of the camera, m, a unit vector down and sigmas >= 0"):
            FloorPlane(*bad)
    for tilt_deg in (90, np.nan, "5"):
        with pytest.raises(FloorError, match="camera tilt must be within"):
            FloorPlane.from_tilt(1.3, tilt_deg)
    blind = SimpleNamespace(camera=None)
    with pytest.raises(ScaleError, match="needs the camera's intrinsics"):
        ScaleFilter(None, PRIOR).update_floor(blind, FloorPlane.from_tilt(1.3, 10))
