"""Checkpoints: safetensors with the model's whole configuration in the metadata. Loading is strict and never runs
pickled code."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .errors import SPDError
from .model import SPD, SPDConfig

FORMAT = "spd-1"
EMBEDDED = Path(__file__).parent / "weights" / "atto_synthetic.safetensors"

RENAMED_DECODERS = {"plan": "v15"}  # in checkpoints of before


class CheckpointError(SPDError):
    """The file is not a checkpoint that this version can load; the message says which file, what differs and what to
    do."""


def save(model: SPD, path: str | Path, dtype: torch.dtype = torch.float32, **provenance) -> None:
    """Write the weights, their configuration and `provenance` (JSON-serialisable: data, recipe, metrics) in one atomic
    step.

    `dtype` torch.float16 halves the file; weights are always loaded as float32.

    Raises:
        CheckpointError: it cannot be written; a file that was there before is intact.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"format": FORMAT, "config": json.dumps(asdict(model.config)), "provenance": json.dumps(provenance)}
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in model.state_dict().items()}
    partial = path.with_suffix(".partial")
    try:
        save_file(tensors, partial, metadata)
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path} could not be written ({error}); what was there before is intact. Is the disk full?"
        ) from error


def load(path: str | Path) -> SPD:
    """The model of a checkpoint file, or of "embedded", in eval mode on the CPU.

    Raises:
        CheckpointError: no such file, not safetensors, another format, unknown configuration, or tensors that do not
            fit it.
    """
    metadata, tensors = _read(path)
    known = {field.name for field in fields(SPDConfig)}
    config = json.loads(metadata["config"])
    if unknown := sorted(set(config) - known):
        raise CheckpointError(
            f"{path} has configuration fields {unknown} that this version of SPD does not know; update spd_ros"
        )
    if config.get("decoder") in RENAMED_DECODERS:
        config["decoder"] = RENAMED_DECODERS[config["decoder"]]
    try:
        model = SPD(SPDConfig(**config))
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} describes a model that cannot be built: {error}") from error
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != found:
        differences = [
            *(f"missing {name} {expected[name]}" for name in expected.keys() - found.keys()),
            *(f"unexpected {name} {found[name]}" for name in found.keys() - expected.keys()),
            *(
                f"{name} is {found[name]}, expected {expected[name]}"
                for name in expected.keys() & found.keys()
                if expected[name] != found[name]
            ),
        ]
        shown = "; ".join(sorted(differences)[:5])
        raise CheckpointError(f"{path} does not fit its own configuration, {len(differences)} tensors differ: {shown}")
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return model.eval()


def configuration(path: str | Path) -> dict:
    """The fields of `SPDConfig` of a checkpoint, without building the model."""
    return json.loads(_read(path, tensors=False)[0]["config"])


def provenance(path: str | Path) -> dict:
    """What a checkpoint says of its origin."""
    return json.loads(_read(path, tensors=False)[0]["provenance"])


def _read(path: str | Path, tensors: bool = True) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    path = EMBEDDED if str(path) == "embedded" else Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"weights file {path} does not exist; give a .safetensors file that `spd train` or `spd convert` wrote"
            " (`spd info` lists those found), or 'embedded' for the weights that come with SPD"
        )
    if path.suffix in (".pth", ".pt"):
        raise CheckpointError(
            f"weights file {path} is a pickle, which could run code: `spd convert {path} OUT.safetensors` turns a"
            " released Depth Anything V2 file into one of ours"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            content = {name: file.get_tensor(name) for name in file.keys()} if tensors else {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"weights file {path} is not a readable safetensors file ({error}); it is damaged or of another format:"
            " fetch or train it again"
        ) from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"weights file {path} is not an SPD checkpoint: its format is {metadata.get('format')!r}, expected"
            f" {FORMAT!r}; write it with spd_core.checkpoint.save"
        )
    return metadata, content
