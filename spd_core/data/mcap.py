"""MCAP files, by their index where they have one and record by record where they are unfinished.

A record is an opcode (1 byte), its length (8) and its content; a chunk is a record that holds others, compressed. The
format: mcap.dev/spec. What is damaged costs the chunk that it is in.
"""

from __future__ import annotations

import heapq
import itertools
import mmap
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from lz4.frame import LZ4FrameDecompressor

from .samples import DataError
from .serialised import Recorded, Topic, from_ros1, plain, ros2_name, zstd

MAGIC = b"\x89MCAP0\r\n"
_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _CHUNK_INDEX, _STATISTICS, _DATA_END = 2, 3, 4, 5, 6, 8, 11, 15
_LAST_NS = 2**63 - 1  # what an int64 holds; a damaged time may be later
_FOOTER_BYTES = 9 + 20 + len(MAGIC)
_DECOMPRESSORS: dict[str, Callable[[bytes, int], bytes]] = {
    "": lambda data, size: data,
    "zstd": lambda data, size: zstd.ZstdDecompressor().decompress(data, size),
    "lz4": lambda data, size: LZ4FrameDecompressor().decompress(data, size),
}


class Channel(NamedTuple):
    """A topic of an MCAP file; `encoding` is "cdr" for ROS 2 and "ros1" for a converted ROS 1 bag."""

    topic: str
    type_name: str
    encoding: str


class _Piece(NamedTuple):
    """A stretch of the file with messages: a chunk's content, or the record of a message outside any chunk."""

    start_ns: int
    begin: int
    end: int
    is_chunk: bool
    is_whole: bool = True  # or it ends where the file does
    channels: frozenset[int] = frozenset()  # of those with messages in it; empty where that is not known


_END = _Piece(start_ns=1 << 64, begin=0, end=0, is_chunk=False)  # after every message


