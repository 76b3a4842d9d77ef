"""Finds processes of this machine by a mark in their environment or by a word of their command.

This reads /proc itself, because psutil takes three times as long and the chaos run asks every 20 ms.
"""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support import wait_until

MARK = "TWINSTEP_TEST"
"""The variable that marks a process that a test starts, and with it all of its descendants, in whatever session."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process that was alive when it was found."""

    pid: int
    words: tuple[str, ...]
    """The words of its command."""
    environment: dict[str, str]

    @property
    def program(self) -> str:
        """The name by which the process was started."""
        return Path(self.words[0]).name

    def send(self, number: signal.Signals) -> None:
        """Send a signal. If the process has already ended, nothing happens."""
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return


def marked(prefix: str) -> list[Process]:
    """Return the living processes whose mark begins with the prefix."""
    start = b"\0" + os.fsencode(f"{MARK}={prefix}")
    environments = ((folder, _read(folder, "environ")) for folder in _folders())
    return [
        _process(folder, _read(folder, "cmdline"), environment)
        for folder, environment in environments
        if start in b"\0" + environment
    ]


def kill_marked(prefix: str) -> bool:
    """Kill the processes whose mark begins with the prefix, and return whether there were any.

    Others may have been starting up meanwhile: call this until it returns False.
    """
    left = marked(prefix)
    for process in left:
        process.send(signal.SIGKILL)
    return bool(left)


def that_name(path: Path) -> list[Process]:
    """Return the living processes that have this path as a word of their command."""
    word = b"\0" + os.fsencode(path) + b"\0"
    commands = ((folder, _read(folder, "cmdline")) for folder in _folders())
    return [
        _process(folder, command, _read(folder, "environ"))
        for folder, command in commands
        if word in b"\0" + command + b"\0"
    ]


def expect_process(program: str, path: Path, seconds: float = 300) -> None:
    """Wait until a process of this program has the path as a word of its command."""

    def there() -> bool:
        return any(process.program.startswith(program) for process in that_name(path))

    assert wait_until(there, seconds, every=0.02), f"no {program} names {path}"


def _folders() -> Iterator[Path]:
    return (Path(entry) for entry in os.scandir("/proc") if entry.name.isdigit())


def _read(folder: Path, name: str) -> bytes:
    """Return the bytes of a file of /proc. They are empty if the process has ended or belongs to somebody else."""
    try:
        return (folder / name).read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""


def _process(folder: Path, command: bytes, environment: bytes) -> Process:
    words = tuple(map(os.fsdecode, command.removesuffix(b"\0").split(b"\0")))
    pairs = (os.fsdecode(pair).partition("=") for pair in environment.split(b"\0") if b"=" in pair)
    return Process(int(folder.name), words, {name: value for name, _, value in pairs})
