"""The files of a recording, each kind behind one interface: MCAP, sqlite3 (rosbag2) and ROS 1.

Files are known by their first bytes and read by themselves: neither metadata.yaml nor the definitions of message types
are needed, because the types read here are those of ROS. What is damaged costs what is in it, and is counted.
"""

from __future__ import annotations

import heapq
import io
import shutil
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator
from itertools import repeat
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import yaml
from rosbags import rosbag1

from ..errors import first_line
from ..files import problem, temporary_folder
from . import mcap
from .samples import DataError
from .serialised import ZSTD_MAGIC, Recorded, Topic, from_ros1, plain, zstd

_SQLITE_MAGIC, _ROS1_MAGIC = b"SQLite format 3\0", b"#ROSBAG V2.0"
_ROWS = "SELECT timestamp, id, topic_id FROM messages"
_SUFFIXES = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd")


class Storage(Protocol):
    """One file. `faults` says what of it cannot be read, `losses` what the last `messages` had to leave out."""

    topics: dict[str, Topic]
    faults: list[str]
    losses: Counter[str]

    def messages(self, topics: Collection[str]) -> Iterator[Recorded]: ...
    def close(self) -> None: ...


def open_files(path: Path) -> tuple[list[Storage], list[str]]:
    """Every file of the recording at `path` (a file, or rosbag2's folder), and what could not be opened of it.

    Raises:
        DataError: there is nothing that can be read; the message says why, and what repairs it.
    """
    if not path.exists():
        raise DataError(f"bag {path} does not exist")
    files, faults = _files(path) if path.is_dir() else ([path], [])
    opened: list[Storage] = []
    for file in files:
        try:
            opened.append(_open(file))
        except (DataError, OSError) as error:
            faults.append(str(error))
    if not opened:
        raise DataError(f"{path} is not a readable ROS 2 bag (sqlite3 or MCAP): {'; '.join(faults)}")
    return opened, faults


def _files(folder: Path) -> tuple[list[Path], list[str]]:
    """The files of rosbag2's folder: those that metadata.yaml names, or, where it is of no use, all there are."""
    found = sorted(f for f in folder.iterdir() if f.name.endswith(_SUFFIXES) and not f.name.startswith("."))
    if not found:
        inside = ", ".join(sorted(f.name for f in folder.iterdir())[:8]) or "nothing"
        raise DataError(
            f"{folder} is not a readable ROS 2 bag: the folder holds {inside}; expected .mcap or .db3 files (sqlite3 or"
            " MCAP), or give a ROS 1 .bag file itself"
        )
    metadata = folder / "metadata.yaml"
    repair = f"its files are read by themselves: {', '.join(f.name for f in found)} (`ros2 bag reindex` writes it anew)"
    if not metadata.exists():
        return found, [f"{metadata} is missing; {repair}"]
    try:
        named = named_files(folder)
    except PermissionError as error:
        return found, [f"{metadata} cannot be read ({error.strerror}); its files are read by themselves"]
    except Exception as error:  # of YAML, or of a content that is none
        return found, [f"{metadata} is damaged ({first_line(error)}); {repair}"]
    missing = [file.name for file in named if not file.exists()]
    if missing or not named:
        what = f"{', '.join(missing)}, which is not there" if missing else "no file"
        return found, [f"{metadata} names {what}; {repair}"]
    # `ros2 bag play` unpacks x.db3.zstd into x.db3 beside it.
    left = [file.name for file in found if not {file, Path(f"{file}.zstd")} & {*named}]
    what = f"{metadata} does not name {', '.join(left)}, which is not read (`ros2 bag reindex` writes it anew)"
    return named, [what] if left else []


def named_files(folder: Path) -> list[Path]:
    """The files that the metadata.yaml of a bag's folder names. Where it is none, any exception says so: of the system,
    of YAML, of Python."""
    content = yaml.safe_load((folder / "metadata.yaml").read_text())
    return [folder / Path(name).name for name in content["rosbag2_bagfile_information"]["relative_file_paths"]]


