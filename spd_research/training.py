"""Training at K random valid pixels of each image, in the product's trainer.

python -m spd_research.training --config training/research/exp09_v14_triple.yaml
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from jsonargparse import auto_cli
from torch import Tensor

from spd_core import files
from spd_core.errors import SPDError
from spd_core.losses import valid_pixels
from spd_core.model import PRESETS, SPD
from spd_core.process import keep_freed_memory
from spd_core.training import TrainingRun, train
from spd_core.training_config import TrainConfig, TrainingError, open_validation_data

from .judging import judge
from .model import QUERY_DECODERS, QueryConfig, QuerySPD, load


@dataclass
class Queries:
    """What is trained at points.

    Args:
        decoder: key of `model.QUERY_DECODERS`.
        points: K, random valid pixels of each image and step.
        auxiliary: weight of the dense loss of `v14`'s auxiliary maps.
    """

    decoder: str = "v14"
    points: int = 256
    auxiliary: float = 0.5

    def __post_init__(self):
        if self.decoder not in QUERY_DECODERS or self.points < 1:
            raise TrainingError(
                f"queries.decoder must be one of {sorted(QUERY_DECODERS)} and queries.points positive, got {self}"
            )


@dataclass
class QueryTrainConfig(TrainConfig):
    """Train a query decoder; the same command goes on with an interrupted run. `spd train --help` explains all but
    `queries`.

    Args:
        queries: the decoder and its points.
    """

    queries: Queries = field(default_factory=Queries)

    def __post_init__(self):
        super().__post_init__()
        if self.init is not None or self.loss.sigma or self.loss.gradient or self.pictures:
            raise TrainingError(
                "a query decoder has no init, no loss.sigma, no loss.gradient and no pictures, got"
                f" init={self.init}, {self.loss}, pictures={self.pictures}"
            )
        if self.validation.points is None and self.validation.grid is None:
            raise TrainingError("a query decoder is validated at points: set validation.points or validation.grid")


class ResearchRun(TrainingRun):
    """A training that says how long its steps took."""

    def loop(self) -> dict:
        """As `TrainingRun.loop`; `step_s` are the seconds of an optimiser step, None where all were made before."""
        report, record = super().loop(), self.record
        done = record.step - record.first_step
        return {**report, "step_s": record.trained_s / done if done else None}


class QueryRun(ResearchRun):
    """Of a query decoder."""

    config: QueryTrainConfig

    def initial_model(self) -> SPD:
        config = self.config
        if config.preset not in PRESETS:
            raise SPDError(f"unknown preset {config.preset!r}; there are {', '.join(PRESETS)}")
        fields = asdict(replace(PRESETS[config.preset], **(config.model or {})))
        return QuerySPD(QueryConfig(**fields, queries=config.queries.decoder), config.pretrained)

    def loss(self, images: Tensor, target_m: Tensor) -> tuple[Tensor, Tensor]:
        points, at_points = random_targets(target_m, self.config.queries.points)
        depth, auxiliary = self.model(images, points)
        pred = depth[:, None, None].float()  # [B, 1, 1, K], a map of one row
        loss = self.config.loss(pred, at_points)
        for level in auxiliary:  # twice as large, which is a stride of 4 for level 2
            height, width = (2 * extent for extent in level.shape[2:])
            larger = torch.nn.functional.interpolate(level, (height, width), mode="bilinear", align_corners=False)
            stride = 4 * round(images.shape[2] / (4 * height))
            part = target_m[..., stride // 2 :: stride, stride // 2 :: stride]
            larger = larger[..., : part.shape[2], : part.shape[3]]  # without what pads the image
            loss = loss + self.config.queries.auxiliary * self.config.loss(larger.float(), part)
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
    """Train as the arguments say, then write OUT/judgement.json: what `judging.judge` finds of the last weights."""
    keep_freed_memory()
    config = auto_cli(QueryTrainConfig)
    train(config, QueryRun)
    found = judge(load(config.out / "last.safetensors"), open_validation_data(config), config.validation, config.device)
    files.write_text(Path(config.out) / "judgement.json", json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
