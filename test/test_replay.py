"""Bags written, read, and replayed: offline, and through a real node, with the same depths."""

import json
import os
import resource
import signal
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from support import recorded

from spd_cli import main
from spd_core import Camera, Predictor
from spd_core.data.bag import Bag, BagFrame, find_topics, read_frames
from spd_core.data.bag_writing import write_bag
from spd_core.data.samples import DataError
from spd_core.data.topics import Topics
from spd_core.names import ANSWER_TOPIC, DEPTH_TOPIC, IMAGE_TOPIC, INFO_TOPIC, QUERY_TOPIC
from spd_core.recording import Asked, Replayed, Reply, Sampling, answer_offline, draw, frames_to_ask, gaps, report
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
    assert topics == Topics(IMAGE_TOPIC, DEPTH_TOPIC, INFO_TOPIC, QUERY_TOPIC)
    read = list(read_frames(tmp_path / "bag", topics))
    assert [f.stamp_ns for f in read] == [f.stamp_ns for f in written]
    for a, b in zip(written, read):
        assert np.array_equal(a.rgb, b.rgb)
        assert np.array_equal(a.depth_m, b.depth_m)
        assert b.camera == CAMERA
        for (uv, ids), (uv_read, ids_read) in zip(a.queries, b.queries):
            np.testing.assert_allclose(uv_read, uv, atol=1e-4)
            assert np.array_equal(ids, ids_read)


def test_a_bag_is_replaced_when_the_new_one_is_whole(tmp_path):
    write_bag(tmp_path / "bag", frames(2))
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "bag")

    def failing():
        yield from frames(1)
        raise DataError("a picture is broken")

    with pytest.raises(DataError, match="a picture is broken"):
        write_bag(link, failing())
    assert len(list(read_frames(link, find_topics(link)))) == 2
    assert write_bag(link, frames(1), "sqlite3") == 1
    assert len(list(read_frames(tmp_path / "bag", find_topics(link)))) == 1
    assert link.is_symlink()
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["bag", "bag.db3", "link", "metadata.yaml"]


