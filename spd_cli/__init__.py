"""The command `spd`: one function per sub-command, its arguments and help from its signature."""

from __future__ import annotations

import argparse
import ast
import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from .console import reported

# What runs, by name: "module:function". Only the module of the command that is asked for is imported: most of them load
# torch, which takes seconds.
COMMANDS = {
    "ask": "spd_cli.asking:ask",
    "view": "spd_cli.viewing:view",
    "demo": "spd_cli.recordings:demo",
    "train": "spd_core.training_config:TrainConfig",  # its fields are the arguments, and the keys of training/*.yaml
    "eval": "spd_cli.commands:evaluate_checkpoint",
    "replay": "spd_cli.recordings:replay",
    "bag make": "spd_cli.recordings:make_bag",
    "calibrate": "spd_cli.scales:calibrate",
    "calibrate-scale": "spd_cli.scales:calibrate_scale",
    "info": "spd_cli.listing:info",
    "average": "spd_cli.commands:average",
    "convert": "spd_cli.commands:convert",
    "export": "spd_cli.commands:export",
    "data check": "spd_cli.commands:check",
    "data preview": "spd_cli.commands:preview",
    "data rooms": "spd_rooms.shards:draw_rooms",
}
TAKES_A_LIST = ("ask", "view", "average")


def main() -> None:
    """Entry point of `spd`."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # what it cannot do is said in our words
    with reported():
        _run(sys.argv[1:])


def _run(arguments: list[str]) -> None:
    # Imported here, within `reported`: they take long enough to be interrupted.
    from jsonargparse import auto_cli

    from spd_core.process import keep_freed_memory, wait_asleep

    from .parser import Parser, check_text, gathered, spelled_out

    name = next((name for count in (1, 2) if (name := " ".join(arguments[:count])) in COMMANDS), None)
    if name is None:
        asks = not arguments or not {"-h", "--help"}.isdisjoint(arguments)
        _overview().parse_args(["--help"] if asks else [" ".join(arguments[:2])])  # prints, and exits
        return
    arguments = arguments[len(name.split()) :]
    keep_freed_memory()
    wait_asleep()
    check_text(arguments)
    command, arguments = _loaded(COMMANDS[name]), spelled_out(arguments)
    if name in TAKES_A_LIST:
        arguments = gathered(arguments, command)
    result = auto_cli(command, args=arguments, parser_class=Parser, prog=f"spd {name}")
    if name == "train":
        # Processes that train together end each other by it, also within torch, where Python would not hear it.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        import_module("spd_core.training").train(result)


def _loaded(target: str) -> Any:
    module, name = target.split(":")
    return getattr(import_module(module), name)


def _overview() -> argparse.ArgumentParser:
    """The parser of `spd --help`, which lists the commands, and of a command that there is not."""
    from spd_core import __version__

    parser = argparse.ArgumentParser(prog="spd", description="Metric depth at query points of a camera image.")
    parser.add_argument("--version", action="version", version=f"spd {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, prog="spd")
    for name, target in COMMANDS.items():
        commands.add_parser(name, help=_summary(target).replace("%", "%%"))
    return parser


def _summary(target: str) -> str:
    """First line of the docstring of "module:name", from the source: nothing is imported."""
    module, name = target.split(":")
    source = Path(__file__).parent.parent.joinpath(*module.split(".")).with_suffix(".py")
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    raise LookupError(f"{source} does not define {name}")
