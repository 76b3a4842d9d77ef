"""What is asked of the operating system: that freed memory stays with the process, that children die with it."""

import ctypes
import os
import shutil

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


def memory() -> int:
    """Return the bytes of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def kill_with_parent() -> list[str]:
    """Return a prefix to a command line, with which the kernel kills the child when this process dies.

    Only Linux has it (setpriv of util-linux); elsewhere the prefix is empty and the child lives on.
    """
    setpriv = shutil.which("setpriv")
    return [] if setpriv is None else [setpriv, "--pdeathsig", "KILL"]
