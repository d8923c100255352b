"""Settings of the whole process, for SPD's executables, as a library must not make them behind its user's back; and
Ctrl-C that waits."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> None:
    """Let glibc keep up to 1 GiB of freed memory instead of handing them back to the kernel, which must then fill every
    page of the next image's feature maps with zeros: 10 % of encoding and 25 % of dense decoding with `v15` on two CPU
    cores. Blocks of their own (mmap) go back in any case, and above 32 MB, like a full-size map of 64 channels, every
    block is one unless there are none. Nothing changes with another C library."""
    if sys.platform.startswith("linux") and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 1 << 30)


def wait_asleep() -> None:
    """Let OpenMP's threads sleep while they wait, unless the environment says otherwise: before torch is imported. They
    spin by themselves, and starve what runs beside them on few cores, a camera driver, DDS, what reads training data,
    and each other (two busy processes on two cores: 35 times slower, measured in training). 10,000 spins are about
    30 us, enough to catch the next layer (a query of 128 points takes 8 instead of 12 ms)."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C waits for the end of what is within."""
    if threading.current_thread() is not threading.main_thread():  # where Ctrl-C does not come
        yield
        return
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if heard:
        raise KeyboardInterrupt
