"""Checkpoints come back as they went, and nothing else is let in."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from spd_core import SPD, checkpoint
from spd_core.checkpoint import EMBEDDED, CheckpointError


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    model = SPD.from_preset("atto", input_size=(64, 96)).eval()
    path = tmp_path_factory.mktemp("checkpoint") / "atto.safetensors"
    checkpoint.save(model, path, data="nothing", steps=3)
    return model, path


def rewrite(path, target, metadata=None, **tensors):
    """A copy of a checkpoint with other metadata or tensors (None removes one)."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        old = file.metadata()
    content = {name: tensor for name, tensor in {**load_file(path), **tensors}.items() if tensor is not None}
    save_file(content, target, old if metadata is None else metadata)
    return target


def test_round_trip(saved):
    model, path = saved
    loaded = checkpoint.load(path)
    assert loaded.config == model.config
    assert not loaded.training
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(loaded(images), model(images))
    assert checkpoint.provenance(path) == {"data": "nothing", "steps": 3}


def test_half_precision_files_load_as_float32(saved, tmp_path):
    model, _ = saved
    checkpoint.save(model, tmp_path / "half.safetensors", torch.float16)
    loaded = checkpoint.load(tmp_path / "half.safetensors")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.safetensors does not exist; give a .safetensors file"):
        checkpoint.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", b"\x80\x04\x95 a pickle?"])
def test_damaged_file(tmp_path, content):
    file = tmp_path / "bad.safetensors"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"bad\.safetensors is not a readable safetensors file"):
        checkpoint.load(file)


def test_truncated_file(saved, tmp_path):
    file = tmp_path / "cut.safetensors"
    file.write_bytes(saved[1].read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(file)


def test_foreign_safetensors(tmp_path):
    save_file({"x": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match=r"not an SPD checkpoint: its format is None, expected 'spd-1'"):
        checkpoint.load(tmp_path / "foreign.safetensors")


def test_other_tensors_are_named(saved, tmp_path):
    file = rewrite(
        saved[1],
        tmp_path / "other.safetensors",
        **{"decoder.head.bias": None, "decoder.extra": torch.zeros(2), "decoder.up1.bias": torch.zeros(7)},
    )
    with pytest.raises(
        CheckpointError,
        match=(
            r"3 tensors differ: decoder.up1.bias is \(7,\), expected \(32,\); missing decoder.head.bias \(1,\);"
            r" unexpected decoder.extra \(2,\)"
        ),
    ):
        checkpoint.load(file)


def test_configuration_of_the_future_is_named(saved, tmp_path):
    config = {**saved[0].config_dict(), "telepathy": True}
    metadata = {"format": "spd-1", "config": json.dumps(config), "provenance": "{}"}
    with pytest.raises(CheckpointError, match=r"\['telepathy'\]"):
        checkpoint.load(rewrite(saved[1], tmp_path / "new.safetensors", metadata))


def test_a_model_that_cannot_be_built_is_named(saved, tmp_path):
    metadata = {
        "format": "spd-1",
        "config": json.dumps({**saved[0].config_dict(), "encoder": "convnext_imaginary"}),
        "provenance": "{}",
    }
    with pytest.raises(CheckpointError, match="convnext_imaginary"):
        checkpoint.load(rewrite(saved[1], tmp_path / "odd.safetensors", metadata))


def test_embedded_weights_are_small_and_say_what_they_are():
    assert EMBEDDED.stat().st_size <= 10e6
    checkpoint.load(EMBEDDED)
    provenance = checkpoint.provenance(EMBEDDED)
    test, constant = provenance["test"], provenance["constant"]
    assert test["n_images"] == 500
    assert test["abs_rel"] < 0.6 * constant["abs_rel"]
    assert test["d1"] > constant["d1"] + 0.3
    card = EMBEDDED.with_suffix(".md").read_text()
    assert "have not seen a real photograph" in card
    for value in (test["abs_rel"], test["d1"], constant["abs_rel"]):
        assert f"{value:.3f}" in card
