"""The layouts of NYU Depth V2 from files in exactly their formats, RGB-D folders, and what a broken one says."""

import multiprocessing
import pickle
import runpy
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from scipy.io import savemat
from support.data_sets import Samples, same_samples, write_rgbd

from spd_cli.commands import check, preview
from spd_core.camera import Camera
from spd_core.data import nyu
from spd_core.data.augment import Augmentation
from spd_core.data.check import Summary, mean_depth, summarise
from spd_core.data.images import read_colour, write_picture
from spd_core.data.layouts import open_dataset
from spd_core.data.loader import AugmentedSamples, read_all, training_batches
from spd_core.data.samples import DataError, InMemory, Sample, Subset
from spd_core.data.shards import SHARD
from spd_core.errors import SPDError

SIZE = (480, 640)


def frame(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random rgb uint8 and depth on whole millimetres, with a hole."""
    rng = np.random.default_rng(seed)
    depth_m = rng.integers(700, 9900, SIZE).astype(np.float32) / 1000
    depth_m[:40, :50] = 0
    return rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8), depth_m


def write_h5(root, count=3):
    for i, name in enumerate(
        ["train/kitchen_0001/00001.h5", "train/office_0002/00021.h5", "val/official/00001.h5"][:count]
    ):
        rgb, depth_m = frame(i)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(root / name, "w") as file:
            file["rgb"], file["depth"] = rgb.transpose(2, 0, 1), depth_m


def write_bts(root, inputs="train_test_inputs"):
    for split, folder, count in (("train", "sync", 2), ("test", "official_splits/test", 1)):
        lines = []
        for i in range(count):
            rgb, depth_m = frame(i)
            slash = "/" if split == "train" else ""  # the published train list has it, the test list has not
            names = [f"{slash}kitchen_0001/rgb_{i:05d}.png", f"{slash}kitchen_0001/sync_depth_{i:05d}.png"]
            (root / folder / "kitchen_0001").mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / folder / names[0].lstrip("/")), rgb[..., ::-1])
            cv2.imwrite(str(root / folder / names[1].lstrip("/")), (depth_m * 1000).round().astype(np.uint16))
            lines.append(" ".join([*names, "518.8579"]))
        (root / inputs).mkdir(exist_ok=True)
        (root / inputs / f"nyudepthv2_{split}_files_with_gt.txt").write_text("\n".join(lines) + "\n")


def write_mat(root):
    frames = [frame(i) for i in range(3)]
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w") as file:  # MATLAB's [480, 640, 3, N] appears reversed
        file["images"] = np.stack([rgb.transpose(2, 1, 0) for rgb, _ in frames])
        file["rawDepths"] = np.stack([depth.T for _, depth in frames])
        file["depths"] = np.stack([np.where(depth > 0, depth, 1.5).T for _, depth in frames])
    savemat(root / "splits.mat", {"trainNdxs": np.array([[1], [2]]), "testNdxs": np.array([[3]])})


def write_folder(root):
    for name in "ab":
        write_rgbd(root, name, *frame(ord(name)), "500 501 320 240")


def write_rooms(root):
    rng = np.random.default_rng(0)
    rgb, depth_mm = (
        rng.integers(0, 256, (SHARD, 16, 24, 3), np.uint8),
        rng.integers(0, 9000, (SHARD, 16, 24), np.uint16),
    )
    np.savez(root / "rooms_00000000.npz", rgb=rgb, depth_mm=depth_mm, camera=rng.uniform(10, 20, (SHARD, 4)))
    (root / "rooms_00000250.npz").write_bytes(b"half of one")


@pytest.mark.parametrize(
    ("write", "layout"), [(write_h5, "NYU h5"), (write_bts, "NYU file lists"), (write_mat, "NYU labelled")]
)
def test_nyu_layouts(tmp_path, write, layout):
    write(tmp_path)
    train, test = open_dataset(tmp_path, "train"), open_dataset(tmp_path, "test")
    assert train.layout.startswith(layout)
    assert (len(train), len(test)) == (2, 1)
    for i in range(2):
        rgb, depth_m = frame(i)
        sample = train[i]
        np.testing.assert_array_equal(sample.rgb, rgb)
        np.testing.assert_allclose(sample.depth_m, depth_m, atol=1e-6)
        assert sample.depth_m.dtype == np.float32
        assert sample.camera.fx == pytest.approx(nyu.CAMERA.fx, abs=1e-4)
    expected = frame(2 if layout != "NYU file lists" else 0)
    np.testing.assert_array_equal(test[0].rgb, expected[0])


def test_mat_can_be_opened_by_name_and_read_by_workers(tmp_path):
    write_mat(tmp_path)
    dataset = open_dataset(tmp_path / "nyu_depth_v2_labeled.mat")
    dataset[0]  # the parent's open file must not reach the workers
    samples = list(read_all(dataset, workers=2))
    for i, sample in enumerate(samples):
        np.testing.assert_array_equal(sample.rgb, frame(i)[0])
    assert dataset.name(1) == "nyu_depth_v2_labeled.mat[2]"


def test_the_labelled_images_become_the_folders_of_the_recipes(tmp_path):
    write_mat(tmp_path)
    savemat(tmp_path / "splits.mat", {"trainNdxs": np.array([[1], [3]]), "testNdxs": np.array([[2]])})
    runpy.run_path(str(Path(__file__).parents[1] / "training" / "nyu_folders.py"))["main"](tmp_path)
    for split, number in (("train", 0), ("val", 2)):  # image 2 is of a room of `val`
        [sample] = open_dataset(tmp_path / split)
        np.testing.assert_array_equal(sample.rgb, frame(number)[0])
        np.testing.assert_allclose(sample.depth_m, frame(number)[1], atol=5e-4)
        assert sample.camera == nyu.CAMERA


@pytest.mark.parametrize("write", [write_h5, write_bts, write_mat, write_folder, write_rooms])
def test_data_sets_go_to_other_processes_as_they_are(tmp_path, write):
    """Workers that are not forked get a pickled copy, of a data set that may have been read before."""
    write(tmp_path)
    opened = Subset(open_dataset(tmp_path), [1, 0])
    opened[0]
    same_samples(pickle.loads(pickle.dumps(opened)), opened)
    kept = InMemory(opened)
    same_samples(pickle.loads(pickle.dumps(kept)), opened)


def test_a_shard_that_is_broken_is_broken_in_other_processes(tmp_path):
    write_rooms(tmp_path)
    rooms = pickle.loads(pickle.dumps(open_dataset(tmp_path)))
    with pytest.raises(DataError, match=r"rooms_00000250\.npz is text"):
        rooms[SHARD]


def test_a_room_whose_camera_is_none_is_broken_alone(tmp_path):
    write_rooms(tmp_path)
    with np.load(tmp_path / "rooms_00000000.npz") as shard:
        content = dict(shard)
    content["camera"][3] = 0
    np.savez(tmp_path / "rooms_00000000.npz", **content)
    rooms = open_dataset(tmp_path)
    rooms[2]
    with pytest.raises(DataError, match=r"rooms_00000000\[3\]: camera intrinsics must be finite with positive"):
        rooms[3]


@pytest.fixture
def spawning():
    """Processes that are not forked, as on macOS, Windows and Python 3.14."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


def test_workers_need_not_be_forked(tmp_path, spawning):
    write_mat(tmp_path)
    dataset = open_dataset(tmp_path)
    dataset[0]
    for sample, expected in zip(read_all(dataset, workers=1), (frame(0), frame(1)), strict=True):
        np.testing.assert_array_equal(sample.rgb, expected[0])
    samples = AugmentedSamples([(dataset, 1.0)], Augmentation(crop=(96, 128)), 300.0, seed=5)
    here, there = (next(iter(training_batches(samples, 0, 1, 2, workers=workers))) for workers in (0, 1))
    assert here["rgb"].equal(there["rgb"])
    assert here["depth_m"].equal(there["depth_m"])


def test_rgbd_folder(tmp_path):
    rgb, depth_m = frame(0)
    cv2.imwrite(str(tmp_path / "a.rgb.png"), rgb[..., ::-1])
    cv2.imwrite(str(tmp_path / "b.png"), rgb[..., ::-1])
    cv2.imwrite(str(tmp_path / "a.depth.png"), (depth_m * 1000).round().astype(np.uint16))
    (tmp_path / "camera.txt").write_text("500 501 320 240\n")
    dataset = open_dataset(tmp_path)
    assert (len(dataset), dataset.name(0), dataset[0].camera) == (1, "a", Camera(500, 501, 320, 240))
    np.testing.assert_allclose(dataset[0].depth_m, depth_m, atol=1e-6)
    for content, fault in (
        ("1000 1002 640 480", "at 640,480: it looks like the calibration of a 1281x961 picture"),
        ("250 250 159.5 119.5", "of a 320x240 picture, and this one is 640x480 px; .* each of them times 2"),
        ("668 668 400 314", "looks like the calibration of a 801x629 picture"),
        ("500 501 239.5 319.5", "at 239.5,319.5, the middle of the picture before it was turned"),
        ("500 501 600 240", "at 600,240, outside the picture .* or at its edge"),
        ("4 4 3 2", "mm"),
    ):
        (tmp_path / "camera.txt").write_text(content)  # of another size; of no part of a picture; in millimetres
        with pytest.raises(DataError, match=rf"camera\.txt for a\.rgb\.png is .*{fault}"):
            open_dataset(tmp_path)[0]
    (tmp_path / "camera.txt").write_text("500 320 501 240")  # as K is printed
    with pytest.raises(DataError, match=r"camera\.txt for a\.rgb\.png: .* 500, 320, 501, 240 look like fx cx fy cy"):
        open_dataset(tmp_path)[0]
    (tmp_path / "camera.txt").write_text("500 501 320")
    with pytest.raises(DataError, match=r"camera\.txt holds '500 501 320'; expected four numbers"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(("folder", "suffix"), [("rgb", "png"), ("color", "jpg"), ("images", "png")])
def test_pictures_and_depth_in_folders_of_their_own(tmp_path, folder, suffix):
    rgb, depth_m = frame(0)
    (tmp_path / folder).mkdir()
    (tmp_path / "depth").mkdir()
    for name in ("0", "1", "2.15"):
        cv2.imwrite(str(tmp_path / folder / f"{name}.{suffix}"), rgb[..., ::-1])
    for name in ("0", "2.15", "2.17"):
        cv2.imwrite(str(tmp_path / "depth" / f"{name}.png"), (depth_m * 1000).round().astype(np.uint16))
    (tmp_path / "camera.txt").write_text("500 501 320 240\n")
    with pytest.warns(UserWarning, match=rf"left out 2 files that are no pair .*: 1\.{suffix}, 2\.17\.png"):
        dataset = open_dataset(tmp_path)
    assert (dataset.names, dataset[0].camera) == (["0", "2.15"], Camera(500, 501, 320, 240))
    np.testing.assert_allclose(dataset[1].depth_m, depth_m, atol=1e-6)
    for name in ("0", "2.15"):
        (tmp_path / "depth" / f"{name}.png").unlink()
    with pytest.raises(DataError, match=r"no images .* or depth/<name>\.png of the same name, in "):
        open_dataset(tmp_path)


def test_depth_beside_its_picture_comes_before_a_folder_of_depth(tmp_path):
    """Also where the folder of pictures is called as one beside depth would be."""
    rgb, depth_m = frame(0)
    for folder in ("images", "depth", "rgb"):
        (tmp_path / folder).mkdir()
    for folder, factor in (("images", 1000), (".", 500)):
        cv2.imwrite(str(tmp_path / folder / "a.png"), rgb)
        cv2.imwrite(str(tmp_path / folder / "a.depth.png"), (depth_m * factor).round().astype(np.uint16))
        cv2.imwrite(str(tmp_path / "rgb" / "a.png"), rgb)
        cv2.imwrite(str(tmp_path / "depth" / "a.png"), np.full(depth_m.shape, 9000, np.uint16))
    for folder, factor in (("images", 1), (".", 0.5)):
        np.testing.assert_allclose(open_dataset(tmp_path / folder)[0].depth_m, factor * depth_m, atol=1e-3)


@pytest.mark.parametrize("lists", [["rgb.txt", "depth.txt"], ["associations.txt"]])
def test_a_folder_as_tum_has_it(tmp_path, lists):
    """Pictures and depth by the nearest stamp, up to 20 ms; 16-bit depth in 1/5000 m."""
    rgb, depth_m = frame(0)
    stamps = {
        "rgb": ("1305031102.175304", "1305031102.211214", "9"),
        "depth": ("1305031102.160407", "1305031102.212", "5"),
    }
    entries = {kind: [f"{stamp} {kind}/{stamp}.png" for stamp in of_kind] for kind, of_kind in stamps.items()}
    for kind, picture in (("rgb", rgb[..., ::-1]), ("depth", (depth_m * 5000).round().astype(np.uint16))):
        (tmp_path / kind).mkdir()
        for stamp in stamps[kind]:
            cv2.imwrite(str(tmp_path / kind / f"{stamp}.png"), picture)
        (tmp_path / f"{kind}.txt").write_text("\n".join(["# timestamp filename", *entries[kind]]))
    (tmp_path / "associations.txt").write_text("\n".join(map(" ".join, zip(entries["depth"], entries["rgb"]))))
    for name in {"rgb.txt", "depth.txt", "associations.txt"}.difference(lists):
        (tmp_path / name).unlink()
    (tmp_path / "camera.txt").write_text("525 525 319.5 239.5\n")
    with pytest.warns(UserWarning, match=r"left out 2 files that are no pair .*: 9\.png, 5\.png"):
        dataset = open_dataset(tmp_path)
    assert dataset.names == ["1305031102.175304", "1305031102.211214"]
    np.testing.assert_array_equal(dataset[1].rgb, rgb)
    np.testing.assert_allclose(dataset[1].depth_m, depth_m, atol=2e-4)


def test_a_folder_as_seven_scenes_has_it(tmp_path):
    """`.color` beside `.depth`, and 65535 where there is no reading."""
    rgb, depth_m = frame(0)
    depth_mm = (depth_m * 1000).round().astype(np.uint16)
    depth_mm[:9] = 65535
    cv2.imwrite(str(tmp_path / "frame-000000.color.png"), rgb[..., ::-1])
    cv2.imwrite(str(tmp_path / "frame-000000.depth.png"), depth_mm)
    (tmp_path / "camera.txt").write_text("585 585 320 240")
    dataset = open_dataset(tmp_path)
    assert (len(dataset), dataset.name(0)) == (1, "frame-000000")
    np.testing.assert_array_equal(dataset[0].rgb, rgb)
    assert not dataset[0].depth_m[:9].any()
    np.testing.assert_allclose(dataset[0].depth_m[9:], depth_m[9:], atol=1e-6)


def write_h5_of_size(root, size):
    """One training image."""
    file = root / "train" / "kitchen_0001" / "00001.h5"
    file.parent.mkdir(parents=True)
    with h5py.File(file, "w") as content:
        content["rgb"], content["depth"] = np.zeros((3, *size), np.uint8), np.ones(size, np.float32)


def test_pictures_of_another_shape_in_nyus_layout_are_not_nyus(tmp_path):
    write_h5_of_size(tmp_path, (375, 1242))
    with pytest.raises(DataError, match=r"is 1242x375 px; expected NYU's 640x480"):
        open_dataset(tmp_path, "train")[0]


def test_pictures_of_nyu_that_were_made_smaller_have_their_own_focal_length(tmp_path):
    write_h5_of_size(tmp_path, (240, 320))
    camera = open_dataset(tmp_path, "train")[0].camera
    assert camera.focal_px == pytest.approx(nyu.CAMERA.focal_px / 2)
    assert camera.cx == pytest.approx((nyu.CAMERA.cx + 0.5) / 2 - 0.5)


def test_one_camera_is_of_pictures_of_one_size(tmp_path, capsys):
    """A picture of twice the size has twice the focal length: with that of the other its metres would be wrong."""
    rgb, depth_m = frame(0)
    for name, size in (("a", (640, 480)), ("b", (720, 540)), ("c", (640, 480))):
        write_rgbd(tmp_path, name, cv2.resize(rgb, size), cv2.resize(depth_m, size))
    assert open_dataset(tmp_path)[1].rgb.shape == (540, 720, 3)  # without one, nothing is said of them
    (tmp_path / "camera.txt").write_text("500 501 320 240\n")
    with pytest.raises(DataError, match="1 faults"):
        check(tmp_path, workers=0)
    assert "b.png is 720x540 px and the first picture 640x480 px" in capsys.readouterr().out
    (tmp_path / "a.png").write_bytes(b"")
    assert open_dataset(tmp_path)[1].rgb.shape == (540, 720, 3)  # now the first that can be read
    with pytest.raises(DataError, match=r"c\.png is 640x480 px and the first picture 720x540 px"):
        open_dataset(tmp_path)[2]


# --- bad input


def test_a_jpeg_that_is_cut_short(tmp_path):
    file = tmp_path / "a.jpg"
    write_picture(file, np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
    assert read_colour(file).shape == (48, 64, 3)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"a\.jpg .*cannot be decoded as an image: its JPEG data are cut short"):
        read_colour(file)


@pytest.mark.parametrize(("suffix", "dtype"), [(".tiff", "float32"), (".tiff", "int32"), (".pfm", "float32")])
def test_a_picture_without_a_known_white_is_refused(tmp_path, suffix, dtype):
    file = tmp_path / f"a{suffix}"
    assert cv2.imwrite(str(file), np.random.default_rng(0).uniform(0, 1, (48, 64, 3)).astype(dtype))
    with pytest.raises(DataError, match=rf"a\{suffix} .*its pixels are {dtype}; expected uint8 or uint16"):
        read_colour(file)


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"nothing in it(.|\n)*FastDepth(.|\n)*BTS(.|\n)*labelled(.|\n)*spd data rooms"):
        open_dataset(tmp_path)
    with pytest.raises(DataError, match="'val'"):
        open_dataset(tmp_path, "val")


def test_missing_part_is_named(tmp_path):
    write_h5(tmp_path, count=2)
    with pytest.raises(DataError, match=r"val/official/\*\.h5"):
        open_dataset(tmp_path, "test")
    other = tmp_path / "mat"
    other.mkdir()
    write_mat(other)
    (other / "splits.mat").unlink()
    with pytest.raises(DataError, match=r"needs splits\.mat"):
        open_dataset(other)


def half_downloaded(root):
    file = root / "train/kitchen_0001/00001.h5"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def without_depth(root):
    with h5py.File(root / "train/kitchen_0001/00001.h5", "a") as file:
        del file["depth"]


def in_millimetres(root):
    with h5py.File(root / "train/kitchen_0001/00001.h5", "a") as file:
        file["depth"][...] *= 1000


def in_metres_for_millimetres(root):
    with h5py.File(root / "train/kitchen_0001/00001.h5", "a") as file:
        file["depth"][...] *= 0.001


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (half_downloaded, r"00001\.h5 is damaged, or was not written or copied to its end \([\d,]+ bytes\)"),
        (without_depth, r"00001\.h5 lacks a part .*'depth'"),
        (in_millimetres, r"00001\.h5: the median depth is \d+ m; is it in millimetres"),
        (in_metres_for_millimetres, r"00001\.h5: the median depth is 0\.00\d+ m; is it in metres"),
    ],
)
def test_broken_h5(tmp_path, damage, message, capsys):
    write_h5(tmp_path)
    damage(tmp_path)
    dataset = open_dataset(tmp_path)
    with pytest.raises(DataError, match=message):
        dataset[0]
    summary = summarise(dataset, workers=2)
    assert (summary.count, len(summary.broken)) == (2, 1)
    with pytest.raises(DataError, match="1 faults, named above"):
        check(tmp_path, workers=0)
    assert "kitchen_0001/00001.h5" in capsys.readouterr().out.replace("\n", "")