class McapStorage:
    """An MCAP file (`storage.Storage`): messages in CDR, or of a ROS 1 bag that was converted.

    Raises:
        DataError: it is not an MCAP file.
    """

    def __init__(self, path: Path):
        self.path, self.faults, self.losses = path, list[str](), Counter[str]()
        self._channels: dict[int, Channel] = {}  # by number, as the next two
        self._counts: Counter[int] = Counter()
        self._schemas: dict[int, str] = {}
        self._pieces: list[_Piece] = []
        with path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if not self._read_index():
            self._schemas, self._channels, self._counts, self._pieces = {}, {}, Counter(), []
            self._scan()
        if not self._channels:
            raise DataError(
                f"{path} has no topic that can be read{': ' if self.faults else ''}{'; '.join(self.faults)}"
            )
        self.topics: dict[str, Topic] = {}
        for number, channel in self._channels.items():
            others = self.topics.get(channel.topic, Topic("", 0))  # of the same topic, from another publisher
            self.topics[channel.topic] = Topic(channel.type_name, others.count + self._counts[number])

    def close(self) -> None:
        self._data.close()

    def messages(self, topics: Collection[str]) -> Iterator[Recorded]:
        self.losses.clear()
        wanted = {number: channel for number, channel in self._channels.items() if channel.topic in topics}
        waiting: list[tuple[int, int, int, bytes | mmap.mmap, slice]] = []
        order = itertools.count()
        for piece in (*sorted(self._pieces), _END):
            if piece.channels and piece.channels.isdisjoint(wanted):
                continue
            while waiting and waiting[0][0] < piece.start_ns:
                log_ns, _, number, content, where = heapq.heappop(waiting)
                topic, type_name, encoding = wanted[number]
                try:
                    data = bytes(content[where])
                    data = from_ros1(data, type_name) if encoding == "ros1" else plain(data)
                except ValueError:
                    self.losses[f"message(s) of {topic}: damaged"] += 1
                    continue
                yield Recorded(log_ns, topic, data)
            for log_ns, number, content, where in self._read(piece):
                if number in wanted:
                    heapq.heappush(waiting, (log_ns, next(order), number, content, where))

    def _read(self, piece: _Piece) -> Iterator[tuple[int, int, bytes | mmap.mmap, slice]]:
        """Log time (ns) and channel of each message, and where its data are. Channels that the piece defines are
        noted, and what cannot be read is counted."""
        try:
            content, begin, end = self._content(piece)
        except ValueError as error:
            self.losses[f"chunk(s) of {self.path.name}: {error}"] += 1
            return
        last = begin
        for opcode, at, stop in _records(content, begin, end):
            if opcode == _MESSAGE and stop - at >= 22:
                channel, _, log_ns = struct.unpack_from("<HIQ", content, at)
                yield min(log_ns, _LAST_NS), channel, content, slice(at + 22, stop)
            elif opcode in (_SCHEMA, _CHANNEL):
                with suppress(ValueError, struct.error):  # a damaged one
                    self._define(opcode, at, content)
            last = stop
        if last != end and piece.is_whole:
            self.losses[f"end(s) of a chunk of {self.path.name}: records are damaged"] += 1

    def _content(self, piece: _Piece) -> tuple[bytes | mmap.mmap, int, int]:
        """Where the records of a piece are: a buffer, and their begin and end in it.

        Raises:
            ValueError: the chunk is damaged.
        """
        if not piece.is_chunk:
            return self._data, piece.begin, piece.end
        try:
            _, _, size, crc, length = struct.unpack_from("<QQQII", self._data, piece.begin)
            name = bytes(self._data[piece.begin + 32 : piece.begin + 32 + length]).decode()
            at = piece.begin + 32 + length
            (packed,) = struct.unpack_from("<Q", self._data, at)
            end = min(at + 8 + packed, piece.end)
            content = _DECOMPRESSORS[name](self._data[at + 8 : end], size)
        except KeyError as error:
            raise ValueError(f"compression {error} is not known") from error
        except Exception as error:  # of the codecs, each its own
            raise ValueError("damaged") from error
        if piece.is_whole and (len(content) != size or (crc and crc32(content) != crc)):
            raise ValueError("checksum or size is wrong")
        return content, 0, len(content)

    # --- finding the pieces

    def _read_index(self) -> bool:
        """Fill in from the summary at the file's end; False where there is none that is whole."""
        data, footer = self._data, len(self._data) - _FOOTER_BYTES
        if footer < len(MAGIC) or data[-len(MAGIC) :] != MAGIC:
            return False
        opcode, length, start, _, crc = struct.unpack_from("<BQQQI", data, footer)
        if (opcode, length) != (_FOOTER, 20) or not len(MAGIC) <= start < footer:
            return False
        if crc and crc32(data[start : footer + 9 + 16]) != crc:
            return False
        last, count = start, -1
        try:
            for opcode, at, last in _records(data, start, footer):  # noqa: B007
                if opcode in (_SCHEMA, _CHANNEL):
                    self._define(opcode, at, data)
                elif opcode == _STATISTICS:
                    count, entries = struct.unpack_from("<Q", data, at)[0], struct.unpack_from("<I", data, at + 42)[0]
                    self._counts.update(dict(struct.iter_unpack("<HQ", data[at + 46 : at + 46 + entries])))
                elif opcode == _CHUNK_INDEX:
                    start_ns, _, offset, size, entries = struct.unpack_from("<QQQQI", data, at)
                    if data[offset] != _CHUNK or offset + size > len(data):
                        return False
                    pairs = struct.iter_unpack("<HQ", data[at + 36 : at + 36 + entries])
                    channels = frozenset(channel for channel, _ in pairs)
                    self._pieces.append(_Piece(start_ns, offset + 9, offset + size, True, True, channels))
        except (struct.error, ValueError, IndexError):
            return False
        is_known = bool(self._channels) and all(channel.type_name for channel in self._channels.values())
        return last == footer and is_known and (bool(self._pieces) or count == 0)

    def _scan(self) -> None:
        """Fill in from the records themselves, as far as they are whole."""
        data, last, is_whole = self._data, len(MAGIC), False
        for opcode, at, stop in _records(data, len(MAGIC), len(data)):
            last = stop
            if opcode in (_FOOTER, _DATA_END):
                is_whole = True
                break
            if opcode == _CHUNK and stop - at >= 40:
                piece = _Piece(struct.unpack_from("<Q", data, at)[0], at, stop, True)
            else:
                is_message = opcode == _MESSAGE and stop - at >= 22
                piece = _Piece(struct.unpack_from("<Q", data, at + 6)[0] if is_message else 0, at - 9, stop, False)
            piece = self._scanned(piece)
            if opcode in (_CHUNK, _MESSAGE):
                self._pieces.append(piece)
        if not is_whole:
            if data[last : last + 1] == bytes([_CHUNK]) and last + 49 <= len(data):
                cut = _Piece(struct.unpack_from("<Q", data, last + 9)[0], last + 9, len(data), True, is_whole=False)
                self._pieces.append(self._scanned(cut))
            self.faults.append(
                f"{self.path} is unfinished or damaged from byte {last} of {len(data)}: what comes before is read;"
                " `mcap recover` repairs it"
            )

    def _scanned(self, piece: _Piece) -> _Piece:
        """The piece with the channels of its messages, which are counted; damaged, it has perhaps more of them."""
        self.losses.clear()
        counts = Counter(channel for _, channel, _, _ in self._read(piece))
        self._counts += counts
        return piece if self.losses else piece._replace(channels=frozenset(counts))

    def _define(self, opcode: int, at: int, data: bytes | mmap.mmap) -> None:
        """Remember a schema or a channel.

        Raises:
            ValueError, struct.error: the record is damaged.
        """
        number, schema = struct.unpack_from("<HH", data, at)
        if opcode == _SCHEMA:
            self._schemas[number] = _text(data, at + 2)[0]
        elif opcode == _CHANNEL:
            topic, after = _text(data, at + 4)
            type_name = ros2_name(self._schemas.get(schema, ""))
            self._channels[number] = Channel(topic, type_name, _text(data, after)[0])


def _records(data: bytes | mmap.mmap, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Opcode, begin and end of the content of each record of a stretch, up to the first that is not whole."""
    at = begin
    while at + 9 <= end:
        opcode, length = struct.unpack_from("<BQ", data, at)
        if opcode == 0 or length > end - at - 9:
            return
        yield opcode, at + 9, at + 9 + length
        at += 9 + length


def _text(data: bytes | mmap.mmap, at: int) -> tuple[str, int]:
    """A string and where it ends."""
    (length,) = struct.unpack_from("<I", data, at)
    if length > len(data) - at - 4:
        raise ValueError(f"a string of {length} bytes")
    return bytes(data[at + 4 : at + 4 + length]).decode(), at + 4 + length
