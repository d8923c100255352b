"""Dense training: the whole depth map is the prediction, its losses run over all valid pixels. On Lightning Fabric: one
device or many.

A run is a function of its configuration and seed alone. Every step draws its samples by (seed, step), so a run that was
killed and started again with the same command reaches the same weights.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from .data.augment import CROP_STEP_PX
from .data.loader import AugmentedSamples, training_batches
from .data.samples import limited
from .encoders import set_drop_path
from .errors import SPDError, first_line
from .evaluation import crop_of, predict, score
from .extras import extra
from .metrics import collapsed, doubt_units, mean_metrics
from .model import MIN_SIZE, SPD
from .pictures import colour_depth, depth_range, side_by_side
from .predictor import Predictor
from .preprocess import normalise
from .process import uninterrupted
from .runtimes import pick_device, without_tf32
from .training_config import (
    TrainConfig,
    TrainingError,
    initial_model,
    learning_rate,
    open_training_data,
    open_validation_data,
    parameter_groups,
)
from .training_record import Record, locked, state_file

with extra("train"):
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import TorchElasticEnvironment


def train(config: TrainConfig, kind: Callable[[TrainConfig, Fabric], TrainingRun] | None = None) -> dict:
    """Run (or resume) a training, by `kind` of one that is trained in another way.

    Writes to `config.out`: `last.safetensors`, `best.safetensors` (smallest validation AbsRel), `state.pt`, `run.json`,
    TensorBoard files.

    Returns:
        The content of run.json: configuration, environment, history of validations, best, how it ended.

    Raises:
        TrainingError: the loss or the gradient became NaN or infinite (with the files of that batch), too many broken
            samples, a process that reads them ended, a GPU has too little memory, the folder holds another run or is
            written to by one, or a file could not be written.
        SPDError: there is no such device, or the folder cannot be written to.
    """
    if TorchElasticEnvironment.detect():  # torchrun has started the processes
        processes, machines = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["GROUP_WORLD_SIZE"])
        config = replace(config, devices=processes, num_nodes=machines)
    if config.threads:
        torch.set_num_threads(config.threads)
    # As the first validation does (`Predictor`): a run that goes on has had it.
    without_tf32()
    fabric = _fabric(config)
    fabric.launch()
    # Before hours of reading: can it be written to, and does nobody else?
    with locked(config.out) if fabric.is_global_zero else nullcontext():
        with _explained(config, fabric):
            report = (kind or TrainingRun)(config, fabric).loop()
        if fabric.world_size > 1:
            fabric.barrier()  # none goes on, or ends, while another one saves
            torch.distributed.destroy_process_group()  # whose threads may abort a process that ends with them
        return report


@contextmanager
def _explained(config: TrainConfig, fabric: Fabric) -> Iterator[None]:
    """Say of what torch raises where a machine is too small, or a process has ended, what a user can do."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"{first_line(error)}; if another program has the memory, the same command goes on with {config.out}"
            " once that is free; if not, a smaller batch_size and a larger accumulate learn the same, elsewhere"
        ) from error
    except RuntimeError as error:
        if fabric.world_size > 1 and re.search("by peer|remote process exited", str(error)):  # gloo's, NCCL's
            what = "another process of this training has ended: it says why, or the system ended it"
            raise TrainingError(what) from error
        if not str(error).startswith("DataLoader"):  # torch's, wherever the loop is when it notices
            raise
        raise TrainingError(
            f"a process that reads data was ended by the system, or is stuck ({first_line(error)}); is there too"
            f" little memory, or shared memory (in Docker --shm-size)? workers is {config.workers}, each prepares"
            f" several batches; the same command goes on with {config.out}, with fewer workers too"
        ) from error


def _fabric(config: TrainConfig) -> Fabric:
    device, is_one = pick_device(config.device), config.devices * config.num_nodes == 1
    if device.type == "cuda" and device.index is None:
        pick_device(f"cuda:{config.devices - 1}")  # are there as many?
    if device.type == "cuda" and device.index is not None and not is_one:
        raise TrainingError(
            f"device {config.device} is one device, got devices={config.devices} and num_nodes={config.num_nodes};"
            " device cuda takes several"
        )
    return Fabric(
        accelerator={"cuda": "gpu"}.get(device.type, device.type),
        devices=config.devices if device.type == "cpu" or device.index is None else [device.index],
        num_nodes=config.num_nodes,
        strategy="auto" if is_one else "ddp",
        precision=config.precision,
    )


BLIND_STEPS = 10  # a crop may show no depth, as where a sensor's is sparse; so many one after another show a mistake


