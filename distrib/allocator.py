"""Keep the memory of one step for the next on a CPU.

A step allocates activations of many megabytes and frees them again. glibc gives such blocks back to
the kernel at once, and every step pays for zeroed pages anew: a quarter of the step's time with this
network. GPUs have torch's caching allocator; on a CPU two settings of glibc's malloc do the same.
"""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_INT_MAX = 2**31 - 1


def keep_freed_memory() -> bool:
    """Whether this C library took the settings; other libraries go without."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # not glibc
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _INT_MAX))
