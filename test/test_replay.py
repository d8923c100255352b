"""`spd replay`: offline, and through a real node, with the same depths; and what it says."""

import json
import os
import signal
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from rclpy.impl.rcutils_logger import RcutilsLogger
from support import recorded
from support.bags import CAMERA, asked_of, frames

from spd_core.data.bag import BagFrame, find_topics
from spd_core.data.bag_writing import write_bag
from spd_core.names import ANSWER_TOPIC, DEPTH_TOPIC
from spd_core.recording import Sampling, report
from spd_core.status import Status


def test_live_answers_what_offline_answers(tmp_path, monkeypatch, spd):
    """Through the node in its own process and real DDS; every query once, and a table, JSON, CSV and pictures of
    both."""
    monkeypatch.setenv(
        "ROS_DOMAIN_ID", os.environ["ROS_DOMAIN_ID"]
    )  # `replay` takes a domain of its own; restored after the test
    write_bag(tmp_path / "bag", frames(5, step_s=0.4))
    spd("replay", tmp_path / "bag", "--offline", "--out", tmp_path / "offline", "--points", 50)
    assert "sigma covers" in spd("replay", tmp_path / "bag", "--out", tmp_path / "live", "--points", 50).out
    read = {
        mode: np.genfromtxt(tmp_path / mode / "depths.csv", delimiter=",", names=True) for mode in ("offline", "live")
    }
    assert len(read["live"]) == 250
    assert (read["live"]["status"] == Status.OK).all()
    for name in ("depth_m", "sigma_m"):
        np.testing.assert_allclose(read["live"][name], read["offline"][name], rtol=1e-5)
    results = {mode: json.loads((tmp_path / mode / "result.json").read_text()) for mode in ("offline", "live")}
    assert results["live"]["metrics"]["abs_rel"] == pytest.approx(results["offline"]["metrics"]["abs_rel"], rel=1e-4)
    assert results["live"]["answered"] == results["live"]["queries"] == 5
    for name in ("frames.csv", "report.png", "overlay.png"):
        assert (tmp_path / "live" / name).stat().st_size > 100


def test_a_running_node_is_told_that_the_images_are_rectified(tmp_path, monkeypatch, spd):
    """It hears them under a name that does not say so. P is what holds, and K and D of before that do not. Its
    grid, of as many points as are asked about, is an answer to everyone else."""
    from spd_ros.processes import isolate, running_node

    monkeypatch.setenv("ROS_DOMAIN_ID", os.environ["ROS_DOMAIN_ID"])
    isolate()

    def messages():
        for i, frame in enumerate(frames(3)):
            p = [CAMERA.fx, 0, CAMERA.cx, 0, 0, CAMERA.fy, CAMERA.cy, 0, 0, 0, 1, 0]
            raw = replace(CAMERA, fx=2 * CAMERA.fx, fy=2 * CAMERA.fy)
            ns = recorded.stamp(3 * i)
            info = recorded.info(ns, (192, 256), camera=raw, d=[-0.3, 0.1, 0, 0, 0], p=p)
            yield "/camera/camera_info", ns, info
            yield "/camera/image_rect", ns, recorded.image(ns, frame.rgb, "rgb8")
            yield "/camera/depth", ns, recorded.image(ns, frame.depth_m, "32FC1")

    recorded.write(tmp_path / "bag", messages())
    spd("replay", tmp_path / "bag", "--offline", "--out", tmp_path / "offline")
    with running_node(parameters={"grid": [16, 8]}):
        spd("replay", tmp_path / "bag", "--node", "running", "--out", tmp_path / "live")
    offline, live = (
        np.genfromtxt(tmp_path / name / "depths.csv", delimiter=",", names=True) for name in ("offline", "live")
    )
    assert (live["status"] == Status.OK).all()
    np.testing.assert_allclose(live["depth_m"], offline["depth_m"], rtol=1e-5)


@pytest.mark.parametrize("restart", [True, False])
def test_a_node_that_dies_leaves_a_gap_and_the_replay_ends(tmp_path, monkeypatch, restart):
    from spd_ros import player as live
    from spd_ros.processes import isolate, start_node

    monkeypatch.setenv("ROS_DOMAIN_ID", os.environ["ROS_DOMAIN_ID"])
    isolate()
    write_bag(tmp_path / "bag", frames(14 if restart else 9, step_s=0.4))
    asked = asked_of(tmp_path / "bag", Sampling(points=10))
    nodes = [start_node()]
    show, stamps = live.Player.show, []

    def kill_after_a_while(player, frame):
        if frame.stamp_ns not in stamps:
            stamps.append(frame.stamp_ns)
            if len(stamps) == 4:
                nodes[0].send_signal(signal.SIGKILL)
                nodes[0].wait()
            elif len(stamps) == 8 and restart:
                nodes.append(start_node())
                known = player.count_publishers(ANSWER_TOPIC)  # DDS may not know yet that the first is dead
                assert player.spin(lambda: player.count_publishers(ANSWER_TOPIC) > known, 60)
                player.spin(lambda: False, 1)
        show(player, frame)

    monkeypatch.setattr(live.Player, "show", kill_after_a_while)
    try:
        played = live.replay_live(asked)
    finally:
        for node in nodes:
            node.kill()
            node.wait()
    summary = report(played, {}).summary
    answered = [bool(frame.answered()) for frame in played]
    assert answered[1]
    assert not answered[6]
    assert answered[-1] is restart
    assert sum(gap["frames"] for gap in summary["gaps"]) == answered.count(False)


