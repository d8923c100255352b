"""The package as ROS, pip and a reader see it."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import yaml

import spd_core
import spd_core.model
from spd_ros.parameters import PARAMETERS, checked

ROOT = Path(__file__).parent.parent


def test_reading_answers_and_listing_commands_do_not_load_torch():
    code = """
import sys
import spd_core, spd_core.messages, spd_core.status, spd_ros.conversions, spd_cli
assert {*spd_core.__all__} <= {*dir(spd_core)}
assert not {"torch", "timm"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("given", ["", "ACTIVE"])
def test_threads_of_commands_wait_asleep_unless_told_otherwise(given):
    code = (
        "import os, sys, spd_cli\n"
        "def probe(): print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)\n"  # which reads it once
        "spd_cli.COMMANDS = {'probe': '__main__:probe'}\nspd_cli.main()"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": given} if given else {}
    command = [sys.executable, "-c", code, "probe"]
    found = subprocess.run(command, check=True, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert found.stdout.split() == [given or "PASSIVE", "False"]


@pytest.mark.parametrize("given", ["", "/etc/mine.xml"])
def test_the_node_has_our_profile_unless_another_is_set(given):
    code = (
        "import os, sys, types, spd_ros.__main__, spd_ros.processes as p\n"
        "node = types.SimpleNamespace(main=lambda: print(os.environ[p.PROFILE_VARIABLE]))\n"
        "sys.modules['spd_ros.node'] = node  # without torch\nspd_ros.__main__.main()"
    )
    environment = {name: value for name, value in os.environ.items() if "PROFILES_FILE" not in name}
    if given:
        environment |= {f"{name}_DEFAULT_PROFILES_FILE": given for name in ("FASTDDS", "FASTRTPS")}
    found = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert found.stdout.strip() == (given or str(ROOT / "config" / "fastdds.xml"))


def test_the_public_names_are_there_when_asked_for():
    assert all(hasattr(spd_core, name) for name in spd_core.__all__)
    assert spd_core.SPD is spd_core.model.SPD
    assert not hasattr(spd_core, "Nothing")


def test_parameter_file_is_the_table():
    given = yaml.safe_load((ROOT / "config" / "spd.yaml").read_text())["/**"]["ros__parameters"]
    table = {
        name: list(row.default) if isinstance(row.default, tuple) else row.default for name, row in PARAMETERS.items()
    }
    assert given == table
    assert {name: type(value) for name, value in given.items()} == {name: type(value) for name, value in table.items()}


def test_every_parameter_is_described_and_its_default_allowed():
    for name, row in PARAMETERS.items():
        assert row.description, name
        assert row.expected, name
        assert checked(name, row.default) == row.default


def colcon(*arguments, cwd):
    executable = Path(sys.executable).parent / "colcon"
    if not executable.exists():
        pytest.skip("colcon is not installed in this environment")
    environment = {**os.environ, "PATH": f"{executable.parent}:{os.environ['PATH']}"}
    return subprocess.run(
        [executable, *arguments], cwd=cwd, check=True, capture_output=True, text=True, env=environment
    ).stdout


@pytest.mark.parametrize("option", [[], ["--symlink-install"]], ids=["copied", "symlinked"])
def test_colcon_builds_an_ament_python_package(tmp_path, option):
    workspace = tmp_path / "ws"
    (workspace / "src").mkdir(parents=True)
    (workspace / "src" / "spd_ros").symlink_to(ROOT)
    assert "(ros.ament_python)" in colcon("list", cwd=workspace)
    colcon("--log-base", str(tmp_path / "log"), "build", *option, cwd=workspace)
    installed = workspace / "install" / "spd_ros"
    for executable in ("spd_node", "spd"):
        assert os.access(installed / "lib" / "spd_ros" / executable, os.X_OK)
    share = installed / "share" / "spd_ros"
    for file in ("package.xml", "launch/spd.launch.py", "config/spd.yaml", "config/fastdds.xml"):
        assert (share / file).exists(), file
    assert (installed / "share" / "ament_index" / "resource_index" / "packages" / "spd_ros").exists()
    packages = workspace / "build" / "spd_ros" if option else next(installed.glob("lib/python*/site-packages"))
    assert list(packages.glob("spd_core/weights/*.safetensors"))
    assert all((packages / name / "py.typed").exists() for name in ("spd_core", "spd_ros", "spd_cli", "spd_rooms"))


@pytest.mark.parametrize(
    ("namespace", "cameras", "nodes", "image"),
    [
        ("/robot/", "", ["/robot"], "/camera/image_raw"),
        ("robot", "front,rear", ["robot/front", "robot/rear"], "/robot/rear/image_raw"),
        ("/", "/front/", ["/front"], "/front/image_raw"),
        ("", " /front", ["front"], "/front/image_raw"),
        ("", "", [""], "/camera/image_raw"),
    ],
)
def test_slashes_around_names_at_launch_are_no_part_of_them(monkeypatch, namespace, cameras, nodes, image):
    started = launched(monkeypatch, namespace=namespace, cameras=cameras)
    assert [node["namespace"] for node in started] == nodes
    assert dict(started[-1]["remappings"])["image"] == image


def test_rviz_shows_the_topics_of_each_node(monkeypatch):
    shown = set(re.findall(r"Value: (/\S+)", (ROOT / "config" / "spd.rviz").read_text()))
    for given, image in (
        ({"image": "/d435/color"}, "/d435/color"),
        ({"namespace": "robot", "cameras": "front,rear"}, "/robot/rear/image_raw"),
    ):
        *_, node, rviz = launched(monkeypatch, rviz="1", use_sim_time="true", **given)
        assert rviz["parameters"] == [{"use_sim_time": True}]
        assert (rviz["package"], rviz["namespace"]) == ("rviz2", node["namespace"])
        topics = dict(rviz["remappings"])
        assert shown <= set(topics)
        assert topics["/camera/image_raw"] == image
        assert (topics["/spd/overlay"], topics["/spd/depths"]) == ("spd/overlay", "spd/depths")  # below the namespace


@pytest.mark.parametrize(("given", "topic"), [({}, "/tf"), ({"tf": "/robot/tf"}, "/robot/tf")])
def test_a_robot_with_transforms_of_its_own(monkeypatch, given, topic):
    for node in launched(monkeypatch, namespace="robot", cameras="front,rear", rviz="true", **given):
        topics = dict(node["remappings"])
        assert (topics["/tf"], topics["/tf_static"]) == (topic, f"{topic}_static")


@pytest.mark.parametrize(
    ("given", "parameters"),
    [
        ({}, []),
        ({"use_sim_time": "true"}, [{"use_sim_time": True}]),
        ({"use_sim_time": "1", "device": "cpu"}, [{"device": "cpu", "use_sim_time": True}]),
        ({"use_sim_time": "false"}, [{"use_sim_time": False}]),
    ],
)
def test_what_is_not_said_at_launch_is_the_files(monkeypatch, tmp_path, given, parameters):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").touch()
    [node] = launched(monkeypatch, params_file="mine.yaml", **given)
    assert node["parameters"] == ["mine.yaml", *parameters]


def test_a_file_of_parameters_that_is_not_there_starts_no_node(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ValueError, match=r"params_file:=~/mine\.yaml is no file"):
        launched(monkeypatch, params_file="~/mine.yaml")
    (tmp_path / "mine.yaml").touch()
    [node] = launched(monkeypatch, params_file="~/mine.yaml")
    assert node["parameters"] == [str(tmp_path / "mine.yaml")]


def launched(monkeypatch, **given):
    """Without the launch stack: the nodes that it would be asked to start."""
    arguments = {"rviz": "false", **given}
    for name in ("launch", "launch.actions", "launch.substitutions", "launch_ros", "launch_ros.actions"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    find = MagicMock(get_package_share_directory=lambda package: "/share")
    monkeypatch.setitem(sys.modules, "ament_index_python.packages", find)
    sys.modules["launch.substitutions"].LaunchConfiguration = lambda name: MagicMock(
        perform=lambda context: arguments.get(name, "")
    )
    sys.modules["launch_ros.actions"].Node = lambda **what: what
    return runpy.run_path(str(ROOT / "launch" / "spd.launch.py"))["start_nodes"](None)


def test_launch_file_offers_its_arguments():
    pytest.importorskip("launch_ros", reason="the ROS 2 launch stack is not installed (it is not on PyPI)")
    from launch import LaunchContext
    from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
    from launch.launch_description_sources import get_launch_description_from_python_launch_file

    description = get_launch_description_from_python_launch_file(str(ROOT / "launch" / "spd.launch.py"))
    names = {entity.name for entity in description.entities if isinstance(entity, DeclareLaunchArgument)}
    assert {
        "params_file",
        "weights",
        "device",
        "image",
        "camera_info",
        "namespace",
        "tf",
        "cameras",
        "rviz",
        "image_transport",
        "use_sim_time",
        "log_level",
    } == names
    profile = next(entity for entity in description.entities if isinstance(entity, SetEnvironmentVariable))
    assert "".join(part.perform(LaunchContext()) for part in profile.value).endswith("fastdds.xml")


def test_make_lists_its_targets():
    out = subprocess.run(["make", "-s", "help"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    targets = ["setup", "demo", "test", "lint", "wheel", "bench", "bench-gpu"]
    assert [line.split()[1] for line in out.splitlines()] == targets
