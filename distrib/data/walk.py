"""Walks through the folders in which images are looked for."""

import os
from collections.abc import Iterator
from pathlib import Path


def walk(top: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield each folder from `top` down, the folders in it and the files in it, as os.walk does.

    Links to folders are followed, each folder once. Raises OSError for a folder that cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    seen: set[tuple[int, int]] = set()
    for place, folders, files in os.walk(top, onerror=fail, followlinks=True):
        facts = os.stat(place)  # noqa: PTH116 (what os.walk gives)
        if (facts.st_dev, facts.st_ino) in seen:
            folders.clear()
            continue
        seen.add((facts.st_dev, facts.st_ino))
        yield place, folders, files
