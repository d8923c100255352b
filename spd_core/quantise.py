"""int8 arithmetic for an EfficientNet-Lite encoder: its ONNX graph with quantised weights and activations.

Both are quantised where the graph is made, from float32 weights: weights by channel, activations by tensor, with the
ranges that they have in the pictures that ship. Most ranges are known anyway, as ReLU6 ends at 6. The global path keeps
float32: it is small, and its GELU and normalisations gain nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

from .checkpoint import EMBEDDED
from .data.images import read_colour
from .extras import extra
from .files import temporary_folder
from .preprocess import normalise

BACKBONE = "/encoder/backbone/"  # how the names of its nodes begin
QUANTISED = ("Conv", "Clip", "Add")
SIZE = (256, 320)  # (height, width) px that pictures are shown at, multiples of the encoder's stride


def int8_graph(graph: bytes) -> bytes:
    """`graph` of `export.encoder_graph`, of an encoder whose size is free, with the backbone in int8."""
    with extra("onnx"):
        import onnx
        from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Pictures(CalibrationDataReader):
        feed = ({"images": picture} for picture in pictures())

        def get_next(self) -> dict | None:
            return next(self.feed, None)

    model = onnx.load_from_string(graph)
    # "Pre-processed", or it logs that it should be: there is nothing to fuse, BatchNorm is folded.
    onnx.helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    nodes = [node for node in model.graph.node if node.name.startswith(BACKBONE) and node.op_type in QUANTISED]
    weights = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    # Of 7 bits, unless depthwise: x86 without VNNI adds two products in 16 bits, and a pair of large weights of 8 bits
    # overflows there. Depthwise convolutions have instructions of their own.
    seven_bits = {
        node.input[1]: [{"axis": 0, "reduce_range": True}]
        for node in nodes
        if node.op_type == "Conv" and weights[node.input[1]][1] > 1
    }
    with temporary_folder() as folder:
        made = Path(folder, "int8.onnx")
        quantize_static(
            model,
            made,
            Pictures(),
            nodes_to_quantize=[node.name for node in nodes],
            per_channel=True,
            activation_type=QuantType.QUInt8,  # what x86's 8-bit instructions multiply with signed weights
            weight_type=QuantType.QInt8,
            extra_options={"TensorQuantOverrides": seven_bits},
        )
        return made.read_bytes()


def pictures() -> Iterator[np.ndarray]:
    """The photograph and the drawn rooms that ship beside the weights, each as it is, mirrored and upside down, as
    network input [1, 3, *SIZE]. Of one picture alone, ranges are too narrow for others."""
    for file in sorted(EMBEDDED.parent.glob("*.jpg")):
        rgb = cv2.resize(read_colour(file), SIZE[::-1], interpolation=cv2.INTER_AREA)
        for view in (rgb, rgb[:, ::-1], rgb[::-1]):
            yield normalise(torch.from_numpy(view.copy()).permute(2, 0, 1)[None]).contiguous().numpy()
