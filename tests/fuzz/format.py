"""What every format that is attacked looks like to the fuzzer."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Format:
    """A file, and what reads it; `write` may make more right than the bytes, such as hashes."""

    name: str
    file: Path
    read: Callable[[], object]
    write: Callable[[bytes], object]


def plain(name: str, file: Path, data: bytes, read: Callable[[], object]) -> Format:
    """Return the format of a file that is read as it is."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return Format(name, file, read, file.write_bytes)
