"""The node's parameters: one typed, described table. `config/spd.yaml` holds the same names and defaults (a test compares them)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from spd_core.predictor import PRECISIONS


@dataclass(frozen=True)
class Parameter:
    default: Any
    description: str
    check: Callable[[Any], bool] = lambda value: True
    expected: str = ""


def _one_of(default: str, options, description: str) -> Parameter:
    return Parameter(default, description, lambda value: value in options, "one of " + ", ".join(options))


def _at_least(default, low, description: str) -> Parameter:
    return Parameter(default, description, lambda value: value >= low, f"at least {low}")


def _pair(default: list[int], description: str) -> Parameter:
    return Parameter(default, description, lambda value: len(value) == 2 and min(value) >= 0, "two integers >= 0")


_RELIABILITY = ("reliable", "best_effort")

PARAMETERS: dict[str, Parameter] = {
    "autostart": Parameter(True, "configure and activate at start; false leaves that to a lifecycle manager"),
    "weights": Parameter("embedded", "'embedded', a checkpoint file (.safetensors), or a preset name for random weights", bool, "not empty"),
    "device": Parameter("auto", "auto (CUDA where there is one), cpu, cuda or cuda:<n>", bool, "not empty"),
    "precision": _one_of("fp32", tuple(PRECISIONS), "arithmetic of the network; the depth head is always fp32"),
    "input_size": _pair([0, 0], "(height, width) px that images are scaled to fit; [0, 0] takes the checkpoint's own"),
    "threads": _at_least(0, 0, "CPU threads of the network; 0 leaves torch's choice"),
    "image_transport": _one_of("raw", ("raw", "compressed"), "raw subscribes to `image`, compressed to `image/compressed`"),
    "grid": _pair([0, 0], "(columns, rows) of a fixed grid answered on every encoded frame; [0, 0] is off"),
    "frame_buffer": _at_least(8, 1, "encoded frames kept for late queries"),
    "query_timeout_s": _at_least(1.0, 0.0, "how long a query waits for its image, s"),
    "stamp_tolerance_s": _at_least(0.0, 0.0, "a query and an image whose stamps differ by at most this belong together, s"),
    "overlay_rate_hz": _at_least(10.0, 0.1, "at most this many overlay pictures per second, and only while someone listens"),
    "diagnostics_period_s": _at_least(1.0, 0.1, "time between diagnostics, s"),
    "image_reliability": _one_of("best_effort", _RELIABILITY, "QoS of the image subscription; best_effort accepts every publisher"),
    "image_depth": _at_least(1, 1, "QoS history depth of the image subscription"),
    "query_reliability": _one_of("reliable", _RELIABILITY, "QoS of the query subscription; best_effort accepts every publisher, but may lose queries"),
    "query_depth": _at_least(50, 1, "QoS history depth of the query subscription"),
    "depths_reliability": _one_of("reliable", _RELIABILITY, "QoS of the answers; reliable serves every subscriber"),
    "depths_depth": _at_least(50, 1, "QoS history depth of the answers"),
}


class ParameterError(ValueError):
    """A parameter has a value that cannot be used."""


def declare(node: Node) -> None:
    """Declare every parameter of the table on the node."""
    for name, parameter in PARAMETERS.items():
        node.declare_parameter(name, parameter.default, ParameterDescriptor(description=parameter.description, additional_constraints=parameter.expected))


def read(node: Node) -> SimpleNamespace:
    """All parameters by name.

    Raises:
        ParameterError: a value is out of range; names the parameter, the value and what was expected.
    """
    values = SimpleNamespace()
    for name, parameter in PARAMETERS.items():
        value = node.get_parameter(name).value
        value = list(value) if isinstance(parameter.default, list) else value
        if not parameter.check(value):
            raise ParameterError(f"parameter {name} is {value!r}; expected {parameter.expected} ({parameter.description})")
        setattr(values, name, value)
    return values


def qos(reliability: str, depth: int) -> QoSProfile:
    return QoSProfile(
        reliability=ReliabilityPolicy.RELIABLE if reliability == "reliable" else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.VOLATILE,
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
    )
