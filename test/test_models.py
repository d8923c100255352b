"""Presets against the parameters and multiply-accumulates that `v15` was designed to have (docs/history.md), and what
every trainable network must have."""

import copy

import pytest
import timm
import torch
from support.models import DEVICES, TESTED_PRESETS
from timm.layers import GlobalResponseNormMlp
from torch.utils.flop_counter import FlopCounterMode

from spd_core import SPD
from spd_core.backbones import EncoderError
from spd_core.encoders import ResponseMlp, set_drop_path
from spd_core.errors import SPDError
from spd_core.model import PRESETS

M = 1e6


def count(module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def macs() -> dict[str, dict[str, float]]:
    """Multiply-accumulates by module of each preset's dense pass at 416x544, as torch counts them."""
    result = {}
    for name in ("v15", "v15_refinenet", "dpt"):
        model = SPD.from_preset(name).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.zeros(1, 3, 416, 544))
        result[name] = {module: sum(flops.values()) / 2 for module, flops in counter.get_flop_counts().items()}
    return result


def test_parameters_are_those_of_the_design():
    model = SPD.from_preset("v15")
    assert round(count(model.decoder) / 1e3) == 246  # thousand
    proj_l2 = 192 * 64 + 64 * 3  # a third projection of the design fed nothing; it is not built
    assert count(model.global_path) + proj_l2 == 316_480
    assert count(model.global_path.refine4) == pytest.approx(78e3, rel=0.001)
    assert count(model.global_path.refine3) == pytest.approx(152e3, rel=0.001)
    assert count(model.encoder) == pytest.approx(28.6e6 - 0.77e6, rel=0.01)  # ConvNeXt V2-T without its classifier
    assert {name: p.numel() for name, p in model.decoder.named_parameters() if name.startswith("s8_1")} == {
        "s8_1.weight": 36_864,
        "s8_1.bias": 64,
    }


# multiply-accumulates at 416x544, M, by the design
DESIGN_LOCAL = {
    "s8_1": 131,
    "s8_2": 131,
    "project1": 87,
    "merge1": 524,
    "merge2": 524,
    "up1": 2086,
    "up2": 2086,
    "final": 4172,
    "head": 7,
}


@pytest.mark.parametrize("layer", DESIGN_LOCAL)
def test_dense_macs_of_the_local_path(macs, layer):
    # positions x channels x 9
    assert macs["v15"][f"SPD.decoder.{layer}"] / M == pytest.approx(DESIGN_LOCAL[layer], rel=0.01, abs=0.5)


def test_dense_macs_of_the_whole_local_path(macs):
    assert macs["v15"]["SPD.decoder"] / M == pytest.approx(9_800, rel=0.01)


DESIGN_GLOBAL = {
    "project4": 10.9,
    "project3": 21.7,
    "refine4.unit": 16.3,
    "refine4.out": 3.6,
    "refine3.skip_unit": 65.1,
    "refine3.unit": 65.1,
    "refine3.out": 14.5,
}


def test_macs_of_the_global_path(macs):
    """241 M in the design; we drop proj_L2 and run the two 1x1 convolutions before their resize, at a quarter of the
    cost."""
    ours = {layer: macs["v15"][f"SPD.global_path.{layer}"] / M for layer in DESIGN_GLOBAL}
    for layer, expected in DESIGN_GLOBAL.items():
        assert ours[layer] * (4 if layer.endswith(".out") else 1) == pytest.approx(expected, rel=0.01)
    proj_l2 = 52 * 68 * 192 * 64 / M
    assert sum(DESIGN_GLOBAL.values()) + proj_l2 == pytest.approx(241, rel=0.005)
    assert macs["v15"]["SPD.global_path"] / M == pytest.approx(sum(ours.values()), rel=1e-6)


