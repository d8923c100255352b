"""Checkpoints: safetensors with the model's whole configuration in the metadata. Loading is strict and never runs
pickled code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised

from . import files
from .errors import SPDError
from .model import SPD, SPDConfig

FORMAT = "spd-1"
EMBEDDED = Path(__file__).parent / "weights" / "lite.safetensors"
PICKLES = (".pth", ".pt", ".ckpt", ".bin")

RENAMED_DECODERS = {"plan": "v15"}  # in checkpoints of before


class CheckpointError(SPDError):
    """The file is not a checkpoint that this version can load; the message says which file, what differs and what to
    do."""


def save(model: SPD, path: str | Path, dtype: torch.dtype = torch.float32, **provenance) -> None:
    """Write the weights, their configuration and `provenance` (JSON-serialisable: data, recipe, metrics) in one atomic
    step.

    `dtype` torch.float16 halves the file; weights are always loaded as float32.

    Raises:
        CheckpointError: it cannot be written, or a weight is too large for `dtype`; a file that was there before is
            intact.
    """
    metadata = {"format": FORMAT, "config": json.dumps(asdict(model.config)), "provenance": json.dumps(provenance)}
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in model.state_dict().items()}
    for name, tensor in model.state_dict().items():
        if tensors[name].isinf().any() and not tensor.isinf().any():
            raise CheckpointError(
                f"{name} has {tensor.abs().max():g}, which {dtype} cannot hold: {path} is not written; store float32"
            )
    with files.replaced(path, CheckpointError, (SafetensorError,)) as partial:
        partial.write_bytes(serialised(tensors, metadata))  # its own writer would put a file in the place of a pipe


def load(path: str | Path) -> SPD:
    """The model of a checkpoint file, or of "embedded", in eval mode on the CPU.

    Raises:
        CheckpointError: no such file, not safetensors, another format, unknown configuration, or tensors that do not
            fit it.
    """
    metadata, tensors = _read(path)
    known = {field.name for field in fields(SPDConfig)}
    config = _metadata(path, metadata, "config")
    if unknown := sorted(set(config) - known):
        raise CheckpointError(
            f"{path} has configuration fields {unknown} that this version of SPD does not know; update spd_ros"
        )
    try:
        config["decoder"] = RENAMED_DECODERS.get(config["decoder"], config["decoder"])
        with torch.device("cpu"):
            model = SPD(SPDConfig(**config)).float()  # whatever the process has for its defaults
    except Exception as error:  # of the libraries that build it from values of any kind
        raise CheckpointError(f"{path} describes a model that cannot be built: {error}") from error
    fill(model, tensors, f"{path} does not fit its own configuration")
    return model.eval()


def fill(model: SPD, tensors: dict[str, torch.Tensor], fault: str) -> None:
    """Give a model its weights.

    Raises:
        CheckpointError: they have other names or shapes: `fault`, and which.
    """
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
        raise CheckpointError(f"{fault}, {len(differences)} tensors differ: {shown}")
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})


def average(paths: Sequence[str | Path]) -> SPD:
    """The model whose weights are the mean of those of checkpoints that were trained from the same start, in eval mode
    on the CPU: often better than each of them (Wortsman et al. 2022, "Model soups").

    Raises:
        CheckpointError: as `load`, there are fewer than two, or they are not of one configuration.
    """
    if len(paths) < 2:
        raise CheckpointError(f"two or more checkpoints have an average, got {len(paths)}")
    models = [load(path) for path in paths]
    for path, model in zip(paths, models):
        if model.config != models[0].config:
            raise CheckpointError(f"{path} has {model.config}, expected that of {paths[0]}: {models[0].config}")
    states = [model.state_dict() for model in models]
    for path, state in zip(paths, states):
        if bad := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
            raise CheckpointError(f"{path} has values that are not finite in {', '.join(bad[:5])}: nothing to average")
    models[0].load_state_dict(
        {name: torch.stack([state[name].float() for state in states]).mean(0) for name in states[0]}
    )
    return models[0]


def stored_type(path: str | Path) -> torch.dtype:
    """In which most numbers of a checkpoint are stored."""
    return max(_read(path)[1].values(), key=torch.Tensor.numel).dtype


def configuration(path: str | Path) -> dict:
    """The fields of `SPDConfig` of a checkpoint, without building the model."""
    return _metadata(path, _read(path, tensors=False)[0], "config")


def provenance(path: str | Path) -> dict:
    """What a checkpoint says of its origin."""
    return _metadata(path, _read(path, tensors=False)[0], "provenance")


def is_checkpoint(path: str | Path) -> bool:
    """Whether a file says that it is one of ours; False for whole safetensors files of others.

    Raises:
        CheckpointError: it is damaged, or no safetensors file.
    """
    return _open(path, tensors=False)[0].get("format") == FORMAT


def _read(path: str | Path, tensors: bool = True) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    metadata, content = _open(path, tensors)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"weights file {path} is not an SPD checkpoint: its format is {metadata.get('format')!r}, expected"
            f" {FORMAT!r}; write it with spd_core.checkpoint.save"
        )
    return metadata, content


def _open(path: str | Path, tensors: bool) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    path = EMBEDDED if str(path) == "embedded" else files.expanded(path)
    if not path.exists():
        raise CheckpointError(
            f"weights file {path} does not exist; give a .safetensors file that `spd train` or `spd convert` wrote"
            " (`spd info` lists those found), or 'embedded' for the weights that come with SPD"
        )
    try:
        with safe_open(path, framework="pt") as file:
            content = {name: file.get_tensor(name) for name in file.keys()} if tensors else {}  # noqa: SIM118
            return file.metadata() or {}, content
    except Exception as error:  # of the library's own, of the system, of torch
        what = files.problem(path)
        if path.suffix in PICKLES and what.endswith(("zip archive", "Python pickle")):
            raise CheckpointError(
                f"weights file {path} is a pickle, which could run code: `spd convert {path} OUT.safetensors` turns a"
                " released Depth Anything V2 file into one of ours"
            ) from error
        raise CheckpointError(
            f"weights file {path} {what}; it is not a readable safetensors file ({error}): fetch or train it again"
        ) from error


def _metadata(path: str | Path, metadata: dict[str, str], name: str) -> dict:
    """A part of the metadata, which is a JSON object."""
    try:
        value = json.loads(metadata[name])
    except (KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"weights file {path} has no readable {name!r} in its metadata ({error}): fetch or train it again"
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"weights file {path}: {name!r} in its metadata is {value!r:.80}, expected a JSON object")
    return value
