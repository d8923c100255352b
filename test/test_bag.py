"""Recordings as they come: what other topics hold does not matter, and what is damaged costs itself and is told."""

import resource
import shutil
import sqlite3
import struct
import warnings

import cv2
import numpy as np
import pytest
from rosbags.rosbag1 import Reader as Ros1Reader
from rosbags.rosbag2 import CompressionMode
from support import recorded
from support.recorded import CAMERA, SIZE, T0_NS, depth_mm, image, info, picture, stamp, usual

from spd_core.camera import Camera
from spd_core.data.bag import MOST_HELD, MOST_NS, Bag, find_topics, read_frames
from spd_core.data.bag_writing import query_message
from spd_core.data.mcap import _SCHEMA, MAGIC, _records
from spd_core.data.samples import DataError
from spd_core.data.serialised import TYPES
from spd_core.data.topics import Topics

COLOUR, DEPTH = "/camera/color/image_raw", "/camera/aligned_depth_to_color/image_raw"
INFO = "/camera/color/camera_info"
TOPICS = Topics(COLOUR, DEPTH, INFO)


def frames_of(path, count=None, **how):
    """The frames and what was said of them; images, depth and camera must be those of `usual` at their stamps."""
    with Bag(path) as bag:
        topics = bag.choose().topics
        assert topics == TOPICS
        frames = list(bag.frames(topics, **how))
        said = [*bag.faults, *bag.left_out()]
    for frame in frames:
        i = (frame.stamp_ns - T0_NS) // 10**8
        np.testing.assert_array_equal(frame.rgb, picture(i))
        if frame.depth_m is not None:
            np.testing.assert_allclose(frame.depth_m, depth_mm(i) / 1000, atol=1e-6)
        assert frame.camera in (CAMERA, None)
    assert count is None or len(frames) == count
    return frames, said


# --- what else a bag holds


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("definition", ["", " ", "MSG: a/b\nfloat64[9] rotation = what\n"])
def test_a_type_that_nobody_knows_does_not_matter(tmp_path, storage, definition):
    other = ("/extrinsics", stamp(0), ("realsense2_camera_msgs/msg/Extrinsics", b"\0\1\0\0" + bytes(96)))
    path = recorded.write(tmp_path / "bag", [*usual(), other], storage, definitions={other[2][0]: definition})
    _, said = frames_of(path, 3)
    assert said == []


def test_sqlite3_as_older_distributions_write_it(tmp_path):
    """Humble: no definitions; Foxy: no table of them, no index, no version of the schema."""
    path = recorded.write(tmp_path / "bag", usual(), "sqlite3")
    with sqlite3.connect(path / "bag.db3") as file:
        file.execute("DELETE FROM message_definitions")
    frames_of(path, 3)
    with sqlite3.connect(path / "bag.db3") as file:
        file.executescript(
            "DROP TABLE message_definitions; DROP TABLE schema; DROP TABLE metadata; DROP INDEX timestamp_idx;"
            " ALTER TABLE topics DROP COLUMN type_description_hash; ALTER TABLE topics DROP COLUMN offered_qos_profiles"
        )
    frames_of(path, 3)


@pytest.mark.parametrize("name", ["a [b] c", "50% #1", "what?", "bag.d"])
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_folder_of_any_name(tmp_path, name, storage):
    path = recorded.write(tmp_path / "bag", usual(), storage).rename(tmp_path / name)
    frames_of(path, 3)
    frames_of(next(f for f in path.iterdir() if f.suffix != ".yaml"), 3)


# --- metadata.yaml


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize(
    ("content", "word"),
    [
        (None, "is missing"),
        ("", "is damaged"),
        ("rosbag2_bagfile_information: [", "is damaged"),
        ("<html><body>404", "is damaged"),
        ("rosbag2_bagfile_information:\n  relative_file_paths: [gone.db3]\n", "names gone.db3, which is not there"),
        ("rosbag2_bagfile_information:\n  relative_file_paths: []\n", "names no file"),
    ],
)
def test_metadata_is_not_needed(tmp_path, storage, content, word):
    path = recorded.write(tmp_path / "bag", usual(), storage)
    (path / "metadata.yaml").unlink()
    if content is not None:
        (path / "metadata.yaml").write_text(content)
    (path / f"._bag.{storage}").write_bytes(b"left by another system")
    _, [said] = frames_of(path, 3)
    assert f"{path}/metadata.yaml {word}" in said
    assert "`ros2 bag reindex`" in said


