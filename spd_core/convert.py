"""Released checkpoints of other projects to SPD's: Depth Anything V2's metric models (Yang et al. 2024)."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from . import files
from .camera import Camera
from .checkpoint import CheckpointError, fill
from .data.images import read_colour
from .model import PRESETS, SPD
from .predictor import Predictor

SOURCE = "https://github.com/DepthAnything/Depth-Anything-V2"
LICENCES = {"vits": "Apache-2.0", "vitb": "CC-BY-NC-4.0", "vitl": "CC-BY-NC-4.0"}
# What their file names say: largest depth, and focal length at the network's size of 518 px (metric_depth/README.md;
# focal lengths of the data sets).
DATASETS = {"hypersim": (20.0, 886.81 * 518 / 768), "vkitti": (80.0, 725.0 * 518 / 375)}
# A furnished room of 1.8 to 3.5 m, drawn (in the repository) by: python -c "import cv2; from spd_rooms.synthetic import
# random_frame as r; cv2.imwrite('spd_core/weights/room.jpg', r(0, (196, 252)).rgb[..., ::-1])"
ROOM = Path(__file__).parent / "weights" / "room.jpg"
ROOM_CAMERA = Camera(213.61043, 213.61043, 122.80948, 97.76153)
# Parts of their tensors' names, and what they become in ours, one after the other; what their network does not use.
UNUSED = re.compile(r"pretrained\.mask_token|depth_head\.scratch\.refinenet4\.resConfUnit1\..*")
RENAMED = (
    (r"depth_head\.scratch\.layer([12])_rn", r"decoder.project\1"),
    (r"depth_head\.scratch\.layer([34])_rn", r"global_path.project\1"),
    (r"depth_head\.scratch\.refinenet([12])\.", r"decoder.refine\1."),
    (r"depth_head\.scratch\.refinenet([34])\.", r"global_path.refine\1."),
    (r"resConfUnit1", "skip_unit"),
    (r"resConfUnit2", "unit"),
    (r"out_conv\.", "out."),
    (r"depth_head\.scratch\.output_conv1", "decoder.conv1"),
    (r"depth_head\.scratch\.output_conv2\.0", "decoder.conv2"),
    (r"depth_head\.scratch\.output_conv2\.2", "decoder.head"),
    (r"^depth_head\.", "encoder."),  # projects and resize_layers are left
    (r"^pretrained\.", "encoder.pretrained."),
)


def our_name(name: str) -> str | None:
    """Our name of a tensor of Depth Anything V2; None for one that their network does not use."""
    if UNUSED.fullmatch(name):
        return None
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def depth_anything_v2(path: str | Path, max_depth_m: float | None = None) -> tuple[SPD, dict]:
    """A released metric checkpoint `depth_anything_v2_metric_<hypersim|vkitti>_<vits|vitb|vitl>.pth` as a model, and
    its provenance.

    Args:
        path: the file; read without running pickled code.
        max_depth_m: for a file under another name: 20 (Hypersim) or 80 (Virtual KITTI). Their network multiplies by it,
            the file does not hold it.

    Raises:
        CheckpointError: no such file, not these weights, a relative-depth checkpoint, or a wrong `max_depth_m`.
    """
    path = files.expanded(path)
    if not path.is_file():
        raise CheckpointError(
            f"{path} {files.problem(path)}; the released files are linked in metric_depth/README.md of {SOURCE},"
            " --download fetches them. The weights 'embedded' run without any"
        )
    dataset = _trained_on(path, max_depth_m)
    theirs = _read(path)
    renamed = ((our_name(name), tensor) for name, tensor in theirs.items())
    ours = {name: tensor for name, tensor in renamed if name is not None}
    projection = ours.get("encoder.projects.0.weight")
    sizes = {384: "vits", 768: "vitb", 1024: "vitl"}
    if projection is None or projection.dim() < 2 or projection.shape[1] not in sizes:
        raise CheckpointError(
            f"{path} is not a Depth Anything V2 checkpoint of size vits, vitb or vitl: its tensors are"
            f" {', '.join(sorted(theirs)[:3])}, ..."
        )
    size = sizes[projection.shape[1]]
    depth_m, focal_px = DATASETS[dataset]
    model = SPD(replace(PRESETS[f"depth_anything_v2_{size}"], max_depth_m=depth_m, training_focal_px=focal_px))
    expected = model.state_dict()
    for name, tensor in ours.items():
        is_linear = name in expected and expected[name].dim() == 2
        if is_linear and tensor.dim() == 4:  # a 1x1 convolution of theirs
            ours[name] = tensor[:, :, 0, 0]
    fill(model, ours, f"{path} does not fit Depth Anything V2 {size}")
    _refuse_relative(model.eval(), path)
    source = f"{SOURCE}, {path.name}"
    return model, {"source": source, "license": LICENCES[size], "trained_on": dataset, "converted_by": "spd convert"}


def _trained_on(path: Path, max_depth_m: float | None) -> str:
    """The key of DATASETS of a file, by its name or else by `max_depth_m`.

    Raises:
        CheckpointError: neither says it, they contradict each other, or the name is that of a relative checkpoint.
    """
    by_name = next((name for name in DATASETS if f"metric_{name}" in path.name), None)
    if by_name is None and re.fullmatch(r"depth_anything_v2_vit[sblg]\.pth", path.name):
        raise CheckpointError(
            f"{path} is a relative-depth checkpoint of Depth Anything V2: it answers inverse depth of unknown scale,"
            " never metres. Get depth_anything_v2_metric_hypersim_vits.pth (indoor) or"
            f" depth_anything_v2_metric_vkitti_vits.pth (outdoor), see {SOURCE}"
        )
    by_depth: dict[float | None, str | None] = {depth: name for name, (depth, _) in DATASETS.items()}
    by_depth[None] = by_name
    if max_depth_m not in by_depth:
        raise CheckpointError(f"max_depth_m is {max_depth_m}; expected 20 (Hypersim) or 80 (Virtual KITTI)")
    dataset = by_depth[max_depth_m]
    if dataset is None:
        raise CheckpointError(
            f"{path.name} does not say which data its depth is scaled to: give --max_depth_m 20 for the Hypersim"
            " model, 80 for Virtual KITTI"
        )
    if by_name not in (None, dataset):
        raise CheckpointError(
            f"{path.name} was trained with a largest depth of {DATASETS[by_name][0]:.0f} m, not {max_depth_m:.0f}:"
            " every answer would be wrong in proportion"
        )
    return dataset


def download(name: str) -> Path:
    """Fetch a released metric checkpoint, by its file name, through the hub's own client; kept in that client's cache.

    Raises:
        CheckpointError: no such file is released, or the hub cannot be reached.
    """
    match = re.fullmatch(r"depth_anything_v2_metric_(hypersim|vkitti)_vit([sbl])\.pth", name)
    if match is None:
        raise CheckpointError(
            f"{name} is not released; there are depth_anything_v2_metric_<hypersim|vkitti>_<vits|vitb|vitl>.pth"
        )
    from huggingface_hub import hf_hub_download  # comes with timm; needed here alone

    dataset = {"hypersim": "Hypersim", "vkitti": "VKITTI"}[match[1]]
    size = {"s": "Small", "b": "Base", "l": "Large"}[match[2]]
    repository = f"depth-anything/Depth-Anything-V2-Metric-{dataset}-{size}"
    try:
        return Path(hf_hub_download(repository, name))
    except Exception as error:  # the client raises those of three HTTP libraries
        raise CheckpointError(
            f"{name} could not be fetched from {repository} ({type(error).__name__}); fetch it elsewhere and give its"
            " path"
        ) from error


def _read(path: Path) -> dict[str, Tensor]:
    content = files.read_torch(path, error=CheckpointError)
    for wrapper in ("model", "state_dict"):
        if isinstance(content, dict):
            content = content.get(wrapper, content)
    content = content if isinstance(content, dict) else {}
    tensors = {str(name).removeprefix("module."): x for name, x in content.items() if isinstance(x, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors by name: it is not a checkpoint of {SOURCE}")
    return tensors


def _refuse_relative(model: SPD, path: Path) -> None:
    """Relative checkpoints have the same tensors, but end in a ReLU: what they answer is positive nearly everywhere,
    which in the metric models' sigmoid is beyond half of the largest depth, in a room of a few metres too."""
    room, half_m = read_colour(ROOM), 0.5 * (model.config.max_depth_m or 0.0)
    height, width = room.shape[:2]
    frame = Predictor(model, "cpu", input_size=(height, width)).encode(room, ROOM_CAMERA)
    share = float((frame.dense_depth() / frame.focal_factor > half_m).mean())
    if share > 0.9:
        raise CheckpointError(
            f"{path} answers more than {half_m:.0f} m at {share:.0%} of a furnished room of a"
            " few metres: this is a relative-depth checkpoint under another name"
        )
