"""The settings of a training, and what follows from them: its data, the network it starts from, its learning rates."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from . import checkpoint
from .data.augment import Augmentation
from .data.layouts import open_dataset
from .data.samples import Dataset, InMemory
from .errors import MOST_WORKERS, SPDError, first_line
from .evaluation import Protocol
from .losses import Loss
from .model import SPD, SPDConfig

Precision = Literal["32-true", "bf16-mixed"]
# What may differ when a run goes on: where and how fast it runs, not what it computes.
FREE_TO_CHANGE = (
    *("out", "in_memory", "device", "workers", "threads"),
    *("validate_every", "save_every", "pictures", "max_broken"),
)
MOST_THREADS = 1024  # where the system has no more of them, torch ends the process


class TrainingError(SPDError):
    """The run cannot start or go on; the message says why and what to do."""


@dataclass
class TrainConfig:
    """Train a model; the same command goes on with an interrupted run.

    Args:
        out: folder for checkpoints, run.json, TensorBoard files and the resumable state.
        data: training set, any layout of `spd data check`; or several, each with its share of the samples:
            {runs/nyu: 0.8, runs/rooms: 0.2}.
        in_memory: read the training set once and keep it (480x640 images: 2 MB each).
        val: validation set; without it the "test" split of `data`.
        preset: model preset.
        model: fields of the preset to change, e.g. {features: 32}.
        pretrained: encoder weights: true (timm's own), false (random) or a local file.
        init: SPD checkpoint of that preset, or "embedded", to start from; `model` may give it another input_size,
            fit and training_focal_px.
        steps: optimiser steps.
        epochs: passes over the data, instead of steps.
        batch_size: images per process and micro-batch.
        accumulate: micro-batches per optimiser step.
        encoder_lr: AdamW learning rate of the encoder; 0 leaves it as it is, and steps are much faster.
        decoder_lr: AdamW learning rate of the rest; 0 leaves it as it is.
        final_lr: both end here, after a cosine.
        warmup: steps of linear warm-up.
        weight_decay: not applied to norms and biases.
        drop_path: stochastic depth of the encoder: how often its last block is left out of a sample.
        clip: largest norm of the gradient, of what learns; 0 does not clip.
        ema: decay of the weight average that is validated and kept; 0 turns it off.
        loss: what is minimised.
        augment: what happens to a training sample.
        validation: protocol of the validations.
        validate_every: steps between validations.
        save_every: steps between saves of the resumable state; validations save too.
        patience: validations without a better AbsRel before the run stops; 0 never stops early.
        pictures: validation images drawn into TensorBoard.
        max_broken: different broken samples that are skipped (and named, once) before the run stops.
        precision: bf16-mixed or 32-true.
        seed: of weights, order and augmentation.
        device: cpu, cuda, cuda:<n> or auto.
        devices: processes on this machine; torchrun's number where that starts them.
        num_nodes: machines, likewise; start one command on each, or use torchrun.
        workers: processes that read data, per training process.
        threads: of torch on a CPU; 0 leaves torch's choice.
    """

    out: Path = Path("runs/train")
    data: Path | dict[str, float] = Path("runs/rooms/train")
    in_memory: bool = False
    val: Path | None = None
    preset: str = "v15"
    model: dict[str, Any] | None = None
    pretrained: bool | str = False
    init: Path | None = None
    steps: int | None = None
    epochs: float | None = None
    batch_size: int = 8
    accumulate: int = 1
    encoder_lr: float = 1e-4
    decoder_lr: float = 1e-3
    final_lr: float = 1e-6
    warmup: int = 500
    weight_decay: float = 0.01
    drop_path: float = 0.0
    clip: float = 1.0
    ema: float = 0.0
    loss: Loss = field(default_factory=Loss)
    augment: Augmentation = field(default_factory=Augmentation)
    validation: Protocol = field(default_factory=Protocol)
    validate_every: int = 1000
    save_every: int = 500
    patience: int = 0
    pictures: int = 4
    max_broken: int = 100
    precision: Precision = "32-true"
    seed: int = 0
    device: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    workers: int = 2
    threads: int = 0

    def __post_init__(self):
        if (self.steps is None) == (self.epochs is None):
            raise TrainingError(f"give either steps or epochs, got steps={self.steps} and epochs={self.epochs}")
        for name in (
            *("steps", "epochs", "batch_size", "accumulate"),
            *("validate_every", "save_every", "devices", "num_nodes"),
        ):
            if getattr(self, name) is not None and not 0 < getattr(self, name) < math.inf:
                raise TrainingError(f"{name} must be positive and finite, got {getattr(self, name)}")
        for name in (
            *("encoder_lr", "decoder_lr", "final_lr", "warmup", "weight_decay", "drop_path", "clip", "ema"),
            *("patience", "pictures", "max_broken", "seed", "workers", "threads"),
        ):
            if not getattr(self, name) >= 0:
                raise TrainingError(f"{name} must not be negative, got {getattr(self, name)}")
        for name, most in (("threads", MOST_THREADS), ("workers", MOST_WORKERS), ("devices", MOST_WORKERS)):
            if getattr(self, name) > most:
                raise TrainingError(f"{name} must be {most} at most, got {getattr(self, name)}")
        if self.ema >= 1 or self.drop_path >= 1:
            raise TrainingError(f"ema and drop_path must be below 1, got {self.ema} and {self.drop_path}")
        if isinstance(self.data, dict) and not (self.data and all(0 < s < math.inf for s in self.data.values())):
            raise TrainingError(f"data must be a folder, or folders with their positive shares, got {self.data}")
        if not isinstance(self.data, dict) and str(self.data).startswith("{"):  # YAML's colons want a space
            raise TrainingError(
                f"data must be a folder, or {{folder: share, ...}} with a space after each colon, got {self.data}"
            )
        if self.precision not in get_args(Precision):
            raise TrainingError(f"precision must be 32-true or bf16-mixed, got {self.precision!r}")


def recipe(config: TrainConfig) -> dict:
    """The settings as JSON-serialisable values."""
    return json.loads(json.dumps(asdict(config), default=str))


def open_training_data(config: TrainConfig) -> list[tuple[Dataset, float]]:
    """The data sets to train on, with their weights."""
    shares = config.data if isinstance(config.data, dict) else {str(config.data): 1.0}
    datasets = [(open_dataset(path), share) for path, share in shares.items()]
    return [(InMemory(dataset), share) for dataset, share in datasets] if config.in_memory else datasets


def open_validation_data(config: TrainConfig) -> Dataset:
    """The data set of the validations."""
    if config.val is not None:
        return open_dataset(config.val, "test")
    if isinstance(config.data, dict):
        raise TrainingError(f"`data` is a mixture of {len(config.data)}; set `val` to the data to validate on")
    dataset = open_dataset(config.data, "test")
    if "test" not in dataset.splits:
        raise TrainingError(
            f"{config.data} ({dataset.layout}) has no test split of its own; set `val` to a folder of other samples"
        )
    return dataset


def initial_model(config: TrainConfig) -> SPD:
    """The preset with random or pretrained encoder weights, or those of the checkpoint `init`, which must be of that
    preset; where `model` names them, input size, focal length and fit may be others."""
    pretrained = config.pretrained if config.init is None else False  # those of `init` take their place
    try:
        model = SPD.from_preset(config.preset, pretrained, **(config.model or {}))
    except SPDError:
        raise
    except Exception as error:  # of dataclasses, torch and timm, of names and values of any kind
        known = ", ".join(f"{field.name}: {field.type}" for field in fields(SPDConfig))
        raise TrainingError(
            f"preset {config.preset!r} with model {config.model or {}} cannot be built ({first_line(error)}); expected"
            f" some of {known}"
        ) from error
    if config.loss.sigma and not model.config.sigma:
        raise TrainingError(
            f"loss.sigma is {config.loss.sigma}, but preset {config.preset!r} with model {config.model or {}} answers"
            " no sigma; give it one with `model: {sigma: true}`, or set loss.sigma to 0"
        )
    if config.init is None:
        return model
    loaded = checkpoint.load(config.init)
    found, wanted = asdict(loaded.config), asdict(model.config)
    wanted |= {name: found[name] for name in ("input_size", "training_focal_px", "fit") if name in (config.model or {})}
    differences = [f"{name} {value!r}, not {wanted[name]!r}" for name, value in found.items() if value != wanted[name]]
    if differences:
        raise TrainingError(
            f"init {config.init} is not a checkpoint of preset {config.preset!r} with model {config.model or {}}: it"
            f" has {'; '.join(differences)}. `model` can name what it has"
        )
    model.load_state_dict(loaded.state_dict())
    return model


def learning_rate(step: int, steps: int, warmup: int, base: float, final: float) -> float:
    """Linear warm-up to `base`, then a cosine to `final` at the last step; 0 stays 0."""
    if step < warmup or base == 0:
        return base * (step + 1) / max(warmup, 1)
    share = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - 1 - warmup, 1)))
    return final + (base - final) * share


def parameter_groups(model: SPD, config: TrainConfig) -> list[dict]:
    """Encoder and the rest, each with and without weight decay (norms and biases are the vectors)."""
    encoder = {id(p) for p in model.encoder.parameters()}
    groups = []
    for in_encoder, rate in ((True, config.encoder_lr), (False, config.decoder_lr)):
        for is_matrix in (True, False):  # as timm's param_groups_weight_decay, which takes seconds to import
            parameters = [
                p for p in model.parameters() if (id(p) in encoder) == in_encoder and (p.dim() > 1) == is_matrix
            ]
            decay = config.weight_decay if is_matrix else 0.0
            groups.append({"params": parameters, "lr": rate, "base_lr": rate, "weight_decay": decay})
    return groups