def _open(path: Path) -> Storage:
    with path.open("rb") as file:
        first = file.read(16)
    if first.startswith(mcap.MAGIC):
        return mcap.McapStorage(path)
    if first == _SQLITE_MAGIC:
        return Sqlite3Storage(path)
    if first.startswith(_ROS1_MAGIC):
        return Ros1Storage(path)
    if first.startswith(ZSTD_MAGIC):
        return CompressedStorage(path)
    raise DataError(f"{path} {problem(path)}; expected an MCAP, sqlite3 (.db3) or ROS 1 (.bag) file")


class Sqlite3Storage:
    """rosbag2's sqlite3 file. Messages are fetched one by one, so that a damaged page costs those that are on it."""

    def __init__(self, path: Path):
        self.path, self.faults, self.losses = path, list[str](), Counter[str]()
        self._steps, self._most_steps = 0, 10_000 + path.stat().st_size // 1000
        try:
            self._database = self._connect()
            self._topics = {
                number: (name, type_name)
                for number, name, type_name in self._execute("SELECT id, name, type FROM topics")
                if isinstance(name, str) and isinstance(type_name, str)
            }
            counts = self._counts()
        except sqlite3.Error as error:
            raise DataError(
                f"{path} cannot be read: {error}; if it is a recording, `sqlite3 {path.name} .recover` into a new file"
                " and `ros2 bag reindex` may repair it"
            ) from error
        self.topics = {name: Topic(type_name, counts[number]) for number, (name, type_name) in self._topics.items()}

    def _connect(self) -> sqlite3.Connection:
        """Read only. Where a write-ahead log lies beside the file its newest messages are in that."""
        if self.path.with_name(f"{self.path.name}-wal").exists():
            try:
                return self._connected("mode=ro")
            except sqlite3.Error as error:
                self.faults.append(f"{self.path}-wal cannot be read ({error}): the newest messages may be missing")
        return self._connected("immutable=1")

    def _connected(self, mode: str) -> sqlite3.Connection:
        uri = f"file:{quote(str(self.path.resolve()))}?{mode}"
        # Frames may be taken from another thread than the one that opened the bag.
        database = sqlite3.connect(uri, uri=True, check_same_thread=False)
        database.text_factory = lambda text: text.decode(errors="replace")
        database.set_progress_handler(self._goes_in_circles, 1000)
        database.execute("PRAGMA writable_schema = ON")  # else a file that was cut short is refused altogether
        database.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
        return database

    def _goes_in_circles(self) -> bool:
        """A damaged tree may lead in circles; in a whole one a query takes less than an instruction for each byte."""
        self._steps += 1
        return self._steps > self._most_steps

    def _execute(self, query: str, *values: int) -> list[tuple]:
        self._steps = 0
        return self._database.execute(query, values).fetchall()

    def _counts(self) -> Counter[int]:
        """How many messages each topic has, by its number."""
        try:
            return Counter(dict(self._execute("SELECT topic_id, COUNT(*) FROM messages GROUP BY topic_id")))
        except sqlite3.DatabaseError as error:
            found = self._rows_one_by_one()
            self.faults.append(
                f"{self.path} is unfinished or damaged ({error}): {len(found)} messages of it can be read; `sqlite3"
                f" {self.path.name} .recover` may bring back more"
            )
            return Counter(topic for _, _, topic in found)

    def _rows(self, topics: Collection[int]) -> list[tuple[int, int, int]]:
        """Log time (ns), number and topic of the messages of some topics, in the order of time."""
        try:
            rows = self._execute(f"{_ROWS} WHERE topic_id IN ({', '.join(map(str, topics))})")
        except sqlite3.DatabaseError:
            rows = [row for row in self._rows_one_by_one() if row[2] in topics]
        return sorted(row for row in rows if all(isinstance(value, int) for value in row))

    def _rows_one_by_one(self) -> list[tuple[int, int, int]]:
        """What can be read of a damaged table, from message to message until there are no more."""
        rows, number, gap = [], 0, 0
        while gap < 1000:
            number, gap = number + 1, gap + 1
            try:
                found = self._execute(f"{_ROWS} WHERE id = ?", number)
            except sqlite3.DatabaseError:
                continue
            rows += found
            gap = 0 if found else gap
        return rows

    def messages(self, topics: Collection[str]) -> Iterator[Recorded]:
        self.losses.clear()
        wanted = {number: name for number, (name, _) in self._topics.items() if name in topics}
        for log_ns, number, topic in self._rows(wanted):
            try:
                [(data,)] = self._execute("SELECT data FROM messages WHERE id = ?", number)
                data = plain(memoryview(data).tobytes())
            except (sqlite3.Error, TypeError, ValueError):
                self.losses[f"message(s) of {wanted[topic]}: damaged"] += 1
                continue
            yield Recorded(log_ns, wanted[topic], data)

    def close(self) -> None:
        self._database.close()


