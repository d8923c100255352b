"""A network whose local decoder is a query decoder: the product's in everything else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from spd_core import checkpoint
from spd_core.errors import SPDError
from spd_core.model import SPD, Features, SPDConfig
from spd_core.plan import NOTHING, Coverage, Known
from spd_core.sites import Grid

from .layers import QueryDecoder
from .v13 import V13
from .v14 import V14

# Made of the channels of the four levels.
QUERY_DECODERS: dict[str, Callable[..., QueryDecoder]] = {
    "v13": V13,
    "v13_deformable": partial(V13, variant="deformable"),
    "v13_calibrated": partial(V13, variant="calibrated"),
    "v14": V14,
    "v14_triple": partial(V14, triple_canvas=True),
}


@dataclass(frozen=True)
class QueryConfig(SPDConfig):
    """An `SPDConfig` with a key of `QUERY_DECODERS`, which takes the place of `decoder`. Of the rest `encoder`,
    `input_size`, `training_focal_px` and `fit` count."""

    queries: str = "v14"


class AtPoints:
    """A query decoder in the place of a `SparseDecoder`: nothing is planned, nothing that a query learns is kept."""

    inputs = ("level1", "level2", "level3", "level4")

    def __init__(self, decoder: QueryDecoder):
        self.decoder = decoder

    def plan(
        self, points_px: np.ndarray, inputs: tuple[Grid, ...], dense_above: object = None, before: Coverage = NOTHING
    ) -> Tensor:
        return torch.as_tensor(points_px, dtype=torch.float32)

    def run(self, plan: Tensor, inputs: list[Tensor], known: Known) -> tuple[Tensor, Known]:
        return self.decoder(inputs, plan)[..., None], known  # [B, K, 2] px -> [B, K, 1] m, float32


class QuerySPD(SPD):
    """`SPD` that answers at points only: a dense map is not its to give, and an answer may depend on the other points
    that are asked along with it."""

    config: QueryConfig
    decoder: QueryDecoder
    sparse_decoder: Any

    def __init__(self, config: QueryConfig, pretrained: bool | str = False):
        super().__init__(QueryConfig(**{**asdict(config), "decoder": "dpt", "sigma": False}), pretrained)
        self.decoder = QUERY_DECODERS[config.queries](self.encoder.channels)
        self.sparse_decoder = AtPoints(self.decoder)

    def forward(self, images: Tensor, points: Tensor) -> tuple[Tensor, list[Tensor]]:  # type: ignore[override]
        """Images [B, 3, H, W], points [B, K, 2] px -> depth [B, K] m, and the decoder's auxiliary maps [B, 1, h, w]
        m."""
        levels = list(self.encode(images).maps.values())
        return self.decoder(levels, points), self.decoder.auxiliary(levels)

    def decode_maps(self, features: Features) -> Tensor:
        raise SPDError(
            f"the query decoder {self.config.queries!r} answers at points, not maps; set validation.points, and"
            " pictures to 0"
        )


def load(path: Path) -> SPD:
    """The model of a checkpoint, with a query decoder or the product's own, in eval mode on the CPU.

    Raises:
        CheckpointError: as `checkpoint.load`.
    """
    config = checkpoint.configuration(path)
    if "queries" not in config:
        return checkpoint.load(path)
    model = QuerySPD(QueryConfig(**config))
    model.load_state_dict(load_file(path))
    return model.eval()
