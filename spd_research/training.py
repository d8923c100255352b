"""Training at K random valid pixels of each image, in the product's trainer.

python -m spd_research.training --config training/research/exp09_v14_triple.yaml
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from torch import Tensor
from torch.nn.functional import interpolate

from spd_core import files
from spd_core.losses import valid_pixels
from spd_core.model import PRESETS, SPD
from spd_core.process import keep_freed_memory
from spd_core.training import TrainingRun, train
from spd_core.training_config import TrainConfig, TrainingError, open_validation_data

from .judging import judge
from .model import QUERY_DECODERS, QueryConfig, QuerySPD, load

BASE = Path(__file__).parents[1] / "training" / "research" / "base.yaml"  # what all experiments have in common


@dataclass
class QueryTrainConfig(TrainConfig):
    """Train a query decoder; the same command goes on with an interrupted run. `spd train --help` explains what is not
    said here.

    Args:
        query_decoder: key of `model.QUERY_DECODERS`; without it the dense system that the rest says is trained, as
            `spd train` does.
        query_points: K, random valid pixels of each image and step.
        auxiliary: weight of the dense loss of `v14`'s auxiliary maps.
    """

    query_decoder: str | None = None
    query_points: int = 256
    auxiliary: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        if self.query_decoder is None:
            return
        if self.query_decoder not in QUERY_DECODERS or self.preset not in PRESETS or self.query_points < 1:
            raise TrainingError(
                f"query_decoder must be one of {sorted(QUERY_DECODERS)}, preset of {sorted(PRESETS)}, query_points"
                f" positive; got {self.query_decoder!r}, {self.preset!r}, {self.query_points}"
            )
        if self.init is not None or self.loss.sigma or self.loss.gradient or self.pictures:
            raise TrainingError(
                "a query decoder has no init, no loss.sigma, no loss.gradient and no pictures, got"
                f" init={self.init}, {self.loss}, pictures={self.pictures}"
            )
        if self.validation.points is None and self.validation.grid is None:
            raise TrainingError("a query decoder is validated at points: set validation.points or validation.grid")


class QueryRun(TrainingRun):
    """A training run at points, where the settings name a query decoder."""

    config: QueryTrainConfig

    def initial_model(self, config: TrainConfig) -> SPD:
        assert isinstance(config, QueryTrainConfig)
        if config.query_decoder is None:
            return super().initial_model(config)
        settings = asdict(replace(PRESETS[config.preset], **(config.model or {})))
        return QuerySPD(QueryConfig(**settings, queries=config.query_decoder), config.pretrained)

    def loss(self, images: Tensor, target_m: Tensor) -> tuple[Tensor, Tensor]:
        if self.config.query_decoder is None:
            return super().loss(images, target_m)
        points, at_points = random_targets(target_m, self.config.query_points)
        depth, auxiliary = self.model(images, points)
        pred = depth[:, None, None].float()  # [B, 1, 1, K], a map of one row
        loss = self.config.loss(pred, at_points)
        for level in auxiliary:
            larger = interpolate(level.float(), scale_factor=2, mode="bilinear", align_corners=False)
            stride = 4 * round(images.shape[2] / (4 * larger.shape[2]))  # 4 for level 2
            part = target_m[..., stride // 2 :: stride, stride // 2 :: stride]
            larger = larger[..., : part.shape[2], : part.shape[3]]  # without what pads the image
            loss = loss + self.config.auxiliary * self.config.loss(larger, part)
        return pred, loss


def random_targets(target_m: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Different random valid pixels of each image.

    Args:
        target_m: [B, 1, H, W] m.
        count: K; of an image with fewer valid pixels some others come too, whose depth of 0 no loss counts.

    Returns:
        Their (x, y) [B, K, 2] px, and their depth [B, 1, 1, K] m.
    """
    known = torch.where(valid_pixels(target_m), target_m, 0).flatten(1)
    keys = torch.where(known > 0, torch.rand(known.shape, device=known.device), -1.0)
    chosen = keys.topk(min(count, keys.shape[1])).indices
    width = target_m.shape[3]
    points = torch.stack([chosen % width, chosen // width], dim=-1).float()
    return points, known.gather(1, chosen)[:, None, None]


def main() -> None:
    """Train as the arguments say, with what base.yaml says of what they do not, then write OUT/judgement.json."""
    keep_freed_memory()
    config = auto_cli(QueryTrainConfig, args=[f"--config={BASE}", *sys.argv[1:]])
    runs: list[QueryRun] = []

    def begun(*settings: Any) -> QueryRun:
        runs.append(QueryRun(*settings))
        return runs[0]

    train(config, begun)
    if runs[0].fabric.is_global_zero:
        write_judgement(config)


def write_judgement(config: QueryTrainConfig) -> None:
    """What `judging.judge` finds of the last weights of a training."""
    out = files.expanded(config.out)
    found = judge(load(out / "last.safetensors"), open_validation_data(config), config.validation, config.device)
    files.write_json(out / "judgement.json", found)


if __name__ == "__main__":
    main()
