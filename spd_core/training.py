"""Dense training: the whole depth map is the prediction, its losses run over all valid pixels. On Lightning Fabric: one
device or many.

A run is a function of its configuration and seed alone. Every step draws its samples by (seed, step), so a run that was
killed and started again with the same command reaches the same weights.
"""

from __future__ import annotations

import json
import math
import platform
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import timm
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from . import checkpoint, files
from .data.augment import Augmentation
from .data.layouts import open_dataset
from .data.loader import AugmentedSamples, training_batches
from .data.samples import Dataset, InMemory, Subset, limited
from .encoders import normalise, set_drop_path
from .errors import SPDError
from .evaluation import Protocol, evaluate, predict
from .extras import extra
from .losses import Loss
from .metrics import collapsed, mean_metrics
from .model import SPD
from .pictures import colour_depth, depth_range, side_by_side
from .predictor import Predictor

with extra("train"):
    from lightning_fabric import Fabric

Precision = Literal["32-true", "bf16-mixed"]
# What may differ when a run goes on: where and how fast it runs, not what it computes.
FREE_TO_CHANGE = ("out", "device", "workers", "threads", "validate_every", "save_every", "pictures", "max_broken")


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
        init: SPD checkpoint of that preset, or "embedded", to start from; `model` may give it another input_size and
            training_focal_px.
        steps: optimiser steps.
        epochs: passes over the data, instead of steps.
        batch_size: images per process and micro-batch.
        accumulate: micro-batches per optimiser step.
        encoder_lr: AdamW learning rate of the encoder.
        decoder_lr: AdamW learning rate of the rest.
        final_lr: both end here, after a cosine.
        warmup: steps of linear warm-up.
        weight_decay: not applied to norms and biases.
        drop_path: stochastic depth of the encoder: how often its last block is left out of a sample.
        clip: largest norm of the gradient; 0 does not clip.
        ema: decay of the weight average that is validated and kept; 0 turns it off.
        loss: what is minimised.
        augment: what happens to a training sample.
        validation: protocol of the validations.
        validate_every: steps between validations.
        save_every: steps between saves of the resumable state; validations save too.
        patience: validations without a better AbsRel before the run stops; 0 never stops early.
        pictures: validation images drawn into TensorBoard.
        max_broken: broken samples that are skipped (and named) before the run stops.
        precision: bf16-mixed or 32-true.
        seed: of weights, order and augmentation.
        device: cpu, cuda or auto.
        devices: processes on this machine.
        num_nodes: machines; start one command on each, or use torchrun.
        workers: processes that read data, per training process.
        threads: of torch on a CPU; 0 leaves torch's choice.
    """

    out: Path = Path("runs/train")
    data: Path | dict[str, float] = Path("runs/rooms/train")
    in_memory: bool = False
    val: Path | None = None
    preset: str = "v15"
    model: dict | None = None
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
            "steps",
            "epochs",
            "batch_size",
            "accumulate",
            "validate_every",
            "save_every",
            "devices",
            "num_nodes",
        ):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise TrainingError(f"{name} must be positive, got {getattr(self, name)}")
        if self.precision not in get_args(Precision):
            raise TrainingError(f"precision must be 32-true or bf16-mixed, got {self.precision!r}")


def train(config: TrainConfig) -> dict:
    """Run (or resume) a training.

    Writes to `config.out`: `last.safetensors`, `best.safetensors` (smallest validation AbsRel), `state.pt`, `run.json`,
    TensorBoard files.

    Returns:
        The content of run.json: configuration, environment, history of validations, best, how it ended.

    Raises:
        TrainingError: the loss became NaN (with the files of that batch), too many broken samples, the folder holds
            another run, or a file could not be written.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    strategy = "ddp" if config.devices * config.num_nodes > 1 else "auto"
    fabric = Fabric(
        accelerator={"cuda": "gpu"}.get(config.device, config.device),
        devices=config.devices,
        num_nodes=config.num_nodes,
        strategy=strategy,
        precision=config.precision,
    )
    fabric.launch()
    return _Run(config, fabric).loop()


