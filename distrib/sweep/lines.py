"""Reads the file of a sweep: a run a line, `RECIPE [--section.key VALUE ...]` in shell words; # starts a comment."""

import io
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distrib.errors import BadInput
from distrib.files import expand_path

OUTPUT_DIR = "--output.dir"
LONGEST_FILE = 10_000_000
"""How many characters of a file are read at most."""


@dataclass(frozen=True, slots=True)
class Line:
    """A run of the file."""

    number: int
    """Of the line, from 1."""
    words: tuple[str, ...] = ()
    problem: str = ""
    """What is wrong with the line, if it cannot be split into words: it is a run that fails by itself."""


def read(name: str) -> list[Line]:
    """Return the runs of a file; lines without words are none. Raises BadInput for a file that cannot be read."""
    path = Path(name)
    try:
        if path.exists() and not path.is_file():
            raise BadInput(f"{name!r} is no regular file; a sweep is a text file with a run a line")
        with path.open(errors="surrogateescape") as file:
            text = file.read(LONGEST_FILE + 1)
    except (OSError, ValueError) as error:
        raise BadInput(f"{name!r} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(text) > LONGEST_FILE:
        raise BadInput(f"{name!r} is longer than the {LONGEST_FILE} characters that are read")
    found = [_line(number, line) for number, line in enumerate(text.splitlines(), 1)]
    return [line for line in found if line.words or line.problem]


def with_overrides(line: Line, overrides: Sequence[str]) -> tuple[str, ...]:
    """Return the words of a run, with overrides that hold for all runs of the file, before its own."""
    return (*line.words[:1], *overrides, *line.words[1:])


def given_folder(words: Sequence[str]) -> Path | None:
    """Return the folder that the words of a run give it, or None if they leave it open. Raises BadInput."""
    given = [_value(words, position) for position, word in enumerate(words) if word.partition("=")[0] == OUTPUT_DIR]
    return expand_path(given[-1], "output.dir") if given and given[-1].lower() != "none" else None


def refuse_shared(folders: Mapping[int, Path]) -> None:
    """Raise BadInput if two runs have one folder: the second would continue the first, or wait for it.

    `folders` are by line number.
    """
    seen: dict[str, int] = {}
    for number, folder in folders.items():
        other = seen.setdefault(os.path.realpath(folder), number)
        if other != number:
            raise BadInput(
                f"lines {other} and {number} would both train in {folder}: give each line a folder of its own "
                f"({OUTPUT_DIR}), or leave it out of the line and of what is behind FILE, and drop lines that are the same"
            )


def _value(words: Sequence[str], position: int) -> str:
    """Return the value of the override at this position: behind its equals sign, or the word after it."""
    _, equals, value = words[position].partition("=")
    return value if equals else "".join(words[position + 1 : position + 2])


def _line(number: int, text: str) -> Line:
    try:
        return Line(number, tuple(_words(text)))
    except ValueError as error:
        return Line(number, problem=f"line {number}: {str(error).lower()}")


def _words(line: str) -> Iterator[str]:
    """Yield the line's words as a shell would split them, without its comment. Raises ValueError for an open quote."""
    text = io.StringIO(line)
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""  # shlex would also take a # within a word for a comment
    while not line[text.tell() :].lstrip().startswith("#"):
        word = lexer.get_token()
        if word is None:
            return
        yield word