def test_every_answer_counts_of_a_replay_that_is_faster_than_can_be_read(tmp_path, monkeypatch, spd):
    monkeypatch.setenv("ROS_DOMAIN_ID", os.environ["ROS_DOMAIN_ID"])
    write_bag(tmp_path / "bag", frames(4, queries=200))
    spd("replay", tmp_path / "bag", "--recorded", "--rate", 1000, "--out", tmp_path / "out")
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["answered"] == result["queries"] == 800


def test_no_node_to_ask(tmp_path, monkeypatch, spd):
    from spd_ros import player as live

    monkeypatch.setattr(live, "WAIT_FOR_NODE_S", 0.5)
    write_bag(tmp_path / "bag", frames(1))
    _, error = spd("replay", tmp_path / "bag", "--node", "running", code=1)
    assert "looking for a node" in error, "a minute of silence looks like a fault"
    assert "no node listens to /camera/image_raw" in error


def test_a_node_that_cannot_start_is_told_at_once(tmp_path, monkeypatch, spd):
    monkeypatch.setenv("ROS_DOMAIN_ID", os.environ["ROS_DOMAIN_ID"])
    write_bag(tmp_path / "bag", frames(1))
    _, error = spd("replay", tmp_path / "bag", "--weights", "/nowhere [x].safetensors", code=1)
    assert error.splitlines()[-1] == "error: the node cannot start; its output above says why"


def test_a_ros1_bag_is_played_to_the_node(tmp_path, monkeypatch, spd):
    """With depth of another clock that is corrected, and a calibration that the node gets as it was recorded; slower
    than it was recorded, which is said."""
    from spd_ros.player import Player

    show, warned = Player.show, []
    monkeypatch.setattr(RcutilsLogger, "warning", lambda logger, line, **how: warned.append(line))
    monkeypatch.setattr(Player, "show", lambda *what: (time.sleep(0.4), show(*what)))
    monkeypatch.setenv("ROS_DOMAIN_ID", os.environ["ROS_DOMAIN_ID"])
    path = recorded.write_ros1(tmp_path / "old.bag", recorded.usual(3, depth_offset_ns=2_500_000_000))
    results = {}
    for mode in ("offline", "live"):
        options = ["--depth-offset-s", "-2.5", "--points", 40, "--out", tmp_path / mode]
        spd("replay", path, *options, *(["--offline"] if mode == "offline" else []))
        results[mode] = json.loads((tmp_path / mode / "result.json").read_text())
    assert results["live"]["points_by_status"] == {"OK": 120}
    assert any("s later than a rate of 1 asks" in line for line in warned)
    assert results["live"]["metrics"]["abs_rel"] == pytest.approx(results["offline"]["metrics"]["abs_rel"], rel=1e-4)


# --- what is said


def test_a_replay_without_a_depth_is_no_success(tmp_path, spd):
    outside = [replace(frame, queries=[(np.array([[-9.0, 5.0]] * 3), np.arange(3))]) for frame in frames(2)]
    write_bag(tmp_path / "bag", outside)
    _, error = spd("replay", tmp_path / "bag", "--offline", "--recorded", code=1)
    assert error == "error: no point was answered with a depth: 6 OUTSIDE_IMAGE\n"


def test_what_a_report_lacks_is_said_before_the_work(rooms, tmp_path, monkeypatch, spd):
    write_bag(tmp_path / "bag", frames(1))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for command in (("replay", tmp_path / "bag", "--offline"), ("eval", rooms)):
        out, error = spd(*command, "--out", tmp_path / "out", code=1)
        assert "this needs matplotlib" in error
        assert "answering" not in out + error
        assert "abs_rel" not in out


