"""Faults that the kernel itself reports, or kills with, at one system call of a rank: strace writes them there.

A rank attaches strace to itself before it trains (`plant`), because starting Python under strace takes seconds. strace counts
the calls of each thread by name, from there on; so two runs that do the same make the same calls under the same numbers.
"""

import ctypes
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MUTATING = (
    *("openat", "mkdir", "rename", "renameat2", "unlink", "unlinkat", "rmdir", "link", "symlink", "chmod", "fchmod"),
    *("write", "pwrite64", "writev", "ftruncate", "fallocate", "fsync", "fdatasync", "msync", "flock", "utimensat"),
)
"""The calls that change files, or make what was changed last."""
READING = ("openat", "read", "pread64", "newfstatat", "fstat", "getdents64", "statx", "access", "faccessat2", "mmap")
"""The calls that only look at files."""
_SHARED = "openat"  # it does either, which its flags say
_WRITES = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC")
_LINE = re.compile(r"^(?P<thread>\d+) +(?P<call>\w+)\((?P<rest>.*)$")
_UNFINISHED = "<unfinished ...>"
_ATTACH = """
strace -f -y -qq -s 0 -o "$1" -e trace="$2" ${3:+-e inject="$3"} -p "$4" 2>"$1.errors" &
for _ in $(seq 2000); do
    grep -q 'TracerPid:.*[1-9]' "/proc/$4/status" && exit 0
    kill -0 $! 2>/dev/null || exit 1
    sleep 0.005
done
exit 1
"""
_PR_SET_PTRACER, _ANYONE = 0x59616D61, -1


class Call(NamedTuple):
    """One system call of the main thread: the how many-th of its name, and what it was given, its files by name."""

    name: str
    number: int
    arguments: str
    injected: bool

    def __str__(self) -> str:
        return f"{self.name} {self.number}: {self.arguments[:200]}"

    @property
    def changes(self) -> bool:
        """Whether it changes files, or makes a change last."""
        return self.name in MUTATING and (self.name != _SHARED or bool(_WRITES.search(self.arguments)))


def why_not() -> str:
    """Return why strace cannot be used here; empty if it can."""
    found = shutil.which("strace")
    if found is None:
        return "strace is not installed"
    tried = subprocess.run([found, "-f", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else f"strace is not permitted here ({tried.stderr.strip()[:200]})"


def plant(log: Path, names: str, injection: str, rank: int) -> None:
    """Attach strace to this process: it writes the calls of these names to the log and makes the injection, if there is one.

    `injection`: in strace's words, such as `fsync:error=EIO:when=3`.
    """
    del rank
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANYONE, 0, 0, 0)  # or a child might not trace its parent
    done = subprocess.run(["/bin/sh", "-c", _ATTACH, "sh", log, names, injection, str(os.getpid())], check=False)
    assert done.returncode == 0, Path(f"{log}.errors").read_text()


def calls(log: Path, folder: Path) -> Iterator[Call]:
    """Yield the calls of the main thread that name a file in the folder, or the folder itself."""
    counts: Counter[str] = Counter()
    lines = log.read_text(errors="replace").splitlines()
    main = lines[0].split()[0] + " " if lines else ""
    mine = iter([line for line in lines if line.startswith(main)])
    for line in mine:
        found = _LINE.match(line)
        if found is None:
            continue
        counts[found["call"]] += 1
        rest = found["rest"]
        if rest.endswith(_UNFINISHED):  # another thread's line stands before the end of this one
            rest += next(mine, "")
        if str(folder) in rest:
            yield Call(found["call"], counts[found["call"]], rest, "(INJECTED)" in rest)
