"""`python -m tests.fuzz [--minutes M] [--seed S]` damages files of every format that the trainer reads, and reads them.

Each reader may return, or refuse in one sentence. Any other exception, more than `_SECONDS` for a file, or more than `_BYTES` of
memory beyond what the process had is a finding: it is printed with the file, and the exit code is 1.
"""

import argparse
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from types import FrameType

from distrib.errors import BadInput
from tests.fuzz.formats import FORMATS, Format
from tests.fuzz.mutations import mutated

_SECONDS = 20
_BYTES = 2**30


class Hang(BaseException):
    """A reader took too long."""


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.fuzz")
    options.add_argument("--minutes", type=float, default=1.0)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    rng, counts, findings = random.Random(given.seed), Counter[str](), 0  # noqa: S311
    with tempfile.TemporaryDirectory() as name:
        formats = [make(Path(name)) for make in FORMATS]
        seeds = [(fmt, fmt.file.read_bytes()) for fmt in formats]
        for fmt in formats:
            fmt.read()  # a file that is right is taken, and what is imported late is there
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + 2 * _BYTES, hard))
        end = time.monotonic() + 60 * given.minutes
        while time.monotonic() < end:
            fmt, seed = rng.choice(seeds)
            data = mutated(seed, rng)
            problem, outcome = attack(fmt, data)
            counts[f"{fmt.name}: {outcome}"] += 1
            if problem:
                findings += 1
                kept = Path(tempfile.mkdtemp(prefix="fuzz-")) / fmt.file.name
                kept.write_bytes(data)
                print(f"{fmt.name}: {kept}\n{problem}", flush=True)
            fmt.file.write_bytes(seed)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    for line, count in sorted(counts.items()):
        print(f"{count:8} {line}")
    print(f"{sum(counts.values())} files, {findings} findings, {peak / 2**20:.0f} MiB beyond the start")
    return 1 if findings or peak > _BYTES else 0


def attack(fmt: Format, data: bytes, seconds: float = _SECONDS) -> tuple[str, str]:
    """Write the data and read it. Return the problem, if there is one, and in a word how the reader ended."""
    fmt.write(data)
    signal.signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        fmt.read()
    except BadInput as error:
        return ("the message has several lines" if "\n" in str(error) else ""), "refused"
    except (Exception, Hang):
        return traceback.format_exc(), "finding"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "", "taken"


def _too_long(_number: int, _frame: FrameType | None) -> None:
    raise Hang("it took too long")


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    sys.exit(main())