@pytest.fixture
def small_files():
    """No file may have more than 50 kB, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_bag_that_finds_no_room_is_named(tmp_path, small_files, storage):
    with pytest.raises(DataError, match=r"bag could not be written \(.*\)\. Is the disk full\?"):
        write_bag(tmp_path / "bag", frames(20), storage)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("metadata", "fault"),
    [
        ("title: my notes\n", "is not a bag;"),
        ("- rosbag2_bagfile_information\n", "is not a bag;"),
        ("{", "is not a bag;"),
        (None, "is not a bag alone, it holds notes.txt too"),
    ],
)
def test_a_folder_of_something_else_stays(tmp_path, metadata, fault):
    write_bag(tmp_path / "bag", frames(1))
    (tmp_path / "bag" / "notes.txt").write_text("mine")
    if metadata is not None:
        (tmp_path / "bag" / "metadata.yaml").write_text(metadata)
    with pytest.raises(DataError, match=fault):
        write_bag(tmp_path / "bag", frames(1))
    assert (tmp_path / "bag" / "notes.txt").read_text() == "mine"


def test_a_folder_beside_the_bag_stays(tmp_path):
    (tmp_path / "bag.partial").mkdir()
    (tmp_path / "bag.partial" / "notes.txt").write_text("mine")
    write_bag(tmp_path / "bag", frames(1))
    assert (tmp_path / "bag.partial" / "notes.txt").read_text() == "mine"


def asked_of(path, sampling):
    with Bag(path) as bag:
        return list(frames_to_ask(bag.frames(bag.choose().topics), sampling))


def test_samplings(tmp_path):
    write_bag(tmp_path / "bag", frames(2, queries=3))
    for sampling, queries, points in (
        (Sampling(points=40), 1, 40),
        (Sampling(grid=(8, 6)), 1, 48),
        (Sampling(recorded=True), 3, 5),
    ):
        asked = asked_of(tmp_path / "bag", sampling)
        assert [[len(uv) for uv, _ in f.queries] for f in asked] == [[points] * queries] * 2
        ids = np.concatenate([ids for f in asked for _, ids in f.queries])
        assert np.array_equal(ids, np.arange(len(ids)))
    with pytest.raises(ValueError, match="exclude each other"):
        Sampling(grid=(2, 2), recorded=True)


def test_report_by_hand():
    uv, ids, nan = np.zeros((2, 2)), np.arange(2), float("nan")

    def played(stamp, replies, truth=(2.0, nan)):
        return Replayed(stamp, [Asked(uv, ids, np.array(truth), reply) for reply in replies])

    ok = Reply(np.array([1.0, 5.0]), np.array([0, 0]), 0.010)
    skipped = Reply(np.array([nan, nan]), np.array([Status.FRAME_SKIPPED] * 2), 0.030)
    result = report(
        [played(0, [ok, ok]), played(1, [skipped]), played(2, [None]), played(3, [None]), played(4, [ok])],
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
    assert result["latency_ms"] == pytest.approx({"p50": 10, "p90": 10, "p99": 10})  # a refusal is no answer
    assert (
        result["gaps"]
        == gaps([played(i, [a]) for i, a in enumerate((ok, ok, None, None, ok))])
        == [{"from_s": 2e-9, "to_s": 3e-9, "frames": 2}]
    )


def test_truth_beyond_max_depth_is_counted_and_compared_where_it_is_asked_for():
    reply = Reply(np.array([1.0, 50.0, 7.0]), np.zeros(3, int), 0.01)
    played = [Replayed(0, [Asked(np.zeros((3, 2)), np.arange(3), np.array([2.0, 40.0, np.nan]), reply)])]
    for max_depth_m, beyond, abs_rel in ((10.0, 1, 0.5), (80.0, 0, (0.5 + 0.25) / 2)):
        summary = report(played, {}, max_depth_m).summary
        assert (summary["max_depth_m"], summary["points_beyond"]) == (max_depth_m, beyond)
        assert summary["metrics"]["abs_rel"] == pytest.approx(abs_rel)


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["spd", *map(str, arguments)])
    main()


def test_offline_is_the_predictor(tmp_path):
    write_bag(tmp_path / "bag", frames(2))
    asked = asked_of(tmp_path / "bag", Sampling(points=30))
    predictor = Predictor.load("embedded", device="cpu")
    for frame, played in zip(asked, answer_offline(iter(asked), predictor)):
        [asked_here] = played.asked
        uv = frame.queries[0][0]
        np.testing.assert_allclose(
            asked_here.reply.depth_m, predictor.encode(frame.rgb, CAMERA).depth_at(uv), rtol=1e-5
        )
        at = uv.astype(int)
        np.testing.assert_allclose(asked_here.truth_m, frame.depth_m[at[:, 1], at[:, 0]])


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


def test_a_running_node_is_told_that_the_images_are_rectified(tmp_path, monkeypatch):
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
    run(monkeypatch, "replay", tmp_path / "bag", "--offline", "--out", tmp_path / "offline")
    with running_node(parameters={"grid": [16, 8]}):
        run(monkeypatch, "replay", tmp_path / "bag", "--node", "running", "--out", tmp_path / "live")
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
                player.spin_until(time.monotonic() + 1)
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


def said_by(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    """Exit code, output and errors of a command."""
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, *arguments)
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def test_no_node_to_ask(tmp_path, monkeypatch, capsys):
    from spd_ros import player as live

    monkeypatch.setattr(live, "WAIT_FOR_NODE_S", 0.5)
    write_bag(tmp_path / "bag", frames(1))
    code, _, error = said_by(monkeypatch, capsys, "replay", tmp_path / "bag", "--node", "running")
    assert code == 1
    assert "no node listens to /camera/image_raw" in error


def test_a_node_that_cannot_start_is_told_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ROS_DOMAIN_ID", os.environ["ROS_DOMAIN_ID"])
    write_bag(tmp_path / "bag", frames(1))
    code, _, error = said_by(monkeypatch, capsys, "replay", tmp_path / "bag", "--weights", "/nowhere [x].safetensors")
    assert code == 1
    assert error.splitlines()[-1] == "error: the node cannot start; its output above says why"


def test_a_ros1_bag_is_played_to_the_node(tmp_path, monkeypatch, capfd):
    """With depth of another clock that is corrected, and a calibration that the node gets as it was recorded; slower
    than it was recorded, which is said."""
    from spd_ros.player import Player

    show = Player.show
    monkeypatch.setattr(Player, "show", lambda *what: (time.sleep(0.4), show(*what)))
    monkeypatch.setenv("ROS_DOMAIN_ID", os.environ["ROS_DOMAIN_ID"])
    path = recorded.write_ros1(tmp_path / "old.bag", recorded.usual(3, depth_offset_ns=2_500_000_000))
    results = {}
    for mode in ("offline", "live"):
        options = ["--depth-offset-s", "-2.5", "--points", 40, "--out", tmp_path / mode]
        run(monkeypatch, "replay", path, *options, *(["--offline"] if mode == "offline" else []))
        results[mode] = json.loads((tmp_path / mode / "result.json").read_text())
    assert results["live"]["points_by_status"] == {"OK": 120}
    assert "s later than a rate of 1 asks: reading the bag takes longer" in capfd.readouterr().err
    assert results["live"]["metrics"]["abs_rel"] == pytest.approx(results["offline"]["metrics"]["abs_rel"], rel=1e-4)


# --- what is said


def test_a_replay_without_a_depth_is_no_success(tmp_path, monkeypatch, capsys):
    outside = [replace(frame, queries=[(np.array([[-9.0, 5.0]] * 3), np.arange(3))]) for frame in frames(2)]
    write_bag(tmp_path / "bag", outside)
    code, _, error = said_by(monkeypatch, capsys, "replay", tmp_path / "bag", "--offline", "--recorded")
    assert (code, error) == (1, "error: no point was answered with a depth: 6 OUTSIDE_IMAGE\n")


def test_what_a_report_lacks_is_said_before_the_work(rooms, tmp_path, monkeypatch, capsys):
    write_bag(tmp_path / "bag", frames(1))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for command in (("replay", tmp_path / "bag", "--offline"), ("eval", rooms)):
        code, out, error = said_by(monkeypatch, capsys, *command, "--out", tmp_path / "out")
        assert code == 1
        assert "this needs matplotlib" in error
        assert "answering" not in out + error
        assert "abs_rel" not in out


def test_a_comparison_of_nothing_is_no_success(tmp_path, monkeypatch, capsys):
    late = recorded.write(tmp_path / "late [1]", recorded.usual(3, depth_offset_ns=40_000_000))
    code, out, error = said_by(monkeypatch, capsys, "replay", late, "--offline", "--out", tmp_path / "out")
    assert code == 1
    assert "3 of 3 queries answered" in out
    assert error.startswith(
        "error: nothing to compare: 0 of 3 images have depth within the tolerance of 0.02 s; of 3 depth images the"
        " nearest is 0.04 s later."
    )
    assert json.loads((tmp_path / "out" / "result.json").read_text())["metrics"] is None
    run(monkeypatch, "replay", late, "--offline", "--tolerance-s", "0.05")
    assert "3 of 3 images have depth within the tolerance of 0.05 s" in capsys.readouterr().out
    blind = list(recorded.usual(3))
    for topic, _, message in blind:
        if "depth" in topic:
            message.data = message.data * 0
    code, _, error = said_by(monkeypatch, capsys, "replay", recorded.write(tmp_path / "blind", blind), "--offline")
    assert (code, error) == (1, "error: nothing to ask: no depth image has a reading\n")
    code, _, error = said_by(monkeypatch, capsys, "replay", tmp_path / "blind", "--offline", "--grid", "[4,3]")
    assert code == 1
    assert "3 of 3 images have depth within the tolerance of 0.02 s, and no point has both an answer and" in error
    good = recorded.write(tmp_path / "good", recorded.usual(3))
    code, out, error = said_by(monkeypatch, capsys, "replay", good, "--offline", "--points", 9, "--max-depth-m", "0.01")
    assert (code, "left out: 27 points whose true depth is 0.01 m or more (max_depth_m)" in out) == (1, True)
    assert "no point has both an answer and a depth below max_depth_m, 0.01 m (27 are farther away)" in error
    without = recorded.write(tmp_path / "none", [m for m in recorded.usual(3) if "depth" not in m[0]])
    run(monkeypatch, "replay", without, "--offline")
    assert "no depth to compare with" in capsys.readouterr().out


def test_depth_that_is_not_registered_is_left_out_and_told(tmp_path, monkeypatch, capsys):
    odd = [
        BagFrame(f.stamp_ns, f.rgb, f.depth_m[::2] if i == 1 else f.depth_m, f.camera, [])
        for i, f in enumerate(frames(3))
    ]
    write_bag(tmp_path / "bag", odd)
    run(monkeypatch, "replay", tmp_path / "bag", "--offline", "--out", tmp_path / "out")
    line = (
        f"left out: 1 Image messages on {DEPTH_TOPIC}; the first at 1.100 s: depth is [96, 256] px and colour"
        " [192, 256]; depth must be registered to colour"
    )
    assert line in capsys.readouterr().out
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["left_out"] == [line]
    assert (result["frames"], result["metrics"]["n_images"]) == (3, 2)


def test_depth_in_millimetres_that_should_be_metres_is_told(tmp_path, monkeypatch, capsys):
    depth_mm = recorded.depth_mm().astype(np.float32)
    messages = [
        (topic, ns, recorded.image(ns, depth_mm, "32FC1") if "depth" in topic else message)
        for topic, ns, message in recorded.usual(3)
    ]
    path = recorded.write(tmp_path / "bag", messages)
    code, out, error = said_by(monkeypatch, capsys, "replay", path, "--offline", "--points", 9)
    median = np.median(depth_mm[depth_mm > 0])
    assert f": the median depth is {median:.0f} m; is it in millimetres? Depth of 32FC1 must be metres, that of" in out
    assert "left out: 3 Image messages on /camera/aligned_depth_to_color/image_raw" in out
    assert "no depth to compare with" in out
    assert (code, "nothing to compare: 3 of 3 images have depth within the tolerance" in error) == (1, True)


def test_an_uncalibrated_camera_is_answered_without_rays(tmp_path, monkeypatch, capsys):
    path = recorded.write(tmp_path / "bag", recorded.usual(3, k=[0.0] * 9))
    run(monkeypatch, "replay", path, "--offline", "--points", 10, "--out", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "result.json").read_text())["points_by_status"] == {"NO_CAMERA_INFO": 30}
    assert capsys.readouterr().out.count("the camera is not calibrated") == 1


def test_what_a_bag_lacks_is_told(tmp_path, monkeypatch, capsys):
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
        (("--rate", "2"), "--rate 2.0: these are of a replay to a node, and --offline asks none"),
        (("--points", "0"), "points must be at least 1, got 0"),
    ):
        code, _, error = said_by(monkeypatch, capsys, "replay", path, "--offline", *arguments)
        assert code == 1
        assert word in error
    code, _, error = said_by(monkeypatch, capsys, "replay", tmp_path / "nowhere")
    assert (code, error) == (1, f"error: bag {tmp_path}/nowhere does not exist\n")
    only = recorded.write(tmp_path / "only", [m for m in recorded.usual(1) if m[0].endswith("info")])
    code, _, error = said_by(monkeypatch, capsys, "replay", only)
    assert "no colour image; it has /camera/color/camera_info (sensor_msgs/msg/CameraInfo, 1)" in error


@pytest.mark.parametrize(
    ("count", "with_depth", "uv", "replied", "words"),
    [
        (2, True, [[5, 5], [-5, 5]], True, []),
        (2, True, [[5, 5]], True, ["all 2 points: OK"]),
        (2, False, [[5, 5], [-5, 5]], True, ["no true depth to compare with"]),
        (1, True, [[5, 5]], True, ["one frame, AbsRel 0.500", "one answer, after 40.0 ms", "all 1 points: OK"]),
        (2, True, [[5, 5]], False, ["no query was answered"] * 4),
        (2, True, [], False, ["nothing was asked"] * 4),
    ],
)
def test_panels_of_the_report_that_would_show_nothing_say_so(count, with_depth, uv, replied, words):
    played = []
    for i in range(count):
        depth_m = np.full((20, 30), 2, np.float32) if with_depth else None
        queries = [(np.array(uv, float), np.arange(len(uv)))] if uv else []
        frame = Replayed.of(BagFrame(i, np.zeros((20, 30, 3), np.uint8), depth_m, CAMERA, queries), keep_picture=False)
        for asked in frame.asked if replied else []:
            outside = asked.uv[:, 0] < 0
            status = np.where(outside, Status.OUTSIDE_IMAGE, Status.OK)
            asked.reply = Reply(np.where(outside, np.nan, 3.0), status, 0.040)
        played.append(frame)
    figure = draw(report(played, {"mode": "offline", "bag": "$a bag$"}))
    assert [text.get_text() for axis in figure.axes for text in axis.texts if not axis.axison] == words
    assert figure.get_suptitle() == "offline: $a bag$"
