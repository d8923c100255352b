"""The node's parameters: one typed, described table. `config/spd.yaml` holds the same names and defaults (a test
compares them)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from spd_core.errors import SPDError
from spd_core.runtimes import PRECISIONS, RUNTIMES


@dataclass(frozen=True)
class Parameter:
    default: Any
    description: str
    check: Callable[[Any], bool] = lambda value: True
    expected: str = ""
    at_run_time: bool = False  # may change while the node is configured


def _one_of(default: str, options, description: str) -> Parameter:
    return Parameter(default, description, lambda value: value in options, "one of " + ", ".join(options))


def _at_least(default, low, description: str, at_run_time: bool = False) -> Parameter:
    return Parameter(default, description, lambda value: value >= low, f"at least {low}", at_run_time)


def _pair(default: list[int], description: str, at_run_time: bool = False) -> Parameter:
    return Parameter(
        default, description, lambda value: len(value) == 2 and min(value) >= 0, "two integers >= 0", at_run_time
    )


def _is_transform(values) -> bool:
    return len(values) == 7 and all(map(math.isfinite, values)) and any(values[3:])


_RELIABILITY = ("reliable", "best_effort")

PARAMETERS: dict[str, Parameter] = {
    "autostart": Parameter(True, "configure and activate at start; false leaves that to a lifecycle manager"),
    "weights": Parameter(
        "embedded",
        "'embedded', a checkpoint file (.safetensors), or a preset name for random weights",
        bool,
        "not empty",
    ),
    "device": Parameter("auto", "auto (CUDA where there is one), cpu, cuda or cuda:<n>", bool, "not empty"),
    "precision": _one_of("fp32", tuple(PRECISIONS), "arithmetic of the network; the depth head is always fp32"),
    "runtime": _one_of(
        "auto",
        RUNTIMES,
        "what runs the encoder: torch, compile (torch.compile; for GPUs), onnxruntime (CPU, fp32); auto picks for the"
        " device",
    ),
    "input_size": _pair([0, 0], "(height, width) px that images are scaled to fit; [0, 0] takes the checkpoint's own"),
    "threads": _at_least(0, 0, "CPU threads of the network; 0 leaves torch's choice"),
    "image_transport": _one_of(
        "raw", ("raw", "compressed"), "raw subscribes to `image`, compressed to `image/compressed`"
    ),
    "grid": _pair(
        [0, 0], "(columns, rows) of a fixed grid answered on every encoded frame; [0, 0] is off", at_run_time=True
    ),
    "frame_buffer": _at_least(
        30, 1, "encoded frames kept for late queries; 0.6 MB each with the embedded weights, 6 MB with v15"
    ),
    "query_timeout_s": _at_least(1.0, 0.0, "how long a query waits for its image, s", at_run_time=True),
    "stamp_tolerance_s": _at_least(
        0.0, 0.0, "a query and an image whose stamps differ by at most this belong together, s", at_run_time=True
    ),
    "overlay_rate_hz": _at_least(
        10.0, 0.1, "at most this many overlay pictures per second, and only while someone listens", at_run_time=True
    ),
    "dense_rate_hz": _at_least(
        5.0, 0.1, "at most this many dense depth images per second, and only while someone listens", at_run_time=True
    ),
    "diagnostics_period_s": _at_least(1.0, 0.1, "time between diagnostics, s"),
    "waypoint_frame": Parameter("", "frame of waypoints that waypoint_transform is for; other frames need TF"),
    "waypoint_transform": Parameter(
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
        "x y z (m) qx qy qz qw of waypoint_frame in the optical frame",
        _is_transform,
        "seven finite numbers",
    ),
}

# topic -> its default reliability and history depth, and what to know about it
_QOS = {
    "image": ("best_effort", 5, "best_effort accepts every publisher"),
    "camera_info": ("best_effort", 5, "best_effort accepts every publisher"),
    "query": ("reliable", 50, "best_effort accepts every publisher, but may lose queries"),
    "waypoints": ("reliable", 10, "best_effort accepts every publisher, but may lose paths"),
    "depths": ("reliable", 50, "reliable serves every subscriber"),
    "waypoint_depths": ("reliable", 10, "reliable serves every subscriber"),
    "overlay": ("reliable", 1, "reliable serves every subscriber"),
    "dense": ("reliable", 1, "reliable serves every subscriber"),
}
for _topic, (_reliability, _depth, _note) in _QOS.items():
    PARAMETERS[f"{_topic}_reliability"] = _one_of(
        _reliability, _RELIABILITY, f"QoS reliability of the topic {_topic}: reliable or best_effort; {_note}"
    )
    PARAMETERS[f"{_topic}_depth"] = _at_least(_depth, 1, f"QoS history depth of the topic {_topic}")


class ParameterError(SPDError):
    """A parameter has a value that cannot be used."""


def declare(node: Node) -> None:
    """Declare every parameter of the table on the node."""
    for name, parameter in PARAMETERS.items():
        node.declare_parameter(
            name,
            parameter.default,
            ParameterDescriptor(description=parameter.description, additional_constraints=parameter.expected),
        )


def read(node: Node) -> SimpleNamespace:
    """All parameters by name.

    Raises:
        ParameterError: a value is out of range; names the parameter, the value and what was expected.
    """
    return SimpleNamespace(**{name: checked(name, node.get_parameter(name).value) for name in PARAMETERS})


def checked(name: str, value: Any) -> Any:
    """The value of a parameter, or ParameterError if it is out of range."""
    parameter = PARAMETERS[name]
    value = list(value) if isinstance(parameter.default, list) else value
    if not parameter.check(value):
        raise ParameterError(f"parameter {name} is {value!r}; expected {parameter.expected} ({parameter.description})")
    return value


def qos(values: SimpleNamespace, topic: str) -> QoSProfile:
    """The QoS that the parameters give a topic."""
    return QoSProfile(
        reliability=(
            ReliabilityPolicy.RELIABLE
            if getattr(values, f"{topic}_reliability") == "reliable"
            else ReliabilityPolicy.BEST_EFFORT
        ),
        durability=DurabilityPolicy.VOLATILE,
        history=HistoryPolicy.KEEP_LAST,
        depth=getattr(values, f"{topic}_depth"),
    )
