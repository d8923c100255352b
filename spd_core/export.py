"""ONNX: the network's two dense halves as graphs and as files, and onnxruntime's sessions.

The files are for one size of network input. Both packages are an extra (`pip install onnx onnxruntime`).
"""

from __future__ import annotations

import io
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .errors import SPDError
from .extras import extra
from .files import make_folder, write_bytes
from .model import SPD, check_input_size

OPSET = 17
ONE_EXPORT = threading.Lock()  # torch.onnx.export keeps its state for the whole process


class ExportError(SPDError):
    """The graph cannot be made, or does not answer what torch answers."""


def is_available() -> bool:
    """Whether onnx and onnxruntime are installed."""
    return find_spec("onnx") is not None and find_spec("onnxruntime") is not None


class _Encode(nn.Module):
    def __init__(self, model: SPD):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model.encode(images).maps.values())


def encoder_graph(model: SPD, size: tuple[int, int], size_is_free: bool = False) -> bytes:
    """Encoder and global path for `images` [1, 3, *size], ImageNet-normalised; outputs are the maps of `Features`, [1,
    h, w, C] each.

    With `size_is_free`, which a convolutional encoder allows, for any multiples of its stride.
    """
    free_axes = {"images": {2: "height", 3: "width"}} if size_is_free else None
    images = next(model.parameters()).new_zeros(1, 3, *size)
    return _graph(_Encode(model), (images,), ["images"], model.sparse_decoder.inputs, free_axes)


def _graph(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    input_names: list[str],
    output_names: list[str],
    free_axes: dict | None = None,
) -> bytes:
    if not is_available():
        raise ExportError("ONNX needs the packages onnx and onnxruntime: pip install onnx onnxruntime")
    buffer = io.BytesIO()
    with ONE_EXPORT, _torch_defaults(), warnings.catch_warnings(), torch.no_grad():
        # Of sizes that become constants: all of them, or the checks of one whose size is free.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            inputs,
            buffer,  # type: ignore[arg-type]  # a file too, which torch's own types forget
            input_names=input_names,
            output_names=output_names,
            dynamic_axes=free_axes,
            dynamo=False,
            opset_version=OPSET,
        )
    return _with_own_padding(buffer.getvalue())


@contextmanager
def _torch_defaults() -> Iterator[None]:
    """torch's own defaults for new tensors, whatever the process has: an export makes some. Where its type is another,
    other threads have float32 meanwhile too."""
    dtype = torch.get_default_dtype()
    if dtype != torch.float32:
        torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        if dtype != torch.float32:
            torch.set_default_dtype(dtype)


def _with_own_padding(graph: bytes) -> bytes:
    """`graph` with the padding of each `EvenSizeConv2d` inside its convolution. As a node of its own, which is all that
    torch can write, it makes onnxruntime leave its layout for convolutions and come back: a fifth of the encoder."""
    with extra("onnx"):
        import onnx

    model = onnx.load_from_string(graph)
    pads = {node.output[0]: node for node in model.graph.node if node.op_type == "Pad"}
    for conv in list(model.graph.node):  # which loses nodes on the way
        pad = pads.get(conv.input[0]) if conv.op_type == "Conv" else None
        if pad is not None and pad.name.removesuffix("Pad") == conv.name.removesuffix("Conv"):  # of one module
            own = [attribute for attribute in conv.attribute if attribute.name != "pads"]
            del conv.attribute[:]
            conv.attribute.extend([*own, onnx.helper.make_attribute("auto_pad", "SAME_UPPER")])
            conv.input[0] = pad.input[0]
            model.graph.node.remove(pad)
    return model.SerializeToString()


def onnx_session(graph: bytes):
    """An onnxruntime InferenceSession on as many threads as torch has."""
    with extra("onnx"):
        import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    # Its threads spin between layers (117 -> 97 ms for ConvNeXt V2 Atto at 480x640), but not on after the last, on the
    # cores that torch's need for the decoder.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # Fused with its product, a bias is written through the whole output before it is multiplied into; left alone, it
    # goes with the GELU (2-9 %).
    return onnxruntime.InferenceSession(
        graph, options, providers=["CPUExecutionProvider"], disabled_optimizers=["MatMulAddFusion"]
    )


@torch.inference_mode()
def export(model: SPD, folder: str | Path, size: tuple[int, int]) -> dict[str, float]:
    """Write `encoder.onnx` and `decoder.onnx` for network input of `size`, and check them against torch with
    onnxruntime. The decoder takes the encoder's outputs to `depth` [1, H, W, C] at the training focal length, padded to
    the encoder's stride; C is 1, metres, or 2 with the model's sigma.

    Returns:
        Largest difference of each output, relative to max(1, largest value).

    Raises:
        ExportError: the packages are missing, or an output differs by more than 1e-3.
        SPDError: the network cannot see an image of that size.
    """
    check_input_size(size)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    folder = make_folder(folder)
    first, generator = next(model.parameters()), torch.Generator().manual_seed(0)
    images = torch.randn(1, 3, *size, generator=generator, dtype=first.dtype, device="cpu")
    features = model.encode(images).maps
    maps, depth = {name: x.numpy() for name, x in features.items()}, model.decoder(**features).numpy()
    decoder = _graph(model.decoder, tuple(features.values()), list(features), ["depth"])
    differences, graphs = {}, {}
    for name, graph, inputs, expected in (
        ("encoder", encoder_graph(model, size), {"images": images.numpy()}, maps),
        ("decoder", decoder, maps, {"depth": depth}),
    ):
        graphs[name] = graph
        session = onnx_session(graph)
        used = {value.name for value in session.get_inputs()}
        for output, value in zip(
            expected, session.run(list(expected), {key: x for key, x in inputs.items() if key in used})
        ):
            differences[output] = float(
                np.abs(value - expected[output]).max() / max(1.0, np.abs(expected[output]).max())
            )
    if not all(difference <= 1e-3 for difference in differences.values()):  # nor NaN
        raise ExportError(f"the exported graphs differ from torch: {differences}; nothing is written")
    for name, graph in graphs.items():
        write_bytes(folder / f"{name}.onnx", graph)
    return differences
