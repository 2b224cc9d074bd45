"""Settings of the process that a training loop profits from: threads, allocator."""

from __future__ import annotations

import ctypes
import platform

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LIMIT = 1 << 30


def keep_freed_memory() -> bool:
    """Asks glibc to keep freed blocks of up to 1 GiB instead of returning them to the system.

    Every step allocates the same few large tensors; returned and fetched again, each page costs a
    fault, which was 10 to 15% of a step on two CPU cores. Returns whether the setting took;
    without glibc nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, LIMIT) and mallopt(M_TRIM_THRESHOLD, LIMIT * 2 - 1))


def thread_setting(threads: int) -> None:
    """Sets PyTorch's CPU threads, unless `threads` is 0."""
    if threads > 0:
        torch.set_num_threads(threads)
