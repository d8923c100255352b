"""Start the node: ros2 launch spd_ros spd.launch.py [name:=value ...]; `--show-args` lists the arguments."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import Node

from spd_ros.processes import PROFILE_VARIABLE, fastdds_profile

ARGUMENTS = {
    "params_file": ("", "YAML file of parameters; empty takes config/spd.yaml of the package"),
    "weights": ("", "'embedded', a checkpoint file or a preset name; empty takes the parameter file's"),
    "device": ("", "auto, cpu, cuda or cuda:<n>; empty takes the parameter file's"),
    "image": ("", "image topic; empty is /camera/image_raw, with `cameras` /<camera>/image_raw"),
    "camera_info": ("", "camera_info topic; empty is /camera/camera_info, with `cameras` /<camera>/camera_info"),
    "namespace": ("", "namespace of the node; its topics are then /<namespace>/spd/..."),
    "tf": ("", "topic of TF, as /robot/tf of a robot that has its own; empty is /tf"),
    "cameras": ("", "names, as front,rear: one node each, in the namespace of that name"),
    "rviz": (
        "false",
        "show image, overlay and cloud in RViz, where it is installed, of each camera; the images' frame_id has to be"
        " its Fixed Frame",
    ),
    "image_transport": ("", "raw or compressed (then <image>/compressed is used); empty takes the parameter file's"),
    "use_sim_time": ("", "true follows /clock; empty takes the parameter file's"),
    "log_level": ("info", "debug, info, warn, error"),
}


def _is_true(text: str) -> bool:
    return text.lower() in ("true", "1")


def start_nodes(context):
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    share = Path(get_package_share_directory("spd_ros"))
    given = {name: value[name] for name in ("weights", "device", "image_transport") if value[name]}
    clock = {"use_sim_time": _is_true(value["use_sim_time"])} if value["use_sim_time"] else {}
    given |= clock
    file = Path(value["params_file"] or share / "config" / "spd.yaml").expanduser()  # after `:=` no shell does it
    if value["params_file"] and not file.is_file():  # launch would warn, and start the node without
        raise ValueError(f"params_file:={value['params_file']} is no file")
    parameters = [str(file), *([given] if given else [])]
    cameras = [camera for word in value["cameras"].split(",") if (camera := word.strip(" /"))]
    namespace = value["namespace"].strip(" /")
    root = "/" if value["namespace"].startswith("/") else ""
    tf = value["tf"] or "/tf"
    transforms = [("/tf", tf), ("/tf_static", f"{tf}_static")]
    if cameras and (value["image"] or value["camera_info"]):
        raise ValueError(
            f"`cameras` ({value['cameras']}) takes each camera's own topics; leave `image` and `camera_info` empty, or"
            " start one node for each"
        )
    actions = []
    for camera in cameras or [None]:
        below = "/".join(part for part in (namespace, camera) if part)
        folder = f"/{below if camera else 'camera'}"
        image, camera_info = value["image"] or f"{folder}/image_raw", value["camera_info"] or f"{folder}/camera_info"
        actions.append(
            Node(
                package="spd_ros",
                executable="spd_node",
                name="spd",
                namespace=root + below,
                parameters=parameters,
                remappings=[
                    ("image", image),
                    ("image/compressed", f"{image}/compressed"),
                    ("camera_info", camera_info),
                    *transforms,
                ],
                arguments=["--ros-args", "--log-level", value["log_level"]],
                output="screen",
            )
        )
        if _is_true(value["rviz"]):
            actions.append(
                Node(
                    package="rviz2",
                    executable="rviz2",
                    namespace=root + below,
                    arguments=["-d", str(share / "config" / "spd.rviz")],
                    parameters=[clock] if clock else [],
                    # the topics of its configuration; those of the node are in the namespace that both have
                    remappings=[
                        ("/camera/image_raw", image),
                        ("/camera/image_raw/compressed", f"{image}/compressed"),
                        *((f"/{topic}", topic) for topic in ("spd/overlay", "spd/depths")),
                        *transforms,
                    ],
                    output="screen",
                )
            )
    return actions


def generate_launch_description():
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=text)
                for name, (default, text) in ARGUMENTS.items()
            ),
            # One that is set stays: a discovery server's, say.
            SetEnvironmentVariable(
                PROFILE_VARIABLE, EnvironmentVariable(PROFILE_VARIABLE, default_value=str(fastdds_profile()))
            ),
            OpaqueFunction(function=start_nodes),
        ]
    )