def test_macs_of_the_full_dpt_decoder(macs):
    """3,219 M to stride 2 (projections 163 M, refinenet2 520 M, refinenet1 2,082 M, 1x1 convolutions
    before the resize here)."""
    local = "SPD.decoder.local_path"
    units = {
        name: macs["dpt"][f"{local}.{name}.skip_unit"] + macs["dpt"][f"{local}.{name}.unit"]
        for name in ("refine2", "refine1")
    }
    assert units["refine2"] / M == pytest.approx(521, rel=0.005)
    assert units["refine1"] / M == pytest.approx(2_085, rel=0.005)
    ours = macs["dpt"]["SPD.decoder.global_path"] + sum(
        macs["dpt"][f"{local}.{name}"] for name in ("project1", "project2", "refine2", "refine1")
    )
    saved = 3 / 4 * (3.6 + 14.5 + 57.9 + 231) * M
    assert (ours + saved) / M == pytest.approx(3_219, rel=0.005)


def test_dpt_and_refinenet_are_the_same_function_split_elsewhere(macs):
    whole, split = macs["dpt"]["SPD.decoder"], macs["v15_refinenet"]
    assert whole == pytest.approx(split["SPD.decoder"] + split["SPD.global_path"], rel=1e-6)


@pytest.mark.parametrize("preset", TESTED_PRESETS)
def test_every_parameter_gets_a_gradient(preset):
    torch.manual_seed(0)
    model = SPD.from_preset(preset)
    model(torch.randn(2, 3, 64, 96)).log().square().mean().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


@pytest.mark.parametrize("preset", TESTED_PRESETS)
def test_an_untrained_network_answers_about_the_prior(preset):
    torch.manual_seed(0)
    with torch.inference_mode():
        depth = SPD.from_preset(preset).eval()(torch.zeros(1, 3, 64, 64))[:, :1]
    assert (depth > 0).all()
    assert 1.0 < depth.median() < 6.0  # the head's bias is 2.5 m


@pytest.mark.parametrize("preset", ["lite", "atto", "v15_dinov2"])
def test_blocks_are_left_out_in_training_alone_as_often_as_said(preset):
    model = SPD.from_preset(preset)
    whole = model.eval().encoder(
        image := torch.randn(1, 3, 70, 70) if preset == "v15_dinov2" else torch.randn(1, 3, 64, 64)
    )
    set_drop_path(model.encoder, 0.5)
    for one, other in zip(whole, model.encoder(image)):
        torch.testing.assert_close(one, other)
    rates = [module.drop_prob for module in model.encoder.modules() if type(module).__name__ == "DropPath"]
    assert rates == sorted(rates)
    assert rates[-1] == 0.5
    model.encoder.train()
    same = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        same.append(model.encoder(image)[-1])
    assert torch.equal(same[0], same[1])
    assert not torch.equal(same[0], same[2])
    with pytest.raises(SPDError, match=r"got 1\.5 for"):
        set_drop_path(model.encoder, 1.5)


def test_channels_last_throughout():
    model = SPD.from_preset("lite").eval()
    with torch.inference_mode():
        features = model.encode(torch.randn(2, 3, 64, 96))
    assert all(x.is_contiguous() for x in features.maps.values())  # [B, H, W, C]
    convolutions = [p for p in model.parameters() if p.dim() == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in convolutions)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("use_conv", [False, True])
def test_response_normalisation_is_timms(use_conv, device):
    """With factors and biases that do something: timm starts them at zero, where any normalisation is none."""
    torch.manual_seed(0)
    theirs = GlobalResponseNormMlp(12, 48, use_conv=use_conv).to(device)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter)
    ours = copy.deepcopy(theirs)
    ours.__class__ = ResponseMlp
    x = torch.randn(2, 12, 5, 7, device=device) if use_conv else torch.randn(2, 5, 7, 12, device=device)
    with torch.no_grad():
        expected = theirs(x)
        torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        theirs.grn.bias.zero_()
        assert not torch.allclose(theirs(x), expected, rtol=0.1, atol=0.1)
    torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))  # timm's own