def test_bts_list_line_pointing_nowhere(tmp_path):
    write_bts(tmp_path, inputs=".")
    (tmp_path / "sync/kitchen_0001/rgb_00001.png").unlink()
    dataset = open_dataset(tmp_path)
    dataset[0]
    with pytest.raises(
        DataError, match=r"rgb_00001\.png does not exist \(nyudepthv2_train_files_with_gt\.txt, line 2\)"
    ):
        dataset[1]
    (tmp_path / "nyudepthv2_train_files_with_gt.txt").write_text("a.png b.png\n")
    with pytest.raises(DataError, match=r"line 1: 'a\.png b\.png'; expected"):
        open_dataset(tmp_path)


def test_a_name_that_the_system_refuses_costs_its_line(tmp_path):
    """As a folder does that one may not enter, but for root: asking whether the file exists raises an error."""
    write_bts(tmp_path, inputs=".")
    with (tmp_path / "nyudepthv2_train_files_with_gt.txt").open("a") as file:
        file.write(f"kitchen_0001/{'x' * 300}.png kitchen_0001/sync_depth_00000.png 518.8579\n")
    dataset = open_dataset(tmp_path)
    dataset[1]
    with pytest.raises(DataError, match=r"xx\.png cannot be opened \(File name too long\) \(.*, line 3\)"):
        dataset[2]


