"""The node's parameters: one typed, described table. `config/spd.yaml` holds the same names and defaults (a test
compares them)."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from spd_core.errors import SPDError
from spd_core.runtimes import PRECISIONS, RUNTIMES

MOST_GRID_POINTS = 1 << 20
LEARNED_SCALES, FIXED_SCALES = ("references", "floor", "both"), ("off", "false")


class ParameterError(SPDError):
    """A parameter has a value that cannot be used."""


@dataclass(frozen=True)
class Row:
    """A row of the table. The default says the type too; arrays are tuples."""

    default: Any
    description: str
    expected: str
    check: Callable[[Any], bool] = lambda value: True
    at_run_time: bool = False  # may change while the node is configured


def _setting(default: Any, *row: Any, **more: Any) -> Any:
    """A field of `Settings`, with its row of the table."""
    return field(default=default, metadata={"row": Row(default, *row, **more)})


def _one_of(default: str, options: tuple[str, ...], description: str, at_run_time: bool = False) -> Any:
    expected = "one of " + ", ".join(options)
    return _setting(default, description, expected, lambda value: value in options, at_run_time)


def _between(default: float, low: float, high: float, description: str, at_run_time: bool = False) -> Any:
    expected = f"{'an integer' if isinstance(default, int) else 'a number'} from {low} to {high}"
    return _setting(default, description, expected, lambda value: low <= value <= high, at_run_time)


def _is_transform(values: tuple[float, ...]) -> bool:
    return len(values) == 7 and all(abs(value) <= 1e6 for value in values) and math.hypot(*values[3:]) > 1e-6


@dataclass(frozen=True)
class Settings:
    """The parameters as the node uses them; read once, changed by `dataclasses.replace`."""

    autostart: bool = _setting(
        True, "configure and activate at start; false leaves that to a lifecycle manager", "true or false"
    )
    weights: str = _setting(
        "embedded",
        "'embedded', a checkpoint file (.safetensors), or a preset name for random weights",
        "a name or a path",
        bool,
    )
    device: str = _setting(
        "auto", "auto (CUDA where there is one), cpu, cuda or cuda:<n>", "the name of a device", bool
    )
    precision: str = _one_of(
        "fp32",
        tuple(PRECISIONS),
        "arithmetic of the network: fp32, bf16, fp16 (GPU) or int8 (CPU; the encoder of `lite`); the depth head is"
        " always fp32",
    )
    runtime: str = _one_of(
        "auto",
        RUNTIMES,
        "what runs the encoder: torch, compile (torch.compile; for GPUs), cuda_graph (CUDA, recorded per image size),"
        " onnxruntime (CPU; fp32 or int8); auto picks for the device",
    )
    input_size: tuple[int, ...] = _setting(
        (0, 0),
        "(height, width) px that images are scaled to fit; [0, 0] takes the checkpoint's own",
        "two integers from 0 to 8192",
        lambda value: len(value) == 2 and all(0 <= side <= 8192 for side in value),
    )
    threads: int = _between(
        0, 0, 1024, "CPU threads of the network, half of them also for answers; 0 leaves torch's choice"
    )
    image_transport: str = _one_of(
        "raw", ("raw", "compressed"), "raw subscribes to `image`, compressed to `image/compressed`"
    )
    rectified: str = _one_of(
        "auto",
        ("auto", "true", "false"),
        "whether lens distortion was taken out of the images: true takes P of camera_info, false K and D; auto is true"
        " where the image topic's name has a part `rect` or `rectified`",
        at_run_time=True,
    )
    grid: tuple[int, ...] = _setting(
        (0, 0),
        "(columns, rows) of a fixed grid answered on every encoded frame; [0, 0] is off",
        f"two integers >= 0, and at most {MOST_GRID_POINTS} points",
        lambda value: len(value) == 2 and min(value) >= 0 and math.prod(value) <= MOST_GRID_POINTS,
        at_run_time=True,
    )
    frame_buffer: int = _between(
        30,
        1,
        100_000,
        "encoded frames kept for late queries; 1.2 MB each with the embedded weights, 3.3 MB with a lens of 90 degrees,"
        " 6 MB with v15",
    )
    query_timeout_s: float = _between(
        1.0, 0.0, 3600.0, "how long a query waits for its image, and then for its turn, s", at_run_time=True
    )
    stamp_tolerance_s: float = _between(
        0.0,
        0.0,
        3600.0,
        "a query and an image whose stamps differ by at most this belong together, s",
        at_run_time=True,
    )
    scale: str = _one_of(
        "off",
        LEARNED_SCALES + FIXED_SCALES,
        "what the scale of the answers is learned from: ~/reference_depths, ~/reference_scan and ~/reference_range, the"
        " floor, or both; off is also false, which YAML makes of it; see docs/scale.md",
        at_run_time=True,
    )
    scale_factor: float = _between(
        1.0,
        0.01,
        100.0,
        "what depths are multiplied with, of a camera that `spd calibrate-scale` measured; where the scale is learned,"
        " what it is expected to be",
        at_run_time=True,
    )
    reference_tolerance_s: float = _between(
        0.1,
        0.0,
        3600.0,
        "references are of the image nearest in time, if their stamps differ by at most this, s",
        at_run_time=True,
    )
    camera_height_m: float = _between(
        0.0, 0.0, 100.0, "height of the camera above the floor, m; 0 takes that of floor_frame", at_run_time=True
    )
    camera_tilt_deg: float = _between(
        0.0, -89.0, 89.0, "how far the camera looks below the horizon, degrees, without floor_frame", at_run_time=True
    )
    floor_frame: str = _setting(
        "",
        "frame on the floor whose z axis points up, base_footprint say: TF from it gives height and tilt",
        "a name",
        at_run_time=True,
    )
    overlay_rate_hz: float = _between(
        10.0, 0.1, 1000.0, "at most this many overlay pictures per second, and only while someone listens", True
    )
    dense_rate_hz: float = _between(
        5.0, 0.1, 1000.0, "at most this many dense depth images per second, and only while someone listens", True
    )
    diagnostics_period_s: float = _between(1.0, 0.1, 3600.0, "time between diagnostics, s")
    waypoint_frame: str = _setting(
        "", "frame of waypoints that waypoint_transform is for; other frames need TF", "a name"
    )
    waypoint_transform: tuple[float, ...] = _setting(
        (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
        "x y z (m) qx qy qz qw of waypoint_frame in the optical frame",
        "seven finite numbers, the last four not all zero",
        _is_transform,
    )
    qos: Mapping[str, QoSProfile] = field(default_factory=dict)  # by topic


# topic -> its default reliability and how many messages wait in its queue, 0 for all that come, and what to know about
# the first. DDS drops what is too much for a queue and tells nobody. All queries wait (in Fast DDS 5,000 with the node,
# the rest with their publisher), and the scheduler refuses what is too much; until they are read no timeout counts.
_QOS = {
    "image": ("best_effort", 5, "best_effort accepts every publisher"),
    "camera_info": ("best_effort", 5, "best_effort accepts every publisher; latched ones are heard in any case"),
    "query_points": ("reliable", 0, "best_effort accepts every publisher, but may lose queries"),
    "waypoints": ("reliable", 0, "best_effort accepts every publisher, but may lose paths"),
    "reference_depths": ("best_effort", 5, "best_effort accepts every publisher"),
    "reference_scan": ("best_effort", 5, "best_effort accepts every publisher"),
    "reference_range": ("best_effort", 5, "best_effort accepts every publisher"),
    "depths": ("reliable", 50, "reliable serves every subscriber"),
    "waypoint_depths": ("reliable", 10, "reliable serves every subscriber"),
    "overlay": ("reliable", 1, "reliable serves every subscriber"),
    "dense": ("reliable", 1, "reliable serves every subscriber"),
}
PARAMETERS: dict[str, Row] = {f.name: f.metadata["row"] for f in fields(Settings) if f.default is not MISSING}
for _topic, (_reliability, _history, _note) in _QOS.items():
    _about = f"QoS reliability of the topic {_topic}: reliable or best_effort; {_note}"
    PARAMETERS[f"{_topic}_reliability"] = _one_of(_reliability, ("reliable", "best_effort"), _about).metadata["row"]
    _about = f"QoS history of the topic {_topic}: how many messages may wait" + "; 0: all" * (_history == 0)
    PARAMETERS[f"{_topic}_history"] = _between(_history, min(_history, 1), 10_000, _about).metadata["row"]


def declare(node: Node) -> None:
    """Declare every parameter of the table on the node; of any type, because ROS would refuse a 2 where 2.0 is meant,
    and `checked` says better what is wrong. One that is given and not declared ROS drops without a word: where its name
    is nearly one of these that is told, and not of others, as a file may be for several nodes."""
    for name, row in PARAMETERS.items():
        about = ParameterDescriptor(
            description=row.description, additional_constraints=row.expected, dynamic_typing=True
        )
        node.declare_parameter(name, list(row.default) if isinstance(row.default, tuple) else row.default, about)
    for name in getattr(node, "_parameter_overrides", ()):
        if not node.has_parameter(name) and (near := get_close_matches(name, PARAMETERS, 1, 0.8)):
            node.get_logger().warning(f"there is no parameter {name!r}: is {near[0]} meant?")


def read(node: Node) -> Settings:
    """All parameters.

    Raises:
        ParameterError: a value cannot be used; names the parameter, the value and what was expected.
    """
    values = {name: checked(name, node.get_parameter(name).value) for name in PARAMETERS}
    qos = {
        topic: QoSProfile(
            reliability=ReliabilityPolicy[values.pop(f"{topic}_reliability").upper()],
            durability=DurabilityPolicy.VOLATILE,
            depth=(depth := values.pop(f"{topic}_history")),
            history=HistoryPolicy.KEEP_LAST if depth else HistoryPolicy.KEEP_ALL,
        )
        for topic in _QOS
    }
    return Settings(**values, qos=qos)


def changes(node: Node, asked: Iterable[Parameter], is_configured: bool) -> dict[str, Any]:
    """The values of those parameters that are asked to change and are of the table; one that is fixed while the node is
    configured may be given the value that it has, as `ros2 param load` of an unchanged file does.

    Raises:
        ParameterError: one cannot be used, or not now.
    """
    values = {}
    for parameter in asked:
        if parameter.name not in PARAMETERS:
            continue
        value = checked(parameter.name, parameter.value)
        if not is_configured or PARAMETERS[parameter.name].at_run_time:
            values[parameter.name] = value
        elif value != checked(parameter.name, node.get_parameter(parameter.name).value):
            raise ParameterError(
                f"{parameter.name} is fixed while the node is configured: deactivate and clean up first"
            )
    return values


def checked(name: str, value: Any) -> Any:
    """The value of a parameter in the type of its default, or ParameterError if it is of another or out of range."""
    row = PARAMETERS[name]
    value = list(value) if isinstance(value, array) else value
    typed = _typed(value, row.default)
    if typed is None or not row.check(typed):
        raise ParameterError(f"parameter {name} is {value!r}; expected {row.expected} ({row.description})")
    return typed


def _typed(value: Any, like: Any) -> Any:
    """The value in the type of `like`, None if it is of another. Numbers and words are taken as ROS users write them:
    2 for 2.0, and true, which YAML makes a truth value, for a word."""
    if isinstance(like, tuple):
        if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
            return None
        items = tuple(_typed(item, like[0]) for item in value)
        return None if None in items else items
    if isinstance(like, str) and isinstance(value, bool):
        return str(value).lower()
    if isinstance(like, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value if type(value) is type(like) else None
