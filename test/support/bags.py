"""Bags of drawn rooms, and what reading a bag of `recorded.usual` must give."""

import numpy as np

from spd_core import Camera
from spd_core.data.bag import Bag, BagFrame
from spd_core.data.topics import Topics
from spd_core.recording import frames_to_ask
from spd_rooms.synthetic import random_frame

from . import recorded

COLOUR, DEPTH = "/camera/color/image_raw", "/camera/aligned_depth_to_color/image_raw"
INFO = "/camera/color/camera_info"
TOPICS = Topics(COLOUR, DEPTH, INFO)
CAMERA = Camera(210.0, 211.0, 128.0, 96.0)


def frames_of(path, count=None, **how):
    """The frames and what was said of them; images, depth and camera must be those of `usual` at their stamps."""
    with Bag(path) as bag:
        topics = bag.choose().topics
        assert topics == TOPICS
        frames = list(bag.frames(topics, **how))
        said = [*bag.faults, *bag.left_out()]
    for frame in frames:
        i = (frame.stamp_ns - recorded.T0_NS) // 10**8
        np.testing.assert_array_equal(frame.rgb, recorded.picture(i))
        if frame.depth_m is not None:
            np.testing.assert_allclose(frame.depth_m, recorded.depth_mm(i) / 1000, atol=1e-6)
        assert frame.camera in (recorded.CAMERA, None)
    assert count is None or len(frames) == count
    return frames, said


def frames(count=4, queries=0, step_s=0.1):
    for i in range(count):
        drawn = random_frame(6_000_000 + i, (192, 256))
        rng = np.random.default_rng(i)
        asked = [(rng.uniform(0, [255, 191], (5, 2)), np.arange(5) + 10 * q) for q in range(queries)]
        yield BagFrame(round((1 + i * step_s) * 1e9), drawn.rgb, drawn.depth_m.astype(np.float32), CAMERA, asked)


def asked_of(path, sampling):
    with Bag(path) as bag:
        return list(frames_to_ask(bag.frames(bag.choose().topics), sampling))
