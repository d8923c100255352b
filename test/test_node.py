"""The node in its own process, over real DDS: every query message gets exactly one answer, whatever comes."""

import time

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import Image, PointField
from std_msgs.msg import Header
from support.robot import CAMERA, TOPICS, client, connected, rgb  # noqa: F401

from spd_core import Predictor
from spd_core.status import Status
from spd_ros.conversions import query_cloud, rgb_to_image


@pytest.fixture(scope="module")
def running(client):
    """A node with embedded weights, and the client connected to it."""
    with connected(client, {"query_timeout_s": 0.5, "diagnostics_period_s": 0.2}):
        yield client


def test_no_image_yet(running):
    assert running.statuses([[1, 2]], Header()) == [Status.NO_IMAGE]


def test_missing_camera_info_answers_depth_without_xyz(running, rgb):
    header = running.show(rgb, camera=None)
    _, points = running.ask([[100, 100], [-9, 0]], header)
    assert points["status"].tolist() == [Status.NO_CAMERA_INFO, Status.OUTSIDE_IMAGE]
    assert points["depth"][0] > 0
    assert np.isnan(points["x"]).all()
    running.spin(lambda: "no camera_info on /camera/camera_info; " in running.diagnostics.message)


def test_answers_are_the_predictors(running, rgb):
    uv = np.random.default_rng(0).uniform([0, 0], [639, 479], (128, 2)).astype(np.float32)
    header = running.show(rgb)
    answered, points = running.ask(uv, header)
    assert answered == header
    assert (points["status"] == Status.OK).all()
    frame = Predictor.load("embedded", device="cpu").encode(rgb, CAMERA)
    np.testing.assert_allclose(points["depth"], frame.depth_at(uv), rtol=1e-4)
    np.testing.assert_allclose(np.stack([points[c] for c in "xyz"], axis=1), frame.points_at(uv), rtol=1e-3, atol=1e-4)
    assert np.array_equal(np.stack([points["u"], points["v"]], axis=1), uv)
    assert points["id"].tolist() == list(range(128))


def test_a_client_of_default_qos_is_no_problem(running, rgb):
    assert running.statuses([[1, 1]], running.show(rgb)) == [Status.OK]
    running.diagnostics = None
    running.spin(lambda: running.diagnostics is not None)
    assert (running.diagnostics.level, running.diagnostics.message) == (DiagnosticStatus.OK, "answering")


def test_zero_stamp_means_the_newest_image(running, rgb):
    shown = running.show(rgb)
    assert running.statuses([[5, 5]], shown) == [Status.OK]
    answered, points = running.ask([[5, 5]], Header())
    assert answered.stamp == shown.stamp
    assert points["status"].tolist() == [Status.OK]


def test_points_that_cannot_be_answered(running, rgb):
    header = running.show(rgb)
    nan, inf = float("nan"), float("inf")
    uv = [[0, 0], [639, 479], [639.5, 479.5], [-0.6, 0], [640, 0], [0, 479.6], [nan, 1], [1, inf], [-inf, 1], [1e30, 1]]
    assert running.statuses(uv, header) == [
        0,
        0,
        0,
        *[Status.OUTSIDE_IMAGE] * 3,
        *[Status.NOT_FINITE] * 3,
        Status.OUTSIDE_IMAGE,
    ]


def test_no_points_and_very_many(running, rgb):
    header = running.show(rgb)
    assert running.statuses(np.zeros((0, 2)), header) == []
    uv = np.random.default_rng(0).uniform([0, 0], [639, 479], (200_000, 2))
    assert running.statuses(uv, header) == [Status.OK] * 200_000


def test_a_stamp_never_seen(running, rgb):
    running.show(rgb)
    running.idle(0.3)
    for stamp in (Time(sec=2_000_000), Time(nanosec=77)):  # to come, and past
        assert running.statuses([[1, 1]], Header(stamp=stamp)) == [Status.NO_IMAGE]


def broken(msg: Image, **changes) -> Image:
    for name, value in changes.items():
        setattr(msg, name, value)
    return msg


