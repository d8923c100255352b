"""timm's networks and their weights: what encoders are made of."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from .errors import SPDError, first_line
from .files import expanded, read_torch


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Keep torch's compiler from being imported: torchvision and timm import it for a decorator and a check of
    operators that nothing here uses, and it takes half of the time in which a node starts. It can be imported
    afterwards as ever."""
    if "torch._dynamo" in sys.modules:
        yield
        return
    package, utils = ModuleType("torch._dynamo"), ModuleType("torch._dynamo.utils")
    vars(package).update(
        __path__=[],
        disable=lambda function=None, *arguments, **options: function if function is not None else lambda f: f,
    )
    vars(utils).update(is_compile_supported=lambda device: False)
    stand_ins = {"torch._dynamo": package, "torch._dynamo.utils": utils}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, module in stand_ins.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


with _without_compiler():
    import timm  # other modules take it from here


class EncoderError(SPDError):
    """Encoder weights that cannot be had; the message says how they can."""


# ImageNet statistics, which every timm encoder used here was trained with.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def create_backbone(name: str, pretrained: bool | str | Path, **options) -> Any:
    """A timm model (what each of them has beside an nn.Module's is not written down anywhere).

    Args:
        name: of timm's model.
        pretrained: True fetches timm's published weights (mind their licence: ConvNeXt V2's are CC-BY-NC-4.0), False
            starts from random, a path loads a local checkpoint file of that timm model.

    Raises:
        EncoderError: they cannot be fetched, no such file, or one of another model.
    """
    overlay = None
    if isinstance(pretrained, (str, Path)):
        file = expanded(pretrained)
        if not file.is_file():
            raise EncoderError(
                f"encoder weights {file} do not exist; expected True, False or a checkpoint file of timm's {name}"
            )
        if file.suffix != ".safetensors":
            read_torch(file, error=EncoderError)  # says what timm's reader would not
        overlay = {"file": str(file)}
    try:
        return timm.create_model(name, pretrained=bool(pretrained), pretrained_cfg_overlay=overlay, **options)
    except Exception as error:  # the hub's own exceptions come from many places
        if overlay is not None:
            raise EncoderError(f"encoder weights {overlay['file']} are not timm's {name}: {error}") from error
        if pretrained and timm.is_model(name):
            raise EncoderError(
                f"timm cannot fetch the weights of {name} ({first_line(error)}); expected a"
                " network that reaches the model hub, or a file of them, `pretrained: PATH`"
            ) from error
        raise


def keep_channels_last(module: nn.Module) -> None:
    """The order of its weights in memory that convolutions run fastest with, in place."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.to(memory_format=torch.channels_last)
