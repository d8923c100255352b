"""The command `spd`: one function per sub-command, its arguments and help from the signature. `spd <command> --help`."""

from __future__ import annotations

from jsonargparse import auto_cli

from ..data.shards import draw_rooms
from ..training import TrainConfig, train
from .commands import demo, evaluate_rooms, info


def main() -> None:
    """Entry point of `spd`."""
    result = auto_cli({"demo": demo, "train": TrainConfig, "eval": evaluate_rooms, "info": info, "data": {"rooms": draw_rooms}})
    if isinstance(result, TrainConfig):  # its fields are the arguments of `spd train`, and the keys of training/*.yaml
        train(result)
