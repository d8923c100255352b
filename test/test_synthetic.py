"""Synthetic rooms: the same seed is the same frame, and depth is what geometry says."""

from multiprocessing import active_children

import numpy as np
import pytest
import torch

from spd_core.camera import Camera
from spd_core.data.samples import DataError
from spd_core.data.shards import SHARD, RoomShards
from spd_rooms.casting import Pose, Scene, camera_rays
from spd_rooms.film import film
from spd_rooms.primitives import BOX, CYLINDER, ELLIPSOID
from spd_rooms.rooms import random_room
from spd_rooms.shards import draw_rooms
from spd_rooms.synthetic import draw, random_frame, random_pose

CAMERA, SIZE = Camera(100.0, 100.0, 63.5, 47.5), (96, 128)


def test_a_seed_is_a_frame():
    a, b, c = random_frame(7, SIZE), random_frame(7, SIZE), random_frame(8, SIZE)
    assert np.array_equal(a.rgb, b.rgb)
    assert np.array_equal(a.depth_m, b.depth_m)
    assert a.camera == b.camera != c.camera
    assert not np.array_equal(a.rgb, c.rgb)
    assert a.rgb.shape == (*SIZE, 3)
    assert a.rgb.dtype == np.uint8


def test_the_rooms_of_a_seed_stay_what_they_are():
    """Weights were trained, and figures published, on the rooms of these seeds."""
    rooms = [random_room(seed) for seed in range(40)]
    colours = [m.colour_a + m.colour_b for room in rooms for m in (*room.materials, *room.surfaces)]
    placed = [np.concatenate([*room.centres, *room.halves, room.yaws]).sum() for room in rooms]
    assert sum(len(room.kinds) for room in rooms) == 2865
    assert np.sum(placed) == pytest.approx(22064.482079735088, rel=1e-9)
    assert np.sum(colours) == pytest.approx(6977.493854912073, rel=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_frames_look_into_a_room(seed):
    frame = random_frame(seed, SIZE)
    assert frame.depth_m.min() > 0.3
    assert frame.depth_m.max() < 12
    assert frame.rgb.std() > 10
    assert 30 < frame.rgb.mean() < 200


def march(room, origin: np.ndarray, direction: np.ndarray, step: float = 0.002) -> float:
    """Distance to the first surface by walking along the ray: an independent, slow reference for the closed-form
    casts."""
    t = np.arange(step, 15, step)
    points = origin + t[:, None] * direction
    hit = ((points < 0) | (points > room.size)).any(axis=1)
    for kind, centre, half, yaw in zip(room.kinds, room.centres, room.halves, room.yaws):
        x, y, z = (points - centre).T
        c, s = np.cos(yaw), np.sin(yaw)
        local = np.abs(np.stack([c * x - s * z, y, s * x + c * z], axis=1) / half)
        inside = {
            BOX: (local <= 1).all(axis=1),
            CYLINDER: (local[:, 1] <= 1) & (local[:, 0] ** 2 + local[:, 2] ** 2 <= 1),
            ELLIPSOID: (local**2).sum(axis=1) <= 1,
        }[kind]
        hit |= inside
    return float(t[hit.argmax()])


@pytest.mark.parametrize("seed", [3, 11, 12])
def test_depth_against_a_march_along_the_ray(seed):
    room = random_room(seed)
    pose = random_pose(room, np.random.default_rng(seed), CAMERA, SIZE)
    frame = draw(room, CAMERA, pose, SIZE)
    rays = camera_rays(CAMERA, pose, SIZE).numpy().astype(float)
    chosen = np.random.default_rng(0).choice(len(rays), 60, replace=False)
    marched = np.array([march(room, pose.position, rays[i]) for i in chosen])
    off = np.abs(marched - frame.depth_m.reshape(-1)[chosen])
    assert (off < 0.01).mean() >= 0.95, off.max()  # the march may step over an edge


def test_tiles_do_not_change_the_cast(monkeypatch):
    """Primitives that a tile cannot see are left out; nothing that it sees may be."""
    room = random_room(5)
    pose = random_pose(room, np.random.default_rng(5), CAMERA, SIZE)
    scene, rays = Scene(room), camera_rays(CAMERA, pose, SIZE)
    origin = torch.tensor(pose.position, dtype=torch.float32)
    depth, primitive = scene.cast(origin, rays, SIZE)
    monkeypatch.setattr(
        Scene,
        "_tiles",
        lambda self, apex, rays, size, margin_m=0.0: [(torch.arange(len(rays)), torch.arange(len(self.kinds)))],
    )
    all_depth, all_primitive = scene.cast(origin, rays, SIZE)
    assert torch.equal(depth, all_depth)
    assert (primitive == all_primitive).float().mean() > 0.999


def test_the_optical_frame_is_right_handed_and_the_floor_is_below():
    pose = Pose(np.array([2.0, 1.2, 2.0]), yaw=0.3, pitch=0.0, roll=0.0)
    rotation = pose.rotation()
    assert np.linalg.det(rotation) == pytest.approx(1)
    assert rotation @ [0, 1, 0] == pytest.approx([0, -1, 0])  # down
    assert (rotation @ [0, 0, 1])[1] == pytest.approx(0)
    rolled = Pose(pose.position, 0.0, 0.0, roll=0.1).rotation()
    assert np.linalg.det(rolled) == pytest.approx(1)


def test_sizes_that_cannot_be_drawn_are_refused():
    with pytest.raises(ValueError, match="multiples of 4"):
        draw(random_room(0), CAMERA, Pose(np.ones(3), 0, 0, 0), (97, 128))


def test_no_process_beside_the_films_own_hears_its_interruption():
    frames = film(2)
    assert next(frames).rgb.shape == (480, 640, 3)
    assert active_children() == []
    frames.close()


def test_rooms_do_not_hide_other_frames(tmp_path):
    (tmp_path / "a.png").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"holds other files \(a\.png\); draw into a folder of its own"):
        draw_rooms(tmp_path, count=1, size=(64, 64))
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_shards_resume_and_agree_with_the_frames(tmp_path):
    draw_rooms(tmp_path, count=SHARD, first_seed=500, size=(64, 64), workers=2)
    before = [f.stat().st_mtime_ns for f in tmp_path.iterdir()]
    draw_rooms(tmp_path, count=SHARD, first_seed=500, size=(64, 64), workers=1)
    assert [f.stat().st_mtime_ns for f in tmp_path.iterdir()] == before
    for other, words in (
        ({"rooms": 3}, r"rooms None, wanted 3"),
        ({"size": (64, 96)}, r"size \[64, 64\], wanted \[64, 96\]"),
        ({"focal_ratio": (0.8, 0.8), "first_seed": 510}, r"first_seed 500, wanted 510"),
    ):
        settings = {"first_seed": 500, "size": (64, 64), **other}
        with pytest.raises(DataError, match=f"has rooms of other settings: .*{words}"):
            draw_rooms(tmp_path, count=2 * SHARD, **settings)
    (tmp_path / "rooms.json").unlink()  # as folders of before have none
    with pytest.raises(DataError, match=r"size \[64, 64\], wanted \[64, 96\]"):
        draw_rooms(tmp_path, count=SHARD, first_seed=500, size=(64, 96))
    draw_rooms(tmp_path, count=SHARD, first_seed=500, size=(64, 64))
    rooms = RoomShards(tmp_path)
    assert len(rooms) == SHARD
    sample = rooms[3]
    frame = random_frame(503, (64, 64))
    assert sample.camera == frame.camera
    np.testing.assert_allclose(sample.depth_m, frame.depth_m, atol=5.1e-4)
    assert np.mean(np.abs(sample.rgb.astype(int) - frame.rgb)) < 0.5
    with pytest.raises(DataError, match="draw some with: spd data rooms"):
        RoomShards(tmp_path / "nothing")
