"""Recordings as they come: what other topics hold does not matter, and what is damaged costs itself and is told."""

import resource
import shutil
import sqlite3
import struct

import numpy as np
import pytest
from rosbags.rosbag1 import Reader as Ros1Reader
from rosbags.rosbag2 import CompressionMode
from support import recorded
from support.bags import TOPICS, frames_of
from support.recorded import SIZE, T0_NS, depth_mm, info, picture, stamp, usual

from spd_core.data.bag import Bag, find_topics
from spd_core.data.mcap import _SCHEMA, MAGIC, _records
from spd_core.data.samples import DataError
from spd_core.data.serialised import TYPES


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


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize(("by_chunk", "compression"), [(0, ""), (3, ""), (3, "zstd"), (3, "lz4")])
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
        packed.with_suffix("").write_bytes(b"as `ros2 bag play` leaves it there, unpacked")
        assert frames_of(path, 60)[1] == []
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


def test_serialisations_of_the_other_byte_order(tmp_path):
    messages = [
        (topic, log_ns, (m.__msgtype__, bytes(TYPES.serialize_cdr(m, m.__msgtype__, little_endian=False))))
        for topic, log_ns, m in usual(3)
    ]
    frames, _ = frames_of(recorded.write(tmp_path / "bag", messages), 3)
    assert all(f.depth_m is not None for f in frames)


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
    assert len(frames) == 299
    assert (frames[0].stamp_ns, frames[-1].stamp_ns) == (stamp(0), stamp(299))
    assert any("1 chunk(s) of old.bag: damaged" in line for line in said), said
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
    """rosbags ends at a record that it cannot read, where that record is asked for."""
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
        assert len(frames) == 300
        assert bag.left_out() == []
    for frame in frames:
        np.testing.assert_allclose(frame.depth_m, depth_mm((frame.stamp_ns - T0_NS) // 10**8) / 1000, atol=1e-6)
