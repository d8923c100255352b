"""The command `spd`: one function per sub-command, its arguments and help from the signature. `spd <command> --help`."""

from __future__ import annotations

from jsonargparse import auto_cli

from ..data.shards import draw_rooms
from .commands import demo, evaluate_rooms, info, train


def main() -> None:
    """Entry point of `spd`."""
    auto_cli({"demo": demo, "train": train, "eval": evaluate_rooms, "info": info, "data": {"rooms": draw_rooms}}, as_positional=True)
