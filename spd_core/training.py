"""Dense training: the whole depth map is the prediction, its losses run over all valid pixels. On Lightning Fabric: one
device or many.

A run is a function of its configuration and seed alone. Every step draws its samples by (seed, step), so a run that was
killed and started again with the same command reaches the same weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from . import files
from .data.loader import AugmentedSamples, training_batches
from .data.samples import Subset, limited
from .encoders import normalise, set_drop_path
from .evaluation import Protocol, evaluate, predict
from .extras import extra
from .metrics import collapsed, mean_metrics
from .model import SPD
from .pictures import colour_depth, depth_range, side_by_side
from .predictor import Predictor
from .training_config import (
    TrainConfig,
    TrainingError,
    initial_model,
    learning_rate_factor,
    open_training_data,
    open_validation_data,
    parameter_groups,
)
from .training_record import Record

with extra("train"):
    from lightning_fabric import Fabric


def train(config: TrainConfig, kind: type[TrainingRun] | None = None) -> dict:
    """Run (or resume) a training, by `kind` of one that is trained in another way.

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
    if fabric.is_global_zero:
        files.make_folder(config.out)  # before hours of reading: can it be written to?
    return (kind or TrainingRun)(config, fabric).loop()


class TrainingRun:
    """One training run: what is set up once, and the loop. Subclasses may start from another model and minimise another
    loss."""

    def __init__(self, config: TrainConfig, fabric: Fabric):
        self.config, self.fabric = config, fabric
        torch.manual_seed(config.seed)
        model = self.initial_model()
        if config.drop_path:
            set_drop_path(model.encoder, config.drop_path)
        model.train()
        datasets = open_training_data(config)
        augment = replace(config.augment, crop=config.augment.crop or model.config.input_size)
        self.samples = AugmentedSamples(
            datasets,
            augment,
            model.config.training_focal_px,
            config.seed,
            model.config.fit == "focal",
        )
        self.validation = limited(open_validation_data(config), config.validation.limit)
        per_step = config.batch_size * config.accumulate * fabric.world_size
        self.steps = config.steps or math.ceil((config.epochs or 0) * len(self.samples) / per_step)
        average = (
            AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True).to(fabric.device)
            if config.ema
            else None
        )
        optimizer = torch.optim.AdamW(parameter_groups(model, config), fused=True)
        self.model, self.optimizer = fabric.setup(model, optimizer)
        self.record = Record(config, fabric, model, self.optimizer, average, self.steps)

    def initial_model(self) -> SPD:
        return initial_model(self.config)

    def loss(self, images: Tensor, target_m: Tensor) -> tuple[Tensor, Tensor]:
        """What `self.model` predicts of images [B, 3, H, W], depth (m) in its first channel, and the loss, a scalar,
        against `target_m` [B, 1, H, W]."""
        pred = self.model(images)
        return pred, self.config.loss(pred.float(), target_m)

    def loop(self) -> dict:
        """Train to the end. Returns the content of run.json."""
        config, fabric, record = self.config, self.fabric, self.record
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
        batches = self._batches()
        ended = "complete"
        with Progress(*columns, disable=not fabric.is_global_zero) as progress:
            task = progress.add_task("train", total=self.steps, completed=record.step)
            if record.step == 0:  # where the run starts from, and whether a validation works, before hours of training
                self._validate(loss=None)
            for step in range(record.step, self.steps):
                started = time.monotonic()
                loss = self._optimise(step, batches)
                record.step = step + 1
                record.trained_s += time.monotonic() - started
                done = record.step - record.first_step
                rate = config.batch_size * config.accumulate * fabric.world_size * done / record.trained_s
                progress.update(
                    task,
                    advance=1,
                    description=f"loss {loss:.3f}  {rate:.1f} img/s  waits {record.waited_s / record.trained_s:.0%}",
                )
                record.log(
                    {
                        "train/loss": loss,
                        "train/encoder_lr": self.optimizer.param_groups[0]["lr"],
                        "train/img_per_s": rate,
                    }
                )
                if record.step % config.validate_every == 0 or record.step == self.steps:
                    self._validate(loss)
                    if config.patience and len(record.history) - 1 - record.best["validation"] >= config.patience:
                        ended = f"stopped early: {config.patience} validations without a smaller AbsRel"
                        break
                elif record.step % config.save_every == 0:
                    record.save()
        return record.end(ended)

    def _batches(self) -> Iterator[dict]:
        config, fabric, record = self.config, self.fabric, self.record
        first, last = (step * config.accumulate for step in (record.step, self.steps))
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
            record.waited_s += time.monotonic() - started
            for name in batch["broken"]:
                record.broken += 1
                fabric.print(f"skipped a broken sample ({record.broken}): {name}")
            if record.broken > config.max_broken:
                raise TrainingError(
                    f"{record.broken} broken samples, more than max_broken={config.max_broken}; `spd data check"
                    f" {config.data}` lists them"
                )
            yield batch

    def _optimise(self, step: int, batches: Iterator[dict]) -> float:
        """One optimiser step. Returns its mean loss over all processes."""
        config, fabric, record = self.config, self.fabric, self.record
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
                pred, loss = self.loss(images, batch["depth_m"].to(fabric.device, non_blocking=True))
                loss = loss / config.accumulate
                if not torch.isfinite(loss):
                    low_m, high_m = pred[:, 0].min().item(), pred[:, 0].max().item()
                    raise TrainingError(
                        f"the loss is {loss.item()} at step {step} of the batch {', '.join(batch['names'])} (prediction"
                        f" {low_m:.3g} ... {high_m:.3g} m); {record.out / 'state.pt'} is of a step before. Try a lower"
                        " learning rate or a longer warm-up in another `out`"
                    )
                fabric.backward(loss)
            total += loss.detach()
        if config.clip:
            fabric.clip_gradients(self.model, self.optimizer, max_norm=config.clip)
        self.optimizer.step()
        if record.average:
            record.average.update_parameters(record.raw_model)
        mean = fabric.all_reduce(total, reduce_op="mean")
        assert isinstance(mean, torch.Tensor)  # as `total` is
        return float(mean)

    def _validate(self, loss: float | None) -> None:
        """Score the weights that count, each process its share of the images; keep them if they are the best."""
        config, fabric, record = self.config, self.fabric, self.record
        share = Subset(self.validation, range(fabric.global_rank, len(self.validation), fabric.world_size))
        training = record.evaluated.training
        predictor = Predictor(record.evaluated, str(fabric.device), runtime="torch")  # weights that change: no graphs
        per_image = evaluate(predictor, share, config.validation)["per_image"] if len(share) else []
        if fabric.world_size > 1:
            gathered: list[list[dict]] = [[]] * fabric.world_size
            torch.distributed.all_gather_object(gathered, per_image)
            per_image = [image for part in gathered for image in part]
        mean = mean_metrics(per_image)
        is_best = record.add_validation(loss, mean)
        shown_loss = "" if loss is None else f"  loss {loss:.4f}"
        fabric.print(
            f"step {record.step}{shown_loss}  abs_rel {mean['abs_rel']:.4f}  d1 {mean['d1']:.4f}"
            f"  rmse {mean['rmse']:.3f} m  s* {mean['s_star']:.3f}  prediction {mean['pred_min']:.2f} ..."
            f" {mean['pred_max']:.2f} m (truth {mean['gt_min']:.2f} ... {mean['gt_max']:.2f})"
        )
        if record.step and collapsed(mean):  # untrained, it is nearly constant
            fabric.print(
                f"WARNING: the output has collapsed: it varies by {mean['pred_cv']:.1%} of its mean where the truth"
                f" varies by {mean['gt_cv']:.1%}"
            )
        if record.writer and config.pictures:
            picture = self._picture(predictor)
            record.writer.add_image("val/rgb_truth_prediction", picture, record.step, dataformats="HWC")
        record.evaluated.train(training)
        record.save(is_best)

    def _picture(self, predictor: Predictor) -> np.ndarray:
        rows = []
        for i in np.linspace(0, len(self.validation) - 1, min(self.config.pictures, len(self.validation))).astype(int):
            sample = self.validation[i]
            near, far = depth_range(sample.truth_m)
            pred_m = predict(predictor, sample, Protocol(resize_eval=self.config.validation.resize_eval))
            rows.append([sample.rgb, colour_depth(sample.truth_m, near, far), colour_depth(pred_m, near, far)])
        return side_by_side(rows)
