"""Query and answer clouds against references: what a client would publish, and what a broken one might."""

import numpy as np
import pytest
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from spd_core.messages import MessageError, cloud_to_array, point_count, query_points
from spd_core.predictor import Answer
from spd_core.status import Status
from spd_ros.conversions import answer_cloud, blocked_probability, query_cloud
from spd_ros.waypoints import projected


def cloud(fields, points: np.ndarray, **changes) -> PointCloud2:
    msg = PointCloud2(
        height=1,
        width=len(points),
        point_step=points.dtype.itemsize,
        row_step=points.nbytes,
        data=points.tobytes(),
        fields=[PointField(name=n, offset=o, datatype=t, count=1) for n, o, t in fields],
    )
    for name, value in changes.items():
        setattr(msg, name, value)
    return msg


UV = np.array([[1.5, 2.5], [np.nan, 7.0], [-3.0, 1e9]])


def test_query_round_trip():
    uv, ids = query_points(query_cloud(UV, Header()))
    np.testing.assert_array_equal(uv, UV.astype(np.float32))
    assert ids.tolist() == [0, 1, 2]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("names", ["uv", "xy"])
@pytest.mark.parametrize(("size", "datatype"), [("f4", PointField.FLOAT32), ("f8", PointField.FLOAT64)])
def test_query_layouts(names, size, datatype, order):
    points = np.zeros(
        3,
        dtype={
            "names": [names[1], names[0], "id"],
            "formats": [order + size, order + size, order + "i2"],
            "offsets": [8, 16, 2],
            "itemsize": 29,
        },
    )
    points[names[0]], points[names[1]] = UV.T
    points["id"] = [-4, 5, 300]
    fields = [(names[1], 8, datatype), (names[0], 16, datatype), ("id", 2, PointField.INT16)]
    uv, ids = query_points(cloud(fields, points, is_bigendian=order == ">"))
    np.testing.assert_array_equal(uv, UV.astype(size))
    assert ids.tolist() == [-4, 5, 300]


