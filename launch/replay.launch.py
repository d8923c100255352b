"""Evaluate the node on a bag with depth: ros2 launch spd_ros replay.launch.py bag:=/path/to/bag out:=/path/to/results
[points:=128 ...]."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

ARGUMENTS = {
    "bag": (None, "the bag: sqlite3, MCAP or ROS 1, with colour and registered depth"),
    "out": ("replay", "folder for result.json, frames.csv, depths.csv and the pictures"),
    "points": ("128", "random points with known depth asked per frame"),
    "rate": ("1.0", "speed of playing, times the recorded one"),
    "weights": ("", "as in spd.launch.py"),
    "device": ("", "as in spd.launch.py"),
    "params_file": ("", "as in spd.launch.py"),
    "image_transport": ("", "as in spd.launch.py: compressed for a bag with JPEG or PNG"),
}


def start(context):
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    share = Path(get_package_share_directory("spd_ros"))
    spd = share.parent.parent / "lib" / "spd_ros" / "spd"
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(share / "launch" / "spd.launch.py")),
        launch_arguments={
            name: value[name] for name in ("weights", "device", "params_file", "image_transport")
        }.items(),
    )
    options = (part for name in ("out", "points", "rate") for part in (f"--{name}", value[name]))
    command = [str(spd), "replay", value["bag"], "--node", "running", *options]
    replay = ExecuteProcess(cmd=command, output="screen", name="spd_replay")
    return [
        node,
        replay,
        RegisterEventHandler(
            OnProcessExit(target_action=replay, on_exit=[EmitEvent(event=Shutdown(reason="the replay has ended"))])
        ),
    ]


def generate_launch_description():
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=text)
                for name, (default, text) in ARGUMENTS.items()
            ),
            OpaqueFunction(function=start),
        ]
    )
