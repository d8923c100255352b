"""Clouds, scans and ranges to pixels with a true depth: in drawn rooms, where every distance is known."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.lib import recfunctions
from sensor_msgs.msg import LaserScan, PointCloud2, PointField, Range
from std_msgs.msg import Header

from spd_core import Camera
from spd_core.messages import MessageError
from spd_core.predictor import Answer
from spd_core.references import (
    MOST_POINTS,
    KnownPoints,
    cloud_references,
    range_references,
    references_in,
    scan_references,
)
from spd_rooms.casting import Pose, Scene
from spd_rooms.rooms import random_room
from spd_rooms.synthetic import draw
from spd_ros.conversions import array_to_cloud

SIZE = (240, 320)
CAMERA = Camera(260.0, 260.0, 159.5, 119.5)
# From a sensor's frame (x forward, y left, z up) to an optical one (x right, y down, z forward).
TO_OPTICAL = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])


def cloud(**fields):
    values = recfunctions.merge_arrays([np.asarray(v, "<f4") for v in fields.values()])
    values.dtype.names = tuple(fields)
    return array_to_cloud(values, Header())


def frame_of(depth_m):
    """What a network that sees `depth_m` [H, W] would be encoded to."""

    def answer(uv):
        x, y = np.clip(np.round(uv).astype(int), 0, [SIZE[1] - 1, SIZE[0] - 1]).T
        z = depth_m[y, x].astype(np.float32)
        return Answer(z, np.full(len(uv), np.nan, np.float32), np.zeros((len(uv), 3)), np.zeros(len(uv)))

    return SimpleNamespace(size=SIZE, camera=CAMERA, answer=answer)


@pytest.fixture(scope="module")
def room():
    """A room, a level camera in it, and the scene that rays can be cast against."""
    room = random_room(5)
    pose = Pose(room.size * [0.5, 0, 0.2] + [0, 1.1, 0], 0.0, 0.0, 0.0)
    return SimpleNamespace(scene=Scene(room), pose=pose, frame=draw(room, CAMERA, pose, SIZE))


def test_a_cloud_of_pixels():
    references = cloud_references(cloud(u=[1, 2.5], v=[3, 4], depth=[1.5, np.nan], sigma=[0.1, 0.2]))
    np.testing.assert_array_equal(references.uv, [[1, 3], [2.5, 4]])
    np.testing.assert_array_equal(references.depth_m, [1.5, np.nan])
    np.testing.assert_allclose(references.sigma_m, [0.1, 0.2])
    assert np.isnan(cloud_references(cloud(u=[1], v=[3], depth=[1.5])).sigma_m).all()


def test_a_cloud_of_points_is_projected():
    known = cloud_references(cloud(x=[0.0, 1, 0, np.nan], y=[0.0, 0.5, 0, 0], z=[2.0, 4, -1, 1], sigma=[0.1] * 4))
    references = references_in(known, frame_of(np.ones(SIZE, np.float32)))
    np.testing.assert_allclose(references.uv, [[159.5, 119.5], [159.5 + 65, 119.5 + 32.5]])
    np.testing.assert_allclose(references.depth_m, [2, 4])
    np.testing.assert_allclose(references.sigma_m, [0.1, 0.1 * 4 / math.sqrt(16 + 1 + 0.25)], rtol=1e-6)


def test_of_a_large_cloud_the_finite_points_are_drawn_from():
    """What a depth camera sends: projecting all of it would keep queries waiting."""
    x = np.arange(307_200.0)
    x[::2] = np.nan
    points_m = cloud_references(cloud(x=x, y=x, z=x, sigma=x)).points_m
    assert len(np.unique(points_m[:, 0])) == len(points_m) == MOST_POINTS
    assert np.isfinite(points_m).all()
    assert np.histogram(points_m[:, 0], 8, (0, len(x)))[0].min() > MOST_POINTS / 10


@pytest.mark.parametrize(
    ("msg", "message"),
    [
        (cloud(u=[1], v=[2]), r"fields \['u', 'v'\]; expected 'u', 'v' \(px\) and 'depth'"),
        (cloud(x=[1], y=[2], depth=[3]), "expected 'u', 'v'"),
        (PointCloud2(), r"fields \[\]"),
        (
            PointCloud2(
                height=1,
                width=1,
                point_step=6,
                row_step=6,
                fields=[PointField(name=n, offset=2 * i, datatype=4, count=1) for i, n in enumerate("xyz")],
                data=bytes(6),
            ),
            "'x' is uint16; expected one float32 or float64",
        ),
    ],
)
def test_other_clouds_are_named(msg, message):
    with pytest.raises(MessageError, match=message):
        cloud_references(msg)


def test_a_laser_scan_meets_what_the_camera_sees(room):
    """A 2-D LiDAR 15 cm below the camera and 10 cm beside it."""
    offset = np.array([0.1, 0.15, 0.0])  # of the scanner, in the optical frame
    rotation = room.pose.rotation()
    origin = room.pose.position + rotation @ offset
    angles = np.linspace(-2, 2, 400, endpoint=False)
    directions = np.stack([np.cos(angles), np.sin(angles), np.zeros(400)], axis=1) @ TO_OPTICAL.T @ rotation.T
    cast, _ = room.scene.cast(*(torch.tensor(x, dtype=torch.float32) for x in (origin, directions)), (1, 400))
    ranges = cast.numpy().copy()
    ranges[::7] = np.inf
    ranges[3::7] = np.nan
    msg = LaserScan(angle_min=-2.0, angle_increment=0.01, range_min=0.1, range_max=30.0, ranges=ranges.tolist())
    known = scan_references(msg)
    assert len(known.points_m) == np.isfinite(ranges).sum()
    optical = KnownPoints(known.points_m @ TO_OPTICAL.T + offset, known.sigma_log)
    references = references_in(optical, frame_of(room.frame.depth_m))
    assert 40 < len(references.uv) < 150
    x, y = np.round(references.uv).astype(int).T
    points = CAMERA.unproject(references.uv, references.depth_m) @ rotation.T
    eye = torch.tensor(room.pose.position, dtype=torch.float32)
    reached, _ = room.scene.cast(eye, torch.tensor(points, dtype=torch.float32), (1, len(points)))
    visible = reached.numpy() > 0.99  # the others are hidden from the camera by something nearer
    ratio = room.frame.depth_m[y, x] / references.depth_m
    assert visible.sum() > 30
    assert np.mean(np.abs(ratio[visible] - 1) < 0.02) > 0.9  # some are beside an edge
    assert np.mean(ratio[~visible] < 1) > 0.9
    np.testing.assert_allclose(references.sigma_m, 0.03 * references.depth_m)


def test_a_sonar_meets_the_nearest_thing_in_its_cone():
    depth_m = np.full(SIZE, 5.0)
    depth_m[100:140, 170:200] = 1.5  # a post, right of the axis
    msg = Range(field_of_view=0.4, min_range=0.1, max_range=10.0, range=1.55)
    known = range_references(msg)
    angles = np.arccos(known.points_m[:, 0] / 1.55)
    np.testing.assert_allclose(np.linalg.norm(known.points_m, axis=1), 1.55, rtol=1e-6)
    assert angles.max() == pytest.approx(0.2)
    optical = KnownPoints(known.points_m @ TO_OPTICAL.T, known.sigma_log, known.is_cone)
    for factor in (0.7, 1.0, 1.5):
        references = references_in(optical, frame_of(depth_m * factor))
        ((u, v),) = references.uv
        assert 170 <= u < 200
        assert 100 <= v < 140
        assert references.depth_m == pytest.approx(1.55, rel=0.03)
    beside = KnownPoints(known.points_m @ TO_OPTICAL.T + [1.0, 0, 0], known.sigma_log, known.is_cone)
    assert len(references_in(beside, frame_of(depth_m)).uv) == 0  # its nearest thing may be out of sight


def test_a_single_beam_is_one_pixel():
    known = range_references(Range(field_of_view=0.0, min_range=0.1, max_range=4.0, range=2.0))
    np.testing.assert_array_equal(known.points_m, [[2, 0, 0]])
    for nothing in (math.inf, math.nan, -math.inf, 5.0, 0.05):
        assert len(range_references(Range(min_range=0.1, max_range=4.0, range=nothing)).points_m) == 0


@pytest.mark.parametrize(
    "bad",
    [
        LaserScan(angle_min=math.nan, range_max=3.0, ranges=[1.0]),
        LaserScan(angle_increment=math.inf, range_max=3.0, ranges=[1.0, 2.0]),
        LaserScan(range_min=3.0, range_max=1.0, ranges=[1.0]),
        LaserScan(range_max=math.nan, ranges=[1.0]),
    ],
)
def test_bad_scans_are_named(bad):
    with pytest.raises(MessageError, match="expected finite angles and a range above 0"):
        scan_references(bad)


@pytest.mark.parametrize("bad", [{"field_of_view": math.nan}, {"field_of_view": 3.5}, {"min_range": 2.0}])
def test_bad_ranges_are_named(bad):
    with pytest.raises(MessageError, match=r"expected 0 \.\.\. pi rad and a range above 0"):
        range_references(Range(**{"field_of_view": 0.2, "min_range": 0.1, "max_range": 1.0, "range": 0.5, **bad}))


def test_no_message_of_random_numbers_does_more_than_be_refused():
    rng = np.random.default_rng(0)
    odd = [0.0, -1.0, math.nan, math.inf, -math.inf, 1e38, 1e-38, 1.0, 2.5]
    for _ in range(300):
        number = lambda: float(rng.choice(odd))  # noqa: E731
        count = int(rng.integers(0, 5))
        messages = (
            (scan_references, LaserScan(angle_min=number(), angle_increment=number(), range_min=number(),
                                        range_max=number(), ranges=[number() for _ in range(count)])),
            (range_references, Range(field_of_view=number(), min_range=number(), max_range=number(), range=number())),
            (cloud_references, cloud(x=[number()], y=[number()], z=[number()], sigma=[number()])),
        )  # fmt: skip
        for read, msg in messages:
            try:
                known = read(msg)
            except MessageError:
                continue
            with np.errstate(invalid="ignore"):
                optical = KnownPoints(known.points_m @ TO_OPTICAL.T, known.sigma_log, known.is_cone)
            references = references_in(optical, frame_of(np.full(SIZE, 2.0)))
            assert references.uv.shape == (len(references.depth_m), 2)
            assert np.isfinite(references.uv).all()