def test_the_files_of_a_split_bag_are_one(tmp_path):
    """In the order of their messages, not of their names, and a file that cannot be read costs its messages."""
    folder = tmp_path / "bag"
    folder.mkdir()
    messages = list(usual(6))
    for name, part in (("bag_10.db3", messages[:9]), ("bag_9.db3", messages[9:])):
        written = recorded.write(tmp_path / "part", part, "sqlite3")
        shutil.move(written / "part.db3", folder / name)
    frames, _ = frames_of(folder, 6)
    assert [f.stamp_ns for f in frames] == [stamp(i) for i in range(6)]
    (folder / "metadata.yaml").write_text("rosbag2_bagfile_information:\n  relative_file_paths: [bag_10.db3]\n")
    _, [said] = frames_of(folder, 3)
    assert "metadata.yaml does not name bag_9.db3, which is not read" in said
    (folder / "metadata.yaml").unlink()
    (folder / "bag_9.db3").write_bytes(b"")
    frames, said = frames_of(folder, 3)
    assert any("bag_9.db3 is empty" in line for line in said)


def test_an_empty_first_image_costs_itself_alone(tmp_path):
    nothing = image(stamp(0) - 10**9, picture(0), "rgb8")
    nothing.height = nothing.width = nothing.step = 0
    nothing.data = np.empty(0, np.uint8)
    path = recorded.write(tmp_path / "bag", [(COLOUR, stamp(0) - 10**9, nothing), *usual(4)])
    frames, _ = frames_of(path)
    assert len([frame for frame in frames if frame.depth_m is not None]) == 4


