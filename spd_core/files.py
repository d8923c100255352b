"""Files as they are found and as they are left: past the traces of other systems, with a word for what is not what its
name says, and replaced in one step."""

from __future__ import annotations

import csv
import errno
import glob
import json
import os
import pickle
import threading
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

from .errors import SPDError, first_line

# Folders that macOS, a NAS or Windows put among one's own.
FOREIGN_FOLDERS = {"__MACOSX", ".AppleDouble", ".Trashes", "@eaDir", "$RECYCLE.BIN", "System Volume Information"}

# Of portable pictures (.pbm, .pgm, .ppm): P1 to P7, and white space.
PNM = tuple(f"P{kind}{space}".encode() for kind in range(1, 8) for space in "\n\r\t ")

# First bytes of what lies in the place of a file when a copy or a download went wrong, and of what gets the wrong name.
KINDS = (
    (b"version https://git-lfs", "is a git-lfs pointer, not the file itself: `git lfs pull` fetches it"),
    (b"\x00\x05\x16\x07", "is a leftover of macOS (AppleDouble), not the file itself, whose name has no '._'"),
    (b"PK\x03\x04", "is a zip archive"),
    (b"\x1f\x8b", "is a gzip archive: unpack it first"),
    (b"7z\xbc\xaf", "is a 7z archive: unpack it first"),
    (b"Rar!", "is a rar archive: unpack it first"),
    (b"\x89HDF\r\n", "is an HDF5 file"),
    (b"MATLAB 5.0", "is a MATLAB 5 file"),
    (b"\x89PNG", "is a PNG picture"),
    (b"\xff\xd8\xff", "is a JPEG picture"),
    *((first, "is a PNM picture") for first in PNM),
    (b"%PDF", "is a PDF document"),
    *((bytes([0x80, version]), "is a Python pickle") for version in range(2, 6)),
    (b"SQLite format 3", "is an SQLite database"),
    (b"\x89MCAP", "is an MCAP bag"),
)
MARKUP = (b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<error", b"<!--")
# Byte-order marks; the longer first, where one begins with another.
ENCODINGS = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


class FileError(SPDError):
    """A file that cannot be read or written; the message names it, what is wrong with it and the way on."""


def expanded(path: str | os.PathLike) -> Path:
    """The path with `~` (and `~name`) as the home directory: where no shell did it."""
    return Path(os.path.expanduser(path))


def listed(folder: Path, pattern: str) -> list[Path]:
    """The files below `folder` that match a glob pattern, in order; without what other systems leave beside them."""

    def is_ours(path: Path) -> bool:
        parts = path.relative_to(folder).parts
        return FOREIGN_FOLDERS.isdisjoint(parts) and not any(part.startswith("._") for part in parts)

    return sorted(path for path in folder.glob(pattern) if is_ours(path) and os.path.isfile(path))


def beside(folder: Path, name: str) -> Path:
    """The file of a name that another system may have written: its path separators, its composition of letters."""
    name = name.lstrip("/")
    spellings = [name, name.replace("\\", "/").lstrip("/")]
    spellings += [unicodedata.normalize(form, spellings[1]) for form in ("NFC", "NFD")]
    return next((folder / spelling for spelling in spellings if os.path.exists(folder / spelling)), folder / name)


def printable(text: str) -> str:
    """The text with control characters, and bytes of file names that are no text, written as escapes."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def problem(path: Path, magic: bytes | tuple[bytes, ...] = b"") -> str:
    """What is wrong with a file that could not be read, as the end of a sentence that its name begins.

    Args:
        magic: the first bytes of a whole one, where they are always the same or of a few.
    """
    try:
        size = path.stat().st_size
        if path.is_dir():
            return "is a folder, not a file"
        if not path.is_file():  # a pipe would have to be written to a second time
            return "is a pipe or a device, and gave nothing that can be read"
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        return "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be opened ({error.strerror})"
    if size == 0:
        return "is empty: it was not written or copied to its end"
    if not start.strip(b"\x00"):
        return "holds zeros, as after a power cut"
    if magic and start.startswith(magic):
        return f"is damaged, or was not written or copied to its end ({size:,} bytes)"
    for encoding_mark, _ in ENCODINGS:
        start = start.removeprefix(encoding_mark)
    if b"<opencv_storage" in start:
        return "is OpenCV's XML: write it as YAML, under a name that ends in .yml"
    if start.replace(b"\x00", b"").lstrip().lower().startswith(MARKUP):  # in UTF-16 too
        return "is a web page, the answer of a server in place of the file: fetch the file itself"
    for first, words in KINDS:
        if start.startswith(first):
            return words
    if start[4:8] == b"ftyp":  # the box that ISO media files begin with
        is_heic = start[8:12] in (b"heic", b"heix", b"heim", b"mif1", b"msf1")
        return "is a HEIC file: save it as JPEG or PNG" if is_heic else "is an MP4, MOV or AVIF file"
    text = start[:60].decode(errors="replace").splitlines()[0]
    if text and text.isprintable() and "\ufffd" not in text[:-1]:
        return f"is text that begins with {text[:40]!r}"
    return f"is damaged or of another format ({size:,} bytes)"


@contextmanager
def read_as(expected: str, path: Path, magic: bytes, error: type[SPDError] = FileError) -> Iterator[None]:
    """Around a library that reads a file.

    Raises:
        SPDError: of the class `error`, for whatever the library makes of broken bytes: what is wrong with the file
            (`problem`; a KeyError is of a whole one that lacks something), and what was expected.
    """
    try:
        yield
    except Exception as reason:
        what = "lacks a part" if isinstance(reason, KeyError) else problem(path, magic)
        raise error(f"{path} {what} ({reason}); expected {expected}") from reason


def read_text(path: Path, error: type[SPDError] = FileError) -> str:
    """The text of a file in UTF-8, UTF-16 or UTF-32, with or without a byte-order mark.

    Raises:
        SPDError: of the class `error`: it cannot be read, or is no text.
    """
    try:
        data = path.read_bytes()
    except OSError as reason:
        raise error(f"{path} {problem(path)}") from reason
    encoding = next((name for mark, name in ENCODINGS if data.startswith(mark)), "utf-8")
    if encoding == "utf-8" and len(data) > 1:  # ASCII in UTF-16 that lost its mark
        encoding = {(True, False): "utf-16-be", (False, True): "utf-16-le"}.get(
            (not any(data[:64:2]), not any(data[1:64:2])), encoding
        )
    fault = ""
    try:
        text = data.decode(encoding)
        if "\x00" in text:
            fault = "it has zero bytes"
    except UnicodeDecodeError as reason:
        fault = f"line {data[: reason.start].count(bytes([10])) + 1} is not {encoding.upper()} ({reason.reason})"
    if fault:
        what = problem(path)
        if what in dict(KINDS).values():
            raise error(f"{path} {what}")
        raise error(f"{path} {what if what.startswith('is a ') else 'is not text'}: {fault}; save it as UTF-8")
    if text.lstrip().lower().startswith((*(mark.decode() for mark in MARKUP), "version https://git-lfs")):
        raise error(f"{path} {problem(path)}")
    return text


def read_torch(path: Path, device: Any = "cpu", error: type[SPDError] = FileError) -> Any:
    """The content of a file that `torch.save` wrote, on a device: tensors and plain values, read without running
    pickled code.

    Raises:
        SPDError: of the class `error`: the file is missing, damaged, foreign, or holds other things.
    """
    import torch  # seconds, for what reads no tensors

    try:
        return torch.load(path, weights_only=True, map_location=device)
    except Exception as reason:  # whatever the bytes make the reader raise
        is_whole = path.is_file() and zipfile.is_zipfile(path)
        what = "holds more than tensors and plain values" if is_whole else problem(path, b"PK\x03\x04")
        # Of a pickle torch says how to run it all the same.
        why = "" if isinstance(reason, pickle.UnpicklingError) else f" ({first_line(reason)})"
        raise error(f"{path} {what}; it is not a file that can be read safely{why}") from reason


@contextmanager
def replaced(
    path: str | os.PathLike, error: type[SPDError] = FileError, because: tuple[type[Exception], ...] = ()
) -> Iterator[Path]:
    """A path beside `path` to write to. At the end it is brought to the disk and takes the place of `path` in one step:
    a kill, a full disk or a power cut leaves the file whole, as it was or as it is.

    Args:
        error: what is raised where it cannot be written.
        because: exceptions beside OSError by which the writer says so.
    """
    path, because = expanded(path), (OSError, *because)
    path = _linked(path)  # and what links to it stays a link
    # Of this writer alone: another process may write to the same path, and the last one wins.
    partial = path.with_name(f"{path.name[:40]}.{os.getpid()}-{threading.get_ident()}.partial")
    if os.path.exists(path):  # a folder of many new files is not looked through for each of them
        _remove_remains(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():  # of which some writers say no more than that they failed
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if path.exists() and not path.is_file():  # a device or a pipe has nothing to replace
            partial = path
            yield path
            return
        yield partial
        partial.chmod(_mode(path))
        _bring_to_disk(partial)
        partial.replace(path)
        with suppress(OSError):  # some network file systems cannot
            _bring_to_disk(path.parent)
    except because as reason:
        raise error(
            f"{path} could not be written ({reason}); what was there before is intact. {advice(reason)}"
        ) from reason
    finally:
        if partial != path:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT)


def advice(reason: Exception) -> str:
    """What to do about something that could not be written."""
    is_closed = getattr(reason, "errno", None) in _CLOSED
    return "Choose a place that you may write to" if is_closed else "Is the disk full?"


def _linked(path: Path) -> Path:
    """The file that a link is to, or would be; the path itself where that is none, or has no folder."""
    target = Path(os.path.realpath(path))
    is_file = path.is_file() or (not path.exists() and target.parent.is_dir())
    return target if path.is_symlink() and is_file else path


def temporary_folder(error: type[SPDError] = FileError) -> TemporaryDirectory[str]:
    """A folder that is gone when it is closed.

    Args:
        error: what is raised where there is no place for it.
    """
    try:
        return TemporaryDirectory()
    except OSError as reason:
        raise error(f"no temporary folder can be made ({reason}); the variable TMPDIR names another place") from reason


def _remove_remains(path: Path) -> None:
    """What writers to `path` left that were killed."""
    if os.name != "posix":
        return  # where asking whether a process lives may end it
    for remains in path.parent.glob(f"{glob.escape(path.name[:40])}.*-*.partial"):
        with suppress(OSError, ValueError):
            writer = int(remains.suffixes[-2][1:].partition("-")[0])
            try:
                os.kill(writer, 0)
            except ProcessLookupError:
                remains.unlink()


def _mode(path: Path) -> int:
    """Permissions of the file that is there, else a new file's: some writers leave one for the owner alone."""
    with suppress(OSError):
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _bring_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Replace a file by this text, as `replaced` does."""
    write_bytes(path, text.encode(errors="surrogateescape"))  # file names that are no UTF-8: the bytes they were


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Replace a file by a value as JSON that every reader takes, as `replaced` does: NaN and inf become null."""
    finite = json.loads(json.dumps(value), parse_constant=lambda name: None)
    write_text(path, json.dumps(finite, indent=1, allow_nan=False))


def write_csv(path: str | os.PathLike, header: Iterable[str], rows: Iterable[Iterable]) -> None:
    """Replace a file by a table, as `replaced` does."""
    with replaced(path) as partial, partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Replace a file by these bytes, as `replaced` does."""
    with replaced(path) as partial:
        partial.write_bytes(data)


def make_folder(path: str | os.PathLike) -> Path:
    """The folder, made with those above it.

    Raises:
        FileError: it cannot be, or cannot be written to.
    """
    folder = expanded(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            return folder
    except OSError as reason:
        what = "written to" if os.path.isdir(folder) else "made"
        raise FileError(f"the folder {folder} cannot be {what} ({reason.strerror}); choose another place") from reason


def check_writable(path: str | os.PathLike) -> None:
    """Before hours of work: can a file be written there? Its folder is made.

    Raises:
        FileError: it cannot.
    """
    path = _linked(expanded(path))
    make_folder(path.parent)
    if path.is_dir():
        raise FileError(f"{path} is a folder; expected the name of a file to write")
