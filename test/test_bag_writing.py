"""Bags as `write_bag` writes them: read back as they were, and in the place of another only when they are whole."""

import resource

import numpy as np
import pytest
from support.bags import CAMERA, frames

from spd_core.data.bag import find_topics, read_frames
from spd_core.data.bag_writing import write_bag
from spd_core.data.samples import DataError
from spd_core.data.topics import Topics
from spd_core.names import DEPTH_TOPIC, IMAGE_TOPIC, INFO_TOPIC, QUERY_TOPIC


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_round_trip(tmp_path, storage):
    written = list(frames(3, queries=2))
    assert write_bag(tmp_path / "bag", written, storage) == 3
    topics = find_topics(tmp_path / "bag")
    assert topics == Topics(IMAGE_TOPIC, DEPTH_TOPIC, INFO_TOPIC, QUERY_TOPIC)
    read = list(read_frames(tmp_path / "bag", topics))
    assert [f.stamp_ns for f in read] == [f.stamp_ns for f in written]
    for a, b in zip(written, read):
        assert np.array_equal(a.rgb, b.rgb)
        assert np.array_equal(a.depth_m, b.depth_m)
        assert b.camera == CAMERA
        for (uv, ids), (uv_read, ids_read) in zip(a.queries, b.queries):
            np.testing.assert_allclose(uv_read, uv, atol=1e-4)
            assert np.array_equal(ids, ids_read)


def test_a_bag_is_replaced_when_the_new_one_is_whole(tmp_path):
    write_bag(tmp_path / "bag", frames(2))
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "bag")

    def failing():
        yield from frames(1)
        raise DataError("a picture is broken")

    with pytest.raises(DataError, match="a picture is broken"):
        write_bag(link, failing())
    assert len(list(read_frames(link, find_topics(link)))) == 2
    assert write_bag(link, frames(1), "sqlite3") == 1
    assert len(list(read_frames(tmp_path / "bag", find_topics(link)))) == 1
    assert link.is_symlink()
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["bag", "bag.db3", "link", "metadata.yaml"]


@pytest.fixture
def small_files():
    """No file may have more than 50 kB, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_bag_that_finds_no_room_is_named(tmp_path, small_files, storage):
    with pytest.raises(DataError, match=r"bag could not be written \(.*\)\. Is the disk full\?"):
        write_bag(tmp_path / "bag", frames(20), storage)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("metadata", "fault"),
    [
        ("title: my notes\n", "is not a bag;"),
        ("- rosbag2_bagfile_information\n", "is not a bag;"),
        ("{", "is not a bag;"),
        (None, "is not a bag alone, it holds notes.txt too"),
    ],
)
def test_a_folder_of_something_else_stays(tmp_path, metadata, fault):
    write_bag(tmp_path / "bag", frames(1))
    (tmp_path / "bag" / "notes.txt").write_text("mine")
    if metadata is not None:
        (tmp_path / "bag" / "metadata.yaml").write_text(metadata)
    with pytest.raises(DataError, match=fault):
        write_bag(tmp_path / "bag", frames(1))
    assert (tmp_path / "bag" / "notes.txt").read_text() == "mine"


def test_a_folder_beside_the_bag_stays(tmp_path):
    (tmp_path / "bag.partial").mkdir()
    (tmp_path / "bag.partial" / "notes.txt").write_text("mine")
    write_bag(tmp_path / "bag", frames(1))
    assert (tmp_path / "bag.partial" / "notes.txt").read_text() == "mine"
