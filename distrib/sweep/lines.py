"""The file of a sweep: a run a line, `RECIPE [--section.key VALUE ...]` in shell words; # starts a comment."""

import io
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from distrib.errors import BadInput

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