class Ros1Storage:
    """A ROS 1 bag; its messages come as ROS 2 serialises them."""

    def __init__(self, path: Path):
        self.path, self.faults, self.losses = path, list[str](), Counter[str]()
        self._reader = rosbag1.Reader(path)
        try:
            self._reader.open()
        except Exception as error:  # rosbags lets its parsers' own errors through
            raise DataError(f"{path} cannot be read: {error} `rosbag reindex` may repair it") from error
        self._indexes = self._reader.indexes
        self.topics = {name: Topic(info.msgtype or "", info.msgcount) for name, info in self._reader.topics.items()}

    def messages(self, topics: Collection[str]) -> Iterator[Recorded]:
        self.losses.clear()
        damaged = set[int]()  # places of chunks
        of_topics = (zip(self._indexes[c.id], repeat(c)) for c in self._reader.connections if c.topic in topics)
        for entry, connection in heapq.merge(*of_topics, key=lambda found: found[0].time):
            # One by one: where rosbags cannot read a message it ends.
            self._reader.indexes = {connection.id: [entry]}
            try:
                [(_, log_ns, data)] = self._reader.messages([connection])
            except Exception:  # in the words of its codec
                self._reader.current_chunk = (-1, io.BytesIO())  # or the one before, which is closed, would be it still
                damaged.add(entry.chunk_pos)
                self.losses[f"chunk(s) of {self.path.name}: damaged"] = len(damaged)
                continue
            try:
                data = from_ros1(data, connection.msgtype)
            except ValueError:
                self.losses[f"message(s) of {connection.topic}: damaged"] += 1
                continue
            yield Recorded(log_ns, connection.topic, data)

    def close(self) -> None:
        self._reader.close()


class CompressedStorage:
    """A file that rosbag2 compressed as a whole, unpacked beside the temporary files."""

    def __init__(self, path: Path):
        self._folder = temporary_folder(DataError)
        unpacked = Path(self._folder.name) / path.stem
        fault = ""
        with path.open("rb") as packed, unpacked.open("wb") as file:
            try:
                shutil.copyfileobj(zstd.open(packed), file)
            except (EOFError, zstd.ZstdError) as error:
                fault = f"{path} is unfinished or damaged: {error}"
            except OSError as error:
                self._folder.cleanup()
                raise DataError(
                    f"{path} cannot be unpacked into {self._folder.name} ({error.strerror}); the variable TMPDIR names"
                    " a folder with more room"
                ) from error
        try:
            self._inner = _open(unpacked)
        except DataError as error:
            self._folder.cleanup()
            raise DataError(f"{fault or 'unpacked'}; {error}".replace(str(unpacked), str(path))) from error
        self.topics, self.losses = self._inner.topics, self._inner.losses
        self.faults = [text.replace(str(unpacked), str(path)) for text in ([fault] * bool(fault)) + self._inner.faults]

    def messages(self, topics: Collection[str]) -> Iterator[Recorded]:
        return self._inner.messages(topics)

    def close(self) -> None:
        self._inner.close()
        self._folder.cleanup()
