"""Text for people: how things are counted and listed, and how none of it is obeyed by a terminal that is to show it."""

import contextlib
import io
import os
import sys
from collections.abc import Sequence


def open_streams() -> None:
    """Open standard input, output and error where they are closed, and let them take any text.

    A process without them would give their numbers to the files that it opens, and print into these.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it takes the lowest number that is free
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def discard_output() -> None:
    """Drop what standard output did not take, and what is still printed, or Python would try again when it ends."""
    with contextlib.suppress(io.UnsupportedOperation):  # a stream that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_help(text: str) -> None:
    """Print a help. A reader that closes the pipe early, as `| head` does, has read enough. Raises OSError, as on a full disk."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        discard_output()


def harmless(text: str) -> str:
    """Return the text with everything escaped, as Python would, that a terminal obeys instead of showing it, but for line ends.

    Names of files and classes, keys and values come from outside.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def one_line(text: object) -> str:
    """Return the text as `harmless` does, with line ends escaped too, for a name in a line of its own: it must not begin another one."""
    return harmless(str(text)).replace("\n", "\\n")


def count(number: int, thing: str) -> str:
    """Return how many there are of the thing, such as `1 epoch`, `2 epochs` and `2 processes`."""
    plural = thing if number == 1 else f"{thing}es" if thing.endswith("s") else f"{thing}s"
    return f"{number} {plural}"


def listed(names: Sequence[object], most: int) -> str:
    """Return the first `most` of the names with commas between them, and how many more there are, if there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def print_error(text: str) -> None:
    """Print on standard error, from any rank and thread. A log on a full disk must not change how the process ends."""
    with contextlib.suppress(OSError, ValueError):
        print(harmless(text), file=sys.stderr, flush=True)
