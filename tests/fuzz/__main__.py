"""`python -m tests.fuzz [--minutes M] [--seed S]` damages files of every format that the trainer and the replay read, and reads
them.

Each reader may return, or refuse in one sentence. Any other exception, more than `_SECONDS` of computing for a file, or more than
`_BYTES` of memory beyond what the process had before is a finding: it is printed with the file, and the exit code is 1.
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

import jax

from distrib.errors import BadInput
from tests.fuzz.format import Format
from tests.fuzz.formats import FORMATS
from tests.fuzz.mutations import mutated
from tests.fuzz.traces import TRACES

_SECONDS = 30
_WAITING = 6  # times as long may pass: other processes may have the machine
_BYTES = 2**30
# Files after which compiled formulas are forgotten: a replay is a process of its own, and this one is not.
_COMPILED = 500


class Hang(BaseException):
    """A reader took too long."""


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.fuzz")
    options.add_argument("--minutes", type=float, default=1.0)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    rng, counts, findings = random.Random(given.seed), Counter[str](), 0  # noqa: S311
    most = (0, "")
    with tempfile.TemporaryDirectory() as name:
        formats = [make(Path(name)) for make in (*FORMATS, *TRACES)]
        seeds = [(fmt, fmt.file.read_bytes()) for fmt in formats]
        for fmt in formats:
            fmt.read()  # a file that is right is taken, and what is imported late is there
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + 8 * _BYTES, hard))
        end = time.monotonic() + 60 * given.minutes
        while time.monotonic() < end:
            fmt, seed = rng.choice(seeds)
            data = mutated(seed, rng)
            taken = _memory(peak=False)
            _forget_peak()
            problem, outcome = attack(fmt, data)
            taken = _memory(peak=True) - taken
            most = max(most, (taken, fmt.name))
            problem = problem or (f"it took {taken / 2**20:.0f} MiB" if taken > _BYTES else "")
            counts[f"{fmt.name}: {outcome}"] += 1
            if problem:
                findings += 1
                kept = Path(tempfile.mkdtemp(prefix="fuzz-")) / fmt.file.name
                kept.write_bytes(data)
                print(f"{fmt.name}: {kept}\n{problem}", flush=True)
            fmt.write(seed)
            if sum(counts.values()) % _COMPILED == 0:
                jax.clear_caches()
                held = _memory(peak=False) >> 20
                print(f"{sum(counts.values())} files, {findings} findings, {held} MiB", file=sys.stderr, flush=True)
    for line, count in sorted(counts.items()):
        print(f"{count:8} {line}")
    print(
        f"{sum(counts.values())} files, {findings} findings, at most {most[0] / 2**20:.0f} MiB for a file ({most[1]})"
    )
    return 1 if findings else 0


def attack(fmt: Format, data: bytes, seconds: float = _SECONDS) -> tuple[str, str]:
    """Write the data and read it. Return the problem, if there is one, and in a word how the reader ended."""
    fmt.write(data)
    timers = {signal.ITIMER_PROF: (signal.SIGPROF, seconds), signal.ITIMER_REAL: (signal.SIGALRM, _WAITING * seconds)}
    for timer, (number, limit) in timers.items():
        signal.signal(number, _too_long)
        signal.setitimer(timer, limit)
    try:
        fmt.read()
    except BadInput as error:
        return ("the message has several lines" if "\n" in str(error) else ""), "refused"
    except (Exception, Hang):
        return traceback.format_exc(), "finding"
    finally:
        for timer in timers:
            signal.setitimer(timer, 0)
    return "", "taken"


def _too_long(_number: int, _frame: FrameType | None) -> None:
    raise Hang("it took too long")


def _memory(*, peak: bool) -> int:
    """Return how many bytes of memory the process has, or the most it had since `_forget_peak`."""
    name = "VmHWM:" if peak else "VmRSS:"
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    sys.exit(main())