def test_depth_of_another_size_or_type(tmp_path):
    rgb, depth_m = frame(0)
    cv2.imwrite(str(tmp_path / "a.png"), rgb)
    cv2.imwrite(str(tmp_path / "a.depth.png"), (depth_m[::2] * 1000).astype(np.uint16))
    with pytest.raises(DataError, match=r"depth is \[240, 640\] and the image \[480, 640\]"):
        open_dataset(tmp_path)[0]
    cv2.imwrite(str(tmp_path / "a.depth.png"), depth_m.astype(np.uint8))
    with pytest.raises(DataError, match="uint8; expected uint16"):
        open_dataset(tmp_path)[0]


# --- the commands


def test_check_doubts_depth_in_other_units(tmp_path, capsys):
    rgb = np.zeros((48, 64, 3), np.uint8)
    for i, units in enumerate((1000, 5000)):  # the second is TUM's
        write_rgbd(tmp_path / str(i), "a", rgb, 2.4 * units / 1000)
        check(tmp_path / str(i))
        said = " ".join(capsys.readouterr().out.split())
        assert ("the median depth is 12 m; right outdoors, but where 16-bit PNG is in 1/5000 m (TUM)" in said) == (
            i == 1
        )


def test_check_and_preview(tmp_path, capsys):
    write_bts(tmp_path)
    check(tmp_path)
    assert "NYU file lists" in capsys.readouterr().out
    preview(tmp_path, out=tmp_path / "p" / "preview.png", count=2)
    picture = cv2.imread(str(tmp_path / "p" / "preview.png"))
    assert picture.shape[0] > 480 * 2
    with pytest.raises(SPDError, match="unknown preset 'little'"):
        preview(tmp_path, out=tmp_path / "q.png", preset="little")
    for name, preset in (("p.png", None), ("q.png", "lite")):  # which halves the focal length first
        preview(tmp_path, out=tmp_path / name, count=1, preset=preset)
    as_it_is, halved = (cv2.imread(str(tmp_path / name)).astype(float) for name in ("p.png", "q.png"))
    assert np.abs(as_it_is[:, :640] - halved[:, :640]).max() == 0
    assert np.abs(as_it_is[:, 1300:] - halved[:, 1300:]).mean() > 5
    (tmp_path / "o").mkdir()
    preview(tmp_path, out=tmp_path / "o", count=1)
    assert (tmp_path / "o" / "preview.png").is_file()
    with pytest.raises(DataError, match="none has no suffix of a picture"):
        preview(tmp_path / "gone", out=tmp_path / "none")
    assert picture.std() > 20


