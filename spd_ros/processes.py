"""The node as a process of its own: started, heard by nobody else, and ended."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import rclpy
from ament_index_python.packages import get_package_share_directory
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from spd_core.names import REMAPPINGS

# Fast DDS 3 (Kilted) renamed the variable and warns about the old name.
_FAST_DDS = "FASTRTPS" if os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy") else "FASTDDS"
_RESERVED_PORTS, _RESERVATIONS = 27300, list[socket.socket]()  # held by this process, on loopback
PROFILE_VARIABLE = f"{_FAST_DDS}_DEFAULT_PROFILES_FILE"


def spin(node: Node, is_over: Callable[[], bool], on_error: Callable[[Exception], None]) -> None:
    """Serve a node's callbacks until then, or until ROS ends; what a callback lets through does not end it."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not is_over() and rclpy.ok():
        try:
            executor.spin_once(timeout_sec=0.1)
        except ExternalShutdownException:
            break
        except Exception as error:  # of rclpy itself, or of a callback of another package (TF)
            on_error(error)
            time.sleep(0.01)
    executor.shutdown()


def fastdds_profile() -> Path:
    """config/fastdds.xml, of the source tree or of the installed package."""
    source = Path(__file__).parent.parent / "config" / "fastdds.xml"
    return source if source.exists() else Path(get_package_share_directory("spd_ros")) / "config" / "fastdds.xml"


def use_fastdds_profile() -> None:
    """From now on this process, if it has no participant yet, and those that it starts; one that is set stays."""
    os.environ.setdefault(PROFILE_VARIABLE, str(fastdds_profile()))


def isolate() -> None:
    """Settings that child processes inherit: the Fast DDS profile, and a DDS domain of our own on this machine, which
    no other process that asks here gets while this one lives."""
    use_fastdds_profile()
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["ROS_DOMAIN_ID"] = str(_reserved_domain())


def _reserved_domain() -> int:
    """A domain whose port of `_RESERVED_PORTS` was free. After a hundred of them, any."""
    domains = random.SystemRandom().sample(range(1, 100), 99)
    for domain in domains:
        with suppress(OSError):
            _RESERVATIONS.append(socket.create_server(("127.0.0.1", _RESERVED_PORTS + domain)))
            return domain
    return domains[0]


def start_node(
    remappings: dict[str, str] = REMAPPINGS, parameters: dict[str, Any] | None = None, **popen: Any
) -> subprocess.Popen:
    """`spd_node` as a process; its inputs are the topics of `spd_core.names` unless `remappings` says otherwise."""
    arguments = [part for source, target in remappings.items() for part in ("-r", f"{source}:={target}")]
    for name, value in (parameters or {}).items():  # JSON is YAML: a text stays a text, whatever it holds
        arguments += ["-p", f"{name}:={json.dumps(value, ensure_ascii=False)}"]
    return subprocess.Popen([sys.executable, "-m", "spd_ros", "--ros-args", *arguments], **popen)


def stop_node(process: subprocess.Popen) -> int:
    """End it as `ros2 launch` does, and by force where that takes half a minute; its exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        return process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


@contextmanager
def running_node(
    remappings: dict[str, str] = REMAPPINGS, parameters: dict[str, Any] | None = None, **popen: Any
) -> Iterator[subprocess.Popen]:
    """`start_node` for as long as the block lasts; `returncode` is known after it."""
    process = start_node(remappings, parameters, **popen)
    try:
        yield process
    finally:
        stop_node(process)