BROKEN_IMAGES = {
    "short step": ({"step": 7}, "step is 7 bytes"),
    "a sliver": ({"height": 1, "width": 5000, "step": 15000, "data": bytes(15000)}, "5000x1 px"),
    "no pixels": ({"height": 0, "width": 0, "step": 0, "data": b""}, "0x0 px"),
}


@pytest.mark.parametrize("name", BROKEN_IMAGES)
def test_broken_image(running, rgb, name):
    changes, complaint = BROKEN_IMAGES[name]
    header = running.header()
    running.images.publish(broken(rgb_to_image(rgb, header), **changes))
    assert running.statuses([[1, 1]], header) == [Status.BAD_IMAGE]
    running.spin(lambda: complaint in running.diagnostics.message)
    assert running.statuses([[1, 1]], running.show(rgb)) == [Status.OK]


def test_big_endian_and_changing_image_sizes(running, rgb):
    for size in ((240, 320), (720, 1280), (480, 640)):
        picture = np.resize(rgb, (*size, 3))
        camera = CAMERA.scaled(size[1] / 640, size[0] / 480)
        assert running.statuses([[size[1] - 1, size[0] - 1], [size[1], 0]], running.show(picture, camera)) == [
            Status.OK,
            Status.OUTSIDE_IMAGE,
        ]
    header = running.header()
    deep = np.ascontiguousarray((rgb.astype(np.uint16) * 256).astype(">u2"))
    running.images.publish(
        Image(header=header, height=480, width=640, encoding="rgb16", is_bigendian=1, step=3840, data=deep.tobytes())
    )
    _, points = running.ask([[100, 100]], header)
    _, same = running.ask([[100, 100]], running.show(rgb))
    assert points["depth"] == pytest.approx(same["depth"])


def field(name, offset, datatype=PointField.FLOAT32):
    return PointField(name=name, offset=offset, datatype=datatype, count=1)


BROKEN_QUERIES = {"no u, v": [field("a", 0), field("b", 4)], "no fields": []}


@pytest.mark.parametrize("name", BROKEN_QUERIES)
def test_broken_query(running, rgb, name):
    header = running.show(rgb)
    msg = query_cloud(np.ones((3, 2)), header)
    msg.fields = BROKEN_QUERIES[name]
    running.queries.publish(msg)
    answered, points = running.answer()
    assert answered.stamp == header.stamp
    assert points["status"].tolist() == [Status.BAD_QUERY] * 3
    assert np.isnan(points["u"]).all()


def test_query_that_lies_about_its_size(running, rgb):
    msg = query_cloud(np.ones((3, 2)), running.show(rgb))
    msg.width = 4_000_000_000
    running.queries.publish(msg)
    _, points = running.answer()
    assert set(points["status"].tolist()) == {Status.BAD_QUERY}


def test_diagnostics_tell_the_reasons(running, rgb):
    header = running.header()
    running.images.publish(broken(rgb_to_image(rgb, header), encoding="nothing"))
    assert running.statuses([[1, 1]], header) == [Status.BAD_IMAGE]
    running.ask([[1, 1], [-5, 5]], running.show(rgb))
    running.diagnostics = None
    running.spin(lambda: running.diagnostics)
    values = {v.key: v.value for v in running.diagnostics.values}
    assert values["weights"] == "embedded"
    assert int(values["points OUTSIDE_IMAGE"]) >= 1
    assert int(values["queries received"]) == int(values["queries answered"])
    assert float(values["query latency p50 [ms]"]) > 0
    assert int(values["images bad"]) >= 1
    assert 0 < float(values["node overhead p99 [ms]"]) < 1000  # of refused queries too


def test_overlay_is_drawn_while_someone_listens(running, rgb):
    overlays = []
    subscription = running.create_subscription(Image, "/spd/overlay", overlays.append, 1)
    deadline = time.monotonic() + 15
    while not overlays and time.monotonic() < deadline:
        running.ask([[320, 240]], running.show(rgb))
    running.destroy_subscription(subscription)
    picture = np.frombuffer(overlays[0].data, np.uint8).reshape(480, 640, 3)
    assert not np.array_equal(picture, rgb)
    assert np.array_equal(picture[400:, :100], rgb[400:, :100])
