"""Frames without topics: how long is waited for TF, and for whom."""

import sys
import time
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
from geometry_msgs.msg import Transform
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from spd_ros import waypoints
from spd_ros.diagnostics import Statistics
from spd_ros.node import SPDNode
from spd_ros.waypoints import TF_WAIT_S, FrameTransforms, NoTransformError

POINTS_M = np.array([[0.1, 0.2, 2.0]])


class Buffer:
    """A TF tree that links all frames, but reaches the stamp of an image only from `ready_s` on."""

    ready_s = float("inf")

    def __init__(self, node=None):
        pass

    def clear(self):
        pass

    def can_transform_core(self, target, source, at):
        return at.nanoseconds == 0 or time.monotonic() >= self.ready_s, ""

    def lookup_transform(self, *link):
        if not self.can_transform_core(*link)[0]:
            raise RuntimeError("Lookup would require extrapolation into the future")
        return SimpleNamespace(transform=Transform())


@pytest.fixture
def transforms(monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2_ros", SimpleNamespace(Buffer=Buffer, TransformListener=lambda *_: None))
    return FrameTransforms(None, "", (0, 0, 0, 0, 0, 0, 1))


def image():
    header = Header(frame_id="camera")
    header.stamp.sec = 100
    return header


def test_nothing_waits_for_tf_unless_it_asks_for_that(transforms, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda s: pytest.fail("waits on the thread that answers"))
    with pytest.raises(NoTransformError, match="extrapolation into the future"):
        transforms.to_optical(POINTS_M, "laser", image())


def test_waypoints_wait_until_tf_reaches_the_image(transforms, monkeypatch):
    started_s = time.monotonic()
    with pytest.raises(NoTransformError, match="extrapolation into the future"):
        transforms.to_optical(POINTS_M, "map", image(), wait_s=TF_WAIT_S)
    assert time.monotonic() - started_s >= TF_WAIT_S
    monkeypatch.setattr(waypoints, "PAUSE", 0)
    monkeypatch.setattr(Buffer, "ready_s", time.monotonic() + 0.03)
    assert np.array_equal(transforms.to_optical(POINTS_M, "map", image(), wait_s=30.0), POINTS_M)


def test_tf_that_stands_still_is_not_waited_for_by_every_path(transforms, monkeypatch):
    """Or paths at 20 Hz in a frame whose broadcaster hangs would take all of the thread that answers."""

    def waited_s(frame_id):
        started_s = time.monotonic()
        with pytest.raises(NoTransformError):
            transforms.to_optical(POINTS_M, frame_id, image(), wait_s=TF_WAIT_S)
        return time.monotonic() - started_s

    assert waited_s("odom") >= TF_WAIT_S
    monkeypatch.setattr(time, "sleep", lambda s: pytest.fail("waits again, so soon"))
    waited_s("odom")
    monkeypatch.undo()
    monkeypatch.setattr(waypoints, "PAUSE", 0)
    assert waited_s("odom") >= TF_WAIT_S


def test_a_frame_that_stands_still_takes_no_patience_from_another(transforms, monkeypatch):
    with pytest.raises(NoTransformError):
        transforms.to_optical(POINTS_M, "odom", image(), wait_s=TF_WAIT_S)
    monkeypatch.setattr(Buffer, "ready_s", time.monotonic() + 0.03)
    assert np.array_equal(transforms.to_optical(POINTS_M, "map", image(), wait_s=30.0), POINTS_M)


def test_tf_of_before_a_jump_back_is_forgotten(transforms, monkeypatch):
    """By the node, where it notices that image stamps fall back."""
    cleared = []
    monkeypatch.setattr(Buffer, "clear", lambda buffer: cleared.append(buffer))
    scheduler = MagicMock()
    node = SimpleNamespace(
        _statistics=Statistics(), _transforms=transforms, _problems=MagicMock(), count_publishers=lambda topic: 1
    )
    for scheduler.add_image.return_value in (False, True):
        assert cleared == []
        SPDNode._on_image(node, scheduler, "/image", Image())
    assert len(cleared) == 1
    transforms._buffer = None  # tf2_ros is not installed
    transforms.clear()
