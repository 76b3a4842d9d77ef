"""Asks the operating system that freed memory stays with the process, that children die with it, and how much memory there is."""

import contextlib
import ctypes
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_INT_MAX = 2**31 - 1


def keep_freed_memory() -> bool:
    """Keep the memory of one step for the next on a CPU; return whether this C library took the settings.

    A step allocates activations of many megabytes and frees them again. glibc gives such blocks back to
    the kernel at once, and every step pays for zeroed pages anew: a quarter of the step's time with this
    network. GPUs have torch's caching allocator; on a CPU two settings of glibc's malloc do the same.
    Other C libraries go without.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # not glibc
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _INT_MAX))


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> int:
    """Return the bytes of memory there are for this process: the machine's, or what its container or batch job leaves it."""
    return min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *cgroup_limits()])


def cgroup_limits(root: Path = Path("/")) -> Iterator[int]:
    """Yield the limits of memory that the kernel holds this process to. The process has that of every group it is in."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in groups:
        _, controllers, group = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top, name = (
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes") if controllers else ("sys/fs/cgroup", "memory.max")
        )
        own = root / top / group.lstrip("/")
        for place in (own, *own.parents[: len(Path(group).parts)]):
            with contextlib.suppress(OSError, ValueError):  # there is no such file, or it says "max"
                yield int((place / name).read_text())


def kill_with_parent() -> list[str]:
    """Return a prefix to a command line, with which the kernel kills the child when this process dies.

    Only Linux has it (setpriv of util-linux); elsewhere the prefix is empty and the child lives on.
    """
    setpriv = shutil.which("setpriv")
    return [] if setpriv is None else [setpriv, "--pdeathsig", "KILL"]
