"""ONNX files against torch, run by onnxruntime."""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from spd_core import export
from spd_core.export import ExportError

pytest.importorskip("onnx", reason="ONNX export is an extra")
onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX export is an extra")


@pytest.mark.parametrize("preset", ["lite", "dpt", "depth_anything_v2_vits"])
def test_the_two_files_are_the_dense_network(models, preset, tmp_path):
    model, size = models[preset], (112, 140)
    assert max(export.export(model, tmp_path, size).values()) < 1e-4
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(3))
    encoder, decoder = (onnxruntime.InferenceSession(tmp_path / f"{name}.onnx") for name in ("encoder", "decoder"))
    maps = dict(zip([output.name for output in encoder.get_outputs()], encoder.run(None, {"images": images.numpy()})))
    depth = decoder.run(["depth"], {value.name: maps[value.name] for value in decoder.get_inputs()})[0]
    with torch.inference_mode():
        np.testing.assert_allclose(depth[:, :112, :140, 0], model(images)[:, 0].numpy(), rtol=1e-3, atol=1e-4)


def test_two_networks_become_graphs_at_once(models):
    """Two cameras' predictors, each of which makes its graph when it has seen a few images."""
    with ThreadPoolExecutor(2) as threads:
        graphs = list(threads.map(lambda name: export.encoder_graph(models[name], (64, 64)), ["lite", "dpt"] * 2))
    assert [len(graph) for graph in graphs[:2]] == [len(graph) for graph in graphs[2:]]


def test_weights_that_answer_nothing_are_no_success(models, tmp_path):
    model = copy.deepcopy(models["lite"])
    torch.nn.init.constant_(model.decoder.head.bias, torch.nan)
    with pytest.raises(ExportError, match=r"differ from torch: .*nan"):
        export.export(model, tmp_path, (64, 64))
    assert list(tmp_path.iterdir()) == [], "graphs that were good are not replaced"


def test_without_the_packages_the_error_says_what_to_install(models, monkeypatch, tmp_path):
    monkeypatch.setattr(export, "is_available", lambda: False)
    with pytest.raises(ExportError, match="pip install onnx onnxruntime"):
        export.export(models["lite"], tmp_path, (64, 64))
