"""The command `spd`: one function per sub-command, its arguments and help from its signature."""

from __future__ import annotations

import argparse
import ast
import difflib
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, auto_cli
from rich.console import Console
from rich.text import Text

from spd_core import __version__
from spd_core.process import keep_freed_memory

# What runs, by name: "module:function". Only the module of the command that is asked for is imported: most of them load
# torch, which takes seconds.
COMMANDS: dict[str, str | dict[str, str]] = {
    "demo": "spd_cli.commands:demo",
    "train": "spd_core.training:TrainConfig",  # its fields are the arguments, and the keys of training/*.yaml
    "eval": "spd_cli.commands:evaluate_checkpoint",
    "replay": "spd_cli.commands:replay",
    "bag": {"make": "spd_cli.commands:make_bag"},
    "info": "spd_cli.commands:info",
    "convert": "spd_cli.commands:convert",
    "export": "spd_cli.commands:export",
    "data": {
        "check": "spd_cli.commands:check",
        "preview": "spd_cli.commands:preview",
        "rooms": "spd_rooms.shards:draw_rooms",
    },
}


def main() -> None:
    """Entry point of `spd`."""
    keep_freed_memory()
    arguments = sys.argv[1:]
    name = arguments[0] if arguments and arguments[0] in COMMANDS else None
    if name is None:
        _overview().parse_args(arguments or ["--help"])  # prints, and exits
        return
    try:
        result = auto_cli({name: _loaded(COMMANDS[name])}, args=_spelled_out(arguments), parser_class=_Parser)
        if name == "train":
            import_module("spd_core.training").train(result)
    except (ValueError, FileNotFoundError, FileExistsError, ConnectionError) as error:
        Console(stderr=True).print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
        sys.exit(1)


def _loaded(target: str | dict[str, str]) -> Any:
    if isinstance(target, dict):
        return {name: _loaded(command) for name, command in target.items()}
    module, name = target.split(":")
    return getattr(import_module(module), name)


def _overview() -> argparse.ArgumentParser:
    """The parser of `spd --help`, which lists the commands, and of a command that there is not."""
    parser = argparse.ArgumentParser(prog="spd", description="Metric depth at query points of a camera image.")
    parser.add_argument("--version", action="version", version=f"spd {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, prog="spd")
    for name, target in COMMANDS.items():
        for part, command in target.items() if isinstance(target, dict) else [("", target)]:
            commands.add_parser(f"{name} {part}".strip(), help=_summary(command).replace("%", "%%"))
    return parser


def _summary(target: str) -> str:
    """First line of the docstring of "module:name", from the source: nothing is imported."""
    module, name = target.split(":")
    source = Path(__file__).parent.parent.joinpath(*module.split(".")).with_suffix(".py")
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    raise LookupError(f"{source} does not define {name}")


def _spelled_out(arguments: list[str]) -> list[str]:
    """`--some-flag` without a value means `--some_flag=true`, and dashes in names may be written for underscores."""
    result = []
    for argument, following in zip(arguments, [*arguments[1:], "--"]):
        if argument.startswith("--") and len(argument) > 2:
            name, equals, value = argument.partition("=")
            argument = "--" + name[2:].replace("-", "_") + equals + value
            if not equals and following.startswith("--") and argument not in ("--help", "--print_config"):
                argument += "=true"
        result.append(argument)
    return result


class _Parser(ArgumentParser):
    """Suggests the near name where one is unknown."""

    def error(self, message: str, ex: Exception | None = None) -> None:
        unknown = re.search(
            r"unrecognized arguments: --([\w.]+)|does not accept (?:option|nested key) '([\w.]+)'|[Kk]ey '([\w.]+)'"
            r" is not",
            message,
        )
        if unknown:
            name = next(filter(None, unknown.groups()))
            known = _option_names(self, sys.argv[1:])
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.6) or [
                k for k in known if k.split(".")[-1] == name.split(".")[-1]
            ]
            if near:
                message += f". Did you mean {' or '.join(near)}?"
        super().error(message, ex)


def _option_names(parser: ArgumentParser, words: list[str]) -> list[str]:
    """Names of the options of `parser`, and of the sub-command that `words` name."""
    names = [option.lstrip("-") for action in parser._actions for option in action.option_strings]
    for action in parser._actions:
        for name, sub_parser in (action.choices or {}).items() if isinstance(action.choices, dict) else ():
            if name in words:
                names += _option_names(sub_parser, words)
    return names
