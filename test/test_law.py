"""The law: a query is the dense map, evaluated at a point. Checked against torch's own grid_sample of the dense
output."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.law import assert_lawful, random_points, sample
from support.models import DEVICES, TESTED_PRESETS, lively
from torch.utils._python_dispatch import TorchDispatchMode

from spd_core.engine import SparseDecoder
from spd_core.layers import Conv3x3, Resize, TapLayer
from spd_core.plan import DENSE_ABOVE, DENSE_ABOVE_SHARED, NOTHING, Coverage, Known
from spd_core.sites import Grid, neighbours_3x3

torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # that is not fp32
SIZES = [(416, 544), (480, 640), (97, 131), (64, 64)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("preset", TESTED_PRESETS)
@torch.inference_mode()
def test_points_are_samples_of_the_dense_map(models, preset, size):
    if preset == "depth_anything_v2_vits" and size[0] > 400:
        pytest.skip("test_convert has large images for it")
    model = models[preset]
    features = model.encode(torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1)))
    dense = model.decode_dense(features)
    assert dense.shape == (1, 1, *size)
    assert dense.std() > 0.05, "a constant map would prove nothing"
    for count in (1, 128, 5000):
        points = random_points(1, count, size, seed=count)
        assert_lawful(model.decode_points(features, points), sample(dense, points))


@torch.inference_mode()
def test_sigma_is_held_to_the_law_as_depth_is(models):
    model, size = models["lite"], (97, 131)
    features = model.encode(torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(4)))
    maps, points = model.decode_maps(features), random_points(2, 500, size)
    values, _ = model.decode_planned(features, model.plan_points(points, features.grids, features.size))
    assert values.shape == (2, 500, 2)
    assert maps[:, 1].std() > 1e-4
    for channel in range(2):
        assert_lawful(values[..., channel], sample(maps[:, channel : channel + 1], points))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("preset", TESTED_PRESETS)
@torch.inference_mode()
def test_every_image_of_a_batch_answers_its_own_points(models, preset, device):
    model, size = copy.deepcopy(models[preset]).to(device), (70, 101)
    features = model.encode(torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(2)).to(device))
    points = random_points(3, 200, size).to(device)
    assert_lawful(model.decode_points(features, points), sample(model.decode_dense(features), points))


@pytest.mark.parametrize("dense_above", [0.0, 0.2, 2.0], ids=["all dense", "mixed", "all sparse"])
@pytest.mark.parametrize("preset", TESTED_PRESETS)
@torch.inference_mode()
def test_law_holds_wherever_the_dense_fallback_starts(models, preset, dense_above):
    model, size = models[preset], (96, 128)
    features = model.encode(torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(3)))
    points = random_points(2, 300, size)
    maps = list(features.maps.values())
    plan = model.sparse_decoder.plan(points.numpy(), [Grid(*x.shape[:3]) for x in maps], (dense_above, dense_above))
    assert_lawful(model.sparse_decoder.run(plan, maps)[0][..., 0], sample(model.decode_dense(features), points))


@torch.inference_mode()
def test_points_beyond_the_image_answer_its_border_and_nan_answers_nan(models):
    model, size = models["lite"], (97, 131)  # padded to 128x160: the padding must not be seen
    features = model.encode(torch.randn(1, 3, *size))
    points = torch.tensor([[[-7.0, 3.0], [400.0, 400.0], [float("nan"), 5.0], [float("inf"), 5.0], [130.4, 96.4]]])
    out = model.decode_points(features, points)
    reference = sample(model.decode_dense(features), torch.tensor([[[0.0, 3.0], [130.0, 96.0], [130.0, 96.0]]]))
    assert_lawful(out[:, [0, 1, 4]], reference)
    assert out[0, 2:4].isnan().all()


@torch.no_grad()
def test_autocast_bears_as_many_rows_as_there_are(models):
    model, size = models["v15"], (96, 128)
    points = random_points(1, 3000, size)
    with torch.autocast("cpu", torch.bfloat16):
        features = model.encode(torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(6)))
        plan = model.sparse_decoder.plan(points.numpy(), features.grids, (2.0, 2.0))
        answer, dense = model.decode_points(features, plan=plan), model.decode_dense(features)
    assert max(step.sites for step in plan.steps) > Conv3x3.CPU_CHUNK
    torch.testing.assert_close(answer.double(), sample(dense, points), rtol=0.2, atol=0.05)  # both round on their way


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@torch.inference_mode()
def test_points_of_half_precision_reach_the_last_column(models, dtype):
    """2,083 is none of its numbers, and 2,084 lies beyond."""
    features = models["lite"].encode(torch.randn(1, 3, 64, 2084, generator=torch.Generator().manual_seed(7)))
    answer = models["lite"].decode_points(features, torch.tensor([[[4096, 63]]], dtype=dtype))
    assert_lawful(answer, models["lite"].decode_dense(features)[:, 0, 63:, 2083])


@torch.inference_mode()
def test_no_points_is_no_answer(models):
    features = models["lite"].encode(torch.randn(2, 3, 64, 64))
    assert models["lite"].decode_points(features, np.zeros((2, 0, 2))).shape == (2, 0)


@torch.inference_mode()
def test_a_plan_serves_other_images_of_the_same_size(models):
    model, size = models["v15"], (64, 96)
    points = random_points(1, 50, size)
    first, second = (model.encode(torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(s))) for s in (4, 5))
    plan = model.plan_points(points, first.grids, first.size)
    for features in (first, second):
        assert_lawful(model.decode_points(features, plan=plan), sample(model.decode_dense(features), points))
    other = model.encode(torch.randn(1, 3, 64, 128))
    with pytest.raises(ValueError, match="the plan was made for feature maps"):
        model.decode_points(other, plan=plan)


@pytest.mark.parametrize("preset", TESTED_PRESETS)
@torch.inference_mode()
def test_no_site_is_computed_twice_and_none_in_vain(models, preset):
    """The work of a plan: unique sites, no more than the map has, and few for a single point."""
    model = models[preset]
    features = model.encode(torch.zeros(1, 3, 416, 544))
    plan = model.plan_points(
        np.full((1, 1000, 2), 100.0), features.grids, features.size
    )  # a thousand times the same point
    single = model.plan_points(np.full((1, 1, 2), 100.0), features.grids, features.size)
    assert [s.sites for s in plan.steps] == [s.sites for s in single.steps]
    for step in plan.steps:
        assert step.sites <= plan.grids[step.value].bordered_count
    assert single.steps[-1].sites == 1  # a whole pixel needs one site of the last layer


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("preset", TESTED_PRESETS)
@torch.inference_mode()
def test_half_precision_stays_within_its_own_rounding(preset, device, dtype):
    """The sparse answer of 16 bits is about as far from the fp32 one as the dense map of 16 bits is."""
    from spd_core import SPD

    torch.manual_seed(0)
    model, size = lively(SPD.from_preset(preset)).to(device), (96, 128)
    images = torch.randn(1, 3, *size, device=device)
    points = random_points(1, 128, size).to(device)
    features = model.encode(images)
    exact = sample(model.decode_dense(features), points)
    model.to(dtype)
    features = type(features)({name: x.to(dtype) for name, x in features.maps.items()}, features.size)
    dense16 = model.decode_dense(features)
    sparse16 = model.decode_points(features, points)
    assert dense16.dtype == sparse16.dtype == torch.float32  # the head does not round
    rounding = (sample(dense16, points) - exact).abs()
    error = (sparse16.double() - exact).abs()
    assert error.mean() <= 1.5 * rounding.mean() + 1e-4
    assert error.max() <= 3 * rounding.max() + 1e-3


@pytest.mark.parametrize("preset", TESTED_PRESETS)
def test_gradients_agree_with_the_dense_map(models, preset):
    """decode_points is differentiable, and its gradient is that of the sampled dense map."""
    model, size = models[preset], (64, 96)
    with torch.no_grad():
        features = model.encode(torch.randn(1, 3, *size))
    points = random_points(1, 60, size)
    weights = list(model.decoder.parameters())
    sparse = torch.autograd.grad(model.decode_points(features, points).sum(), weights)
    dense = torch.autograd.grad(sample(model.decode_dense(features), points).sum(), weights)
    for a, b in zip(sparse, dense):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * b.abs().max().item() + 1e-5)


@pytest.mark.parametrize("dense_above", [0.0, 0.3, 2.0])
@torch.inference_mode()
def test_resize_to_another_map_at_any_ratio(dense_above):
    """A second input that only lends its size, odd ratios and both corner conventions."""

    class Toy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.up, self.norm = Conv3x3(5, 6), Resize(align_corners=False), torch.nn.LayerNorm(6)
            self.conv2, self.last = Conv3x3(6, 1), Resize(3)

        def forward(self, level2, level1):
            x = self.up(self.conv1(level2), level1)
            return self.last(self.conv2(self.norm(x) + x))

    torch.manual_seed(0)
    toy = Toy()
    maps = [torch.randn(2, 9, 7, 5), torch.zeros(2, 23, 16, 3)]
    points = random_points(2, 40, (69, 48))
    sparse = SparseDecoder(toy)
    plan = sparse.plan(points.numpy(), [Grid(*x.shape[:3]) for x in maps], (dense_above, dense_above))
    reference = sample(toy(*maps).permute(0, 3, 1, 2), points)
    torch.testing.assert_close(sparse.run(plan, maps)[0][..., 0].double(), reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dense_above", [0.0, 0.3, 2.0])
@torch.inference_mode()
def test_a_new_layer_that_reads_neighbours_has_zeros_beyond_the_border(dense_above):
    """As CONTRIBUTING has it: what it reads, how it runs on a map and on rows."""

    class Depthwise(TapLayer):
        def __init__(self, features):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(features, 1, 3, 3))

        def on_map(self, x, size):
            return F.conv2d(x.permute(0, 3, 1, 2), self.weight, padding=1, groups=x.shape[-1]).permute(0, 2, 3, 1)

        def taps(self, out, source):
            return neighbours_3x3(out).reshape(-1), None

        def on_rows(self, rows, taps, weights):
            neighbours = rows[(taps[:, None] + torch.arange(3)).reshape(-1, 9).long()]  # [S, 9, C]
            return (neighbours * self.weight.flatten(1).T).sum(1)

    torch.manual_seed(0)
    toy = torch.nn.Sequential(torch.nn.Linear(4, 4), Depthwise(4), torch.nn.Linear(4, 4), Depthwise(4))
    maps, points = [torch.randn(2, 12, 17, 4)], random_points(2, 9, (12, 17))
    sparse = SparseDecoder(toy)
    plan = sparse.plan(points.numpy(), (Grid(2, 12, 17),), (dense_above, dense_above))
    reference = sample(toy(*maps)[..., :1].permute(0, 3, 1, 2), points)
    torch.testing.assert_close(sparse.run(plan, maps)[0][..., 0].double(), reference, rtol=1e-4, atol=1e-4)


def test_a_layer_without_a_sparse_rule_is_refused():
    class Pooled(torch.nn.Module):
        def forward(self, level1):
            return level1.mean()

    with pytest.raises(TypeError, match="built from spd_core"):
        SparseDecoder(Pooled())


def test_points_of_the_wrong_shape_are_refused(models):
    features = models["lite"].encode(torch.zeros(2, 3, 64, 64))
    with pytest.raises(ValueError, match=r"\[B, K, 2\] with B = 2, got \[1, 5, 2\]"):
        models["lite"].decode_points(features, np.zeros((1, 5, 2)))


QUERIES = [(128, 11), (128, 12), (1, 13), (3000, 14), (128, 11), (300, 15)]  # (points, seed); one comes again


@pytest.mark.parametrize(
    "dense_above",
    [(0.0, 0.0), DENSE_ABOVE_SHARED, DENSE_ABOVE, (2.0, 2.0)],
    ids=["all dense", "shared", "alone", "all sparse"],
)
@pytest.mark.parametrize("preset", TESTED_PRESETS)
@torch.inference_mode()
def test_a_query_after_others_is_lawful_and_leaves_out_what_they_evaluated(models, preset, dense_above):
    model, size = models[preset], (97, 131)
    features = model.encode(torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(6)))
    dense, known, work = model.decode_dense(features), Known(), []
    for count, seed in QUERIES:
        points = random_points(2, count, size, seed)
        plan, fresh = (
            model.sparse_decoder.plan(points.numpy(), features.grids, dense_above, before)
            for before in (known.coverage, NOTHING)
        )
        values, after = model.decode_planned(features, plan, known)
        assert_lawful(values[..., 0], sample(dense, points))
        again, known = model.decode_planned(features, plan, known)
        assert again.equal(values), "what is known was changed by a query"
        assert after.values.keys() == known.values.keys() == plan.after.sites.keys()
        work.append(model.sparse_decoder.multiply_accumulates(plan) / model.sparse_decoder.multiply_accumulates(fresh))
    assert work[0] == 1
    assert max(work[1:]) < 1
    finest = max(grid.count for grid in features.grids)
    for value, rows in known.values.items():
        assert rows[..., 0].numel() <= plan.grids[value].bordered_count
        assert plan.grids[value].count <= finest


@pytest.mark.parametrize("preset", TESTED_PRESETS)
@torch.inference_mode()
def test_a_small_query_after_a_large_one_and_a_large_one_after_a_small_one(models, preset):
    """A value known as a map is read at sites, one known at sites is wanted as a map."""
    model, size = models[preset], (70, 101)
    features = model.encode(torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(7)))
    y, x = np.mgrid[: size[0], : size[1]]
    every = torch.from_numpy(np.stack([x, y], axis=-1).reshape(1, -1, 2).astype(float))
    few = random_points(1, 20, size)
    dense = model.decode_dense(features)
    for order in ([every, few, every], [few, every, few]):
        known = Known()
        for points in order:
            plan = model.plan_points(points, features.grids, features.size, known.coverage)
            values, known = model.decode_planned(features, plan, known)
            assert_lawful(values[..., 0], sample(dense, points))


@pytest.mark.parametrize(("preset", "size"), [("lite", (237, 316)), ("v15", (416, 544))])  # 640x480 px, and NYU's crop
@torch.inference_mode()
def test_a_second_query_of_other_points_costs_a_third_less(models, preset, size):
    model = models[preset]
    features = model.encode(torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(8)))
    known, work = Known(), []
    for seed in (1, 2):
        points = random_points(1, 128, size, seed)
        plan = model.plan_points(points, features.grids, features.size, known.coverage, is_shared=True)
        _, known = model.decode_planned(features, plan, known)
        work.append(model.sparse_decoder.multiply_accumulates(plan))
    assert work[1] < 0.67 * work[0]
    alone = model.plan_points(random_points(1, 128, size, 1), features.grids, features.size)
    assert model.sparse_decoder.multiply_accumulates(alone) < 0.9 * work[0]


@torch.inference_mode()
def test_a_plan_is_resumed_from_what_it_was_made_for_only(models):
    model, size = models["v15"], (64, 96)
    features = model.encode(torch.randn(1, 3, *size))
    points = random_points(1, 50, size)
    first = model.plan_points(points, features.grids, features.size)
    _, known = model.decode_planned(features, first, Known())
    second = model.plan_points(random_points(1, 50, size, 1), features.grids, features.size, known.coverage)
    with pytest.raises(ValueError, match="other known values"):
        model.decode_points(features, plan=second)
    with pytest.raises(ValueError, match="other known values"):
        model.decode_planned(features, second, Known())


@pytest.mark.parametrize("preset", TESTED_PRESETS)
@torch.inference_mode()
def test_any_one_map_may_be_known(models, preset):
    """Whoever evaluated it, and whichever layers read it then: at sites, with its border or without."""
    model, size = models[preset], (64, 96)
    features = model.encode(torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(9)))
    points, decoder = random_points(1, 12, size), model.sparse_decoder
    reference, maps = sample(model.decode_dense(features), points), list(features.maps.values())
    for layer, arguments in zip(decoder.graph.layers, decoder.graph.arguments):
        maps.append(layer(*(maps[argument] for argument in arguments)))
    for value in range(len(decoder.inputs), len(maps)):
        known = Known(Coverage({value: None}), {value: maps[value]})
        plan = model.plan_points(points, features.grids, features.size, known.coverage)
        assert value not in [step.value for step in plan.steps]
        values, _ = model.decode_planned(features, plan, known)
        assert_lawful(values[..., 0], reference)


class Operations(TorchDispatchMode):
    """Records what torch runs: operator and shape of its result."""

    def __init__(self):
        super().__init__()
        self.ran = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.ran.append((str(function), getattr(out, "shape", None)))
        return out


@pytest.mark.parametrize("preset", TESTED_PRESETS)
@torch.inference_mode()
def test_every_pixel_costs_the_dense_pass_and_one_sampling(models, preset):
    model, (height, width) = models[preset], (64, 96)
    features = model.encode(torch.randn(1, 3, height, width))
    y, x = np.mgrid[:height, :width]
    plan = model.plan_points(np.stack([x, y], axis=-1).reshape(1, -1, 2).astype(float), features.grids, features.size)
    with Operations() as dense:
        model.decoder(**features.maps)
    with Operations() as points:
        model.decode_points(features, plan=plan)
    assert points.ran[: len(dense.ran)] == dense.ran
    sampling = [name for name, _ in points.ran[len(dense.ran) :]]
    assert [name for name in sampling if "embedding_bag" in name] == ["aten.embedding_bag.padding_idx"]
    assert not any(name.startswith(("aten.index_select", "aten.constant_pad_nd", "aten.mm")) for name in sampling)
