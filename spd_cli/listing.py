"""`spd info`: the presets, the checkpoints of a folder, and what a checkpoint is."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from spd_core import checkpoint
from spd_core.encoders import licence
from spd_core.files import FileError, listed, printable
from spd_core.model import PRESETS, SPD

from .console import make_console, say


def info(weights: str | None = None, folder: Path = Path(".")) -> None:
    """List the presets and the checkpoints found, or say what a checkpoint file (or "embedded") is.

    Args:
        weights: checkpoint file or "embedded".
        folder: where checkpoints are looked for, sub-folders included.
    """
    console = make_console()
    console.width = max(console.width, 130)
    if weights is not None:
        path = checkpoint.EMBEDDED if weights == "embedded" else weights
        config, origin = asdict(checkpoint.load(path).config), checkpoint.provenance(path)
        origin.pop("history", None)  # of a training, hundreds of lines: run.json has it
        if "average_of" in origin:
            origin |= _run_of(origin)
        console.print({"file": str(path), "config": config, "provenance": origin})
        return
    if not folder.is_dir():
        raise FileError(f"{folder} {'is no folder' if folder.exists() else 'does not exist'}; give one to look in")
    console.print(_presets())
    _list_checkpoints(folder, console)


def _run_of(origin: dict) -> Any:
    """What tells a checkpoint's training from others, of what it says of its origin; the file has it all."""
    if "average_of" in origin:
        return {"average_of": list(map(_run_of, origin["average_of"]))}
    config = origin.get("config", {})
    return {name: config[name] for name in ("out", "init", "seed", "steps") if name in config} or origin.get("source")


def _presets() -> Table:
    table = Table(title="Presets; multiply-accumulates in G")
    table.add_column("preset", overflow="fold")  # names are to be copied: nothing of them is cut off
    table.add_column("encoder", overflow="fold")
    for column in ("its weights", "input", "parameters", "encode", "dense", "128 points"):
        table.add_column(column)
    for name, config in PRESETS.items():
        with torch.device("meta"):  # counted, not computed
            model, image = SPD(config), torch.zeros(1, 3, *config.input_size)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            features = model.encode(image)
        height, width = config.input_size
        points = np.random.default_rng(0).uniform(0, [width - 1, height - 1], (1, 128, 2))
        decoder, grids = model.sparse_decoder, features.grids
        counts = (
            counter.get_total_flops() / 2,
            decoder.multiply_accumulates(grids),
            decoder.multiply_accumulates(decoder.plan(points, grids)),
        )
        parameters = sum(p.numel() for p in model.parameters())
        table.add_row(
            name,
            config.encoder,
            licence(config.encoder),
            f"{width}x{height}",
            f"{parameters / 1e6:.1f} M",
            *(f"{count / 1e9:.2f}" for count in counts),
        )
    return table


def _list_checkpoints(folder: Path, console: Console) -> None:
    """A table of the embedded weights and those below `folder`, and a line for each file that is damaged; whole files
    of others are left out."""
    found = Table("weights", "encoder", "licence", "from", title="Checkpoints")
    faults = []
    for path in [checkpoint.EMBEDDED, *listed(folder, "**/*.safetensors")]:
        is_embedded = path.samefile(checkpoint.EMBEDDED)
        if is_embedded and found.row_count:
            continue
        try:
            if not checkpoint.is_checkpoint(path):
                continue
            config, origin = checkpoint.configuration(path), checkpoint.provenance(path)
        except checkpoint.CheckpointError as error:
            faults.append(str(error))
            continue
        run = {"average of": len(origin["average_of"])} if "average_of" in origin else _run_of(origin)
        trained = ", ".join(f"{name} {value}" for name, value in run.items()) if isinstance(run, dict) else run
        source = origin.get("source") or origin.get("data") or trained or "-"
        cells = (path, config.get("encoder", "-"), origin.get("license", "-"), source)
        found.add_row("embedded" if is_embedded else printable(str(path)), *(printable(str(x)) for x in cells[1:]))
    console.print(found)
    for fault in faults:
        say(fault, "red", title="damaged: ")