def test_a_summary_of_many_sizes_names_some_and_counts_the_others():
    summary = Summary(sizes={(480 + i, 640) for i in range(5)})
    assert summary.row()[2] == "640x480, 640x481, 640x482 and 2 more"
    summary = Summary(sizes={(480, 640), (481, 640), (482, 640)})
    assert summary.row()[2] == "640x480, 640x481, 640x482"


def test_a_set_without_any_depth_is_not_whole(tmp_path, capsys):
    write_rgbd(tmp_path, "a", frame(0)[0], 0.0)
    with pytest.raises(DataError, match="1 faults, named above"):
        check(tmp_path, workers=0)
    assert "has a pixel of known depth" in " ".join(capsys.readouterr().out.split())


def test_mean_depth(tmp_path):
    write_h5(tmp_path)
    known = np.concatenate([d[d > 0] for d in (frame(0)[1], frame(1)[1])])
    assert mean_depth(open_dataset(tmp_path)) == pytest.approx(known.mean(), rel=1e-5)
    blind = Samples([Sample("a", np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), np.float32), None)])
    for nothing in (blind, Samples([])):
        with pytest.raises(DataError, match="samples of list has a pixel of known depth"):
            mean_depth(nothing)


def test_of_h5_files_only_those_of_the_split_are_listed(tmp_path, monkeypatch):
    write_h5(tmp_path)
    listed, patterns = nyu.files.listed, []
    monkeypatch.setattr(nyu.files, "listed", lambda path, pattern: patterns.append(pattern) or listed(path, pattern))
    assert len(open_dataset(tmp_path, "test")) == 1
    assert patterns == ["val/official/*.h5"]
