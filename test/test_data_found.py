"""Data sets as they are found: after a Mac, Windows or a phone had them, and with files that are something else."""

import warnings

import cv2
import h5py
import numpy as np
import pytest
from scipy.io import savemat
from support.data_sets import same_samples

from spd_core.camera import Camera
from spd_core.data.layouts import open_dataset
from spd_core.data.rgbd import RGBDFolder, read_camera
from spd_core.data.samples import DataError
from spd_core.data.shards import SHARD

APPLE_DOUBLE = b"\x00\x05\x16\x07" + bytes(4092)
HTML = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"


def picture(seed=0, size=(48, 64)):
    """Smooth colours, which survive JPEG, and depth in whole millimetres."""
    rng = np.random.default_rng(seed)
    rgb = cv2.resize(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC)
    return rgb, rng.integers(700, 5000, size).astype(np.uint16)


# --- what other systems leave


def test_h5_beside_apple_doubles(tmp_path):
    for name in ("train/kitchen/00001.h5", "val/official/00001.h5"):
        (tmp_path / name).parent.mkdir(parents=True)
        with h5py.File(tmp_path / name, "w") as file:
            rgb, depth_mm = picture()
            file["rgb"], file["depth"] = rgb.transpose(2, 0, 1), depth_mm / 1000
        (tmp_path / name).with_name("._00001.h5").write_bytes(APPLE_DOUBLE)
    (tmp_path / "train/__MACOSX").mkdir()
    (tmp_path / "train/__MACOSX/00002.h5").write_bytes(APPLE_DOUBLE)
    for split in ("train", "test"):
        dataset = open_dataset(tmp_path, split)
        assert len(dataset) == 1
        np.testing.assert_array_equal(dataset[0].rgb, rgb)


def write_bts(root, list_bytes):
    rgb, depth_mm = picture()
    for split, folder in (("train", "sync"), ("test", "official_splits/test")):
        (root / folder / "küche").mkdir(parents=True)
        for i in range(2):
            cv2.imwrite(str(root / folder / f"küche/rgb_{i}.jpg"), rgb[..., ::-1])
            cv2.imwrite(str(root / folder / f"küche/depth_{i}.png"), depth_mm + i)
        (root / f"nyudepthv2_{split}_files_with_gt.txt").write_bytes(list_bytes)