def test_organised_cloud_with_padded_rows():
    points = np.zeros(6, dtype=[("u", "<f4"), ("v", "<f4")])
    points["u"] = np.arange(6)
    rows = np.pad(points.view(np.uint8).reshape(2, 24), ((0, 0), (0, 5)))
    msg = cloud([("u", 0, 7), ("v", 4, 7)], points, height=2, width=3, row_step=29, data=rows.tobytes())
    assert query_points(msg)[0][:, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_of_fields_of_one_name_the_first_counts():
    """Padding often has one name for all of it."""
    points = np.arange(8, dtype=np.float32).reshape(2, 4).view([("u", "<f4"), ("_", "<f4"), ("v", "<f4"), ("x", "<f4")])
    msg = cloud([("u", 0, 7), ("_", 4, 7), ("v", 8, 7), ("_", 12, 7), ("u", 4, 7)], points.reshape(-1))
    assert query_points(msg)[0].tolist() == [[0, 2], [4, 6]]


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_cloud_in_metres_is_no_query(order):
    """Points of a plane are one: clouds of a library that knows x y z alone."""
    points = np.zeros(2, [(name, order + "f4") for name in "xyz"])
    fields = [("x", 0, 7), ("y", 4, 7), ("z", 8, 7)]
    points["x"], points["y"] = UV[0]
    for plane in (0.0, np.nan):
        points["z"] = plane
        assert query_points(cloud(fields, points, is_bigendian=order == ">"))[0].tolist() == [UV[0].tolist()] * 2
    for depth_m in (2.5, np.inf):
        points["z"][1] = depth_m
        with pytest.raises(MessageError, match=r"'z': a cloud in metres\? Expected 'u' and 'v' in pixels; 3"):
            query_points(cloud(fields, points, is_bigendian=order == ">"))


def test_empty_query():
    uv, ids = query_points(query_cloud(np.zeros((0, 2)), Header()))
    assert uv.shape == (0, 2)
    assert ids.shape == (0,)


PAIR = np.zeros(2, dtype=[("a", "<f4"), ("b", "<f4")])


def with_count(msg: PointCloud2, count: int) -> PointCloud2:
    msg.fields[0].count = count
    return msg


@pytest.mark.parametrize(
    ("msg", "expected"),
    [
        (cloud([("a", 0, 7), ("b", 4, 7)], PAIR), r"fields \['a', 'b'\]; expected 'u' and 'v'"),
        (cloud([("u", 0, 6), ("v", 4, 6)], PAIR), "'u' is uint32; expected one float32 or float64"),
        (cloud([("u", 0, 7), ("v", 4, 99)], PAIR), "'v' has the unknown datatype 99"),
        (cloud([("u", 0, 7), ("v", 6, 7)], PAIR), "do not fit in point_step 8"),
        (cloud([("u", 0, 7), ("v", 4, 7)], PAIR, width=1000), "cloud data has 16 bytes"),
        (cloud([("u", 0, 7), ("v", 4, 7)], PAIR, row_step=3), "row_step 3"),
        (cloud([("u", 0, 7), ("v", 4, 7)], PAIR, point_step=0, row_step=16), "do not fit in point_step 0"),
        (with_count(cloud([("u", 0, 7), ("v", 4, 7)], PAIR), 2**32 - 1), "'u' ends at byte 17179869180"),
        (with_count(cloud([("u", 0, 7)], PAIR, point_step=2**32 - 1, width=0), 2**30 - 1), "cannot be read"),
        (cloud([("u", 0, 7), ("u", 4, 7)], PAIR), r"has the fields \['u'\]"),
        (cloud([], PAIR), r"fields \[\]; expected 'u' and 'v'"),
        (cloud([], PAIR, point_step=0, row_step=0, height=2**32 - 1, data=b""), r"fields \[\]"),
    ],
)
def test_broken_queries(msg, expected):
    with pytest.raises(MessageError, match=expected):
        query_points(msg)
    assert point_count(msg) <= len(msg.data)


def test_blocked_is_the_share_of_likely_depths_in_front_of_a_waypoint():
    """Against depths drawn from what depth and sigma say."""
    depth = np.array([2.0, 2.0, 2.0, 2.0, 2.0, np.nan], np.float32)
    sigma = np.array([0.3, 0.3, 0.3, 0.05, np.nan, 0.3], np.float32)
    waypoint = np.array([2.0, 1.6, 3.0, 1.6, 1.6, 1.6], np.float32)
    blocked = blocked_probability(Answer(depth, sigma, np.zeros((6, 3)), np.zeros(6)), waypoint)
    drawn = np.log(depth) + sigma / depth * np.random.default_rng(0).standard_normal((40_000, 1))
    np.testing.assert_allclose(blocked[:4], np.mean(np.exp(drawn) < waypoint, axis=0)[:4], atol=0.01)
    assert np.isnan(blocked[4:]).all()


def test_answer_layout():
    ids = np.array([7, 9], np.uint32)
    depth = np.array([1.5, np.nan], np.float32)
    xyz = np.array([[0.1, 0.2, 1.5], [np.nan] * 3], np.float32)
    msg = answer_cloud(
        Header(frame_id="cam"),
        np.array([[3.0, 4.0], [5.0, 6.0]]),
        ids,
        Answer(depth, depth / 10, xyz, np.array([Status.OK, Status.OUTSIDE_IMAGE]), np.array([1.25, np.nan])),
    )
    assert [(f.name, f.datatype) for f in msg.fields] == [
        ("x", 7),
        ("y", 7),
        ("z", 7),
        ("depth", 7),
        ("sigma", 7),
        ("scale", 7),
        ("u", 7),
        ("v", 7),
        ("id", 6),
        ("status", 2),
    ]
    assert not msg.is_dense
    points = cloud_to_array(msg)
    assert points["id"].tolist() == [7, 9]
    assert points["status"].tolist() == [0, 2]
    np.testing.assert_array_equal(points["z"], depth)
    np.testing.assert_array_equal(points["sigma"], depth / 10)
    np.testing.assert_array_equal(points["scale"], [1.25, np.nan])
    np.testing.assert_allclose(points["x"], xyz[:, 0])


def test_sensor_msgs_py_reads_answers_and_writes_queries():
    theirs = pytest.importorskip("sensor_msgs_py.point_cloud2", reason="sensor_msgs_py comes with a ROS installation")
    depth = np.array([1.5, np.nan], np.float32)
    answer = Answer(depth, depth / 10, np.stack([depth] * 3, axis=1), np.array([Status.OK, Status.OUTSIDE_IMAGE]))
    ids, uv = np.array([7, 9], np.uint32), np.array([[3.5, 4.0], [5.0, -6.0]])
    msg = answer_cloud(Header(), uv, ids, answer, waypoint_depth_m=depth)
    read, ours = theirs.read_points(msg), cloud_to_array(msg)
    assert read.dtype.names == tuple(field.name for field in msg.fields)
    for name in read.dtype.names:
        np.testing.assert_array_equal(read[name], ours[name])
    fields = [PointField(name=n, offset=4 * i, datatype=PointField.FLOAT32, count=1) for i, n in enumerate("uv")]
    np.testing.assert_array_equal(query_points(theirs.create_cloud(Header(), fields, uv))[0], uv)


def test_pixels_and_places_beyond_float32_are_no_warning(recwarn):
    nowhere = Answer(*np.full((2, 1), np.nan), np.full((1, 3), np.nan), np.array([Status.OUTSIDE_IMAGE]))
    msg = answer_cloud(Header(), np.array([[1e300, -1e300]]), np.arange(1, dtype=np.uint32), nowhere)
    assert cloud_to_array(msg)[["u", "v"]].tolist() == [(np.inf, -np.inf)]
    assert projected(np.array([[0.0, 0.0, 1e300]]), None)[1] == np.inf
    assert not recwarn.list
