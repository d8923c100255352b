"""Settings of the whole process, for SPD's executables; a library must not make them behind its user's back."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> bool:
    """Let glibc keep up to 1 GiB of freed memory instead of handing them back to the kernel, which must then fill every
    page of the next image's feature maps with zeros: 10 % of encoding and 25 % of dense decoding with `v15` on two CPU
    cores. Blocks of their own (mmap) go back in any case, and above 32 MB, like a full-size map of 64 channels, every
    block is one unless there are none. True where it took effect."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 1 << 30))
