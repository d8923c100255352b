"""Dense training: the whole depth map is the prediction, SILog over all its valid pixels is the loss."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from . import checkpoint
from .data.shards import RoomShards
from .encoders import normalise
from .evaluation import evaluate
from .losses import silog_loss
from .model import SPD
from .predictor import pick_device


@dataclass
class TrainConfig:
    """Train a model; the same command goes on with an interrupted run.

    Args:
        out: folder for checkpoints, `run.json` and the resumable state.
        train, val: folders of `spd data rooms`.
        preset: model preset.
        init: checkpoint to start from, instead of random weights.
        steps, batch_size, learning_rate, weight_decay, warmup: AdamW with linear warm-up and cosine to 1 % of the rate.
        lambda_var: of the SILog loss.
        downscale: train on images smaller by this factor, with the focal length of the full size: a cheap first stage.
        ema: decay of the weight average that is validated and saved; 0 turns it off.
        validate_every: steps between validations, after each of which the run can be resumed.
        seed: of weights and sampling; every step draws from (seed, step), so a resumed run sees the same batches.
        threads: of torch on a CPU; 0 leaves torch's choice.
    """

    out: Path
    train: Path = Path("runs/rooms/train")
    val: Path = Path("runs/rooms/val")
    preset: str = "atto"
    init: Path | None = None
    steps: int = 2000
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 200
    lambda_var: float = 0.5
    downscale: int = 1
    ema: float = 0.995
    validate_every: int = 250
    val_images: int = 200
    seed: int = 0
    device: str = "auto"
    threads: int = 0


def train(config: TrainConfig) -> dict:
    """Run (or resume) a training. Returns the last validation metrics; writes `last.safetensors`, `state.pt` and `run.json` to `config.out`."""
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    if config.threads:
        torch.set_num_threads(config.threads)
    device = pick_device(config.device)
    torch.manual_seed(config.seed)
    rooms, val_rooms = RoomShards(config.train), RoomShards(config.val)
    model = checkpoint.load(config.init) if config.init else SPD.from_preset(config.preset)
    model.to(device).train()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True) if config.ema else None
    decayed = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}], lr=config.learning_rate)

    state_file, history, first_step = out / "state.pt", [], 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True, map_location=device)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if average:
            average.load_state_dict(state["average"])
        history, first_step = state["history"], state["step"]

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    started, seen = time.monotonic(), 0
    with Progress(*columns) as progress:
        task = progress.add_task("train", total=config.steps, completed=first_step)
        for step in range(first_step, config.steps):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * _schedule(step, config)
            images, target_m = _batch(rooms, config, model, step)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                prediction_m = model(images.to(device))
            loss = silog_loss(prediction_m, target_m.to(device), config.lambda_var)
            if not torch.isfinite(loss):
                raise FloatingPointError(f"loss is {loss.item()} at step {step} of {out}")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if average:
                average.update_parameters(model)
            seen += len(images)
            progress.update(task, advance=1, description=f"loss {loss.item():.3f}  {seen / (time.monotonic() - started):.1f} img/s")
            if (step + 1) % config.validate_every == 0 or step + 1 == config.steps:
                best = average.module if average else model
                metrics = evaluate(best.eval(), val_rooms, limit=config.val_images, downscale=config.downscale)["mean"]
                best.train(best is model)
                history.append({"step": step + 1, "loss": loss.item(), **metrics})
                progress.console.print(f"step {step + 1}: abs_rel {metrics['abs_rel']:.4f}  d1 {metrics['d1']:.4f}  rmse {metrics['rmse']:.3f} m")
                _save(out, config, model, best, average, optimizer, history, step + 1)
    return history[-1] if history else {}


def _save(out: Path, config: TrainConfig, model: SPD, best: SPD, average, optimizer, history: list[dict], step: int) -> None:
    run = {"config": {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()}, "torch": torch.__version__, "history": history}
    checkpoint.save(best, out / "last.safetensors", **run)
    (out / "run.json").write_text(json.dumps(run, indent=1))
    partial = out / "state.partial"
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "history": history, "step": step}
    torch.save({**state, "average": average.state_dict()} if average else state, partial)
    partial.replace(out / "state.pt")


def _schedule(step: int, config: TrainConfig) -> float:
    if step < config.warmup:
        return (step + 1) / config.warmup
    progress = (step - config.warmup) / max(config.steps - config.warmup, 1)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))


def _batch(rooms: RoomShards, config: TrainConfig, model: SPD, step: int) -> tuple[Tensor, Tensor]:
    """Images [B, 3, H, W], normalised, and depth [B, 1, H, W] in the metres of the training focal length.

    Batches walk through a shuffle of the rooms, a new one each epoch; flips, gamma and colour gains are drawn per image.
    """
    images, targets = [], []
    for position in range(step * config.batch_size, (step + 1) * config.batch_size):
        epoch, index = divmod(position, len(rooms))
        if index == 0 or not images:
            order = np.random.default_rng([config.seed, epoch]).permutation(len(rooms))
        rng = np.random.default_rng([config.seed, 1, position])
        rgb, depth_m, camera = rooms[int(order[index])]
        depth_m = depth_m * (model.config.training_focal_px / camera.focal_px)
        if config.downscale > 1:
            height, width = (extent // config.downscale for extent in depth_m.shape)
            rgb = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
            depth_m = depth_m[config.downscale // 2 :: config.downscale, config.downscale // 2 :: config.downscale]
        levels = (np.arange(256, dtype=np.float32)[:, None] / 255) ** rng.uniform(0.8, 1.25) * rng.uniform(0.9, 1.1, 3)  # gamma, colour gains
        image = cv2.LUT(rgb, np.clip(levels, 0, 1).astype(np.float32)[:, None])
        flip = slice(None, None, -1 if rng.random() < 0.5 else 1)
        images.append(image[:, flip])
        targets.append(depth_m[None, :, flip])
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    return normalise(batch), torch.from_numpy(np.stack(targets)).float()