# --- unfinished and damaged files


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("by_chunk", [0, 3])
@pytest.mark.parametrize("compression", ["", "zstd", "lz4"])
def test_an_mcap_file_without_its_end_is_read_up_to_there(tmp_path, share, by_chunk, compression):
    path = tmp_path / "unfinished.mcap"
    places = recorded.write_mcap(path, usual(12), by_chunk, compression)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    messages = sum(end <= len(whole) * share for _, end in places) * max(by_chunk, 1)
    with Bag(path) as bag:
        frames = list(bag.frames(TOPICS))
        [said] = bag.faults
    assert messages // 3 <= len([f for f in frames if f.depth_m is not None]) <= messages // 3 + 1
    for frame in frames:
        np.testing.assert_array_equal(frame.rgb, picture((frame.stamp_ns - T0_NS) // 10**8))
    assert f"{path} is unfinished or damaged from byte" in said
    assert "`mcap recover` repairs it" in said


def test_of_a_chunk_that_is_cut_the_beginning_is_read(tmp_path):
    path = tmp_path / "unfinished.mcap"
    recorded.write_mcap(path, usual(12), 1000)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with Bag(path) as bag:
        assert len(list(bag.frames(TOPICS))) == 6
    recorded.write_mcap(path, usual(12), 1000, "zstd")  # one block, of which a half is nothing
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"unfinished\.mcap has no topic that can be read: .*`mcap recover`"):
        Bag(path)
    recorded.write_mcap(path, usual(12), 1000, has_index=True)
    path.write_bytes(path.read_bytes()[:-30])  # only the footer is lost
    _, said = frames_of(path, 12)
    assert said == []


def test_of_an_unfinished_mcap_file_only_the_chunks_of_a_topic_are_unpacked_for_it(tmp_path, monkeypatch):
    """Or each cloud that is rare costs as much as all the images do."""
    path = tmp_path / "unfinished.mcap"
    others = [("/other", stamp(3), info(stamp(3), SIZE, "other"))]
    recorded.write_mcap(path, sorted([*usual(12), *others], key=lambda message: message[1]), 3, "zstd")
    path.write_bytes(path.read_bytes()[:-60])
    with Bag(path) as bag:
        [file] = bag._files
        unpacked, content = [], file._content
        monkeypatch.setattr(file, "_content", lambda piece: unpacked.append(piece) or content(piece))
        assert [message.log_ns for message in file.messages({"/other"})] == [stamp(3)]
        whole = [piece for piece in unpacked if piece.is_chunk and piece.is_whole]  # of the last not all is known
        assert len(whole) == 1


@pytest.mark.parametrize("has_index", [True, False])
@pytest.mark.parametrize("compression", ["", "zstd", "lz4"])
def test_a_damaged_chunk_costs_what_is_in_it(tmp_path, has_index, compression):
    path = tmp_path / "bag.mcap"
    places = recorded.write_mcap(path, usual(12), 6, compression, has_index)
    frames_of(path, 12)
    data = bytearray(path.read_bytes())
    begin, end = places[2]
    data[(begin + end) // 2] ^= 0x55
    path.write_bytes(data)
    frames, said = frames_of(path, 10)
    assert [(f.stamp_ns - T0_NS) // 10**8 for f in frames] == [0, 1, 2, 3, 6, 7, 8, 9, 10, 11]
    assert len(said) == 1
    assert said[0].startswith("left out: 1 chunk(s) of bag.mcap")


def test_an_index_need_not_repeat_the_schemas(tmp_path):
    """As rosbag2's option noRepeatedSchemas leaves them out."""
    (path,) = recorded.write(tmp_path / "bag", usual(3)).glob("*.mcap")
    data = bytearray(path.read_bytes())
    footer = len(data) - len(MAGIC) - 29  # opcode, length, two offsets and a checksum
    (begin,) = struct.unpack_from("<Q", data, footer + 9)
    schemas = [at - 9 for opcode, at, _ in _records(bytes(data), begin, footer) if opcode == _SCHEMA]
    assert schemas
    for at in schemas:
        data[at] = 0x80  # a record that readers pass over
    data[footer + 25 : footer + 29] = bytes(4)  # without a checksum
    path.write_bytes(data)
    frames, said = frames_of(path.parent)
    assert (len(frames), said) == (3, [])


def test_a_damaged_index_is_done_without(tmp_path):
    path = tmp_path / "bag.mcap"
    places = recorded.write_mcap(path, usual(12), 6, "zstd", has_index=True)
    data = bytearray(path.read_bytes())
    data[places[-1][1] + 60 :: 7] = bytes(len(data[places[-1][1] + 60 :: 7]))
    path.write_bytes(data[:-8] + b"\x89MCAP0\r\n")
    frames_of(path, 12)


@pytest.mark.parametrize("share", [0.4, 0.7, 0.95])
def test_a_sqlite3_file_that_was_cut_short(tmp_path, share):
    path = recorded.write(tmp_path / "bag", usual(40), "sqlite3")
    file = path / "bag.db3"
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share) // 4096 * 4096])
    frames, said = frames_of(path)
    assert len(frames) >= 40 * share - 5
    assert any(".recover" in line and str(file) in line for line in said)


def test_a_damaged_page_of_sqlite3_costs_its_messages(tmp_path):
    path = recorded.write(tmp_path / "bag", usual(40), "sqlite3")
    file = path / "bag.db3"
    data = bytearray(file.read_bytes())
    at = data.index(picture(20).tobytes()[:200]) // 4096 * 4096
    data[at : at + 4096] = bytes(4096)
    file.write_bytes(data)
    with Bag(path) as bag:
        frames = list(bag.frames(TOPICS))
        said = [*bag.faults, *bag.left_out()]
    assert 36 <= len(frames) < 40 or any(f.depth_m is None for f in frames)
    assert said


def test_the_newest_messages_may_be_in_a_write_ahead_log(tmp_path):
    path = recorded.write(tmp_path / "bag", usual(6), "sqlite3")
    writer = sqlite3.connect(path / "bag.db3")
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("PRAGMA wal_autocheckpoint = 0")
    more = recorded.write(tmp_path / "more", usual(8), "sqlite3")
    writer.execute("ATTACH ? AS more", (str(more / "more.db3"),))
    writer.execute("INSERT INTO messages SELECT id, topic_id, timestamp, data FROM more.messages WHERE id > 18")
    writer.commit()
    killed = tmp_path / "killed"  # the files as they lie on the disk while it is written
    shutil.copytree(path, killed)
    writer.close()
    _, said = frames_of(killed, 8)
    assert said == []


@pytest.mark.parametrize("mode", [CompressionMode.MESSAGE, CompressionMode.FILE, CompressionMode.STORAGE])
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_compressed_bags(tmp_path, mode, storage):
    if storage == "sqlite3" and mode == CompressionMode.STORAGE:
        pytest.skip("sqlite3 has no compression of its own")
    path = recorded.write(tmp_path / "bag", usual(60), storage, mode)
    frames_of(path, 60)
    if mode == CompressionMode.FILE:
        packed = next(path.glob("*.zstd"))
        packed.write_bytes(packed.read_bytes()[:-100])
        with Bag(path) as bag:
            assert any(f"{packed} is unfinished or damaged" in fault for fault in bag.faults)


def test_a_compressed_bag_that_finds_no_room_says_where(tmp_path):
    path = recorded.write(tmp_path / "bag", usual(20), "mcap", CompressionMode.FILE)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(
            DataError, match=r"cannot be unpacked into .* \(File too large\); the variable TMPDIR names"
        ):
            find_topics(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_no_bag_is_named_with_its_first_bytes(tmp_path):
    for name, content, word in (
        ("empty.mcap", b"", "is empty: it was not written"),
        ("page.db3", b"<!DOCTYPE html>", "is a web page"),
        ("zeros.mcap", bytes(5000), "holds zeros, as after a power cut"),
        ("other.db3", None, "no such table: topics"),
    ):
        if content is None:
            with sqlite3.connect(tmp_path / name) as database:
                database.execute("CREATE TABLE t (x)")
        else:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="not a readable ROS 2 bag") as error:
            find_topics(tmp_path / name)
        assert word in str(error.value)
        assert name in str(error.value)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old.bag").write_bytes(b"")
    with pytest.raises(DataError, match=r"folder holds old\.bag; expected \.mcap or \.db3 .* ROS 1 \.bag file itself"):
        find_topics(tmp_path / "folder")


# --- damaged messages


def test_a_damaged_message_costs_itself(tmp_path):
    messages = list(usual(6))
    spoiled = {(COLOUR, 1): "rgb8", (DEPTH, 3): "16UC1"}
    for i, (topic, log_ns, message) in enumerate(messages):
        number = (log_ns - T0_NS) // 10**8
        if (topic, number) in spoiled:
            message.data = message.data[:-5]
        if (topic, number) == (INFO, 4):
            messages[i] = (topic, log_ns, (recorded.INFO, bytes(TYPES.serialize_cdr(message, recorded.INFO))[:40]))
    frames, said = frames_of(recorded.write(tmp_path / "bag", messages), 5)
    assert [(f.stamp_ns - T0_NS) // 10**8 for f in frames] == [0, 2, 3, 4, 5]
    assert [f.depth_m is None for f in frames] == [False, False, True, False, False]
    assert all(f.camera == CAMERA for f in frames)
    assert len(said) == 3
    text = "\n".join(said)
    assert f"left out: 1 Image messages on {COLOUR}; the first at 1700000000.100 s: image data has" in text
    assert f"left out: 1 Image messages on {DEPTH}; the first at 1700000000.300 s: image data has" in text
    assert f"left out: 1 CameraInfo messages on {INFO}; the first at 1700000000.400 s: 40 bytes are no" in text


@pytest.mark.parametrize(
    "fields",
    [
        {"k": [0.0] * 9, "p": [0.0] * 12, "d": [], "distortion_model": ""},
        {"distortion_model": "double_sphere", "d": [0.1, 0.2]},
        {"k": [float("nan")] * 9},
        {"height": 0, "width": 0, "k": [0.0] * 9},
    ],
)
def test_a_calibration_that_cannot_be_used_leaves_frames_without_a_camera(tmp_path, fields):
    frames, said = frames_of(recorded.write(tmp_path / "bag", usual(4, **fields)), 4)
    assert all(f.camera is None and f.depth_m is not None for f in frames)
    assert len(said) == 1
    assert f"left out: 4 CameraInfo messages on {INFO}; the first at 1700000000.000 s: camera_info has" in said[0]


ZOOMED = Camera(120.0, 120.0, 31.5, 23.5)


def cameras_of(path):
    """The focal length, px, of each frame's camera, None where it has none; and of the camera_info that is replayed."""
    with Bag(path) as bag:
        frames = list(bag.frames(bag.choose().topics))
        said = bag.left_out()
    infos = [frame.info_data and TYPES.deserialize_cdr(frame.info_data, recorded.INFO).k[0] for frame in frames]
    assert [frame.stamp_ns for frame in frames] == sorted(frame.stamp_ns for frame in frames)
    return [frame.camera and frame.camera.fx for frame in frames], infos, said


def with_infos(count, infos):
    """Colour images alone, and (place of the stamp, ns after its image, camera_info's fields or None)."""
    messages = [(COLOUR, stamp(i), image(stamp(i), picture(i), "rgb8")) for i in range(count)]
    messages += [(INFO, stamp(i) + ns, info(stamp(i), **fields)) for i, ns, fields in infos]
    return sorted(messages, key=lambda message: message[1])


@pytest.mark.parametrize("after_ns", [-1000, 1000, 150_000_000])  # the last: after the next image
@pytest.mark.parametrize("times", [1, 2])
def test_each_image_has_the_calibration_of_its_stamp(tmp_path, after_ns, times):
    zoomed = [i % 2 == 1 for i in range(6)]
    infos = [(i, after_ns, {"camera": ZOOMED if zoomed[i] else CAMERA}) for i in range(6)]
    messages = [(t, ns + k * 10**9, m) for k in range(times) for t, ns, m in with_infos(6, infos)]
    path = recorded.write(tmp_path / "bag", messages)
    with Bag(path) as bag:
        frames = list(bag.frames(bag.choose().topics))
    assert len(frames) == 6 * times
    for frame in frames:
        expected = ZOOMED if zoomed[(frame.stamp_ns - T0_NS) // 10**8] else CAMERA
        assert frame.camera == expected
        assert TYPES.deserialize_cdr(frame.info_data, recorded.INFO).k[0] == expected.fx


def test_images_without_a_calibration_of_their_stamp_have_the_latest_before_them(tmp_path):
    infos = [(1, 1000, {}), (3, 1000, {"camera": ZOOMED})]  # of 1 and 3 alone; before 1 came none
    found, infos, said = cameras_of(recorded.write(tmp_path / "bag", with_infos(6, infos)))
    assert found == infos == [60, 60, 60, 120, 120, 120]
    assert not said


def test_a_calibration_that_cannot_be_used_hides_none_of_its_stamp(tmp_path):
    infos = [(0, -5, {"k": [0.0] * 9}), (0, 1000, {}), (1, 1000, {"camera": ZOOMED}), (1, 2000, {"k": [0.0] * 9})]
    found, infos, said = cameras_of(recorded.write(tmp_path / "bag", with_infos(2, infos)))
    assert found == infos == [60, 120]
    assert [line.partition(";")[0] for line in said] == [f"left out: 1 CameraInfo messages on {INFO}"]


def test_a_rectified_image_takes_p(tmp_path):
    rectified = [55.0, 0, 30, 0, 0, 56, 22, 0, 0, 0, 1, 0]
    messages = [("/cam/image_rect", stamp(0), image(stamp(0), picture(), "rgb8"))]
    messages.append(("/cam/camera_info", stamp(0), info(stamp(0), p=rectified, d=[0.1, 0, 0, 0, 0])))
    path = recorded.write(tmp_path / "bag", messages)
    [frame] = read_frames(path, find_topics(path))
    assert (frame.camera.fx, frame.camera.fy, frame.camera.cx, frame.camera.cy) == (55, 56, 30, 22)
    assert frame.camera.distortion == ()


def test_read_frames_warns_of_what_is_left_out(tmp_path):
    messages = list(usual(3))
    messages[1][2].data = messages[1][2].data[:-1]
    path = recorded.write(tmp_path / "bag", messages)
    with pytest.warns(UserWarning, match=rf"{path}: left out: 1 Image messages on {COLOUR}"):
        assert len(list(read_frames(path, TOPICS))) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(read_frames(recorded.write(tmp_path / "good", usual(3)), TOPICS))) == 3


# --- stamps


@pytest.mark.parametrize("offset_s", [0.04, 2.5, -2.5, 12.345])
def test_depth_of_another_clock(tmp_path, offset_s):
    path = recorded.write(tmp_path / "bag", usual(8, depth_offset_ns=round(offset_s * 1e9)))
    with Bag(path) as bag:
        pairing = bag.pairing(bag.choose().topics)
        assert pairing.partner == {}
        assert pairing.offset_s == pytest.approx(offset_s)
        nearest = min(abs(0.1 * i + offset_s - 0.1 * k) for i in range(8) for k in range(8))
        assert abs(pairing.nearest_s) == pytest.approx(nearest, abs=1e-6)
        assert "0 of 8 images have depth within the tolerance of 0.02 s; of 8 depth images the nearest is" in str(
            pairing
        )
        advice = f"--depth-offset-s {-offset_s} corrects the clock"
        assert advice in str(pairing)
        assert advice in str(bag.pairing(TOPICS, depth_offset_s=1.3))  # in place of that, not beside it
        assert bag.pairing(TOPICS, tolerance_s=abs(offset_s) + 0.001).partner
    frames, _ = frames_of(path, 8, depth_offset_s=-offset_s)
    assert all(f.depth_m is not None for f in frames)


def test_each_depth_image_belongs_to_one_image_and_the_nearer_wins(tmp_path):
    messages = [(COLOUR, stamp(0) + k * 10**7, image(stamp(0) + k * 10**7, picture(), "rgb8")) for k in range(5)]
    messages += [(DEPTH, stamp(0), image(stamp(0) + ns, depth_mm(), "16UC1")) for ns in (11_000_000, 39_000_000)]
    with Bag(recorded.write(tmp_path / "bag", sorted(messages, key=lambda m: m[1]))) as bag:
        assert bag.pairing(TOPICS).partner == {1: 0, 4: 1}


@pytest.mark.parametrize("late_ns", [50_000_000, 150_000_000])
def test_frames_come_in_order_where_only_some_have_depth_and_it_is_late(tmp_path, late_ns):
    """Of a depth camera of half the rate, whose images take their time to be registered."""
    colours = [m for m in usual(8) if m[0] == COLOUR]
    depths = [(DEPTH, ns + late_ns, m) for topic, ns, m in usual(8) if topic == DEPTH][::2]
    path = recorded.write(tmp_path / "bag", sorted([*colours, *depths], key=lambda m: m[1]))
    with Bag(path) as bag:
        frames = list(bag.frames(Topics(COLOUR, DEPTH)))
        assert [frame.stamp_ns for frame in frames] == [stamp(i) for i in range(8)]
        assert [frame.depth_m is not None for frame in frames] == [True, False] * 4
        [file] = bag._files
        read = file.messages  # one that is lost since it was counted costs itself
        file.messages = lambda topics: (m for m in read(topics) if m.log_ns != depths[1][1])
        frames = list(bag.frames(Topics(COLOUR, DEPTH)))
    assert [frame.depth_m is not None for frame in frames] == [True, False, False, False, True, False, True, False]


def test_a_query_about_the_first_image_at_the_end_holds_not_all_in_memory(tmp_path):
    colours = [(COLOUR, stamp(i), image(stamp(i), picture(i), "rgb8")) for i in range(MOST_HELD + 20)]
    asked = ("/q", stamp(MOST_HELD + 20), query_message(stamp(0), np.array([[3.0, 4.0]]), np.array([7])))
    with Bag(recorded.write(tmp_path / "bag", [*colours, asked])) as bag:
        frames = list(bag.frames(Topics(COLOUR, query="/q")))
    numbers = [*range(1, MOST_HELD + 20)]
    numbers.insert(21, 0)  # at each of the last 21 images there were MOST_HELD
    assert [frame.stamp_ns for frame in frames] == [stamp(i) for i in numbers]
    assert [len(frame.queries) for frame in frames if frame.stamp_ns == stamp(0)] == [1]


def test_a_recording_that_was_played_twice_has_its_truth_twice(tmp_path):
    messages = [(topic, ns + k * 10**9, message) for k in range(2) for topic, ns, message in usual(3)]
    with Bag(recorded.write(tmp_path / "bag", messages)) as bag:
        assert bag.pairing(TOPICS).partner == {i: i for i in range(6)}


def test_messages_without_a_stamp_have_the_time_of_recording(tmp_path):
    messages = list(usual(3))
    for _, _, message in messages:
        message.header.stamp.sec = message.header.stamp.nanosec = 0
    frames, _ = frames_of(recorded.write(tmp_path / "bag", messages), 3)
    assert all(f.depth_m is not None for f in frames)
    for frame in frames:  # and a node that is shown the image gets it too
        shown = TYPES.deserialize_cdr(frame.image_data, recorded.IMAGE).header.stamp
        assert shown.sec * 10**9 + shown.nanosec == frame.stamp_ns


def test_a_recorder_whose_clock_is_past_2038(tmp_path):
    late_ns, messages = 3_155_760_000 * 10**9, list(usual(3))
    for _, _, message in messages:
        message.header.stamp.sec = message.header.stamp.nanosec = 0
    path = recorded.write(tmp_path / "bag", [(topic, ns - T0_NS + late_ns, message) for topic, ns, message in messages])
    with Bag(path) as bag:
        frames = list(bag.frames(TOPICS))
    assert [frame.stamp_ns for frame in frames] == [late_ns + i * 10**8 for i in range(3)]
    shown = [TYPES.deserialize_cdr(frame.image_data, recorded.IMAGE).header.stamp for frame in frames]
    assert [(stamp.sec, stamp.nanosec) for stamp in shown] == [divmod(f.stamp_ns % MOST_NS, 10**9) for f in frames]


def test_serialisations_of_the_other_byte_order(tmp_path):
    messages = [
        (topic, log_ns, (m.__msgtype__, bytes(TYPES.serialize_cdr(m, m.__msgtype__, little_endian=False))))
        for topic, log_ns, m in usual(3)
    ]
    frames, _ = frames_of(recorded.write(tmp_path / "bag", messages), 3)
    assert all(f.depth_m is not None for f in frames)


def test_queries_belong_to_the_image_of_their_stamp_or_the_newest(tmp_path):
    uv = np.array([[3.0, 4.0]])
    asked = [(stamp(1) + 5, stamp(0)), (stamp(1) + 6, 0), (stamp(1) + 7, 77)]
    messages = [("/q", log_ns, query_message(ns, uv + i, np.array([i]))) for i, (log_ns, ns) in enumerate(asked)]
    path = recorded.write(tmp_path / "bag", sorted([*usual(3), *messages], key=lambda m: m[1]))
    with Bag(path) as bag:
        topics = bag.choose().topics
        assert topics.query == "/q"
        frames = list(bag.frames(topics))
        assert bag.left_out() == ["left out: 1 queries on /q; the first at 0.000 s: names no image of the bag"]
    assert [[int(ids[0]) for _, ids in f.queries] for f in frames] == [[0], [1], []]
    assert frames[0].queries[0][0].tolist() == [[3, 4]]


def test_queries_of_a_recording_that_was_played_twice_are_of_their_own_time(tmp_path):
    asked = [("/q", stamp(1) + 5, query_message(stamp(1), np.array([[3.0, 4.0]]), np.array([7])))]
    once = sorted([*usual(3), *asked], key=lambda m: m[1])
    messages = [(topic, ns + k * 10**9, message) for k in range(2) for topic, ns, message in once]
    with Bag(recorded.write(tmp_path / "bag", messages)) as bag:
        frames = list(bag.frames(bag.choose().topics))
    assert [len(frame.queries) for frame in frames] == [0, 1, 0, 0, 1, 0]


# --- ROS 1


def test_a_ros1_bag_gives_the_same_frames_and_ros2_messages(tmp_path):
    old = recorded.write_ros1(tmp_path / "old.bag", usual(4))
    new = recorded.write(tmp_path / "new", usual(4))
    (frames, said), (same, _) = frames_of(old, 4), frames_of(new, 4)
    assert said == []
    for a, b in zip(frames, same):
        assert a.stamp_ns == b.stamp_ns
        assert a.image_data == b.image_data
        assert a.info_data == b.info_data
        np.testing.assert_array_equal(a.depth_m, b.depth_m)


def test_damaged_ros1_bags(tmp_path):
    path = recorded.write_ros1(tmp_path / "old.bag", usual(300))
    data = bytearray(path.read_bytes())
    at = data.index(picture(150).tobytes()[:300]) - 100
    data[at : at + 60] = bytes(60)
    path.write_bytes(data)
    frames, said = frames_of(path)
    assert 100 < len(frames) < 300
    assert (frames[0].stamp_ns, frames[-1].stamp_ns) == (stamp(0), stamp(299))
    assert any("old.bag" in line for line in said)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"old\.bag cannot be read: .*`rosbag reindex`"):
        find_topics(path)


@pytest.mark.parametrize("place", [4, 7])
def test_a_damaged_compressed_chunk_of_a_ros1_bag_costs_itself_and_is_told(tmp_path, place):
    path = recorded.write_ros1(tmp_path / "old.bag", usual(3), by_message=True)
    with Ros1Reader(path) as reader:
        places = [info.pos for info in reader.chunk_infos]
    assert len(places) == 9
    data = bytearray(path.read_bytes())
    end = places[place + 1]
    data[end - 200 : end - 150] = bytes(50)  # behind the chunk stands its index
    path.write_bytes(data)
    frames, said = frames_of(path)
    assert len(frames) == 2
    assert any("1 chunk(s) of old.bag: damaged" in line for line in said), said


def test_damage_to_another_topic_moves_no_depth_to_another_image(tmp_path):
    """rosbags skips the rest of a ROS 1 chunk behind a record that it cannot read, where that record is asked for."""
    others = [
        ("/rear/camera_info", stamp(i) + 50_000_000, info(stamp(i) + 50_000_000, frame_id="rear")) for i in range(300)
    ]
    path = recorded.write_ros1(tmp_path / "old.bag", sorted([*usual(300), *others], key=lambda message: message[1]))
    with Ros1Reader(path) as reader:
        [number] = [c.id for c in reader.connections if c.topic == "/rear/camera_info"]
        entry = reader.indexes[number][60]
        start = reader.chunks[entry.chunk_pos].datapos + entry.offset
    content = bytearray(path.read_bytes())
    content[content.index(b"op=", start) + 3] ^= 4
    path.write_bytes(content)
    with Bag(path) as bag:
        frames = list(bag.frames(bag.choose().topics))
        assert 250 < len(frames) < 300
        assert any("it stands in a damaged part" in line for line in bag.left_out())
    for frame in frames:
        np.testing.assert_allclose(frame.depth_m, depth_mm((frame.stamp_ns - T0_NS) // 10**8) / 1000, atol=1e-6)


# --- compressed depth


@pytest.mark.parametrize(
    ("form", "data"),
    [
        ("16UC1; compressedDepth png", lambda d: bytes(12) + recorded.png(d)),
        ("16UC1; compressedDepth", lambda d: bytes(12) + recorded.png(d)),
        ("16UC1; compressedDepth rvl", recorded.rvl_message),
        ("16UC1; png compressed ", recorded.png),
    ],
)
def test_compressed_depth_is_read(tmp_path, form, data):
    topic = DEPTH + ("/compressedDepth" if "Depth" in form else "/compressed")
    messages = [m for m in usual(3) if m[0] != DEPTH]
    messages += [(topic, stamp(i), recorded.compressed(stamp(i), form, data(depth_mm(i)))) for i in range(3)]
    path = recorded.write(tmp_path / "bag", sorted(messages, key=lambda m: m[1]))
    topics = find_topics(path)
    assert topics.depth == topic
    for i, frame in enumerate(read_frames(path, topics)):
        np.testing.assert_allclose(frame.depth_m, depth_mm(i) / 1000, atol=1e-6)


def test_depth_that_went_through_jpeg_is_refused_in_a_line(tmp_path):
    jpeg = cv2.imencode(".jpg", (depth_mm() / 256).astype(np.uint8))[1].tobytes()
    topic = f"{DEPTH}/compressed"
    messages = [m for m in usual(1) if m[0] != DEPTH]
    messages.append((topic, stamp(0), recorded.compressed(stamp(0), "16UC1; jpeg compressed mono8", jpeg)))
    with Bag(recorded.write(tmp_path / "bag", messages)) as bag:
        choice = bag.choose()
        assert choice.topics.depth is None
        assert choice.expects_depth
        [line] = [line for line in choice.lines if line.startswith("not depth")]
        assert f"{topic} (mono8 64x48, 1): mono8 holds no metres" in line
        with pytest.raises(DataError, match="8-bit images and JPEG hold no metres"):
            bag.choose(depth=topic)
        frame = next(bag.frames(Topics(COLOUR, topic)))
        assert frame.depth_m is None
        assert "JPEG and 8-bit PNG lose it" in bag.left_out()[0]


def test_a_message_may_be_shorter_than_its_header(tmp_path):
    short = (recorded.IMAGE, b"\0\1\0\0" + bytes(3))
    _, said = frames_of(recorded.write(tmp_path / "bag", [*usual(3), (COLOUR, stamp(9), short)]), 3)
    assert f"left out: 1 Image messages on {COLOUR}; the first at 1700000000.900 s: 7 bytes are no" in said[0]
