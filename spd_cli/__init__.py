"""The command `spd`: one function per sub-command, its arguments and help from the signature. `spd <command>
--help`."""

from __future__ import annotations

import difflib
import re
import sys

from jsonargparse import ArgumentParser, auto_cli
from rich.console import Console

from spd_core.process import keep_freed_memory
from spd_core.training import TrainConfig, TrainingError, train
from spd_rooms.shards import draw_rooms

from .commands import check, convert, evaluate_checkpoint, export, info, preview
from .recordings import demo, make_bag, replay

COMMANDS = {
    "demo": demo,
    "train": TrainConfig,  # its fields are the arguments, and the keys of training/*.yaml
    "eval": evaluate_checkpoint,
    "replay": replay,
    "bag": {"make": make_bag},
    "info": info,
    "convert": convert,
    "export": export,
    "data": {"check": check, "preview": preview, "rooms": draw_rooms},
}


def main() -> None:
    """Entry point of `spd`."""
    keep_freed_memory()
    try:
        result = auto_cli(COMMANDS, args=_spelled_out(sys.argv[1:]), parser_class=_Parser)
        if isinstance(result, TrainConfig):
            train(result)
    except (
        ValueError,
        TrainingError,
        FileNotFoundError,
        FileExistsError,
        ConnectionError,
    ) as error:  # DataError and CheckpointError are ValueErrors
        Console(stderr=True).print(f"[bold red]error:[/] {error}", markup=True, highlight=False, soft_wrap=True)
        sys.exit(1)


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