class TrainingRun:
    """One training run: what is set up once, and the loop. Subclasses may start from another model and minimise another
    loss."""

    def __init__(self, config: TrainConfig, fabric: Fabric):
        self.config, self.fabric = config, fabric
        torch.manual_seed(config.seed)
        goes_on = state_file(config).exists()  # with weights of its own
        model = self.initial_model(replace(config, pretrained=False, init=None) if goes_on else config)
        if config.drop_path:
            set_drop_path(model.encoder, config.drop_path)
        model.train()
        if config.encoder_lr == 0:
            # A BatchNorm's statistics move in training mode, whatever the rate; gradients cost two thirds of a step.
            model.encoder.eval().requires_grad_(False)
        datasets = open_training_data(config)
        crop, variation = config.augment.crop or model.config.input_size, config.augment.crop_variation
        least = math.ceil(min(crop) * (1 - variation) / CROP_STEP_PX) * CROP_STEP_PX  # of those that are drawn
        if min(*crop, least) < MIN_SIZE:
            raise TrainingError(
                f"crops of {list(crop)} px (augment.crop), up to {variation:.0%} shorter (crop_variation), are smaller"
                f" than the network can see; expected sides of {MIN_SIZE} px at least"
            )
        augment = replace(config.augment, crop=crop)
        to_focal = model.config.fit == "focal"
        self.samples = AugmentedSamples(datasets, augment, model.config.training_focal_px, config.seed, to_focal)
        self.validation = limited(open_validation_data(config), config.validation.limit)
        per_step = config.batch_size * config.accumulate * fabric.world_size
        self.steps = config.steps or math.ceil((config.epochs or 0) * len(self.samples) / per_step)
        optimizer = torch.optim.AdamW(parameter_groups(model, config), fused=True)
        self.model, self.optimizer = fabric.setup(model, optimizer)
        self.record = Record(config, fabric, model, self.optimizer, self.steps, len(self.samples))

    def initial_model(self, config: TrainConfig) -> SPD:
        return initial_model(config)

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
        with Progress(*columns, disable=not fabric.is_global_zero) as progress, record.saved_if_interrupted():
            task = progress.add_task("train", total=self.steps, completed=record.step)
            # Where the run starts from, and whether a validation works, before hours of training; and one that failed.
            if not record.history or (self._is_validated(record.step) and record.history[-1]["step"] < record.step):
                self._validate(loss=None)
            while record.step < self.steps and not record.stops_early:
                started = time.monotonic()
                micro_batches = list(itertools.islice(batches, config.accumulate))
                with uninterrupted():  # half a step is no state to go on from
                    loss = self._optimise(record.step, micro_batches)
                    record.step += 1
                record.trained_s += time.monotonic() - started
                done = record.step - record.first_step
                rate = config.batch_size * config.accumulate * fabric.world_size * done / record.trained_s
                progress.update(
                    task,
                    advance=1,
                    description=f"loss {loss:.3f}  {rate:.1f} img/s  waits {record.waited_s / record.trained_s:.0%}",
                )
                encoder_lr = self.optimizer.param_groups[0]["lr"]
                record.log({"train/loss": loss, "train/encoder_lr": encoder_lr, "train/img_per_s": rate})
                if self._is_validated(record.step):
                    self._validate(loss)
                elif record.step % config.save_every == 0:
                    record.save()
        if not record.stops_early:
            return record.end("complete")
        early = f"stopped early: {config.patience} validations without a smaller AbsRel"
        fabric.print(early)
        return record.end(early)

    def _is_validated(self, step: int) -> bool:
        return step % self.config.validate_every == 0 or step == self.steps

    def _batches(self) -> Iterator[dict]:
        config, fabric, record = self.config, self.fabric, self.record
        first, last = (step * config.accumulate for step in (record.step, self.steps))
        how = config.batch_size, fabric.global_rank, fabric.world_size, config.workers, fabric.device.type == "cuda"
        started = time.monotonic()
        for batch in training_batches(self.samples, first, last, *how):
            record.waited_s += time.monotonic() - started
            yield batch
            started = time.monotonic()

    def _optimise(self, step: int, micro_batches: list[dict]) -> float:
        """One optimiser step. Returns its mean loss over all processes."""
        config, fabric, record = self.config, self.fabric, self.record
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.steps, config.warmup, group["base_lr"], config.final_lr)
        self.optimizer.zero_grad(set_to_none=True)
        totals = torch.zeros(3, device=fabric.device)  # the loss, broken samples, batches with depth
        broken: list[str] = []
        seen: list[tuple[list[str], Tensor]] = []  # of each micro-batch the names; loss, smallest and largest depth
        for micro, batch in enumerate(micro_batches):
            # What `drop_path` leaves out is a function of seed, step and process, however often a run is interrupted.
            number = (step * config.accumulate + micro) * fabric.world_size + fabric.global_rank
            torch.manual_seed(config.seed + number)
            images = normalise(batch["rgb"].to(fabric.device, non_blocking=True).permute(0, 3, 1, 2))
            with fabric.no_backward_sync(self.model, enabled=micro + 1 < config.accumulate):
                pred, loss = self.loss(images, batch["depth_m"].to(fabric.device, non_blocking=True))
                loss = loss / config.accumulate
                fabric.backward(loss)
            totals[0] += loss.detach()
            broken += batch["broken"]
            totals[2] += bool(batch["depth_m"].any())
            seen.append((batch["names"], torch.stack([loss.detach(), *pred.detach()[:, 0].float().aminmax()])))
        totals[1] = len(broken)
        norm = fabric.clip_gradients(
            self.model, self.optimizer, max_norm=config.clip or math.inf, error_if_nonfinite=False
        )
        means = fabric.all_reduce(totals, reduce_op="mean")
        assert isinstance(means, Tensor)  # as `totals` is
        assert norm is not None  # as there is a largest one
        # Here all processes have the same numbers: what ends the run ends it for all of them.
        if means[1].item():
            record.skip(_gathered(broken, fabric))
        if len(record.skipped) > config.max_broken:
            raise TrainingError(
                f"{len(record.skipped)} broken samples, more than max_broken={config.max_broken}; `spd data check"
                f" {config.data}` lists them"
            )
        record.is_blind = record.is_blind and not means[2].item()
        steps = step + 1 - record.first_step
        if record.is_blind and (steps >= BLIND_STEPS or step + 1 == self.steps):  # it would end with a loss of 0
            raise TrainingError(
                f"nothing to learn: no depth is known in the samples of the first {steps} steps, such as"
                f" {seen[0][0][0]}; `spd data preview` draws what training would see"
            )
        if not torch.isfinite(means[0] + norm):
            raise _diverged(step, norm.item(), seen, fabric, state_file(config))
        self.optimizer.step()
        if config.ema:
            record.update_average()
        return means[0].item()

    def _validate(self, loss: float | None) -> None:
        """Score the weights that count, each process its share of the images; keep them if they are the best."""
        config, fabric, record = self.config, self.fabric, self.record
        predictor = Predictor(record.evaluated, str(fabric.device), runtime="torch")  # weights that change: no graphs
        data, protocol = self.validation, config.validation
        crop = crop_of(protocol, data)
        own, faults = list[dict](), list[SPDError]()
        try:
            for i in range(fabric.global_rank, len(data), fabric.world_size):
                own.append(score(predictor, data[i], protocol, crop, i)[0])
        except SPDError as error:
            faults.append(error)
        try:
            for fault in _gathered(faults, fabric):  # of one process, and the end of all of them
                raise fault
            mean = mean_metrics(_gathered(own, fabric))
        except SPDError:
            if record.step:
                record.save()  # what was learned is not lost with a picture that is broken
            fabric.barrier()  # the end of another process would be that of the one that saves
            raise
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
        if record.step == 0 and config.init is not None and fabric.is_global_zero:  # before hours of learning it
            doubt_units(mean["s_star"])
        record.save(is_best)
        if record.writer and config.pictures:
            record.log({}, {"val/rgb_truth_prediction": self._picture(predictor)})

    def _picture(self, predictor: Predictor) -> np.ndarray:
        rows = []
        for i in np.linspace(0, len(self.validation) - 1, min(self.config.pictures, len(self.validation))).astype(int):
            sample = self.validation[i]
            near, far = depth_range(sample.truth_m)
            pred_m = predict(predictor, sample, self.config.validation)
            rows.append([sample.rgb, colour_depth(sample.truth_m, near, far), colour_depth(pred_m, near, far)])
        return side_by_side(rows)


def _diverged(
    step: int, norm: float, seen: list[tuple[list[str], Tensor]], fabric: Fabric, state: Path
) -> TrainingError:
    """What to say of a loss or a gradient that is no number, by what all processes have `seen` in that step."""
    every = _gathered([(names, *numbers.tolist()) for names, numbers in seen], fabric)
    lost = [batch for batch in every if not math.isfinite(batch[1])]
    names, losses, low_m, high_m = zip(*(lost or every))
    return TrainingError(
        f"the {f'loss is {losses[0]}' if lost else f'gradient is {norm}'} at step {step} of the batch"
        f" {', '.join(itertools.chain(*names))} (prediction {min(low_m):.3g} ... {max(high_m):.3g} m); {state} is of a"
        " step before. Try a lower learning rate or a longer warm-up in another `out`"
    )


def _gathered(part: list, fabric: Fabric) -> list:
    """The parts of all processes, one after the other."""
    if fabric.world_size == 1:
        return part
    parts: list[list] = [[]] * fabric.world_size
    torch.distributed.all_gather_object(parts, part)
    return [item for one in parts for item in one]
