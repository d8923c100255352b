"""Start the node: ros2 launch spd_ros spd.launch.py [name:=value ...]; `--show-args` lists the arguments."""

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription

# Fast DDS 3 (Kilted) renamed the variable and warns about the old name.
PROFILE_VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE" if os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy") else "FASTDDS_DEFAULT_PROFILES_FILE"

ARGUMENTS = {
    "params_file": ("", "YAML file of parameters; empty takes config/spd.yaml of the package"),
    "weights": ("", "'embedded', a checkpoint file or a preset name; empty takes the parameter file's"),
    "device": ("", "auto, cpu, cuda or cuda:<n>; empty takes the parameter file's"),
    "image": ("/camera/image_raw", "image topic"),
    "camera_info": ("/camera/camera_info", "camera_info topic"),
    "namespace": ("", "namespace of the node; its topics are then /<namespace>/spd/..."),
    "image_transport": ("", "raw or compressed (then <image>/compressed is used); empty takes the parameter file's"),
    "use_sim_time": ("false", "follow /clock"),
    "log_level": ("info", "debug, info, warn, error"),
}


def start_node(context):
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    share = Path(get_package_share_directory("spd_ros"))
    given = {name: value[name] for name in ("weights", "device", "image_transport") if value[name]}
    return [
        Node(
            package="spd_ros",
            executable="spd_node",
            name="spd",
            namespace=value["namespace"],
            parameters=[value["params_file"] or str(share / "config" / "spd.yaml"), {"use_sim_time": value["use_sim_time"].lower() == "true", **given}],
            remappings=[("image", value["image"]), ("image/compressed", value["image"] + "/compressed"), ("camera_info", value["camera_info"])],
            arguments=["--ros-args", "--log-level", value["log_level"]],
            output="screen",
        )
    ]


def generate_launch_description():
    profile = str(Path(get_package_share_directory("spd_ros")) / "config" / "fastdds.xml")
    return LaunchDescription(
        [
            *(DeclareLaunchArgument(name, default_value=default, description=text) for name, (default, text) in ARGUMENTS.items()),
            SetEnvironmentVariable(PROFILE_VARIABLE, profile),
            OpaqueFunction(function=start_node),
        ]
    )