@pytest.mark.parametrize("name", ["mambaout_femto", "mobilenetv3_small_050", "hrnet_w18_small"])
def test_backbones_that_name_their_layout_or_not(name):
    """Channels last already, and two of timm's classes that do not say."""
    encoder = SPD.from_preset("v15", encoder=name).eval().encoder
    with torch.inference_mode():
        levels = encoder(torch.randn(1, 3, 64, 96))
    assert [level.shape[1:] for level in levels] == [
        (64 // stride, 96 // stride, channels) for stride, channels in zip((4, 8, 16, 32), encoder.channels)
    ]


def test_pyramids_normalise_responses_in_fewer_passes():
    mlps = [module for module in SPD.from_preset("atto").encoder.modules() if isinstance(module, GlobalResponseNormMlp)]
    assert mlps
    assert all(type(module) is ResponseMlp for module in mlps)


def test_an_encoder_of_one_size_is_named():
    with pytest.raises(EncoderError, match=r"efficientformer_l1 takes images of 224x224 px alone"):
        SPD.from_preset("v15", encoder="efficientformer_l1")


def test_encoder_weights_from_a_local_file(tmp_path):
    torch.manual_seed(1)
    donor = timm.create_model("convnextv2_atto")
    torch.save(donor.state_dict(), tmp_path / "atto.pth")
    model = SPD.from_preset("v15", encoder="convnextv2_atto", pretrained=str(tmp_path / "atto.pth"))
    ours = dict(model.encoder.backbone.named_parameters())
    torch.testing.assert_close(ours["stem_0.weight"], donor.stem[0].weight)
    torch.testing.assert_close(ours["stages_3.blocks.1.mlp.fc2.weight"], donor.stages[3].blocks[1].mlp.fc2.weight)


def test_weights_that_cannot_be_fetched_are_said_with_the_way_on(monkeypatch):
    def unreachable(*arguments, **options):
        raise OSError("no route to the hub")

    monkeypatch.setattr("timm.models._builder.load_pretrained", unreachable)
    with pytest.raises(EncoderError, match=r"convnextv2_atto \(OSError: no route to the hub\); .* `pretrained: PATH`"):
        SPD.from_preset("atto", pretrained=True)


def test_weights_of_other_pictures_than_imagenets_are_refused(monkeypatch):
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *arguments, **options: None)
    SPD.from_preset("atto", pretrained=True)
    with pytest.raises(EncoderError, match=r"mobilevitv2_050 were trained on images of mean \(0.0, 0.0, 0.0\)"):
        SPD.from_preset("atto", encoder="mobilevitv2_050", pretrained=True)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=f"unknown preset 'v14'; there are {', '.join(PRESETS)}"):
        SPD.from_preset("v14")
    with pytest.raises(EncoderError, match=r"nowhere\.pth"):
        SPD.from_preset("lite", pretrained="nowhere.pth")
    with pytest.raises(ValueError, match="exp"):
        SPD.from_preset("lite", activation="relu")
    for encoder, decoder, wanted in (
        ("vit_small_patch14_dinov2", "v15", "reassembled"),
        ("tf_efficientnet_lite0", "reassembled", "v15 or lite or refinenet or dpt"),
    ):
        with pytest.raises(SPDError, match=rf"{encoder} has \d+; expected the decoder {wanted}"):
            SPD.from_preset("lite", encoder=encoder, decoder=decoder)
    for name, value in (("training_focal_px", -5), ("training_focal_px", None), ("max_depth_m", float("nan"))):
        with pytest.raises(ValueError, match=rf"{name} must be a positive number, got {value}"):
            SPD.from_preset("lite", **{name: value})
    with pytest.raises(ValueError, match=r"H and W >= 64, got \[1, 3, 63, 64\]"):
        SPD.from_preset("lite").encode(torch.zeros(1, 3, 63, 64))
