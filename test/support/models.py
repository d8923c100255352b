"""Networks with random weights, and where they are tested."""

from dataclasses import replace

import pytest
import torch

from spd_core import SPD, Predictor, checkpoint
from spd_core.export import is_available
from spd_core.layers import Head
from spd_core.model import PRESETS

needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
needs_onnx = pytest.mark.skipif(not is_available(), reason="the optional encoder runtime")
# `depth_anything_v2_vitb` and `vitl` are `vits` with other numbers, and large.
TESTED_PRESETS = [preset for preset in PRESETS if not preset.endswith(("_vitb", "_vitl"))]
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]


def lively(model: SPD, seed: int = 0) -> SPD:
    """Random weights large enough that every layer matters for the output."""
    generator = torch.Generator().manual_seed(seed)
    for part in (model.decoder, model.global_path):
        for parameter in part.parameters() if part is not None else ():
            if parameter.dim() > 1:
                parameter.data *= 1.5
            else:
                parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def embedded_without_sigma() -> Predictor:
    """The embedded network as one that says nothing of its errors: no sigma, no prior of its scale."""
    full = checkpoint.load("embedded")
    plain = SPD(replace(full.config, sigma=False))
    heads = [f"{name}." for name, module in plain.named_modules() if isinstance(module, Head)]
    weights = full.state_dict()
    plain.load_state_dict({name: w[:1] if name.startswith(tuple(heads)) else w for name, w in weights.items()})
    return Predictor(plain.eval(), "cpu", runtime="torch")
