"""A decoder module as a list of layers, each of which knows its inputs: what is planned and run at points."""

from __future__ import annotations

import operator
from collections.abc import Callable

from torch import Tensor, fx, nn

from .layers import POINTWISE, Conv3x3, TapLayer
from .sites import Grid


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return isinstance(module, (TapLayer, *POINTWISE))


class LayerGraph:
    """Layers in the order in which a decoder's `forward` calls them. Values are numbered: the inputs, then what each
    layer returns.

    Args:
        decoder: module whose `forward` takes maps [B, H, W, C] and returns one map, built from the layers of
            `layers.py` and `+`.

    Raises:
        TypeError: it is built from something else.
    """

    def __init__(self, decoder: nn.Module):
        nodes = [node for node in _Tracer().trace(decoder).nodes if node.op != "output"]
        number = {node: i for i, node in enumerate(nodes)}
        self.inputs = [node.target for node in nodes if node.op == "placeholder"]
        self.layers: list[Callable[..., Tensor]] = []
        self.arguments: list[list[int]] = []
        for node in nodes[len(self.inputs) :]:
            if node.op == "call_module":
                self.layers.append(decoder.get_submodule(node.target))
            elif node.op == "call_function" and node.target is operator.add:
                self.layers.append(operator.add)
            else:
                raise TypeError(
                    f"{type(decoder).__name__}.forward does {node.format_node()}: a decoder is built from"
                    " spd_core.layers and '+' only"
                )
            self.arguments.append([number[argument] for argument in node.args])
        # A resize may take a second input for its size alone: no sites are read from it.
        self.read_arguments = [
            arguments[:1] if isinstance(layer, TapLayer) else arguments
            for layer, arguments in zip(self.layers, self.arguments)
        ]
        self.readers: list[list[int]] = [[] for _ in nodes]
        for value, arguments in enumerate(self.read_arguments, start=len(self.inputs)):
            for argument in arguments:
                self.readers[argument].append(value)
        # Which values are a convolution's, pointwise layers after it included.
        self.from_convolution = [False] * len(self.inputs)
        for layer, arguments in zip(self.layers, self.read_arguments):
            is_passed_on = not isinstance(layer, TapLayer) and any(self.from_convolution[a] for a in arguments)
            self.from_convolution.append(isinstance(layer, Conv3x3) or is_passed_on)

    def layer(self, value: int) -> Callable[..., Tensor]:
        return self.layers[value - len(self.inputs)]

    def reads(self, value: int) -> list[int]:
        """Numbers of the values that a value is made of."""
        return self.read_arguments[value - len(self.inputs)]

    def is_read_at_taps(self, value: int) -> bool:
        return any(isinstance(self.layer(reader), TapLayer) for reader in self.readers[value])

    def grids(self, inputs: tuple[Grid, ...]) -> tuple[Grid, ...]:
        """Grid of every value: the inputs, then each layer's output."""
        grids = list(inputs)
        for layer, arguments in zip(self.layers, self.arguments):
            sizes = [(grids[a].height, grids[a].width) for a in arguments]
            size = layer.output_size(*sizes) if isinstance(layer, TapLayer) else sizes[0]
            grids.append(Grid(grids[0].batch, *size))
        return tuple(grids)