def test_a_comparison_of_nothing_is_no_success(tmp_path, spd):
    late = recorded.write(tmp_path / "late [1]", recorded.usual(3, depth_offset_ns=40_000_000))
    out, error = spd("replay", late, "--offline", "--out", tmp_path / "out", code=1)
    assert "3 of 3 queries answered" in out
    assert error.startswith(
        "error: nothing to compare: 0 of 3 images have depth within the tolerance of 0.02 s; of 3 depth images the"
        " nearest is 0.04 s later."
    )
    assert json.loads((tmp_path / "out" / "result.json").read_text())["metrics"] is None
    assert (
        "3 of 3 images have depth within the tolerance of 0.05 s"
        in spd("replay", late, "--offline", "--tolerance-s", "0.05").out
    )
    blind = list(recorded.usual(3))
    for topic, _, message in blind:
        if "depth" in topic:
            message.data = message.data * 0
    _, error = spd("replay", recorded.write(tmp_path / "blind", blind), "--offline", code=1)
    assert error == "error: nothing to ask: no depth image has a reading\n"
    _, error = spd("replay", tmp_path / "blind", "--offline", "--grid", "[4,3]", code=1)
    assert "3 of 3 images have depth within the tolerance of 0.02 s, and no point has both an answer and" in error
    good = recorded.write(tmp_path / "good", recorded.usual(3))
    out, error = spd("replay", good, "--offline", "--points", 9, "--max-depth-m", "0.01", code=1)
    assert "left out: 27 points whose true depth is 0.01 m or more (max_depth_m)" in out
    assert "no point has both an answer and a depth below max_depth_m, 0.01 m (27 are farther away)" in error
    without = recorded.write(tmp_path / "none", [m for m in recorded.usual(3) if "depth" not in m[0]])
    assert "no depth to compare with" in spd("replay", without, "--offline").out


def test_depth_that_is_not_registered_is_left_out_and_told(tmp_path, spd):
    odd = [
        BagFrame(f.stamp_ns, f.rgb, f.depth_m[::2] if i == 1 else f.depth_m, f.camera, [])
        for i, f in enumerate(frames(3))
    ]
    write_bag(tmp_path / "bag", odd)
    said = spd("replay", tmp_path / "bag", "--offline", "--out", tmp_path / "out").out
    line = (
        f"left out: 1 Image messages on {DEPTH_TOPIC}; the first at 1.100 s: depth is [96, 256] px and colour"
        " [192, 256]; depth must be registered to colour"
    )
    assert line in said
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["left_out"] == [line]
    assert (result["frames"], result["metrics"]["n_images"]) == (3, 2)


def test_depth_in_millimetres_that_should_be_metres_is_told(tmp_path, spd):
    depth_mm = recorded.depth_mm().astype(np.float32)
    messages = [
        (topic, ns, recorded.image(ns, depth_mm, "32FC1") if "depth" in topic else message)
        for topic, ns, message in recorded.usual(3)
    ]
    path = recorded.write(tmp_path / "bag", messages)
    out, error = spd("replay", path, "--offline", "--points", 9, code=1)
    median = np.median(depth_mm[depth_mm > 0])
    assert f": the median depth is {median:.0f} m; is it in millimetres? Depth of 32FC1 must be metres, that of" in out
    assert "left out: 3 Image messages on /camera/aligned_depth_to_color/image_raw" in out
    assert "no depth to compare with" in out
    assert "nothing to compare: 3 of 3 images have depth within the tolerance" in error


def test_an_uncalibrated_camera_is_answered_without_rays(tmp_path, spd):
    path = recorded.write(tmp_path / "bag", recorded.usual(3, k=[0.0] * 9))
    said = spd("replay", path, "--offline", "--points", 10, "--out", tmp_path / "out").out
    assert json.loads((tmp_path / "out" / "result.json").read_text())["points_by_status"] == {"NO_CAMERA_INFO": 30}
    assert said.count("the camera is not calibrated") == 1
    assert "note: no intrinsics at 30 points: depth assumes the training focal length" in said


def test_what_a_bag_lacks_is_told(tmp_path, spd):
    path = recorded.write(tmp_path / "bag", recorded.usual(1, with_info=False))
    assert find_topics(path).camera_info is None
    for arguments, word in (
        (
            ("--depth", "/nothing"),
            "no topic /nothing for depth; it has /camera/color/image_raw (sensor_msgs/msg/Image, 1)",
        ),
        (("--recorded",), "has no query topic"),
        (("--node", "old"), "node must be fresh or running"),
        (("--rate", "0"), "rate must be positive"),
        (("--rate", "2"), "--rate 2.0: only for a replay to a node, which --offline does not ask"),
        (("--points", "0"), "points must be at least 1, got 0"),
    ):
        _, error = spd("replay", path, "--offline", *arguments, code=1)
        assert word in error
    _, error = spd("replay", tmp_path / "nowhere", code=1)
    assert error == f"error: bag {tmp_path}/nowhere does not exist\n"
    only = recorded.write(tmp_path / "only", [m for m in recorded.usual(1) if m[0].endswith("info")])
    _, error = spd("replay", only, code=1)
    assert "no colour image; it has /camera/color/camera_info (sensor_msgs/msg/CameraInfo, 1)" in error
