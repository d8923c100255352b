"""The research baselines: query decoders that are what the documents say, learn in the trainer, and are compared."""

import json
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from setuptools import find_packages
from support.training import settings_of

from bench import queries as comparison
from spd_core import SPD, Predictor
from spd_core.data.augment import Augmentation
from spd_core.data.layouts import open_dataset
from spd_core.errors import SPDError
from spd_core.evaluation import Protocol
from spd_core.losses import Loss
from spd_core.training import TrainingError, train
from spd_research import training as query_training
from spd_research.judging import judge, multiply_accumulates
from spd_research.layers import HEADS, Attention, D, places, sampled
from spd_research.model import QUERY_DECODERS, QueryConfig, QuerySPD, load
from spd_research.training import QueryRun, QueryTrainConfig, random_targets
from spd_research.v14 import splat

ROOT = Path(__file__).parents[1]
CHANNELS = (96, 192, 384, 768)  # ConvNeXt V2-T, which the documents count with
HEIGHT, WIDTH = 96, 128


@pytest.fixture(scope="module", params=QUERY_DECODERS)
def decoder(request):
    torch.manual_seed(0)
    return QUERY_DECODERS[request.param](CHANNELS)


def independent(decoder) -> bool:
    return not hasattr(decoder, "canvases")


@pytest.fixture(scope="module")
def levels():
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(2, HEIGHT // stride, WIDTH // stride, c, generator=generator)
        for stride, c in zip((4, 8, 16, 32), CHANNELS)
    ]


@pytest.fixture(scope="module")
def points():
    generator = torch.Generator().manual_seed(2)
    return torch.rand(2, 12, 2, generator=generator) * torch.tensor([WIDTH - 1, HEIGHT - 1])


def test_gradients_reach_every_parameter(decoder, levels, points):
    depth = decoder(levels, points)
    assert depth.shape == (2, 12)
    assert (depth > 0).all()
    maps = decoder.auxiliary(levels)
    (depth.log().sum() + sum(m.log().sum() for m in maps)).backward()
    without = [name for name, p in decoder.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9]
    assert without == []


@torch.no_grad()
def test_the_order_of_queries_does_not_matter(decoder, levels, points):
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(decoder(levels, points[:, order]), decoder(levels, points)[:, order])


@torch.no_grad()
def test_other_queries_matter_where_the_documents_say_so(decoder, levels, points):
    alone, together = decoder(levels, points[:, :1]), decoder(levels, points)[:, :1]
    if independent(decoder):
        torch.testing.assert_close(alone, together)
    else:
        assert (alone / together - 1).abs().max() > 1e-3


