"""replay.launch.py under launch_testing: a bag is played to a launched node, its report is written, and everything ends
by itself."""

import json
import tempfile
import unittest
from pathlib import Path

import pytest

launch_testing = pytest.importorskip(
    "launch_testing", reason="the launch stack is not installed (it comes with a ROS installation)"
)

import launch_testing.actions
import launch_testing.asserts
from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

from spd_cli.commands import make_bag

FOLDER = Path(tempfile.mkdtemp())


@pytest.mark.launch_test
def generate_test_description():
    make_bag(FOLDER / "bag", rooms=4, rate=2.0)
    source = PythonLaunchDescriptionSource(f"{get_package_share_directory('spd_ros')}/launch/replay.launch.py")
    replay = IncludeLaunchDescription(
        source, launch_arguments={"bag": str(FOLDER / "bag"), "out": str(FOLDER / "out"), "points": "20"}.items()
    )
    return LaunchDescription([replay, launch_testing.actions.ReadyToTest()])


class TestReplay(unittest.TestCase):
    def test_it_ends(self, proc_info):
        proc_info.assertWaitForShutdown(process="spd_replay", timeout=120)


@launch_testing.post_shutdown_test()
class TestReport(unittest.TestCase):
    def test_every_query_was_answered(self, proc_info):
        summary = json.loads((FOLDER / "out" / "result.json").read_text())
        assert (summary["answered"], summary["points"]) == (4, 80)
        assert summary["metrics"]["abs_rel"] < 0.6
        launch_testing.asserts.assertExitCodes(proc_info)
