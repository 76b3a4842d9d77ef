"""Text for people, as the cross-check writes it too, and how an error is printed."""

import contextlib
import sys
from collections.abc import Sequence

from crosscheck.streams import discard_output
from crosscheck.text import count, harmless, one_line

__all__ = ["count", "harmless", "listed", "one_line", "print_error", "print_help"]


def print_help(text: str) -> None:
    """Print a help. A reader that closes the pipe early, as `| head` does, has read enough. Raises OSError, as on a full disk."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        discard_output()


def listed(names: Sequence[object], most: int) -> str:
    """Return the first `most` of the names with commas between them, and how many more there are, if there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def print_error(text: str) -> None:
    """Print on standard error, from any rank and thread. A log on a full disk must not change how the process ends."""
    with contextlib.suppress(OSError, ValueError):
        print(harmless(text), file=sys.stderr, flush=True)
