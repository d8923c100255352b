"""Bags with damaged bytes, and what reading them may do: end, in time, with frames or with a word to the user.

PYTHONPATH=test python -m support.damaged_bags 2000         # so many of them, in this process
PYTHONPATH=test python -m support.damaged_bags 30 --spd     # through `spd replay --offline`
"""

import argparse
import faulthandler
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2 import Reader as PlainReader
from support import recorded

from spd_core.camera import Camera
from spd_core.data.bag import Bag, BagFrame
from spd_core.data.bag_writing import write_bag
from spd_core.data.serialised import TYPES
from spd_core.errors import SPDError
from spd_core.recording import Sampling, frames_to_ask

SIZE, FRAMES, PATIENCE_S = (48, 64), 6, 20
KINDS = ("mcap", "mcap by chunk", "sqlite3", "sqlite3 by message", "sqlite3 by file", "compressed images", "ros1")


def make(folder: Path) -> dict[str, Path]:
    """A small bag of each kind of storage and compression."""
    rng = np.random.default_rng(0)
    frames = [
        BagFrame(
            (1 + i) * 10**8,
            rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8),
            rng.uniform(0.5, 5, SIZE).astype(np.float32),
            Camera(60.0, 60.0, 31.5, 23.5),
            [(rng.uniform(0, 40, (3, 2)), np.arange(3))],
        )
        for i in range(FRAMES)
    ]
    bags = {kind: folder / kind.replace(" ", "_") for kind in KINDS}
    for kind in KINDS[:5]:
        storage, _, by = kind.partition(" by ")
        write_bag(bags[kind], frames, storage)
        if by:
            mode = {"chunk": CompressionMode.STORAGE, "message": CompressionMode.MESSAGE, "file": CompressionMode.FILE}
            _copy_compressed(bags[kind], storage, mode[by])
    recorded.write(bags["compressed images"], _compressed_images())
    bags["ros1"].mkdir()
    recorded.write_ros1(bags["ros1"] / "old.bag", recorded.usual(FRAMES))
    return bags


def _compressed_images():
    for i in range(FRAMES):
        ns, depth = recorded.stamp(i), recorded.depth_mm(i)
        yield "/cam/color/camera_info", ns, recorded.info(ns, d=[0.1, -0.05, 0.001, 0.0, 0.01])
        png = recorded.png(recorded.picture(i))
        yield "/cam/color/image_raw/compressed", ns, recorded.compressed(ns, "rgb8; png compressed bgr8", png)
        code = recorded.rvl_message(depth) if i % 2 else bytes(12) + recorded.png(depth)
        form = f"16UC1; compressedDepth {'rvl' if i % 2 else 'png'}"
        yield "/cam/depth/image_raw/compressedDepth", ns, recorded.compressed(ns, form, code)


def _copy_compressed(path: Path, storage: str, mode: CompressionMode) -> None:
    plain = path.with_name(f"{path.name}_plain")
    path.rename(plain)
    writer = Writer(path, version=9, storage_plugin=StoragePlugin[storage.upper()])
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with PlainReader(plain) as reader, writer:
        connections = {c.topic: writer.add_connection(c.topic, c.msgtype, typestore=TYPES) for c in reader.connections}
        for connection, log_ns, data in reader.messages():
            writer.write(connections[connection.topic], log_ns, data)
    shutil.rmtree(plain)


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with some of them changed, cut out, repeated or blanked."""
    size = max(len(data), 1)
    # A third at the ends, where headers and indexes are.
    near = (rng.integers(size), rng.integers(min(size, 2000)), size - 1 - rng.integers(min(size, 2000)))
    at, length = int(near[rng.integers(3)]), int(rng.integers(1, max(size // 4, 2)))
    kind = rng.integers(6)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + data[at + length :]
    if kind == 2:
        return data[: at + length] + data[at:]
    if kind == 3:
        return data[:at] + bytes(length) + data[at + length :]
    changed = bytearray(data)
    for _ in range(1 if kind == 4 else int(rng.integers(1, 40))):
        if changed:
            changed[(at + int(rng.integers(200))) % len(changed)] = rng.integers(256)
    return bytes(changed)


def damage(bag: Path, target: Path, rng: np.random.Generator) -> Path:
    """A copy of the bag with one file damaged: mostly the storage, sometimes metadata.yaml, which may be gone too. What
    to open of it."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(bag, target)
    metadata = target / "metadata.yaml"
    storage = next(f for f in target.iterdir() if f != metadata)
    victim = metadata if rng.random() < 0.1 and metadata.exists() else storage
    victim.write_bytes(damaged(victim.read_bytes(), rng))
    if rng.random() < 0.3:
        metadata.unlink(missing_ok=True)
    return storage if storage.suffix == ".bag" else target


def read(path: Path) -> str:
    """What came of reading the bag: the number of frames, or the word to the user. Anything else is raised."""
    signal.setitimer(signal.ITIMER_REAL, PATIENCE_S)
    faulthandler.dump_traceback_later(3 * PATIENCE_S, exit=True)  # where the alarm is not heard
    try:
        with Bag(path) as bag:
            topics = bag.choose().topics
            frames = list(frames_to_ask(bag.frames(topics), Sampling(points=8)))
            assert all(isinstance(line, str) for line in bag.left_out())
        return f"{len(frames)} frames"
    except SPDError as error:
        return "refused" if str(path) in str(error) else f"refused without its name: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()


def run_spd(path: Path) -> str:
    """The same through the command line."""
    command = [sys.executable, "-m", "spd_cli", "replay", str(path), "--offline", "--points", "8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    said = done.stdout + done.stderr
    assert "Traceback" not in said, said
    assert done.returncode == 0 or "error: " in said, said
    return f"exit code {done.returncode}"


def many(count: int, folder: Path, use=read, seed: int = 0) -> Counter:
    """`count` damaged bags, used one after the other; how often what came of it. The one at hand when something is
    raised is left in the folder."""
    signal.signal(signal.SIGALRM, _too_long)
    bags, outcomes = make(folder), Counter()
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        target = damage(bags[kind], folder / "damaged", np.random.default_rng([seed, number]))
        try:
            outcomes[kind, use(target)] += 1
        except BaseException as error:
            error.add_note(f"bag {number}, {kind}: {target}")
            raise
    return outcomes


def _too_long(signum, frame):
    raise TimeoutError(f"still reading after {PATIENCE_S} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int)
    parser.add_argument("--spd", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    started = time.monotonic()
    for outcome, times in sorted(
        many(given.count, Path(tempfile.mkdtemp()), run_spd if given.spd else read, given.seed).items()
    ):
        print(*outcome, times, sep="\t")
    print(f"{given.count} bags in {time.monotonic() - started:.0f} s")
