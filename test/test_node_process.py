"""The life of the node's process: under load, at its end, with bad weights, and through its lifecycle."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, closing
from subprocess import PIPE

import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header
from support.robot import TOPICS, client, process_status, resident_mb, rgb  # noqa: F401

from spd_core.messages import cloud_to_array
from spd_core.status import Status
from spd_ros.conversions import rgb_to_image
from spd_ros.node import SPDNode
from spd_ros.processes import running_node


def test_encoder_slower_than_the_camera(client, rgb):
    """300 images at 30 Hz with 128 points each; convnextv2_tiny takes a CPU several periods."""
    client.answers.clear()
    client.diagnostics = None
    with running_node(
        TOPICS, {"runtime": "torch", "weights": "v15", "device": "cpu", "diagnostics_period_s": 0.2, "frame_buffer": 2}
    ) as process:
        client.connect(process)
        rng, sent, memory, start = np.random.default_rng(0), [], [], time.monotonic()
        client.show(rgb)
        for i in range(300):
            header = client.header()
            client.images.publish(rgb_to_image(rgb, header))
            client.send(rng.uniform([0, 0], [639, 479], (128, 2)), header)
            sent.append(header.stamp.sec)
            while time.monotonic() < start + (i + 1) / 30:
                rclpy.spin_once(client, timeout_sec=0.002)
            memory.append(resident_mb(process.pid))
        client.spin(lambda: len(client.answers) >= 300, 30)
        client.idle(1.0)
        answered = [msg.header.stamp.sec for msg in client.answers]
        assert sorted(answered) == sorted(sent), "each query is answered exactly once"
        points = [cloud_to_array(msg) for msg in client.answers]
        assert all(len(p) == 128 for p in points)
        reasons = Counter(int(p["status"][0]) for p in points)
        assert reasons[Status.OK] >= 3
        assert (
            reasons[Status.TIMED_OUT] + reasons[Status.FRAME_SKIPPED] + reasons[Status.NO_IMAGE] + reasons[Status.OK]
            == 300
        )
        # The allocator settles within some 100 MB; images alone, kept, would add 160 MB between these two windows.
        assert np.mean(memory[-50:]) < np.mean(memory[100:150]) + 150, "memory grows"
        values = {v.key: int(v.value) for v in client.diagnostics.values if v.value.isdigit()}
        assert values["images skipped"] + values["images encoded"] == pytest.approx(values["images received"], abs=2)
        assert values["images skipped"] > 100
        assert values["queries answered"] >= 300
    assert process.returncode == 0
    client.answers.clear()


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT, signal.SIGTERM]])
def test_clean_exit(client, signals):
    """Waiting queries are answered, the exit code is 0 and there is no traceback."""
    with running_node(
        TOPICS, {"runtime": "torch", "query_timeout_s": 30.0, "device": "cpu"}, stderr=-1, text=True
    ) as process:
        client.match(60)
        client.send([[1, 1]], Header(stamp=Time(sec=3_000_000)))
        client.idle(0.5)
        for signum in (signal.SIGSTOP, *signals, signal.SIGCONT):  # they come at once
            process.send_signal(signum)
        _, points = client.answer()
        process.send_signal(signals[0])
        assert points["status"].tolist() == [Status.SHUTTING_DOWN]
        assert process.wait(timeout=20) == 0
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
    ("patched", "signum", "gap_s"),
    [("torch", signal.SIGINT, 0), ("Predictor.load", signal.SIGTERM, 0), ("Predictor.load", signal.SIGINT, 0.1)],
)
def test_a_node_that_is_not_configured_yet_ends_at_once(patched, signum, gap_s):
    """Imports and configuring take seconds, or minutes where it compiles; in a terminal Ctrl-C comes twice, from the
    terminal and from `ros2 launch`."""
    slow = {
        "torch": "sys.modules['spd_ros.node'] = types.SimpleNamespace(main=wait)",
        "Predictor.load": "import spd_ros.node\nspd_ros.node.Predictor.load = wait",
    }
    code = (
        "import sys, time, types, spd_ros.__main__\n"
        "wait = lambda *how: (print('waiting', flush=True), time.sleep(300))\n"
        f"{slow[patched]}\nsys.exit(spd_ros.__main__.main())"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=PIPE, stderr=PIPE, text=True)
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signum)
    time.sleep(gap_s)
    process.send_signal(signum)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["-P", "grid:=[1]"], "spd_node: ['-P', 'grid:=[1]'] after --ros-args mean nothing to ROS\n"),
        (["-p", "waypoint_transform:=[1.5, 2]"], "; write 1.0, not 1, beside other numbers with a point\n"),
    ],
)
def test_arguments_that_ros_refuses_are_named(arguments, text):
    command = [sys.executable, "-m", "spd_ros", "--ros-args", *arguments]
    done = subprocess.run(command, stderr=PIPE, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr.endswith(text)) == (1, True), done.stderr


class Operator:
    """Who turns the node through its lifecycle by hand."""

    def __init__(self, client):
        self.client = client
        self.change = client.create_client(ChangeState, "/spd/change_state")
        self.state = client.create_client(GetState, "/spd/get_state")
        self.parameters = client.create_client(SetParameters, "/spd/set_parameters")
        for service in (self.change, self.state, self.parameters):
            assert service.wait_for_service(60)
        client.idle(1.0)  # until the node knows where its replies go: one that is sent before is lost

    def call(self, service, request):
        future = service.call_async(request)
        self.client.spin(future.done, 30)
        return future.result()

    def transition(self, label: str) -> bool:
        request = ChangeState.Request()
        request.transition.label = label
        return self.call(self.change, request).success

    def state_label(self) -> str:
        return self.call(self.state, GetState.Request()).current_state.label

    def set_weights(self, weights: str) -> None:
        value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=weights)
        request = SetParameters.Request(parameters=[Parameter(name="weights", value=value)])
        assert self.call(self.parameters, request).results[0].successful

    def close(self) -> None:
        for service in (self.change, self.state, self.parameters):
            self.client.destroy_client(service)


def test_queries_that_came_before_the_end_are_told(client):
    """Those too that the node has not read yet, as nothing spins it here."""
    overrides = [rclpy.parameter.Parameter("runtime", value="torch")]
    # Without services: they would outlive the node here, and answer for those of other tests.
    node = SPDNode(parameter_overrides=overrides, enable_communication_interface=False)
    node.trigger_configure()
    for end in (node.trigger_deactivate, node.close):
        node.trigger_activate()
        client.match()
        for i in range(30):
            client.send([[i, 1]], Header(stamp=Time(sec=3_000_000)))
        client.idle(0.5)
        assert client.answers == []
        end()
        client.spin(lambda: len(client.answers) >= 30)
        client.idle(0.2)
        points = np.concatenate([cloud_to_array(msg) for msg in client.answers])
        assert points["u"].tolist() == list(range(30))
        assert set(points["status"].tolist()) == {Status.SHUTTING_DOWN}
    client.answers.clear()


def test_a_calibration_that_was_published_once_before_the_node_came_is_heard(client):
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    camera = client.create_publisher(CameraInfo, "/camera_info", latched)
    camera.publish(CameraInfo(width=640))
    overrides = [rclpy.parameter.Parameter("runtime", value="torch")]
    node = SPDNode(parameter_overrides=overrides, enable_communication_interface=False)
    node.trigger_configure()
    node.trigger_activate()
    heard = node._answers.calibration.infos
    client.spin(lambda: rclpy.spin_once(node, timeout_sec=0.01) or heard)
    assert [info.width for info in heard] == [640]
    node.close()
    client.destroy_publisher(camera)


def test_a_parameter_that_is_given_and_not_there_is_told(client, capfd):
    given = {"scale_facter": 1.2, "map_frame": "map", "use_sim_time": False, "threads": 1}
    overrides = [rclpy.parameter.Parameter(name, value=value) for name, value in given.items()]
    SPDNode(parameter_overrides=overrides, enable_communication_interface=False).destroy_node()
    said = [line.partition(": ")[2] for line in capfd.readouterr().err.splitlines() if "no parameter" in line]
    assert said == ["there is no parameter 'scale_facter': is scale_factor meant?"]


def test_bad_weights_fail_to_configure_and_others_do(client, rgb):
    with (
        running_node(
            TOPICS,
            {"runtime": "torch", "weights": "/nowhere/weights.safetensors", "autostart": False, "grid": [4, 3]},
            stderr=-1,
            text=True,
        ) as process,
        closing(Operator(client)) as operator,
    ):
        assert not operator.transition("configure")
        client.diagnostics = None
        client.spin(lambda: client.diagnostics is not None)
        assert client.diagnostics.level == DiagnosticStatus.ERROR
        assert "cannot configure: weights file /nowhere/weights.safetensors" in client.diagnostics.message
        operator.set_weights(__file__)
        assert not operator.transition("configure")
        assert operator.state_label() == "unconfigured"
        operator.set_weights("embedded")
        for _ in range(2):
            assert operator.transition("configure")
            assert operator.transition("activate")
            client.spin(client.images.get_subscription_count)
            client.match()
            header = client.show(rgb)
            answered, points = client.answer()
            assert answered == header
            assert len(points) == 12
            np.testing.assert_allclose(points["u"][:4], [79.5, 239.5, 399.5, 559.5])
            assert (points["status"] == Status.OK).all()
            assert operator.transition("deactivate")
            assert operator.transition("cleanup")
        operator.set_weights("/nowhere/weights.safetensors")
        assert not operator.transition("configure")
        client.diagnostics = None
        client.spin(lambda: client.diagnostics is not None)
        assert "cannot configure" in client.diagnostics.message
        assert not {value.key for value in client.diagnostics.values} & {"weights", "queries answered"}  # of before
        operator.set_weights("embedded")
        assert operator.transition("configure")
        client.spin(lambda: "cannot configure" not in client.diagnostics.message)
        assert client.diagnostics.level == DiagnosticStatus.OK
    assert process.returncode == 0
    text = process.stderr.read()
    assert "weights file /nowhere/weights.safetensors does not exist; give a .safetensors file" in text
    assert f"weights file {__file__} " in text
    assert "it is not a readable safetensors file" in text
    assert "Traceback" not in text


def test_silence_is_said_with_the_topics_that_exist(client, rgb):
    other = client.create_publisher(Image, "/other_camera/image", qos_profile_sensor_data)
    with running_node(
        {"image": "/nobody/here", "camera_info": "/nobody/info"}, {"runtime": "torch", "diagnostics_period_s": 0.3}
    ) as process:
        client.diagnostics = None
        client.spin(lambda: client.diagnostics is not None and "no image for" in client.diagnostics.message, 60)
        assert "on /nobody/here; image topics with a publisher:" in client.diagnostics.message
        assert "/other_camera/image" in client.diagnostics.message
        assert "/spd/overlay" not in client.diagnostics.message
        camera = client.create_publisher(Image, "/nobody/here", qos_profile_sensor_data)

        def recovered() -> bool:
            camera.publish(rgb_to_image(rgb, client.header()))
            return "no camera_info" in client.diagnostics.message  # the next thing that is missing

        client.spin(recovered)
        client.destroy_publisher(camera)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    client.destroy_publisher(other)


def test_incompatible_qos_is_named(client):
    best_effort = client.create_publisher(PointCloud2, "/odd/spd/query_points", qos_profile_sensor_data)
    seen = []
    client.create_subscription(DiagnosticArray, "/diagnostics", seen.append, 10)
    with running_node({"__ns": "/odd", **TOPICS}, {"runtime": "torch", "diagnostics_period_s": 0.3}) as process:
        client.spin(
            lambda: any(
                "/odd/spd/query_points has a peer of incompatible QoS (Best effort publisher" in m.status[0].message
                for m in seen
            ),
            60,
        )
    assert process.returncode == 0
    client.destroy_publisher(best_effort)


def test_fifty_rounds_of_the_lifecycle(client, rgb):
    with (
        running_node(TOPICS, {"runtime": "torch", "autostart": False, "threads": 1}) as process,
        closing(Operator(client)) as operator,
    ):
        memory, threads = [], []
        for _ in range(50):
            for label in ("configure", "activate", "deactivate", "cleanup"):
                assert operator.transition(label), label
                if label == "activate":
                    client.images.publish(rgb_to_image(rgb, client.header()))
            memory.append(resident_mb(process.pid))
            threads.append(int(process_status(process.pid, "Threads")))
        assert operator.state_label() == "unconfigured"
        assert threads[-1] <= threads[5]
        # MB. The buffers of a first encoded image come in any round (60); weights that stay would be 14 in each of 30.
        assert np.median(memory[-10:]) - np.median(memory[10:20]) < 120, memory
    assert process.returncode == 0


def test_no_two_processes_have_the_same_domain():
    code = "import os, spd_ros.processes as p; p.isolate(); print(os.environ['ROS_DOMAIN_ID'], flush=True); input()"
    command = [sys.executable, "-c", code]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True)) for _ in range(20)
        ]
        domains = [process.stdout.readline().strip() for process in processes]
        for process in processes:
            process.communicate("\n")
    assert len({*domains, os.environ["ROS_DOMAIN_ID"]}) == 21