@torch.no_grad()
def test_images_of_a_batch_do_not_mix(decoder, levels, points):
    each = [decoder([level[i : i + 1] for level in levels], points[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(torch.cat(each), decoder(levels, points))


@torch.no_grad()
def test_points_at_the_border_and_beyond(decoder, levels):
    at = torch.tensor([[[0.0, 0.0], [WIDTH - 1, HEIGHT - 1], [-50.0, 10.0], [WIDTH + 500.0, HEIGHT + 500.0]]])
    depth = decoder(levels, at.expand(2, -1, -1))
    assert torch.isfinite(depth).all()
    assert (depth > 0).all()


def count(module, *names: str) -> int:
    """Parameters, of those whose name has one of `names`."""
    return sum(p.numel() for key, p in module.named_parameters() if not names or any(n in key for n in names))


def test_parameters_of_v14():
    """Thousands, by the rows of the proposal's table (section 8) and of experiments 8 and 9."""
    v14, triple = (QUERY_DECODERS[name](CHANNELS) for name in ("v14", "v14_triple"))
    canvas = ("write.", "read.", "smooth")
    memory = ("3.cross.key", "3.cross.value", "4.cross.key", "4.cross.value")
    deformable, full = (count(v14.layers[part]) - count(v14.layers[part], *canvas) for part in (slice(3), slice(3, 5)))
    table = {
        "neck": (278, count(v14, "neck")),
        "level-4 self-attention": (886, count(v14, "self_attention")),
        "precomputed": (148, count(v14.layers, *memory)),
        "seed": (160, count(v14, "seed", "place_code")),
        "deformable layers": (2055, deformable),
        "full layers": (1334, full - count(v14.layers, *memory)),
        "dual canvas": (809, count(v14.layers, *canvas)),
        "triple canvas": (816, count(triple.layers, *canvas)),
        "head": (74, count(v14.head)),
        "training only": (111, count(v14.auxiliary_heads)),
        "decoder": (34_351 - 28_600, count(v14) - count(v14.auxiliary_heads)),
    }
    assert {row: found / 1e3 for row, (_, found) in table.items()} == {
        row: pytest.approx(said, rel=0.1) for row, (said, _) in table.items()
    }


@pytest.mark.parametrize(("name", "said"), [("v13_calibrated", 2.3e6), ("v13_deformable", 3.9e6), ("v13", 3.9e6)])
def test_parameters_of_v13(name, said):
    assert count(QUERY_DECODERS[name](CHANNELS)) == pytest.approx(said, rel=0.1)


def test_the_window_has_91_tokens_and_the_last_attention_33():
    v13 = QUERY_DECODERS["v13"](CHANNELS)
    seen = []
    v13.b5[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1].shape[2]))
    levels = [torch.randn(1, 256 // stride, 320 // stride, c) for stride, c in zip((4, 8, 16, 32), CHANNELS)]
    v13(levels, torch.rand(1, 5, 2) * 255)
    assert len(v13.window_code) == 91
    assert seen == [33]
    assert {level: chosen.shape for level, chosen in v13.chosen.items()} == {"3": (1, 5, 20), "4": (1, 5, 10)}


@pytest.mark.parametrize("stride", [4, 8, 16, 32])
def test_a_level_is_sampled_where_its_pixels_are(stride):
    """A map that holds the image coordinates of its own sites answers a point's own."""
    y, x = torch.meshgrid(torch.arange(HEIGHT // stride), torch.arange(WIDTH // stride), indexing="ij")
    level = (torch.stack([x, y], dim=-1)[None] + 0.5) * stride - 0.5
    points = torch.tensor([[[31.0, 40.0], [70.25, 44.5]]])
    at = places(points, torch.empty(1, HEIGHT // 4, WIDTH // 4, 1))
    torch.testing.assert_close(sampled(level, at), points, atol=1e-4, rtol=0)


@torch.no_grad()
def test_attention_is_that_of_torch():
    torch.manual_seed(5)
    ours, theirs = Attention(), torch.nn.MultiheadAttention(D, HEADS, batch_first=True)
    parts = (ours.query, ours.key, ours.value)
    theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
    theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, torch.zeros(D), ours.value.bias]))
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    for queries in (1, 7):
        x, tokens = torch.randn(3, queries, D), torch.randn(3, 9, D)
        for found, expected in zip(ours(x, tokens), theirs(x, tokens, tokens)):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_writing_to_a_canvas_is_the_transpose_of_reading_from_it():
    generator = torch.Generator().manual_seed(4)
    canvas, values = torch.randn(1, 6, 8, D, generator=generator), torch.randn(1, 1, D, generator=generator)
    for at in (torch.tensor([[[0.1, -0.3]]]), torch.tensor([[[-1.0, 1.0]]])):
        written = splat(values, at, (6, 8))
        torch.testing.assert_close((written * canvas).sum(), (values * sampled(canvas, at)).sum())
    crowd = splat(values.expand(-1, 50, -1), torch.full((1, 50, 2), 0.1), (6, 8))
    assert crowd.abs().max() <= values.abs().max() + 1e-5


def test_targets_are_different_valid_pixels_with_their_depth():
    target_m = torch.zeros(2, 1, 20, 30)
    target_m[0, 0, 5:15, 10:20] = torch.arange(1, 101).view(10, 10).float()
    target_m[1, 0, 0, :3] = torch.tensor([1.0, float("nan"), 3.0])
    points, depth_m = random_targets(target_m, 40)
    x, y = points.long().unbind(-1)
    assert (depth_m[0, 0, 0] > 0).all()
    assert len(depth_m[0].unique()) == 40
    torch.testing.assert_close(target_m[0, 0, y[0], x[0]], depth_m[0, 0, 0])
    assert sorted(depth_m[1].flatten().tolist())[-3:] == [0, 1, 3]  # the rest has no depth


def config(rooms, out, decoder: str, **changes) -> QueryTrainConfig:
    own = {
        "batch_size": 2,
        "steps": 12,
        "warmup": 3,
        "ema": 0.8,
        "encoder_lr": 1e-3,
        "decoder_lr": 1e-3,
        "validate_every": 12,
        "pictures": 0,
        "augment": Augmentation(crop=(64, 64), rotate_deg=0),
        "validation": Protocol(points=64, limit=4),
        "query_decoder": decoder,
        "query_points": 32,
    }
    return QueryTrainConfig(**settings_of(rooms, out, **{**own, **changes}))


@pytest.mark.parametrize("decoder_name", ["v13", "v14"])
def test_training_lowers_the_loss_and_goes_on(rooms, tmp_path, decoder_name):
    settings = config(rooms, tmp_path, decoder_name)
    report = train(settings, QueryRun)
    first, *_, last = report["history"]
    assert last["abs_rel"] < 0.8 * first["abs_rel"]
    assert report["step_s"] > 0
    assert train(settings, QueryRun) == report  # nothing is left to do
    model = load(tmp_path / "last.safetensors")
    assert isinstance(model, QuerySPD)
    found = judge(model, open_dataset(rooms), Protocol(limit=3), "cpu")
    assert found["random"]["n_valid"] == 3 * 128
    assert found["crowd"]["n_valid"] <= 3 * 128
    assert 0 < found["alone"] < 1
    if decoder_name == "v13":
        assert found["change"] < 1e-4
        assert 10 <= found["routing"]["3"] <= 24  # 4 x 6 tokens, of which a query chooses 20
    else:
        assert found["change"] > 1e-4


def test_a_query_decoder_gives_no_map_and_says_so(rooms, tmp_path):
    model = QuerySPD(QueryConfig("convnextv2_atto", "dpt", "exp", queries="v13")).eval()
    frame = Predictor(model, "cpu", runtime="torch").encode(
        np.zeros((64, 96, 3), np.uint8), open_dataset(rooms)[0].camera
    )
    assert frame.depth_at(np.array([[3.0, 4.0]])).shape == (1,)
    with pytest.raises(SPDError, match=r"answers at points, not maps; set validation\.points"):
        frame.dense_depth()


@pytest.mark.parametrize("is_first", [True, False])
def test_one_process_of_a_training_judges(rooms, tmp_path, monkeypatch, is_first):
    """The first, whatever a cluster calls it; with what base.yaml says."""
    recipe, made = query_training.BASE.with_name("exp05_v13.yaml"), []

    def train(config, kind):
        monkeypatch.setattr(query_training.QueryRun, "__init__", lambda run, *_: None)
        made.append(kind(config, None))
        made[0].fabric = SimpleNamespace(is_global_zero=is_first)

    monkeypatch.setattr(query_training, "train", train)
    monkeypatch.setattr(query_training, "write_judgement", made.append)
    monkeypatch.setattr(sys, "argv", ["training", "--config", str(recipe), "--out", str(tmp_path)])
    query_training.main()
    assert len(made) == 1 + is_first
    assert all(config.precision == "bf16-mixed" and config.query_decoder == "v13" for config in made[1:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation": Protocol()}, "validated at points"),
        ({"loss": Loss(gradient=0.1)}, "no loss.gradient"),
        ({"pictures": 2}, "pictures=2"),
    ],
)
def test_settings_that_queries_cannot_have(rooms, tmp_path, changes, message):
    with pytest.raises(TrainingError, match=message):
        config(rooms, tmp_path, "v13", **changes)


def test_multiply_accumulates_are_those_that_the_engine_counts():
    model = SPD.from_preset("v15", encoder="convnextv2_atto", input_size=(96, 128)).eval()
    image = torch.zeros(1, 3, 96, 128)
    with torch.no_grad():
        grids = model.encode(image).grids
    points = np.random.default_rng(0).uniform(0, [127, 95], (1, 128, 2)).astype(np.float32)
    local = model.sparse_decoder.multiply_accumulates(model.sparse_decoder.plan(points, grids))
    once = 64 * (160 * 6 * 8 + 320 * 3 * 4)  # projections of levels 3 and 4
    once += 64 * 64 * (9 * 2 * 3 * 4 + 3 * 4 + 9 * 4 * 6 * 8 + 6 * 8)  # refinenet4 and refinenet3
    assert multiply_accumulates(model)[1] == pytest.approx(local + once, rel=1e-3)


def test_compare_end_to_end(rooms, tmp_path, monkeypatch, capsys):
    arguments = {
        "config": ROOT / "training" / "queries.yaml",
        "data": rooms,
        "val": rooms,
        "out": tmp_path,
        "only": "v14,lite-third,lite-full",
        "steps": 2,
        "pretrained": "false",
        "batch_size": 2,
        "workers": 0,
        "device": "cpu",
        "model": json.dumps({"sigma": False, "input_size": [64, 96], "training_focal_px": 60.0}),
        "augment.border_px": 0,
        "augment.crop": "[64,64]",
        "validation.limit": 2,
    }
    words = [f"--{name}={value}" for name, value in arguments.items()]
    monkeypatch.setattr(sys, "argv", ["queries.py", *words])
    comparison.main()
    assert "| `v13` | not run" in capsys.readouterr().out
    results = json.loads((tmp_path / "comparison.json").read_text())
    assert list(results) == ["v14-full", "v14-third", "lite-full", "lite-third"]
    assert results["lite-full"]["judgement"]["change"] < 1e-5 < results["v14-full"]["judgement"]["change"]
    assert results["lite-full"]["settings"]["encoder_lr"] == pytest.approx(
        3 * results["lite-third"]["settings"]["encoder_lr"]
    )
    starts = {run: result["history"][0]["step"] for run, result in results.items()}
    assert set(starts.values()) == {0}
    rows = [line for line in (tmp_path / "comparison.md").read_text().splitlines() if line.startswith("| `")]
    assert len(rows) == len(comparison.SYSTEMS)
    assert len({row.count("|") for row in rows}) == 1
    monkeypatch.setattr(comparison, "train", lambda *_: pytest.fail("a finished system was run again"))
    comparison.main()


def test_unknown_system(tmp_path):
    with pytest.raises(SPDError, match=r"--only takes systems of v13.*got v12"):
        comparison.compare(QueryTrainConfig(steps=1, out=tmp_path), ["v12"])


def test_systems_differ_in_their_decoder_alone(tmp_path):
    common = QueryTrainConfig(steps=1, out=tmp_path, validation=Protocol(points=8), pictures=0)
    configs = [comparison.system_config(common, name, "full") for name in comparison.SYSTEMS]
    plain = [{**vars(c), "out": None, "model": None, "query_decoder": None} for c in configs]
    assert all(settings == plain[0] for settings in plain)
    assert replace(common, out=configs[-1].out, model=comparison.SYSTEMS["dpt"]["model"]) == configs[-1]


@pytest.mark.parametrize("recipe", sorted((ROOT / "training" / "research").glob("exp*.yaml")), ids=lambda p: p.stem)
def test_every_experiment_is_understood(recipe):
    from jsonargparse import auto_cli

    settings = auto_cli(QueryTrainConfig, args=[f"--config={query_training.BASE}", "--config", str(recipe)])
    run = QueryRun.__new__(QueryRun)
    with torch.device("meta"):
        model = run.initial_model(replace(settings, pretrained=False))
    assert model.config.queries == settings.query_decoder == recipe.stem.partition("_")[2]


def test_robots_do_not_get_it():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = find_packages(ROOT, include=project["tool"]["setuptools"]["packages"]["find"]["include"])
    assert "spd_core" in packages
    assert not [name for name in packages if name.startswith("spd_research")]
