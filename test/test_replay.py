"""Bags found, paired and replayed: offline, and through a real node, with the same depths."""

import json
import os
import signal
import sys

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer

from spd_cli import main
from spd_core import Camera, Predictor
from spd_core.data import bag as bags
from spd_core.data.bag import BagFrame, find_topics, read_frames, write_bag
from spd_core.data.samples import DataError
from spd_core.recording import Answer, Replayed, Sampling, answer_offline, frames_to_ask, gaps, report
from spd_core.status import Status
from spd_rooms.synthetic import random_frame

CAMERA = Camera(210.0, 211.0, 128.0, 96.0)


def frames(count=4, queries=0, step_s=0.1):
    for i in range(count):
        drawn = random_frame(6_000_000 + i, (192, 256))
        rng = np.random.default_rng(i)
        asked = [(rng.uniform(0, [255, 191], (5, 2)), np.arange(5) + 10 * q) for q in range(queries)]
        yield BagFrame(round((1 + i * step_s) * 1e9), drawn.rgb, drawn.depth_m.astype(np.float32), CAMERA, asked)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_round_trip(tmp_path, storage):
    written = list(frames(3, queries=2))
    assert write_bag(tmp_path / "bag", written, storage) == 3
    topics = find_topics(tmp_path / "bag")
    assert (topics.image, topics.depth, topics.camera_info, topics.query) == (
        bags.IMAGE_TOPIC,
        bags.DEPTH_TOPIC,
        bags.INFO_TOPIC,
        bags.QUERY_TOPIC,
    )
    read = list(read_frames(tmp_path / "bag", topics))
    assert [f.stamp_ns for f in read] == [f.stamp_ns for f in written]
    for a, b in zip(written, read):
        assert np.array_equal(a.rgb, b.rgb)
        assert np.array_equal(a.depth_m, b.depth_m)
        assert b.camera == CAMERA
        for (uv, ids), (uv_read, ids_read) in zip(a.queries, b.queries):
            np.testing.assert_allclose(uv_read, uv, atol=1e-4)
            assert np.array_equal(ids, ids_read)


def type_(name):
    return bags._STORE.types[name]