@pytest.mark.parametrize("name", ["a.bag", "rosbag/a_0.DB3", "m/a.mcap"])
def test_a_recording_is_no_data_set(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(DataError, match="is a recording; expected a data set"):
        open_dataset(tmp_path / name.split("/")[0], "test")


LINES = "".join(f"/küche/rgb_{i}.jpg /küche/depth_{i}.png 518.8579\n" for i in range(2))


def test_a_focal_length_in_mm_is_not_taken_for_one_in_px(tmp_path):
    write_bts(tmp_path, LINES.replace("518.8579", "3.6").encode())
    with pytest.raises(DataError, match=r"focal length of nyudepthv2_train\S*, line 2 is 3\.6\d* px .*mm"):
        open_dataset(tmp_path)[1]


@pytest.mark.parametrize(
    "content",
    [
        LINES.replace("\n", "\r\n").encode("utf-16"),
        LINES.replace("/", "\\").encode("utf-8-sig"),
        LINES.replace("\n", "\n\n").encode() + b"\n \n",
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_lists_that_windows_wrote(tmp_path, content, split):
    write_bts(tmp_path / "plain", LINES.encode())
    write_bts(tmp_path / "other", content)
    plain, other = open_dataset(tmp_path / "plain", split), open_dataset(tmp_path / "other", split)
    assert len(plain) == 2
    for i in range(2):
        np.testing.assert_array_equal(other[i].rgb, plain[i].rgb)
        np.testing.assert_array_equal(other[i].depth_m, plain[i].depth_m)


def test_lists_that_are_something_else(tmp_path):
    write_bts(tmp_path, HTML)
    with pytest.raises(DataError, match=r"nyudepthv2_train_files_with_gt\.txt.*is a web page"):
        open_dataset(tmp_path)


def write_folder(root, names=("a", "b"), extra=True):
    root.mkdir()
    for i, name in enumerate(names):
        rgb, depth_mm = picture(i)
        cv2.imwrite(str(root / f"{name}.rgb.png"), rgb[..., ::-1])
        cv2.imwrite(str(root / f"{name}.depth.png"), depth_mm)
        if extra:
            for kind in ("rgb", "depth"):
                (root / f"._{name}.{kind}.png").write_bytes(APPLE_DOUBLE)
    if extra:
        for name in (".DS_Store", "Thumbs.db", "._camera.txt", "desktop.ini"):
            (root / name).write_bytes(APPLE_DOUBLE)


def test_rgbd_folders_beside_leftovers(tmp_path):
    write_folder(tmp_path / "plain", extra=False)
    write_folder(tmp_path / "other")
    for root in ("plain", "other"):
        (tmp_path / root / "camera.txt").write_text("50 51 32 24\n")
    (tmp_path / "other" / "._c.jpg").write_bytes(APPLE_DOUBLE)
    same_samples(open_dataset(tmp_path / "other"), open_dataset(tmp_path / "plain"))
    assert len(RGBDFolder(tmp_path / "other")) == 2


def test_pictures_without_depth_and_depth_of_two_pictures_are_said(tmp_path):
    write_folder(tmp_path / "all", extra=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = open_dataset(tmp_path / "all")
    rgb, depth_mm = picture(5)
    for name in ("a.jpg", "lonely.png"):  # a preview of a.rgb.png, and one without depth
        cv2.imwrite(str(tmp_path / "all" / name), np.full_like(rgb, 9))
    cv2.imwrite(str(tmp_path / "all" / "z.depth.png"), depth_mm)
    with pytest.warns(UserWarning, match=r"left out 3 files .*: a\.jpg, lonely\.png, z\.depth\.png"):
        same_samples(open_dataset(tmp_path / "all"), whole)


@pytest.mark.parametrize(
    "content",
    [
        *(b"50 51 32 24", b"\xef\xbb\xbf50 51\r\n32 24\r\n", "50 51 32 24\r\n".encode("utf-16"), b"50,51, 32,24\n"),
        b"5.0e+01 0 32\n0 51 24\n0 0 1\n",  # K, of numpy.savetxt
        b"[[50.  0. 32.]\n [ 0. 51. 24.]\n [ 0.  0.  1.]]",
        b"50 0 32 -7 0 51 24 0.2 0 0 1 0.003",  # a projection
        b"50 0 32 0\n0 51 24 0\n0 0 1 0\n0 0 0 1\n",  # ScanNet
    ],
)
def test_camera_files_of_other_editors(tmp_path, content):
    (tmp_path / "camera.txt").write_bytes(content)
    assert read_camera(tmp_path) == Camera(50, 51, 32, 24)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", r"holds ''; expected four numbers"),
        (b"50 51 32", "expected four numbers"),
        (b"50 51 32 24 0.1", "expected four numbers"),
        (b"50 51 32 nan", "expected four numbers"),
        (b"50 51 32 24 0.2 -0.9 -0.01 0 1.2", "expected four numbers"),  # with a lens, of nine numbers too
        (b"50 0 0 0 51 0 32 24 1", "expected four numbers"),  # column by column
        (b"0 0 32 24", "expected four numbers"),
        (HTML, "is a web page"),
        (b"\xff\x00\x80\x01", "is not text"),
    ],
)
def test_camera_files_that_are_something_else(tmp_path, content, fault):
    (tmp_path / "camera.txt").write_bytes(content)
    with pytest.raises(DataError, match=rf"camera\.txt.*{fault}"):
        read_camera(tmp_path)


def test_paths_from_the_home_directory(tmp_path, monkeypatch):
    write_folder(tmp_path / "rooms")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(open_dataset("~/rooms")) == len(RGBDFolder("~/rooms")) == 2


# --- what phones write

# EXIF 2.32, tag 274: what to do to the stored picture to see it upright.
UPRIGHT = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """A JPEG with an EXIF segment that holds this tag alone."""
    tiff = b"II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00" + bytes([orientation, 0, 0, 0]) + bytes(4)
    segment = b"Exif\x00\x00" + tiff
    return jpeg[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + jpeg[2:]


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_depth_beside_a_picture_that_is_to_be_turned(tmp_path, orientation):
    rgb, depth_mm = picture()
    jpeg = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    stored = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    turned = with_orientation(jpeg, orientation)
    np.testing.assert_array_equal(  # OpenCV reads the tag
        cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR)[..., ::-1], UPRIGHT[orientation](stored)
    )
    (tmp_path / "a.rgb.jpg").write_bytes(turned)
    np.testing.assert_array_equal(RGBDFolder(tmp_path)[0].rgb, stored)
    cv2.imwrite(str(tmp_path / "a.depth.png"), depth_mm)  # by the sensor beside it
    sample = open_dataset(tmp_path)[0]
    np.testing.assert_array_equal(sample.rgb, stored)
    np.testing.assert_allclose(sample.depth_m, depth_mm / 1000, atol=1e-6)
    if orientation >= 5:
        cv2.imwrite(str(tmp_path / "a.depth.png"), np.ascontiguousarray(UPRIGHT[orientation](depth_mm)))
        sample = open_dataset(tmp_path)[0]
        np.testing.assert_array_equal(sample.rgb, UPRIGHT[orientation](stored))
        np.testing.assert_allclose(sample.depth_m, UPRIGHT[orientation](depth_mm) / 1000, atol=1e-6)


# --- what is not what its name says


@pytest.mark.parametrize(
    ("content", "fault"),
    [(b"", "is empty"), (HTML, "is a web page"), ("half", "is damaged, or was not written or copied to its end")],
)
@pytest.mark.parametrize("broken", ["a.rgb.png", "a.depth.png", "a.jpg"])
def test_a_picture_that_is_something_else_costs_itself_alone(tmp_path, content, fault, broken):
    write_folder(tmp_path / "f", ["b"])
    rgb, depth_mm = picture()
    cv2.imwrite(str(tmp_path / "f" / ("a.jpg" if broken == "a.jpg" else "a.rgb.png")), rgb)
    cv2.imwrite(str(tmp_path / "f" / "a.depth.png"), depth_mm)
    file = tmp_path / "f" / broken
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if content == "half" else content)
    dataset = open_dataset(tmp_path / "f")
    assert len(dataset) == 2
    with pytest.raises(DataError, match=rf"f/{broken} .*{fault}"):
        dataset[0]
    np.testing.assert_array_equal(dataset[1].rgb, picture(0)[0])


def write_shard(file, **changes):
    rgb, depth_mm = picture()
    arrays = {"rgb": [rgb] * SHARD, "depth_mm": [depth_mm] * SHARD, "camera": [[50.0, 50.0, 32.0, 24.0]] * SHARD}
    np.savez(file, **{name: np.array(value) for name, value in {**arrays, **changes}.items() if value is not None})


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda file: file.write_bytes(b""), "is empty"),
        (lambda file: file.write_bytes(file.read_bytes()[:200_000]), "is damaged, or was not written or copied"),
        (lambda file: write_shard(file, camera=None), "lacks a part .*camera"),
        (lambda file: write_shard(file, rgb=np.zeros((3, 4, 4, 3), np.uint8)), r"holds rgb uint8 \[3, 4, 4, 3\]"),
        (lambda file: write_shard(file, depth_mm=np.array([{}] * SHARD)), "is damaged|pickle"),
    ],
)
def test_a_damaged_shard_costs_itself_alone(tmp_path, damage, fault):
    for seed in (0, 250):
        write_shard(tmp_path / f"rooms_{seed:08d}.npz")
    (tmp_path / "._rooms_00000000.npz").write_bytes(APPLE_DOUBLE)
    damage(tmp_path / "rooms_00000000.npz")
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 2 * SHARD
    with pytest.raises(DataError, match=rf"rooms_00000000\.npz.*({fault}).*draw it again with: spd data rooms"):
        dataset[3]
    np.testing.assert_array_equal(dataset[SHARD].rgb, picture()[0])
    (tmp_path / "rooms_00000250.npz").unlink()
    with pytest.raises(DataError, match=r"rooms_00000000\.npz"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("splits.mat", HTML, r"splits\.mat is a web page"),
        ("splits.mat", {"trainNdxs": [[0]], "testNdxs": [[2]]}, "names image 0, but .* has 2, counted from 1"),
        ("splits.mat", {"trainNdxs": [[3]], "testNdxs": [[2]]}, "names image 3, but .* has 2, counted from 1"),
        ("splits.mat", {"testNdxs": [[2]]}, r"splits\.mat lacks a part .*expected a MATLAB file with 'trainNdxs'"),
        ("nyu_depth_v2_labeled.mat", "half", r"labeled\.mat is damaged, or was not written or copied"),
    ],
)
def test_the_labelled_subset_that_is_something_else(tmp_path, name, content, fault):
    frames = [picture(i) for i in range(2)]
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "w", userblock_size=512) as file:
        file["images"] = np.stack([rgb.transpose(2, 1, 0) for rgb, _ in frames])
        file["rawDepths"] = np.stack([depth_mm.T / 1000 for _, depth_mm in frames])
    with (tmp_path / "nyu_depth_v2_labeled.mat").open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64")
    savemat(tmp_path / "splits.mat", {"trainNdxs": np.array([[1]]), "testNdxs": np.array([[2]])})
    np.testing.assert_array_equal(open_dataset(tmp_path)[0].rgb, frames[0][0])
    if isinstance(content, dict):
        savemat(tmp_path / name, {key: np.array(value) for key, value in content.items()})
    else:
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(DataError, match=fault):
        open_dataset(tmp_path)


def test_depth_of_no_numbers(tmp_path):
    (tmp_path / "val/official").mkdir(parents=True)
    with h5py.File(tmp_path / "val/official/1.h5", "w") as file:
        file["rgb"], file["depth"] = np.zeros((3, 4, 5), np.uint8), np.full((4, 5), b"far")
    with pytest.raises(DataError, match=r"1\.h5: depth is .S3, expected numbers"):
        open_dataset(tmp_path, "test")[0]


def test_the_opener_is_where_it_was():
    from spd_core.data.samples import open_dataset as other

    assert other is open_dataset