class _Run:
    """One training run: what is set up once, and the loop."""

    def __init__(self, config: TrainConfig, fabric: Fabric):
        self.config, self.fabric, self.out = config, fabric, files.expanded(config.out)
        if fabric.is_global_zero:
            files.make_folder(self.out)
        torch.manual_seed(config.seed)
        model = _initial_model(config)
        if config.drop_path:
            set_drop_path(model.encoder, config.drop_path)
        self.raw_model: SPD = model.train()
        datasets = _open_training_data(config)
        augment = replace(config.augment, crop=config.augment.crop or model.config.input_size)
        self.samples = AugmentedSamples(
            datasets,
            augment,
            model.config.training_focal_px,
            config.seed,
            model.config.fit == "focal",
            config.batch_size,
        )
        self.validation = limited(_open_validation_data(config), config.validation.limit)
        per_step = config.batch_size * config.accumulate * fabric.world_size
        self.steps = config.steps or math.ceil((config.epochs or 0) * len(self.samples) / per_step)
        self.optimizer = torch.optim.AdamW(_parameter_groups(model, config), fused=True)
        self.average = (
            AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True).to(fabric.device)
            if config.ema
            else None
        )
        self.model, self.optimizer = fabric.setup(model, self.optimizer)
        self.step, self.broken, self.waited_s, self.trained_s = 0, 0, 0.0, 0.0
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}  # validation, step and AbsRel, from the first validation on
        self._resume()
        self.writer = None
        if fabric.is_global_zero:
            with extra("train"):
                from torch.utils.tensorboard import SummaryWriter  # seconds to import

            self.writer = SummaryWriter(self.out / "tensorboard", purge_step=self.step)

    @property
    def evaluated(self) -> SPD:
        """The weights that count: the average where there is one."""
        return cast(SPD, self.average.module) if self.average else self.raw_model

    def loop(self) -> dict:
        config, fabric = self.config, self.fabric
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
        batches = self._batches()
        ended = "complete"
        with Progress(*columns, disable=not fabric.is_global_zero) as progress:
            task = progress.add_task("train", total=self.steps, completed=self.step)
            if self.step == 0:  # where the run starts from, and whether a validation works, before hours of training
                self._validate(loss=None)
            for step in range(self.step, self.steps):
                started = time.monotonic()
                loss = self._optimise(step, batches)
                self.step = step + 1
                self.trained_s += time.monotonic() - started
                done = self.step - self.first_step
                rate = config.batch_size * config.accumulate * fabric.world_size * done / self.trained_s
                progress.update(
                    task,
                    advance=1,
                    description=f"loss {loss:.3f}  {rate:.1f} img/s  waits {self.waited_s / self.trained_s:.0%}",
                )
                self._log(
                    {
                        "train/loss": loss,
                        "train/encoder_lr": self.optimizer.param_groups[0]["lr"],
                        "train/img_per_s": rate,
                    }
                )
                if self.step % config.validate_every == 0 or self.step == self.steps:
                    self._validate(loss)
                    if config.patience and len(self.history) - 1 - self.best["validation"] >= config.patience:
                        ended = f"stopped early: {config.patience} validations without a smaller AbsRel"
                        break
                elif self.step % config.save_every == 0:
                    self._save()
        report = self._report(ended)
        if self.writer is not None:
            files.write_text(self.out / "run.json", json.dumps(report, indent=1))
            self.writer.close()
        return report

    def _batches(self) -> Iterator[dict]:
        config, fabric = self.config, self.fabric
        first, last = (step * config.accumulate for step in (self.step, self.steps))
        on_gpu = fabric.device.type == "cuda"
        batches = iter(
            training_batches(
                self.samples,
                first,
                last,
                config.batch_size,
                fabric.global_rank,
                fabric.world_size,
                config.workers,
                on_gpu,
            )
        )
        while True:
            started = time.monotonic()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.waited_s += time.monotonic() - started
            for name in batch["broken"]:
                self.broken += 1
                fabric.print(f"skipped a broken sample ({self.broken}): {name}")
            if self.broken > config.max_broken:
                raise TrainingError(
                    f"{self.broken} broken samples, more than max_broken={config.max_broken}; `spd data check"
                    f" {config.data}` lists them"
                )
            yield batch

    def _optimise(self, step: int, batches: Iterator[dict]) -> float:
        """One optimiser step. Returns its mean loss over all processes."""
        config, fabric = self.config, self.fabric
        scale = learning_rate_factor(step, self.steps, config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = (
                config.final_lr + (group["base_lr"] - config.final_lr) * scale
                if step >= config.warmup
                else group["base_lr"] * scale
            )
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=fabric.device)
        for micro in range(config.accumulate):
            batch = next(batches)
            # What `drop_path` leaves out is a function of seed, step and process, however often a run is interrupted.
            number = (step * config.accumulate + micro) * fabric.world_size + fabric.global_rank
            torch.manual_seed(config.seed + number)
            images = normalise(batch["rgb"].to(fabric.device, non_blocking=True).permute(0, 3, 1, 2))
            with fabric.no_backward_sync(self.model, enabled=micro + 1 < config.accumulate):
                pred = self.model(images)
                loss = (
                    config.loss(pred.float(), batch["depth_m"].to(fabric.device, non_blocking=True)) / config.accumulate
                )
                if not torch.isfinite(loss):
                    low_m, high_m = pred[:, 0].min().item(), pred[:, 0].max().item()
                    raise TrainingError(
                        f"the loss is {loss.item()} at step {step} of the batch {', '.join(batch['names'])} (prediction"
                        f" {low_m:.3g} ... {high_m:.3g} m); {self.out / 'state.pt'} is of a step before. Try a lower"
                        " learning rate or a longer warm-up in another `out`"
                    )
                fabric.backward(loss)
            total += loss.detach()
        if config.clip:
            fabric.clip_gradients(self.model, self.optimizer, max_norm=config.clip)
        self.optimizer.step()
        if self.average:
            self.average.update_parameters(self.raw_model)
        mean = fabric.all_reduce(total, reduce_op="mean")
        assert isinstance(mean, torch.Tensor)  # as `total` is
        return float(mean)

    def _validate(self, loss: float | None) -> None:
        """Score the weights that count, each process its share of the images; keep them if they are the best."""
        config, fabric = self.config, self.fabric
        share = Subset(self.validation, range(fabric.global_rank, len(self.validation), fabric.world_size))
        training = self.evaluated.training
        predictor = Predictor(self.evaluated, str(fabric.device), runtime="torch")  # weights that change: no graphs
        per_image = evaluate(predictor, share, config.validation)["per_image"] if len(share) else []
        if fabric.world_size > 1:
            gathered: list[list[dict]] = [[]] * fabric.world_size
            torch.distributed.all_gather_object(gathered, per_image)
            per_image = [image for part in gathered for image in part]
        mean = mean_metrics(per_image)
        self.history.append({"step": self.step, "loss": loss, **mean})
        is_best = not self.best or mean["abs_rel"] < self.best["abs_rel"]
        if is_best:
            self.best = {"validation": len(self.history) - 1, "step": self.step, "abs_rel": mean["abs_rel"]}
        self._log({f"val/{name}": value for name, value in mean.items() if np.isfinite(value)})
        shown_loss = "" if loss is None else f"  loss {loss:.4f}"
        fabric.print(
            f"step {self.step}{shown_loss}  abs_rel {mean['abs_rel']:.4f}  d1 {mean['d1']:.4f}  rmse {mean['rmse']:.3f}"
            f" m  s* {mean['s_star']:.3f}  prediction {mean['pred_min']:.2f} ... {mean['pred_max']:.2f} m (truth"
            f" {mean['gt_min']:.2f} ... {mean['gt_max']:.2f})"
        )
        if self.step and collapsed(mean):  # untrained, it is nearly constant
            fabric.print(
                f"WARNING: the output has collapsed: it varies by {mean['pred_cv']:.1%} of its mean where the truth"
                f" varies by {mean['gt_cv']:.1%}"
            )
        if self.writer and config.pictures:
            self.writer.add_image("val/rgb_truth_prediction", self._picture(predictor), self.step, dataformats="HWC")
        self.evaluated.train(training)
        self._save(is_best)

    def _picture(self, predictor: Predictor) -> np.ndarray:
        rows = []
        for i in np.linspace(0, len(self.validation) - 1, min(self.config.pictures, len(self.validation))).astype(int):
            sample = self.validation[i]
            near, far = depth_range(sample.truth_m)
            pred_m = predict(predictor, sample, Protocol(resize_eval=self.config.validation.resize_eval))
            rows.append([sample.rgb, colour_depth(sample.truth_m, near, far), colour_depth(pred_m, near, far)])
        return side_by_side(rows)

    def _log(self, scalars: dict[str, float]) -> None:
        if self.writer:
            for name, value in scalars.items():
                self.writer.add_scalar(name, value, self.step)

    def _report(self, ended: str = "running") -> dict:
        return {
            "config": _recipe(self.config),
            "environment": environment(self.fabric),
            "steps": self.steps,
            "step": self.step,
            "ended": ended,
            "broken_samples": self.broken,
            "data_wait_fraction": self.waited_s / max(self.trained_s, 1e-9),
            "best": self.best,
            "history": self.history,
        }

    def _save(self, is_best: bool = False) -> None:
        """Checkpoint and state, each replaced in one step once it is complete: a full disk or a kill leaves the ones
        before."""
        if not self.fabric.is_global_zero:
            return
        report = self._report()
        checkpoint.save(self.evaluated, self.out / "last.safetensors", **report)
        if is_best:
            checkpoint.save(self.evaluated, self.out / "best.safetensors", **report)
        state = {
            "recipe": report["config"],
            "model": self.raw_model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }
        state |= {
            "history": self.history,
            "best": self.best,
            "average": self.average.state_dict() if self.average else None,
        }
        with files.replaced(self.out / "state.pt", TrainingError, (OSError, RuntimeError)) as partial:
            torch.save(state, partial)
        files.write_text(self.out / "run.json", json.dumps(report, indent=1))

    def _resume(self) -> None:
        self.first_step = 0
        file = self.out / "state.pt"
        if not file.exists():
            return
        state = checkpoint.read_state(file, self.fabric.device)
        # A state of before a setting existed has its default.
        before, now = _recipe(TrainConfig(steps=1)) | state["recipe"], _recipe(self.config)
        changed = [
            f"{key}: {before[key]!r} -> {now[key]!r}"
            for key in now
            if key not in FREE_TO_CHANGE and before[key] != now[key]
        ]
        if changed:
            raise TrainingError(
                f"{self.out} holds a run with other settings ({'; '.join(changed)}); go on with those, or choose"
                " another `out`"
            )
        try:
            self.raw_model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.average:
                self.average.load_state_dict(state["average"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise TrainingError(
                f"{file} does not fit the model of its own settings ({error}); {checkpoint.WITHOUT_STATE}"
            ) from error
        self.step = self.first_step = state["step"]
        self.history, self.best = state["history"], state["best"]
        self.fabric.print(f"going on with {self.out} at step {self.step} of {self.steps}")


def _open_training_data(config: TrainConfig) -> list[tuple[Dataset, float]]:
    """The data sets to train on, with their weights."""
    shares = config.data if isinstance(config.data, dict) else {str(config.data): 1.0}
    datasets = [(open_dataset(path), share) for path, share in shares.items()]
    return [(InMemory(dataset), share) for dataset, share in datasets] if config.in_memory else datasets


def _open_validation_data(config: TrainConfig) -> Dataset:
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


def _initial_model(config: TrainConfig) -> SPD:
    """The preset with random or pretrained encoder weights, or those of the checkpoint `init`, which must be of that
    preset; it may know another input size, focal length and fit."""
    model = SPD.from_preset(config.preset, config.pretrained, **(config.model or {}))
    if config.init is None:
        return model
    loaded, wanted = checkpoint.load(config.init), model.config_dict()
    wanted |= {name: loaded.config_dict()[name] for name in ("input_size", "training_focal_px", "fit")}
    differences = [
        f"{name} {value!r}, not {wanted[name]!r}"
        for name, value in loaded.config_dict().items()
        if value != wanted[name]
    ]
    if differences:
        raise TrainingError(
            f"init {config.init} is not a checkpoint of preset {config.preset!r} with model {config.model or {}}: it"
            f" has {'; '.join(differences)}"
        )
    model.load_state_dict(loaded.state_dict())
    return model


def learning_rate_factor(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up from 1/warmup to 1, then a cosine to 0 at the last step."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - 1 - warmup, 1)))


def _recipe(config: TrainConfig) -> dict:
    """The configuration as JSON-serialisable values."""
    return json.loads(json.dumps(asdict(config), default=str))


def _parameter_groups(model: SPD, config: TrainConfig) -> list[dict]:
    """Encoder and the rest, each with and without weight decay (norms and biases are the vectors)."""
    encoder = {id(p) for p in model.encoder.parameters()}
    groups = []
    for in_encoder, rate in ((True, config.encoder_lr), (False, config.decoder_lr)):
        for is_matrix in (True, False):
            parameters = [
                p for p in model.parameters() if (id(p) in encoder) == in_encoder and (p.dim() > 1) == is_matrix
            ]
            groups.append(
                {
                    "params": parameters,
                    "lr": rate,
                    "base_lr": rate,
                    "weight_decay": config.weight_decay if is_matrix else 0.0,
                }
            )
    return groups


def environment(fabric: Fabric) -> dict:
    """What a result depends on besides its configuration."""
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    device = (
        torch.cuda.get_device_name(fabric.device)
        if fabric.device.type == "cuda"
        else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "numpy": np.__version__,
    }
    return {"revision": git.stdout.strip() or None, "device": device, "processes": fabric.world_size, **versions}
