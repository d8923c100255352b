"""int8: that the encoder is quantised, what it costs in depth, that the law holds for what it answers, where it is
refused."""

import numpy as np
import onnx
import pytest
import torch
from torch.nn.functional import conv2d, pad

from spd_core import SPD, Predictor
from spd_core.errors import SPDError
from spd_core.export import encoder_graph
from spd_core.lite_encoder import EvenSizeConv2d
from spd_core.quantise import BACKBONE, int8_graph
from spd_rooms.synthetic import random_frame


@pytest.fixture(scope="module")
def int8():
    """With the first answers that it gave, at one point of one image."""
    predictor, room = Predictor.load(device="cpu", precision="int8"), random_frame(51, (240, 320))
    predictor.first = [predictor.encode(room.rgb, room.camera).depth_at([[100, 80]]) for _ in range(4)]
    return predictor


def test_depths_are_those_of_fp32_within_a_few_per_cent(int8, embedded):
    off = []
    for seed in range(3):
        room = random_frame(seed + 40, (480, 640))
        ours, expected = (predictor.encode(room.rgb, room.camera).dense_depth() for predictor in (int8, embedded))
        off.append(np.log(ours / expected))
    assert 1e-4 < np.median(np.abs(off)) < 0.04  # it is int8, and it is the same network
    assert abs(np.mean(off)) < 0.03


def test_the_law_holds(int8):
    room = random_frame(50, (480, 640))
    frame = int8.encode(room.rgb, room.camera)
    uv = np.random.default_rng(0).integers(0, (640, 480), (100, 2))
    np.testing.assert_allclose(frame.depth_at(uv), frame.dense_depth()[uv[:, 1], uv[:, 0]], rtol=1e-4)


def test_the_first_answers_are_those_of_later_ones(int8):
    assert len(np.unique(int8.first)) == 1


@pytest.fixture(scope="module")
def graph(embedded):
    with torch.inference_mode():
        graph = encoder_graph(embedded.model, (64, 64), size_is_free=True)
    return onnx.load_from_string(int8_graph(graph)).graph


def test_no_two_products_overflow_16_bits(graph):
    # vpmaddubsw, which x86 without VNNI multiplies with, adds two products of an unsigned and a signed byte in 16 bits.
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = [array for array in tensors.values() if array.dtype == np.int8 and array.ndim == 4]
    assert len(weights) > 40
    mixing = [np.abs(array.astype(int)).reshape(len(array), -1) for array in weights if array.shape[1] > 1]
    assert max(np.sort(array)[:, -2:].sum(1).max() * 255 for array in mixing) <= 2**15 - 1
    assert max(np.abs(array.astype(int)).max() for array in weights if array.shape[1] == 1) == 127


def test_every_convolution_of_the_backbone_is_quantised_and_nothing_else(graph):
    producers = {output: node for node in graph.node for output in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) > 40
    for node in convolutions:
        is_quantised = producers[node.input[1]].op_type == "DequantizeLinear" if node.input[1] in producers else False
        assert is_quantised == node.name.startswith(BACKBONE), node.name


@pytest.mark.filterwarnings("ignore:preset .* has random weights")
@pytest.mark.parametrize(
    ("preset", "arguments", "message"),
    [
        ("v15_dinov2", {}, "EfficientNet-Lite.*got encoder .*dinov2"),
        ("lite", {"runtime": "torch"}, "by runtime auto or onnxruntime.*runtime torch"),
        ("lite", {"runtime": "compile"}, "runtime compile"),
    ],
)
def test_int8_is_refused_in_words(preset, arguments, message):
    with pytest.raises(SPDError, match=message):
        Predictor.load(preset, "cpu", "int8", **arguments)


def test_int8_without_onnxruntime_is_refused(monkeypatch):
    monkeypatch.setattr("spd_core.runtimes.is_available", lambda: False)
    with pytest.raises(SPDError, match=r"precision int8 .* packages not installed"):
        Predictor(SPD.from_preset("lite"), "cpu", "int8")


@pytest.mark.parametrize("kernel", [3, 5])
def test_padding_is_tensorflows(kernel):
    layer = EvenSizeConv2d(4, 6, kernel, stride=2)
    x = torch.randn(1, 4, 64, 96, generator=torch.Generator().manual_seed(0))
    # TensorFlow's "SAME": total = max((ceil(size / stride) - 1) * stride + kernel - size, 0), the smaller half before.
    total = (32 - 1) * 2 + kernel - 64
    expected = conv2d(pad(x, (total // 2, total - total // 2) * 2), layer.weight, layer.bias, stride=2)
    timms = super(EvenSizeConv2d, layer).forward(x)
    torch.testing.assert_close(layer(x), timms)
    torch.testing.assert_close(layer(x), expected)