def other_bag(path, depth_kind="16UC1", depth_offset_s=0.004, with_info=True):
    """A bag as a driver records it: other topic names, JPEG colour, depth a little later than colour and in various
    forms."""
    with Writer(path, version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        kinds = {
            "/cam/color/image_raw/compressed": "sensor_msgs/msg/CompressedImage",
            "/tf_static": "std_msgs/msg/Header",
        }
        kinds["/cam/depth/image"] = (
            "sensor_msgs/msg/Image" if depth_kind in ("16UC1", "32FC1") else "sensor_msgs/msg/CompressedImage"
        )
        kinds |= {"/cam/color/camera_info": "sensor_msgs/msg/CameraInfo"} if with_info else {}
        connections = {
            topic: writer.add_connection(topic, kind, typestore=bags._STORE) for topic, kind in kinds.items()
        }

        def put(topic, stamp_ns, message):
            writer.write(connections[topic], stamp_ns, bags._STORE.serialize_cdr(message, kinds[topic]))

        for frame in frames(3):
            header = bags._header(frame.stamp_ns)
            jpeg = cv2.imencode(".png", frame.rgb[..., ::-1])[1].ravel()
            put(
                "/cam/color/image_raw/compressed",
                frame.stamp_ns,
                type_("sensor_msgs/msg/CompressedImage")(header, "rgb8; png compressed bgr8", jpeg),
            )
            if with_info:
                put("/cam/color/camera_info", frame.stamp_ns, bags._camera_info(header, CAMERA, frame.rgb.shape[:2]))
            late = frame.stamp_ns + round(depth_offset_s * 1e9)
            millimetres = (frame.depth_m * 1000).round().astype(np.uint16)
            if depth_kind == "16UC1":
                message = bags._image(bags._header(late), millimetres[..., None], "16UC1")
            elif depth_kind == "32FC1":
                message = bags._image(bags._header(late), frame.depth_m[..., None], "32FC1")
            else:
                data = np.concatenate([np.zeros(12, np.uint8), cv2.imencode(".png", millimetres)[1].ravel()])
                message = type_("sensor_msgs/msg/CompressedImage")(
                    bags._header(late), "16UC1; compressedDepth png", data
                )
            put("/cam/depth/image", late, message)
            put("/tf_static", frame.stamp_ns, header)


@pytest.mark.parametrize("depth_kind", ["16UC1", "32FC1", "compressedDepth"])
def test_topics_are_found_by_type_and_paired_by_stamp(tmp_path, depth_kind):
    other_bag(tmp_path / "bag", depth_kind)
    topics = find_topics(tmp_path / "bag")
    assert (topics.image, topics.depth, topics.camera_info, topics.query) == (
        "/cam/color/image_raw/compressed",
        "/cam/depth/image",
        "/cam/color/camera_info",
        None,
    )
    read = list(read_frames(tmp_path / "bag", topics))
    assert len(read) == 3
    for a, b in zip(frames(3), read):
        assert np.array_equal(a.rgb, b.rgb)
        np.testing.assert_allclose(b.depth_m, a.depth_m, atol=6e-4)
    assert all(f.depth_m is None for f in read_frames(tmp_path / "bag", topics, tolerance_s=0.001))


def test_what_a_bag_lacks_is_told(tmp_path):
    other_bag(tmp_path / "bag", with_info=False)
    assert find_topics(tmp_path / "bag").camera_info is None
    with pytest.raises(
        DataError,
        match=(
            r"no topic /nothing for depth; it has .*/cam/color/image_raw/compressed"
            r" \(sensor_msgs/msg/CompressedImage, 3\)"
        ),
    ):
        find_topics(tmp_path / "bag", depth="/nothing")
    with pytest.raises(DataError, match="does not exist"):
        find_topics(tmp_path / "nowhere")
    (tmp_path / "junk").mkdir()
    with pytest.raises(DataError, match="not a readable ROS 2 bag"):
        find_topics(tmp_path / "junk")
    with Writer(tmp_path / "empty", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        writer.add_connection("/tf", "std_msgs/msg/Header", typestore=bags._STORE)
    with pytest.raises(DataError, match=r"no colour image; it has /tf \(std_msgs/msg/Header, 0\)"):
        find_topics(tmp_path / "empty")


def test_depth_that_is_not_registered_is_left_out_with_a_warning(tmp_path):
    odd = [
        BagFrame(f.stamp_ns, f.rgb, f.depth_m[::2] if i == 1 else f.depth_m, f.camera, [])
        for i, f in enumerate(frames(3))
    ]
    write_bag(tmp_path / "bag", odd)
    with pytest.warns(
        UserWarning, match=r"left out: depth is \[96, 256\] px and colour \[192, 256\]; depth must be registered"
    ):
        read = list(read_frames(tmp_path / "bag", find_topics(tmp_path / "bag")))
    assert [f.stamp_ns for f in read] == [odd[0].stamp_ns, odd[2].stamp_ns]


def test_samplings(tmp_path):
    write_bag(tmp_path / "bag", frames(2, queries=3))
    topics = find_topics(tmp_path / "bag")
    for sampling, queries, points in (
        (Sampling(points=40), 1, 40),
        (Sampling(grid=(8, 6)), 1, 48),
        (Sampling(recorded=True), 3, 5),
    ):
        asked = list(frames_to_ask(tmp_path / "bag", topics, sampling))
        assert [[len(uv) for uv, _ in f.queries] for f in asked] == [[points] * queries] * 2
        ids = np.concatenate([ids for f in asked for _, ids in f.queries])
        assert np.array_equal(ids, np.arange(len(ids)))
    with pytest.raises(ValueError, match="exclude each other"):
        Sampling(grid=(2, 2), recorded=True)


def test_report_by_hand():
    uv, ids, nan = np.zeros((2, 2)), np.arange(2), float("nan")

    def played(stamp, answers, truth=(2.0, nan)):
        return Replayed(stamp, [uv] * len(answers), [ids] * len(answers), [np.array(truth)] * len(answers), answers)

    ok = Answer(np.array([1.0, 5.0]), np.array([0, 0]), 0.010)
    skipped = Answer(np.array([nan, nan]), np.array([Status.FRAME_SKIPPED] * 2), 0.030)
    result = report(
        [played(0, [ok, ok]), played(1, [skipped]), played(2, [Answer()]), played(3, [Answer()]), played(4, [ok])],
        {"mode": "x"},
    ).summary
    assert (
        result["frames"],
        result["queries"],
        result["answered"],
        result["points"],
        result["points_without_depth"],
    ) == (5, 6, 4, 12, 6)
    assert result["points_by_status"] == {"OK": 6, "FRAME_SKIPPED": 2}
    assert result["dropped_frames"] == 3
    assert result["metrics"]["abs_rel"] == 0.5
    assert result["metrics"]["n_images"] == 2
    assert result["latency_ms"]["p50"] == pytest.approx(10)
    assert (
        result["gaps"]
        == gaps([played(i, [a]) for i, a in enumerate((ok, ok, Answer(), Answer(), ok))])
        == [{"from_s": 2e-9, "to_s": 3e-9, "frames": 2}]
    )


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["spd", *map(str, arguments)])
    main()


def test_offline_is_the_predictor(tmp_path):
    write_bag(tmp_path / "bag", frames(2))
    asked = list(frames_to_ask(tmp_path / "bag", find_topics(tmp_path / "bag"), Sampling(points=30)))
    predictor = Predictor.load("embedded", device="cpu")
    for frame, played in zip(asked, answer_offline(iter(asked), predictor)):
        uv, _ = frame.queries[0]
        np.testing.assert_allclose(
            played.answers[0].depth_m, predictor.encode(frame.rgb, CAMERA).depth_at(uv), rtol=1e-5
        )
        at = uv.astype(int)
        np.testing.assert_allclose(played.truth_m[0], frame.depth_m[at[:, 1], at[:, 0]])


def test_live_answers_what_offline_answers(tmp_path, monkeypatch):
    """Through the node in its own process and real DDS; every query once, and a table, JSON, CSV and pictures of
    both."""
    monkeypatch.setenv(
        "ROS_DOMAIN_ID", os.environ["ROS_DOMAIN_ID"]
    )  # `replay` takes a domain of its own; restored after the test
    write_bag(tmp_path / "bag", frames(5, step_s=0.4))
    run(monkeypatch, "replay", tmp_path / "bag", "--offline", "--out", tmp_path / "offline", "--points", 50)
    run(monkeypatch, "replay", tmp_path / "bag", "--out", tmp_path / "live", "--points", 50)
    read = {
        mode: np.genfromtxt(tmp_path / mode / "depths.csv", delimiter=",", names=True) for mode in ("offline", "live")
    }
    assert len(read["live"]) == 250
    assert (read["live"]["status"] == Status.OK).all()
    np.testing.assert_allclose(read["live"]["depth_m"], read["offline"]["depth_m"], rtol=1e-5)
    results = {mode: json.loads((tmp_path / mode / "result.json").read_text()) for mode in ("offline", "live")}
    assert results["live"]["metrics"]["abs_rel"] == pytest.approx(results["offline"]["metrics"]["abs_rel"], rel=1e-4)
    assert results["live"]["answered"] == results["live"]["queries"] == 5
    for name in ("frames.csv", "report.png", "overlay.png"):
        assert (tmp_path / "live" / name).stat().st_size > 100


@pytest.mark.parametrize("restart", [True, False])
def test_a_node_that_dies_leaves_a_gap_and_the_replay_ends(tmp_path, monkeypatch, restart):
    from spd_ros import player as live

    monkeypatch.setenv("ROS_DOMAIN_ID", os.environ["ROS_DOMAIN_ID"])
    live.isolate()
    write_bag(tmp_path / "bag", frames(45 if restart else 9, step_s=0.4))
    asked = list(frames_to_ask(tmp_path / "bag", find_topics(tmp_path / "bag"), Sampling(points=10)))
    topics = {"image": live.IMAGE, "camera_info": live.INFO}
    nodes = [live.start_node(topics)]
    show, stamps = live.Player.show, []

    def kill_after_a_while(player, frame):
        stamps.append(frame.stamp_ns)
        if len(set(stamps)) == 4 and nodes[0].poll() is None:
            nodes[0].send_signal(signal.SIGKILL)
            nodes[0].wait()
            if restart:
                nodes.append(live.start_node(topics))
        show(player, frame)

    monkeypatch.setattr(live.Player, "show", kill_after_a_while)
    try:
        played = live.replay_live(asked)
    finally:
        for node in nodes:
            node.kill()
            node.wait()
    summary = report(played, {}).summary
    answered = [frame.answers[0].depth_m is not None for frame in played]
    assert answered[1]
    assert not answered[6]
    assert answered[-1] is restart
    assert sum(gap["frames"] for gap in summary["gaps"]) == answered.count(False)


def test_no_node_to_ask(tmp_path, monkeypatch, capsys):
    from spd_ros import player as live

    monkeypatch.setattr(live, "WAIT_FOR_NODE_S", 0.5)
    write_bag(tmp_path / "bag", frames(1))
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, "replay", tmp_path / "bag", "--node", "running")
    assert stop.value.code == 1
    assert "no node listens to /camera/image_raw" in capsys.readouterr().err
