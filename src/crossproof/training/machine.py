"""Settings of the process that a training loop profits from: threads, allocator."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

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


def memory_of(device: torch.device) -> int:
    """Bytes of memory that a device has; of a CPU, the machine's."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def memory_in_use(device: torch.device) -> int:
    """Bytes there that this process holds."""
    if device.type == "cuda":
        return int(torch.cuda.memory_reserved(device))
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # no Linux: what was held at most
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")


def thread_setting(threads: int) -> None:
    """Sets PyTorch's CPU threads, unless `threads` is 0."""
    if threads > 0:
        torch.set_num_threads(threads)
